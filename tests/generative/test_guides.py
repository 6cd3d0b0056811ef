"""Guides against scipy's densities, their own samples, and the derivatives that implicit reparameterisation promises."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import ive, polygamma

from dljax.generative import act_norm, chain, repeat, spline_coupling
from dljax.generative.factors import (
    bernoulli_guide,
    beta_guide,
    categorical_guide,
    gamma_guide,
    implicitly_reparameterised,
    von_mises_guide,
)
from dljax.generative.guides import flow_guide, full_rank_guide, low_rank_guide, mean_field_guide


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def like():
    return {"a": jnp.zeros(()), "b": jnp.zeros(2)}


def shaken(params, scale=0.3):
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    return structure.unflatten([leaf + scale * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])


def covariance(name, params):
    scale = np.exp(params["log_scale"])
    if name == "mean_field":
        return np.diag(scale**2)
    if name == "full_rank":
        root = np.diag(scale) @ (np.eye(3) + np.tril(params["lower"], -1))
        return root @ root.T
    directions = np.asarray(params["directions"])
    return np.diag(scale) @ (np.eye(3) + directions @ directions.T) @ np.diag(scale)


@pytest.mark.parametrize("name", ["mean_field", "full_rank", "low_rank"])
def test_10_1_normal_guides_are_scipys_normal_distributions(name):
    guide = {"mean_field": mean_field_guide, "full_rank": full_rank_guide, "low_rank": lambda like: low_rank_guide(like, 2)}[name](like())
    params = shaken(guide.init(jax.random.key(0)))
    oracle = stats.multivariate_normal(np.asarray(params["mean"]), covariance(name, params))
    z, log_q = jax.jit(jax.vmap(guide.sample_and_log_prob, (0, None)))(jax.random.split(jax.random.key(1), 20_000), params)
    points = np.concatenate([np.asarray(z["a"])[:, None], np.asarray(z["b"])], 1)
    np.testing.assert_allclose(log_q, oracle.logpdf(points), rtol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.vmap(guide.log_prob, (None, 0)))(params, jax.tree.map(lambda leaf: leaf[:50], z)), log_q[:50], rtol=1e-9)
    mean, scale = guide.moments(params)
    np.testing.assert_allclose(np.append(scale["a"], scale["b"]), np.sqrt(np.diag(oracle.cov)), rtol=1e-10)
    np.testing.assert_allclose(np.append(mean["a"], mean["b"]), params["mean"])
    whitened = np.linalg.solve(np.linalg.cholesky(oracle.cov), (points - oracle.mean).T)
    np.testing.assert_allclose(whitened @ whitened.T / 20_000, np.eye(3), atol=4 * math.sqrt(2 / 20_000))
    if guide.log_probs is not None:
        one = jax.tree.map(lambda leaf: leaf[0], z)
        np.testing.assert_allclose(guide.log_probs(params, one).sum(), log_q[0], rtol=1e-9)


@pytest.mark.rank_promotion
def test_10_1_flow_guides_density_is_the_same_both_ways_and_begins_where_it_is_told():
    bijector = chain(act_norm(), repeat(spline_coupling(num_bins=4, hidden=(8,)), 2))
    guide = flow_guide(bijector, {"a": jnp.float64(3.0), "b": jnp.zeros(2) - 5}, scale=0.2)
    params = jax.jit(guide.init)(jax.random.key(0))
    drawn = jax.jit(jax.vmap(guide.sample_and_log_prob, (0, None)))
    z, _ = drawn(jax.random.split(jax.random.key(1), 500), params)
    np.testing.assert_allclose(z["a"].mean(), 3, atol=0.1)
    np.testing.assert_allclose(z["b"].std(0), 0.2, rtol=0.2)
    params = shaken(params, 0.2)
    z, log_q = drawn(jax.random.split(jax.random.key(1), 20), params)
    np.testing.assert_allclose(jax.jit(jax.vmap(guide.log_prob, (None, 0)))(params, z), log_q, atol=1e-6)
    one = jax.tree.map(lambda leaf: leaf[0], z)
    jacobian = jax.jit(jax.jacobian(lambda noise: bijector.forward(params, noise)[0]))
    noise = jax.random.normal(jax.random.split(jax.random.key(1), 20)[0], (3,))
    exact = stats.norm.logpdf(noise).sum() - np.linalg.slogdet(jacobian(noise))[1]
    np.testing.assert_allclose(jax.jit(guide.log_prob)(params, one), exact, atol=1e-6)


def gamma_oracle(params):
    return stats.gamma(np.exp(params["log_concentration"]), scale=np.exp(-params["log_rate"]))


FACTORS = {
    "gamma": (lambda: gamma_guide(jnp.array([2.0, 0.5]), scale=0.7), gamma_oracle),
    "beta": (lambda: beta_guide(jnp.array([0.3, 0.8]), concentration=5.0), lambda p: stats.beta(np.exp(p["log_a"]), np.exp(p["log_b"]))),
    "von_mises": (
        lambda: von_mises_guide(jnp.array([0.5, -2.0]), concentration=3.0),
        lambda p: stats.vonmises(np.exp(p["log_concentration"]), loc=p["mean"]),
    ),
}


@pytest.mark.parametrize("name", FACTORS)
def test_10_1_guides_of_factors_are_scipys_distributions(name):
    make, oracle = FACTORS[name]
    guide = make()
    params = shaken(guide.init(jax.random.key(0)), 0.1)
    z, log_q = jax.jit(jax.vmap(guide.sample_and_log_prob, (0, None)))(jax.random.split(jax.random.key(1), 5000), params)
    exact = oracle(params)
    np.testing.assert_allclose(jax.jit(jax.vmap(guide.log_probs, (None, 0)))(params, z), exact.logpdf(np.asarray(z)), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(jax.jit(jax.vmap(guide.log_prob, (None, 0)))(params, z), log_q, rtol=1e-7, atol=1e-8)
    for site in range(2):
        uniform = exact.cdf(np.asarray(z))[:, site]
        assert stats.kstest(uniform % 1 if name == "von_mises" else uniform, "uniform").pvalue > 1e-3
    if guide.moments is not None:
        np.testing.assert_allclose(np.stack(guide.moments(params)), [exact.mean(), exact.std()], rtol=1e-9)


def test_10_1_implicit_gradients_of_gamma_and_beta_are_those_of_their_moments():
    """E log z = ψ(a) - log b for the gamma distribution, ψ(a) - ψ(a + b) for the beta: derivatives by trigamma functions."""
    num, (a, b) = 20_000, (1.2, 2.8)
    cases = {
        "gamma": (gamma_guide(jnp.full(1, 0.5), scale=a**-0.5), {"log_concentration": a * polygamma(1, a), "log_rate": -1}),
        "beta": (
            beta_guide(jnp.full(1, a / (a + b)), concentration=a + b),
            {"log_a": a * (polygamma(1, a) - polygamma(1, a + b)), "log_b": -b * polygamma(1, a + b)},
        ),
    }
    for name, (guide, exact) in cases.items():
        gradient = jax.grad(lambda params, key, guide=guide: jnp.log(guide.sample(key, params)).sum())
        grads = jax.jit(jax.vmap(gradient, (None, 0)))(guide.init(jax.random.key(0)), jax.random.split(jax.random.key(1), num))
        for part, value in exact.items():
            error = 4 * np.std(grads[part]) / math.sqrt(num) + 1e-9
            assert np.abs(np.mean(grads[part]) - value) < error, (name, part)
            assert error < 0.1


@pytest.mark.parametrize("concentration", [0.05, 1.0, 20.0, 1000.0])
def test_10_1_implicit_gradient_of_von_mises_is_that_of_its_mean_resultant(concentration):
    """E cos(z - μ) = A(κ) = I_1/I_0, dA/dκ = 1 - A/κ - A²."""
    guide, num = von_mises_guide(0.0, concentration=concentration), 20_000

    def resultant(params, key):
        return jnp.cos(guide.sample(key, params))

    params = guide.init(jax.random.key(0))
    values, grads = jax.jit(jax.vmap(jax.value_and_grad(resultant), (None, 0)))(params, jax.random.split(jax.random.key(1), num))
    exact = ive(1, concentration) / ive(0, concentration)
    assert np.abs(values.mean() - exact) < 4 * values.std() / math.sqrt(num)
    slope = concentration * (1 - exact / concentration - exact**2)
    found = grads["log_concentration"]
    assert np.abs(found.mean() - slope) < 4 * found.std() / math.sqrt(num) + 1e-12
    np.testing.assert_allclose(grads["mean"].mean(), 0, atol=4 * grads["mean"].std() / math.sqrt(num))


def test_10_1_implicit_reparameterisation_of_a_normal_is_its_explicit_one():
    def cdf(params, z):
        return jax.scipy.stats.norm.cdf(z, params[0], jnp.exp(params[1]))

    params, z = jnp.array([0.5, -0.3]), jnp.float64(1.7)
    value, gradient = jax.value_and_grad(lambda params: implicitly_reparameterised(cdf, params, z))(params)
    assert float(value) == 1.7
    np.testing.assert_allclose(gradient, [1, 1.7 - 0.5], rtol=1e-10)


def test_float32_von_mises_has_no_nan_from_nearly_uniform_to_a_needle():
    with jax.enable_x64(False):
        guide = von_mises_guide(jnp.zeros(100))

        @jax.jit
        @jax.vmap
        def tried(log_concentration):
            params = {"mean": jnp.zeros(100), "log_concentration": jnp.full(100, log_concentration)}
            z, pull = jax.vjp(lambda params: guide.sample(jax.random.key(1), params), params)
            return z, pull(jnp.ones(100)), guide.log_prob(params, z)

        z, *others = tried(jnp.log(jnp.array([1e-6, 1e-2, 1e3, 1e6])))
        assert (jnp.abs(z) <= jnp.pi + 1e-6).all()
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(others))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: mean_field_guide(0.0, scale=0.0), r"mean_field_guide: scale must be in \(0, inf\), got 0"),
        (lambda: full_rank_guide(0.0, scale=-1), r"full_rank_guide: scale must be in \(0, inf\), got -1"),
        (lambda: low_rank_guide(0.0, 0), "low_rank_guide: rank must be >= 1, got 0"),
        (lambda: low_rank_guide(0.0, 1, scale=0), "low_rank_guide: scale must be in"),
        (lambda: flow_guide(act_norm(), 0.0, scale=0), "flow_guide: scale must be in"),
        (lambda: mean_field_guide({"n": 1}), "mean_field_guide: like must hold real numbers, got int.* at n; write 1.0 for 1"),
        (lambda: full_rank_guide({}), "full_rank_guide: like must hold at least one number"),
        (lambda: gamma_guide(0.0), r"gamma_guide: like must be in \(0, inf\), got \[0"),
        (lambda: gamma_guide(1.0, scale=0), "gamma_guide: scale must be in"),
        (lambda: beta_guide(1.0), r"beta_guide: like must be in \(0, 1\), got \[1"),
        (lambda: beta_guide(0.5, concentration=0), "beta_guide: concentration must be in"),
        (lambda: von_mises_guide(0.0, concentration=0), "von_mises_guide: concentration must be in"),
        (lambda: bernoulli_guide(()), "bernoulli_guide: like must hold at least one number"),
        (lambda: categorical_guide(0, 2), "categorical_guide: num_sites must be >= 1, got 0"),
        (lambda: categorical_guide(1, 1), "categorical_guide: num_classes must be >= 2, got 1"),
    ],
)
def test_bad_guides_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
