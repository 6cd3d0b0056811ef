"""Metrics: of single examples, shaped like losses and averaged by who asks; and of a whole ranking, which are no mean of anything."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

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


def area_under_roc(scores: Float[Array, "B"], labels: Shaped[Array, "B"], weights: Shaped[Array, "B"] | None = None) -> Float[Array, ""]:
    """AUC: how probably a positive example has a higher score than a negative one; equal scores count half.

      Σ_{i: y=1} Σ_{j: y=0} w_i w_j (1[s_i > s_j] + ½ 1[s_i = s_j]) / Σ_{i: y=1} w_i Σ_{j: y=0} w_j

    Exact, by sorting, in O(B log B). It is no mean over examples: in a `Fold` it is taken of all scores at the end.

    Args:
      scores: s, in any units; infinite ones are fine.
      labels: y, 1 or True for positive, 0 or False for negative.
      weights: w >= 0 or a mask; an example of weight 0 does not exist, whatever its score. None counts all alike.
    Returns:
      a number in [0, 1]; NaN where one of the classes is missing, since it is not defined then.
    Source: Hanley & McNeil (1982), Radiology 143; the values are those of scikit-learn's `roc_auc_score`.

    >>> float(area_under_roc(jnp.array([0.1, 0.4, 0.4, 0.9]), jnp.array([0, 0, 1, 1])))
    0.875
    """
    positive, negative, first, last = _ranked(scores, labels, weights)
    below = _summed(negative)
    # The negatives below a score, and half of those that equal it.
    wins = positive * (below[first] + below[last]) / 2
    return _ratio(wins.sum(), positive.sum() * negative.sum())


def average_precision(scores: Float[Array, "B"], labels: Shaped[Array, "B"], weights: Shaped[Array, "B"] | None = None) -> Float[Array, ""]:
    """AP: the precision at the score of each positive example, averaged over them; the area under the steps of precision by recall.

      Σ_{i: y=1} w_i precision(s_i) / Σ_{i: y=1} w_i,   precision(s) = Σ_{j: y=1, s_j >= s} w_j / Σ_{j: s_j >= s} w_j

    Args, Returns: as for `area_under_roc`, but only positive examples must not be missing.
    Source: the values are those of scikit-learn's `average_precision_score`, equal scores included (they share one precision).

    >>> round(float(average_precision(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1]))), 4)
    0.8333
    """
    positive, negative, first, _ = _ranked(scores, labels, weights)
    hits, others = (values.sum() - _summed(values)[first] for values in (positive, negative))
    precision = hits / jnp.where(hits > 0, hits + others, 1)
    return _ratio((positive * precision).sum(), positive.sum())


def _ranked(scores: Array, labels: Array, weights: Array | None) -> tuple[Array, Array, Array, Array]:
    """Weights of the positive and of the negative examples by ascending score; for each, how many scores are below it, and how many not above."""
    dtype = jnp.promote_types(scores.dtype, jnp.float32)
    given = jnp.ones(scores.shape, dtype) if weights is None else weights.astype(dtype)
    # Last, with one score, so that a NaN in the padding does not part what is equal.
    scores = jnp.where(given > 0, scores, jnp.inf)
    order = jnp.argsort(scores)
    ordered, given = scores[order], given[order]
    is_positive = labels[order] > 0
    first, last = (jnp.searchsorted(ordered, ordered, side=side) for side in ("left", "right"))
    return jnp.where(is_positive, given, 0), jnp.where(is_positive, 0, given), first, last


def _summed(values: Array) -> Array:
    """Sums of the first 0, 1 ... B values."""
    return jnp.concatenate([jnp.zeros(1, values.dtype), jnp.cumsum(values)])


def _ratio(total: Array, weight: Array) -> Array:
    return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1), jnp.nan)
