"""Descent along a line: what all methods with a line search share, steepest descent, and nonlinear conjugate gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dljax.core.checks import check_choice
from dljax.optim.line_search import LineSearch, strong_wolfe
from dljax.optim.method import LINE_SEARCH, Iterate, Method, Objective, choose


class Descent(NamedTuple):
    """The memory of a method with a line search.

    Attributes:
      rule: what its direction is made of.
      is_fresh: [] nothing is known: the next direction is that of steepest descent.
      drop: [] α ∇fᵀp of the last step, which tells the next first trial of methods whose directions have no scale.
    """

    rule: Any
    is_fresh: Bool[Array, ""]
    drop: Float[Array, ""]


def descent(
    start: Callable[[Array], Any],
    direction: Callable[[Any, Objective, Array, Array], Array],
    update: Callable[[Any, Array, Array, Array, Array], Any],
    search: LineSearch,
    *,
    has_unit_step: bool = True,
    is_newton: bool = False,
) -> Method:
    """A method with a line search from its direction rule.

    Where a direction does not go downhill, or nothing is found along it, the rule starts anew with steepest descent; where that finds nothing
    either, the method gives up.

    Args:
      start: `gradient -> rule`.
      direction: `(rule, objective, x, gradient) -> p`.
      update: `(rule, p, s = α p, y = change of the gradient, gradient) -> rule`.
      search: the line search.
      has_unit_step: whether α = 1 is the natural first trial; else the step with the same drop in value as the last one.
      is_newton: whether the first direction already comes from the rule, which needs no step to learn from.

    >>> from dljax.optim.minimize import minimize
    >>> method = descent(lambda g: (), lambda rule, objective, x, g: -g, lambda rule, *_: rule, strong_wolfe())
    >>> bool(minimize(lambda x: (x**2).sum(), jnp.ones(3), method=method).converged)
    True
    """

    def init(objective: Objective, x: Array, value: Array, gradient: Array) -> Descent:
        return Descent(start(gradient), jnp.bool_(not is_newton), jnp.zeros_like(value))

    def step(objective: Objective, iterate: Iterate) -> Iterate:
        x, value, gradient, (rule, is_fresh, drop) = iterate[:4]
        p = direction(rule, objective, x, gradient)
        is_fresh |= ~((gradient @ p < 0) & jnp.isfinite(p).all())
        p, rule = choose(is_fresh, (-gradient, start(gradient)), (p, rule))
        # Without curvature a step of length one at most: the gradient's length says nothing about how far the minimum is.
        cautious = jnp.minimum(1, 1 / jnp.linalg.norm(gradient))
        usual = jnp.ones_like(value) if has_unit_step else drop / (gradient @ p)
        found = search(objective, x, value, gradient, p, jnp.where((is_fresh & has_unit_step) | ~(usual > 0), cautious, usual))
        moved = found.step > 0
        after = update(rule, p, found.step * p, found.gradient - gradient, found.gradient)
        memory = Descent(choose(moved, after, start(gradient)), ~moved, jnp.where(moved, found.step * (gradient @ p), 0))
        status = jnp.where(~moved & is_fresh, LINE_SEARCH, iterate.status)
        return iterate._replace(
            x=found.x,
            value=found.value,
            gradient=found.gradient,
            memory=memory,
            status=status,
            evaluations=iterate.evaluations + found.evaluations,
        )

    return Method(init, step)


def gradient_descent(search: LineSearch | None = None) -> Method:
    """Steepest descent with a line search (Cauchy, 1847).

      p = -∇f

    Near a minimum with condition number κ an exact search reduces f - f* by at most ((κ-1)/(κ+1))² a step, and zig-zags.

    Args:
      search: `strong_wolfe()` by default.

    >>> from dljax.optim.minimize import minimize
    >>> bool(minimize(lambda x: (x**2).sum(), jnp.ones(3), method=gradient_descent()).converged)
    True
    """
    return descent(lambda g: (), lambda rule, objective, x, g: -g, lambda rule, p, s, y, g: (), search or strong_wolfe(), has_unit_step=False)


def nonlinear_cg(kind: str = "polak-ribiere", search: LineSearch | None = None) -> Method:
    """Nonlinear conjugate gradients: each direction leaves the gains of the last one alone.

      p⁺ = -g⁺ + β p,   y = g⁺ - g
      β = max(0, g⁺ᵀy / gᵀg)                      polak-ribiere
          g⁺ᵀg⁺ / gᵀg                             fletcher-reeves
          g⁺ᵀy / pᵀy                              hestenes-stiefel, at least 0
          (y - 2 p yᵀy / pᵀy)ᵀ g⁺ / pᵀy           hager-zhang, at least -1 / (|p| min(0.01, |g|))

    Args:
      kind: one of the four.
      search: `strong_wolfe(curvature=0.1)` by default.
    Raises:
      ValueError: an unknown kind.
    Source: Nocedal and Wright (2006), section 5.2; Hager and Zhang (2005), SIAM J. Optim. 16, eq. 1.3-1.6.

    >>> from dljax.optim.minimize import minimize
    >>> bool(minimize(lambda x: (x**4).sum(), jnp.ones(3), method=nonlinear_cg("hager-zhang")).converged)
    True
    """
    check_choice("nonlinear_cg", "kind", kind, ("polak-ribiere", "fletcher-reeves", "hestenes-stiefel", "hager-zhang"))

    def beta(p: Array, y: Array, old: Array, new: Array) -> Array:
        match kind:
            case "polak-ribiere":
                return jnp.maximum(new @ y / (old @ old), 0)
            case "fletcher-reeves":
                return new @ new / (old @ old)
            case "hestenes-stiefel":
                return jnp.maximum(new @ y / (p @ y), 0)
        lowest = -1 / (jnp.linalg.norm(p) * jnp.minimum(0.01, jnp.linalg.norm(old)))
        return jnp.maximum((y - 2 * p * (y @ y) / (p @ y)) @ new / (p @ y), lowest)

    def update(rule: Array, p: Array, s: Array, y: Array, gradient: Array) -> Array:
        conjugate = beta(p, y, gradient - y, gradient)
        return jnp.where(jnp.isfinite(conjugate), conjugate, 0) * p

    return descent(jnp.zeros_like, lambda rule, objective, x, g: rule - g, update, search or strong_wolfe(curvature=0.1), has_unit_step=False)
