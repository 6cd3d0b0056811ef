"""Hyperbolic space as a hyperboloid and as the Poincaré ball: distances, exponential maps, parallel transport, and the wrapped normal."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, ArrayLike, Float

from dljax.core.checks import check_range
from dljax.core.contract import Key, Numeric
from dljax.generative.distribution import Distribution


def lorentz_product(x: Float[Array, "*N E"], y: Float[Array, "*N E"]) -> Float[Array, "*N"]:
    """The Minkowski inner product, time first.

      <x, y> = -x_0 y_0 + Σ_i x_i y_i

    >>> float(lorentz_product(jnp.array([3.0, 1.0]), jnp.array([2.0, 1.0])))
    -5.0
    """
    return (x[..., 1:] * y[..., 1:]).sum(-1) - x[..., 0] * y[..., 0]


def hyperboloid_point(space: Float[Array, "*N n"], *, curvature: Numeric = -1.0) -> Float[Array, "*N E"]:
    """The point of the hyperboloid <x, x> = 1/K, x_0 > 0, with given space coordinates: [n] to [n+1].

    Args:
      curvature: K < 0; may be traced.
    Raises:
      ValueError: a concrete `curvature` >= 0.

    >>> hyperboloid_point(jnp.array([0.75])).tolist()
    [1.25, 0.75]
    """
    time = jnp.sqrt(jnp.square(space).sum(-1, keepdims=True) + _radius("hyperboloid_point", curvature) ** 2)
    return jnp.concatenate([time, space], -1)


def hyperbolic_distance(x: Float[Array, "*N E"], y: Float[Array, "*N E"], *, curvature: Numeric = -1.0) -> Float[Array, "*N"]:
    """The length of the geodesic between two points of the hyperboloid.

      d = arccosh(K <x, y>) / √-K

    By the space coordinates alone, without the cancellation of the product: neighbours keep their distance, near the origin and far out.

    Args:
      curvature: K < 0; may be traced.
    Returns:
      Lengths >= 0; where the points coincide the gradient is 0.
    Raises:
      ValueError: a concrete `curvature` >= 0.
    Source: Nickel and Kiela (2018), Learning Continuous Hierarchies in the Lorentz Model, eq. 5.

    >>> x = hyperboloid_point(jnp.array([[0.0], [1e-4]]))
    >>> round(float(hyperbolic_distance(x[0], x[1])) * 1e4, 4)
    1.0
    """
    radius = _radius("hyperbolic_distance", curvature)
    return radius * _angle(x / radius, y / radius)


def hyperboloid_exp(x: Float[Array, "*N E"], v: Float[Array, "*N E"], *, curvature: Numeric = -1.0) -> Float[Array, "*N E"]:
    """Where the geodesic that starts at x with velocity v arrives after unit time.

      exp_x(v) = cosh(r) x + sinh(r)/r v,   r = √-K |v|,   |v|² = <v, v>

    Args:
      v: tangents at x, <x, v> = 0.
      curvature: K < 0; may be traced.
    Raises:
      ValueError: a concrete `curvature` >= 0.
    Source: Nagano, Yamaguchi, Fujita and Koyama (2019), A Wrapped Normal Distribution on Hyperbolic Space, eq. 5.

    >>> origin = jnp.array([1.0, 0.0])
    >>> hyperboloid_exp(origin, jnp.array([0.0, 1.0])).round(3).tolist()  # cosh 1, sinh 1
    [1.54..., 1.17...]
    """
    radius = _radius("hyperboloid_exp", curvature)
    r = _length(lorentz_product(v, v)) / radius
    space = jnp.cosh(r)[..., None] * x[..., 1:] + _sinhc(r)[..., None] * v[..., 1:]
    return hyperboloid_point(space, curvature=curvature)


def hyperboloid_log(x: Float[Array, "*N E"], y: Float[Array, "*N E"], *, curvature: Numeric = -1.0) -> Float[Array, "*N E"]:
    """The tangent at x whose geodesic arrives at y: the inverse of `hyperboloid_exp`.

      log_x(y) = r/sinh(r) (y - cosh(r) x),   r = √-K d(x, y)

    Args:
      curvature: K < 0; may be traced.
    Raises:
      ValueError: a concrete `curvature` >= 0.
    Source: Nagano et al. (2019), eq. 6.

    >>> origin, y = jnp.array([1.0, 0.0]), hyperboloid_point(jnp.sinh(jnp.array([2.0])))
    >>> [round(float(value), 4) for value in hyperboloid_log(origin, y)]
    [0.0, 2.0]
    """
    radius = _radius("hyperboloid_log", curvature)
    r = _angle(x / radius, y / radius)
    space = ((y - x)[..., 1:] - 2 * jnp.square(jnp.sinh(r / 2))[..., None] * x[..., 1:]) / _sinhc(r)[..., None]
    # A tangent is orthogonal to x, which says what its time is.
    return jnp.concatenate([(space * x[..., 1:]).sum(-1, keepdims=True) / x[..., :1], space], -1)


def hyperboloid_transport(
    x: Float[Array, "*N E"], y: Float[Array, "*N E"], v: Float[Array, "*N E"], *, curvature: Numeric = -1.0
) -> Float[Array, "*N E"]:
    """A tangent at x, carried along the geodesic to y without turning; lengths and angles stay.

      P(v) = v + <y, v> / (-1/K - <x, y>) (x + y)

    Args:
      v: tangents at x.
      curvature: K < 0; may be traced.
    Raises:
      ValueError: a concrete `curvature` >= 0.
    Source: Nagano et al. (2019), eq. 4.

    >>> origin, y = jnp.array([1.0, 0.0]), hyperboloid_point(jnp.sinh(jnp.array([1.0])))
    >>> hyperboloid_transport(origin, y, jnp.array([0.0, 1.0])).round(3).tolist()  # sinh 1, cosh 1
    [1.17..., 1.54...]
    """
    square = _radius("hyperboloid_transport", curvature) ** 2
    return v + (lorentz_product(y, v) / (square - lorentz_product(x, y)))[..., None] * (x + y)


def hyperboloid_to_ball(x: Float[Array, "*N E"], *, curvature: Numeric = -1.0) -> Float[Array, "*N n"]:
    """The point of the Poincaré ball of radius 1/√-K, seen from the hyperboloid's other pole: an isometry.

      p = R x_{1:} / (R + x_0),   R = 1/√-K

    Args:
      curvature: K < 0; may be traced.
    Raises:
      ValueError: a concrete `curvature` >= 0.
    Source: Nickel and Kiela (2018), eq. 11.

    >>> round(float(hyperboloid_to_ball(jnp.array([1.25, 0.75]))[0]), 4)
    0.3333
    """
    radius = _radius("hyperboloid_to_ball", curvature)
    return radius * x[..., 1:] / (radius + x[..., :1])


def ball_to_hyperboloid(p: Float[Array, "*N n"], *, curvature: Numeric = -1.0) -> Float[Array, "*N E"]:
    """The point of the hyperboloid that `hyperboloid_to_ball` sends to p, |p| < 1/√-K.

      x = (R (1 + |p/R|²), 2p) / (1 - |p/R|²)

    Args:
      curvature: K < 0; may be traced.
    Raises:
      ValueError: a concrete `curvature` >= 0.

    >>> [round(float(value), 4) for value in ball_to_hyperboloid(jnp.array([1 / 3]))]
    [1.25, 0.75]
    """
    square = jnp.square(p / _radius("ball_to_hyperboloid", curvature)).sum(-1, keepdims=True)
    return hyperboloid_point(2 * p / (1 - square), curvature=curvature)


def ball_log_volume(p: Float[Array, "*N n"], *, curvature: Numeric = -1.0) -> Float[Array, "*N"]:
    """The logarithm of hyperbolic volume per volume of the ball's coordinates, n log λ.

      λ = 2 / (1 - |p/R|²),   R = 1/√-K

    A density with respect to hyperbolic volume is the same number on hyperboloid and ball; adding this makes it one of the coordinates p.

    Args:
      curvature: K < 0; may be traced.
    Raises:
      ValueError: a concrete `curvature` >= 0.
    Source: Mathieu, Le Lan, Maddison, Tomioka and Teh (2019), Continuous Hierarchical Representations with Poincaré VAEs, section 2.

    >>> round(float(ball_log_volume(jnp.zeros(3))), 4)  # 3 log 2
    2.0794
    """
    square = jnp.square(p / _radius("ball_log_volume", curvature)).sum(-1)
    return p.shape[-1] * (math.log(2) - jnp.log1p(-square))


def mobius_add(p: Float[Array, "*N n"], q: Float[Array, "*N n"], *, curvature: Numeric = -1.0) -> Float[Array, "*N n"]:
    """The sum of the Poincaré ball: q, moved by the translation that takes the origin to p.

      p ⊕ q = ((1 + 2c p·q + c|q|²) p + (1 - c|p|²) q) / (1 + 2c p·q + c²|p|²|q|²),   c = -K

    Args:
      curvature: K < 0; may be traced.
    Raises:
      ValueError: a concrete `curvature` >= 0.
    Source: Ganea, Bécigneul and Hofmann (2018), Hyperbolic Neural Networks, eq. 4.

    >>> round(float(mobius_add(jnp.array([0.5]), jnp.array([0.5]))[0]), 4)  # tanh(2 arctanh 0.5)
    0.8
    """
    c = _radius("mobius_add", curvature) ** -2
    inner, p_square, q_square = ((a * b).sum(-1, keepdims=True) for a, b in ((p, q), (p, p), (q, q)))
    return ((1 + 2 * c * inner + c * q_square) * p + (1 - c * p_square) * q) / (1 + 2 * c * inner + c * c * p_square * q_square)


def hyperbolic_normal(mean: Float[ArrayLike, " E"], scale: Float[ArrayLike, " n"], *, curvature: Numeric = -1.0) -> Distribution:
    """The wrapped normal on the hyperboloid: normal tangents at the origin, carried to μ and followed along their geodesics.

      v ~ N(0, diag σ²),   x = exp_μ(P_{o→μ}(v))
      log p(x) = Σ_i log N(v_i; 0, σ_i²) - (n-1) log(sinh(r)/r),   r = √-K |v|

    Samples are differentiable in μ and σ.

    Args:
      mean: μ, a point of the hyperboloid in n+1 coordinates (`hyperboloid_point`, or `origin_exp` of free parameters).
      scale: σ > 0, n of them, lengths.
      curvature: K < 0; may be traced.
    Returns:
      `log_prob` is with respect to hyperbolic volume; on the ball see `ball_log_volume`.
    Raises:
      ValueError: `mean` and `scale` of other shapes than [n+1] and [n]; a concrete `scale` <= 0 or `curvature` >= 0.
    Source: Nagano, Yamaguchi, Fujita and Koyama (2019), A Wrapped Normal Distribution on Hyperbolic Space, algorithms 1-2 and eq. 9.

    >>> around_origin = hyperbolic_normal(jnp.array([1.0, 0.0, 0.0]), jnp.ones(2))
    >>> around_origin.sample(jax.random.key(0), 5).shape
    (5, 3)
    """
    dtype = jnp.result_type(mean, scale, float)
    mean, scale = jnp.asarray(mean, dtype), jnp.asarray(scale, dtype)
    if mean.ndim != 1 or scale.ndim != 1 or len(mean) != len(scale) + 1:
        raise ValueError(f"hyperbolic_normal: mean must be [n+1] and scale [n], got {mean.shape} and {scale.shape}; use vmap for several")
    check_range("hyperbolic_normal", "scale", scale, 0, open_low=True)
    radius = _radius("hyperbolic_normal", curvature)
    size = len(scale)
    origin = jnp.zeros_like(mean).at[0].set(radius)

    def sample(key: Key, num: int) -> Float[Array, "N E"]:
        def one(noise: Float[Array, " n"]) -> Float[Array, " E"]:
            tangent = jnp.concatenate([jnp.zeros_like(noise[:1]), scale * noise])
            return hyperboloid_exp(mean, hyperboloid_transport(origin, mean, tangent, curvature=curvature), curvature=curvature)

        return jax.vmap(one)(jax.random.normal(key, (num, size), dtype))

    def log_prob(x: Float[Array, "*N E"]) -> Float[Array, "*N"]:
        def one(x: Float[Array, " E"]) -> Float[Array, ""]:
            tangent = hyperboloid_transport(mean, origin, hyperboloid_log(mean, x, curvature=curvature), curvature=curvature)[1:]
            r = _length(jnp.square(tangent).sum()) / radius
            return norm.logpdf(tangent, scale=scale).sum() - (size - 1) * log_sinhc(r)

        return jax.vmap(one)(x.reshape(-1, size + 1)).reshape(x.shape[:-1])

    return Distribution(sample, log_prob)


def origin_exp(v: Float[Array, "*N n"], *, curvature: Numeric = -1.0) -> Float[Array, "*N E"]:
    """The exponential map at the origin, from free coordinates [n] to the hyperboloid [n+1].

    Args:
      curvature: K < 0; may be traced.
    Raises:
      ValueError: a concrete `curvature` >= 0.

    >>> origin_exp(jnp.zeros(2)).tolist()
    [1.0, 0.0, 0.0]
    """
    r = _length(jnp.square(v).sum(-1)) / _radius("origin_exp", curvature)
    return hyperboloid_point(_sinhc(r)[..., None] * v, curvature=curvature)


def origin_log(x: Float[Array, "*N E"], *, curvature: Numeric = -1.0) -> Float[Array, "*N n"]:
    """The inverse of `origin_exp`: the direction and the distance in which a point lies from the origin.

    Args:
      curvature: K < 0; may be traced.
    Raises:
      ValueError: a concrete `curvature` >= 0.

    >>> [round(float(value), 3) for value in origin_log(origin_exp(jnp.array([3.0, 4.0])))]
    [3.0, 4.0]
    """
    space = x[..., 1:]
    r = jnp.arcsinh(_length(jnp.square(space).sum(-1)) / _radius("origin_log", curvature))
    return space / _sinhc(r)[..., None]


def log_sinhc(r: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """log(sinh(r)/r) for r >= 0, without overflow and with the right gradient at 0.

    >>> [round(float(value), 1) for value in log_sinhc(jnp.array([0.0, 1000.0]))]
    [0.0, 992.4]
    """
    is_small = r < 0.05
    safe = jnp.where(is_small, 1, r)
    square = jnp.square(jnp.where(is_small, r, 0))
    series = square / 6 - square**2 / 180 + square**3 / 2835
    return jnp.where(is_small, series, safe + jnp.log(-jnp.expm1(-2 * safe) / (2 * safe)))


def _sinhc(r: Array) -> Array:
    return jnp.exp(log_sinhc(r))


def _length(square: Array) -> Array:
    is_positive = square > 0
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, square, 1)), 0)


def _angle(x: Array, y: Array) -> Array:
    """arccosh(-<x, y>) of points of the unit hyperboloid, from x - y along and across x + y."""
    away, both, time = x[..., 1:] - y[..., 1:], x[..., 1:] + y[..., 1:], x[..., 0] + y[..., 0]
    square = jnp.square(both).sum(-1)
    has_direction = square > 0
    ahead = both / jnp.sqrt(jnp.where(has_direction, square, 1))[..., None]
    along = (away * ahead).sum(-1)
    across = jnp.square(away - along[..., None] * ahead).sum(-1)
    share = jnp.square(along / time)
    # cosh(r) - 1 = 2 sinh²(r/2)
    return 2 * jnp.arcsinh(_length((across + 4 * share) / (4 * (1 - share))))


def _radius(who: str, curvature: Numeric) -> Numeric:
    check_range(who, "curvature", curvature, high=0, open_high=True)
    return (-curvature) ** -0.5  # a Python number stays one, and leaves the points their dtype
