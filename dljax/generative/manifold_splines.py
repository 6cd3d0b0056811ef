"""Neural spline flows on circles, tori and the sphere S² (Rezende et al., 2020): bijectors for `flow` with a uniform base."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.core.contract import Key, Params
from dljax.core.precision import wrap
from dljax.generative.bijectors import Bijector, Mapped
from dljax.generative.torus import wrap_angle
from dljax.nn.dense import Dense

type_aliases = ("Scalars",)

Scalars = tuple[Float[Array, "*N"], Float[Array, "*N"]]


def circle_spline(raw: Float[Array, "*N P"], angle: Float[Array, "*N"]) -> Scalars:
    """A smooth map of the circle onto itself: a monotone rational-quadratic spline whose slopes agree at the seam, then a rotation.

    Args:
      raw: of any value, P = 3 K + 1 with K >= 2 pieces: K widths, K heights, the K slopes at the knots, and the rotation, radians. Zeros are the
        identity.
      angle: radians; any, and taken to [-π, π).
    Returns:
      The new angle in [-π, π), and the logarithm of the slope.
    Source: Rezende et al. (2020), Normalizing Flows on Tori and Spheres, section 2.1.2. The spline is distrax's.

    >>> angle, log_slope = circle_spline(jnp.zeros(7), jnp.array(1.0))
    >>> round(float(angle), 4), round(float(log_slope), 4)
    (1.0, -0.0)
    """
    angle, log_slope = _spline(raw, jnp.pi, "circular").forward_and_log_det(wrap_angle(angle))
    return wrap_angle(angle + raw[..., -1]), log_slope


def inverse_circle_spline(raw: Float[Array, "*N P"], angle: Float[Array, "*N"]) -> Scalars:
    """The inverse of `circle_spline` with the same `raw`, and the logarithm of its slope.

    >>> raw = jnp.arange(7.0)
    >>> angle, _ = inverse_circle_spline(raw, circle_spline(raw, jnp.array(1.0))[0])
    >>> round(float(angle), 3)
    1.0
    """
    return _spline(raw, jnp.pi, "circular").inverse_and_log_det(wrap_angle(angle - raw[..., -1]))


def torus_spline_coupling(*, num_bins: int = 8, hidden: Sequence[int] = (64, 64)) -> Bijector:
    """A coupling layer on the torus: splines of circles, followed by a reversal of the angles.

      z = reverse(x_a, circular spline(x_b; θ(cos x_a, sin x_a)))

    Points are angles in [-π, π); a density that is made of these layers has no seam. All begins as the identity. The base is
    `uniform_torus(D)`.

    Args:
      num_bins: K >= 2 pieces of each spline.
      hidden: widths of θ, a SiLU network.
    Raises:
      ValueError: an option out of its range; data of fewer than two angles.
    Source: Rezende et al. (2020), Normalizing Flows on Tori and Spheres, section 2.1.3.

    >>> layer = torus_spline_coupling(num_bins=4, hidden=(8,))
    >>> params = layer.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> [round(float(angle), 4) for angle in layer.inverse(params, jnp.array([1.0, 2.0, 3.0]))[0]]
    [3.0, 2.0, 1.0]
    """
    check_int("torus_spline_coupling", "num_bins", num_bins, minimum=2)
    _check_hidden("torus_spline_coupling", hidden)

    def raw(params: Params, size: int, given: Float[Array, " A"]) -> Float[Array, "M P"]:
        network = _network(size // 2 * (3 * num_bins + 1), hidden)
        return wrap(network.apply)(params, _embedded(given)).reshape(size // 2, -1)

    def init(key: Key, x: Float[Array, "B D"]) -> Params:
        size = x.shape[1]
        if size < 2:
            raise ValueError(f"torus_spline_coupling: needs at least 2 angles, got {size}; one angle has nothing to be coupled with")
        return _network(size // 2 * (3 * num_bins + 1), hidden).init(key, _embedded(x[0, : size - size // 2]))

    def forward(params: Params, z: Float[Array, " D"]) -> Mapped:
        moved, given = jnp.split(z[::-1], [z.size - z.size // 2])[::-1]
        moved, log_slopes = inverse_circle_spline(raw(params, z.size, given), moved)
        return jnp.concatenate([given, moved]), log_slopes.sum()

    def inverse(params: Params, x: Float[Array, " D"]) -> Mapped:
        given, moved = jnp.split(x, [x.size - x.size // 2])
        moved, log_slopes = circle_spline(raw(params, x.size, given), moved)
        return jnp.concatenate([given, moved])[::-1], log_slopes.sum()

    return Bijector(init, forward, inverse)


def sphere_spline_coupling(*, num_bins: int = 8, hidden: Sequence[int] = (64, 64)) -> Bijector:
    """A flow on S² of two splines, of the longitude and of the height, followed by a turn of the axes.

      (x, y, z) = (√(1-h²) cos φ, √(1-h²) sin φ, h),   dA = dh dφ
      φ' = circular spline(φ; θ_1(h)),   h' = spline(h; θ_2(cos φ', sin φ')),   then (x, y, z) -> (y, z, x)

    Height and longitude carry area (Archimedes), so that the splines' slopes are all of the log-determinant. The turn moves the poles of the next
    layer elsewhere. Both splines begin as the identity. The base of the flow is `uniform_sphere(3)`.

    Args:
      num_bins: K >= 2 pieces of each spline.
      hidden: widths of the two SiLU networks θ.
    Raises:
      ValueError: an option out of its range; points that are not in R^3.
    Source: Rezende, Papamakarios, Racanière et al. (2020), Normalizing Flows on Tori and Spheres, sections 2.1.2 and 2.2, with D = 2.

    >>> layer = sphere_spline_coupling(num_bins=4, hidden=(8,))
    >>> params = layer.init(jax.random.key(0), jnp.array([[0.6, 0.0, 0.8]]))
    >>> z, log_det = layer.inverse(params, jnp.array([0.6, 0.0, 0.8]))  # the identity, turned
    >>> bool(jnp.allclose(z, jnp.array([0.0, 0.8, 0.6]), atol=1e-6)), abs(float(log_det)) < 1e-6
    (True, True)
    """
    check_int("sphere_spline_coupling", "num_bins", num_bins, minimum=2)
    _check_hidden("sphere_spline_coupling", hidden)
    network = _network(3 * num_bins + 1, hidden)
    chosen = wrap(network.apply)

    def init(key: Key, x: Float[Array, "B D"]) -> Params:
        if x.shape[1] != 3:
            raise ValueError(f"sphere_spline_coupling: points must be in R^3, got R^{x.shape[1]}; the splines are those of the sphere S²")
        longitude_key, height_key = jax.random.split(key)
        return {"longitude": network.init(longitude_key, x[0, :1]), "height": network.init(height_key, x[0, :2])}

    def inverse(params: Params, x: Float[Array, " D"]) -> Mapped:
        h, angle = x[2], _longitude(x)
        angle, log_stretch = circle_spline(chosen(params["longitude"], h[None]), angle)
        h, log_rise = _spline(chosen(params["height"], _embedded(angle[None])), 1.0, "unconstrained").forward_and_log_det(h)
        return jnp.roll(_point(h, angle), -1), log_stretch + log_rise

    def forward(params: Params, z: Float[Array, " D"]) -> Mapped:
        z = jnp.roll(z, 1)
        h, angle = z[2], _longitude(z)
        h, log_rise = _spline(chosen(params["height"], _embedded(angle[None])), 1.0, "unconstrained").inverse_and_log_det(h)
        angle, log_stretch = inverse_circle_spline(chosen(params["longitude"], h[None]), angle)
        return _point(h, angle), log_stretch + log_rise

    return Bijector(init, forward, inverse)


def _spline(raw: Float[Array, "*N P"], bound: float, boundary_slopes: str) -> Any:
    # Imported where it is used: distrax brings TensorFlow Probability along, seconds of start-up.
    import distrax

    return distrax.RationalQuadraticSpline(raw, range_min=-bound, range_max=bound, boundary_slopes=boundary_slopes)


def _network(size: int, hidden: Sequence[int]) -> linen.Module:
    layers = [layer for width in hidden for layer in (Dense(width), linen.silu)]
    return linen.Sequential([*layers, Dense(size, kernel_init=linen.initializers.zeros)])


def _check_hidden(who: str, hidden: Sequence[int]) -> None:
    for width in hidden:
        check_int(who, "hidden", width, minimum=1)


def _embedded(angles: Float[Array, " A"]) -> Float[Array, " E"]:
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


def _longitude(x: Float[Array, "3"]) -> Float[Array, ""]:
    # The poles have no longitude: theirs is 0, without a gradient.
    is_pole = (x[0] == 0) & (x[1] == 0)
    return jnp.arctan2(x[1], jnp.where(is_pole, 1, x[0]))


def _point(h: Float[Array, ""], angle: Float[Array, ""]) -> Float[Array, "3"]:
    # The root's slope grows without bound towards the poles: it is cut off where rounding has made the radius meaningless.
    radius = jnp.sqrt(jnp.maximum(1 - h * h, jnp.finfo(h.dtype).eps ** 2))
    return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle), jnp.clip(h, -1, 1)])
