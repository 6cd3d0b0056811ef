"""The unit sphere S^{d-1} in R^d: its area, its uniform distribution, and points at an angle from a direction."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.core.contract import Key
from dljax.generative.distribution import Distribution


def log_sphere_area(size: int) -> float:
    """The logarithm of the area of the unit sphere in R^d.

      log |S^{d-1}| = log 2 + d/2 log π - log Γ(d/2)

    Args:
      size: d >= 2; 2 is the circle.
    Raises:
      ValueError: `size` < 2.

    >>> round(math.exp(log_sphere_area(3)) / math.pi, 12)
    4.0
    """
    check_int("log_sphere_area", "size", size, minimum=2)
    return math.log(2) + size / 2 * math.log(math.pi) - math.lgamma(size / 2)


def uniform_sphere(size: int) -> Distribution:
    """All directions in R^d alike.

    Args:
      size: d >= 2.
    Raises:
      ValueError: `size` < 2.

    >>> uniform = uniform_sphere(3)
    >>> jnp.linalg.norm(uniform.sample(jax.random.key(0), 2), axis=-1).round(5).tolist()
    [1.0, 1.0]
    """
    log_area = log_sphere_area(size)
    return Distribution(lambda key, num: unit(jax.random.normal(key, (num, size))), lambda x: jnp.full(x.shape[:-1], -log_area, x.dtype))


def unit(x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
    """x/|x|, the nearest point of the sphere; zero, which has none, stays zero with a finite gradient.

    >>> unit(jnp.array([[0.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    largest = jnp.abs(x).max(-1, keepdims=True)
    is_zero = largest == 0
    x = x / jnp.where(is_zero, 1, largest)  # squares neither overflow nor vanish
    return x / jnp.sqrt(jnp.where(is_zero, 1, jnp.square(x).sum(-1, keepdims=True)))


def around(key: Key, mean: Float[Array, "*N D"], angle: Float[Array, "*N"]) -> Float[Array, "*N D"]:
    """Points at given angles from given directions, to a side that is uniformly random; differentiable in both.

      x = cos θ μ + sin θ v,   v ∝ ε - (ε·μ) μ,   ε ~ N(0, I)

    The side v is uniform among the unit tangents at μ whatever μ is, and smooth in μ everywhere: no reflection with a singular direction.

    Args:
      mean: μ, unit vectors.
      angle: θ in [0, π], radians.

    >>> x = around(jax.random.key(0), jnp.array([0.0, 0.0, 1.0]), jnp.array(jnp.pi / 3))
    >>> round(float(x[2]), 4)
    0.5
    """
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    side = unit(noise - (noise * mean).sum(-1, keepdims=True) * mean)
    return jnp.cos(angle)[..., None] * mean + jnp.sin(angle)[..., None] * side
