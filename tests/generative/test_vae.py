"""Variational autoencoders: closed forms, bounds that hold, and the mixture of Bernoullis that the recipe has to beat."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from scipy.special import logsumexp
from scipy.stats import norm

from dljax.core import bind_axis, evaluate
from dljax.generative.latents import standard_normal_kl
from dljax.generative.vae import vae
from dljax.models.mlp import MLP

LATENT, PIXELS = 1, 5
X = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=PIXELS)), jnp.float32)  # all 32 pictures of five pixels


@pytest.fixture(scope="module")
def trained():
    """A small autoencoder, trained for a moment on pictures all black or all white, but for one pixel in ten."""
    learner = vae(MLP(2 * LATENT, (8,)), MLP(PIXELS, (8,)), optax.adam(1e-2), latent_size=LATENT)
    rng = np.random.default_rng(0)
    batch = {"x": jnp.asarray((rng.random((256, 1)) < 0.5) ^ (rng.random((256, PIXELS)) < 0.1), jnp.float32)}
    state = jax.jit(learner.init)(jax.random.key(0), batch)
    keys = jax.random.split(jax.random.key(1), 300)
    state, metrics = jax.jit(lambda state: jax.lax.scan(lambda state, key: learner.step(key, state, batch), state, keys))(state)
    return learner, state, metrics


def log_evidence_by_quadrature(learner, params):
    """log ∫ p(x|z) N(z; 0, 1) dz on a fine grid: exact for one latent dimension."""
    z = np.linspace(-8, 8, 4001)
    probabilities = np.asarray(learner.functions["decode"](None, params, jnp.asarray(z[:, None], jnp.float32)), np.float64).clip(1e-9, 1 - 1e-9)
    log_likelihood = np.log(probabilities) @ np.asarray(X).T + np.log1p(-probabilities) @ (1 - np.asarray(X)).T
    return logsumexp(log_likelihood + norm.logpdf(z)[:, None], axis=0) + np.log(z[1] - z[0])


def test_10_2_training_lowers_the_bound_towards_the_entropy_of_the_pictures(trained):
    _, _, metrics = trained
    entropy = np.log(2) - PIXELS * (0.1 * np.log(0.1) + 0.9 * np.log(0.9))  # of the colour and of the flips, a little more than the pictures tell
    assert float(metrics["negative_elbo"][0]) > PIXELS * np.log(2) - 0.1
    assert entropy - 0.15 < float(metrics["negative_elbo"][-50:].mean()) < entropy + 0.4
    np.testing.assert_allclose(metrics["negative_elbo"], metrics["reconstruction"] + metrics["kl"], rtol=1e-4)


def test_10_2_kl_to_the_prior_is_its_monte_carlo_estimate():
    mean, log_scale = jnp.array([0.7, -1.2, 0.0]), jnp.array([-0.5, 0.3, 0.0])
    z = np.asarray(mean) + np.exp(log_scale) * np.random.default_rng(0).normal(size=(400_000, 3))
    log_ratio = (norm.logpdf(z, mean, np.exp(log_scale)) - norm.logpdf(z)).sum(-1)
    assert float(standard_normal_kl(mean, log_scale)) == pytest.approx(log_ratio.mean(), abs=5 * log_ratio.std() / np.sqrt(400_000))


def test_kl_is_zero_for_the_prior_itself_and_positive_elsewhere():
    assert float(standard_normal_kl(jnp.zeros(4), jnp.zeros(4))) == 0
    away = jax.random.normal(jax.random.key(0), (2, 50, 4))
    assert float(standard_normal_kl(*away).min()) > 0


def test_10_2_the_elbo_is_below_the_evidence_and_importance_samples_close_the_gap(trained):
    learner, state, _ = trained
    exact = log_evidence_by_quadrature(learner, state.params)
    np.testing.assert_allclose(logsumexp(exact), 0, atol=1e-4)  # the probabilities of all pictures sum to one
    bounds = jax.jit(learner.functions["log_evidence"], static_argnums=3)
    elbo = jax.vmap(lambda key: bounds(key, state.params, X, 1))(jax.random.split(jax.random.key(2), 2000)).mean(0)
    assert float((elbo - exact).max()) < 0.05
    np.testing.assert_allclose(bounds(jax.random.key(3), state.params, X[:1], 20_000), exact[:1], atol=0.02)


def test_10_2_the_bound_rises_with_the_number_of_importance_samples(trained):
    learner, state, _ = trained
    x = jnp.repeat(X[jnp.array([1, 0, 31])], 500, axis=0)
    log_evidence = jax.jit(learner.functions["log_evidence"], static_argnums=3)
    bounds = [float(log_evidence(jax.random.key(4), state.params, x, num).mean()) for num in (1, 4, 16, 64)]
    assert bounds == sorted(bounds)


def test_evaluation_is_the_mean_over_a_ragged_set(trained):
    learner, state, _ = trained
    metrics = jax.jit(evaluate(learner.evaluate, batch_size=10))(jax.random.key(5), state, {"x": X})
    kl = standard_normal_kl(*learner.functions["encode"](None, state.params, X))
    assert float(metrics["kl"].weight) == 32
    assert float(metrics["kl"].value) == pytest.approx(float(kl.mean()), rel=1e-4)
    assert float(metrics["negative_elbo"].value) == pytest.approx(float(metrics["reconstruction"].value + metrics["kl"].value), rel=1e-4)


def test_10_2_beta_weighs_the_divergence_and_may_be_traced():
    def final(beta):
        learner = vae(MLP(2, (8,)), MLP(PIXELS, (8,)), optax.adam(1e-2), latent_size=1, beta=beta)
        state = learner.init(jax.random.key(0), {"x": X})
        keys = jax.random.split(jax.random.key(1), 200)
        return jax.lax.scan(lambda state, key: learner.step(key, state, {"x": X}), state, keys)[1]["kl"][-50:].mean()

    kls = jax.jit(jax.vmap(final))(jnp.array([0.0, 1.0, 20.0]))
    assert float(kls[0]) > float(kls[1]) > float(kls[2])


def test_shards_keep_equal_parameters_and_draw_different_noise():
    learner = vae(MLP(2, (8,), dropout_rate=0.5), MLP(PIXELS, (8,)), optax.adam(1e-2), latent_size=1)
    state = learner.init(jax.random.key(0), {"x": X})
    with bind_axis("data"):
        states, metrics = jax.jit(jax.vmap(learner.step, (None, None, 0), axis_name="data"))(jax.random.key(1), state, {"x": jnp.stack([X, X])})
    for leaf in jax.tree.leaves(states):
        np.testing.assert_array_equal(leaf[0], leaf[1])
    assert float(metrics["reconstruction"][0]) != float(metrics["reconstruction"][1])


def test_bad_options_and_models_are_refused():
    with pytest.raises(ValueError, match="vae: latent_size must be >= 1, got 0"):
        vae(MLP(2), MLP(PIXELS), optax.sgd(0.1), latent_size=0)
    with pytest.raises(ValueError, match=r"vae: beta must be in \[0, inf\), got -1"):
        vae(MLP(2), MLP(PIXELS), optax.sgd(0.1), latent_size=1, beta=-1)
    with pytest.raises(ValueError, match=r"vae: the encoder must map \(32, 5\) to \(32, 4\), got \(32, 2\)"):
        vae(MLP(2), MLP(PIXELS), optax.sgd(0.1), latent_size=2).init(jax.random.key(0), {"x": X})
    with pytest.raises(ValueError, match="vae: the decoder must map"):
        vae(MLP(2), MLP(3), optax.sgd(0.1), latent_size=1).init(jax.random.key(0), {"x": X})
    statistics = linen.BatchNorm(use_running_average=False)
    with pytest.raises(ValueError, match=r"vae: the encoder must have no running statistics, got \['batch_stats', 'params'\]"):
        vae(statistics, MLP(2), optax.sgd(0.1), latent_size=1).init(jax.random.key(0), {"x": X[:, :2]})


def bernoulli_mixture(x, num, smoothing, seed, rounds=200):
    """Expectation maximisation, with a Beta prior on the probabilities."""
    rng = np.random.default_rng(seed)
    means, shares = 0.25 + 0.5 * x[rng.choice(len(x), num, replace=False)], np.full(num, 1 / num)
    for _ in range(rounds):
        joint = x @ np.log(means).T + (1 - x) @ np.log1p(-means).T + np.log(shares)
        belief = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        counts = belief.sum(0)
        shares = (counts + 1e-3) / (counts + 1e-3).sum()
        means = (belief.T @ x + smoothing) / (counts[:, None] + 2 * smoothing)
    return lambda x: logsumexp(x @ np.log(means).T + (1 - x) @ np.log1p(-means).T + np.log(shares), axis=1)


@pytest.mark.slow
def test_10_2_the_recipes_target_is_the_best_mixture_of_bernoullis():
    from dljax import data
    from dljax.recipes import get

    train, test = (1.0 * (data.load("digits")[part]["x"].reshape(-1, 64) >= 8) for part in ("train", "test"))
    options = itertools.product((40, 80, 120), (0.1, 0.5), (0, 1, 2))
    nats = [-bernoulli_mixture(train, *option)(test).mean() for option in options]
    assert len(nats) == 18
    assert min(nats) == pytest.approx(get("digits/vae").target.value, abs=0.005)
