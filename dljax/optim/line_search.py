"""Line searches: how far to go along a direction (Nocedal and Wright, Numerical Optimization, chapter 3)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Numeric, Params
from dljax.optim.method import Objective, choose, flat_objective, rounding

# Value and slope at the step α: the three numbers that a search looks at.
_Place = tuple[Array, Array, Array]


class Found(NamedTuple):
    """What a line search comes back with.

    Attributes:
      step: α [], 0 where no step decreases the value.
      x, value, gradient: the point x + α p, and f and ∇f there.
      evaluations: [] int32, calls of f with its gradient.
      is_accepted: [] the search's conditions hold; a step > 0 without it decreases the value, and the search ran out of tries.
    """

    step: Float[Array, ""]
    x: Any
    value: Float[Array, ""]
    gradient: Any
    evaluations: Int[Array, ""]
    is_accepted: Bool[Array, ""]


# `(objective, x, value, gradient, direction, first_step) -> Found`, on flat vectors.
LineSearch = Callable[[Objective, Array, Array, Array, Array, Array], Found]


def line_search(fun: Callable[[Params], Any], x: Params, direction: Params, search: LineSearch | None = None, *, first_step: Numeric = 1.0) -> Found:
    """Search along one direction, on any pytree; `minimize` does this in each iteration.

    Args:
      fun: `x -> f` [], differentiable.
      x, direction: where to start and which way, of the same structure.
      search: `strong_wolfe()` by default.
      first_step: the first α to try, > 0; 1 for Newton-like directions.
    Returns:
      What was found, x and gradient of the structure of `x`. A direction that does not go downhill is not followed: step 0, not accepted.
    Raises:
      ValueError: x and direction differ in structure or shapes; `fun` does not return one real number.

    >>> found = line_search(lambda x: (x**2).sum(), jnp.array([2.0]), jnp.array([-4.0]))
    >>> float(found.step), float(found.x[0]), bool(found.is_accepted)
    (0.5, 0.0, True)
    """
    check_range("line_search", "first_step", first_step, 0, open_low=True)
    if jax.tree.map(jnp.shape, x) != jax.tree.map(jnp.shape, direction):
        raise ValueError(f"line_search: direction must have the structure and shapes of x, {_shapes(x)}, got {_shapes(direction)}")
    objective, flat, unravel = flat_objective("line_search", fun, x)
    p = ravel_pytree(direction)[0].astype(flat.dtype)
    value, gradient = objective.value_and_grad(flat)
    found = (search or strong_wolfe())(objective, flat, value, gradient, p, jnp.asarray(first_step, flat.dtype))
    return found._replace(x=unravel(found.x), gradient=unravel(found.gradient), evaluations=found.evaluations + 1)


def exact_quadratic() -> LineSearch:
    """The minimum along the line of a quadratic function.

      α = -∇fᵀp / pᵀ∇²f p

    Accepted where the curvature along p is positive; on other functions it is a Newton step along the line, which may go uphill and is then refused.

    >>> found = line_search(lambda x: x @ jnp.array([1.0, 4.0]) * x.sum(), jnp.ones(2), -jnp.ones(2), exact_quadratic())
    >>> float(found.step)
    1.0
    """

    def search(objective: Objective, x: Array, value: Array, gradient: Array, direction: Array, first_step: Array) -> Found:
        slope, curvature = gradient @ direction, direction @ objective.hessian_product(x, direction)
        step = jnp.where((slope < 0) & (curvature > 0), -slope / curvature, 0)
        new = x + step * direction
        new_value, new_gradient = objective.value_and_grad(new)
        is_lower = (step > 0) & (new_value <= value + rounding(value))
        start = Found(jnp.zeros_like(step), x, value, gradient, jnp.int32(1), jnp.bool_(False))
        return choose(is_lower, Found(step, new, new_value, new_gradient, jnp.int32(1), jnp.bool_(True)), start)

    return search


def backtracking(*, decrease: Numeric = 1e-4, shrink: Numeric = 0.5, max_steps: int = 40) -> LineSearch:
    """The first of α, ρα, ρ²α ... with a sufficient decrease (Armijo, 1966).

      f(x + αp) <= f(x) + c α ∇fᵀp

    Args:
      decrease: c in (0, 1).
      shrink: ρ in (0, 1).
      max_steps: steps that are tried, >= 1.
    Raises:
      ValueError: an option out of its range.

    >>> float(line_search(lambda x: (x**2).sum(), jnp.array([1.0]), jnp.array([-8.0]), backtracking()).step)
    0.125
    """
    check_range("backtracking", "decrease", decrease, 0, 1, open_low=True, open_high=True)
    check_range("backtracking", "shrink", shrink, 0, 1, open_low=True, open_high=True)
    check_int("backtracking", "max_steps", max_steps, minimum=1)

    def search(objective: Objective, x: Array, value: Array, gradient: Array, direction: Array, first_step: Array) -> Found:
        slope = gradient @ direction

        def body(carry: tuple[Array, Found]) -> tuple[Array, Found]:
            step, before = carry
            new = x + step * direction
            new_value, new_gradient = objective.value_and_grad(new)
            is_lower = new_value <= value + decrease * step * slope
            found = Found(step, new, new_value, new_gradient, before.evaluations, is_lower)
            return jnp.asarray(shrink * step, step.dtype), choose(is_lower, found, before)._replace(evaluations=before.evaluations + 1)

        def goes_on(carry: tuple[Array, Found]) -> Array:
            return ~carry[1].is_accepted & (carry[1].evaluations < max_steps) & (slope < 0)

        nothing = Found(jnp.zeros_like(slope), x, value, gradient, jnp.int32(0), jnp.bool_(False))
        return lax.while_loop(goes_on, body, (first_step, nothing))[1]

    return search


def strong_wolfe(*, decrease: Numeric = 1e-4, curvature: Numeric = 0.9, max_steps: int = 25) -> LineSearch:
    """A step with a sufficient decrease and a slope that has flattened: extend until it is bracketed, then zoom by cubic interpolation.

      f(x + αp) <= f(x) + c₁ α ∇f(x)ᵀp,   |∇f(x + αp)ᵀp| <= c₂ |∇f(x)ᵀp|

    Near a minimum differences of f drown in rounding while slopes do not; where f differs by rounding only, the first condition is therefore
    replaced by (2c₁ - 1) ∇f(x)ᵀp >= ∇f(x + αp)ᵀp, which says the same of a quadratic (Hager and Zhang, 2005).

    Args:
      decrease, curvature: 0 < c₁ < c₂ < 1; c₂ is 0.9 for Newton-like directions, 0.1 for conjugate gradients.
      max_steps: evaluations at most, >= 1; then the best step with a sufficient decrease is taken, not accepted.
    Raises:
      ValueError: an option out of its range.
    Source: Nocedal and Wright (2006), algorithms 3.5 and 3.6, as one loop: while nothing is bracketed the far end lies at infinity.

    >>> found = line_search(lambda x: jnp.cos(x), jnp.float32(1.0), jnp.float32(0.1))
    >>> bool(found.is_accepted), bool(abs(jnp.sin(found.x)) <= 0.9 * jnp.sin(1.0))
    (True, True)
    """
    check_range("strong_wolfe", "curvature", curvature, 0, 1, open_low=True, open_high=True)
    check_range("strong_wolfe", "decrease", decrease, 0, 1 if isinstance(curvature, jax.core.Tracer) else curvature, open_low=True, open_high=True)
    check_int("strong_wolfe", "max_steps", max_steps, minimum=1)

    class State(NamedTuple):
        trial: Array
        low: _Place  # the best step with a sufficient decrease so far
        high: _Place  # the other end of the bracket
        found: Found  # at `low`

    def search(objective: Objective, x: Array, value: Array, gradient: Array, direction: Array, first_step: Array) -> Found:
        slope = gradient @ direction
        noise = rounding(value)

        def body(state: State) -> State:
            trial, low, high, before = state
            new = x + trial * direction
            new_value, new_gradient = objective.value_and_grad(new)
            new_slope = new_gradient @ direction
            here = (trial, new_value, new_slope)
            is_lower = new_value <= value + decrease * trial * slope
            is_flat = jnp.abs(new_slope) <= -curvature * slope
            is_accepted = is_flat & (is_lower | ((new_value <= value + noise) & (new_slope <= (2 * decrease - 1) * slope)))
            # NaN is too high.
            is_end = ~(is_lower & (new_value < low[1])) & ~is_accepted
            turns = new_slope * (high[0] - low[0]) >= 0
            new_low, new_high = choose(is_end, low, here), choose(is_end, here, choose(turns, low, high))
            following = jnp.where(jnp.isinf(new_high[0]), _extended(low, here), _inside(new_low, new_high))
            evaluations = before.evaluations + 1
            found = choose(is_end, before, Found(trial, new, new_value, new_gradient, evaluations, is_accepted))
            return State(following, new_low, new_high, found._replace(evaluations=evaluations))

        def goes_on(state: State) -> Array:
            is_wide = jnp.abs(state.high[0] - state.low[0]) > jnp.finfo(x.dtype).eps * state.trial
            return ~state.found.is_accepted & (state.found.evaluations < max_steps) & is_wide & (slope < 0)

        nothing = Found(jnp.zeros_like(slope), x, value, gradient, jnp.int32(0), jnp.bool_(False))
        far = jnp.full_like(slope, jnp.inf)
        start = State(jnp.asarray(first_step, x.dtype), (jnp.zeros_like(slope), value, slope), (far, far, far), nothing)
        return lax.while_loop(goes_on, body, start).found

    return search


def _cubic_minimum(a: _Place, b: _Place) -> Array:
    """Where the cubic through two places with their slopes is least (Nocedal and Wright, eq. 3.59); NaN where it has no minimum."""
    (step_a, value_a, slope_a), (step_b, value_b, slope_b) = a, b
    d1 = slope_a + slope_b - 3 * (value_a - value_b) / (step_a - step_b)
    d2 = jnp.sign(step_b - step_a) * jnp.sqrt(d1**2 - slope_a * slope_b)
    return step_b - (step_b - step_a) * (slope_b + d2 - d1) / (slope_b - slope_a + 2 * d2)


def _inside(low: _Place, high: _Place) -> Array:
    """The next trial in a bracket: the cubic's minimum, at least a tenth of the bracket away from its ends; the middle where there is none."""
    width = high[0] - low[0]
    share = (_cubic_minimum(low, high) - low[0]) / width
    return low[0] + width * jnp.where(jnp.isfinite(share), jnp.clip(share, 0.1, 0.9), 0.5)


def _extended(before: _Place, here: _Place) -> Array:
    """The next trial where nothing is bracketed: the cubic's minimum, between 1.1 and 4 of the last stretch further on."""
    stretch = here[0] - before[0]
    share = (_cubic_minimum(before, here) - here[0]) / stretch
    return here[0] + stretch * jnp.where(share > 0, jnp.clip(share, 1.1, 4.0), 4.0)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(jnp.shape, tree)
