"""Toy densities in the plane that are known exactly: sampler, log-density and entropy."""

import math
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key


@dataclass(frozen=True)
class GaussianMixture:
    """Equally likely round Gaussians in the plane.

      p(x) = 1/K Σ_k N(x; μ_k, σ² I)

    Attributes:
      centers: μ, K points in the plane.
      scale: σ > 0, the standard deviation along each axis.
    Raises:
      ValueError: `centers` is not [K, 2] with K >= 1, or `scale` <= 0.

    >>> mixture = GaussianMixture(((0.0, 0.0), (3.0, 0.0)), scale=1.0)
    >>> mixture.sample(jax.random.key(0), 5).shape
    (5, 2)
    >>> entropy, error = GaussianMixture(((0.0, 0.0),), scale=1.0).entropy
    >>> abs(entropy - math.log(2 * math.pi * math.e)) < error + 1e-12
    True
    """

    centers: tuple[tuple[float, float], ...]
    scale: float

    def __post_init__(self) -> None:
        shape = np.shape(self.centers)
        if len(shape) != 2 or shape[0] < 1 or shape[1] != 2:
            raise ValueError(f"GaussianMixture: centers must have shape [K, 2] with K >= 1, got {shape}; give one point (x, y) for each component")
        check_range("GaussianMixture", "scale", self.scale, 0, open_low=True)

    def sample(self, key: Key, num: int) -> Float[Array, "N 2"]:
        """`num` >= 1 independent points."""
        check_int("GaussianMixture", "num", num, minimum=1)
        component_key, noise_key = jax.random.split(key)
        component = jax.random.randint(component_key, (num,), 0, len(self.centers))
        return jnp.asarray(self.centers, float)[component] + self.scale * jax.random.normal(noise_key, (num, 2))

    def log_prob(self, x: Float[Array, "N 2"]) -> Float[Array, " N"]:
        """The log-density of each point, nats."""
        squares = jnp.square(jnp.asarray(x)[:, None] - jnp.asarray(self.centers, float)[None]).sum(-1)
        return jax.nn.logsumexp(-squares / (2 * self.scale**2), axis=1) - self._log_normaliser

    @cached_property
    def entropy(self) -> tuple[float, float]:
        """The differential entropy `-∫ p log p` in nats, and a bound on its numerical error.

        The trapezoidal rule on ±9σ around each component, in float64. It converges exponentially for a Gaussian times an analytic function;
        the error is the change on halving the step, plus rounding.
        """
        coarse, fine = self._quadrature(step=0.2), self._quadrature(step=0.1)
        return fine, abs(fine - coarse) + 1e-12

    @property
    def _log_normaliser(self) -> float:
        return math.log(len(self.centers)) + math.log(2 * math.pi * self.scale**2)

    def _quadrature(self, step: float) -> float:
        axis = np.arange(-9.0, 9.0 + step / 2, step)
        noise = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        weight = np.exp(-0.5 * np.square(noise).sum(-1)) * step**2 / (2 * np.pi)
        centers, total = np.asarray(self.centers, np.float64), 0.0
        for center in centers:
            squares = np.square((center - centers)[:, None] / self.scale + noise[None]).sum(-1)
            total += weight @ (np.logaddexp.reduce(-squares / 2, axis=0) - self._log_normaliser)
        return float(-total / len(centers))


def gaussian_ring(num_modes: int = 8, radius: float = 2.0, scale: float = 0.02) -> GaussianMixture:
    """Gaussians evenly spaced on a circle, by default the needle-sharp ring on which GANs lose modes.

    Args:
      num_modes: how many, >= 1.
      radius: of the circle, >= 0.
      scale: σ of each Gaussian, > 0.
    Raises:
      ValueError: an argument out of its range.
    Source: Metz, Poole, Pfau and Sohl-Dickstein (2017), Unrolled Generative Adversarial Networks, section 3.1 (radius 2, σ 0.02).

    >>> ring = gaussian_ring()
    >>> len(ring.centers), ring.centers[0]
    (8, (2.0, 0.0))
    """
    check_int("gaussian_ring", "num_modes", num_modes, minimum=1)
    check_range("gaussian_ring", "radius", radius, 0)
    angles = [2 * math.pi * mode / num_modes for mode in range(num_modes)]
    return GaussianMixture(tuple((radius * math.cos(angle), radius * math.sin(angle)) for angle in angles), scale)


def gaussian_grid(side: int = 5, spacing: float = 2.0, scale: float = 0.05) -> GaussianMixture:
    """Gaussians on a square grid about the origin, by default the 25 on which the coverage of GANs is compared.

    Args:
      side: how many along each axis, >= 1.
      spacing: between neighbours, > 0.
      scale: σ of each Gaussian, > 0.
    Raises:
      ValueError: an argument out of its range.
    Source: Srivastava et al. (2017), VEEGAN, section 4.1; Lin et al. (2018), PacGAN, section 4.1 (places -4, -2, 0, 2, 4; σ² 0.0025).

    >>> grid = gaussian_grid()
    >>> len(grid.centers), grid.centers[0], grid.centers[-1]
    (25, (-4.0, -4.0), (4.0, 4.0))
    """
    check_int("gaussian_grid", "side", side, minimum=1)
    check_range("gaussian_grid", "spacing", spacing, 0, open_low=True)
    places = [spacing * (place - (side - 1) / 2) for place in range(side)]
    return GaussianMixture(tuple((x, y) for x in places for y in places), scale)


def eight_gaussians() -> GaussianMixture:
    """The eight Gaussians on which flows are compared: radius 4/√2 and σ 0.5/√2, so that neighbours lie 6.1 σ apart.

    Source: Grathwohl et al. (2019), FFJORD, section 4.1, whose code draws this data set ("8gaussians").

    >>> entropy, error = eight_gaussians().entropy
    >>> f"{entropy:.6f}", error < 1e-9
    ('2.831578', True)
    """
    return gaussian_ring(8, 4 / math.sqrt(2), 0.5 / math.sqrt(2))
