"""Modified Bessel functions of the first kind of any real order: their logarithm, their ratio and its slope, without overflow or cancellation."""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, ArrayLike, Float

from dljax.core.checks import check_range

# From this order on the uniform expansion is used, whose eight terms leave 1e-12; lower orders come down from there by the recurrence.
_LARGE_ORDER = 20
_NUM_TERMS = 8


class BesselTerms(NamedTuple):
    """What I_ν says of the density e^{xw} (1 - w²)^{ν - ½} on [-1, 1]; all of the shape of x.

    Attributes:
      log_normaliser: log M with M = Γ(ν+1) (2/x)^ν I_ν(x) = E[e^{xw}] under x = 0; it is 0 at x = 0.
      log_scaled: log M - x, which keeps its digits where M overflows.
      ratio: A = I_{ν+1}(x) / I_ν(x) = E[w], in [0, 1).
      complement: 1 - A, which keeps its digits where A is all but one.
      slope: A' = Var[w] > 0.
    """

    log_normaliser: Float[Array, "*B"]
    log_scaled: Float[Array, "*B"]
    ratio: Float[Array, "*B"]
    complement: Float[Array, "*B"]
    slope: Float[Array, "*B"]


def bessel_terms(order: float, x: Float[ArrayLike, "*B"]) -> BesselTerms:
    """The logarithm of the modified Bessel function I_ν, the ratio A = I_{ν+1} / I_ν, and A'; differentiable to any order.

      I_N(x) ~ e^ρ (x / (N + ρ))^N / √(2πρ) · Σ_k U_k(N/ρ) / N^k,   ρ = √(N² + x²),   N = ν + m >= 20
      A_ν = x / (2(ν+1) + x A_{ν+1}),   A'_ν = (A_ν/x)² (2(ν+1) - x² A'_{ν+1})

    The expansion is uniform in x, and both recurrences go down in the order, where they are stable. The closed form A' = 1 - A² - (2ν+1) A/x is not
    used: where A comes near to one it loses all digits.

    Args:
      order: ν >= 0, a Python number, whole or not.
      x: >= 0, up to 1e18 in float32.
    Returns:
      Values with relative errors of about 1e-11 in float64 and 1e-5 in float32.
    Raises:
      ValueError: `order` < 0; an `x` that is concrete and < 0.
    Source: Olver (1974), Asymptotics and Special Functions, chapter 10, section 7; DLMF 10.41.3 and 10.29.1.

    >>> terms = bessel_terms(0.5, jnp.float32(2.0))  # elementary: M = sinh(x)/x, A = coth(x) - 1/x
    >>> bool(jnp.allclose(terms.log_normaliser, jnp.log(jnp.sinh(2) / 2))), bool(jnp.allclose(terms.ratio, 1 / jnp.tanh(2) - 0.5))
    (True, True)
    """
    check_range("bessel_terms", "order", order, 0, open_high=True)
    check_range("bessel_terms", "x", x, 0)
    return _differentiable_terms(float(order), jnp.asarray(x, jnp.result_type(x, float)))


def log_bessel(order: float, x: Float[ArrayLike, "*B"]) -> Float[Array, "*B"]:
    """log(I_ν(x) e^{-x}), of the exponentially scaled modified Bessel function of the first kind.

    Args:
      order: ν >= 0, a Python number.
      x: >= 0; at 0 the value is -inf for ν > 0.
    Raises:
      ValueError: `order` < 0; an `x` that is concrete and < 0.
    Source: DLMF 10.25.2.

    >>> round(float(jnp.exp(log_bessel(0, 1.0) + 1.0)), 4)  # I_0(1)
    1.2661
    """
    scaled = bessel_terms(order, x).log_scaled
    return scaled + order * jnp.log(jnp.asarray(x) / 2) - gammaln(order + 1.0) if order else scaled


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _differentiable_terms(order: float, x: Array) -> BesselTerms:
    return _terms(order, x)


@_differentiable_terms.defjvp
def _differentiate(order: float, primals: tuple, tangents: tuple) -> tuple[BesselTerms, BesselTerms]:
    (x,), (tangent,) = primals, tangents
    terms = _differentiable_terms(order, x)
    change_of_slope = jax.jvp(lambda x: _terms(order, x).slope, (x,), (tangent,))[1]
    changes = (terms.ratio * tangent, -terms.complement * tangent, terms.slope * tangent, -terms.slope * tangent, change_of_slope)
    return terms, BesselTerms(*changes)


def _terms(order: float, x: Array) -> BesselTerms:
    steps = max(0, int(np.ceil(_LARGE_ORDER - order)))
    large = order + steps
    y = x / large  # from here to the recurrence ρ and x are in units of N
    rho = jnp.sqrt(1 + y * y)
    t = 1 / rho
    series, first, second = (jnp.polyval(jnp.asarray(part, x.dtype), t) for part in _expansion(large))
    first, second = first / series, second / series
    rest = -large * jnp.log1p(y * (y / (rho + 1)) / 2) - jnp.log1p(y * y) / 4 + jnp.log(series)
    log_normaliser, log_scaled = large * y * (y / (rho + 1)) + rest, large * (1 / (rho + y) - 1) + rest
    # A/x, x (1 - A) and A': the first two derivatives of the expansion's logarithm, and what they leave of one.
    scaled = (1 / (1 + rho) - t * t * (0.5 + t * first) / large) / large
    rise = large * y * (1 + 1 / (rho + y)) / (1 + rho) + (y * t) ** 2 * (0.5 + t * first)
    bend = (y * y - 1) * t**4 / 2 - t**3 * (1 - 3 * (y * t) ** 2) * first + (y * t**3) ** 2 * (second - first * first)
    slope = (t / (1 + rho) + bend / large) / large
    for above in range(steps, 0, -1):
        twice = 2 * (order + above)
        growth = x * (x * scaled)
        scaled = 1 / (twice + growth)
        rise = (twice - rise) * (x * scaled)
        slope = scaled * (scaled * (twice - x * (x * slope)))
        # M_ν / M_{ν+1} = x / (2(ν+1) A_ν)
        log_normaliser, log_scaled = (value + jnp.log1p(growth / twice) for value in (log_normaliser, log_scaled))
    ratio = x * scaled
    is_large = x > 1
    complement = jnp.where(is_large, rise / jnp.where(is_large, x, 1), 1 - ratio)
    return BesselTerms(log_normaliser, log_scaled, ratio, complement, slope)


@cache
def _expansion(order: float) -> tuple[np.ndarray, ...]:
    """Coefficients, highest first, of Σ_k U_k(t) / N^k and its two derivatives, divided by the sum at t = 1."""
    polynomial = np.polynomial.Polynomial
    term, total = polynomial([1.0]), polynomial([1.0])
    for power in range(1, _NUM_TERMS + 1):
        term = polynomial([0, 0, 0.5, 0, -0.5]) * term.deriv() + (polynomial([1, 0, -5]) * term).integ() / 8
        total = total + term / order**power
    total = total / total(1.0)
    return tuple(part.coef[::-1] for part in (total, total.deriv(), total.deriv(2)))
