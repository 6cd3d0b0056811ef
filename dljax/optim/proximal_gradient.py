"""Proximal gradient methods: a gradient step on what is smooth, then the proximal operator of what is not (ISTA and FISTA)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Numeric, Params
from dljax.optim.method import CONVERGED, MAX_ITERATIONS, NOT_FINITE, RUNNING, choose, flat_objective, gradient_norm, rounding
from dljax.optim.minimize import MinimizeResult
from dljax.optim.proximal import Prox

# Doublings and halvings of a step size at most.
_MOST_CHANGES = 60


def proximal_step(learning_rate: optax.ScalarOrSchedule, prox: Prox) -> optax.GradientTransformation:
    """Stochastic proximal gradient descent, ISTA where the gradient is whole.

      x ← prox_{αg}(x - α ∇f)

    Args:
      learning_rate: α >= 0 or a schedule. Momentum or Adam before it in a chain are heuristics: the operator belongs to the plain step.
      prox: `(params, step) -> params`, of the whole tree: `on_paths("kernel$", lambda x, step: soft_threshold(x, strength * step))`; a projection
        takes no notice of the step.
    Raises:
      ValueError: α < 0; when updated: no parameters are given, or `prox` returns another structure than it was given.
    Source: Daubechies, Defrise and De Mol (2004); Beck and Teboulle (2009), SIAM J. Imaging Sci. 2, eq. 3.1.

    >>> from dljax.optim.proximal import soft_threshold
    >>> solver = proximal_step(0.5, lambda x, step: soft_threshold(x, step))
    >>> updates, _ = solver.update(jnp.array([0.2]), solver.init(jnp.array([0.4])), jnp.array([0.4]))
    >>> optax.apply_updates(jnp.array([0.4]), updates).tolist()
    [0.0]
    """
    if not callable(learning_rate):
        check_range("proximal_step", "learning_rate", learning_rate, 0)

    def update(grads: Any, step: Array, params: Any = None) -> tuple[Any, Array]:
        if params is None:
            raise ValueError("proximal_step: update needs the parameters; call update(grads, state, params)")
        rate = learning_rate(step) if callable(learning_rate) else learning_rate
        moved = jax.tree.map(lambda p, g: p - rate * g, params, grads)
        return jax.tree.map(lambda new, old: (new - old).astype(old.dtype), _applied(prox, moved, rate), params), step + 1

    return optax.GradientTransformation(lambda params: jnp.int32(0), update)


class _Point(NamedTuple):
    """x the iterate, y the point its gradient is asked at, α the step size, t the momentum's clock, the gradient mapping's largest component."""

    x: Float[Array, " n"]
    y: Float[Array, " n"]
    step: Float[Array, ""]
    clock: Float[Array, ""]
    mapping: Float[Array, ""]
    status: Int[Array, ""]
    iterations: Int[Array, ""]
    evaluations: Int[Array, ""]


def proximal_gradient(
    fun: Callable[[Params], Any],
    x0: Params,
    prox: Prox,
    *,
    penalty: Callable[[Params], Any] | None = None,
    is_accelerated: bool = True,
    tolerance: Numeric = 1e-5,
    max_iterations: int = 1000,
) -> MinimizeResult:
    """Minimise a smooth function plus a penalty or within a constraint that has a proximal operator: FISTA, or ISTA.

      x⁺ = prox_{αg}(y - α ∇f(y)),   y⁺ = x⁺ + (t-1)/t⁺ (x⁺ - x),   t⁺ = ½ + √(¼ + t²)

    The step size α is doubled at the start while it fits, and then halved where f rises above its quadratic bound; the momentum starts anew where
    it leads uphill. It is pure, for `jax.jit` and `jax.vmap`: a whole path of strengths is one program.

    Args:
      fun: the smooth part, `x -> f` [].
      x0: the start, a pytree of floating-point arrays.
      prox: `(x, step) -> x`, the operator of `step·g`, of the whole tree.
      penalty: `x -> g` [], only for the `value` of the result; 0 if not given (a constraint).
      is_accelerated: FISTA if so, else ISTA, where y is x.
      tolerance: on the largest component of the gradient mapping (y - x⁺)/α, >= 0, which is ∇f where g = 0; may be traced.
      max_iterations: at most, >= 0; may be traced.
    Returns:
      A `MinimizeResult` with f + g as `value`, the gradient mapping's largest component as `gradient_norm`, and no history.
    Raises:
      ValueError: an option out of its range, an x0 that is not floating-point, a `fun` that does not return one real number, a `prox` that returns
      another structure than it was given.
    Source: Beck and Teboulle (2009), SIAM J. Imaging Sci. 2, section 4; O'Donoghue and Candès (2015), Found. Comput. Math. 15, for the restarts.

    >>> from dljax.optim.proximal import soft_threshold
    >>> result = proximal_gradient(lambda x: ((x - jnp.array([3.0, 0.5])) ** 2).sum() / 2, jnp.zeros(2), soft_threshold)
    >>> result.x.tolist(), bool(result.converged)
    ([2.0, 0.0], True)
    """
    check_range("proximal_gradient", "tolerance", tolerance, 0)
    if not isinstance(max_iterations, jax.core.Tracer):
        check_int("proximal_gradient", "max_iterations", max_iterations)
    objective, x, unravel = flat_objective("proximal_gradient", fun, x0)

    def forward(y: Array, gradient: Array, step: Array) -> Array:
        return ravel_pytree(_applied(prox, unravel(y - step * gradient), step))[0].astype(y.dtype)

    def fits(y: Array, value: Array, gradient: Array, step: Array) -> Array:
        d = forward(y, gradient, step) - y
        # A step that is not finite never fits; at a stationary point every step would.
        return objective.value_and_grad(y + d)[0] <= value + gradient @ d + d @ d / (2 * step) + rounding(value)

    def iterated(point: _Point) -> _Point:
        value, gradient = objective.value_and_grad(point.y)

        def halved(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            return carry[0] / 2, carry[1] + 1

        step, tries = lax.while_loop(
            lambda carry: ~fits(point.y, value, gradient, carry[0]) & (carry[1] < _MOST_CHANGES), halved, (point.step, jnp.int32(0))
        )
        x = forward(point.y, gradient, step)
        clock = 0.5 + jnp.sqrt(0.25 + point.clock**2)
        leads_up = (point.y - x) @ (x - point.x) > 0
        momentum = jnp.where(leads_up, 0, (point.clock - 1) / clock) if is_accelerated else 0.0
        mapping = gradient_norm((point.y - x) / step)
        is_finite = jnp.isfinite(value) & jnp.isfinite(gradient).all() & jnp.isfinite(x).all()
        status = jnp.int32(jnp.where(is_finite, jnp.where(mapping <= tolerance, CONVERGED, RUNNING), NOT_FINITE))
        after = _Point(x, x + momentum * (x - point.x), step, jnp.where(leads_up, 1, clock), mapping, status, point.iterations, point.evaluations)
        after = choose(is_finite, after, point._replace(status=status, mapping=mapping))
        return after._replace(iterations=point.iterations + 1, evaluations=point.evaluations + tries + 2)

    value, gradient = objective.value_and_grad(x)
    one, zero = jnp.ones((), x.dtype), jnp.int32(0)
    step, tries = lax.while_loop(
        lambda carry: fits(x, value, gradient, 2 * carry[0]) & (carry[1] < _MOST_CHANGES), lambda carry: (2 * carry[0], carry[1] + 1), (one, zero)
    )
    point = _Point(x, x, step, one, one * jnp.inf, jnp.int32(RUNNING), zero, tries + 2)
    last = lax.while_loop(lambda point: (point.status == RUNNING) & (point.iterations < max_iterations), iterated, point)
    x = unravel(last.x)
    return MinimizeResult(
        x=x,
        value=fun(x) if penalty is None else fun(x) + penalty(x),
        gradient_norm=last.mapping,
        converged=last.status == CONVERGED,
        iterations=last.iterations,
        evaluations=last.evaluations,
        status=jnp.where(last.status == RUNNING, MAX_ITERATIONS, last.status),
    )


def _applied(prox: Prox, params: Any, step: Any) -> Any:
    out = prox(params, step)
    before, after = ([(jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)])] for tree in (params, out))
    if before != after:
        raise ValueError(f"prox: must return the structure and shapes that it is given, got {after[0]} for {before[0]}")
    return out
