"""Two layers of normal codes, whose joint, evidence and posterior are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from scipy.stats import multivariate_normal

from dljax.generative.hierarchical_latent import hierarchical_latent
from dljax.generative.likelihoods import normal_likelihood
from dljax.generative.vae import vae
from dljax.models.mlp import MLP

# z₂ ~ N(0, 1), z₁ = A z₂ + 0.6 noise, x = 1.5 z₁ + 0.8 noise; z₁ and x have two numbers.
A, DEVIATION, GAIN, NOISE = np.array([[1.2], [-0.7]]), 0.6, 1.5, 0.8
OF_Z = np.block([[A @ A.T + DEVIATION**2 * np.eye(2), A], [A.T, np.ones((1, 1))]])  # covariance of (z₁, z₂)
OF_X = GAIN**2 * OF_Z[:2, :2] + NOISE**2 * np.eye(2)


def prior_network():
    return (lambda key, z: {"weights": jnp.asarray(A.T)}, lambda params, z: jnp.concatenate([z @ params["weights"], _log(DEVIATION, z, 2)], -1))


def _log(deviation, like, width):
    return jnp.full((len(like), width), jnp.log(deviation))


def linear_ladder(spread=1.0):
    """The model with its posterior: z₂ given x, and z₁ by what x alone says of it; the top's deviation is made `spread` times as large."""
    gain = GAIN * A.T @ np.linalg.inv(OF_X)
    top = np.sqrt(1 - GAIN * gain @ A).item()

    def encode(params, x):
        return jnp.concatenate([x / GAIN, x @ gain.T, _log(NOISE / GAIN, x, 2), _log(spread * top, x, 1)], -1)

    return vae(
        (lambda key, x: {}, encode),
        (lambda key, z: {"gain": jnp.asarray(GAIN)}, lambda params, z: params["gain"] * z[:, :2]),
        optax.sgd(0.1),
        latent=hierarchical_latent((2, 1), [prior_network()]),
        likelihood=normal_likelihood(NOISE),
    )


def test_10_2_prior_of_two_layers_is_their_joint_normal():
    with jax.enable_x64(True):
        learned = hierarchical_latent((2, 1), [prior_network()])

        @jax.jit
        def run(key):
            prior = learned.at(learned.init(key)).prior
            codes = prior.sample(key, 20_000)
            return codes, prior.log_prob(codes)

        codes, log_prob = map(np.asarray, run(jax.random.key(0)))
    np.testing.assert_allclose(log_prob, multivariate_normal(np.zeros(3), OF_Z).logpdf(codes), rtol=1e-9)
    np.testing.assert_allclose(np.cov(codes.T), OF_Z, atol=0.05)


def test_10_2_bound_of_two_layers_is_the_evidence_at_the_posterior_and_falls_by_the_divergence_from_it():
    x = np.random.default_rng(0).normal(size=(5, 2))
    exact, spread = multivariate_normal(np.zeros(2), OF_X).logpdf(x), 1.5
    with jax.enable_x64(True):
        learner, worse = linear_ladder(), linear_ladder(spread)

        @jax.jit
        def run(key):
            state = learner.init(key, {"x": jnp.asarray(x)})
            many = jnp.repeat(jnp.asarray(x), 4000, 0)
            bounds = worse.functions["log_evidence"](key, state.params, many, 1)
            _, metrics = worse.step(key, state, {"x": many})
            return learner.functions["log_evidence"](key, state.params, jnp.asarray(x), 1), bounds, metrics

        at_posterior, bounds, metrics = jax.tree.map(np.asarray, run(jax.random.key(1)))
    np.testing.assert_allclose(at_posterior, exact, rtol=1e-10)
    divergence = 0.5 * (spread**2 - 1 - 2 * np.log(spread))
    error = float(bounds.std()) / np.sqrt(len(bounds))
    assert abs(float(bounds.mean()) - (exact.mean() - divergence)) < 4 * error
    assert abs(float(metrics["negative_elbo"]) + exact.mean() - divergence) < 4 * error  # whose divergences are in closed form


def test_10_2_divergence_of_two_layers_is_its_monte_carlo_estimate_and_the_prior_is_trained():
    learned = hierarchical_latent((3, 2), [MLP(6, (8,))])
    learner = vae(MLP(10, ()), MLP(4, ()), optax.sgd(0.1), latent=learned)

    @jax.jit
    def run(key):
        state = learner.init(key, {"x": jnp.ones((8, 4))})
        latent = learned.at(state.params["latent"])
        raw = jnp.broadcast_to(jnp.linspace(-0.7, 0.6, 10), (20_000, 10))
        codes = latent.sample(key, raw)
        after, _ = learner.step(key, state, {"x": jnp.ones((8, 4))})
        return latent.log_prob(raw, codes) - latent.prior.log_prob(codes), latent.kl(raw, codes), state, after

    ratio, kl, state, after = run(jax.random.key(1))
    assert abs(float(ratio.mean() - kl.mean())) < 4 * float((ratio - kl).std()) / np.sqrt(20_000)
    assert all(
        float(jnp.abs(new - old).max()) > 0 for new, old in zip(*map(jax.tree.leaves, (after.params["latent"], state.params["latent"])), strict=True)
    )


def test_one_layer_is_the_flat_space():
    latent = hierarchical_latent((4,), []).at([])
    raw = jax.random.normal(jax.random.key(0), (5, 8))
    parameters, codes = jax.jit(lambda key, raw: (latent.parameters(raw), latent.sample(key, raw)))(jax.random.key(1), raw)
    np.testing.assert_array_equal(np.concatenate(parameters, -1), raw)
    assert codes.shape == (5, 4)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="hierarchical_latent: sizes must be >= 1, got 0"):
        hierarchical_latent((0,), [])
    with pytest.raises(ValueError, match="hierarchical_latent: 2 sizes need 1 networks between them, got 0"):
        hierarchical_latent((2, 1), [])
    with pytest.raises(ValueError, match=r"hierarchical_latent: network 0 must map \(1, 1\) to \(1, 4\), got \(1, 3\)"):
        jax.eval_shape(hierarchical_latent((2, 1), [MLP(3)]).init, jax.random.key(0))
    with pytest.raises(ValueError, match="hierarchical_latent: network 0 must have no running statistics"):
        jax.eval_shape(hierarchical_latent((1, 2), [linen.BatchNorm(use_running_average=False)]).init, jax.random.key(0))
