"""Gauss-Newton and Levenberg-Marquardt: linear problems in one step, curves, a small net, products instead of matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.optim import gauss_newton, least_squares, levenberg_marquardt, message, minimize


def test_3_3_gauss_newton_solves_a_linear_problem_in_one_step():
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((12, 4)).astype(np.float32), rng.standard_normal(12).astype(np.float32)
    result = least_squares(lambda x: A @ x - b, jnp.zeros(4), method="gauss-newton", tolerance=1e-4)
    assert (int(result.iterations), bool(result.converged)) == (1, True)
    np.testing.assert_allclose(result.x, np.linalg.lstsq(A, b)[0], rtol=1e-3, atol=1e-5)
    assert float(result.value) == pytest.approx(0.5 * float(((A @ result.x - b) ** 2).sum()), rel=1e-4)


@pytest.mark.parametrize("method", [gauss_newton("cg"), levenberg_marquardt(solver="cg")], ids=["gauss-newton", "levenberg-marquardt"])
def test_3_3_products_with_the_jacobian_are_enough(method):
    t = jnp.linspace(0, 2, 15)
    result = least_squares(lambda x: x[0] * jnp.exp(x[1] * t) - 2 * jnp.exp(-t), jnp.array([1.0, 0.0]), method=method, tolerance=1e-4)
    np.testing.assert_allclose(result.x, [2.0, -1.0], atol=1e-2)


def test_3_3_gauss_newton_fits_a_net_to_a_curve_in_30_steps():
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 3)
        x = jnp.linspace(-2, 2, 60)
        y = jnp.sin(2 * x) + 0.3 * x
        params = {"w": 2 * jax.random.normal(keys[0], (8,)), "b": jax.random.normal(keys[1], (8,)), "v": 0.3 * jax.random.normal(keys[2], (8,))}
        result = least_squares(
            lambda p: jnp.tanh(x[:, None] * p["w"][None] + p["b"][None]) @ p["v"] - y, params, method="levenberg-marquardt", max_iterations=30
        )
        assert 2 * result.value / len(x) < 1e-4


def test_3_3_singular_jacobian_is_no_obstacle():
    result = least_squares(lambda x: x.sum() - 3.0, jnp.zeros(3), tolerance=1e-4)
    assert result.converged
    assert result.x.sum() == pytest.approx(3, abs=1e-3)


@pytest.mark.parametrize("method", ["gauss-newton", "levenberg-marquardt"])
def test_3_3_residuals_that_are_not_finite_end_the_search(method):
    result = least_squares(lambda x: jnp.where(x > 0, x, jnp.nan), jnp.array([-1.0, 1.0]), method=method)
    assert "not finite at the start" in message(result)
    assert result.x.tolist() == [-1.0, 1.0]


def test_bad_inputs_are_refused():
    with pytest.raises(ValueError, match=r"least_squares: method must be one of 'gauss-newton', 'levenberg-marquardt', got 'newton'"):
        least_squares(lambda x: x, jnp.ones(2), method="newton")
    with pytest.raises(ValueError, match=r"least_squares: residuals must return arrays of real numbers, got int32\[2\]"):
        least_squares(lambda x: jnp.arange(2), jnp.ones(2))
    with pytest.raises(ValueError, match=r"levenberg_marquardt: needs residuals, got a scalar function; call least_squares"):
        minimize(lambda x: (x**2).sum(), jnp.ones(2), method=levenberg_marquardt())
    with pytest.raises(ValueError, match=r"gauss_newton: solver must be one of 'dense', 'cg', got 'qr'"):
        gauss_newton("qr")
    with pytest.raises(ValueError, match=r"levenberg_marquardt: damping must be in \(0, inf\), got 0"):
        levenberg_marquardt(damping=0)
