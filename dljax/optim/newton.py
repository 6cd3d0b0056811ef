"""Newton's method: pure, damped, and with a trust region and Hessian products only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dljax.core.checks import check_range
from dljax.core.contract import Numeric
from dljax.optim.descent import descent
from dljax.optim.line_search import LineSearch, strong_wolfe
from dljax.optim.method import NO_PROGRESS, NOT_DESCENT, SINGULAR, Iterate, Method, Objective, moved, rounding


def newton() -> Method:
    """Newton's method as it stands: full steps, and a failure where the Hessian is singular or the step goes uphill.

      ∇²f p = -∇f,   x⁺ = x + p

    One step on a quadratic, quadratic convergence near a minimum, and no safety away from it.

    >>> from dljax.optim.minimize import minimize
    >>> int(minimize(lambda x: x @ jnp.array([[3.0, 1.0], [1.0, 2.0]]) @ x, jnp.ones(2), method=newton()).iterations)
    1
    """

    def step(objective: Objective, iterate: Iterate) -> Iterate:
        p = jnp.linalg.solve(hessian(objective, iterate.x), -iterate.gradient)
        is_regular = jnp.isfinite(p).all()
        # A singular matrix whose factors were rounded gives a huge p: no digit of it means anything.
        is_regular &= jnp.linalg.norm(p) * jnp.finfo(p.dtype).eps < 1 + jnp.linalg.norm(iterate.x)
        is_downhill = iterate.gradient @ p < 0
        status = jnp.where(is_regular, jnp.where(is_downhill, iterate.status, NOT_DESCENT), SINGULAR)
        x = jnp.where(is_regular & is_downhill, iterate.x + p, iterate.x)
        value, gradient = objective.value_and_grad(x)
        return iterate._replace(x=x, value=value, gradient=gradient, status=status, evaluations=iterate.evaluations + 1)

    return Method(lambda objective, x, value, gradient: (), step)


def damped_newton(search: LineSearch | None = None) -> Method:
    """Newton's method for functions that are not convex everywhere: eigenvalues made positive, and a line search.

      p = -V |Λ|⁻¹ Vᵀ ∇f,   ∇²f = V Λ Vᵀ

    Along directions of negative curvature it goes downhill as far as it would go up. No eigenvalue counts as less than nε times the largest, which
    rounding alone would give.

    Args:
      search: `strong_wolfe()` by default.
    Source: Nocedal and Wright (2006), section 3.4, eigenvalue modification.

    >>> from dljax.optim.minimize import minimize
    >>> result = minimize(lambda x: (x**4 - x**2).sum(), jnp.array([0.1, 2.0]), method=damped_newton())
    >>> result.x.round(3).tolist()
    [0.707..., 0.707...]
    """

    def direction(rule: tuple, objective: Objective, x: Array, gradient: Array) -> Array:
        curvatures, axes = jnp.linalg.eigh(hessian(objective, x))
        size = jnp.abs(curvatures)
        least = x.size * jnp.finfo(x.dtype).eps * jnp.max(size)
        return -axes @ ((gradient @ axes) / jnp.maximum(size, least))

    return descent(lambda gradient: (), direction, lambda rule, p, s, y, gradient: rule, search or strong_wolfe(), is_newton=True)


class TrustRegion(NamedTuple):
    """The memory of a trust-region method: the radius Δ, and the model's curvature where it is not the Hessian's."""

    radius: Float[Array, ""]
    model: Any


def newton_cg(radius: Numeric = 1.0, max_radius: Numeric = 1e3) -> Method:
    """Newton's method in a trust region, its steps by truncated conjugate gradients: Hessian products, never the matrix.

      p ≈ argmin ∇fᵀp + ½ pᵀ∇²f p   over |p| <= Δ

    A direction of negative curvature is followed to the boundary; the system is solved the more exactly the smaller the gradient is,
    |residual| <= min(½, √|∇f|) |∇f|, which makes convergence superlinear.

    Args:
      radius, max_radius: the first Δ and the largest, > 0.
    Raises:
      ValueError: an option out of its range.
    Source: Steihaug (1983); Nocedal and Wright (2006), algorithms 4.1 and 7.2.

    >>> from dljax.optim.minimize import minimize
    >>> result = minimize(lambda x: (x**4 - x**2).sum(), jnp.array([0.1, 2.0]), method=newton_cg())
    >>> bool(result.converged)
    True
    """

    def product(objective: Objective, model: Any, x: Array) -> Callable[[Array], Array]:
        return lambda v: objective.hessian_product(x, v)

    return trust_region("newton_cg", lambda x: (), product, lambda model, s, y: model, radius, max_radius)


def trust_region(
    who: str,
    start: Callable[[Array], Any],
    product: Callable[[Objective, Any, Array], Callable[[Array], Array]],
    update: Callable[[Any, Array, Array], Any],
    radius: Numeric,
    max_radius: Numeric,
) -> Method:
    """A trust-region method from its model of the curvature.

    Args:
      start: `x -> model`.
      product: `(objective, model, x) -> (v -> B v)`.
      update: `(model, s, y) -> model`, after every trial, whether its step is taken or not.
    Source: Nocedal and Wright (2006), algorithms 4.1 and 6.2.

    >>> method = trust_region("scaled", lambda x: (), lambda objective, model, x: lambda v: 2 * v, lambda model, s, y: model, 1.0, 10.0)
    >>> from dljax.optim.minimize import minimize
    >>> minimize(lambda x: (x**2).sum(), jnp.array([3.0]), method=method).x.tolist()
    [0.0]
    """
    check_range(who, "radius", radius, 0, open_low=True)
    check_range(who, "max_radius", max_radius, 0, open_low=True)

    def init(objective: Objective, x: Array, value: Array, gradient: Array) -> TrustRegion:
        return TrustRegion(jnp.asarray(radius, x.dtype), start(x))

    def step(objective: Objective, iterate: Iterate) -> Iterate:
        x, value, gradient, (radius, model) = iterate[:4]
        times = product(objective, model, x)
        p, curved = steihaug(times, gradient, radius)
        promised = -(gradient @ p + 0.5 * p @ curved)
        new_value, new_gradient = objective.value_and_grad(x + p)
        # Differences that are all rounding say nothing against the model (Conn, Gould and Toint, 2000, section 17.4.2).
        noise = rounding(value)
        ratio = (value - new_value + noise) / (promised + noise)
        ratio = jnp.where(jnp.isfinite(ratio) & jnp.isfinite(new_gradient).all(), ratio, -1)
        length = jnp.linalg.norm(p)
        is_good, is_bad, at_edge = ratio > 0.75, ratio < 0.25, length > 0.9 * radius
        new_radius = jnp.where(is_bad, 0.25 * length, jnp.where(is_good & at_edge, jnp.minimum(2 * radius, max_radius), radius))
        is_taken = ratio > 1e-4
        model = update(model, p, new_gradient - gradient)
        status = jnp.where(new_radius <= jnp.finfo(x.dtype).eps * (1 + jnp.linalg.norm(x)), NO_PROGRESS, iterate.status)
        return moved(iterate, is_taken, x + p, new_value, new_gradient)._replace(memory=TrustRegion(new_radius, model), status=status)

    return Method(init, step)


def steihaug(
    times: Callable[[Array], Array], gradient: Float[Array, " n"], radius: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Conjugate gradients for a quadratic model in a ball, stopped at its edge and where the curvature is not positive.

      min gᵀp + ½ pᵀB p   over |p| <= Δ

    Args:
      times: `v -> B v`, symmetric.
      gradient, radius: g and Δ > 0.
    Returns:
      p, and B p.
    Source: Steihaug (1983), SIAM J. Numer. Anal. 20; Nocedal and Wright (2006), algorithm 7.2.

    >>> steihaug(lambda v: 2 * v, jnp.array([-6.0, -8.0]), jnp.float32(10.0))[0].tolist()
    [3.0, 4.0]
    >>> steihaug(lambda v: -2 * v, jnp.array([-6.0, -8.0]), jnp.float32(10.0))[0].tolist()
    [6.0, 8.0]
    """
    size = jnp.linalg.norm(gradient)
    goal = jnp.minimum(0.5, jnp.sqrt(size)) * size

    def body(state: tuple) -> tuple:
        count, p, curved, rest, direction, _ = state
        along = times(direction)
        curvature, square = direction @ along, rest @ rest
        step = square / curvature
        leaves = (curvature <= 0) | (jnp.linalg.norm(p + step * direction) >= radius) | ~jnp.isfinite(step)
        step = jnp.where(leaves, _to_edge(p, direction, radius), step)
        new_rest = rest + step * along
        stops = leaves | (jnp.linalg.norm(new_rest) <= goal)
        direction = (new_rest @ new_rest) / square * direction - new_rest
        return count + 1, p + step * state[4], curved + step * along, new_rest, direction, stops

    start = jnp.int32(0), jnp.zeros_like(gradient), jnp.zeros_like(gradient), gradient, -gradient, size == 0
    return lax.while_loop(lambda state: ~state[5] & (state[0] < 2 * gradient.size + 10), body, start)[1:3]


def hessian(objective: Objective, x: Float[Array, " n"]) -> Float[Array, "n n"]:
    """The whole matrix, a product with each unit vector."""
    return jax.vmap(lambda v: objective.hessian_product(x, v))(jnp.eye(x.size, dtype=x.dtype))


def _to_edge(p: Array, direction: Array, radius: Array) -> Array:
    """τ >= 0 with |p + τ d| = Δ."""
    a, b, c = direction @ direction, p @ direction, radius**2 - p @ p
    return c / (b + jnp.sqrt(b**2 + a * c))
