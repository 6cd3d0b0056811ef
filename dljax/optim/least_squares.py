"""Least squares: Gauss-Newton and Levenberg-Marquardt on residuals."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from dljax.core.checks import check_choice, check_range
from dljax.core.contract import Numeric, Params
from dljax.optim.descent import descent
from dljax.optim.line_search import LineSearch, strong_wolfe
from dljax.optim.method import NO_PROGRESS, Iterate, Method, Objective, flat_residuals, moved, rounding
from dljax.optim.minimize import MinimizeResult, checked, run


def least_squares(
    residuals: Callable[[Params], Any],
    x0: Params,
    *,
    method: str | Method = "levenberg-marquardt",
    tolerance: Numeric = 1e-5,
    max_iterations: int = 1000,
    history: bool = False,
) -> MinimizeResult:
    """Find a local minimum of half a sum of squares.

      f(x) = ½ Σ_i r_i(x)²

    Args:
      residuals: `x -> r`, a pytree of arrays of any shape.
      x0: the start, a pytree of floating-point arrays.
      method: "levenberg-marquardt", "gauss-newton", any method of `minimize` made by its factory, whose Hessian products are then Gauss-Newton's.
      tolerance, max_iterations, history: as for `minimize`.
    Returns:
      A `MinimizeResult`; its `value` is f, ½ of the sum.
    Raises:
      ValueError: as `minimize`.

    >>> t = jnp.linspace(0.0, 1.0, 9)
    >>> result = least_squares(lambda x: x["a"] * jnp.exp(x["b"] * t) - 2 * jnp.exp(-t), {"a": jnp.ones(()), "b": jnp.zeros(())})
    >>> round(float(result.x["a"]), 3), round(float(result.x["b"]), 3)
    (2.0, -1.0)
    """
    method = checked("least_squares", method, METHODS, tolerance)
    objective, x, unravel = flat_residuals("least_squares", residuals, x0)
    return run("least_squares", method, objective, x, unravel, tolerance, max_iterations, history)


def gauss_newton(solver: str = "dense", search: LineSearch | None = None) -> Method:
    """Gauss-Newton: the residuals linearised, and a line search along the step to their least-squares solution.

      p = argmin |r + J p|²

    Args:
      solver: "dense" makes J and solves by its singular values, of which those below ε max(m, n) times the largest count as zero;
        "cg" makes only products with J and Jᵀ.
      search: `strong_wolfe()` by default.
    Raises:
      ValueError: an unknown solver.
    Source: Nocedal and Wright (2006), section 10.3.

    >>> result = least_squares(lambda x: x**2 - jnp.array([1.0, 4.0]), jnp.array([2.0, 1.0]), method=gauss_newton())
    >>> result.x.round(3).tolist()
    [1.0, 2.0]
    """
    check_choice("gauss_newton", "solver", solver, ("dense", "cg"))

    def direction(rule: tuple, objective: Objective, x: Array, gradient: Array) -> Array:
        if solver == "cg":
            return cg(lambda v: objective.hessian_product(x, v), -gradient, maxiter=x.size, tol=1e-4)[0]
        r, J = _linearised(_residuals("gauss_newton", objective), x)
        return -jnp.linalg.lstsq(J, r)[0]

    return descent(lambda gradient: (), direction, lambda rule, p, s, y, gradient: rule, search or strong_wolfe(), is_newton=True)


class Damping(NamedTuple):
    """The memory of Levenberg-Marquardt: λ, its growth at the next refusal, and the scale of each variable."""

    damping: Float[Array, ""]
    growth: Float[Array, ""]
    scale: Float[Array, " n"]


def levenberg_marquardt(damping: Numeric = 1e-3, solver: str = "dense") -> Method:
    """Levenberg-Marquardt: Gauss-Newton with damping, which grows when a step is refused and shrinks when the linearisation held.

      p = argmin |r + J p|² + λ |D p|²,   D_i = the largest |∂r/∂x_i| so far (dense), 1 (cg)

    Args:
      damping: the first λ > 0, relative to the scale of J.
      solver: "dense" makes J and solves by QR; "cg" makes only products with J and Jᵀ.
    Raises:
      ValueError: an option out of its range.
    Source: Marquardt (1963); Moré (1978) for D; Nielsen (1999), Damping parameter in Marquardt's method, for λ.

    >>> result = least_squares(lambda x: jnp.array([10 * (x[1] - x[0] ** 2), 1 - x[0]]), jnp.array([-1.2, 1.0]), method=levenberg_marquardt())
    >>> result.x.round(3).tolist()
    [1.0, 1.0]
    """
    check_range("levenberg_marquardt", "damping", damping, 0, open_low=True)
    check_choice("levenberg_marquardt", "solver", solver, ("dense", "cg"))

    def init(objective: Objective, x: Array, value: Array, gradient: Array) -> Damping:
        _residuals("levenberg_marquardt", objective)
        return Damping(jnp.asarray(damping, x.dtype), jnp.asarray(2, x.dtype), jnp.zeros_like(x) if solver == "dense" else jnp.ones_like(x))

    def step(objective: Objective, iterate: Iterate) -> Iterate:
        x, value, gradient, (damping, growth, scale) = iterate[:4]
        if solver == "dense":
            r, J = _linearised(_residuals("levenberg_marquardt", objective), x)
            scale = jnp.maximum(scale, jnp.linalg.norm(J, axis=0))
            D = jnp.where(scale > 0, scale, 1)
            Q, R = jnp.linalg.qr(jnp.concatenate([J, jnp.diag(jnp.sqrt(damping) * D)]))
            p = -jax.scipy.linalg.solve_triangular(R, r @ Q[: r.size])
        else:
            D = scale
            p = cg(lambda v: objective.hessian_product(x, v) + damping * v, -gradient, maxiter=x.size, tol=1e-4)[0]
        # What the linearised residuals promise: ½|r|² - ½|r + Jp|².
        promised = 0.5 * (damping * (D * p) @ (D * p) - gradient @ p)
        new_value, new_gradient = objective.value_and_grad(x + p)
        noise = rounding(value)
        ratio = (value - new_value + noise) / (promised + noise)
        is_taken = jnp.isfinite(ratio) & jnp.isfinite(new_gradient).all() & (ratio > 1e-4)
        shrunk = damping * jnp.maximum(1 / 3, 1 - (2 * ratio - 1) ** 3)
        memory = Damping(jnp.where(is_taken, shrunk, damping * growth), jnp.where(is_taken, 2, 2 * growth), scale)
        is_stuck = jnp.linalg.norm(p) <= jnp.finfo(x.dtype).eps * (jnp.finfo(x.dtype).eps + jnp.linalg.norm(x))
        is_stuck |= ~jnp.isfinite(memory.damping)
        status = jnp.where(is_stuck & ~is_taken, NO_PROGRESS, iterate.status)
        return moved(iterate, is_taken, x + p, new_value, new_gradient)._replace(memory=memory, status=status)

    return Method(init, step)


METHODS: Mapping[str, Callable[[], Method]] = {"gauss-newton": gauss_newton, "levenberg-marquardt": levenberg_marquardt}


def _linearised(residuals: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    r, push = jax.linearize(residuals, x)
    return r, jax.vmap(push, out_axes=1)(jnp.eye(x.size, dtype=x.dtype))


def _residuals(who: str, objective: Objective) -> Callable[[Array], Array]:
    if objective.residuals is None:
        raise ValueError(f"{who}: needs residuals, got a scalar function; call least_squares(residuals, x0)")
    return objective.residuals
