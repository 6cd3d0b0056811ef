"""L-BFGS: a quasi-Newton method that remembers the last few steps instead of a matrix (Liu and Nocedal, 1989)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.optim.descent import descent
from dljax.optim.line_search import LineSearch, strong_wolfe
from dljax.optim.method import Method


class LBFGSMemory(NamedTuple):
    """The last m steps and changes of the gradient, and their products; rows of zeros where there are fewer.

    Attributes:
      steps, changes: S and Y, a pair (s, y) in each row, the oldest first.
      inverse: R⁻¹, R upper triangular with R_ij = s_iᵀ y_j for i <= j.
      curvatures: D, s_iᵀ y_i.
      gram: Y Yᵀ.
      scale: γ = sᵀy / yᵀy of the newest pair.
    """

    steps: Float[Array, "m n"]
    changes: Float[Array, "m n"]
    inverse: Float[Array, "m m"]
    curvatures: Float[Array, " m"]
    gram: Float[Array, "m m"]
    scale: Float[Array, ""]


def lbfgs(memory_size: int = 10, search: LineSearch | None = None) -> Method:
    """Limited-memory BFGS.

      p = -H g,   H = γ I + [S γY] [[R⁻ᵀ (D + γ YᵀY) R⁻¹, -R⁻ᵀ], [-R⁻¹, 0]] [S γY]ᵀ

    The same matrix as the two-loop recursion's, in a form of few large products instead of 4m small ones. R⁻¹ is kept instead of R: appending a pair
    adds a column to it, and leaving out the oldest leaves out its first row and column. A pair whose curvature sᵀy is not positive is not remembered.

    Args:
      memory_size: m >= 1, pairs that are remembered.
      search: `strong_wolfe()` by default.
    Raises:
      ValueError: m < 1.
    Source: Byrd, Nocedal and Schnabel (1994), Representations of quasi-Newton matrices, theorem 2.2.

    >>> from dljax.optim.minimize import minimize
    >>> result = minimize(lambda x: ((x - 3.0) ** 2).sum(), jnp.zeros(4), method=lbfgs(memory_size=5))
    >>> result.x.tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    check_int("lbfgs", "memory_size", memory_size, minimum=1)

    return descent(
        lambda gradient: start(memory_size, gradient),
        lambda memory, objective, x, gradient: direction(memory, gradient),
        lambda memory, p, s, y, gradient: update(memory, s, y),
        search or strong_wolfe(),
    )


def start(memory_size: int, gradient: Float[Array, " n"]) -> LBFGSMemory:
    """An empty memory, for vectors like this gradient."""
    rows, square = jnp.zeros((memory_size, gradient.size), gradient.dtype), jnp.zeros((memory_size, memory_size), gradient.dtype)
    return LBFGSMemory(rows, rows, square, square[0], square, jnp.ones((), gradient.dtype))


def direction(memory: LBFGSMemory, gradient: Float[Array, " n"]) -> Float[Array, " n"]:
    """-H g."""
    S, Y, inverse, curvatures, gram, scale = memory
    along, across = S @ gradient, Y @ gradient
    solved = inverse @ along
    first = (curvatures * solved + scale * (gram @ solved) - scale * across) @ inverse
    return -scale * gradient - first @ S + scale * (solved @ Y)


def update(memory: LBFGSMemory, s: Float[Array, " n"], y: Float[Array, " n"]) -> LBFGSMemory:
    """With one pair more and the oldest left out."""
    sy, yy = s @ y, y @ y
    S, Y = _appended(memory.steps, s), _appended(memory.changes, y)
    kept = memory.inverse[1:, 1:]
    column = jnp.append(-(kept @ (S[:-1] @ y)), 1) / sy
    products = Y @ y
    after = LBFGSMemory(
        steps=S,
        changes=Y,
        inverse=jnp.pad(kept, ((0, 1), (0, 1))).at[:, -1].set(column),
        curvatures=_appended(memory.curvatures, sy),
        gram=jnp.pad(memory.gram[1:, 1:], ((0, 1), (0, 1))).at[:, -1].set(products).at[-1].set(products),
        scale=sy / yy,
    )
    is_curved = sy > jnp.finfo(y.dtype).eps * yy
    return jax.tree.map(lambda new, old: jnp.where(is_curved, new, old), after, memory)


def _appended(rows: Array, new: Array) -> Array:
    return jnp.concatenate([rows[1:], new[None]])
