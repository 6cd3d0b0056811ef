"""The von Mises-Fisher distribution: against mpmath and SciPy's quadrature in every dimension, and the gradient of its samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from dljax.generative.bessel import bessel_terms, log_bessel
from dljax.generative.sphere import around, log_sphere_area, uniform_sphere
from dljax.generative.von_mises_fisher import (
    mean_resultant_length,
    von_mises_fisher,
    von_mises_fisher_angle,
    von_mises_fisher_kl_uniform,
)
from dljax.generative.von_mises_fisher_mixture import fitted_concentration, von_mises_fisher_mixture

SIZES = (2, 3, 4, 5, 10, 33, 64)
KAPPAS = np.array([0.1, 0.5, 1.0, 2.0, 5.0, 20.0, 100.0, 300.0, 1000.0])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def quadrature(size, kappa):
    """log E[e^{κw}], E[w], Var[w] and the nodes: Gauss-Legendre in the angle, where the density is."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    reach = min(np.pi, 12 / np.sqrt(max(kappa, 0.1)) + (0 if kappa > 20 * size else np.pi))
    angle = reach * (nodes + 1) / 2
    log_density = (size - 2) * np.log(np.sin(angle)) + kappa * (np.cos(angle) - 1)
    mass = weights * np.exp(log_density - log_density.max())
    log_total = np.log(mass.sum() * reach / 2) + log_density.max() + kappa
    log_uniform = special.betaln((size - 1) / 2, 0.5)
    mean = (mass * np.cos(angle)).sum() / mass.sum()
    return log_total - log_uniform, mean, (mass * np.square(np.cos(angle) - mean)).sum() / mass.sum(), angle, mass / mass.sum()


@pytest.mark.parametrize("size", SIZES)
def test_10_5_von_mises_fisher_normaliser_mean_and_slope_are_those_of_quadrature(size):
    terms = jax.jit(lambda kappa: bessel_terms(size / 2 - 1, kappa))(KAPPAS)
    exact = np.array([quadrature(size, kappa)[:3] for kappa in KAPPAS]).T
    np.testing.assert_allclose(terms.log_normaliser, exact[0], rtol=1e-9)
    np.testing.assert_allclose(terms.log_scaled, exact[0] - KAPPAS, rtol=1e-8)
    np.testing.assert_allclose(terms.ratio, exact[1], rtol=1e-10)
    np.testing.assert_allclose(terms.complement, 1 - exact[1], rtol=1e-7)
    np.testing.assert_allclose(terms.slope, exact[2], rtol=1e-7)
    np.testing.assert_allclose(terms.slope, 1 - terms.ratio**2 - (size - 1) * terms.ratio / KAPPAS, atol=1e-12)


def test_10_5_bessel_functions_are_those_of_scipy():
    x = np.array([1e-3, 0.1, 1.0, 10.0, 100.0, 1e3])
    for order in (0, 0.25, 3, 31.0):
        with np.errstate(divide="ignore"):
            expected = np.log(special.ive(order, x))
        finite = np.isfinite(expected)
        ours = np.asarray(jax.jit(lambda x, order=order: log_bessel(order, x))(x))
        np.testing.assert_allclose(ours[finite], expected[finite], rtol=1e-10, atol=1e-12)


def test_10_5_derivatives_are_those_of_differences_to_third_order():
    def parts(kappa):
        terms = bessel_terms(1.5, kappa)
        return jnp.stack([terms.log_normaliser, terms.ratio, terms.slope, terms.complement, von_mises_fisher_kl_uniform(kappa, size=5)])

    kappas, step = jnp.array([0.3, 2.0, 40.0]), 1e-4
    slopes = jax.jit(jax.vmap(jax.jacfwd(parts)))(kappas)
    values = jax.jit(jax.vmap(parts))
    differences = (values(kappas + step) - values(kappas - step)) / (2 * step)
    np.testing.assert_allclose(slopes, differences, rtol=1e-5, atol=1e-10)
    terms = bessel_terms(1.5, kappas)
    np.testing.assert_allclose(slopes[:, :2], jnp.stack([terms.ratio, terms.slope], 1), rtol=1e-12)
    np.testing.assert_allclose(slopes[:, 4], kappas * terms.slope, rtol=1e-10)


@pytest.mark.parametrize("size", [2, 3, 64])
def test_10_5_float32_is_finite_and_right_from_zero_to_ten_thousand(size):
    def parts(kappa, mean):
        density = von_mises_fisher(mean, kappa)
        angle = von_mises_fisher_angle(jax.random.key(3), kappa, size=size)
        return jnp.stack([mean_resultant_length(kappa, size=size), von_mises_fisher_kl_uniform(kappa, size=size), density.log_prob(mean), angle])

    mean = jnp.eye(size, dtype=jnp.float32)[0]
    kappas = jnp.array([0.0, 1e-6, 1.0, 1e4], jnp.float32)
    values, slopes = jax.jit(jax.vmap(lambda kappa: (parts(kappa, mean), jax.jacrev(parts)(kappa, mean))))(kappas)
    assert values.dtype == jnp.float32
    assert np.isfinite(values).all()
    assert np.isfinite(slopes).all()
    exact = bessel_terms(size / 2 - 1, np.asarray(kappas, np.float64))
    np.testing.assert_allclose(values[:, 0], exact.ratio, rtol=1e-5)
    np.testing.assert_allclose(slopes[:, 0], exact.slope, rtol=2e-4)
    np.testing.assert_allclose(slopes[:, 1], np.asarray(kappas, np.float64) * exact.slope, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("size", SIZES)
def test_10_5_pathwise_gradient_of_samples_is_exact_in_every_dimension(size):
    """E over the exact density of dw/dκ, by quadrature: no sampling error hides a bias such as 0.1277 for 0.1474 at d = 5, κ = 2."""
    from dljax.generative.von_mises_fisher import _slope_in_concentration

    kappas = [0.0, 0.1, 2.0, 50.0, 1000.0]
    _, _, variances, angles, masses = (np.array(part) for part in zip(*(quadrature(size, kappa) for kappa in kappas), strict=True))
    slope = jax.jit(_slope_in_concentration, static_argnums=2)
    slopes = slope(jnp.asarray(angles), jnp.broadcast_to(jnp.array(kappas)[:, None], angles.shape), size)
    np.testing.assert_allclose((masses * -np.sin(angles) * np.asarray(slopes)).sum(1), variances, rtol=1e-8)
    if size == 5:
        assert abs(float(jax.grad(lambda kappa: mean_resultant_length(kappa, size=5))(2.0)) - 0.1474) < 5e-5


def test_10_5_gradients_of_drawn_samples_are_those_of_the_mean():
    """E[∂x/∂κ] = A' μ and the gradient in μ's free coordinates, in standard errors of 20,000 draws."""

    def gradients(size, key):
        free = jnp.ones(size) * jnp.where(jnp.arange(size) == 1, 2.0, 1.0)

        def point(kappa, free):
            return von_mises_fisher(free / jnp.linalg.norm(free), kappa).sample(key, 1)[0]

        return jax.jacfwd(point, argnums=(0, 1))(2.0, free)

    for size in (2, 5):
        free = np.ones(size) * np.where(np.arange(size) == 1, 2.0, 1.0)
        by_kappa, by_free = jax.jit(jax.vmap(lambda key, size=size: gradients(size, key)))(jax.random.split(jax.random.key(size), 20_000))
        terms = bessel_terms(size / 2 - 1, 2.0)
        length = np.linalg.norm(free)
        mean = free / length
        for draws, exact in ((by_kappa, terms.slope * mean), (by_free, terms.ratio * (np.eye(size) - np.outer(mean, mean)) / length)):
            error = np.std(draws, axis=0) / np.sqrt(20_000)
            assert (np.abs(np.mean(draws, axis=0) - exact) < 4 * error + 1e-12).all()


@pytest.mark.parametrize(("size", "kappa"), [(2, 0.0), (2, 5.0), (3, 2.0), (10, 30.0)])
def test_10_5_samples_have_the_mean_the_second_moment_and_the_cdf(size, kappa):
    mean = jnp.ones(size) / np.sqrt(size)
    x = np.asarray(von_mises_fisher(mean, kappa).sample(jax.random.key(1), 20_000))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-12)
    _, length, variance, *_ = quadrature(size, kappa)
    w = x @ np.asarray(mean)
    assert abs(w.mean() - length) < 4 * w.std() / np.sqrt(len(w))
    squares = np.square(w - length)
    assert abs(squares.mean() - variance) < 4 * squares.std() / np.sqrt(len(w))
    side = x - w[:, None] * np.asarray(mean)
    assert (np.abs(side.mean(0)) < 4.5 * side.std(0) / np.sqrt(len(w))).all()
    angles = np.linspace(0, np.pi, 20_001)
    density = np.sin(angles) ** (size - 2) * np.exp(kappa * (np.cos(angles) - 1))
    cdf = integrate.cumulative_simpson(density, x=angles, initial=0)
    assert stats.kstest(np.arccos(w.clip(-1, 1)), lambda angle: np.interp(angle, angles, cdf / cdf[-1])).pvalue > 1e-3


def test_10_5_density_has_mass_one_and_the_entropy_that_its_divergence_says():
    for size, kappa in ((2, 3.0), (3, 20.0), (7, 4.0)):
        mean = jnp.eye(size)[0]
        angle = np.linspace(0, np.pi, 4001)
        points = jnp.stack([jnp.cos(angle), jnp.sin(angle), *[jnp.zeros(len(angle))] * (size - 2)], 1)
        log_prob = np.asarray(von_mises_fisher(mean, kappa).log_prob(points))
        area = np.exp(log_sphere_area(size - 1)) if size > 2 else 2.0
        measure = area * np.sin(angle) ** (size - 2)
        assert integrate.simpson(np.exp(log_prob) * measure, x=angle) == pytest.approx(1, abs=1e-10)
        entropy = -integrate.simpson(np.exp(log_prob) * log_prob * measure, x=angle)
        assert entropy == pytest.approx(log_sphere_area(size) - float(von_mises_fisher_kl_uniform(kappa, size=size)), abs=1e-10)


def test_10_5_uniform_directions_and_points_at_an_angle():
    x = np.asarray(uniform_sphere(4).sample(jax.random.key(0), 10_000))
    assert (np.abs(x.mean(0)) < 4 / np.sqrt(4 * 10_000)).all()
    np.testing.assert_allclose(x.T @ x / 10_000, np.eye(4) / 4, atol=0.01)
    angle = jnp.linspace(0, jnp.pi, 5)
    near = around(jax.random.key(1), jnp.broadcast_to(jnp.array([0.6, 0.0, 0.8]), (5, 3)), angle)
    np.testing.assert_allclose(near @ np.array([0.6, 0.0, 0.8]), np.cos(angle), atol=1e-12)


def test_10_5_concentration_is_fitted_from_the_mean_in_every_dimension():
    for size in (2, 3, 64):
        kappas = np.array([1e-3, 0.5, 10.0, 1e4])
        np.testing.assert_allclose(fitted_concentration(mean_resultant_length(kappas, size=size), size=size), kappas, rtol=1e-6)
    assert float(fitted_concentration(1.0, size=3)) == np.inf


def test_10_5_mixture_never_gets_worse_and_finds_its_components():
    means = jnp.eye(3)
    draws = [von_mises_fisher(mean, 50.0).sample(jax.random.key(i), 400) for i, mean in enumerate(means)]
    batch = {"x": jnp.concatenate(draws)}
    learner = von_mises_fisher_mixture(3, size=3)

    @jax.jit
    def run(key):
        state = learner.init(key, batch)
        return jax.lax.scan(lambda state, _: learner.step(key, state, batch), state, None, 60)

    state, metrics = run(jax.random.key(7))
    assert (np.diff(metrics["nll"]) < 1e-10).all()
    order = np.argsort(-np.asarray(state.params.means @ means), axis=0)[0]
    assert sorted(order.tolist()) == [0, 1, 2]
    np.testing.assert_allclose(state.params.concentrations, 50, rtol=0.2)
    np.testing.assert_allclose(state.params.weights, 1 / 3, atol=0.02)


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="von_mises_fisher: mean must be a unit vector, got length 5"):
        von_mises_fisher(jnp.array([3.0, 4.0]), 1.0)
    with pytest.raises(ValueError, match="von_mises_fisher: mean must be one vector of two or more numbers, got shape"):
        von_mises_fisher(jnp.ones((2, 2)), 1.0)
    with pytest.raises(ValueError, match=r"von_mises_fisher: concentration must be in \[0, inf\), got -1"):
        von_mises_fisher(jnp.array([1.0, 0.0]), -1.0)
    with pytest.raises(ValueError, match="mean_resultant_length: size must be >= 2, got 1"):
        mean_resultant_length(1.0, size=1)
    with pytest.raises(ValueError, match=r"bessel_terms: order must be in \[0, inf\), got -1"):
        bessel_terms(-1, 1.0)
    with pytest.raises(ValueError, match=r"bessel_terms: x must be in \[0, inf\), got -1"):
        log_bessel(0, -1.0)
    with pytest.raises(ValueError, match=r"fitted_concentration: resultant_length must be in \[0, 1"):
        fitted_concentration(1.5, size=3)
    with pytest.raises(ValueError, match=r"batch\['x'\] must be \[B, 3\] with B >= 2 \(num_components\), got \[1, 3\]"):
        von_mises_fisher_mixture(2, size=3).init(jax.random.key(0), {"x": jnp.ones((1, 3))})


def test_an_unusable_concentration_gives_nan_and_no_endless_loop():
    angles = jax.jit(lambda kappa: von_mises_fisher_angle(jax.random.key(0), kappa, size=3))(jnp.array([jnp.nan, -1.0, 2.0]))
    assert np.isnan(angles).tolist() == [True, True, False]
