"""Rational-quadratic splines: distrax's values and gradients, both ways, and an identity outside that has gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.generative.splines import rational_quadratic_spline


@pytest.mark.rank_promotion
@pytest.mark.parametrize("is_inverse", [False, True])
def test_10_3_splines_are_those_of_distrax_values_and_gradients(is_inverse):
    import distrax

    num_bins, bound = 5, 3.0

    def reference(raw, x):
        # distrax has slopes at the ends too, and with these boundaries does not look at them.
        raw = jnp.insert(jnp.concatenate([raw, jnp.zeros_like(raw[..., :1])], -1), 2 * num_bins, 0.0, axis=-1)
        bijector = distrax.RationalQuadraticSpline(raw, -bound, bound, boundary_slopes="identity")
        return bijector.inverse_and_log_det(x) if is_inverse else bijector.forward_and_log_det(x)

    def ours(raw, x):
        return rational_quadratic_spline(raw, x, bound=bound, is_inverse=is_inverse)

    def with_gradients(function, raw, x):
        return function(raw, x), jax.grad(lambda raw, x: sum(jnp.sin(part).sum() for part in function(raw, x)), (0, 1))(raw, x)

    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        raw, x = jnp.asarray(rng.normal(size=(300, 3 * num_bins - 1), scale=2.0)), jnp.asarray(rng.normal(size=300, scale=2.5))
        both = jax.jit(lambda raw, x: (with_gradients(ours, raw, x), with_gradients(reference, raw, x)))(raw, x)
    for one, other in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_10_3_in_float32_extreme_parameters_leave_a_spline_monotone_and_its_gradients_finite():
    raw = 30 * jax.random.normal(jax.random.key(0), (23,))
    x = jnp.linspace(-6, 6, 2001)

    @jax.jit
    @jax.vmap
    def mapped(x):
        value, grads = jax.value_and_grad(lambda raw, x: sum(rational_quadratic_spline(raw, x, bound=4.0)), (0, 1))(raw, x)
        return (
            rational_quadratic_spline(raw, x, bound=4.0)[0],
            value,
            grads,
            jax.grad(lambda raw: sum(rational_quadratic_spline(raw, x, bound=4.0, is_inverse=True)))(raw),
        )

    y, *rest = mapped(x)
    assert (np.diff(y) >= 0).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(rest))
