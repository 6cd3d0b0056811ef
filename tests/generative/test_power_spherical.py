"""The power spherical distribution: mass, moments, entropy and divergences by quadrature, samples in standard errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from dljax.generative.power_spherical import (
    power_spherical,
    power_spherical_kl_uniform,
    power_spherical_kl_von_mises_fisher,
    power_spherical_mean_resultant_length,
)
from dljax.generative.sphere import log_sphere_area
from dljax.generative.von_mises_fisher import von_mises_fisher


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(("size", "kappa"), [(2, 0.5), (3, 4.0), (8, 30.0)])
def test_10_5_power_spherical_mass_mean_entropy_and_divergences_are_those_of_quadrature(size, kappa):
    mean = jnp.eye(size)[0]
    angle = np.linspace(1e-9, np.pi - 1e-9, 20_001)
    points = jnp.stack([jnp.cos(angle), jnp.sin(angle), *[jnp.zeros(len(angle))] * (size - 2)], 1)
    log_prob = np.asarray(power_spherical(mean, kappa).log_prob(points))
    measure = (np.exp(log_sphere_area(size - 1)) if size > 2 else 2.0) * np.sin(angle) ** (size - 2)

    def expected(values):
        return integrate.simpson(np.exp(log_prob) * values * measure, x=angle)

    assert expected(1.0) == pytest.approx(1, abs=1e-7)
    assert expected(np.cos(angle)) == pytest.approx(float(power_spherical_mean_resultant_length(kappa, size=size)), abs=1e-7)
    assert expected(log_prob + log_sphere_area(size)) == pytest.approx(float(power_spherical_kl_uniform(kappa, size=size)), abs=1e-6)
    other = np.asarray(von_mises_fisher(mean, 3.0).log_prob(points))
    assert expected(log_prob - other) == pytest.approx(float(power_spherical_kl_von_mises_fisher(kappa, mean, 3.0, mean)), abs=1e-6)


def test_10_5_power_spherical_samples_and_their_gradient():
    size, kappa = 4, 3.0
    mean = jnp.ones(size) / 2

    def cosine(key, kappa):
        return (power_spherical(mean, kappa).sample(key, 1)[0] * mean).sum()

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(cosine, argnums=1), (0, None)))(jax.random.split(jax.random.key(0), 20_000), kappa)
    beta = (size - 1) / 2
    assert stats.kstest((1 + np.asarray(values)) / 2, stats.beta(kappa + beta, beta).cdf).pvalue > 1e-3
    exact = jax.grad(lambda kappa: power_spherical_mean_resultant_length(kappa, size=size))(kappa)
    assert abs(slopes.mean() - exact) < 4 * slopes.std() / np.sqrt(20_000)


def test_10_5_power_spherical_is_finite_in_float32():
    mean = jnp.array([0.0, 0.0, 1.0], jnp.float32)

    def parts(kappa):
        distribution = power_spherical(mean, kappa)
        return jnp.stack([distribution.log_prob(mean), power_spherical_kl_uniform(kappa, size=3), distribution.sample(jax.random.key(1), 1)[0, 2]])

    kappas = jnp.array([0.0, 1e-6, 1.0, 1e4], jnp.float32)
    values, slopes = jax.vmap(lambda kappa: (parts(kappa), jax.jacfwd(parts)(kappa)))(kappas)
    assert values.dtype == jnp.float32
    assert np.isfinite(values).all()
    assert np.isfinite(slopes).all()
    assert float(power_spherical(mean, 2.0).log_prob(-mean)) == -np.inf


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match=r"power_spherical: concentration must be in \[0, inf\), got -1"):
        power_spherical(jnp.array([1.0, 0.0]), -1.0)
    with pytest.raises(ValueError, match="power_spherical_kl_uniform: size must be >= 2, got 1"):
        power_spherical_kl_uniform(1.0, size=1)
