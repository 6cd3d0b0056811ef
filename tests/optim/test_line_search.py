"""Line searches: their conditions at the step they accept, hand-worked steps, and directions that lead nowhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.optim import backtracking, exact_quadratic, line_search, strong_wolfe


def wavy(weights, x):
    """Many minima, bounded below."""
    return weights[0] * x @ x + weights[1] * jnp.sin(weights[2] * x).sum() + weights[3] * (x**4).sum()


@jax.jit
def searched(weights, x, turn, first_step):
    """Both searches down a line, at most an angle `turn` from steepest descent, and what holds at its start and at their steps."""

    def fun(x):
        return wavy(weights, x)

    gradient = jax.grad(fun)(x)
    direction = -(jnp.cos(turn) * gradient + jnp.sin(turn) * jnp.array([-gradient[1], gradient[0]]))
    before = fun(x), gradient @ direction
    found = {}
    for name, search in {"wolfe": strong_wolfe(decrease=1e-4, curvature=0.4), "armijo": backtracking(decrease=0.1, shrink=0.5)}.items():
        one = line_search(fun, x, direction, search, first_step=first_step)
        found[name] = one, fun(one.x), jax.grad(fun)(one.x) @ direction, x + one.step * direction, fun(x + 2 * one.step * direction)
    return before, found


numbers = st.floats(0.1, 10.0)
problems = {"weights": st.tuples(numbers, numbers, numbers, numbers), "x": st.tuples(*[st.floats(-3.0, 3.0)] * 2), "turn": st.floats(-1.4, 1.4)}


@settings(max_examples=40, deadline=None)
@given(**problems, first_step=st.floats(1e-4, 1e3))
def test_3_2_strong_wolfe_and_armijo_hold_at_the_accepted_step(weights, x, turn, first_step):
    with jax.enable_x64(True):
        (before, slope), found = jax.tree.map(np.asarray, searched(jnp.array(weights), jnp.array(x), turn, first_step))
    if slope > -1e-9:
        return
    for name, decrease in {"wolfe": 1e-4, "armijo": 0.1}.items():
        one, after, new_slope, there, further = found[name]
        assert one.is_accepted
        assert one.step > 0
        assert after <= before + decrease * one.step * slope + 1e-14 * abs(before)
        assert one.value == pytest.approx(float(after), rel=1e-12)
        np.testing.assert_allclose(one.x, there, rtol=1e-12, atol=1e-12)
        if name == "wolfe":
            assert abs(new_slope) <= -0.4 * slope + 1e-12
        elif one.step < first_step:
            # The step before it, twice as long, did not decrease enough.
            assert not further <= before + decrease * 2 * one.step * slope - 1e-14 * abs(before)


@settings(max_examples=20, deadline=None)
@given(curvatures=st.tuples(numbers, numbers), x=st.tuples(*[st.floats(-3.0, 3.0)] * 2), turn=st.floats(-1.4, 1.4))
def test_3_2_exact_search_of_a_quadratic_leaves_no_slope(curvatures, x, turn):
    with jax.enable_x64(True):
        found, left, slope = jax.tree.map(np.asarray, quadratic(jnp.array(curvatures), jnp.array(x), turn))
    if slope > -1e-9:
        return
    assert found.is_accepted
    assert abs(left) <= 1e-12 * abs(slope)


@jax.jit
def quadratic(curvatures, x, turn):
    def fun(x):
        return 0.5 * curvatures @ (x * x) + 0.3 * x[0] * x[1] * jnp.sqrt(curvatures.prod()) - x.sum()

    gradient = jax.grad(fun)(x)
    direction = -(jnp.cos(turn) * gradient + jnp.sin(turn) * jnp.array([-gradient[1], gradient[0]]))
    found = line_search(fun, x, direction, exact_quadratic())
    return found, found.gradient @ direction, gradient @ direction


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
def test_3_2_direction_that_leads_uphill_is_not_followed(search):
    found = line_search(lambda x: (x**2).sum(), jnp.ones(2), jnp.ones(2), search)
    assert (float(found.step), bool(found.is_accepted)) == (0.0, False)
    assert found.x.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("search", [strong_wolfe(), backtracking()])
def test_3_2_step_out_of_the_domain_is_taken_back(search):
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
