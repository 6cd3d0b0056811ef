"""K-FAC: the exact Fisher information where a layer's is a Kronecker product, factors by hand elsewhere, and what happens to other parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from second_order import LINE, check_shards, classes, first_steps, regression

from dljax import nn
from dljax.objectives import cross_entropy, squared_error
from dljax.optim import KFACConfig, Likelihood, kfac, kronecker_layers
from dljax.optim.kronecker import inverse
from dljax.supervised import supervised

EXACT = KFACConfig(is_exact=True)


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def layer(features, **options):
    return nn.Dense(features, param_dtype=jnp.float64, **options)


def explicit_fisher(apply, params, x, weights, F):
    """Σ_i w_i J_iᵀ F_i J_i for the parameters as one vector, the bias behind the kernel's rows as K-FAC has it."""
    J = jax.jacobian(lambda params: apply({"params": params}, x))(params)
    J = jnp.concatenate([J["kernel"].reshape(*J["kernel"].shape[:2], -1), J["bias"]], -1)
    return jnp.einsum("b,bki,bkl,blj->ij", weights, J, F, J)


@pytest.mark.parametrize("name", ["gaussian", "categorical"])
def test_3_3_kfac_is_the_exact_fisher_of_one_layer(name):
    """Where the Fisher information in the outputs does not depend on the inputs: Gaussian always, softmax where all logits are equal."""
    batch = (regression() if name == "gaussian" else classes()) | {"mask": jnp.arange(12.0)}
    loss, outputs = (squared_error, 2) if name == "gaussian" else (cross_entropy, 3)
    weights = batch["mask"] / batch["mask"].sum()
    # squared_error is averaged over the outputs as well, each of which has variance one half.
    F = jnp.eye(2) if name == "gaussian" else jnp.eye(3) / 3 - 1 / 9
    model = layer(outputs, kernel_init=linen.initializers.normal() if name == "gaussian" else linen.initializers.zeros)
    (before, after), _ = first_steps(supervised(model, loss, kfac(config=EXACT)), batch)
    expected = explicit_fisher(model.apply, before.params, batch["x"], weights, jnp.broadcast_to(F[None], (12, outputs, outputs)))
    np.testing.assert_allclose(jnp.kron(*after.opt_state.factors[""]), expected, atol=1e-12)


def test_3_3_kfac_solves_least_squares_in_one_step():
    batch = regression()
    (_, after), _ = first_steps(supervised(layer(2), squared_error, kfac(config=KFACConfig(damping=1e-12, is_exact=True))), batch)
    design = np.concatenate([batch["x"], np.ones((12, 1))], 1)
    solution = np.linalg.lstsq(design, batch["y"])[0]
    np.testing.assert_allclose(jnp.concatenate([after.params["kernel"], after.params["bias"][None]]), solution, atol=1e-5)


class Deep(linen.Module):
    convolution: type

    @linen.compact
    def __call__(self, x):
        x = jnp.tanh(self.convolution(2, (3, 2), strides=(2, 1), kernel_dilation=(1, 2), padding="SAME", param_dtype=jnp.float64, name="conv")(x))
        x = jnp.tanh(self.convolution(3, (2, 2), padding="VALID", use_bias=False, param_dtype=jnp.float64, name="valid")(x))
        return layer(3, name="dense")(x.reshape(len(x), -1))


@pytest.mark.parametrize("convolution", [nn.Conv, pytest.param(linen.Conv, marks=pytest.mark.slow)], ids=["dljax", "linen"])
def test_3_3_kfac_factors_of_a_convolution_are_those_of_its_patches(convolution):
    batch = classes(4, (5, 6, 2)) | {"mask": jnp.array([1.0, 0.0, 2.0, 1.0])}
    model, w = Deep(convolution), np.array([0.25, 0, 0.5, 0.25])
    (before, after), _ = first_steps(supervised(model, cross_entropy, kfac(config=EXACT)), batch)
    params, factors = before.params, after.opt_state.factors

    def patches_by_hand(x, window, strides, dilation, pads):
        x = np.pad(x, ((0, 0), *pads, (0, 0)))
        reach = [d * (k - 1) for d, k in zip(dilation, window, strict=True)]
        places = [range(0, size - r, s) for size, r, s in zip(x.shape[1:3], reach, strides, strict=True)]
        seen = [
            [x[:, i : i + reach[0] + 1 : dilation[0], j : j + reach[1] + 1 : dilation[1]].reshape(len(x), -1) for j in places[1]] for i in places[0]
        ]
        return np.stack([np.stack(row, 1) for row in seen], 1)

    def tail(y, z):
        """The rest of the net from the outputs of both convolutions, given as shifts."""
        x = jnp.tanh(lifted(params["conv"], batch["x"], (2, 1), (1, 2), "SAME") + y)
        x = jnp.tanh(lifted(params["valid"], x, (1, 1), (1, 1), "VALID") + z)
        return x.reshape(4, -1) @ params["dense"]["kernel"] + params["dense"]["bias"][None], x

    def lifted(own, x, strides, dilation, padding):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, own["kernel"], strides, padding, rhs_dilation=dilation, dimension_numbers=numbers)
        return y + own["bias"][None, None, None] if "bias" in own else y

    y, z = jnp.zeros((4, 3, 6, 2)), jnp.zeros((4, 2, 5, 3))
    (outputs, last), J = jax.jit(lambda y, z: (tail(y, z), jax.jacobian(lambda y, z: tail(y, z)[0], (0, 1))(y, z)))(y, z)
    p = jax.nn.softmax(outputs)
    F = jax.vmap(jnp.diag)(p) - jnp.einsum("bk,bl->bkl", p, p)
    hidden = np.tanh(lifted(params["conv"], batch["x"], (2, 1), (1, 2), "SAME"))
    seen = {
        "conv": patches_by_hand(np.asarray(batch["x"]), (3, 2), (2, 1), (1, 2), ((1, 1), (1, 1))),
        "valid": patches_by_hand(hidden, (2, 2), (1, 1), (1, 1), ((0, 0), (0, 0))),
        "dense": np.asarray(last).reshape(4, 1, 1, -1),
    }
    own = jnp.arange(4)
    slopes = {"conv": J[0][own, :, own], "valid": J[1][own, :, own], "dense": jnp.broadcast_to(jnp.eye(3)[None, :, None, None], (4, 3, 1, 1, 3))}
    for name, rows in seen.items():
        rows = rows if name == "valid" else np.concatenate([rows, np.ones((*rows.shape[:-1], 1))], -1)
        np.testing.assert_allclose(factors[name][0], np.einsum("b,bijk,bijl->kl", w, rows, rows), atol=1e-10, err_msg=name)
        places = rows.shape[1] * rows.shape[2]
        G = np.einsum("b,bkijo,bkl,blijp->op", w, slopes[name], F, slopes[name]) / places
        np.testing.assert_allclose(factors[name][1], G, atol=1e-10, err_msg=name)


def test_inverse_by_blocks_is_the_inverse():
    root = np.random.default_rng(0).normal(size=(50, 80))
    M = root @ root.T
    np.testing.assert_allclose(jax.jit(inverse)(M), np.linalg.inv(M), rtol=1e-9, atol=1e-12)


def test_drawn_targets_expect_the_exact_factor():
    batch = classes()
    learner = supervised(layer(3), cross_entropy, kfac(1e-9, KFACConfig(averaging=0.999)))

    @jax.jit
    def last(batch):
        def one(state, key):
            return learner.step(key, state, batch)[0], None

        return jax.lax.scan(one, learner.init(jax.random.key(0), batch), jax.random.split(jax.random.key(1), 900))[0]

    state = last(batch)
    p = np.asarray(jax.nn.softmax(batch["x"] @ state.params["kernel"]))
    np.testing.assert_allclose(state.opt_state.factors[""][1], np.diag(p.mean(0)) - p.T @ p / 12, atol=0.02)


def test_damping_falls_where_the_quadratic_model_is_right():
    states, said = first_steps(supervised(layer(2), squared_error, kfac(config=KFACConfig(adapt=2, damping=0.5))), regression(), steps=4)
    np.testing.assert_allclose([float(metrics["damping"]) for metrics in said], 0.5 * 0.95 ** np.array([0, 2, 2, 4]), rtol=1e-12)


def test_step_with_a_learning_rate_is_bounded_and_has_momentum():
    learner = supervised(layer(3), cross_entropy, kfac(10.0, KFACConfig(max_divergence=1e-3, momentum=0.5, is_exact=True, averaging=0.0)))
    states, _ = first_steps(learner, classes(), steps=2)
    A, G = states[1].opt_state.factors[""]
    change = states[1].opt_state.direction[""]
    assert 0 < float((change * (A @ change @ G)).sum()) < 1e-3  # less than the damped curvature, which the bound is on
    alone, _ = first_steps(supervised(layer(3), cross_entropy, kfac(10.0, KFACConfig(max_divergence=1e-3, momentum=0.0, is_exact=True))), classes())
    np.testing.assert_allclose(alone[1].params["kernel"], states[1].params["kernel"], atol=1e-12)
    moved = states[2].params["kernel"] - states[1].params["kernel"]
    np.testing.assert_allclose(moved, states[2].opt_state.direction[""][:3], atol=1e-12)


def test_other_parameters_are_trained_as_told_and_named():
    class Normed(linen.Module):
        @linen.compact
        def __call__(self, x):
            return layer(3)(linen.LayerNorm(param_dtype=jnp.float64)(x))

    batch = classes()
    with pytest.warns(UserWarning, match=r"kfac: no Kronecker factors for LayerNorm_0/bias, LayerNorm_0/scale: trained by optax\.adam\(1e-3\)"):
        supervised(Normed(), cross_entropy, kfac()).init(jax.random.key(0), batch)
    (before, after), _ = first_steps(supervised(Normed(), cross_entropy, kfac(others=optax.sgd(0.1))), batch)
    (_, plain), _ = first_steps(supervised(Normed(), cross_entropy, optax.sgd(0.1)), batch, start=lambda state: state._replace(params=before.params))
    np.testing.assert_allclose(after.params["LayerNorm_0"]["scale"], plain.params["LayerNorm_0"]["scale"], atol=1e-12)
    assert not np.allclose(after.params["Dense_0"]["kernel"], plain.params["Dense_0"]["kernel"])


def test_layers_out_of_sight_are_left_out():
    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            shared = linen.Dense(4, name="shared")
            x = linen.remat(linen.Dense)(4, name="rematerialised")(shared(shared(x)))
            x = linen.Conv(4, (2,), feature_group_count=2, name="grouped")(x[:, :, None] * jnp.ones((1, 1, 4)))
            return linen.Dense(3, name="plain")(linen.Conv(4, (2,), padding="CIRCULAR", name="circular")(x).reshape(len(x), -1))

    x = jnp.ones((2, 4))
    params = Model().init(jax.random.key(0), x)["params"]
    assert list(kronecker_layers(lambda params: Model().apply({"params": params}, x), params)) == ["plain"]


def test_devices_take_one_step():
    check_shards(kfac(config=EXACT), layer(3), cross_entropy, classes() | {"mask": jnp.arange(12.0)})


def test_batch_of_weight_zero_changes_nothing():
    batch = classes() | {"mask": jnp.zeros(12)}
    (before, after), _ = first_steps(supervised(layer(3), cross_entropy, kfac()), batch)
    np.testing.assert_array_equal(after.params["kernel"], before.params["kernel"])
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(after))


def test_refusals():
    batch = classes()
    with pytest.raises(ValueError, match=r"kfac: found no Dense or Conv layer of linen in the model .*take natural_gradient or hessian_free"):
        supervised(LINE, squared_error, kfac()).init(jax.random.key(0), regression())
    with pytest.raises(ValueError, match=r"kfac: needs a likelihood with scores and columns, such as 'categorical'"):
        supervised(layer(3), cross_entropy, kfac(likelihood=Likelihood(lambda z, v: v))).init(jax.random.key(0), batch)
    with pytest.raises(ValueError, match=r"kfac: knows no distribution behind the loss"):
        supervised(layer(3), lambda z, y: z[:, 0], kfac()).init(jax.random.key(0), batch)
    with pytest.raises(ValueError, match=r"kfac: is_exact needs outputs \[B, K\], got \(12, 1, 3\)"):
        first_steps(supervised(layer(3), cross_entropy, kfac(config=EXACT)), jax.tree.map(lambda leaf: leaf[:, None], batch))
    with pytest.raises(ValueError, match=r"kfac: learning_rate must be in \(0, inf\), got 0"):
        kfac(0)
    options = [("damping", 0), ("averaging", 1), ("refresh", 0), ("adapt", 0), ("momentum", 1), ("max_divergence", 0)]
    for name, value in options:
        with pytest.raises(ValueError, match=rf"KFACConfig: {name} must be"):
            KFACConfig(**{name: value})
