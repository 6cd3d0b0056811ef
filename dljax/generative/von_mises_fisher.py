"""The von Mises-Fisher distribution on the sphere in any dimension: density, moments, and samples with the right gradient."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key
from dljax.generative.bessel import bessel_terms
from dljax.generative.distribution import Distribution
from dljax.generative.sphere import around, log_sphere_area

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)


def von_mises_fisher(mean: Float[ArrayLike, " D"], concentration: Float[ArrayLike, ""]) -> Distribution:
    """Directions around a mean direction, the normal distribution of the sphere.

      p(x) = e^{κ μ·x} / (|S^{d-1}| M(κ)),   M(κ) = Γ(d/2) (2/κ)^{d/2-1} I_{d/2-1}(κ)

    Samples are differentiable in μ and κ: the gradient of a sample's mean is that of E[x] = A(κ) μ in every dimension (`von_mises_fisher_angle`).

    Args:
      mean: μ, a unit vector in R^d, d >= 2.
      concentration: κ >= 0, 0 for the uniform distribution; up to 1e6 in float32.
    Returns:
      `log_prob` is with respect to the area of the sphere.
    Raises:
      ValueError: a `mean` of fewer than two numbers, or that is concrete and no unit vector; a concrete `concentration` < 0.
    Source: Mardia and Jupp (2000), Directional Statistics, section 9.3.2.

    >>> around_north = von_mises_fisher(jnp.array([0.0, 0.0, 1.0]), 2.0)
    >>> around_north.sample(jax.random.key(0), 5).shape
    (5, 3)
    >>> exact = jnp.log(2 / (4 * jnp.pi * jnp.sinh(2))) + 2  # elementary on S²
    >>> bool(jnp.isclose(around_north.log_prob(jnp.array([0.0, 0.0, 1.0])), exact))
    True
    """
    mean = check_direction("von_mises_fisher", mean)
    check_range("von_mises_fisher", "concentration", concentration, 0)
    size = mean.shape[0]
    concentration = jnp.asarray(concentration, mean.dtype)

    def sample(key: Key, num: int) -> Float[Array, "N D"]:
        angle_key, side_key = jax.random.split(key)
        angles = von_mises_fisher_angle(angle_key, jnp.broadcast_to(concentration, (num,)), size=size)
        return around(side_key, jnp.broadcast_to(mean, (num, size)), angles)

    def log_prob(x: Float[Array, "*N D"]) -> Float[Array, "*N"]:
        # κ (μ·x - 1) = -κ |x - μ|²/2 keeps its digits where κ is large.
        squares = jnp.square(x - jnp.expand_dims(mean, range(x.ndim - 1))).sum(-1)
        return -concentration * squares / 2 - bessel_terms(size / 2 - 1, concentration).log_scaled - log_sphere_area(size)

    return Distribution(sample, log_prob)


def mean_resultant_length(concentration: Float[ArrayLike, "*N"], *, size: int) -> Float[Array, "*N"]:
    """The length of the mean of a von Mises-Fisher distribution, differentiable to any order.

      E[x] = A(κ) μ,   A = I_{d/2} / I_{d/2-1},   A' = 1 - A² - (d-1) A/κ

    Args:
      concentration: κ >= 0.
      size: d >= 2.
    Raises:
      ValueError: `size` < 2; a concrete `concentration` < 0.
    Source: Mardia and Jupp (2000), Directional Statistics, appendix 1.

    >>> round(float(jax.grad(lambda kappa: mean_resultant_length(kappa, size=5))(2.0)), 4)
    0.1474
    """
    check_int("mean_resultant_length", "size", size, minimum=2)
    return bessel_terms(size / 2 - 1, concentration).ratio


def von_mises_fisher_kl_uniform(concentration: Float[ArrayLike, "*N"], *, size: int) -> Float[Array, "*N"]:
    """The divergence of a von Mises-Fisher distribution from the uniform one, nats.

      KL = κ A(κ) - log M(κ)

    The entropy is log |S^{d-1}| less this. Its slope is κ A'(κ).

    Args:
      concentration: κ >= 0.
      size: d >= 2.
    Raises:
      ValueError: `size` < 2; a concrete `concentration` < 0.
    Source: Davidson, Falorsi, De Cao, Kipf and Tomczak (2018), Hyperspherical Variational Auto-Encoders, eq. 14.

    >>> float(von_mises_fisher_kl_uniform(0.0, size=4))
    0.0
    """
    check_int("von_mises_fisher_kl_uniform", "size", size, minimum=2)
    terms = bessel_terms(size / 2 - 1, concentration)
    concentration = jnp.asarray(concentration, terms.ratio.dtype)
    # Two ways to write one number: the first for small κ, the second where both parts of the first are large.
    low, high = concentration * terms.ratio - terms.log_normaliser, -terms.log_scaled - concentration * terms.complement
    return jnp.where(concentration < 1, low, high)


def von_mises_fisher_angle(key: Key, concentration: Float[Array, "*N"], *, size: int) -> Float[Array, "*N"]:
    """The angle between a sample and the mean direction, with its exact implicit gradient.

      p(θ) ∝ sin^{d-2} θ e^{κ cos θ},   dθ/dκ = -∂_κ F(θ) / p(θ) = -∫_0^θ (cos φ - A) (sin φ / sin θ)^{d-2} e^{κ (cos φ - cos θ)} dφ

    The integral, over (0, θ) or over the other side (θ, π), whichever has the smaller integrand, is found by 40 Gauss-Legendre nodes where the
    integrand is not negligible. Drawing is by rejection; what is rejected has no part in the gradient.

    Args:
      concentration: κ >= 0.
      size: d >= 2.
    Returns:
      Radians in [0, π], independent for each κ.
    Raises:
      ValueError: `size` < 2; a concrete `concentration` < 0.
    Source: Wood (1994), Simulation of the von Mises Fisher Distribution; Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients.

    >>> von_mises_fisher_angle(jax.random.key(0), jnp.full(3, 1e4), size=4).round(1).tolist()
    [0.0, 0.0, 0.0]
    """
    check_int("von_mises_fisher_angle", "size", size, minimum=2)
    check_range("von_mises_fisher_angle", "concentration", concentration, 0)
    angle = _draw_angle(key, lax.stop_gradient(concentration), size)
    return _moving_with_concentration(size, angle, concentration)


def check_direction(who: str, mean: Float[ArrayLike, " D"]) -> Float[Array, " D"]:
    """Require a unit vector of two or more numbers; of a traced one only the shape.

    Raises:
      ValueError: another shape, or another length.

    >>> check_direction("von_mises_fisher", jnp.array([3.0, 4.0]))
    Traceback (most recent call last):
    ValueError: von_mises_fisher: mean must be a unit vector, got length 5; divide by it
    """
    mean = jnp.asarray(mean, jnp.result_type(mean, float))
    if mean.ndim != 1 or mean.shape[0] < 2:
        raise ValueError(f"{who}: mean must be one vector of two or more numbers, got shape {mean.shape}; use vmap for several")
    # By NumPy: a concrete vector met while something else is traced must stay concrete.
    if not isinstance(mean, jax.core.Tracer) and not abs((length := float(np.linalg.norm(np.asarray(mean)))) - 1) < 1e-3:
        raise ValueError(f"{who}: mean must be a unit vector, got length {length:g}; divide by it")
    return mean


def _draw_angle(key: Key, concentration: Array, size: int) -> Array:
    """Wood's rejection in terms of u = 1 - cos θ, which keeps its digits where κ is large."""
    rest = size - 1
    b = rest / (2 * concentration + jnp.sqrt(4 * concentration**2 + rest**2))

    def propose(carry: tuple[Key, Array, Array]) -> tuple[Key, Array, Array]:
        key, u, is_accepted = carry
        key, beta_key, level_key = jax.random.split(key, 3)
        # One coordinate of a uniform direction has the symmetric beta distribution that is asked for.
        noise = jax.random.normal(beta_key, (*u.shape, size), u.dtype)
        share = jnp.clip((1 - noise[..., 0] / jnp.linalg.norm(noise, axis=-1)) / 2, 0, 1)
        new = 2 * b * share / (1 - (1 - b) * share)
        log_ratio = concentration * (2 * b / (1 + b) - new) + rest * jnp.log((2 * b + (1 - b) * new) * (1 + b) / (4 * b))
        is_new = ~is_accepted & (jnp.log(jax.random.uniform(level_key, u.shape, u.dtype)) <= log_ratio)
        return key, jnp.where(is_new, new, u), is_accepted | is_new

    # An unusable κ (negative, NaN) is accepted at once and gives NaN, rather than a loop without end.
    start = key, jnp.full_like(concentration, jnp.nan), ~(concentration >= 0)
    u = lax.while_loop(lambda carry: ~carry[2].all(), propose, start)[1]
    return 2 * jnp.arctan2(jnp.sqrt(u), jnp.sqrt(jnp.maximum(2 - u, 0)))


def _slope_in_concentration(angle: Array, concentration: Array, size: int) -> Array:
    """dθ/dκ at a fixed quantile."""
    terms = bessel_terms(size / 2 - 1, concentration)
    tiny = 16 * jnp.finfo(angle.dtype).eps
    angle = jnp.clip(angle, tiny, math.pi - tiny)
    is_below = 2 * jnp.square(jnp.sin(angle / 2)) < terms.complement
    # Beyond this the integrand has fallen by e^-40.
    reach = 2 * jnp.arcsin(jnp.sqrt(jnp.minimum(1, 20 / jnp.maximum(concentration + (size - 2) / 2, 1))))
    length = jnp.where(is_below, jnp.minimum(angle, reach), jnp.minimum(math.pi - tiny / 2 - angle, reach))[..., None]
    nodes, weights = (jnp.expand_dims(jnp.asarray(part, angle.dtype), range(angle.ndim)) for part in ((1 + _NODES) / 2, _WEIGHTS / 2))
    sign = jnp.where(is_below, -1, 1).astype(angle.dtype)[..., None]
    away = sign * length * nodes
    angle, concentration, complement = angle[..., None], concentration[..., None], terms.complement[..., None]
    there = angle + away
    log_ratio = -2 * concentration * jnp.sin(angle + away / 2) * jnp.sin(away / 2)
    if size > 2:
        log_ratio += (size - 2) * jnp.log(jnp.sin(there) / jnp.sin(angle))
    # cos φ - A, again by what is missing to one.
    excess = complement - 2 * jnp.square(jnp.sin(there / 2))
    return (sign * weights * length * excess * jnp.exp(log_ratio)).sum(-1)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _moving_with_concentration(size: int, angle: Array, concentration: Array) -> Array:
    return angle


@_moving_with_concentration.defjvp
def _move(size: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (angle, concentration), (_, change) = primals, tangents
    return angle, _slope_in_concentration(angle, concentration, size) * change
