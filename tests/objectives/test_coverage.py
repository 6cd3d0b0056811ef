"""Mode coverage: the shares that exact samples must have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.data.toy import gaussian_ring
from dljax.objectives.coverage import mode_coverage

RING = gaussian_ring()
CENTERS = jnp.asarray(RING.centers)


@pytest.mark.parametrize("sigmas", [1.0, 2.0, 3.0])
def test_samples_of_the_mixture_have_the_share_of_a_rayleigh_distribution(sigmas):
    scores = mode_coverage(RING.sample(jax.random.key(0), 50_000), CENTERS, RING.scale, sigmas=sigmas)
    assert float(scores["modes"]) == 8
    assert float(scores["quality"]) == pytest.approx(1 - np.exp(-(sigmas**2) / 2), abs=0.006)


def test_a_collapsed_sampler_covers_one_mode_with_perfect_quality():
    scores = mode_coverage(jnp.broadcast_to(CENTERS[3], (100, 2)), CENTERS, RING.scale)
    assert (float(scores["modes"]), float(scores["quality"])) == (1, 1)


def test_a_mode_counts_from_its_least_number_of_good_samples_on():
    x = jnp.concatenate([jnp.broadcast_to(CENTERS[0], (5, 2)), CENTERS[1:3], jnp.zeros((2, 2))])
    assert [float(mode_coverage(x, CENTERS, RING.scale, min_samples=num)["modes"]) for num in (1, 2, 5, 6)] == [3, 1, 1, 0]
    assert float(mode_coverage(x, CENTERS, RING.scale)["quality"]) == pytest.approx(7 / 9)


def test_9_2_the_reverse_divergence_of_modes_is_that_of_their_shares_from_even_ones():
    counts = np.array([6, 3, 1, 0, 0, 0, 0, 0])
    near = jnp.repeat(CENTERS, counts, axis=0, total_repeat_length=10)
    shares = counts[:3] / 10
    assert float(mode_coverage(near, CENTERS, RING.scale)["reverse_kl"]) == pytest.approx((shares * np.log(8 * shares)).sum(), rel=1e-6)
    assert float(mode_coverage(CENTERS, CENTERS, RING.scale)["reverse_kl"]) == pytest.approx(0, abs=1e-6)
    lost = mode_coverage(near * jnp.nan, CENTERS, RING.scale)
    assert (float(lost["modes"]), float(lost["quality"])) == (0, 0)
    assert float(lost["reverse_kl"]) == pytest.approx(np.log(8), rel=1e-6)


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"sigmas": 0.0}, {"min_samples": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"mode_coverage: {next(iter(options))} must be"):
        mode_coverage(jnp.zeros((2, 2)), CENTERS, **{"scale": 1.0} | options)
