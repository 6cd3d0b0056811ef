"""The power spherical distribution: a von Mises-Fisher-like one on the sphere that is sampled without rejection (De Cao and Aziz, 2020)."""

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, ArrayLike, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key
from dljax.generative.bessel import bessel_terms
from dljax.generative.distribution import Distribution
from dljax.generative.sphere import around, log_sphere_area
from dljax.generative.von_mises_fisher import check_direction


def power_spherical(mean: Float[ArrayLike, " D"], concentration: Float[ArrayLike, ""]) -> Distribution:
    """Directions around a mean direction, with a power of the cosine of the half angle.

      p(x) = (1 + μ·x)^κ / (2^{α+β} π^β Γ(α) / Γ(α+β)),   α = β + κ,   β = (d-1)/2
      x = around μ at cos θ = 2z - 1,   z ~ Beta(α, β)

    Samples are differentiable in μ and κ (the beta's gradient is implicit, jax's own).

    Args:
      mean: μ, a unit vector in R^d, d >= 2.
      concentration: κ >= 0, 0 for the uniform distribution; up to 1e4 in float32.
    Returns:
      `log_prob` is with respect to the area of the sphere; -inf at -μ, unless κ = 0.
    Raises:
      ValueError: a `mean` of fewer than two numbers, or that is concrete and no unit vector; a concrete `concentration` < 0.
    Source: De Cao and Aziz (2020), The Power Spherical Distribution, eq. 8-9 and algorithm 1.

    >>> around_north = power_spherical(jnp.array([0.0, 0.0, 1.0]), 1.0)
    >>> around_north.sample(jax.random.key(0), 5).shape
    (5, 3)
    >>> round(float(jnp.exp(around_north.log_prob(jnp.array([0.0, 0.0, 1.0])))) * 2 * jnp.pi, 4)  # (1 + z) / 4π
    1.0
    """
    mean = check_direction("power_spherical", mean)
    check_range("power_spherical", "concentration", concentration, 0)
    size = mean.shape[0]
    concentration = jnp.asarray(concentration, mean.dtype)

    def sample(key: Key, num: int) -> Float[Array, "N D"]:
        share_key, side_key = jax.random.split(key)
        rest = jnp.full(num, (size - 1) / 2, mean.dtype)
        # Of two gamma variables both shares are known to full precision, and with them angles near 0 and π.
        near_key, far_key = jax.random.split(share_key)
        near, far = (jax.random.loggamma(key, a, dtype=mean.dtype) for key, a in ((near_key, rest + concentration), (far_key, rest)))
        angle = 2 * jnp.arctan(jnp.exp((far - near) / 2))
        return around(side_key, jnp.broadcast_to(mean, (num, size)), angle)

    def log_prob(x: Float[Array, "*N D"]) -> Float[Array, "*N"]:
        # (1 + μ·x)/2 = 1 - |x - μ|²/4 = |x + μ|²/4: the one keeps its digits near μ, the other near -μ.
        center = jnp.expand_dims(mean, range(x.ndim - 1))
        missing, share = jnp.square(x - center).sum(-1) / 4, jnp.square(x + center).sum(-1) / 4
        is_near, is_opposite = missing < 0.5, share == 0
        log_share = jnp.where(is_near, jnp.log1p(-jnp.where(is_near, missing, 0)), jnp.log(jnp.where(is_near | is_opposite, 1, share)))
        power = jnp.where(is_opposite, jnp.where(concentration > 0, -jnp.inf, 0), concentration * log_share)
        return power - _log_scaled_normaliser(concentration, size) - log_sphere_area(size)

    return Distribution(sample, log_prob)


def power_spherical_mean_resultant_length(concentration: Float[ArrayLike, "*N"], *, size: int) -> Float[Array, "*N"]:
    """The length of the mean, (α - β) / (α + β) = κ / (κ + d - 1).

    Args:
      concentration: κ >= 0.
      size: d >= 2.
    Raises:
      ValueError: `size` < 2; a concrete `concentration` < 0.
    Source: De Cao and Aziz (2020), table 1.

    >>> float(power_spherical_mean_resultant_length(2.0, size=3))
    0.5
    """
    concentration = _checked("power_spherical_mean_resultant_length", concentration, size)
    return concentration / (concentration + size - 1)


def power_spherical_kl_uniform(concentration: Float[ArrayLike, "*N"], *, size: int) -> Float[Array, "*N"]:
    """The divergence of a power spherical distribution from the uniform one, nats; the entropy is log |S^{d-1}| less this.

      KL = κ E[log (1 + μ·x)/2] - log M,   E[log (1 + μ·x)/2] = ψ(α) - ψ(α+β),   log M = log E_uniform[((1 + μ·x)/2)^κ]

    Args:
      concentration: κ >= 0.
      size: d >= 2.
    Raises:
      ValueError: `size` < 2; a concrete `concentration` < 0.
    Source: De Cao and Aziz (2020), eq. 15-16.

    >>> abs(float(power_spherical_kl_uniform(0.0, size=4)))
    0.0
    """
    concentration = _checked("power_spherical_kl_uniform", concentration, size)
    beta = (size - 1) / 2
    expected = digamma(concentration + beta) - digamma(concentration + 2 * beta)
    return concentration * expected - _log_scaled_normaliser(concentration, size)


def power_spherical_kl_von_mises_fisher(
    concentration: Float[ArrayLike, ""], mean: Float[Array, " D"], other_concentration: Float[ArrayLike, ""], other_mean: Float[Array, " D"]
) -> Float[Array, ""]:
    """The divergence of a power spherical distribution from a von Mises-Fisher distribution, nats.

      KL(PS(μ, κ) || vMF(ν, λ)) = KL(PS || uniform) + log M(λ) - λ κ/(κ + d - 1) μ·ν

    Args:
      concentration, mean: κ >= 0 and μ, a unit vector, of the power spherical distribution.
      other_concentration, other_mean: λ >= 0 and ν, of the von Mises-Fisher distribution.
    Raises:
      ValueError: a concrete concentration < 0; a vector that is no direction.
    Source: De Cao and Aziz (2020), eq. 18.

    >>> north = jnp.array([0.0, 0.0, 1.0])
    >>> float(power_spherical_kl_von_mises_fisher(0.0, north, 0.0, north))
    0.0
    """
    who = "power_spherical_kl_von_mises_fisher"
    mean, other_mean = check_direction(who, mean), check_direction(who, other_mean)
    size = mean.shape[0]
    cosine = (mean * other_mean).sum() * power_spherical_mean_resultant_length(concentration, size=size)
    log_normaliser = bessel_terms(size / 2 - 1, other_concentration).log_normaliser
    return power_spherical_kl_uniform(concentration, size=size) + log_normaliser - other_concentration * cosine


def _log_scaled_normaliser(concentration: Array, size: int) -> Array:
    """log of the mean of ((1 + μ·x)/2)^κ over the sphere, 0 at κ = 0."""
    beta = (size - 1) / 2

    def log_mean(kappa: Array) -> Array:
        return gammaln(kappa + beta) - gammaln(kappa + 2 * beta)

    return log_mean(concentration) - log_mean(jnp.zeros_like(concentration))


def _checked(who: str, concentration: ArrayLike, size: int) -> Array:
    check_int(who, "size", size, minimum=2)
    check_range(who, "concentration", concentration, 0)
    return jnp.asarray(concentration, jnp.result_type(concentration, float))
