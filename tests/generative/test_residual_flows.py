"""Residual flows: estimates of log-determinants without bias, contractions that are ones, and Hutchinson's trace in continuous flows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax import generative as g
from dljax.nn.ode import ODEConfig


def perturbed(params, scale=0.5):
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + scale * rng.normal(size=leaf.shape)), params)


@pytest.mark.parametrize("name", ["residual", "continuous"])
def test_10_3_estimates_of_the_log_determinant_and_of_its_gradient_have_no_bias(name):
    """Means of 4,000 draws within four standard errors of the exact value: of the value, and of the gradient along one direction."""
    bijector = {
        "residual": g.residual(hidden=(5,), num_terms=1, stay=0.85),
        "continuous": g.continuous(hidden=(5,), config=ODEConfig("heun", num_steps=3), trace="hutchinson"),
    }[name]
    with jax.enable_x64(True):
        x = jnp.array([0.4, -0.9, 0.2])
        params = perturbed(bijector.init(jax.random.key(0), x[None]))
        rng = np.random.default_rng(3)
        direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)

        def with_slope(log_det):
            value, grads = jax.value_and_grad(log_det)(params)
            return value, sum((grad * way).sum() for grad, way in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True))

        @jax.jit
        def draws(keys):
            exact = with_slope(lambda params: bijector.inverse(params, x)[1])
            return exact, jax.vmap(lambda key: with_slope(lambda params: bijector.estimate(key, params, x)[1]))(keys)

        exact, estimates = draws(jax.random.split(jax.random.key(1), 4000))
    for truth, values in zip(exact, estimates, strict=True):
        error = np.std(values) / np.sqrt(len(values))
        assert 0 < error < 0.05
        assert abs(np.mean(values) - truth) < 4 * error


def test_10_3_the_bound_of_the_spectral_norm_is_above_it_and_tight():
    with jax.enable_x64(True):
        for shape in ((3, 64), (40, 40), (1, 1)):
            kernel = np.random.default_rng(0).normal(size=shape)
            exact = np.linalg.norm(kernel, 2)
            assert 1 <= g.spectral_norm_bound(jnp.asarray(kernel)) / exact < 1.04
            assert float(g.spectral_norm_bound(jnp.asarray(kernel), 20)) == pytest.approx(exact, rel=1e-5)
    # No overflow on the way, and nothing but zeros at zero.
    assert float(g.spectral_norm_bound(jnp.full((2, 2), 1e15))) == pytest.approx(2e15, rel=0.02)
    assert np.isfinite(jax.grad(lambda kernel: g.spectral_norm_bound(kernel).sum())(jnp.zeros((2, 2)))).all()


def test_10_3_the_branch_of_a_residual_flow_is_a_contraction_however_large_its_weights():
    layer = g.residual(hidden=(8, 8), coefficient=0.5)
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(1).normal(size=(50, 3), scale=2.0))
        params = perturbed(layer.init(jax.random.key(0), x), scale=10.0)
        jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda x: layer.inverse(params, x)[0] - x)))(x)
    norms = np.linalg.norm(jacobians, 2, axis=(1, 2))
    assert 0.01 < norms.max() <= 0.5


def test_lip_swish_has_no_slope_above_one():
    x = jnp.linspace(-10, 10, 2001)
    assert 0.99 < float(jnp.abs(jax.vmap(jax.grad(g.lip_swish))(x)).max()) <= 1


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="residual: num_terms must be >= 1"):
        g.residual(num_terms=0)
    with pytest.raises(ValueError, match="residual: hidden must be >= 1"):
        g.residual(hidden=(0,))
    with pytest.raises(ValueError, match="spectral_norm_bound: num_squarings must be >= 0"):
        g.spectral_norm_bound(jnp.ones((2, 2)), -1)
    with pytest.raises(ValueError, match=r"log_det_estimate: stay must be in \(0, 1\)"):
        g.log_det_estimate(jax.random.key(0), lambda x: x / 2, jnp.ones(1), num_terms=1, stay=1.0)
