"""Vector quantisation: the nearest of a few learned vectors, with a derivative, and a codebook that follows what is put into it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core.axis import bound_axis, psum
from dljax.core.checks import check_range
from dljax.core.contract import Key, Numeric


class Codebook(NamedTuple):
    """Vectors, and the running means that they are made of.

    Attributes:
      vectors: e_k.
      counts: N_k, how many inputs of a step are nearest to each.
      sums: m_k, of these inputs.
    """

    vectors: Float[Array, "K D"]
    counts: Float[Array, " K"]
    sums: Float[Array, "K D"]


def nearest_code(codebook: Float[Array, "K D"], x: Float[Array, "*B D"]) -> Int[Array, "*B"]:
    """The index of the vector nearest to each input, argmin_k |x - e_k|².

    >>> nearest_code(jnp.array([[0.0], [10.0]]), jnp.array([[4.0], [7.0], [-3.0]])).tolist()
    [0, 1, 0]
    """
    # |x|² is the same for all. Distances are taken from the middle of the book: far from zero they would lose their digits.
    middle = codebook.mean(0)
    e, x = codebook - jnp.expand_dims(middle, 0), x - jnp.expand_dims(middle, range(x.ndim - 1))
    squares = jnp.square(e).sum(-1)
    distance = jnp.expand_dims(squares, range(x.ndim - 1)) - 2 * jnp.matmul(x, e.T, precision=lax.Precision.HIGHEST)
    return distance.argmin(-1)


def quantised(codebook: Float[Array, "K D"], x: Float[Array, "*B D"]) -> tuple[Float[Array, "*B D"], Int[Array, "*B"]]:
    """The nearest vectors and their indices; the derivative goes straight through, from the vectors to the inputs.

      q(x) = e_k,   k = argmin_j |x - e_j|²,   ∂q/∂x := I,   ∂q/∂e := 0

    Source: van den Oord, Vinyals and Kavukcuoglu (2017), Neural Discrete Representation Learning, eq. 1-2 and section 3.2.

    >>> codebook, x = jnp.array([[0.0], [10.0]]), jnp.array([[4.0], [7.0]])
    >>> quantised(codebook, x)[0].tolist(), jax.grad(lambda x: quantised(codebook, x)[0].sum())(x).tolist()
    ([[0.0], [10.0]], [[1.0], [1.0]])
    """
    index = nearest_code(codebook, x)
    return lax.stop_gradient(codebook[index]) + (x - lax.stop_gradient(x)), index


def started_codebook(key: Key, x: Float[Array, "N D"], num_codes: int) -> Codebook:
    """A codebook whose vectors are inputs drawn at random, different ones where there are enough.

    >>> started_codebook(jax.random.key(0), jnp.ones((2, 3)), 4).vectors.shape
    (4, 3)
    """
    vectors = x[jax.random.choice(key, len(x), (num_codes,), replace=len(x) < num_codes)]
    counts = jnp.full(num_codes, len(x) / num_codes, x.dtype)
    return Codebook(vectors, counts, vectors * counts[:, None])


def moved_codebook(
    key: Key, codebook: Codebook, x: Float[Array, "N D"], index: Int[Array, " N"], *, decay: Numeric = 0.99, restart: Numeric = 0.1
) -> Codebook:
    """The codebook after a step of k-means on a running mean of its inputs.

      N_k ← γ N_k + (1 - γ) n_k,   m_k ← γ m_k + (1 - γ) Σ_{i: index_i = k} x_i,   e_k = m_k / N_k

    With γ = 0 it is one step of Lloyd's algorithm. A vector that nothing is near to stays where it is, until its N_k is below `restart` times an even
    share of all: then it starts again at an input drawn at random, with an even share. Where a data-parallel axis is bound, the inputs of all devices
    count, and those of the first are drawn from.

    Args:
      index: the nearest vector of each input.
      decay: γ in [0, 1); may be traced.
      restart: in [0, 1); 0 for never; may be traced.
    Raises:
      ValueError: a concrete option out of its range.
    Source: van den Oord et al. (2017), appendix A.1; Dhariwal et al. (2020), Jukebox, section 3.1 (random restarts).

    >>> book = Codebook(jnp.array([[0.0], [10.0]]), jnp.ones(2), jnp.array([[0.0], [10.0]]))
    >>> moved_codebook(jax.random.key(0), book, jnp.array([[4.0], [7.0], [-3.0]]), jnp.array([0, 1, 0]), decay=0.0).vectors.tolist()
    [[0.5], [7.0]]
    """
    check_range("moved_codebook", "decay", decay, 0, 1, open_high=True)
    check_range("moved_codebook", "restart", restart, 0, 1, open_high=True)
    num_codes = len(codebook.vectors)
    added = psum((jnp.zeros_like(codebook.counts).at[index].add(1), jnp.zeros_like(codebook.sums).at[index].add(x)))
    counts, sums = (decay * old + (1 - decay) * new for old, new in zip(codebook[1:], added, strict=True))
    even = counts.sum() / num_codes
    is_known = counts > 1e-6 * even  # what is left of a count that nothing has been added to for long is rounding
    vectors = jnp.where(is_known[:, None], sums / jnp.where(is_known, counts, 1)[:, None], codebook.vectors)
    is_dead = counts < restart * even
    axis = bound_axis()
    is_first = 1.0 if axis is None else (lax.axis_index(axis) == 0).astype(x.dtype)
    drawn = psum(is_first * x[jax.random.randint(key, (num_codes,), 0, len(x))])
    vectors = jnp.where(is_dead[:, None], drawn, vectors)
    counts = jnp.where(is_dead, even, counts)
    return Codebook(vectors, counts, jnp.where(is_dead[:, None], drawn * even, sums))
