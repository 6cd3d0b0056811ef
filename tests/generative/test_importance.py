"""Pareto-smoothed importance sampling against ArviZ's golden values and tails whose index is known."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.generative.importance import effective_sample_size, generalised_pareto, pareto_smoothed

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pareto.npz")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("case", range(5))
def test_10_1_pareto_smoothing_equals_arviz(case):
    smoothed, k_hat = jax.jit(pareto_smoothed)(GOLDEN[f"{case}/log_weights"])
    assert float(k_hat) == pytest.approx(float(GOLDEN[f"{case}/k_hat"]), abs=1e-8)
    np.testing.assert_allclose(smoothed, GOLDEN[f"{case}/smoothed"], rtol=1e-7, atol=1e-7)
    assert float(jax.nn.logsumexp(smoothed)) == pytest.approx(0, abs=1e-12)


def test_10_1_tail_index_of_a_guide_that_is_too_narrow_is_known():
    """A normal guide of scale σ for a standard normal: the weights have the tail index 1 - σ²."""
    for scale, index in ((0.5, 0.75), (0.7, 0.51), (1.3, -0.69)):
        z = scale * jax.random.normal(jax.random.key(0), (100_000,))
        k_hat = pareto_smoothed(jax.scipy.stats.norm.logpdf(z) - jax.scipy.stats.norm.logpdf(z, 0, scale)).k_hat
        assert float(k_hat) < 0.2 if scale > 1 else float(k_hat) == pytest.approx(index, abs=0.12)


def test_10_1_generalised_pareto_finds_the_shape_of_its_own_samples():
    for shape in (0.2, 0.7, 1.2):
        uniform = jax.random.uniform(jax.random.key(1), (4000,))
        excesses = jnp.sort(jnp.expm1(-shape * jnp.log1p(-uniform)) / shape) * 3
        found, scale = generalised_pareto(excesses)
        assert float(found) == pytest.approx(shape, abs=4 * (1 + shape) / np.sqrt(4000))  # its asymptotic deviation is (1 + k)/√M
        assert float(scale) == pytest.approx(3, rel=0.15)


def test_smoothing_improves_a_mean_that_raw_weights_miss():
    """E z² of a standard normal through a guide of scale ½, whose raw weights have no variance: over 200 sets of 1,000 samples."""
    z = 0.5 * jax.random.normal(jax.random.key(2), (200, 1000))
    w = jax.scipy.stats.norm.logpdf(z) - jax.scipy.stats.norm.logpdf(z, 0, 0.5)
    smoothed = jax.vmap(lambda w: pareto_smoothed(w).log_weights)(w)
    errors = [jnp.square((jnp.exp(log_weights) * z**2).sum(1) - 1).mean() for log_weights in (smoothed, jax.nn.log_softmax(w))]
    assert float(errors[0]) < float(errors[1])


def test_effective_sample_size_of_equal_weights_is_their_number_and_of_one_that_dwarfs_the_others_one():
    assert float(effective_sample_size(jnp.full(10, 1e4))) == pytest.approx(10)
    assert float(effective_sample_size(jnp.array([1e4, 0.0, 0.0]))) == pytest.approx(1)


def test_equal_weights_stay_and_too_few_are_refused():
    smoothed, k_hat = pareto_smoothed(jnp.zeros(100))
    np.testing.assert_allclose(smoothed, -np.log(100), rtol=1e-12)
    with pytest.raises(ValueError, match="log_weights must hold at least 25 numbers, or there is no tail to fit, got 24"):
        pareto_smoothed(jnp.zeros(24))
