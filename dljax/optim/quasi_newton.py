"""Quasi-Newton methods with a dense matrix: BFGS, DFP and SR1."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.core.contract import Numeric
from dljax.optim.descent import descent
from dljax.optim.line_search import LineSearch, strong_wolfe
from dljax.optim.method import Method, Objective
from dljax.optim.newton import trust_region


def bfgs(search: LineSearch | None = None) -> Method:
    """Broyden, Fletcher, Goldfarb and Shanno: the inverse Hessian from changes of the gradient.

      H⁺ = (I - ρ s yᵀ) H (I - ρ y sᵀ) + ρ s sᵀ,   ρ = 1 / yᵀs

    On a quadratic with exact line searches it ends after n steps, with H = ∇²f⁻¹.

    Args:
      search: `strong_wolfe()` by default.
    Source: Nocedal and Wright (2006), algorithm 6.1 with the first scaling of eq. 6.20.

    >>> from dljax.optim.minimize import minimize
    >>> bool(minimize(lambda x: ((x - 3.0) ** 2).sum(), jnp.zeros(3), method=bfgs()).converged)
    True
    """

    def formula(H: Array, s: Array, y: Array) -> Array:
        rho, Hy = 1 / (s @ y), H @ y
        # The product written out: n² operations instead of n³.
        return H - rho * (jnp.outer(s, Hy) + jnp.outer(Hy, s)) + (rho**2 * (y @ Hy) + rho) * jnp.outer(s, s)

    return _inverse_updates(formula, search)


def dfp(search: LineSearch | None = None) -> Method:
    """Davidon, Fletcher and Powell: the first quasi-Newton method, BFGS with the roles of s and y exchanged.

      H⁺ = H - H y yᵀ H / yᵀH y + s sᵀ / yᵀs

    It recovers from a bad matrix more slowly than BFGS does.

    Args:
      search: `strong_wolfe()` by default, with c₂ = 0.1: its steps must be more exact.
    Source: Davidon (1959); Fletcher and Powell (1963); Nocedal and Wright (2006), eq. 6.15.

    >>> from dljax.optim.minimize import minimize
    >>> bool(minimize(lambda x: ((x - 3.0) ** 2).sum(), jnp.zeros(3), method=dfp()).converged)
    True
    """

    def formula(H: Array, s: Array, y: Array) -> Array:
        Hy = H @ y
        return H - jnp.outer(Hy, Hy) / (y @ Hy) + jnp.outer(s, s) / (s @ y)

    return _inverse_updates(formula, search or strong_wolfe(curvature=0.1))


def sr1(radius: Numeric = 1.0, max_radius: Numeric = 1e3) -> Method:
    """Symmetric rank one: the Hessian from changes of the gradient, indefinite where the function is, in a trust region.

      B⁺ = B + r rᵀ / rᵀs,   r = y - B s;   skipped where |rᵀs| < 10⁻⁸ |r| |s|

    Args:
      radius, max_radius: of the trust region, > 0.
    Raises:
      ValueError: an option out of its range.
    Source: Nocedal and Wright (2006), algorithm 6.2.

    >>> from dljax.optim.minimize import minimize
    >>> bool(minimize(lambda x: ((x - 3.0) ** 2).sum(), jnp.zeros(3), method=sr1()).converged)
    True
    """

    def start(x: Array) -> Float[Array, "n n"]:
        return jnp.eye(x.size, dtype=x.dtype)

    def product(objective: Objective, B: Array, x: Array):
        return lambda v: B @ v

    def update(B: Array, s: Array, y: Array) -> Array:
        r = y - B @ s
        is_safe = jnp.abs(r @ s) > 1e-8 * jnp.linalg.norm(r) * jnp.linalg.norm(s)
        return jnp.where(is_safe & jnp.isfinite(r).all(), B + jnp.outer(r, r) / (r @ s), B)

    return trust_region("sr1", start, product, update, radius, max_radius)


def _inverse_updates(formula, search: LineSearch | None) -> Method:
    def start(gradient: Array) -> tuple[Array, Array]:
        return jnp.eye(gradient.size, dtype=gradient.dtype), jnp.bool_(True)

    def update(rule: tuple[Array, Array], p: Array, s: Array, y: Array, gradient: Array) -> tuple[Array, Array]:
        H, is_first = rule
        sy, yy = s @ y, y @ y
        H = jnp.where(is_first, sy / yy, 1) * H
        is_curved = sy > jnp.finfo(y.dtype).eps * yy
        return jnp.where(is_curved, formula(H, s, y), rule[0]), is_first & ~is_curved

    return descent(start, lambda rule, objective, x, gradient: -rule[0] @ gradient, update, search or strong_wolfe())
