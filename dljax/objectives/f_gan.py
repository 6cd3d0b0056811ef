"""f-divergences and what an f-GAN needs of each (Nowozin et al., 2016, tables 1, 2 and 6)."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
from jax.nn import softplus
from jaxtyping import Array, Float

_Function = Callable[[Float[Array, "*B"]], Float[Array, "*B"]]
_SAFE = 30.0  # e^30 times 1e4, squared and summed, is still far from the end of float32


class FDivergence(NamedTuple):
    """A divergence of ratios, and its variational bound as functions of a logit v.

      D_f(p ‖ q) = Σ q f(p/q) = max_v Σ p g(v) - Σ q f*(g(v)),   f convex, f(1) = 0,   f*(t) = max_u ut - f(u)

    Attributes:
      f: of the ratio u = p/q >= 0.
      recession: lim f(u)/u, what each bit of p counts that lies where q = 0.
      activation: g, which maps any logit into the domain of f*.
      conjugate: f*(g(v)), as one function of the logit: one after the other would overflow.
      optimal: log u to the logit at which the maximum is reached, g(v) = f'(u).

    >>> kl = F_DIVERGENCES["kl"]
    >>> ratio = jnp.float32(3.0)
    >>> logit = kl.optimal(jnp.log(ratio))
    >>> round(float(ratio * kl.activation(logit) - kl.conjugate(logit) - kl.f(ratio)), 5)
    0.0
    """

    f: _Function
    recession: float
    activation: _Function
    conjugate: _Function
    optimal: _Function


def f_divergence(divergence: FDivergence, p: Float[Array, "*B C"], q: Float[Array, "*others"]) -> Float[Array, "*B"]:
    """The divergence of two distributions over the last axis, exactly.

      D_f(p ‖ q) = Σ_{q>0} q f(p/q) + lim_{u→∞} f(u)/u · p(q = 0)

    Args:
      divergence: out of `F_DIVERGENCES`, or your own.
      p, q: probabilities, each adding up to one.
    Returns:
      Values >= 0; inf where the divergence is.
    Raises:
      ValueError: the shapes differ.
    Source: Csiszár (1967), Information-type measures of difference of probability distributions.

    >>> p, q = jnp.array([0.5, 0.5]), jnp.array([0.25, 0.75])
    >>> round(float(f_divergence(F_DIVERGENCES["pearson"], p, q)), 4)  # (1/4)²/(1/4) + (1/4)²/(3/4)
    0.3333
    """
    if p.shape != q.shape:
        raise ValueError(f"f_divergence: both distributions must have one shape, got {p.shape} and {q.shape}")
    inside = q > 0
    ratio = jnp.where(inside, p, 1) / jnp.where(inside, q, 1)
    outside = jnp.where(p > 0, p, 1) * divergence.recession
    return jnp.where(inside, q * divergence.f(ratio), jnp.where(p > 0, outside, 0)).sum(-1)


def _exp(x: Array) -> Array:
    # Beyond e^30 its tangent, so that a logit of 1e4 has a finite loss and a finite gradient.
    return jnp.exp(jnp.minimum(x, _SAFE)) * (1 + jnp.maximum(x - _SAFE, 0))


def _x_log_x(u: Array) -> Array:
    return jnp.where(u > 0, u * jnp.log(jnp.where(u > 0, u, 1)), 0)


def _infinite(log_ratio: Array) -> Array:
    return jnp.where(log_ratio == 0, 0, jnp.copysign(jnp.inf, log_ratio))


F_DIVERGENCES: Mapping[str, FDivergence] = MappingProxyType(
    {
        "kl": FDivergence(
            f=_x_log_x, recession=math.inf, activation=lambda v: v, conjugate=lambda v: _exp(v - 1), optimal=lambda log_ratio: 1 + log_ratio
        ),
        "reverse_kl": FDivergence(
            f=lambda u: -jnp.log(u),
            recession=0.0,
            activation=lambda v: -_exp(-v),
            conjugate=lambda v: v - 1,
            optimal=lambda log_ratio: log_ratio,
        ),
        "jensen_shannon": FDivergence(
            f=lambda u: _x_log_x(u) - (u + 1) * jnp.log((u + 1) / 2),
            recession=math.log(2),
            activation=lambda v: math.log(2) - softplus(-v),
            conjugate=lambda v: softplus(v) - math.log(2),
            optimal=lambda log_ratio: log_ratio,
        ),
        "squared_hellinger": FDivergence(
            f=lambda u: jnp.square(jnp.sqrt(u) - 1),
            recession=1.0,
            activation=lambda v: 1 - _exp(-v),
            conjugate=lambda v: _exp(v) - 1,
            optimal=lambda log_ratio: log_ratio / 2,
        ),
        "pearson": FDivergence(
            f=lambda u: jnp.square(u - 1),
            recession=math.inf,
            activation=lambda v: v,
            conjugate=lambda v: jnp.square(v) / 4 + v,
            optimal=lambda log_ratio: 2 * jnp.expm1(log_ratio),
        ),
        "neyman": FDivergence(
            f=lambda u: jnp.square(u - 1) / u,
            recession=1.0,
            activation=lambda v: 1 - _exp(-v),
            conjugate=lambda v: 2 - 2 * _exp(-v / 2),
            optimal=lambda log_ratio: 2 * log_ratio,
        ),
        "total_variation": FDivergence(
            f=lambda u: jnp.abs(u - 1) / 2,
            recession=0.5,
            activation=lambda v: jnp.tanh(v) / 2,
            conjugate=lambda v: jnp.tanh(v) / 2,
            optimal=_infinite,
        ),
    }
)
"""The f-divergences by name.

`kl` is KL(p ‖ q), `reverse_kl` KL(q ‖ p), `jensen_shannon` 2 JS(p, q), `squared_hellinger` Σ (√p - √q)², `pearson` Σ (p-q)²/q,
`neyman` Σ (p-q)²/p, `total_variation` Σ |p-q|/2. Exponentials go on as their tangents from e^30 on."""
