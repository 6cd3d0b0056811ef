"""Margin losses: functions of how far on the right side of the boundary an example lies."""

import jax.numpy as jnp
from jax.nn import relu, softplus
from jaxtyping import Array, Float, Num, Shaped

from dljax.core.checks import check_choice, check_range
from dljax.core.contract import Numeric
from dljax.objectives.losses import check_labels


def logistic_loss(scores: Float[Array, "*B"], targets: Num[Array, "*targets"]) -> Float[Array, "*B"]:
    """Negative log-likelihood of targets -1 and 1 under the logistic model, in nats.

      log(1 + exp(-y s))

    It is `sigmoid_binary_cross_entropy`, whose targets are 0 and 1 or between.

    Args:
      scores: s, the logits of 1.
      targets: y in {-1, 1}.
    Raises:
      ValueError: the shapes differ.

    >>> print(logistic_loss(jnp.zeros(1), jnp.ones(1)))  # log 2
    [0.6931472]
    """
    return softplus(-_margins("logistic_loss", scores, targets))


def hinge_loss(scores: Float[Array, "*B"], targets: Num[Array, "*targets"], *, power: int = 1) -> Float[Array, "*B"]:
    """The loss of support vector machines: zero from a margin of one on.

      max(0, 1 - y s)^k

    Args:
      scores: s, of any scale.
      targets: y in {-1, 1}.
      power: k, 1 or 2 (smooth where the loss sets in).
    Raises:
      ValueError: the shapes differ; another power.
    Source: Cortes and Vapnik (1995), Support-Vector Networks.

    >>> hinge_loss(jnp.array([0.5, 3.0]), jnp.array([1, 1])).tolist()
    [0.5, 0.0]
    """
    check_choice("hinge_loss", "power", power, (1, 2))
    return relu(1 - _margins("hinge_loss", scores, targets)) ** power


def multiclass_hinge_loss(
    scores: Float[Array, "*B C"], labels: Shaped[Array, "*labels"], *, margin: Numeric = 1.0, kind: str = "crammer-singer"
) -> Float[Array, "*B"]:
    """The hinge loss of more than two classes.

      "crammer-singer":  max(0, m + max_{c ≠ y} s_c - s_y)
      "weston-watkins":  Σ_{c ≠ y} max(0, m + s_c - s_y)

    Args:
      scores: of C >= 2 classes.
      labels: classes in [0, C); a label outside gives NaN.
      margin: m >= 0; may be traced.
      kind: which of the two; PyTorch's `multi_margin_loss` is the second divided by C.
    Raises:
      ValueError: the shapes do not match; a negative margin; an unknown kind.
    Source: Crammer and Singer (2001), JMLR 2; Weston and Watkins (1999), ESANN.

    >>> scores = jnp.array([[1.0, 1.5, 0.5]])
    >>> [float(multiclass_hinge_loss(scores, jnp.array([0]), kind=kind)[0]) for kind in ("crammer-singer", "weston-watkins")]
    [1.5, 2.0]
    """
    check_range("multiclass_hinge_loss", "margin", margin, 0)
    check_choice("multiclass_hinge_loss", "kind", kind, ("crammer-singer", "weston-watkins"))
    num_classes = check_labels("multiclass_hinge_loss", scores, labels)
    is_class = (labels >= 0) & (labels < num_classes)
    safe_labels = jnp.where(is_class, labels, 0)[..., None]
    is_other = jnp.arange(num_classes).reshape((1,) * labels.ndim + (-1,)) != safe_labels
    excess = relu(margin + scores - jnp.take_along_axis(scores, safe_labels, -1))
    losses = jnp.where(is_other, excess, 0)
    return jnp.where(is_class, losses.max(-1) if kind == "crammer-singer" else losses.sum(-1), jnp.nan)


def _margins(who: str, scores: Array, targets: Array) -> Array:
    if scores.shape != targets.shape:
        raise ValueError(f"{who}: scores and targets must have one shape, got {scores.shape} and {targets.shape}")
    return scores * targets
