"""Line searches: their conditions at the step they accept, hand-worked steps, and directions that lead nowhere."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.optim import backtracking, exact_quadratic, line_search, strong_wolfe


@jax.jit
def wavy(weights, x, direction, first_step):
    """A function with many minima, bounded below, and the search along a line of it."""

    def fun(x):
        return weights[0] * x @ x + weights[1] * jnp.sin(weights[2] * x).sum() + weights[3] * (x**4).sum()

    found = line_search(fun, x, direction, strong_wolfe(decrease=1e-4, curvature=0.4), first_step=first_step)
    return found, fun(x), jax.grad(fun)(x), fun(found.x), jax.grad(fun)(found.x)


numbers = st.floats(0.1, 10.0)


@settings(max_examples=40, deadline=None)
@given(weights=st.tuples(numbers, numbers, numbers, numbers), x=st.tuples(*[st.floats(-3.0, 3.0)] * 2), first_step=st.floats(1e-4, 1e3))
def test_3_2_strong_wolfe_conditions_hold_at_the_accepted_step(weights, x, first_step):
    with jax.enable_x64(True):
        x = jnp.array(x)
        direction = -jax.grad(lambda x: weights[0] * x @ x + weights[1] * jnp.sin(weights[2] * x).sum() + weights[3] * (x**4).sum())(x)
        found, before, slope, after, new_slope = wavy(jnp.array(weights), x, direction, first_step)
        slope, new_slope = slope @ direction, new_slope @ direction
        if slope > -1e-9:
            return
        assert found.is_accepted
        assert found.step > 0
        assert after <= before + 1e-4 * found.step * slope + 1e-14 * abs(before)
        assert abs(new_slope) <= -0.4 * slope + 1e-12
        assert found.value == pytest.approx(float(after), rel=1e-12)
        assert jnp.allclose(found.x, x + found.step * direction, rtol=1e-12, atol=1e-12)


def test_3_2_armijo_takes_the_first_step_with_enough_decrease():
    # f(1 - 8α) < f(1) needs α < 1/4: of 1, 1/2, 1/4, 1/8 the last; with 1/4 f stays the same.
    found = line_search(lambda x: (x**2).sum(), jnp.array([1.0]), jnp.array([-8.0]), backtracking(decrease=1e-4, shrink=0.5))
    assert (float(found.step), int(found.evaluations), bool(found.is_accepted)) == (0.125, 5, True)


def test_3_2_exact_step_of_a_quadratic_is_its_closed_form():
    H, x, p = jnp.array([[3.0, 1.0], [1.0, 2.0]]), jnp.array([1.0, -2.0]), jnp.array([-1.0, 1.0])
    # ∇f = Hx = (1, -3); -∇fᵀp = 4; pᵀHp = 3
    found = line_search(lambda x: 0.5 * x @ H @ x, x, p, exact_quadratic())
    assert float(found.step) == pytest.approx(4 / 3)
    assert float(found.gradient @ p) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("search", [strong_wolfe(), backtracking(), exact_quadratic()])
def test_direction_that_leads_uphill_is_not_followed(search):
    found = line_search(lambda x: (x**2).sum(), jnp.ones(2), jnp.ones(2), search)
    assert (float(found.step), bool(found.is_accepted)) == (0.0, False)
    assert found.x.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("search", [strong_wolfe(), backtracking()])
def test_step_out_of_the_domain_is_taken_back(search):
    found = line_search(lambda x: x - jnp.log(x), jnp.float32(2.0), jnp.float32(-1.0), search, first_step=16.0)
    assert found.is_accepted
    assert 0 < found.x < 2


def test_bad_inputs_are_refused():
    def fun(x):
        return (x**2).sum()

    with pytest.raises(ValueError, match=r"strong_wolfe: decrease must be in \(0, 0.5\), got 0.7"):
        strong_wolfe(decrease=0.7, curvature=0.5)
    with pytest.raises(ValueError, match=r"strong_wolfe: curvature must be in \(0, 1\), got 1"):
        strong_wolfe(curvature=1)
    with pytest.raises(ValueError, match=r"strong_wolfe: max_steps must be >= 1, got 0"):
        strong_wolfe(max_steps=0)
    with pytest.raises(ValueError, match=r"backtracking: shrink must be in \(0, 1\), got 1.5"):
        backtracking(shrink=1.5)
    with pytest.raises(ValueError, match=r"line_search: first_step must be in \(0, inf\), got 0"):
        line_search(fun, jnp.ones(2), jnp.ones(2), first_step=0)
    with pytest.raises(ValueError, match=r"line_search: direction must have the structure and shapes of x, \(2,\), got \(3,\)"):
        line_search(fun, jnp.ones(2), jnp.ones(3))
    with pytest.raises(ValueError, match=r"line_search: fun must return one real number, got float32\[2\]"):
        line_search(lambda x: x, jnp.ones(2), jnp.ones(2))
