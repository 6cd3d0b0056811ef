"""Calibration: how far probabilities are to be believed, and what makes them more so after training.

A classifier is calibrated if of all it says with confidence 0.8 four fifths are right.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dljax.core.checks import check_int
from dljax.objectives.losses import cross_entropy, sigmoid_binary_cross_entropy
from dljax.optim.minimize import minimize


class Reliability(NamedTuple):
    """What a reliability diagram draws: the accuracy of each bin of confidences over its mean confidence.

    Attributes:
      confidence, accuracy: means over a bin [K], 0 where it is empty.
      weight: the share of examples in each bin [K]; sums to 1.
    """

    confidence: Float[Array, " K"]
    accuracy: Float[Array, " K"]
    weight: Float[Array, " K"]

    @property
    def error(self) -> Float[Array, ""]:
        """Σ_k weight |accuracy - confidence|: the expected calibration error."""
        return (self.weight * jnp.abs(self.accuracy - self.confidence)).sum()


def reliability(probabilities: Float[Array, "N C"], labels: Int[Array, "*labels"], *, num_bins: int = 15, is_adaptive: bool = False) -> Reliability:
    """Confidences of the predicted classes, in bins of equal width or of equal number.

      bin k = {i : (k-1)/K < max_c p_ic <= k/K}

    Args:
      probabilities: of C classes, rows that sum to 1.
      labels: the true classes.
      num_bins: K >= 1.
      is_adaptive: bins with equally many examples, up to one, instead of equally wide ones.
    Returns:
      A `Reliability`.
    Raises:
      ValueError: K < 1; no examples; concrete probabilities that are outside [0, 1] or do not sum to 1: logits want `jax.nn.softmax` first.
    Source: Guo et al. (2017), On calibration of modern neural networks, eq. 2; Nguyen and O'Connor (2015) for adaptive bins.

    >>> diagram = reliability(jnp.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]), jnp.array([0, 1, 1]), num_bins=2)
    >>> diagram.accuracy.round(3).tolist() == jnp.array([0.0, 2 / 3]).round(3).tolist(), diagram.weight.tolist()
    (True, [0.0, 1.0])
    """
    _check("reliability", probabilities, labels)
    return _binned("reliability", probabilities.max(1), probabilities.argmax(1) == labels, num_bins, is_adaptive)


def expected_calibration_error(
    probabilities: Float[Array, "N C"], labels: Int[Array, "*labels"], *, num_bins: int = 15, is_adaptive: bool = False
) -> Float[Array, ""]:
    """ECE: the mean distance of accuracy and confidence over the bins of `reliability`.

      Σ_k n_k/N |accuracy_k - confidence_k|

    It is biased upwards: of N examples of a calibrated classifier it is about √(K/N) · 0.4, not 0.

    Args, Raises: as for `reliability`.
    Source: Naeini, Cooper and Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian binning.

    >>> float(expected_calibration_error(jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([0, 1])))
    0.5
    """
    return reliability(probabilities, labels, num_bins=num_bins, is_adaptive=is_adaptive).error


def classwise_calibration_error(probabilities: Float[Array, "N C"], labels: Int[Array, "*labels"], *, num_bins: int = 15) -> Float[Array, ""]:
    """The calibration error of each class's probability, averaged over classes: it sees also those that are not predicted.

      1/C Σ_c Σ_k n_ck/N |frequency_ck - mean p_ck|

    Args, Raises: as for `reliability`.
    Source: Kull et al. (2019), Beyond temperature scaling, eq. 3.

    >>> float(classwise_calibration_error(jnp.array([[0.5, 0.5], [0.5, 0.5]]), jnp.array([0, 1])))
    0.0
    """
    _check("classwise_calibration_error", probabilities, labels)
    is_class = labels[None, :] == jnp.arange(probabilities.shape[1])[:, None]
    return jax.vmap(lambda p, hit: _binned("classwise_calibration_error", p, hit, num_bins, False).error)(probabilities.T, is_class).mean()


def brier_score(probabilities: Float[Array, "*B C"], labels: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """The squared distance of the probabilities and the truth, one value an example, a proper score as the log-likelihood is.

      Σ_c (p_c - 1[c = y])²  in [0, 2]

    Raises:
      ValueError: concrete probabilities that are outside [0, 1] or do not sum to 1.
    Source: Brier (1950), Monthly Weather Review 78, eq. 2.

    >>> brier_score(jnp.array([[1.0, 0.0], [0.5, 0.5]]), jnp.array([1, 0])).tolist()
    [2.0, 0.5]
    """
    _check("brier_score", probabilities, labels)
    return jnp.square(probabilities - jax.nn.one_hot(labels, probabilities.shape[-1], dtype=probabilities.dtype)).sum(-1)


class Scaling(NamedTuple):
    """A map of logits that was fitted to held-out data; `scaling(logits)` applies it.

    Attributes:
      scale: factors of the logits, [] or [C]; of a temperature T it is 1/T.
      bias: [] or [C].
      converged: [] whether the fit reached a stationary point.
    """

    scale: Float[Array, "*C"]
    bias: Float[Array, "*C"]
    converged: Bool[Array, ""]

    def __call__(self, logits: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
        shape = (1,) * (logits.ndim - self.scale.ndim) + self.scale.shape
        return logits * self.scale.reshape(shape) + self.bias.reshape(shape)

    @property
    def temperature(self) -> Float[Array, "*C"]:
        """T = 1/scale; above 1 where the model was too confident."""
        return 1 / self.scale


def temperature_scaling(logits: Float[Array, "N C"], labels: Int[Array, "*labels"]) -> Scaling:
    """One temperature for all logits: it changes how sure a classifier is, never what it predicts.

      min_T  -1/N Σ_i log softmax(z_i / T)_{y_i},   T > 0

    Args:
      logits: of held-out examples, neither trained on nor tested on.
      labels: their classes.
    Returns:
      A `Scaling`. The function is pure: vmap it over the members of an ensemble. Where all predictions are right, T goes towards 0 until the
      gradient is within the tolerance.
    Raises:
      ValueError: no examples; shapes that do not match.
    Source: Guo et al. (2017), On calibration of modern neural networks, eq. 9.

    >>> logits = jnp.array([[8.0, 0.0], [8.0, 0.0], [8.0, 0.0], [8.0, 0.0]])
    >>> scaling = temperature_scaling(logits, jnp.array([0, 0, 0, 1]))
    >>> round(float(jax.nn.softmax(scaling(logits))[0, 0]), 3)  # as sure as it is right
    0.75
    """
    return _fitted("temperature_scaling", logits, labels, shape=None)


def vector_scaling(logits: Float[Array, "N C"], labels: Int[Array, "*labels"]) -> Scaling:
    """A factor and a bias for each class, which may change what is predicted.

      min_{w, b}  -1/N Σ_i log softmax(w ⊙ z_i + b)_{y_i},   w > 0

    Args, Raises: as for `temperature_scaling`; it needs more examples.
    Source: Guo et al. (2017), section 4.2.

    >>> vector_scaling(jnp.eye(3), jnp.arange(3)).scale.shape
    (3,)
    """
    return _fitted("vector_scaling", logits, labels, shape=logits.shape[1:])


def platt_scaling(scores: Float[Array, " N"], labels: Int[Array, "*labels"]) -> Scaling:
    """A factor and a bias for the scores of a binary classifier.

      min_{a, b}  -1/N Σ_i log σ(±(a s_i + b)),   + where y_i = 1, a > 0

    Args:
      scores: logits or any scores that rise with the probability of class 1, of held-out examples.
      labels: 0 or 1.
    Raises:
      ValueError: no examples; shapes that do not match.
    Source: Platt (1999), Probabilistic outputs for support vector machines, without his change of the targets.

    >>> scores = jnp.array([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])
    >>> scaling = platt_scaling(scores, jnp.array([0, 0, 1, 1, 1, 0]))
    >>> round(float(jax.nn.sigmoid(scaling(scores))[0]), 2)
    0.33
    """
    _check_rows("platt_scaling", scores.shape, labels)

    def objective(x: dict[str, Array]) -> Array:
        return sigmoid_binary_cross_entropy(jnp.exp(x["log_scale"]) * scores + x["bias"], labels.astype(scores.dtype)).mean()

    start = {"log_scale": jnp.zeros((), scores.dtype), "bias": jnp.zeros((), scores.dtype)}
    result = minimize(objective, start, method="bfgs", tolerance=_tolerance(scores))
    return Scaling(jnp.exp(result.x["log_scale"]), result.x["bias"], result.converged)


def _fitted(who: str, logits: Array, labels: Array, *, shape: tuple[int, ...] | None) -> Scaling:
    _check_rows(who, logits.shape[:-1], labels)
    if shape is None:
        # Only the differences of a row's logits matter: huge common values would take the precision from them.
        logits = logits - logits.max(-1, keepdims=True)
    # The start is where the confidence is moderate, or the gradient of logits of 1e4 would vanish on one side and explode on the other.
    size = jnp.maximum(jnp.std(logits), jnp.finfo(logits.dtype).tiny ** 0.5)
    logits = logits / size
    zero = jnp.zeros(shape or (), logits.dtype)

    def objective(x: dict[str, Array]) -> Array:
        return cross_entropy(logits * _row(jnp.exp(x["log_scale"]), logits) + _row(x.get("bias", zero), logits), labels).mean()

    start = {"log_scale": zero} | ({} if shape is None else {"bias": zero})
    result = minimize(objective, start, method="bfgs", tolerance=_tolerance(logits))
    return Scaling(jnp.exp(result.x["log_scale"]) / size, result.x.get("bias", zero), result.converged)


def _row(value: Array, like: Array) -> Array:
    return value.reshape((1,) * (like.ndim - value.ndim) + value.shape)


def _tolerance(x: Array) -> float:
    return 1e-5 if x.dtype == jnp.float32 else 1e-9


def _binned(who: str, confidence: Array, is_right: Array, num_bins: int, is_adaptive: bool) -> Reliability:
    check_int(who, "num_bins", num_bins, minimum=1)
    num = confidence.size
    if is_adaptive:
        place = jnp.argsort(jnp.argsort(confidence)) * num_bins // num
    else:
        place = jnp.clip(jnp.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts, confidences, hits = (
        jax.ops.segment_sum(values.astype(confidence.dtype), place, num_bins) for values in (jnp.ones(num), confidence, is_right)
    )
    filled = jnp.maximum(counts, 1)
    return Reliability(confidences / filled, hits / filled, counts / num)


def _check(who: str, probabilities: Any, labels: Any) -> None:
    _check_rows(who, probabilities.shape[:-1], labels)
    if isinstance(probabilities, jax.core.Tracer):
        return
    values = np.asarray(probabilities, np.float64)
    sums = values.sum(-1)
    wrong = ~((np.abs(sums - 1) <= 1e-2) & (values >= -1e-6).all(-1))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{who}: probabilities must be in [0, 1] and sum to 1 in each row, got the sum {sums.ravel()[row]:.4g} in row {row}, "
            f"values from {values.min():.4g} to {values.max():.4g}; apply jax.nn.softmax to logits"
        )


def _check_rows(who: str, rows: tuple[int, ...], labels: Any) -> None:
    if rows != labels.shape or 0 in rows:
        raise ValueError(f"{who}: there must be one label for each row, and at least one row, got {rows} rows and labels {labels.shape}")
