"""Autoencoders whose evidence and posterior are known: a linear decoder of normal codes, normal noise around it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from scipy.stats import multivariate_normal

from dljax.generative.likelihoods import normal_likelihood
from dljax.generative.vae import vae
from dljax.models.mlp import MLP
from dljax.nn.conditional import Conditional

# Columns at right angles: the posterior of the codes is a product.
WEIGHTS, NOISE = np.array([[1.0, 0.5], [2.0, -0.25], [0.0, 1.5]]), 0.7
SHIFT = np.array([[0.3, -1.0, 0.2], [1.0, 0.5, -2.0]])  # of the mean, for each of two contexts
PRECISION = 1 + (WEIGHTS**2).sum(0, keepdims=True) / NOISE**2


def linear_vae(*, spread=1.0, bias=0.0, **options):
    """The model of x = W z + V c + noise with its posterior, whose deviations are made `spread` times as large and whose means moved by `bias`."""

    def encode(params, x, *context):
        mean = (x - _shift(*context)) @ params["weights"] / (NOISE**2 * PRECISION) + bias
        return jnp.concatenate([mean, jnp.broadcast_to(jnp.log(spread / np.sqrt(PRECISION)), mean.shape)], -1)

    def decode(params, z, *context):
        return z @ params["weights"].T + _shift(*context)

    def init(key, *inputs):
        return {"weights": jnp.asarray(WEIGHTS)}

    return vae((init, encode), (init, decode), optax.sgd(0.01), latent_size=2, likelihood=normal_likelihood(NOISE), **options)


def _shift(*context):
    return context[0] @ SHIFT if context else 0.0


def log_evidence(x, mean=0.0):
    return multivariate_normal(np.zeros(3), WEIGHTS @ WEIGHTS.T + NOISE**2 * np.eye(3)).logpdf(x - mean)


@pytest.fixture
def batch():
    with jax.enable_x64(True):
        x, context = np.random.default_rng(0).normal(size=(6, 3)), np.eye(2)[[0, 1, 1, 0, 1, 0]]
        yield {"x": jnp.asarray(x), "context": jnp.asarray(context)}


def test_10_2_bounds_of_any_number_of_samples_are_the_evidence_where_the_encoder_is_the_posterior(batch):
    for given in ({"x": batch["x"]}, batch):
        context = (given["context"],) if "context" in given else ()
        learner = linear_vae(num_samples=3)
        exact = log_evidence(given["x"], _shift(*context))

        @jax.jit
        def both(key, learner=learner, given=given, context=context):
            state = learner.init(key, given)
            return learner.functions["log_evidence"](key, state.params, given["x"], 2, *context), learner.step(key, state, given)[1]

        found, metrics = both(jax.random.key(1))
        np.testing.assert_allclose(found, exact, rtol=1e-10)
        assert float(metrics["negative_bound"]) == pytest.approx(-exact.mean(), rel=1e-10)
        assert sorted(metrics) == ["kl", "negative_bound", "negative_elbo", "reconstruction"]


def test_10_2_importance_weighted_bound_rises_from_the_elbo_to_the_evidence_with_the_number_of_samples(batch):
    """The closed form of the ELBO is the evidence less the divergence of q from the posterior, a product of normals."""
    spread, bias = 1.6, 0.2
    x = jnp.repeat(batch["x"][:1], 4000, 0)
    bounds, errors = [], []
    for num in (1, 4, 32):
        learner = linear_vae(spread=spread, bias=bias, num_samples=num)

        @jax.jit
        def both(key, learner=learner, num=num):
            state = learner.init(key, {"x": x})
            return learner.functions["log_evidence"](key, state.params, x, num), learner.step(key, state, {"x": x})[1]

        found, metrics = both(jax.random.key(num))
        bounds.append(float(found.mean()))
        errors.append(float(found.std()) / np.sqrt(len(x)))
        stepped = float(metrics["negative_elbo" if num == 1 else "negative_bound"])
        assert abs(stepped + bounds[-1]) < 6 * errors[-1]  # two draws of one expectation
    exact = log_evidence(batch["x"][0])
    divergence = 0.5 * (spread**2 - 1 - 2 * np.log(spread) + bias**2 * PRECISION).sum()
    assert abs(bounds[0] - (exact - divergence)) < 4 * errors[0]
    assert all(low + 4 * error < high for low, high, error in zip(bounds, bounds[1:], errors, strict=False))
    assert bounds[-1] < exact < bounds[-1] + 0.02


def test_10_2_the_step_of_the_bound_of_many_samples_follows_the_gradient_of_the_evidence_at_the_posterior(batch):
    """Fisher's identity; the evidence is that of probabilistic principal components."""
    x = jnp.repeat(batch["x"], 3000, 0)
    learner = linear_vae(num_samples=4)

    @jax.jit
    def run(key):
        before = learner.init(key, {"x": x})
        return before, learner.step(key, before, {"x": x})[0]

    before, after = run(jax.random.key(2))

    def evidence(weights):
        covariance = weights @ weights.T + NOISE**2 * jnp.eye(3)
        return jax.scipy.stats.multivariate_normal.logpdf(batch["x"], jnp.zeros(3), covariance).mean()

    weights = before.params["decoder"]["weights"]
    with jax.numpy_rank_promotion("allow"):
        gradient = jax.grad(evidence)(weights)
    np.testing.assert_allclose((after.params["decoder"]["weights"] - weights) / 0.01, gradient, atol=0.03)


def test_10_2_units_are_active_where_the_mean_of_the_posterior_varies():
    def encode(params, x):
        return jnp.concatenate([x[:, :1], 0.05 * x[:, :1], 3 + 0 * x[:, :1], jnp.zeros((len(x), 3))], -1)

    learner = vae((lambda key, x: {}, encode), MLP(2, ()), optax.sgd(0.1), latent_size=3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 2)), jnp.float32)
    params = jax.jit(learner.init)(jax.random.key(0), {"x": x}).params
    assert learner.functions["active_units"](jax.random.key(1), params, x).tolist() == [True, False, False]


def test_10_2_a_conditional_model_has_the_context_beside_the_features_of_every_place():
    net = Conditional(linen.Conv(4, (1, 1), use_bias=False))
    x, context = jnp.ones((2, 5, 3, 2)), jnp.array([[1.0, 0.0], [0.0, 2.0]])
    y, variables = jax.jit(net.init_with_output)(jax.random.key(0), x, context)
    kernel = variables["params"]["model"]["kernel"][0, 0]  # [2 + 2, 4]
    np.testing.assert_allclose(y[1, 4, 2], kernel[0] + kernel[1] + 2 * kernel[3], rtol=1e-6)
    dense = Conditional(MLP(2, (4,), 0.5))
    assert jax.eval_shape(dense.init_with_output, jax.random.key(0), x[:, 0, 0], context)[0].shape == (2, 2)
    with pytest.raises(ValueError, match=r"Conditional: context must be \[2, C\], as many rows as x has examples, got \(3, 2\)"):
        jax.eval_shape(net.init, jax.random.key(0), x, jnp.ones((3, 2)))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="vae: num_samples must be >= 1, got 0"):
        vae(MLP(2), MLP(4), optax.sgd(0.1), latent_size=1, num_samples=0)
    with pytest.raises(ValueError, match=r"normal_likelihood: scale must be in \(0, inf\), got 0"):
        normal_likelihood(0)
