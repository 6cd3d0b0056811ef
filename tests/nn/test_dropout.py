"""Dropout by enumeration of its masks: the expectation, the variance, the ridge it amounts to; what is shared, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from sklearn.linear_model import Ridge

from dljax import core, nn
from dljax.objectives import squared_error
from dljax.supervised import supervised

RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), 3000)
LAYERS = [nn.dropout, nn.spatial_dropout, nn.variational_dropout, nn.stochastic_depth, nn.drop_connect, nn.gaussian_dropout]


def masks(size, rate):
    """All masks, scaled as dropout scales them, and their probabilities."""
    kept = np.array(list(itertools.product([0, 1], repeat=size)))
    return kept / (1 - rate), np.prod(np.where(kept, 1 - rate, rate), axis=1)


def test_4_2_linear_dropout_is_its_ridge():
    """E_m |y - (m x) w|² = |y - x w|² + p/(1-p) Σ_j w_j² Σ_i x_ij², by all 64 masks (Srivastava et al., 2014, 9.1)."""
    x, y, w, rate = RNG.normal(size=(5, 6)), RNG.normal(size=5), RNG.normal(size=6), 0.3
    scaled, probability = masks(6, rate)
    expected = probability @ ((y - (scaled[:, None] * x) @ w) ** 2).sum(1)
    curvature = (x**2).sum(0)
    np.testing.assert_allclose(expected, ((y - x @ w) ** 2).sum() + rate / (1 - rate) * curvature @ w**2, rtol=1e-12)
    # Its minimum is scikit-learn's ridge on inputs of unit length.
    mean_square = x.T @ x + rate / (1 - rate) * np.diag(curvature)
    solved = Ridge(alpha=rate / (1 - rate), fit_intercept=False).fit(x / np.sqrt(curvature), y).coef_ / np.sqrt(curvature)
    np.testing.assert_allclose(np.linalg.solve(mean_square, x.T @ y), solved, rtol=1e-9)

    # And what the function draws has that expectation: 4 standard errors of 3,000 draws.
    def loss(key):
        return jnp.square(jnp.asarray(y) - nn.dropout(key, jnp.asarray(x), rate) @ jnp.asarray(w)).sum()

    with jax.enable_x64(True):
        losses = np.asarray(jax.jit(jax.vmap(loss))(KEYS))
    assert abs(losses.mean() - expected) < 4 * losses.std() / len(KEYS) ** 0.5


def test_4_2_dropout_of_whatever_kind_keeps_the_mean_and_has_its_variance():
    x, rate = jnp.asarray(RNG.normal(size=(2, 3, 4)) + 2, jnp.float32), 0.4

    @jax.jit
    def moments(keys, rate):
        drawn = [jax.vmap(lambda key, layer=layer: layer(key, x, rate))(keys) for layer in LAYERS]
        return [(draws.mean(0), draws.var(0)) for draws in drawn]

    for layer, (mean, variance) in zip(LAYERS, moments(KEYS, rate), strict=True):
        expected = x**2 * rate / (1 - rate)
        assert (jnp.abs(mean - x) < 4.5 * jnp.sqrt(expected / len(KEYS))).all(), layer
        np.testing.assert_allclose(variance, expected, rtol=0.15, err_msg=f"{layer}")
    # A rate of zero, traced, is the identity.
    assert all(np.allclose(mean, x, rtol=1e-5) and (variance < 1e-9).all() for mean, variance in moments(KEYS, 0.0))


@pytest.mark.parametrize(
    ("layer", "shared"),
    [
        (nn.dropout, ()),
        (nn.spatial_dropout, (1, 2)),
        (nn.variational_dropout, (1,)),
        (nn.stochastic_depth, (1, 2, 3)),
        (lambda key, x, rate: nn.dropout(key, x, rate, shared_axes=(0, -1)), (0, 3)),
    ],
)
def test_4_2_draws_are_shared_along_their_axes_and_along_no_other(layer, shared):
    shape = (64, 8, 9) if layer is nn.variational_dropout else (64, 8, 9, 5)
    y = np.asarray(layer(jax.random.key(0), jnp.ones(shape), 0.5))
    for axis in range(len(shape)):
        assert (np.ptp(y, axis) == 0).all() == (axis in shared), axis


def test_4_2_dropout_and_its_layer_equal_those_of_linen():
    x, key = jnp.asarray(RNG.normal(size=(7, 5, 3)), jnp.float32), jax.random.key(3)
    for ours, theirs in [
        (nn.Noise(nn.dropout, 0.3), linen.Dropout(0.3)),
        (nn.Noise(nn.spatial_dropout, 0.3), linen.Dropout(0.3, broadcast_dims=(1,))),
        (nn.Noise(nn.stochastic_depth, 0.3, deterministic=False), linen.Dropout(0.3, broadcast_dims=(1, 2), deterministic=False)),
    ]:
        options = {} if ours.deterministic is False else {"deterministic": False}
        one, other = (layer.apply({}, x, rngs={"dropout": key}, **options) for layer in (ours, theirs))
        np.testing.assert_allclose(one, other, rtol=1e-6)
        assert ours.clone(deterministic=None).apply({}, x, deterministic=True) is x


def test_4_2_drop_connect_drops_weights_by_path_and_its_layer_is_dense_in_evaluation():
    layer, dense = nn.DropConnectDense(40, rate=0.25), nn.Dense(40)
    x = jnp.ones((3, 50))
    variables = dense.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x, deterministic=True))
    np.testing.assert_array_equal(layer.apply(variables, x, deterministic=True), dense.apply(variables, x))
    key = jax.random.key(1)
    noisy = layer.apply(variables, x, deterministic=False, rngs={"dropout": key})
    np.testing.assert_allclose(noisy, jnp.broadcast_to(noisy[:1], noisy.shape), rtol=1e-6, err_msg="one draw for the batch")
    dropped = nn.drop_connect(key, variables["params"], 0.25, "kernel$")
    ratio = np.asarray(dropped["kernel"] / variables["params"]["kernel"])
    assert set(np.unique(ratio.round(4))) == {0, np.float32(1.3333)}
    assert abs((ratio == 0).mean() - 0.25) < 4 * (0.25 * 0.75 / ratio.size) ** 0.5
    np.testing.assert_array_equal(dropped["bias"], variables["params"]["bias"])


def test_4_2_mc_dropout_approaches_the_enumeration_of_all_masks():
    x, w, v, rate = RNG.normal(size=4), RNG.normal(size=(4, 6)), RNG.normal(size=6), 0.3
    hidden = np.maximum(x @ w, 0)
    scaled, probability = masks(6, rate)
    outputs = np.tanh((scaled * hidden) @ v)
    exact = probability @ outputs
    exact_variance = probability @ (outputs - exact) ** 2
    with jax.enable_x64(True):
        units, weights = jnp.asarray(hidden), jnp.asarray(v)
        mean, variance = jax.jit(lambda key: nn.mc_dropout(key, lambda k: jnp.tanh(nn.dropout(k, units, rate) @ weights), 20_000))(jax.random.key(2))
    fourth = probability @ (outputs - exact) ** 4
    assert abs(float(mean) - exact) < 4 * (exact_variance / 20_000) ** 0.5
    assert abs(float(variance) - exact_variance) < 4 * ((fourth - exact_variance**2) / 20_000) ** 0.5


def test_4_2_noise_on_the_inputs_of_a_line_is_ridge():
    """E |y - (x + σ ε) w|² = |y - x w|² + N σ² |w|² (Bishop, 1995)."""
    x, w, scale = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32), jnp.array([1.0, -2.0, 0.5]), 0.5
    losses = np.asarray(jax.vmap(lambda key: jnp.square(nn.additive_noise(key, x, scale) @ w).sum())(KEYS))
    assert abs(losses.mean() - float(jnp.square(x @ w).sum() + 5 * scale**2 * w @ w)) < 4 * losses.std() / len(KEYS) ** 0.5
    scaled = np.asarray(jax.vmap(lambda key: nn.multiplicative_noise(key, x, scale))(KEYS))
    np.testing.assert_allclose(scaled.std(0), scale * jnp.abs(x), rtol=0.06)


def test_4_2_noise_differs_between_the_shards_of_a_batch():
    """The learner gives each device a key of its own: with inputs alike on both the gradients are not."""

    def apply(params, x, key=None, train=False):
        return params["w"] * (nn.dropout(key, x, 0.5) if train else x)

    learner = supervised((lambda key, x: {"w": jnp.ones(())}, apply), squared_error, optax.sgd(0.1))
    batch = {"x": jnp.ones((64, 1)), "y": jnp.zeros((64, 1))}
    state = learner.init(jax.random.key(0), batch)
    with core.bind_axis("data"):
        shards = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), batch)
        _, metrics = jax.jit(jax.vmap(lambda batch: learner.step(jax.random.key(1), state, batch), axis_name="data"))(shards)
    first, second = metrics["loss"].total
    assert first != second


def test_half_precision_draws_with_full_resolution():
    y = nn.dropout(jax.random.key(0), jnp.ones(100_000, jnp.bfloat16), 0.003)
    assert y.dtype == jnp.bfloat16
    assert abs(float((y == 0).mean()) - 0.003) < 4 * (0.003 / 100_000) ** 0.5


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_rates_outside_the_unit_interval_are_refused(layer, rate):
    with pytest.raises(ValueError, match=rf"{layer.__name__}: rate must be in \[0, 1\), got {rate}"):
        layer(jax.random.key(0), jnp.ones((2, 3, 4)), rate)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key: nn.DropConnectDense(2, rate=1.0, deterministic=True).init(key, jnp.ones((1, 2))), r"DropConnectDense: rate must be in \[0, 1\)"),
        (lambda key: nn.additive_noise(key, jnp.ones(2), -1.0), r"additive_noise: scale must be in \[0, inf\)"),
        (lambda key: nn.multiplicative_noise(key, jnp.ones(2), -1.0), r"multiplicative_noise: scale must be in \[0, inf\)"),
        (lambda key: nn.mc_dropout(key, lambda key: jnp.ones(2), 1), "mc_dropout: num must be >= 2, got 1"),
        (lambda key: nn.drop_connect(key, {"w": jnp.ones(2)}, 0.5, "kernel"), "drop_connect: pattern 'kernel' finds none of the 1 paths"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(jax.random.key(0))
