"""Losses of single examples: targets in, one value an example out; the learner averages them over its batch."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Num, Shaped
from optax.losses import cosine_distance, huber_loss, sigmoid_binary_cross_entropy

from dljax.core.checks import check_range
from dljax.core.contract import Numeric

__all__ = ["cosine_distance", "cross_entropy", "huber_loss", "sigmoid_binary_cross_entropy", "squared_error"]


def cross_entropy(logits: Float[Array, "*B C"], labels: Shaped[Array, "*labels"], *, label_smoothing: Numeric = 0.0) -> Float[Array, "*B"]:
    """Negative log-likelihood of integer labels under softmax, in nats.

      -(1 - ε) log p_y - ε/C Σ_c log p_c,   p = softmax(logits)

    Args:
      logits: unnormalised log-probabilities of C classes.
      labels: classes in [0, C). A label outside gives NaN, which the engine stops on: compiled code cannot raise an error. To be told
        beforehand, and which row it is, call `dljax.data.check_labels`.
      label_smoothing: ε in [0, 1]; may be traced.
    Returns:
      One value >= 0 for each label.
    Raises:
      ValueError: `label_smoothing` is outside [0, 1]; the shapes of logits and labels do not match.

    >>> print(cross_entropy(jnp.zeros((1, 4)), jnp.array([2])))  # log 4
    [1.3862944]
    >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([4])).tolist()
    [nan]
    """
    check_range("cross_entropy", "label_smoothing", label_smoothing, 0, 1)
    if logits.shape[:-1] != labels.shape or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"cross_entropy: labels must be whole numbers of shape {logits.shape[:-1]}, one for each row of the logits {logits.shape}, "
            f"got {labels.dtype}{list(labels.shape)}"
        )
    num_classes = logits.shape[-1]
    is_class = (labels >= 0) & (labels < num_classes)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.where(is_class, labels, 0))
    if not (isinstance(label_smoothing, int | float) and label_smoothing == 0):
        losses = (1 - label_smoothing) * losses + label_smoothing * (jax.nn.logsumexp(logits, -1) - logits.mean(-1))
    return jnp.where(is_class, losses, jnp.nan)


def squared_error(predictions: Float[Array, "*B"], targets: Num[Array, "*targets"]) -> Float[Array, "*B"]:
    """Squared difference, element by element, without optax's factor of one half in `l2_loss`.

      (ŷ - y)²

    Raises:
      ValueError: the shapes differ; `[B]` against `[B, 1]` would silently compare every pair.

    >>> squared_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).tolist()
    [0.0, 4.0]
    """
    if predictions.shape != targets.shape:
        raise ValueError(f"squared_error: predictions and targets must have one shape, got {predictions.shape} and {targets.shape}")
    return jnp.square(predictions - targets)
