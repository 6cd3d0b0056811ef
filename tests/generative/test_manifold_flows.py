"""Flows on the sphere and the torus: exact log-determinants, mass one by quadrature, and Moser's density."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from dljax.generative import flow, repeat
from dljax.generative.manifold_flows import continuous_flow, divergence, moser_flow, sphere, torus
from dljax.generative.manifold_splines import sphere_spline_coupling
from dljax.generative.sphere import uniform_sphere
from dljax.nn.ode import ODEConfig


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def sphere_grid(heights=80, longitudes=160):
    """Nodes of S² and their areas: Gauss-Legendre times the trapezoidal rule."""
    nodes, weights = np.polynomial.legendre.leggauss(heights)
    angle = np.arange(longitudes) * 2 * np.pi / longitudes + 0.1
    h, angle = (part.ravel() for part in np.meshgrid(nodes, angle, indexing="ij"))
    points = np.stack([np.sqrt(1 - h * h) * np.cos(angle), np.sqrt(1 - h * h) * np.sin(angle), h], -1)
    return jnp.asarray(points), np.repeat(weights, longitudes) * 2 * np.pi / longitudes


def tangent_frame(x):
    return np.linalg.svd(np.asarray(x)[None])[2][1:]


def area_log_det(jacobian, x, z):
    return np.linalg.slogdet(tangent_frame(z) @ np.asarray(jacobian) @ tangent_frame(x).T)[1]


def perturbed(params, scale):
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + scale * rng.normal(size=leaf.shape)), params)


FIELD = linen.Sequential([linen.Dense(8), linen.tanh, linen.Dense(3)])
FLOWS = {
    "splines": repeat(sphere_spline_coupling(num_bins=4, hidden=(8,)), 3),
    "continuous": continuous_flow(sphere(3), FIELD, config=ODEConfig("tsit5", num_steps=16)),
}


@pytest.mark.parametrize("name", FLOWS)
def test_10_5_flow_on_the_sphere_has_mass_one_an_inverse_and_an_exact_log_det(name):
    bijector = FLOWS[name]
    learner = flow(bijector, optax.sgd(0.1), size=3, base=uniform_sphere(3))
    x = uniform_sphere(3).sample(jax.random.key(1), 6)
    params = perturbed(jax.jit(bijector.init)(jax.random.key(0), x), 0.25)

    @jax.jit
    @jax.vmap
    def both(x):
        z, log_det = bijector.inverse(params, x)
        back, log_det_back = bijector.forward(params, z)
        return z, back, log_det, log_det_back, jax.jacrev(lambda x: bijector.inverse(params, x)[0])(x)

    z, back, log_det, log_det_back, jacobian = both(x)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(back, x, atol=1e-6)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-5)
    np.testing.assert_allclose(log_det, [area_log_det(*one) for one in zip(jacobian, x, z, strict=True)], atol=1e-5)
    points, areas = sphere_grid()
    log_prob = jax.jit(learner.functions["log_prob"])(jax.random.key(0), {"base": (), "bijector": params}, points)
    assert np.ptp(log_prob) > 0.3
    assert float((np.exp(log_prob) * areas).sum()) == pytest.approx(1, abs=1e-4 if name == "continuous" else 1e-2)


def test_10_5_divergence_integrates_to_zero_and_is_the_laplacian_of_a_harmonic():
    points, areas = sphere_grid(24, 48)

    def gradient(x):  # of x y z, a spherical harmonic of degree 3, whose Laplacian on S² is -3 · 4 times itself
        return jnp.stack([x[1] * x[2], x[0] * x[2], x[0] * x[1]])

    values = jax.jit(jax.vmap(lambda x: divergence(sphere(3), gradient, x)[1]))(points)
    np.testing.assert_allclose(values, -12 * np.prod(points, axis=1), atol=1e-12)

    def field(x):
        return jnp.stack([jnp.exp(x[1]), jnp.sin(3 * x[2]), x[0] * x[2]])

    assert float((jax.vmap(lambda x: divergence(sphere(3), field, x)[1])(points) * areas).sum()) == pytest.approx(0, abs=1e-12)


def test_10_5_moser_density_has_mass_one_learns_and_its_samples_follow_it():
    """Torus: two bumps. The density's mass is one by the divergence theorem, its negative part small, samples agree with the density."""
    rng = np.random.default_rng(0)
    centres = np.array([[-1.5, 0.5], [1.0, -1.0]])
    x = jnp.asarray(centres[rng.integers(0, 2, 512)] + 0.6 * rng.normal(size=(512, 2)))
    manifold = torus(2)
    learner = moser_flow(
        manifold,
        linen.Sequential([linen.Dense(32), linen.tanh, linen.Dense(32), linen.tanh, linen.Dense(2)]),
        optax.adam(1e-2),
        penalty=2.0,
        num_uniform=256,
        config=ODEConfig("heun", num_steps=60),
    )
    batch = {"x": manifold.project(x)}

    @jax.jit
    def train(key):
        state = learner.init(key, batch)
        return jax.lax.scan(lambda state, key: learner.step(key, state, batch), state, jax.random.split(key, 300))

    state, metrics = train(jax.random.key(0))
    params = learner.params(state)
    axis = np.arange(-48, 48) * np.pi / 48
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    density = np.asarray(jax.jit(learner.functions["density"])(jax.random.key(0), params, grid))
    cell = (2 * np.pi / 96) ** 2
    assert density.sum() * cell == pytest.approx(1, abs=1e-9)
    positive = np.maximum(density, 1e-5).sum() * cell
    assert 1 <= positive < 1.1
    uniform = np.log(4 * np.pi**2)
    assert float(metrics["nll"][-20:].mean()) + np.log(positive) < uniform - 0.8
    points = np.asarray(jax.jit(learner.functions["sample"], static_argnums=2)(jax.random.key(1), params, 4000))
    weights = np.maximum(density, 0) / np.maximum(density, 0).sum()
    for function in (lambda p: np.cos(p[:, 0]), lambda p: np.sin(p[:, 1]), lambda p: np.sin(p[:, 0]) * np.cos(p[:, 1])):
        values = function(points)
        assert abs(values.mean() - weights @ function(np.asarray(grid))) < 4 * values.std() / np.sqrt(4000) + 0.02
    negative = learner.functions["negative_mass"](jax.random.key(2), params, 4000)
    assert float(negative) == pytest.approx(positive - 1, abs=0.02)


def test_bad_options_and_models_are_refused():
    with pytest.raises(ValueError, match=r"moser_flow: penalty must be in \[0, inf\), got -1"):
        moser_flow(sphere(3), FIELD, optax.sgd(0.1), penalty=-1.0)
    with pytest.raises(ValueError, match=r"moser_flow: points must be \[B, 3\], got \[4, 2\]"):
        moser_flow(sphere(3), FIELD, optax.sgd(0.1)).init(jax.random.key(0), {"x": jnp.ones((4, 2))})
    with pytest.raises(ValueError, match=r"continuous_flow: the field must map \(1, 4\) to \(1, 3\), got \(1, 2\)"):
        continuous_flow(sphere(3), linen.Dense(2)).init(jax.random.key(0), jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="sphere_spline_coupling: points must be in R"):
        sphere_spline_coupling().init(jax.random.key(0), jnp.ones((4, 2)))
