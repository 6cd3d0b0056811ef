"""Toy densities: sampler, log-density and entropy agree with scipy and with one another."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.data.toy import GaussianMixture, eight_gaussians, gaussian_grid, gaussian_ring

UNEVEN = GaussianMixture(((0.0, 0.0), (1.0, 0.5), (-2.0, 1.0)), scale=0.7)


def test_log_prob_is_scipys():
    from scipy.special import logsumexp
    from scipy.stats import multivariate_normal

    x = np.random.default_rng(0).normal(size=(50, 2))
    want = logsumexp([multivariate_normal(center, UNEVEN.scale**2).logpdf(x) for center in UNEVEN.centers], axis=0) - math.log(3)
    np.testing.assert_allclose(UNEVEN.log_prob(jnp.asarray(x)), want, rtol=1e-5, atol=1e-5)


def test_entropy_of_one_gaussian_is_the_closed_form():
    entropy, error = GaussianMixture(((1.0, 2.0),), scale=0.3).entropy
    assert abs(entropy - (1 + math.log(2 * math.pi * 0.3**2))) <= error


def test_entropy_of_coinciding_components_is_that_of_one():
    entropy, error = GaussianMixture(((0.0, 0.0), (0.0, 0.0)), scale=1.0).entropy
    assert abs(entropy - (1 + math.log(2 * math.pi))) <= error


def test_entropy_of_modes_far_apart_is_that_of_one_plus_log_of_their_number():
    entropy, error = gaussian_ring().entropy
    assert abs(entropy - (math.log(8) + 1 + math.log(2 * math.pi * 0.02**2))) <= error


@pytest.mark.parametrize("mixture", [UNEVEN, eight_gaussians()])
def test_entropy_is_the_mean_negative_log_prob_of_samples(mixture):
    nll = -mixture.log_prob(mixture.sample(jax.random.key(0), 200_000))
    entropy, error = mixture.entropy
    assert error < 1e-9
    assert abs(float(nll.mean()) - entropy) < 4 * float(nll.std()) / math.sqrt(200_000)


def test_mass_is_one():
    axis = jnp.linspace(-7, 7, 400)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    assert float(jnp.exp(eight_gaussians().log_prob(grid)).sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-4)


def test_samples_visit_every_mode_equally_and_have_its_scale():
    ring = gaussian_ring()
    x = ring.sample(jax.random.key(0), 80_000)
    squares = jnp.square(x[:, None] - jnp.asarray(ring.centers)[None]).sum(-1)
    counts = jnp.bincount(squares.argmin(1), length=8)
    assert np.abs(np.asarray(counts) - 10_000).max() < 4 * math.sqrt(10_000 * 7 / 8)
    assert float(squares.min(1).mean()) == pytest.approx(2 * 0.02**2, rel=0.02)


def test_the_sampler_is_a_pure_function_of_its_key_inside_jit_and_vmap():
    ring = gaussian_ring()
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.jit(jax.vmap(lambda key: ring.sample(key, 4)))(keys)
    np.testing.assert_allclose(many, jnp.stack([ring.sample(key, 4) for key in keys]), rtol=1e-6)


def test_the_density_keeps_float64_and_accepts_strict_rank_promotion():
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        mixture = eight_gaussians()
        x = mixture.sample(jax.random.key(0), 4)
        assert x.dtype == mixture.log_prob(x).dtype == jnp.float64


@pytest.mark.parametrize("centers", [(), ((1.0, 2.0, 3.0),), (1.0, 2.0)])
def test_centers_must_be_points_of_the_plane(centers):
    with pytest.raises(ValueError, match=r"GaussianMixture: centers must have shape \[K, 2\]"):
        GaussianMixture(centers, 1.0)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="scale must be in"):
        GaussianMixture(((0.0, 0.0),), 0.0)
    with pytest.raises(ValueError, match="num_modes must be >= 1, got 0"):
        gaussian_ring(0)
    with pytest.raises(ValueError, match="radius must be in"):
        gaussian_ring(8, -1.0)
    with pytest.raises(ValueError, match="num must be >= 1, got 0"):
        gaussian_ring().sample(jax.random.key(0), 0)
    with pytest.raises(ValueError, match="side must be >= 1, got 0"):
        gaussian_grid(0)
    with pytest.raises(ValueError, match="spacing must be in"):
        gaussian_grid(5, 0.0)


def test_9_2_the_grid_is_that_of_the_papers():
    grid = gaussian_grid()
    places = np.array([-4, -2, 0, 2, 4])
    np.testing.assert_array_equal(np.asarray(grid.centers), np.stack(np.meshgrid(places, places, indexing="ij"), -1).reshape(-1, 2))
    assert grid.scale**2 == pytest.approx(0.0025)
