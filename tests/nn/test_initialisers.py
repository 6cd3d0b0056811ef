"""Initialisers: exact variances, signals through fifty layers, and those that look at data and depth."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from scipy.integrate import quad
from scipy.stats import norm

from dljax import nn
from dljax.nn import fixup, gain, initialisers, lsuv, signal_propagation
from dljax.nn.initialisers import he_normal, he_uniform, lecun_normal, normal, orthogonal, variance_scaling, xavier_normal, xavier_uniform
from dljax.objectives import cross_entropy
from dljax.supervised import supervised

KEY = jax.random.key(0)


def expectation(function):
    return sum(quad(lambda z: function(z) * norm.pdf(z), *half)[0] for half in ((-np.inf, 0), (0, np.inf)))


# Variances

DENSE, CONV = (300, 500), (3, 3, 40, 60)


VARIANCES = {
    "he_normal": (he_normal(), lambda into, out: 2 / into),
    "he_uniform": (he_uniform(), lambda into, out: 2 / into),
    "xavier_normal": (xavier_normal(), lambda into, out: 2 / (into + out)),
    "xavier_uniform": (xavier_uniform(), lambda into, out: 2 / (into + out)),
    "lecun_normal": (lecun_normal(), lambda into, out: 1 / into),
    "normal": (normal(0.03), lambda into, out: 0.03**2),
    "fixup, two layers": (fixup(16, 2), lambda into, out: 2 / into / 16),
    "fixup, three layers": (fixup(16, 3, base=lecun_normal()), lambda into, out: 1 / into / 4),
    "zeros": (initialisers.zeros, lambda into, out: 0),
}


def test_2_5_variances_are_those_of_the_formula():
    kernels = jax.jit(lambda: {name: (init(KEY, DENSE), init(KEY, CONV)) for name, (init, _) in VARIANCES.items()})()
    for name, (_, formula) in VARIANCES.items():
        for kernel, fans in zip(kernels[name], ((300, 500), (9 * 40, 9 * 60)), strict=True):
            kernel = np.asarray(kernel, np.float64)
            # Of n numbers the mean square differs from its own mean by less than √(2 / n), by 4.5 of those never.
            np.testing.assert_allclose((kernel**2).mean(), formula(*fans), rtol=4.5 * np.sqrt(2 / kernel.size), err_msg=name)
            assert abs(kernel.mean()) <= 4.5 * np.sqrt(formula(*fans) / kernel.size), name


def test_2_5_orthogonal_kernels_have_orthonormal_columns_or_rows():
    for kernel in jax.jit(lambda: [orthogonal(3.0)(KEY, shape) for shape in ((12, 8), (8, 12), (3, 3, 2, 8))])():
        matrix = np.asarray(kernel).reshape(-1, kernel.shape[-1]) / 3
        product = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
        np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-5)


def test_the_other_spelling_is_the_same_module_and_has_what_linen_has():
    assert nn.initializers is initialisers
    assert {name for name in dir(linen.initializers) if isinstance(getattr(linen.initializers, name), type(he_normal))} <= set(dir(initialisers))


# Through depth


@pytest.mark.parametrize(
    ("activation", "reference"),
    [
        (jnp.tanh, np.tanh),
        (jax.nn.relu, lambda z: max(z, 0)),
        (jax.nn.selu, lambda z: 1.0507009873554805 * (z if z > 0 else 1.6732632423543772 * np.expm1(z))),
        (lambda z: z, lambda z: z),
    ],
)
def test_gain_is_the_integral_of_the_square(activation, reference):
    assert gain(activation) == pytest.approx(expectation(lambda z: reference(z) ** 2) ** -0.5, rel=1e-6)


NETS = {
    "he, relu": (he_normal(), jax.nn.relu),
    "lecun, relu": (lecun_normal(), jax.nn.relu),
    "gain, tanh": (variance_scaling(gain(jnp.tanh) ** 2, "fan_in", "normal"), jnp.tanh),
    "lecun, tanh": (lecun_normal(), jnp.tanh),
    "small, tanh": (normal(0.01), jnp.tanh),
    "lecun, selu": (lecun_normal(), jax.nn.selu),
}


@pytest.fixture(scope="module")
def fifty():
    run = partial(signal_propagation, depth=50, width=200, num_examples=32)
    return jax.jit(lambda key: {name: run(key, *net) for name, net in NETS.items()})(KEY)


def test_2_5_fifty_layers_of_relu_keep_unit_variance_with_he_and_halve_it_with_lecun(fifty):
    he, lecun = fifty["he, relu"], fifty["lecun, relu"]
    # One draw of the weights wanders by a factor of about e^√(5 · 50 / 200).
    assert 1 / 4 < he.second_moment.min() <= he.second_moment.max() < 4
    assert 1 / 4 < he.gradient_variance.min() <= he.gradient_variance.max() < 4
    # ReLU is homogeneous: the same draws, each layer by √2 smaller, give half the moment a layer, exactly.
    np.testing.assert_allclose(lecun.second_moment, he.second_moment * 0.5 ** np.arange(1, 51), rtol=1e-3)
    np.testing.assert_allclose(lecun.gradient_variance, he.gradient_variance * 0.5 ** np.arange(49, -1, -1), rtol=1e-3)
    assert lecun.second_moment[-1] < 1e-14


def test_2_5_fifty_layers_of_tanh_keep_unit_variance_with_its_gain_and_lose_it_with_others(fifty):
    np.testing.assert_allclose(fifty["gain, tanh"].variance, 1, atol=0.12)
    np.testing.assert_allclose(fifty["gain, tanh"].second_moment, 1, atol=0.12)
    moment = 1.0
    for _ in range(10):  # what infinitely wide layers do (Poole et al., 2016, eq. 3)
        moment = expectation(lambda z, scale=np.sqrt(moment): np.tanh(scale * z) ** 2)
    np.testing.assert_allclose(fifty["lecun, tanh"].second_moment[9], moment, rtol=0.15)
    assert fifty["lecun, tanh"].second_moment[-1] < 0.02
    assert fifty["small, tanh"].second_moment[-1] < 1e-30


def test_gradients_of_tanh_grow_by_the_factor_of_mean_field_theory(fifty):
    slope = gain(jnp.tanh) ** 2 * expectation(lambda z: (1 - np.tanh(z) ** 2) ** 2)
    growth = (fifty["gain, tanh"].gradient_variance[0] / fifty["gain, tanh"].gradient_variance[-1]) ** (1 / 49)
    assert float(growth) == pytest.approx(slope, rel=0.02)


def test_selu_normalises_itself(fifty):
    np.testing.assert_allclose(fifty["lecun, selu"].activation_variance, 1, atol=0.25)
    np.testing.assert_allclose(fifty["lecun, selu"].activation_mean, 0, atol=0.1)


def test_propagation_of_a_known_net():
    twice = lambda key, shape, dtype: 2 * jnp.eye(*shape, dtype=dtype)  # noqa: E731
    found, shifted = jax.jit(lambda: (
        signal_propagation(KEY, twice, lambda z: z, depth=4, width=8),
        signal_propagation(KEY, initialisers.zeros, jnp.tanh, depth=1, width=8, bias_initializer=initialisers.constant(3.0)),
    ))()  # fmt: skip
    np.testing.assert_allclose(found.second_moment / found.second_moment[0], 4.0 ** np.arange(4), rtol=1e-6)
    np.testing.assert_allclose(found.gradient_variance / found.gradient_variance[-1], 4.0 ** np.arange(3, -1, -1), rtol=1e-6)
    np.testing.assert_allclose(found.second_moment, found.variance + found.mean**2, rtol=1e-5)
    assert (float(shifted.mean[0]), float(shifted.variance[0]), shifted.gradient_variance.shape) == (3, 0, (1,))


# From data


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), strides=2)(x))
        x = nn.tanh(nn.Dense(20)(x.reshape(len(x), -1)))
        shared = nn.Dense(20, name="shared")
        return nn.Dense(5)(shared(nn.relu(shared(x))))


def test_2_5_lsuv_brings_the_output_of_every_layer_to_variance_one():
    x = 30 * jax.random.normal(KEY, (16, 6, 6, 3)) + 10
    variables = jax.jit(lsuv(Net()).init)(KEY, x)
    plain = jax.eval_shape(Net().init, KEY, x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, plain)

    def outputs(x):
        _, seen = Net().apply(variables, x, capture_intermediates=lambda module, _: module.path != ())
        return {name: call["__call__"][0].var() for name, call in seen["intermediates"].items()}

    variances = jax.jit(outputs)(x)
    assert set(variances) == {"Conv_0", "Dense_0", "Dense_1", "shared"}
    np.testing.assert_allclose(list(variances.values()), 1, rtol=1e-4)
    kernel = np.asarray(variables["params"]["Dense_0"]["kernel"])
    gram = kernel.T @ kernel
    np.testing.assert_allclose(gram / gram[0, 0], np.eye(20), atol=1e-4)


def test_lsuv_of_an_output_that_is_constant_is_orthonormal_and_a_learner_takes_the_model():
    model = lsuv(nn.Dense(3), variance=4.0)
    x = jax.random.normal(KEY, (8, 5))
    init = jax.jit(model.init)
    np.testing.assert_allclose(model.apply(init(KEY, x), x)[0].var(), 4, rtol=1e-5)
    kernel = np.asarray(init(KEY, jnp.zeros((8, 5)))["params"]["kernel"])
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(3), atol=1e-5)
    learner = supervised(model, cross_entropy, optax.sgd(0.1))
    batch = {"x": x, "y": jnp.arange(8) % 3}
    _, metrics = jax.jit(lambda: learner.step(KEY, learner.init(KEY, batch), batch))()
    assert np.isfinite(metrics["loss"].value)


# From depth


def test_2_5_fixup_branches_begin_as_nothing_and_the_effect_of_a_step_does_not_grow_with_depth():
    x, readout = jax.random.normal(KEY, (2, 1, 64))

    def effect(depth, num_branches):
        """Σ |∂f/∂W|² over all kernels: by how much a small step of gradient descent changes f, per learning rate."""
        branch = nn.FixupBranch(partial(nn.Dense, 64), num_branches=num_branches)
        params = jax.vmap(branch.init, (0, None))(jax.random.split(KEY, depth), x)

        def f(params):
            h, outputs = jax.lax.scan(lambda h, params: (h + branch.apply(params, h), jnp.abs(branch.apply(params, h)).max()), x, params)
            return (h * readout).sum() / 64, (h, outputs)

        grads, (h, outputs) = jax.grad(f, has_aux=True)(params)
        kernels = {name: layer for name, layer in grads["params"].items() if name.startswith("layer")}
        return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(kernels)), h, outputs

    shallow, _, _ = jax.jit(lambda: effect(4, 4))()
    deep, h, outputs = jax.jit(lambda: effect(64, 64))()
    unscaled, _, _ = jax.jit(lambda: effect(64, 1))()
    assert not outputs.any()
    np.testing.assert_array_equal(h, x)
    assert float(deep / shallow) == pytest.approx(1, rel=0.3)
    assert float(unscaled / shallow) == pytest.approx(64, rel=0.3)


def test_fixup_branches_of_three_convolutions_have_the_scalars_of_the_paper():
    branch = nn.FixupBranch(partial(nn.Conv, 4, kernel_size=(3, 3)), num_branches=9, num_layers=3)
    params = jax.eval_shape(branch.init, KEY, jnp.ones((1, 5, 5, 4)))["params"]
    assert sorted(params) == ["bias_1", "bias_2", "bias_3", "layer_1", "layer_2", "layer_3", "scale", "shift_1", "shift_2", "shift_3"]
    assert {params[name].shape for name in params if not name.startswith("layer")} == {()}
    assert params["layer_3"]["kernel"].shape == (3, 3, 4, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fixup(0), ValueError, "fixup: num_branches must be >= 1, got 0"),
        (lambda: fixup(4, 1), ValueError, "fixup: num_layers must be >= 2, got 1"),
        (lambda: lsuv(lambda x: x), TypeError, "lsuv: model must be a linen module, got function"),
        (lambda: lsuv(nn.Dense(3), variance=0.0), ValueError, "lsuv: variance must be in"),
        (lambda: gain(jnp.zeros_like), ValueError, "gain: activation must have a positive and finite second moment"),
        (lambda: signal_propagation(KEY, he_normal(), jnp.tanh, depth=0), ValueError, "signal_propagation: depth must be >= 1, got 0"),
        (lambda: signal_propagation(KEY, he_normal(), jnp.tanh, width=0), ValueError, "signal_propagation: width must be >= 1, got 0"),
        (lambda: signal_propagation(KEY, he_normal(), jnp.tanh, num_examples=0), ValueError, "signal_propagation: num_examples must be >= 1"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
