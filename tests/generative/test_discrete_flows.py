"""Discrete flows by enumeration: permutations, probabilities that sum to one, integers that stay integers, correlations that are learned exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax import generative as g

K, D = 3, 3
ALL = np.array(list(itertools.product(range(K), repeat=D)), np.int32)


def perturbed(params, scale=1.0):
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + scale * rng.normal(size=leaf.shape), leaf.dtype), params)


@pytest.mark.parametrize("layer", [g.discrete_coupling(hidden=(6,)), g.discrete_autoregressive(hidden=(6,))], ids=["bipartite", "autoregressive"])
def test_10_4_discrete_flows_permute_the_alphabet_and_their_probabilities_sum_to_one(layer):
    bijector = g.chain(g.one_hot(K), g.repeat(layer, 2))
    density = g.pushforward(bijector, g.categorical())
    params = perturbed(density.init(jax.random.key(0), jnp.asarray(ALL)))

    @jax.jit
    @jax.vmap
    def everything(x):
        z = bijector.inverse(params["bijector"], x)[0]
        return z, bijector.forward(params["bijector"], z)[0], density.log_prob(params, x)

    z, back, log_probs = everything(jnp.asarray(ALL))
    assert (back == ALL).all()
    assert set(np.unique(z)) == {0.0, 1.0}
    images = {tuple(row) for row in np.asarray(z).argmax(-1)}
    assert len(images) == K**D
    assert (np.asarray(z).argmax(-1) != ALL[:, ::1]).any()
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-5)
    assert density.log_prob(params, jnp.array([0, 0, K], jnp.int32)) == -jnp.inf


@pytest.mark.parametrize("layer", [g.discrete_coupling(hidden=(16,)), g.discrete_autoregressive(hidden=(16,))], ids=["bipartite", "autoregressive"])
def test_10_4_straight_through_gradients_find_the_flow_that_makes_a_pair_independent(layer):
    """x₂ = x₁ + 1 mod 4: the entropy is log 4, and independent numbers have 2 log 4 at best."""
    first = jnp.arange(64) % 4
    batch = {"x": jnp.stack([first, (first + 1) % 4], -1)}
    learner = g.flow(g.chain(g.one_hot(4), layer), optax.adam(5e-2), size=2, base=g.categorical())

    @jax.jit
    def train(key):
        state = learner.init(key, batch)
        return jax.lax.scan(lambda state, step_key: learner.step(step_key, state, batch), state, jax.random.split(key, 400))

    _, metrics = train(jax.random.key(0))
    assert float(metrics["nll"][0]) == pytest.approx(2 * np.log(4), abs=0.1)
    assert float(metrics["nll"][-1]) < np.log(4) + 0.05


@pytest.mark.parametrize("spacing", [1.0, 0.25])
def test_10_4_integer_flows_are_bijections_of_the_grid_and_probabilities_sum_to_one(spacing):
    bijector = g.repeat(g.coupling(g.integer_shift(spacing), g.dense_network((6,))), 2)
    density = g.pushforward(bijector, g.discretised_logistic(spacing))
    box = spacing * np.array(list(itertools.product(range(-30, 31), repeat=2)), np.float32)
    params = perturbed(density.init(jax.random.key(0), jnp.asarray(box[::7] / 10)), scale=0.7)

    @jax.jit
    @jax.vmap
    def everything(x):
        z, log_det = bijector.inverse(params["bijector"], x)
        return z, log_det, bijector.forward(params["bijector"], z)[0], density.log_prob(params, x)

    z, log_dets, back, log_probs = map(np.asarray, everything(jnp.asarray(box)))
    assert (back == box).all()
    assert (z / spacing == np.round(z / spacing)).all()
    assert len(np.unique(z, axis=0)) == len(box)
    assert (np.abs(z - box[:, ::-1]) > 0).any()
    assert (log_dets == 0).all()
    # What lies outside of the box is missing.
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=5e-3)


def test_10_4_gradients_go_straight_through_rounding():
    slope = jax.grad(lambda raw: g.integer_shift().encode(raw, jnp.zeros(1))[0].sum())(jnp.array([[0.3]]))
    assert slope.tolist() == [[1.0]]


def test_10_4_the_discretised_logistic_keeps_its_digits_in_the_tails():
    from scipy.stats import logistic

    density, params = g.discretised_logistic(), {"mean": jnp.array([0.3]), "log_scale": jnp.array([-1.0])}
    for x in (0.0, 1.0, -4.0, 12.0):
        exact = (
            np.log(np.diff(logistic.sf(np.float64([x + 0.5, x - 0.5]), 0.3, np.exp(-1.0))))[0]
            if x > 0
            else np.log(np.diff(logistic.cdf(np.float64([x - 0.5, x + 0.5]), 0.3, np.exp(-1.0))))[0]
        )
        assert float(density.log_prob(params, jnp.array([x]))) == pytest.approx(exact, rel=1e-5)
    assert np.isfinite(jax.grad(lambda params: density.log_prob(params, jnp.array([1e5])))(params)["mean"]).all()


def test_10_4_an_autoregressive_model_sums_to_one_and_samples_what_it_says():
    density = g.autoregressive_categorical(K, hidden=(8,))
    params = perturbed(density.init(jax.random.key(0), jnp.asarray(ALL)), scale=0.7)
    exact = np.exp(jax.jit(jax.vmap(lambda x: density.log_prob(params, x)))(jnp.asarray(ALL)))
    assert exact.sum() == pytest.approx(1, abs=1e-5)
    num = 20_000
    samples = np.asarray(jax.jit(jax.vmap(lambda key: density.sample(key, params)))(jax.random.split(jax.random.key(1), num)))
    shares = np.bincount(samples @ [K**2, K, 1], minlength=K**D) / num
    assert (np.abs(shares - exact) < 4 * np.sqrt(exact * (1 - exact) / num)).all()
    assert density.log_prob(params, jnp.array([0, 0, K], jnp.int32)) == -jnp.inf


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: g.one_hot(0), "one_hot: num_values must be >= 1"),
        (lambda: g.one_hot(3).init(jax.random.key(0), jnp.ones((2, 2))), r"one_hot: x must be whole numbers \[B, D\] in 0 ... 2, got float32"),
        (lambda: g.discrete_coupling(temperature=0.0), "discrete_coupling: temperature must be in"),
        (lambda: g.discrete_coupling().init(jax.random.key(0), jnp.ones((2, 1, 3))), "must be one-hot .* D >= 2"),
        (lambda: g.discrete_autoregressive().init(jax.random.key(0), jnp.ones((2, 1))), "must be one-hot"),
        (lambda: g.integer_shift(0.0), "integer_shift: spacing must be in"),
        (lambda: g.discretised_logistic(-1.0), "discretised_logistic: spacing must be in"),
        (lambda: g.autoregressive_categorical(3).init(jax.random.key(0), jnp.ones((2, 2))), "must be whole numbers"),
    ],
)  # fmt: skip
def test_bad_options_and_data_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
