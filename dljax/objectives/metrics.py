"""Metrics of single examples, shaped like losses: one value an example, averaged by who asks."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int


def accuracy(logits: Float[Array, "*B C"], labels: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """1 where the largest logit is the label's, 0 elsewhere; the first of equal logits counts.

    >>> accuracy(jnp.array([[1.0, 2.0], [3.0, 0.0]]), jnp.array([1, 1])).tolist()
    [1.0, 0.0]
    """
    return (jnp.argmax(logits, -1) == labels).astype(jnp.float32)


def top_k(k: int):
    """A metric that is 1 where the label is among the k largest logits; the first of equal logits counts.

    Args:
      k: how many, from 1 to the number of classes.
    Returns:
      `metric(logits [*B, C], labels [*B]) -> [*B]`.
    Raises:
      ValueError: `k` < 1, or, when applied, above the number of classes.

    >>> top_k(2)(jnp.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), jnp.array([1, 2])).tolist()
    [1.0, 0.0]
    """
    check_int("top_k", "k", k, minimum=1)

    def metric(logits: Float[Array, "*B C"], labels: Int[Array, "*B"]) -> Float[Array, "*B"]:
        check_int("top_k", "k", k, minimum=1, maximum=logits.shape[-1])
        _, best = lax.top_k(logits, k)
        return jnp.any(best == labels[..., None], -1).astype(jnp.float32)

    return metric
