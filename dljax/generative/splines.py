"""Monotone rational-quadratic splines (Gregory and Delbourgo, 1982; Durkan et al., 2019): exact both ways, the identity outside an interval."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

type_aliases = ("Splined",)

Splined = tuple[Float[Array, "*B"], Float[Array, "*B"]]

_SMALLEST = 1e-4  # of widths, heights (in the units of x) and slopes: keeps a float32 spline invertible


def rational_quadratic_spline(raw: Float[Array, "*B P"], x: Float[Array, "*B"], *, bound: float, is_inverse: bool = False) -> Splined:
    """An increasing map of [-bound, bound] onto itself through K + 1 knots, and of everything outside to itself.

      y = y_k + h (s t² + δ_k t(1-t)) / (s + (δ_{k+1} + δ_k - 2s) t(1-t)),   t = (x - x_k)/w,   s = h/w

    between the knots (x_k, y_k) and (x_k + w, y_k + h), at which the slopes are δ_k and δ_{k+1}. The slopes at the ends are 1.

    Args:
      raw: P = 3K - 1 unconstrained numbers: K widths and K heights (softmax), K - 1 slopes (softplus). Zeros make the identity.
      x: one number for each spline.
      bound: > 0.
      is_inverse: solve for x where y is given, by the root of the quadratic equation.
    Returns:
      The value and the logarithm of the derivative there; 0 outside.
    Raises:
      ValueError: P is no 3K - 1, or K pieces of the smallest width do not fit.
    Source: Durkan, Bekasov, Murray and Papamakarios (2019), Neural Spline Flows, eq. 4-8 and appendix A.2. Values are those of distrax's.

    >>> y, log_slope = rational_quadratic_spline(jnp.array([0.0, 0.0, 0.0, 0.0, 1.0]), jnp.array(0.0), bound=1.0)
    >>> float(y), round(float(jnp.exp(log_slope)), 2)  # the middle knot stays, steeper
    (0.0, 1.74)
    """
    num_bins, rest = divmod(raw.shape[-1] + 1, 3)
    if rest or num_bins < 1 or num_bins * _SMALLEST >= 2 * bound:
        raise ValueError(
            f"rational_quadratic_spline: raw must have 3K - 1 numbers, with K >= 1 below {2 * bound / _SMALLEST:g}, on its last axis, got "
            f"{raw.shape[-1]}"
        )
    widths, heights = (_sizes(part, bound) for part in (raw[..., :num_bins], raw[..., num_bins : 2 * num_bins]))
    slopes = jax.nn.softplus(raw[..., 2 * num_bins :] + np.log(np.expm1(1 - _SMALLEST))) + _SMALLEST
    slopes = jnp.concatenate([one := jnp.ones_like(raw[..., :1]), slopes, one], -1)
    # Left ends of the pieces: a product with a triangle of ones is quicker than a cumulative sum, and exact enough at this size.
    before = jnp.asarray(np.triu(np.ones((num_bins, num_bins)), 1), raw.dtype)
    lefts, bottoms = widths @ before - bound, heights @ before - bound

    # Outside, everything below is that of the nearer end, and not used.
    place = jnp.clip(x, -bound, bound)[..., None]
    is_reached = (place >= (bottoms if is_inverse else lefts)[..., 1:]).astype(raw.dtype)
    first = jnp.ones_like(place)
    chosen = jnp.concatenate([first, is_reached], -1) - jnp.concatenate([is_reached, jnp.zeros_like(place)], -1)
    columns = jnp.stack([lefts, bottoms, widths, heights, slopes[..., :-1], slopes[..., 1:]], -2)
    left, bottom, width, height, slope, next_slope = jnp.moveaxis((columns * chosen[..., None, :]).sum(-1), -1, 0)

    mean_slope, place = height / width, place[..., 0]
    bend = next_slope + slope - 2 * mean_slope
    if is_inverse:
        rise = place - bottom
        a, b, c = height * (mean_slope - slope) + rise * bend, height * slope - rise * bend, -mean_slope * rise
        # The form of the root that has no cancellation for b > 0; the discriminant is positive but for rounding.
        part = 2 * c / (-b - jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, jnp.finfo(raw.dtype).tiny)))
    else:
        part = (place - left) / width
    share = part * (1 - part)
    denominator = mean_slope + bend * share
    log_slope = 2 * jnp.log(mean_slope) + jnp.log(next_slope * part**2 + 2 * mean_slope * share + slope * (1 - part) ** 2) - 2 * jnp.log(denominator)
    y = left + width * part if is_inverse else bottom + height * (mean_slope * part**2 + slope * share) / denominator
    is_inside = (x > -bound) & (x < bound)
    return jnp.where(is_inside, y, x), jnp.where(is_inside, -log_slope if is_inverse else log_slope, 0)


def _sizes(raw: Float[Array, "*B K"], bound: float) -> Float[Array, "*B K"]:
    return jax.nn.softmax(raw) * (2 * bound - raw.shape[-1] * _SMALLEST) + _SMALLEST
