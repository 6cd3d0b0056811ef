"""Discrete codes: frequencies, enumeration, and an autoencoder whose evidence is a finite sum."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import chisquare

from dljax.generative.discrete_latents import categorical_latent, gumbel_softmax
from dljax.generative.vae import vae
from dljax.models.mlp import MLP

GROUPS, CLASSES = 2, 3
CODES = jnp.asarray([np.eye(CLASSES)[list(code)].ravel() for code in itertools.product(range(CLASSES), repeat=GROUPS)], jnp.float32)  # all 9


def test_10_2_gumbel_softmax_draws_classes_by_their_probabilities_at_every_temperature_and_is_one_hot_near_zero():
    logits = jnp.array([0.0, 1.0, -1.0, 2.0])
    num = 20_000
    temperatures = jnp.array([1e-3, 0.5, 5.0])
    draw = jax.jit(jax.vmap(lambda key, t: gumbel_softmax(key, jnp.broadcast_to(logits, (num, 4)), temperature=t)))
    samples = np.asarray(draw(jax.random.split(jax.random.key(0), 3), temperatures))
    np.testing.assert_allclose(samples.sum(-1), 1, rtol=1e-5)
    expected = num * softmax(np.asarray(logits, np.float64))
    for each in samples:
        assert chisquare(np.bincount(each.argmax(-1), minlength=4), expected).pvalue > 0.001
    assert (samples[0].max(-1) > 0.999).mean() > 0.99  # two Gumbels nearer than 0.007 to each other are rare
    assert samples[2].max(-1).mean() < 0.5


def test_10_2_hard_samples_are_one_hot_and_have_the_derivative_of_the_soft_ones():
    logits, weights = jax.random.normal(jax.random.key(0), (2, 6, 4))
    key = jax.random.key(1)

    @partial(jax.jit, static_argnums=0)
    def through(is_hard):
        samples, pull = jax.vjp(lambda logits: gumbel_softmax(key, logits, temperature=0.7, is_hard=is_hard), logits)
        return samples, pull(weights)[0]

    (hard, hard_gradient), (soft, soft_gradient) = through(True), through(False)
    assert set(np.unique(np.asarray(hard).round(6))) == {0.0, 1.0}
    np.testing.assert_array_equal(hard.argmax(-1), soft.argmax(-1))
    np.testing.assert_allclose(hard_gradient, soft_gradient, rtol=1e-6)


def test_10_2_divergence_of_discrete_codes_is_its_enumeration():
    latent = categorical_latent(GROUPS, CLASSES)
    raw = jnp.array([[0.5, -1.0, 2.0, 1e4, 0.0, -1e4]])  # of the second variable one class is certain
    log_q = np.asarray(jax.vmap(lambda code: latent.log_prob(raw, code[None])[0])(CODES), np.float64)
    log_p = np.asarray(latent.prior.log_prob(CODES), np.float64)
    np.testing.assert_allclose([logsumexp(log_q), logsumexp(log_p)], 0, atol=1e-5)
    q = np.exp(log_q)
    assert float(latent.kl(raw, CODES[:1])[0]) == pytest.approx((q[q > 0] * (log_q - log_p)[q > 0]).sum(), rel=1e-5)
    assert np.isfinite(jax.grad(lambda raw: latent.kl(raw, CODES[:1]).sum())(raw)).all()
    probabilities, entropies = latent.parameters(raw)
    np.testing.assert_allclose(entropies[0, 1], 0, atol=1e-6)
    np.testing.assert_allclose(probabilities[0, :3], jax.nn.softmax(raw[0, :3]), rtol=1e-6)


def test_10_2_relaxed_codes_have_the_concrete_density():
    """Mass one and the samples' mean by quadrature over the simplex of two classes; its divergence is an expectation of log q - log p."""
    latent = categorical_latent(1, 2, temperature=0.7, is_relaxed=True)
    raw = jnp.array([[0.8, -0.4]])
    with jax.enable_x64(True):
        raw = raw.astype(jnp.float64)
        # Evenly spaced logits l, dx = x (1 - x) dl: the density has poles at both ends.
        logits = jnp.linspace(-40.0, 40.0, 4001)
        x = jax.nn.sigmoid(logits)
        grid = jnp.stack([x, jax.nn.sigmoid(-logits)], 1)

        @jax.jit
        def run(key):
            log_density = latent.log_prob(jnp.broadcast_to(raw, grid.shape), grid)
            return jnp.exp(log_density) * grid.prod(1) * 0.02, latent.sample(key, jnp.broadcast_to(raw, (50_000, 2)))

        density, codes = map(np.asarray, run(jax.random.key(0)))
        mass, mean = density.sum(), (density * np.asarray(x)).sum()
    assert mass == pytest.approx(1, abs=1e-6)
    assert float(codes[:, 0].mean()) == pytest.approx(mean, abs=4 * float(codes[:, 0].std()) / np.sqrt(50_000))

    @jax.jit
    def at_the_edges(edges):
        gradient = jax.grad(lambda raw: latent.kl(raw, latent.sample(jax.random.key(1), raw)).sum())(1e4 * edges)
        return latent.log_prob(jnp.zeros((2, 2)), edges), gradient

    assert all(np.isfinite(part).all() for part in at_the_edges(jnp.array([[1.0, 0.0], [0.0, 1.0]])))


def test_10_2_bounds_of_an_autoencoder_of_discrete_codes_close_on_its_enumerated_evidence():
    x = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=4)), jnp.float32)
    seen = np.array([0, 3, 12, 15])  # four pictures, equally often: their entropy is log 4
    learner = vae(MLP(GROUPS * CLASSES, (16,)), MLP(4, (16,)), optax.adam(1e-2), latent=categorical_latent(GROUPS, CLASSES))

    @jax.jit
    def run(key):
        batch = {"x": jnp.repeat(x[seen], 16, 0)}
        state, _ = jax.lax.scan(lambda state, key: learner.step(key, state, batch), learner.init(key, batch), jax.random.split(key, 600))
        bounds = [learner.functions["log_evidence"](key, state.params, jnp.repeat(x, 200, 0), num).reshape(16, 200) for num in (1, 16)]
        return learner.functions["decode"](key, state.params, CODES), bounds, learner.functions["encode"](key, state.params, x)

    probabilities, (elbo, bound), (means, entropies) = run(jax.random.key(0))
    p = np.asarray(probabilities, np.float64).clip(1e-12, 1 - 1e-12)
    exact = logsumexp(np.log(p) @ np.asarray(x).T + np.log1p(-p) @ (1 - np.asarray(x)).T, axis=0) - np.log(9)
    assert logsumexp(exact) == pytest.approx(0, abs=1e-5)  # all pictures
    for found in (elbo, bound):
        assert (np.asarray(found.mean(1)) < exact + 0.05).all()
    assert bound.mean() > elbo.mean()
    np.testing.assert_allclose(bound.mean(1)[seen], exact[seen], atol=0.05)
    assert np.log(4) <= -exact[seen].mean() < np.log(4) + 0.3
    assert (means.shape, entropies.shape) == ((16, 6), (16, 2))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"gumbel_softmax: temperature must be in \(0, inf\), got 0"):
        gumbel_softmax(jax.random.key(0), jnp.zeros(3), temperature=0)
    with pytest.raises(ValueError, match="categorical_latent: groups must be >= 1, got 0"):
        categorical_latent(0, 2)
    with pytest.raises(ValueError, match="categorical_latent: classes must be >= 2, got 1"):
        categorical_latent(2, 1)
    with pytest.raises(ValueError, match=r"categorical_latent: temperature must be in \(0, inf\), got -1"):
        categorical_latent(2, 2, temperature=-1)
