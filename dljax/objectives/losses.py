"""Losses of single examples: targets in, one value an example out; the learner averages them over its batch."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Num, Shaped
from optax.losses import sigmoid_binary_cross_entropy

from dljax.core.checks import check_range
from dljax.core.contract import Numeric

__all__ = [
    "absolute_error", "cosine_distance", "cross_entropy", "focal_loss", "huber_loss", "log_cosh", "quantile_loss", "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss", "softmax_cross_entropy", "squared_error",
]  # fmt: skip


def squared_error(predictions: Float[Array, "*B"], targets: Num[Array, "*targets"]) -> Float[Array, "*B"]:
    """Squared difference, element by element, without optax's factor of one half in `l2_loss`.

      (ŷ - y)²

    Raises:
      ValueError: the shapes differ; `[B]` against `[B, 1]` would silently compare every pair.

    >>> squared_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).tolist()
    [0.0, 4.0]
    """
    _check_shapes("squared_error", predictions, targets)
    return jnp.square(predictions - targets)


def absolute_error(predictions: Float[Array, "*B"], targets: Num[Array, "*targets"]) -> Float[Array, "*B"]:
    """Absolute difference, element by element, whose best constant is the median.

      |ŷ - y|

    Raises:
      ValueError: the shapes differ.

    >>> absolute_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).tolist()
    [0.0, 2.0]
    """
    _check_shapes("absolute_error", predictions, targets)
    return jnp.abs(predictions - targets)


def huber_loss(predictions: Float[Array, "*B"], targets: Num[Array, "*targets"], *, delta: Numeric = 1.0) -> Float[Array, "*B"]:
    """Quadratic near zero, linear beyond: squared error with clipped gradients.

      e²/2 for |e| <= δ,  δ (|e| - δ/2) beyond,   e = ŷ - y

    Args:
      delta: δ > 0; may be traced.
    Raises:
      ValueError: the shapes differ; `delta` <= 0.
    Source: Huber (1964), Robust Estimation of a Location Parameter.

    >>> huber_loss(jnp.array([0.5, 3.0]), jnp.zeros(2)).tolist()
    [0.125, 2.5]
    """
    check_range("huber_loss", "delta", delta, 0, open_low=True)
    _check_shapes("huber_loss", predictions, targets)
    return optax.losses.huber_loss(predictions, targets, delta=delta)


def log_cosh(predictions: Float[Array, "*B"], targets: Num[Array, "*targets"]) -> Float[Array, "*B"]:
    """Smooth between squared and absolute error.

      log cosh(ŷ - y)

    Raises:
      ValueError: the shapes differ.

    >>> log_cosh(jnp.array([0.0]), jnp.array([0.0])).tolist()
    [0.0]
    """
    _check_shapes("log_cosh", predictions, targets)
    return optax.losses.log_cosh(predictions, targets)


def quantile_loss(predictions: Float[Array, "*B"], targets: Num[Array, "*targets"], *, quantile: Numeric) -> Float[Array, "*B"]:
    """The pinball loss, whose best constant is a quantile of the targets.

      q e for e >= 0,  (q - 1) e below,   e = y - ŷ

    Args:
      quantile: q in [0, 1]; may be traced.
    Raises:
      ValueError: the shapes differ; `quantile` is outside [0, 1].
    Source: Koenker and Bassett (1978), Regression Quantiles.

    >>> quantile_loss(jnp.zeros(2), jnp.array([1.0, -1.0]), quantile=0.75).tolist()
    [0.75, 0.25]
    """
    check_range("quantile_loss", "quantile", quantile, 0, 1)
    _check_shapes("quantile_loss", predictions, targets)
    errors = targets - predictions
    return jnp.maximum(quantile * errors, (quantile - 1) * errors)


def cosine_distance(predictions: Float[Array, "*B D"], targets: Float[Array, "*targets"], *, epsilon: Numeric = 1e-8) -> Float[Array, "*B"]:
    """One minus the cosine of the angle between two vectors, between 0 and 2.

      1 - u·v / (max(|u|, ε) max(|v|, ε))

    Args:
      epsilon: ε >= 0, the least length divided by, so that a vector of zeros has distance 1 and a finite gradient; may be traced.
    Raises:
      ValueError: the shapes differ; `epsilon` < 0.

    >>> cosine_distance(jnp.array([[2.0, 0.0], [0.0, 0.0]]), jnp.array([[0.0, 1.0], [0.0, 1.0]])).tolist()
    [1.0, 1.0]
    """
    check_range("cosine_distance", "epsilon", epsilon, 0)
    _check_shapes("cosine_distance", predictions, targets)
    return optax.losses.cosine_distance(predictions, targets, epsilon=epsilon**2)  # of the squared length


def cross_entropy(
    logits: Float[Array, "*B C"],
    labels: Shaped[Array, "*labels"],
    *,
    label_smoothing: Numeric = 0.0,
    where: Bool[Array, "*where"] | None = None,
) -> Float[Array, "*B"]:
    """Negative log-likelihood of integer labels under softmax, in nats.

      -(1 - ε) log p_y - ε/C Σ_c log p_c,   p = softmax(logits)

    Args:
      logits: unnormalised log-probabilities of C classes.
      labels: classes in [0, C). A label outside gives NaN, which the engine stops on: compiled code cannot raise an error. To be told
        beforehand, and which row it is, call `dljax.data.check_labels`.
      label_smoothing: ε in [0, 1]; may be traced.
      where: the classes that are possible, of a shape that broadcasts to the logits; the others have probability zero, whatever their logits, and C
        counts the possible ones. A label that is not possible gives NaN; a row where nothing is possible, 0.
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
    num_classes = check_labels("cross_entropy", logits, labels)
    is_class = (labels >= 0) & (labels < num_classes)
    safe_labels = jnp.where(is_class, labels, 0)
    is_smooth = not (isinstance(label_smoothing, int | float) and label_smoothing == 0)
    if where is None:
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, safe_labels)
        if is_smooth:
            losses = (1 - label_smoothing) * losses + label_smoothing * (jax.nn.logsumexp(logits, -1) - logits.mean(-1))
        return jnp.where(is_class, losses, jnp.nan)

    possible = jnp.broadcast_to(where, logits.shape)
    is_any = possible.any(-1)
    # Zeros instead of what does not count, which may be infinite; all of it where nothing counts, so that no logarithm of zero is taken.
    logits = jnp.where(possible, logits, 0)
    normaliser = jax.nn.logsumexp(logits, -1, where=possible | ~is_any[..., None])
    losses = normaliser - jnp.take_along_axis(logits, safe_labels[..., None], -1)[..., 0]
    if is_smooth:
        losses = (1 - label_smoothing) * losses + label_smoothing * (normaliser - logits.sum(-1) / jnp.maximum(possible.sum(-1), 1))
    is_class &= jnp.take_along_axis(possible, safe_labels[..., None], -1)[..., 0]
    return jnp.where(is_any, jnp.where(is_class, losses, jnp.nan), 0)


def softmax_cross_entropy(logits: Float[Array, "*B C"], targets: Float[Array, "*targets"]) -> Float[Array, "*B"]:
    """Cross-entropy of a distribution of targets and softmax, in nats: for soft labels, mixed examples, distillation.

      -Σ_c t_c log p_c,   p = softmax(logits)

    A class of target 0 counts for nothing, even where its logit is -inf. The learned part is the logits alone: no gradient goes to the targets.

    Args:
      logits: unnormalised log-probabilities of C classes.
      targets: t >= 0, adding up to one.
    Raises:
      ValueError: the shapes differ.

    >>> print(softmax_cross_entropy(jnp.zeros((1, 4)), jnp.array([[0.5, 0.5, 0.0, 0.0]])))
    [1.3862944]
    """
    _check_shapes("softmax_cross_entropy", logits, targets)
    return optax.losses.safe_softmax_cross_entropy(logits, jax.lax.stop_gradient(targets))


def focal_loss(logits: Float[Array, "*B C"], labels: Shaped[Array, "*labels"], *, gamma: Numeric = 2.0) -> Float[Array, "*B"]:
    """Cross-entropy in which examples that are right already count for less.

      -(1 - p_y)^γ log p_y,   p = softmax(logits)

    Args:
      logits: unnormalised log-probabilities of C >= 2 classes.
      labels: classes in [0, C); a label outside gives NaN.
      gamma: γ >= 0, 0 for cross-entropy; may be traced.
    Raises:
      ValueError: `gamma` < 0; the shapes of logits and labels do not match.
    Source: Lin et al. (2017), Focal Loss for Dense Object Detection, eq. 4; for two classes `sigmoid_focal_loss` has one logit.

    >>> print(focal_loss(jnp.zeros((1, 2)), jnp.array([0])))  # log(2) / 4
    [0.1732868]
    """
    check_range("focal_loss", "gamma", gamma, 0)
    losses = cross_entropy(logits, labels)
    is_label = jnp.arange(logits.shape[-1]).reshape((1,) * labels.ndim + (-1,)) == labels[..., None]
    # log(1 - p_y) from the other classes: one minus a rounded p_y is 0, where a power below one has no derivative.
    log_rest = jax.nn.logsumexp(logits, -1, where=~is_label) - jax.nn.logsumexp(logits, -1)
    return jnp.exp(gamma * log_rest) * losses


def sigmoid_focal_loss(
    logits: Float[Array, "*B"], targets: Num[Array, "*targets"], *, gamma: Numeric = 2.0, alpha: Numeric | None = None
) -> Float[Array, "*B"]:
    """Focal loss of yes-or-no questions.

      -α_t (1 - p_t)^γ log p_t,   p_t = σ(x) and α_t = α for y = 1,  p_t = 1 - σ(x) and α_t = 1 - α for y = 0

    Args:
      targets: y in {0, 1}, or between.
      gamma: γ >= 0; may be traced.
      alpha: in [0, 1], the weight of the positive examples; None for none. May be traced.
    Raises:
      ValueError: an option out of its range; the shapes differ.
    Source: Lin et al. (2017), Focal Loss for Dense Object Detection, eq. 5.

    >>> print(sigmoid_focal_loss(jnp.zeros(1), jnp.ones(1)))  # log(2) / 4
    [0.1732868]
    """
    check_range("sigmoid_focal_loss", "gamma", gamma, 0)
    if alpha is not None:
        check_range("sigmoid_focal_loss", "alpha", alpha, 0, 1)
    _check_shapes("sigmoid_focal_loss", logits, targets)
    return optax.losses.sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)


def check_labels(who: str, logits: Array, labels: Array) -> int:
    """Require one whole number for each row of logits, and return the number of classes.

    Raises:
      ValueError: another shape or dtype.

    >>> check_labels("hinge", jnp.zeros((2, 3)), jnp.array([0, 2]))
    3
    """
    if logits.shape[:-1] != labels.shape or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"{who}: labels must be whole numbers of shape {logits.shape[:-1]}, one for each row of the logits {logits.shape}, "
            f"got {labels.dtype}{list(labels.shape)}"
        )
    return logits.shape[-1]


def _check_shapes(who: str, predictions: Array, targets: Array) -> None:
    if predictions.shape != targets.shape:
        raise ValueError(f"{who}: predictions and targets must have one shape, got {predictions.shape} and {targets.shape}")
