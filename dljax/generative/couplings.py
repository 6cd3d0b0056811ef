"""Coupling layers: one half of the features says how the other half is moved. NICE, RealNVP and neural spline flows (2015, 2017, 2019)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Params
from dljax.core.precision import wrap
from dljax.generative.bijectors import Bijector, Mapped, Point
from dljax.generative.splines import Splined, rational_quadratic_spline
from dljax.nn.convolution import Conv
from dljax.nn.dense import Dense


class ElementMap(NamedTuple):
    """A family of increasing maps of numbers: what a coupling or an autoregressive layer does to each feature, with parameters from a network.

    Attributes:
      num_params: P, how many raw parameters a map has; zeros are the identity.
      encode: `(raw [*B, P], x [*B]) -> (z, log dz/dx)`, the way of training.
      decode: `(raw [*B, P], z [*B]) -> (x, log dx/dz)`.

    >>> affine().num_params
    2
    """

    num_params: int
    encode: Callable[[Array, Array], Splined]
    decode: Callable[[Array, Array], Splined]


def additive() -> ElementMap:
    """z = x + t: volume is kept.

    Source: Dinh, Krueger and Bengio (2015), NICE, section 3.2.

    >>> additive().encode(jnp.array([[2.0]]), jnp.array([1.0]))[0].tolist()
    [3.0]
    """
    return ElementMap(1, lambda raw, x: (x + raw[..., 0], jnp.zeros_like(x)), lambda raw, z: (z - raw[..., 0], jnp.zeros_like(z)))


def affine(max_log_scale: float = 3.0) -> ElementMap:
    """z = x · exp(s) + t, where s is kept within a bound by s = m tanh(r/m).

    Args:
      max_log_scale: m > 0: a layer stretches by exp(m) at most, so that no layer overflows on data that it has not seen.
    Raises:
      ValueError: `max_log_scale` <= 0.
    Source: Dinh, Sohl-Dickstein and Bengio (2017), Density estimation using Real NVP, eq. 4.

    >>> z, log_slope = affine().encode(jnp.array([[0.0, 1.0]]), jnp.array([2.0]))
    >>> z.tolist(), log_slope.tolist()
    ([3.0], [0.0])
    """
    check_range("affine", "max_log_scale", max_log_scale, 0, open_low=True, open_high=True)

    def log_scale(raw: Float[Array, "*B P"]) -> Float[Array, "*B"]:
        return max_log_scale * jnp.tanh(raw[..., 0] / max_log_scale)

    def encode(raw: Float[Array, "*B P"], x: Float[Array, "*B"]) -> Splined:
        scale = log_scale(raw)
        return x * jnp.exp(scale) + raw[..., 1], scale

    def decode(raw: Float[Array, "*B P"], z: Float[Array, "*B"]) -> Splined:
        scale = log_scale(raw)
        return (z - raw[..., 1]) * jnp.exp(-scale), -scale

    return ElementMap(2, encode, decode)


def spline(num_bins: int = 8, bound: float = 4.0) -> ElementMap:
    """A monotone rational-quadratic spline of [-bound, bound], the identity outside: `rational_quadratic_spline`.

    Args:
      num_bins: K >= 1 pieces.
      bound: > 0; data should be about standard normal here (`act_norm` first).
    Raises:
      ValueError: an option out of its range.

    >>> spline(num_bins=8).num_params
    23
    """
    check_int("spline", "num_bins", num_bins, minimum=1)
    check_range("spline", "bound", bound, 0, open_low=True, open_high=True)
    # Training maps data to noise: that way is the spline's closed form, the other solves a quadratic equation.
    return ElementMap(
        3 * num_bins - 1,
        lambda raw, x: rational_quadratic_spline(raw, x, bound=bound),
        lambda raw, z: rational_quadratic_spline(raw, z, bound=bound, is_inverse=True),
    )


def coupling(element: ElementMap, network: Callable[[int], linen.Module]) -> Bijector:
    """A layer that moves half of the features by what the other half says, and then reverses the features.

      z = reverse(x_a, encode(θ(x_a, c), x_b))

    The features are the last axis: those of a vector, the channels of a picture. The reversal makes halves take turns from layer to layer.

    Args:
      element: the map of each feature.
      network: θ, from the number of its outputs: `dense_network(...)`, `convolutional_network(...)`, or any that maps [*S, A] to [*S, outputs].
        A context of the shape [*S, C], or a vector [C] that every place gets, is appended to x_a.
    Raises:
      ValueError: data of fewer than two features.
    Source: Dinh, Krueger and Bengio (2015), NICE, section 3.2.

    >>> import jax
    >>> layer = coupling(additive(), dense_network((8,)))
    >>> params = layer.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> layer.inverse(params, jnp.array([1.0, 2.0, 3.0]))[0].tolist()  # the identity, reversed
    [3.0, 2.0, 1.0]
    """

    def raw(params: Params, num: int, given: Float[Array, "*S A"], context: tuple[Array, ...]) -> Float[Array, "*S M P"]:
        outputs = wrap(network(num * element.num_params).apply)(params, _joined(given, context))
        return outputs.reshape(*given.shape[:-1], num, element.num_params)

    def init(key: Key, x: Num[Array, "B *S D"], *context: Array) -> Params:
        size = x.shape[-1]
        if size < 2:
            raise ValueError(f"coupling: needs at least 2 features, got {size}; one feature has nothing to be coupled with")
        inputs = _joined(x[0, ..., : size - size // 2], tuple(part[0] for part in context))
        return network(size // 2 * element.num_params).init(key, inputs)

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        z = jnp.flip(z, -1)
        num = z.shape[-1] // 2
        given, moved = z[..., : z.shape[-1] - num], z[..., z.shape[-1] - num :]
        moved, log_dets = element.decode(raw(params, num, given, context), moved)
        return jnp.concatenate([given, moved], -1), log_dets.sum()

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        num = x.shape[-1] // 2
        given, moved = x[..., : x.shape[-1] - num], x[..., x.shape[-1] - num :]
        moved, log_dets = element.encode(raw(params, num, given, context), moved)
        return jnp.flip(jnp.concatenate([given, moved], -1), -1), log_dets.sum()

    return Bijector(init, forward, inverse)


def additive_coupling(*, hidden: Sequence[int] = (64, 64)) -> Bijector:
    """A layer of NICE: `coupling(additive(), ...)` of vectors, with a SiLU network of these hidden widths that begins at the identity.

    Volume is kept: put an `act_norm` at the noise end.

    >>> import jax
    >>> params = (layer := additive_coupling(hidden=(8,))).init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> float(layer.inverse(params, jnp.ones(2))[1])
    0.0
    """
    return coupling(additive(), dense_network(hidden))


def affine_coupling(*, max_log_scale: float = 3.0, hidden: Sequence[int] = (64, 64)) -> Bijector:
    """A layer of RealNVP: `coupling(affine(max_log_scale), ...)` of vectors, with a SiLU network that begins at the identity.

    >>> import jax
    >>> params = (layer := affine_coupling(hidden=(8,))).init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> layer.forward(params, jnp.array([1.0, 2.0]))[0].tolist()
    [2.0, 1.0]
    """
    return coupling(affine(max_log_scale), dense_network(hidden))


def spline_coupling(*, num_bins: int = 8, bound: float = 4.0, hidden: Sequence[int] = (64, 64)) -> Bijector:
    """A layer of a neural spline flow: `coupling(spline(num_bins, bound), ...)` of vectors, with a SiLU network that begins at the identity.

    Args:
      num_bins: K >= 1 pieces of each spline.
      bound: > 0; data should be about standard normal here (`act_norm` first).
      hidden: widths of the network.
    Raises:
      ValueError: an option out of its range; data of fewer than two features.
    Source: Durkan, Bekasov, Murray and Papamakarios (2019), Neural Spline Flows, section 3.

    >>> import jax
    >>> layer = spline_coupling(num_bins=4, hidden=(8,))
    >>> params = layer.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> z, log_det = layer.inverse(params, jnp.array([1.0, 2.0, 3.0]))  # the identity, reversed
    >>> z.round(4).tolist()
    [3.0, 2.0, 1.0]
    """
    return coupling(spline(num_bins, bound), dense_network(hidden))


def dense_network(hidden: Sequence[int], activation: Callable[[Array], Array] = linen.silu) -> Callable[[int], linen.Module]:
    """The conditioner of vectors: a fully connected network whose last layer begins at zero, `num_outputs -> module`.

    Raises:
      ValueError: a width < 1.

    >>> import jax
    >>> dense_network((8,))(3).init_with_output(jax.random.key(0), jnp.ones(2))[0].tolist()
    [0.0, 0.0, 0.0]
    """
    for width in hidden:
        check_int("dense_network", "hidden", width, minimum=1)

    def network(num_outputs: int) -> linen.Module:
        layers: list[Any] = [layer for width in hidden for layer in (Dense(width), activation)]
        return linen.Sequential([*layers, Dense(num_outputs, kernel_init=linen.initializers.zeros)])

    return network


def convolutional_network(width: int) -> Callable[[int], linen.Module]:
    """The conditioner of pictures: convolutions of 3 x 3, 1 x 1 and 3 x 3 with ReLU between them, the last beginning at zero.

    Raises:
      ValueError: `width` < 1.
    Source: Kingma and Dhariwal (2018), Glow, section 3.3.

    >>> import jax
    >>> convolutional_network(8)(3).init_with_output(jax.random.key(0), jnp.ones((4, 4, 2)))[0].shape
    (4, 4, 3)
    """
    check_int("convolutional_network", "width", width, minimum=1)

    def network(num_outputs: int) -> linen.Module:
        last = Conv(num_outputs, (3, 3), kernel_init=linen.initializers.zeros)
        return linen.Sequential([Conv(width, (3, 3)), linen.relu, Conv(width, (1, 1)), linen.relu, last])

    return network


def _joined(given: Float[Array, "*S A"], context: tuple[Array, ...]) -> Float[Array, "*S B"]:
    parts = [part if part.ndim == given.ndim else jnp.broadcast_to(part, (*given.shape[:-1], part.shape[-1])) for part in context]
    return jnp.concatenate([given, *parts], -1)
