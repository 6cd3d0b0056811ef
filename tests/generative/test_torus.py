"""Circles and tori: von Mises and the wrapped normal against SciPy and sums, splines without a seam, flows of mass one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from dljax.generative import flow, repeat
from dljax.generative.manifold_splines import circle_spline, inverse_circle_spline, torus_spline_coupling
from dljax.generative.torus import uniform_torus, von_mises, wrapped_normal


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


AXIS = np.arange(-200, 200) * np.pi / 200


def test_10_5_von_mises_is_that_of_scipy():
    for kappa in (0.0, 0.7, 30.0):
        ours = von_mises(jnp.array([1.0]), jnp.array([kappa])).log_prob(AXIS[:, None])
        expected = stats.vonmises.logpdf(AXIS, kappa, loc=1.0) if kappa else np.full(400, -np.log(2 * np.pi))
        np.testing.assert_allclose(ours, expected, atol=1e-10)
    x = np.asarray(von_mises(jnp.array([1.0, 0.0]), jnp.array([3.0, 0.5])).sample(jax.random.key(0), 10_000))
    assert stats.kstest((x[:, 0] - 1 + np.pi) % (2 * np.pi) - np.pi, stats.vonmises(3.0).cdf).pvalue > 1e-3
    assert stats.kstest(x[:, 1], stats.vonmises(0.5).cdf).pvalue > 1e-3


def test_10_5_wrapped_normal_is_the_sum_of_its_turns_for_every_width():
    turns = 2 * np.pi * np.arange(-60, 61)
    for scale in (0.01, 0.5, 1.49, 1.51, 4.0, 50.0):
        ours = wrapped_normal(jnp.array([0.5]), jnp.array([scale])).log_prob(AXIS[:, None])
        away = (AXIS - 0.5 + np.pi) % (2 * np.pi) - np.pi
        expected = np.logaddexp.reduce(stats.norm.logpdf(away[:, None] + turns, scale=scale), axis=1)
        np.testing.assert_allclose(ours, expected, atol=1e-7, rtol=1e-9)
        if scale > 0.1:
            assert np.exp(ours).mean() * 2 * np.pi == pytest.approx(1, abs=1e-8)


def test_10_5_circular_spline_is_a_smooth_bijection_without_a_seam():
    raw = jnp.asarray(np.random.default_rng(0).normal(size=16, scale=1.5))
    angle, log_slope = jax.jit(jax.vmap(circle_spline, (None, 0)))(raw, AXIS)
    slope = jax.jit(jax.vmap(jax.grad(lambda x: circle_spline(raw, x)[0])))(AXIS)
    np.testing.assert_allclose(np.exp(log_slope), slope, rtol=1e-9)
    assert (slope > 0).all()
    back, log_back = jax.vmap(inverse_circle_spline, (None, 0))(raw, angle)
    np.testing.assert_allclose((back - AXIS + 1) % (2 * np.pi), 1, atol=1e-9)
    np.testing.assert_allclose(log_back, -log_slope, atol=1e-8)
    # Once around, and the slope the same on both sides of the seam.
    assert np.exp(log_slope).mean() * 2 * np.pi == pytest.approx(2 * np.pi, rel=1e-3)
    near = circle_spline(jnp.stack([raw, raw]), jnp.array([-np.pi, np.pi - 1e-9]))[1]
    assert float(near[0]) == pytest.approx(float(near[1]), abs=1e-6)


def test_10_5_torus_flow_has_mass_one_and_an_exact_log_det():
    bijector = repeat(torus_spline_coupling(num_bins=4, hidden=(8,)), 2)
    learner = flow(bijector, optax.sgd(0.1), size=2, base=uniform_torus(2))
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.uniform(-np.pi, np.pi, (10, 2)))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.25 * rng.normal(size=leaf.shape)), jax.jit(bijector.init)(jax.random.key(0), x))

    @jax.jit
    def both(params, x):
        z, log_det = bijector.inverse(params, x)
        back, log_det_back = bijector.forward(params, z)
        return back, log_det, log_det_back, jax.jacfwd(lambda x: bijector.inverse(params, x)[0])(x)

    back, log_det, log_det_back, jacobian = jax.vmap(both, (None, 0))(params, x)
    np.testing.assert_allclose(back, x, atol=1e-8)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-8)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-7)
    grid = jnp.asarray(np.stack(np.meshgrid(AXIS, AXIS), -1).reshape(-1, 2))
    log_prob = jax.jit(partial(learner.functions["log_prob"], None, {"base": (), "bijector": params}))
    density = log_prob(grid)
    assert float(jnp.exp(density).mean()) * 4 * np.pi**2 == pytest.approx(1, abs=5e-3)
    seam = jnp.array([[-np.pi, 0.3], [np.pi - 1e-10, 0.3], [0.3, -np.pi], [0.3, np.pi - 1e-10]])
    sides = log_prob(seam)
    np.testing.assert_allclose(sides[::2], sides[1::2], atol=1e-6)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="torus_spline_coupling: num_bins must be >= 2, got 1"):
        torus_spline_coupling(num_bins=1)
    with pytest.raises(ValueError, match="torus_spline_coupling: needs at least 2 angles, got 1"):
        torus_spline_coupling().init(jax.random.key(0), jnp.zeros((4, 1)))
    with pytest.raises(ValueError, match=r"von_mises: location and concentration must be vectors of one length, got \(1,\) and \(2,\)"):
        von_mises(jnp.zeros(1), jnp.ones(2))
    with pytest.raises(ValueError, match=r"wrapped_normal: scale must be in \(0, inf\), got"):
        wrapped_normal(jnp.zeros(1), jnp.zeros(1))
