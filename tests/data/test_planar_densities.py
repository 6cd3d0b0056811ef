"""Densities of the plane: unit mass by quadrature, and samples that follow them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.data.planar_densities import PLANAR_DENSITIES, checkerboard, pinwheel, two_moons


@pytest.mark.parametrize("name", ["checkerboard", "pinwheel", "two-moons"])
def test_mass_is_one_and_samples_have_the_mean_log_density_of_the_integral(name):
    density = PLANAR_DENSITIES[name]()
    step = 0.04
    axis = np.arange(-6 + step / 2, 6, step)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    with jax.enable_x64(True):
        log_prob = jax.jit(lambda x: jax.lax.map(density.log_prob, x.reshape(-1, 1, 2), batch_size=5000)[:, 0])
        log_probs = np.asarray(log_prob(jnp.asarray(grid)))
        samples = density.sample(jax.random.key(0), 20_000)
        of_samples = np.asarray(log_prob(samples))
    mass = np.exp(log_probs) * step**2
    assert mass.sum() == pytest.approx(1, abs=1e-6)
    entropy = -(mass[mass > 0] * log_probs[mass > 0]).sum()
    assert abs(-of_samples.mean() - entropy) <= 4 * of_samples.std() / np.sqrt(len(of_samples)) + 1e-6
    # First and second moments, too.
    for power in (1, 2):
        values = np.asarray(samples) ** power
        assert (np.abs(values.mean(0) - mass @ grid**power) < 4 * values.std(0) / np.sqrt(len(values)) + 1e-3).all()


def test_two_moons_are_a_fine_mixture_of_gaussians():
    x = two_moons().sample(jax.random.key(0), 50)
    with jax.enable_x64(True):
        np.testing.assert_allclose(two_moons().log_prob(x), two_moons(num_nodes=500).log_prob(x), atol=1e-9)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="two_moons: scale must be in"):
        two_moons(scale=0.0)
    with pytest.raises(ValueError, match="pinwheel: num_arms must be >= 1"):
        pinwheel(num_arms=0)
    with pytest.raises(ValueError, match="pinwheel: radial_scale must be in"):
        pinwheel(radial_scale=-1.0)
    assert checkerboard().log_prob(jnp.array([[1.0, 1.0]])).tolist() == [pytest.approx(-np.log(32))]
