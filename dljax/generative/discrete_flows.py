"""Flows of whole numbers: bijections without a Jacobian, trained by straight-through gradients (Tran et al., 2019; Hoogeboom et al., 2019)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import lax
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Params
from dljax.core.precision import wrap
from dljax.generative.bijectors import Bijector, Mapped, Point
from dljax.generative.couplings import ElementMap, dense_network
from dljax.generative.splines import Splined
from dljax.models.made import MADE


def one_hot(num_values: int) -> Bijector:
    """The layer next to whole numbers {0 ... K-1}^D: they become one-hot vectors [D, K], which discrete flows move.

    A value outside makes the log-determinant -inf: it has no probability.

    Raises:
      ValueError: `num_values` < 1, or data that are not [B, D] whole numbers.

    >>> one_hot(3).inverse((), jnp.array([2]))[0].tolist()
    [[0.0, 0.0, 1.0]]
    """
    check_int("one_hot", "num_values", num_values, minimum=1)

    def init(key: Key, x: Num[Array, "B ..."], *context: Array) -> Params:
        if x.ndim != 2 or jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"one_hot: x must be whole numbers [B, D] in 0 ... {num_values - 1}, got {x.dtype}{list(x.shape)}; flatten or cast them")
        return ()

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        return z.argmax(-1), jnp.zeros((), z.dtype)

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        whole = x.astype(jnp.int32)  # uint8 does not know 256
        z = jax.nn.one_hot(whole, num_values)
        return z, jnp.where(((whole >= 0) & (whole < num_values)).all(), jnp.zeros((), z.dtype), -jnp.inf)

    return Bijector(init, forward, inverse)


def discrete_coupling(*, hidden: Sequence[int] = (64, 64), temperature: float = 0.1) -> Bijector:
    """A bipartite discrete flow: one half of the variables says how far the other half is turned round, modulo K; then variables are reversed.

      z = reverse(x_a, (x_b + μ(x_a, c)) mod K)

    Points are one-hot [D, K]. μ is the largest of a network's K outputs; backwards its gradient is that of their softmax (straight-through).

    Args:
      hidden: widths of the network.
      temperature: > 0, of the softmax.
    Raises:
      ValueError: an option out of its range; fewer than two variables.
    Source: Tran, Vafa, Agrawal, Dinh and Poole (2019), Discrete Flows, eq. 4 (location only), eq. 6.

    >>> layer = discrete_coupling(hidden=(8,))
    >>> params = layer.init(jax.random.key(0), jnp.zeros((1, 2, 3)))
    >>> x = jax.nn.one_hot(jnp.array([0, 2]), 3)
    >>> (layer.forward(params, layer.inverse(params, x)[0])[0] == x).all().item()
    True
    """
    network = dense_network(hidden)
    check_range("discrete_coupling", "temperature", temperature, 0, open_low=True)

    def shift(params: Params, num: int, given: Float[Array, "A K"], context: tuple[Array, ...]) -> Float[Array, "M K"]:
        inputs = jnp.concatenate([given.reshape(-1), *context])
        raw = wrap(network(num * given.shape[-1]).apply)(params, inputs)
        return _straight_through(raw.reshape(num, given.shape[-1]), temperature)

    def init(key: Key, x: Float[Array, "B ..."], *context: Array) -> Params:
        if x.ndim != 3 or x.shape[1] < 2:
            raise ValueError(f"discrete_coupling: x must be one-hot [B, D, K] with D >= 2, got {list(x.shape)}; put `one_hot` before it")
        num = x.shape[1] // 2
        inputs = jnp.concatenate([x[0, : x.shape[1] - num].reshape(-1), *(part[0] for part in context)])
        return network(num * x.shape[2]).init(key, inputs)

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        given, moved = jnp.split(z[::-1], [len(z) - len(z) // 2])
        return jnp.concatenate([given, _turned(moved, shift(params, len(moved), given, context), -1)]), jnp.zeros((), z.dtype)

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        given, moved = jnp.split(x, [len(x) - len(x) // 2])
        return jnp.concatenate([given, _turned(moved, shift(params, len(moved), given, context), 1)])[::-1], jnp.zeros((), x.dtype)

    return Bijector(init, forward, inverse)


def discrete_autoregressive(*, hidden: Sequence[int] = (64, 64), temperature: float = 0.1) -> Bijector:
    """An autoregressive discrete flow: each variable is turned round as far as the ones before it say, modulo K; then variables are reversed.

      z = reverse(y),   y_i = (x_i + μ_i(x_1 ... x_{i-1}, c)) mod K

    Points are one-hot [D, K]. Probabilities take one pass of the masked network, samples D.

    Args:
      hidden: widths of the masked network.
      temperature: > 0, of the straight-through softmax.
    Raises:
      ValueError: an option out of its range; data that are not one-hot [B, D, K].
    Source: Tran, Vafa, Agrawal, Dinh and Poole (2019), Discrete Flows, eq. 4 and 6.

    >>> layer = discrete_autoregressive(hidden=(8,))
    >>> params = layer.init(jax.random.key(0), jnp.zeros((1, 2, 3)))
    >>> x = jax.nn.one_hot(jnp.array([0, 2]), 3)
    >>> (layer.forward(params, layer.inverse(params, x)[0])[0] == x).all().item()
    True
    """
    for width in hidden:
        check_int("discrete_autoregressive", "hidden", width, minimum=1)
    check_range("discrete_autoregressive", "temperature", temperature, 0, open_low=True)

    def network(num_values: int) -> MADE:
        return MADE(num_values, tuple(hidden), linen.silu, linen.initializers.zeros)

    def shift(params: Params, x: Float[Array, "D K"], context: tuple[Array, ...]) -> Float[Array, "D K"]:
        return _straight_through(wrap(network(x.shape[-1]).apply)(params, x, *context), temperature)

    def init(key: Key, x: Float[Array, "B ..."], *context: Array) -> Params:
        if x.ndim != 3:
            raise ValueError(f"discrete_autoregressive: x must be one-hot [B, D, K], got {list(x.shape)}; put `one_hot` before it")
        return network(x.shape[-1]).init(key, x[0], *(part[0] for part in context))

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        return _turned(x, shift(params, x, context), 1)[::-1], jnp.zeros((), x.dtype)

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        z = z[::-1]

        def one(x: Point, index: Array) -> tuple[Point, None]:
            return x.at[index].set(_turned(z[index], shift(params, x, context)[index], -1)), None

        return lax.scan(one, jnp.zeros_like(z), jnp.arange(len(z)))[0], jnp.zeros((), z.dtype)

    return Bijector(init, forward, inverse)


def integer_shift(spacing: float = 1.0) -> ElementMap:
    """z = x + h round(t/h): the element map of integer discrete flows, a bijection of the grid hℤ; rounding lets gradients straight through.

    `repeat(coupling(integer_shift(1 / 256), convolutional_network(64)), 8)` is an integer flow of pixels/256, with `discretised_logistic(1 / 256)`
    as its base.

    Args:
      spacing: h > 0, a power of two, so that sums are exact; data must lie on the grid.
    Raises:
      ValueError: `spacing` <= 0.
    Source: Hoogeboom, Peters, van den Berg and Welling (2019), Integer Discrete Flows and Lossless Compression, eq. 6-7.

    >>> integer_shift().encode(jnp.array([[0.7]]), jnp.array([2.0]))[0].tolist()
    [3.0]
    """
    check_range("integer_shift", "spacing", spacing, 0, open_low=True)

    def rounded(raw: Float[Array, "*B P"]) -> Float[Array, "*B"]:
        shift = raw[..., 0]
        return shift + lax.stop_gradient(spacing * jnp.round(shift / spacing) - shift)

    def encode(raw: Float[Array, "*B P"], x: Float[Array, "*B"]) -> Splined:
        return x + rounded(raw), jnp.zeros_like(x)

    def decode(raw: Float[Array, "*B P"], z: Float[Array, "*B"]) -> Splined:
        return z - rounded(raw), jnp.zeros_like(z)

    return ElementMap(1, encode, decode)


def _straight_through(logits: Float[Array, "*B K"], temperature: float) -> Float[Array, "*B K"]:
    soft = jax.nn.softmax(logits / temperature)
    # In this order the value is 0 or 1 exactly.
    return jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=logits.dtype) + (soft - lax.stop_gradient(soft))


def _turned(x: Float[Array, "*B K"], shift: Float[Array, "*B K"], direction: int) -> Float[Array, "*B K"]:
    """One-hot numbers turned round by one-hot shifts: z_k = Σ_j x_j μ_{k-j} forwards, Σ_j x_j μ_{j-k} backwards, indices modulo K."""
    places = np.arange(x.shape[-1])
    return jnp.einsum("...j,...kj->...k", x, shift[..., direction * (places[:, None] - places) % x.shape[-1]])
