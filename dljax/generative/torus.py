"""Circles and their products, tori, in angles: the uniform distribution, von Mises and the wrapped normal."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key
from dljax.generative.bessel import bessel_terms
from dljax.generative.distribution import Distribution
from dljax.generative.von_mises_fisher import von_mises_fisher_angle

_WIDE = 1.5  # radians: from here on the wrapped normal's Fourier series converges faster than the sum of its turns


def wrap_angle(angle: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """The same angle in [-π, π), radians.

    >>> wrap_angle(jnp.array([jnp.pi, -7.0])).round(4).tolist()
    [-3.1415..., -0.716...]
    """
    return jnp.mod(angle + math.pi, 2 * math.pi) - math.pi


def uniform_torus(size: int) -> Distribution:
    """Independent uniform angles in [-π, π).

    Args:
      size: D >= 1 angles.
    Raises:
      ValueError: `size` < 1.

    >>> float(uniform_torus(1).log_prob(jnp.zeros(1)))  # -log 2π
    -1.837...
    """
    check_int("uniform_torus", "size", size, minimum=1)

    def sample(key: Key, num: int) -> Float[Array, "N D"]:
        return jax.random.uniform(key, (num, size), minval=-math.pi, maxval=math.pi)

    return Distribution(sample, lambda x: jnp.full(x.shape[:-1], -size * math.log(2 * math.pi), x.dtype))


def von_mises(location: Float[ArrayLike, " D"], concentration: Float[ArrayLike, " D"]) -> Distribution:
    """Independent von Mises angles, the von Mises-Fisher distribution of each circle.

      p(x) = Π_i e^{κ_i cos(x_i - μ_i)} / (2π I_0(κ_i))

    Samples are differentiable in μ and κ.

    Args:
      location: μ, radians.
      concentration: κ >= 0, of the same shape.
    Returns:
      `log_prob` is with respect to radians; samples are in [-π, π).
    Raises:
      ValueError: the shapes differ or are no vectors; a concrete `concentration` < 0.
    Source: Mardia and Jupp (2000), Directional Statistics, section 3.5.4.

    >>> two = von_mises(jnp.zeros(2), jnp.array([0.0, 4.0]))
    >>> two.sample(jax.random.key(0), 5).shape, two.log_prob(jnp.zeros((3, 2))).shape
    ((5, 2), (3,))
    """
    location, concentration = _pair("von_mises", "concentration", location, concentration)
    check_range("von_mises", "concentration", concentration, 0)

    def sample(key: Key, num: int) -> Float[Array, "N D"]:
        angle_key, side_key = jax.random.split(key)
        shape = (num, location.shape[0])
        angle = von_mises_fisher_angle(angle_key, jnp.broadcast_to(concentration, shape), size=2)
        return wrap_angle(location[None] + jnp.where(jax.random.bernoulli(side_key, shape=shape), angle, -angle))

    def log_prob(x: Float[Array, "*N D"]) -> Float[Array, "*N"]:
        log_scaled = bessel_terms(0, concentration).log_scaled
        half = jnp.sin((x - _like(location, x)) / 2)
        return (-2 * _like(concentration, x) * half * half - _like(log_scaled, x) - math.log(2 * math.pi)).sum(-1)

    return Distribution(sample, log_prob)


def wrapped_normal(location: Float[ArrayLike, " D"], scale: Float[ArrayLike, " D"]) -> Distribution:
    """Independent normal deviations wound around their circles.

      p(x) = Π_i Σ_k N(x_i + 2πk; μ_i, σ_i²) = Π_i (1 + 2 Σ_{n>=1} e^{-n² σ_i²/2} cos n(x_i - μ_i)) / 2π

    The first series is used for small σ, the second for large. Samples are differentiable in μ and σ.

    Args:
      location: μ, radians.
      scale: σ > 0, radians, of the same shape.
    Returns:
      `log_prob` is with respect to radians; samples are in [-π, π).
    Raises:
      ValueError: the shapes differ or are no vectors; a concrete `scale` <= 0.
    Source: Mardia and Jupp (2000), Directional Statistics, section 3.5.7.

    >>> round(float(wrapped_normal(jnp.zeros(1), jnp.array([100.0])).log_prob(jnp.ones(1))), 4)  # -log 2π
    -1.8379
    """
    location, scale = _pair("wrapped_normal", "scale", location, scale)
    check_range("wrapped_normal", "scale", scale, 0, open_low=True)

    def sample(key: Key, num: int) -> Float[Array, "N D"]:
        return wrap_angle(location[None] + scale[None] * jax.random.normal(key, (num, location.shape[0])))

    def log_prob(x: Float[Array, "*N D"]) -> Float[Array, "*N"]:
        away, width = jnp.broadcast_arrays(wrap_angle(x - _like(location, x)), _like(scale, x))
        turns = jnp.expand_dims(2 * math.pi * jnp.arange(-3, 4, dtype=x.dtype), range(x.ndim))
        narrow = jnp.minimum(width, _WIDE)[..., None]
        wound = jax.nn.logsumexp(-jnp.square((away[..., None] + turns) / narrow) / 2 - jnp.log(narrow) - math.log(2 * math.pi) / 2, axis=-1)
        waves = jnp.expand_dims(jnp.arange(1, 9, dtype=x.dtype), range(x.ndim))
        wide = jnp.maximum(width, _WIDE)[..., None]
        series = 2 * (jnp.exp(-jnp.square(waves * wide) / 2) * jnp.cos(waves * away[..., None])).sum(-1)
        return jnp.where(width < _WIDE, wound, jnp.log1p(series) - math.log(2 * math.pi)).sum(-1)

    return Distribution(sample, log_prob)


def _pair(who: str, name: str, location: ArrayLike, other: ArrayLike) -> tuple[Array, Array]:
    dtype = jnp.result_type(location, other, float)
    location, other = jnp.asarray(location, dtype), jnp.asarray(other, dtype)
    if location.ndim != 1 or location.shape != other.shape:
        raise ValueError(f"{who}: location and {name} must be vectors of one length, got {location.shape} and {other.shape}")
    return location, other


def _like(vector: Float[Array, " D"], x: Float[Array, "*N D"]) -> Float[Array, "*ones D"]:
    return jnp.expand_dims(vector, range(x.ndim - 1))
