"""Hyperbolic space: maps that undo each other, isometries, distances near and far, and the wrapped normal's mass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.generative.hyperbolic import (
    ball_log_volume,
    ball_to_hyperboloid,
    hyperbolic_distance,
    hyperbolic_normal,
    hyperboloid_exp,
    hyperboloid_log,
    hyperboloid_to_ball,
    hyperboloid_transport,
    lorentz_product,
    mobius_add,
    origin_exp,
    origin_log,
)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


CURVATURES = (-1.0, -0.25)
RNG = np.random.default_rng(0)
X, Y, Z = (RNG.normal(size=(50, 3)) * 1.5 for _ in range(3))


@pytest.mark.parametrize("curvature", CURVATURES)
def test_10_5_exponential_and_logarithm_undo_each_other_and_transport_is_an_isometry(curvature):
    option = {"curvature": curvature}

    @jax.jit
    def all_of(x, y, z):
        x, y, z = (origin_exp(point, **option) for point in (x, y, z))
        v, w = hyperboloid_log(x, y, **option), hyperboloid_log(x, z, **option)
        moved = [hyperboloid_transport(x, y, tangent, **option) for tangent in (v, w)]
        return x, y, v, w, moved, hyperboloid_exp(x, v, **option), hyperbolic_distance(x, y, **option), origin_log(x, **option)

    x, y, v, w, moved, arrived, distance, back = all_of(X, Y, Z)
    np.testing.assert_allclose(lorentz_product(x, x), 1 / curvature, rtol=1e-9)
    np.testing.assert_allclose(back, X, atol=1e-12)
    np.testing.assert_allclose(arrived, y, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(lorentz_product(x, v), 0, atol=1e-8)
    np.testing.assert_allclose(np.sqrt(lorentz_product(v, v)), distance, rtol=1e-8)
    np.testing.assert_allclose(lorentz_product(y, moved[1]), 0, atol=1e-6)
    np.testing.assert_allclose(lorentz_product(moved[0], moved[1]), lorentz_product(v, w), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moved[0], -hyperboloid_log(y, x, **option), rtol=1e-6, atol=1e-7)  # a geodesic carries its own velocity
    plain = np.arccosh(np.maximum(np.asarray(curvature * lorentz_product(x, y)), 1)) / np.sqrt(-curvature)
    np.testing.assert_allclose(distance, plain, rtol=1e-7)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_10_5_ball_and_hyperboloid_are_isometric(curvature):
    option = {"curvature": curvature}
    x, y, z = (origin_exp(point, **option) for point in (X, Y, Z))
    p, q, r = (hyperboloid_to_ball(point, **option) for point in (x, y, z))
    np.testing.assert_allclose(ball_to_hyperboloid(p, **option), x, rtol=1e-9)
    c = -curvature
    gap = np.linalg.norm(mobius_add(-p, q, **option), axis=-1)
    np.testing.assert_allclose(2 / np.sqrt(c) * np.arctanh(np.sqrt(c) * gap), hyperbolic_distance(x, y, **option), rtol=1e-7)
    # A translation of the ball keeps distances.
    p, q = (ball_to_hyperboloid(mobius_add(r, point, **option), **option) for point in (p, q))
    np.testing.assert_allclose(hyperbolic_distance(p, q, **option), hyperbolic_distance(x, y, **option), rtol=1e-6)


def test_10_5_distances_keep_their_digits_near_the_origin_and_far_out_in_float32():
    direction = jnp.array([0.6, 0.8], jnp.float32)
    for far in (0.0, 1e-3, 1.0, 8.0):
        one, other = (origin_exp(direction * jnp.float32(far + step)) for step in (0.0, 1e-2))
        assert one.dtype == jnp.float32
        assert float(hyperbolic_distance(one, other)) == pytest.approx(1e-2, rel=1e-3), far
    x = origin_exp(jnp.zeros(2, jnp.float32))
    value, slope = jax.value_and_grad(lambda y: hyperbolic_distance(x, y))(x)
    assert float(value) == 0
    assert np.isfinite(slope).all()
    assert np.isfinite(jax.jacrev(lambda v: hyperboloid_log(x, origin_exp(v)))(jnp.zeros(2, jnp.float32))).all()


@pytest.mark.parametrize("curvature", CURVATURES)
def test_10_5_wrapped_normal_has_mass_one_on_the_hyperboloid_and_on_the_ball(curvature):
    option = {"curvature": curvature}
    mean, scale = origin_exp(jnp.array([0.8, -0.5]), **option), jnp.array([0.5, 0.9])
    density = hyperbolic_normal(mean, scale, **option)
    # Polar coordinates around the origin: dV = sinh(√-K r)/√-K dr dφ.
    nodes, weights = np.polynomial.legendre.leggauss(160)
    radius, angle = 9 * (nodes + 1) / 2, np.arange(160) * 2 * np.pi / 160
    c = np.sqrt(-curvature)
    tangents = radius[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], -1)[None]
    points = origin_exp(tangents, **option)
    volumes = (weights * 4.5 * np.sinh(c * radius) / c)[:, None] * 2 * np.pi / 160
    log_prob = density.log_prob(points)
    assert float((np.exp(log_prob) * volumes).sum()) == pytest.approx(1, abs=1e-6)
    # On the ball the same numbers are a density of volume, and with λ² of the coordinates.
    ball = hyperboloid_to_ball(points, **option)
    jacobian = jax.vmap(jax.vmap(jax.jacfwd(lambda v: hyperboloid_to_ball(origin_exp(v, **option), **option))))(tangents)
    areas = np.abs(np.linalg.det(jacobian)) * (weights * 4.5 * radius)[:, None] * 2 * np.pi / 160
    assert float((np.exp(log_prob + ball_log_volume(ball, **option)) * areas).sum()) == pytest.approx(1, abs=1e-6)


def test_10_5_wrapped_normal_in_more_dimensions_has_radial_mass_one():
    size = 5
    density = hyperbolic_normal(origin_exp(jnp.zeros(size)), 0.7 * jnp.ones(size))
    radius = np.linspace(0, 8, 4001)
    log_prob = density.log_prob(origin_exp(radius[:, None] * np.eye(size)[:1]))
    area = 8 * np.pi**2 / 3  # of the unit sphere in five dimensions
    from scipy.integrate import simpson

    assert simpson(np.exp(log_prob) * area * np.sinh(radius) ** (size - 1), x=radius) == pytest.approx(1, abs=1e-8)


def test_10_5_wrapped_normal_samples_are_normal_in_the_tangent_space():
    mean, scale = origin_exp(jnp.array([1.0, 0.5])), jnp.array([0.4, 0.8])
    x = hyperbolic_normal(mean, scale).sample(jax.random.key(0), 20_000)
    origin = origin_exp(jnp.zeros(2))
    back = jax.vmap(lambda x: hyperboloid_transport(mean, origin, hyperboloid_log(mean, x)))(x)[:, 1:]
    standard = np.asarray(back) / np.asarray(scale)
    assert (np.abs(standard.mean(0)) < 4 / np.sqrt(20_000)).all()
    np.testing.assert_allclose(standard.T @ standard / 20_000, np.eye(2), atol=4 * np.sqrt(2 / 20_000))


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match=r"hyperbolic_distance: curvature must be in \(-inf, 0\), got 1"):
        hyperbolic_distance(jnp.ones(2), jnp.ones(2), curvature=1.0)
    with pytest.raises(ValueError, match=r"hyperbolic_normal: mean must be \[n\+1\] and scale \[n\], got"):
        hyperbolic_normal(jnp.ones(2), jnp.ones(2))
    with pytest.raises(ValueError, match=r"hyperbolic_normal: scale must be in \(0, inf\), got"):
        hyperbolic_normal(jnp.array([1.0, 0.0]), jnp.zeros(1))
