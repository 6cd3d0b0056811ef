"""Bijectors with few parameters: act norm, planar and radial flows, the logit, and whatever distrax has."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_range
from dljax.core.contract import Key, Params
from dljax.generative.bijectors import Bijector, Mapped, Point


def act_norm() -> Bijector:
    """A shift and a scale of each feature, which begin as the mean and the deviation of the first batch.

      x = μ + exp(s) · z

    The features are the last axis: all pixels of a channel share one shift and one scale.

    Source: Kingma and Dhariwal (2018), Glow, section 3.1.

    >>> layer = act_norm()
    >>> params = layer.init(jax.random.key(0), jnp.array([[1.0], [3.0]]))
    >>> z, log_det = layer.inverse(params, jnp.array([3.0]))
    >>> z.tolist(), float(log_det)
    ([1.0], -0.0)
    """

    def init(key: Key, x: Num[Array, "B ..."], *context: Array) -> Params:
        # A feature that does not vary in the first batch keeps its scale.
        rows = x.reshape(-1, x.shape[-1])
        scale = rows.std(0)
        return {"shift": rows.mean(0), "log_scale": jnp.log(jnp.where(scale > 0, scale, 1))}

    def log_det(params: Params, point: Point) -> Float[Array, ""]:
        return params["log_scale"].sum() * (point.size // point.shape[-1])

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        return _row(params["shift"], z) + jnp.exp(_row(params["log_scale"], z)) * z, log_det(params, z)

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        return (x - _row(params["shift"], x)) * jnp.exp(-_row(params["log_scale"], x)), -log_det(params, x)

    return Bijector(init, forward, inverse)


def planar() -> Bijector:
    """A flow that pushes points along one direction, as much as they lie on one side of a plane.

      x = z + û tanh(wᵀz + b),   log|det ∂x/∂z| = log(1 + wᵀû (1 - tanh²(wᵀz + b)))
      û = u + (m(wᵀu) - wᵀu) w/‖w‖²,   m(a) = softplus(a) - 1,  so that wᵀû > -1, and the map can be inverted

    The inverse has no closed form: wᵀz is found by bisection, and z with it; its gradients are those of the exact inverse. It begins at the identity.

    Source: Rezende and Mohamed (2015), section 4.1 and appendix A.1.

    >>> layer = planar()
    >>> params = layer.init(jax.random.key(0), jnp.zeros((1, 2))) | {"direction": jnp.array([3.0, -1.0])}
    >>> x, _ = layer.forward(params, jnp.array([0.5, 0.25]))
    >>> layer.inverse(params, x)[0].round(4).tolist()
    [0.5, 0.25]
    """

    def init(key: Key, x: Num[Array, "B D"], *context: Array) -> Params:
        normal = jax.random.normal(key, x.shape[1:], x.dtype)
        # m(wᵀu) = 0 where softplus(wᵀu) = 1.
        return {"normal": normal, "direction": math.log(math.e - 1) * normal / (normal @ normal), "offset": jnp.zeros((), x.dtype)}

    def bent(params: Params) -> tuple[Float[Array, " D"], Float[Array, ""]]:
        normal, direction = params["normal"], params["direction"]
        push = jax.nn.softplus(normal @ direction) - 1
        return direction + (push - normal @ direction) * normal / jnp.maximum(normal @ normal, jnp.finfo(normal.dtype).tiny), push

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        direction, push = bent(params)
        bend = jnp.tanh(params["normal"] @ z + params["offset"])
        return z + direction * bend, jnp.log1p(push * (1 - bend**2))

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        direction, push = bent(params)
        side, offset = params["normal"] @ x, params["offset"]

        def excess(height: Float[Array, ""]) -> Float[Array, ""]:
            return height + push * jnp.tanh(height + offset) - side

        height = lax.stop_gradient(_bisect(excess, side - jnp.abs(push), side + jnp.abs(push)))
        # One step of Newton's: it gives the root its derivative by the implicit function theorem.
        height = height - excess(height) / (1 + push * (1 - jnp.tanh(height + offset) ** 2))
        bend = jnp.tanh(height + offset)
        return x - direction * bend, -jnp.log1p(push * (1 - bend**2))

    return Bijector(init, forward, inverse)


def radial() -> Bijector:
    """A flow that draws points towards a centre, or away from it.

      x = z + β (z - c)/(α + r),   r = ‖z - c‖,   α > 0,   β > -α
      log|det ∂x/∂z| = (D - 1) log(1 + β/(α + r)) + log(1 + αβ/(α + r)²)

    The inverse is the positive root of a quadratic equation for r. It begins at the identity, with c at the mean of the first batch.

    Source: Rezende and Mohamed (2015), eq. 14 and appendix A.2.

    >>> layer = radial()
    >>> params = layer.init(jax.random.key(0), jnp.zeros((1, 2))) | {"strength": jnp.array(2.0)}
    >>> x, _ = layer.forward(params, jnp.array([0.5, 0.25]))
    >>> layer.inverse(params, x)[0].round(4).tolist()
    [0.5, 0.25]
    """

    def init(key: Key, x: Num[Array, "B D"], *context: Array) -> Params:
        return {"center": x.mean(0), "reach": jnp.zeros((), x.dtype), "strength": jnp.zeros((), x.dtype)}

    def positive(params: Params) -> tuple[Float[Array, ""], Float[Array, ""]]:
        reach, sum_of_both = jax.nn.softplus(params["reach"]), jax.nn.softplus(params["strength"])
        return reach, sum_of_both - reach

    def length(offset: Float[Array, " D"]) -> Float[Array, ""]:
        return jnp.sqrt(jnp.maximum(offset @ offset, jnp.finfo(offset.dtype).tiny))  # with a gradient at the centre: zero

    def log_det(size: int, reach: Float[Array, ""], strength: Float[Array, ""], radius: Float[Array, ""]) -> Float[Array, ""]:
        share = strength / (reach + radius)
        return (size - 1) * jnp.log1p(share) + jnp.log1p(share * reach / (reach + radius))

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        reach, strength = positive(params)
        offset = z - params["center"]
        radius = length(offset)
        return z + strength / (reach + radius) * offset, log_det(z.size, reach, strength, radius)

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        reach, strength = positive(params)
        offset = x - params["center"]
        distance = length(offset)
        # r² + p r - α‖x - c‖ = 0, in the form that has no cancellation for either sign of p.
        p, product = reach + strength - distance, reach * distance
        root = jnp.sqrt(p**2 + 4 * product)
        radius = jnp.where(p > 0, 2 * product / (jnp.maximum(p, 0) + root), (root - p) / 2)
        return params["center"] + offset / (1 + strength / (reach + radius)), -log_det(x.size, reach, strength, radius)

    return Bijector(init, forward, inverse)


def logit(margin: float = 1e-6) -> Bijector:
    """From the unit interval to the real line, for dequantised pixels: no parameters.

      z = log p - log(1 - p),   p = α + (1 - 2α) x,   x ∈ [0, 1]

    Args:
      margin: α in [0, 1/2), which keeps the ends finite. Data outside of [-α/(1-2α), 1+α/(1-2α)] make the density NaN.
    Raises:
      ValueError: an option out of its range.
    Source: Dinh et al. (2017), RealNVP, section 4.1 (α 0.05); Papamakarios et al. (2017), MAF, section 4.3 (α 1e-6 for digits, 0.05 for CIFAR).

    >>> z, log_det = logit(0.0).inverse((), jnp.array([0.5]))
    >>> float(z[0]), round(float(log_det), 4)  # the slope is 4
    (0.0, 1.3863)
    """
    check_range("logit", "margin", margin, 0, 0.5, open_high=True)

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        slopes = jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z) - math.log1p(-2 * margin)
        return (jax.nn.sigmoid(z) - margin) / (1 - 2 * margin), slopes.sum()

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        share = margin + (1 - 2 * margin) * x
        low, high = jnp.log(share), jnp.log1p(-share)
        return low - high, (math.log1p(-2 * margin) - low - high).sum()

    return Bijector(lambda key, x, *context: (), forward, inverse)


def from_distrax(build: Callable[[Params], Any], init: Callable[..., Params] = lambda key, x: ()) -> Bijector:
    """A bijector of distrax's (or of TensorFlow Probability's through distrax), built of raw parameters wherever it is used.

    Args:
      build: from parameters to the distrax bijector, for one point; its `forward` makes data of noise.
      init: `(key, x [B, ...]) -> params`; none by default. A context is not handed on.

    >>> import distrax
    >>> layer = from_distrax(lambda log_scale: distrax.DiagLinear(jnp.exp(log_scale)), lambda key, x: jnp.log(x.std(0)))
    >>> params = layer.init(jax.random.key(0), jnp.array([[0.0, 0.0], [2.0, 6.0]]))
    >>> layer.inverse(params, jnp.array([2.0, 3.0]))[0].round(4).tolist()
    [2.0, 1.0]
    """

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        x, log_det = build(params).forward_and_log_det(z)
        return x, log_det.sum()

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        z, log_det = build(params).inverse_and_log_det(x)
        return z, log_det.sum()

    return Bijector(lambda key, x, *context: init(key, x), forward, inverse)


def _bisect(excess: Callable[[Float[Array, ""]], Float[Array, ""]], low: Float[Array, ""], high: Float[Array, ""]) -> Float[Array, ""]:
    """The root of an increasing function between two numbers, to the last bits."""

    def halve(number: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        is_above = excess(middle) > 0
        return jnp.where(is_above, low, middle), jnp.where(is_above, middle, high)

    low, high = lax.fori_loop(0, jnp.finfo(low.dtype).nmant, halve, (low, high))
    return (low + high) / 2


def _row(values: Float[Array, " C"], point: Point) -> Float[Array, "..."]:
    return values.reshape((1,) * (point.ndim - 1) + values.shape)
