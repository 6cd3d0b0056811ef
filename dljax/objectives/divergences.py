"""Divergences of distributions over the last axis, with 0 log 0 = 0 in value and gradient."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def kl_divergence(log_predictions: Float[Array, "*B C"], targets: Float[Array, "*targets"]) -> Float[Array, "*B"]:
    """The Kullback-Leibler divergence of the targets from the predictions, in nats; the arguments are optax's and PyTorch's.

      KL(t ‖ p) = Σ_c t_c (log t_c - log p_c)

    Args:
      log_predictions: log p, of probabilities that add up to one (`jax.nn.log_softmax`).
      targets: t >= 0, adding up to one.
    Returns:
      Values >= 0; inf where a class with t > 0 has p = 0. A class with t = 0 gives 0 and no gradient, whatever its p.
    Raises:
      ValueError: the shapes differ.
    Source: Kullback and Leibler (1951), On Information and Sufficiency.

    >>> print(kl_divergence(jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([[1.0, 0.0]])))  # log 2
    [0.6931472]
    """
    _check_shapes("kl_divergence", log_predictions, targets)
    return _relative_entropy(targets, log_predictions)


def js_divergence(predictions: Float[Array, "*B C"], targets: Float[Array, "*targets"]) -> Float[Array, "*B"]:
    """The Jensen-Shannon divergence, symmetric and between 0 and log 2 nats; its square root is a metric.

      JS(p, t) = KL(p ‖ m)/2 + KL(t ‖ m)/2,   m = (p + t)/2

    Raises:
      ValueError: the shapes differ.
    Source: Lin (1991), Divergence Measures Based on the Shannon Entropy.

    >>> print(js_divergence(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])))  # log 2
    0.6931472
    """
    _check_shapes("js_divergence", predictions, targets)
    middle = (predictions + targets) / 2
    log_middle = jnp.where(middle > 0, jnp.log(jnp.where(middle > 0, middle, 1)), 0)
    return (_relative_entropy(predictions, log_middle) + _relative_entropy(targets, log_middle)) / 2


def total_variation(predictions: Float[Array, "*B C"], targets: Float[Array, "*targets"]) -> Float[Array, "*B"]:
    """The largest difference of the probabilities that two distributions give to any event, between 0 and 1.

      TV(p, t) = Σ_c |p_c - t_c| / 2

    Raises:
      ValueError: the shapes differ.

    >>> float(total_variation(jnp.array([1.0, 0.0]), jnp.array([0.25, 0.75])))
    0.75
    """
    _check_shapes("total_variation", predictions, targets)
    return jnp.abs(predictions - targets).sum(-1) / 2


def hellinger_distance(predictions: Float[Array, "*B C"], targets: Float[Array, "*targets"]) -> Float[Array, "*B"]:
    """The distance of the square roots of two distributions, a metric between 0 and 1.

      H(p, t) = √(Σ_c (√p_c - √t_c)² / 2)

    Where the two are equal the gradient, which has no limit, is 0; so is that of a probability of 0.

    Raises:
      ValueError: the shapes differ.

    >>> float(hellinger_distance(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])))
    1.0
    """
    _check_shapes("hellinger_distance", predictions, targets)
    return _root(jnp.square(_root(predictions) - _root(targets)).sum(-1) / 2)


def wasserstein_distance(
    predictions: Float[Array, "*B C"], targets: Float[Array, "*targets"], positions: Float[Array, " places"]
) -> Float[Array, "*B"]:
    """The earth mover's distance of two distributions on a line: the least mass times way that makes one the other.

      W₁(p, t) = ∫ |F_p(x) - F_t(x)| dx,   F the cumulative distribution; = max Σ_c (p_c - t_c) h(x_c) over h of slopes in [-1, 1]

    Args:
      predictions, targets: probabilities, each adding up to one.
      positions: x_c, ascending.
    Raises:
      ValueError: the shapes differ, or there is not one position for each probability.
    Source: Vallender (1974), Calculation of the Wasserstein Distance Between Probability Distributions on the Line.

    >>> float(wasserstein_distance(jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 1.0]), jnp.array([0.0, 1.0, 5.0])))
    5.0
    """
    _check_shapes("wasserstein_distance", predictions, targets)
    if positions.shape != predictions.shape[-1:]:
        raise ValueError(f"wasserstein_distance: each of {predictions.shape[-1]} places must have a position, got {positions.shape}")
    ahead = jnp.cumsum(predictions - targets, -1)[..., :-1]
    return (jnp.abs(ahead) @ jnp.diff(positions)) if ahead.shape[-1] else jnp.zeros(predictions.shape[:-1], predictions.dtype)


def _relative_entropy(p: Array, log_q: Array) -> Array:
    is_positive = p > 0
    log_p = jnp.log(jnp.where(is_positive, p, 1))
    return jnp.where(is_positive, p * (log_p - jnp.where(is_positive, log_q, 0)), 0).sum(-1)


def _root(x: Array) -> Array:
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def _check_shapes(who: str, predictions: Array, targets: Array) -> None:
    if predictions.shape != targets.shape:
        raise ValueError(f"{who}: both distributions must have one shape, got {predictions.shape} and {targets.shape}")
