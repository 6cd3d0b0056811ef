"""Curved and broken densities in the plane that are known exactly: two moons, a pinwheel, a checkerboard. What flows are drawn on."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key
from dljax.data.toy import eight_gaussians


class PlanarDensity(NamedTuple):
    """A density of the plane.

    Attributes:
      sample: `(key, num) -> [num, 2]`, independent points.
      log_prob: `x [N, 2] -> [N]`, nats; -inf where there is nothing.

    >>> density = checkerboard()
    >>> round(float(density.log_prob(density.sample(jax.random.key(0), 1))[0]), 4)  # -log 32
    -3.4657
    """

    sample: Callable[[Key, int], Float[Array, "N 2"]]
    log_prob: Callable[[Float[Array, "N 2"]], Float[Array, " N"]]


def two_moons(scale: float = 0.2, num_nodes: int = 128) -> PlanarDensity:
    """Two interlocking half circles of radius 2, blurred by a round Gaussian.

      p(x) = 1/2π Σ_m ∫_0^π N(x; c_m(θ), σ² I) dθ

    Args:
      scale: σ > 0.
      num_nodes: >= 1 of the Gauss-Legendre rule that takes the integral: for σ 0.2, 128 leave rounding only.
    Raises:
      ValueError: an argument out of its range.
    Source: scikit-learn's `make_moons`, scaled as in FFJORD's data ("moons"; Grathwohl et al., 2019).

    >>> two_moons().sample(jax.random.key(0), 5).shape
    (5, 2)
    """
    check_range("two_moons", "scale", scale, 0, open_low=True)
    check_int("two_moons", "num_nodes", num_nodes, minimum=1)
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    angles, log_weights = np.pi / 2 * (nodes + 1), np.log(weights / 4)

    def arcs(angle: Float[Array, " N"]) -> Float[Array, "2 N 2"]:
        upper = jnp.stack([2 * jnp.cos(angle) - 1, 2 * jnp.sin(angle) - 0.2], -1)
        lower = jnp.stack([1 - 2 * jnp.cos(angle), 0.8 - 2 * jnp.sin(angle)], -1)
        return jnp.stack([upper, lower])

    def sample(key: Key, num: int) -> Float[Array, "N 2"]:
        angle_key, moon_key, noise_key = jax.random.split(key, 3)
        places = arcs(jax.random.uniform(angle_key, (num,), maxval=jnp.pi))
        moon = jax.random.bernoulli(moon_key, shape=(num, 1))
        return jnp.where(moon, places[0], places[1]) + scale * jax.random.normal(noise_key, (num, 2))

    def log_prob(x: Float[Array, "N 2"]) -> Float[Array, " N"]:
        centers = arcs(jnp.asarray(angles, float)).reshape(-1, 2)
        squares = jnp.square(x[:, None] - centers[None]).sum(-1)
        terms = jnp.asarray(np.tile(log_weights, 2), float)[None] - squares / (2 * scale**2)
        return jax.nn.logsumexp(terms, axis=1) - math.log(2 * math.pi * scale**2)

    return PlanarDensity(sample, log_prob)


def pinwheel(num_arms: int = 5, radial_scale: float = 0.3, tangential_scale: float = 0.1, rate: float = 0.25) -> PlanarDensity:
    """Arms of a wheel, each a flat Gaussian at distance 2 that is turned the further, the farther out it lies.

      x = 2 R(2πk/K + ρ exp(‖f‖)) f,   f ~ N((1, 0), diag(σ_r², σ_t²)),   k uniform

    Turning by an angle that depends on the radius keeps areas: the density is that of a mixture of Gaussians, turned back.

    Args:
      num_arms: K >= 1.
      radial_scale, tangential_scale: σ_r, σ_t > 0.
      rate: ρ, how fast it turns.
    Raises:
      ValueError: an argument out of its range.
    Source: FFJORD's data ("pinwheel"; Grathwohl et al., 2019), where the angle depends on the first coordinate of f in place of its length.

    >>> pinwheel().log_prob(jnp.zeros((1, 2))).shape
    (1,)
    """
    check_int("pinwheel", "num_arms", num_arms, minimum=1)
    check_range("pinwheel", "radial_scale", radial_scale, 0, open_low=True)
    check_range("pinwheel", "tangential_scale", tangential_scale, 0, open_low=True)

    def turned(x: Float[Array, "N 2"], angle: Float[Array, " N"]) -> Float[Array, "N 2"]:
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], -1)

    def twist(x: Float[Array, "N 2"]) -> Float[Array, " N"]:
        return rate * jnp.exp(jnp.sqrt(jnp.square(x).sum(-1)))

    def sample(key: Key, num: int) -> Float[Array, "N 2"]:
        arm_key, noise_key = jax.random.split(key)
        feature = jax.random.normal(noise_key, (num, 2)) * jnp.array([[radial_scale, tangential_scale]]) + jnp.array([[1.0, 0.0]])
        arm = jax.random.randint(arm_key, (num,), 0, num_arms)
        return 2 * turned(feature, 2 * jnp.pi * arm / num_arms + twist(feature))

    def log_prob(x: Float[Array, "N 2"]) -> Float[Array, " N"]:
        def of_arm(arm: Array) -> Float[Array, " N"]:
            feature = turned(x / 2, -2 * jnp.pi * arm / num_arms - twist(x / 2))
            return norm.logpdf(feature[:, 0], 1, radial_scale) + norm.logpdf(feature[:, 1], 0, tangential_scale)

        return jax.nn.logsumexp(jax.vmap(of_arm)(jnp.arange(num_arms)), axis=0) - math.log(4 * num_arms)

    return PlanarDensity(sample, log_prob)


def checkerboard() -> PlanarDensity:
    """The eight dark fields of a board of 4 x 4 fields of side 2 around the origin: entropy log 32.

    Source: FFJORD's data ("checkerboard"; Grathwohl et al., 2019).

    >>> checkerboard().log_prob(jnp.array([[1.0, 3.0], [5.0, 5.0]])).tolist()
    [-inf, -inf]
    """

    def sample(key: Key, num: int) -> Float[Array, "N 2"]:
        x = jax.random.uniform(key, (num, 2), minval=-4.0, maxval=4.0)
        # A white field's neighbour is dark, and each dark field is the neighbour of one white field.
        is_dark = jnp.floor(x / 2).sum(1, keepdims=True) % 2 == 0
        moved = jnp.concatenate([x[:, :1], jnp.where(x[:, 1:] >= 2, x[:, 1:] - 6, x[:, 1:] + 2)], 1)
        return jnp.where(is_dark, x, moved)

    def log_prob(x: Float[Array, "N 2"]) -> Float[Array, " N"]:
        is_inside = (jnp.abs(x) <= 4).all(1) & (jnp.floor(x / 2).sum(1) % 2 == 0)
        return jnp.where(is_inside, -math.log(32), -jnp.inf)

    return PlanarDensity(sample, log_prob)


PLANAR_DENSITIES = {"checkerboard": checkerboard, "eight-gaussians": eight_gaussians, "pinwheel": pinwheel, "two-moons": two_moons}
"""The densities on which flows are drawn, by name; each has `sample` and `log_prob`."""
