"""Codes on manifolds: divergences, densities, and an autoencoder whose bounds close on the exact evidence."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp

from dljax.generative.latents import hyperbolic_latent, normal_latent, power_spherical_latent, von_mises_fisher_latent
from dljax.generative.vae import vae
from dljax.models.mlp import MLP

LATENTS = {
    "normal": normal_latent(2),
    "von_mises_fisher": von_mises_fisher_latent(3),
    "power_spherical": power_spherical_latent(3),
    "hyperbolic": hyperbolic_latent(2, curvature=-0.5),
}


@pytest.mark.parametrize("name", LATENTS)
def test_10_5_divergence_of_a_latent_is_its_monte_carlo_estimate(name):
    latent = LATENTS[name]
    with jax.enable_x64(True):
        raw = jnp.broadcast_to(jnp.linspace(-0.6, 1.1, latent.raw_size), (20_000, latent.raw_size))

        @jax.jit
        def estimate(key):
            codes = latent.sample(key, raw)
            return codes, latent.log_prob(raw, codes) - latent.prior.log_prob(codes), latent.kl(raw, codes)

        codes, ratio, kl = estimate(jax.random.key(0))
    assert codes.shape == (20_000, latent.size)
    error = ratio.std() / np.sqrt(20_000)
    assert abs(ratio.mean() - kl.mean()) < 4 * error + 1e-12
    # E_q[p/q] = 1: both densities are of one measure, and the posterior covers the prior's part.
    weights = np.exp(-np.asarray(ratio))
    assert abs(weights.mean() - 1) < 5 * weights.std() / np.sqrt(20_000) + 0.02


def test_10_5_bounds_of_a_spherical_autoencoder_close_on_the_evidence():
    """The circle: the evidence by the trapezoidal rule over the codes, exact for smooth periodic functions."""
    x = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=4)), jnp.float32)
    learner = vae(MLP(3, (8,)), MLP(4, (8,)), optax.adam(1e-2), latent=von_mises_fisher_latent(2))

    @jax.jit
    def train(key):
        state = learner.init(key, {"x": x})
        batch = {"x": jnp.repeat(x[jnp.array([0, 3, 12, 15])], 8, 0)}
        return jax.lax.scan(lambda state, key: learner.step(key, state, batch), state, jax.random.split(key, 200))

    state, metrics = train(jax.random.key(0))
    assert np.isfinite(metrics["negative_elbo"]).all()
    angle = np.arange(400) * 2 * np.pi / 400
    codes = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32)
    probabilities = np.asarray(learner.functions["decode"](None, state.params, codes), np.float64)
    log_likelihood = np.log(probabilities) @ np.asarray(x).T + np.log1p(-probabilities) @ (1 - np.asarray(x)).T
    exact = logsumexp(log_likelihood, axis=0) - np.log(400)
    assert logsumexp(exact) == pytest.approx(0, abs=1e-4)
    bound = jax.jit(learner.functions["log_evidence"], static_argnums=3)
    elbo = bound(jax.random.key(1), state.params, jnp.repeat(x, 2000, 0), 1).reshape(16, 2000).mean(1)
    assert float((elbo - exact).max()) < 0.05
    seen = np.array([0, 3, 12, 15])  # elsewhere the posterior was never trained, and the weights are heavy
    np.testing.assert_allclose(bound(jax.random.key(2), state.params, x[seen], 4000), exact[seen], atol=0.05)
    assert learner.functions["sample"](jax.random.key(3), state.params, 5).shape == (5, 4)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="vae: needs either latent_size or latent, got both or neither"):
        vae(MLP(2), MLP(4), optax.sgd(0.1))
    with pytest.raises(ValueError, match="vae: needs either latent_size or latent, got both or neither"):
        vae(MLP(2), MLP(4), optax.sgd(0.1), latent_size=1, latent=normal_latent(1))
    with pytest.raises(ValueError, match="von_mises_fisher_latent: size must be >= 2, got 1"):
        von_mises_fisher_latent(1)
    with pytest.raises(ValueError, match="hyperbolic_latent: curvature must be in"):
        hyperbolic_latent(2, curvature=0.0)
