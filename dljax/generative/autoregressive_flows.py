"""Masked autoregressive flows: each feature is moved by what the features before it say (Papamakarios, Pavlakou and Murray, 2017)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int
from dljax.core.contract import Key, Params
from dljax.core.precision import wrap
from dljax.generative.bijectors import Bijector, Mapped, Point, inverted
from dljax.generative.couplings import ElementMap, affine
from dljax.generative.densities import Density
from dljax.models.made import MADE


def masked_autoregressive(element: ElementMap | None = None, *, hidden: Sequence[int] = (64, 64)) -> Bijector:
    """A layer of MAF: densities in one pass of the network, samples in D passes, one feature after another.

      z = reverse(y),   y_i = encode(θ_i(x_1 ... x_{i-1}, c), x_i)

    The Jacobian ∂y/∂x is lower triangular, and its log-determinant the sum of the features' own. The layer begins at the identity (reversed).

    Args:
      element: the map of each feature; None for `affine()`, `spline()` for an autoregressive spline flow.
      hidden: widths of the masked network; its activation is SiLU. A context [C] is seen by all of its outputs.
    Raises:
      ValueError: a width < 1.
    Source: Papamakarios, Pavlakou and Murray (2017), Masked Autoregressive Flow for Density Estimation, eq. 3-5, there with
      z_i = (x_i - μ_i) exp(-α_i), here with z_i = x_i exp(s_i) + t_i, the same family.

    >>> layer = masked_autoregressive(hidden=(8,))
    >>> params = layer.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> layer.forward(params, jnp.array([1.0, 2.0, 3.0]))[0].tolist()
    [3.0, 2.0, 1.0]
    """
    element = affine() if element is None else element
    for width in hidden:
        check_int("masked_autoregressive", "hidden", width, minimum=1)
    network = MADE(element.num_params, tuple(hidden), linen.silu, linen.initializers.zeros)

    def raw(params: Params, x: Point, context: tuple[Array, ...]) -> Float[Array, "D P"]:
        return wrap(network.apply)(params, x, *context)

    def init(key: Key, x: Num[Array, "B D"], *context: Array) -> Params:
        return network.init(key, x[0], *(part[0] for part in context))

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        z, log_dets = element.encode(raw(params, x, context), x)
        return z[::-1], log_dets.sum()

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        z = z[::-1]

        def one(x: Point, index: Array) -> tuple[Point, Float[Array, ""]]:
            value, log_det = element.decode(raw(params, x, context)[index], z[index])
            return x.at[index].set(value), log_det

        x, log_dets = lax.scan(one, jnp.zeros_like(z), jnp.arange(z.size))
        return x, log_dets.sum()

    return Bijector(init, forward, inverse)


def inverse_autoregressive(element: ElementMap | None = None, *, hidden: Sequence[int] = (64, 64)) -> Bijector:
    """A layer of IAF, `inverted(masked_autoregressive(...))`: samples in one pass of the network, densities in D.

    Source: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling (2016), Improved Variational Inference with Inverse Autoregressive Flow, eq. 10.

    >>> layer = inverse_autoregressive(hidden=(8,))
    >>> layer.forward(layer.init(jax.random.key(0), jnp.zeros((1, 2))), jnp.array([1.0, 2.0]))[0].tolist()
    [2.0, 1.0]
    """
    return inverted(masked_autoregressive(element, hidden=hidden))


def autoregressive_categorical(num_values: int, *, hidden: Sequence[int] = (64, 64)) -> Density:
    """Any distribution of D whole numbers, one after another: its likelihood is exact and sums to one.

      p(x) = Π_i softmax(θ_i(x_1 ... x_{i-1}, c))_{x_i},   x_i ∈ {0 ... K-1}

    Args:
      num_values: K >= 1. A value outside makes the log-probability -inf.
      hidden: widths of the masked network. A context [C] is seen by all of its outputs.
    Raises:
      ValueError: an option out of its range; data [B, D] that are no whole numbers.
    Source: Germain, Gregor, Murray and Larochelle (2015), MADE.

    >>> density = autoregressive_categorical(2, hidden=(8,))
    >>> params = density.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    >>> pairs = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> round(float(jnp.exp(jax.vmap(density.log_prob, (None, 0))(params, pairs)).sum()), 5)
    1.0
    """
    check_int("autoregressive_categorical", "num_values", num_values, minimum=1)
    network = MADE(num_values, tuple(hidden))

    def logits(params: Params, x: Num[Array, " D"], context: tuple[Array, ...]) -> Float[Array, "D K"]:
        return jax.nn.log_softmax(wrap(network.apply)(params, jax.nn.one_hot(x, num_values), *context))

    def init(key: Key, x: Num[Array, "B D"], *context: Array) -> Params:
        if x.ndim != 2 or jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"autoregressive_categorical: x must be whole numbers [B, D], got {x.dtype}{list(x.shape)}")
        return network.init(key, jax.nn.one_hot(x[0], num_values), *(part[0] for part in context))

    def log_prob(params: Params, x: Num[Array, " D"], *context: Array) -> Float[Array, ""]:
        whole = x.astype(jnp.int32)  # uint8 does not know 256
        chosen = jnp.take_along_axis(logits(params, whole, context), jnp.clip(whole, 0, num_values - 1)[:, None], 1)
        return jnp.where(((whole >= 0) & (whole < num_values)).all(), chosen.sum(), -jnp.inf)

    def sample(key: Key, params: Params, *context: Array) -> Num[Array, " D"]:
        num = params["params"]["last_bias"].size // num_values

        def one(x: Num[Array, " D"], given: tuple[Array, Key]) -> tuple[Num[Array, " D"], None]:
            index, value_key = given
            return x.at[index].set(jax.random.categorical(value_key, logits(params, x, context)[index])), None

        return lax.scan(one, jnp.zeros(num, jnp.int32), (jnp.arange(num), jax.random.split(key, num)))[0]

    return Density(init, log_prob, sample)
