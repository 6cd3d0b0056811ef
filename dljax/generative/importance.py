"""Importance sampling with a fitted guide: how far its samples can be trusted, and better estimates than its own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array, Float


class ParetoSmoothed(NamedTuple):
    """Importance weights with a smooth tail, and its index.

    Attributes:
      log_weights: [S], normalised: logsumexp is 0. `softmax` has nothing left to do.
      k_hat: [] the shape of the tail. Below 0.7 estimates with the weights, and the guide, can be relied on; above 1 the weights have no mean.
    """

    log_weights: Float[Array, " S"]
    k_hat: Float[Array, ""]


def effective_sample_size(log_weights: Float[Array, " S"]) -> Float[Array, ""]:
    """How many independent samples of the posterior importance samples are worth, between 1 and S.

      ESS = (Σ w)² / Σ w²

    Source: Kong (1992), A Note on Importance Sampling using Standardized Weights.

    >>> round(float(effective_sample_size(jnp.log(jnp.array([1.0, 1.0, 2.0])))), 4)  # 16 / 6
    2.6667
    """
    return jnp.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights))


def pareto_smoothed(log_weights: Float[Array, " S"]) -> ParetoSmoothed:
    """Pareto-smoothed importance sampling (PSIS): the M largest weights become quantiles of a generalised Pareto distribution fitted to them.

      M = ⌊min(S/5, 3√S)⌋,   k̂ shrunk towards ½ as by ten further observations

    Args:
      log_weights: log p(x, z_s) - log q(z_s) of S >= 25 samples, finite, with or without a constant.
    Returns:
      Smoothed weights, cut off at the largest, and the diagnostic k̂ of the guide.
    Raises:
      ValueError: fewer than 25 weights.
    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto Smoothed Importance Sampling, JMLR 25; Yao et al. (2018), Yes, but Did It Work?

    >>> pareto_smoothed(jnp.linspace(-0.1, 0.1, 100)).k_hat < 0.7  # nearly equal weights
    Array(True, dtype=bool)
    """
    size = len(log_weights)
    if size < 25:
        raise ValueError(f"pareto_smoothed: log_weights must hold at least 25 numbers, or there is no tail to fit, got {size}")
    tail = int(min(size / 5, 3 * size**0.5))
    order = jnp.argsort(log_weights)
    ordered = log_weights[order] - log_weights.max()
    threshold = jnp.exp(ordered[size - tail - 1])
    shape, scale = generalised_pareto(jnp.exp(ordered[size - tail :]) - threshold)
    quantiles = (jnp.arange(tail) + 0.5) / tail
    # (1 - p)^-k - 1 over k has the limit -log(1 - p).
    safe = jnp.where(shape == 0, 1, shape)
    excess = jnp.where(shape == 0, -jnp.log1p(-quantiles), jnp.expm1(-safe * jnp.log1p(-quantiles)) / safe)
    smooth = jnp.minimum(jnp.log(scale * excess + threshold), 0)
    # Where all weights are equal there is no tail to smooth.
    smooth = jnp.where(jnp.isfinite(smooth), smooth, ordered[size - tail :])
    smoothed = jnp.zeros_like(log_weights).at[order].set(jnp.concatenate([ordered[: size - tail], smooth]))
    return ParetoSmoothed(smoothed - logsumexp(smoothed), shape)


def generalised_pareto(excesses: Float[Array, " M"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The shape and the scale of a generalised Pareto distribution with threshold 0, by an empirical Bayes estimate that needs no iteration.

      p(x) = 1/σ (1 + k x/σ)^(-1/k - 1)

    Args:
      excesses: positive, ascending.
    Returns:
      `(k, σ)`; k is shrunk towards ½ with the weight of ten observations.
    Source: Zhang and Stephens (2009), A New and Efficient Estimation Method for the Generalized Pareto Distribution, eq. 7-8, with the prior of
      Vehtari et al. (2024), appendix C.

    >>> k, scale = generalised_pareto(jnp.expm1(-0.7 * jnp.log1p(-(jnp.arange(999) + 0.5) / 999)) / 0.7)  # quantiles of k = 0.7, σ = 1
    >>> abs(float(k) - 0.7) < 0.01, abs(float(scale) - 1) < 0.02
    (True, True)
    """
    size = len(excesses)
    number = 30 + int(size**0.5)
    grid = 1 - jnp.sqrt(number / (jnp.arange(1, number + 1, dtype=excesses.dtype) - 0.5))
    theta = 1 / excesses[-1] + grid / (3 * excesses[int(size / 4 + 0.5) - 1])
    shapes = jax.vmap(lambda theta: jnp.log1p(-theta * excesses).mean())(theta)
    log_likelihood = size * (jnp.log(-theta / shapes) - shapes - 1)
    mean = (jax.nn.softmax(log_likelihood) * theta).sum()
    shape = jnp.log1p(-mean * excesses).mean()
    return (size * shape + 5) / (size + 10), -shape / mean
