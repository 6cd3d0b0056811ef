"""Activation functions: jax.nn's under one roof, and what it lacks; `activation_table` has the derivatives of all."""

import jax
import jax.numpy as jnp
from flax import linen
from jax.nn import (
    celu,
    elu,
    gelu,
    glu,
    hard_sigmoid,
    hard_silu,
    hard_swish,
    hard_tanh,
    identity,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    soft_sign,
    softmax,
    softplus,
    sparse_plus,
    sparse_sigmoid,
    squareplus,
    swish,
    tanh,
)
from jaxtyping import Array, Bool, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Numeric

__all__ = [
    "PReLU", "celu", "elu", "gaussian", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish",
    "hard_tanh", "identity", "leaky_relu", "log_sigmoid", "log_softmax", "maxout", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink",
    "soft_sign", "softmax", "softplus", "sparse_plus", "sparse_sigmoid", "sparsemax", "squared_relu", "squareplus", "step", "swish", "tanh",
    "tanh_shrink",
]  # fmt: skip


def step(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Heaviside's step, the perceptron's activation, whose derivative is zero wherever it has one.

      1 for x >= 0, 0 below

    Source: Rosenblatt (1958), The Perceptron.

    >>> step(jnp.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 1.0, 1.0]
    """
    return (x >= 0).astype(x.dtype)


def gaussian(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """A bump around zero.

      exp(-x²)

    >>> float(gaussian(jnp.array(0.0)))
    1.0
    """
    return jnp.exp(-jnp.square(x))


def squared_relu(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """ReLU squared, with a continuous derivative.

      max(x, 0)²

    Source: So et al. (2021), Primer, section 3.

    >>> squared_relu(jnp.array([-2.0, 3.0])).tolist()
    [0.0, 9.0]
    """
    return jnp.square(relu(x))


def hard_shrink(x: Float[Array, "*B"], threshold: Numeric = 0.5) -> Float[Array, "*B"]:
    """What is small is set to zero: the proximal map of the number of non-zeros.

      x for |x| > λ, 0 elsewhere

    Args:
      threshold: λ >= 0; may be traced.
    Raises:
      ValueError: `threshold` < 0.

    >>> hard_shrink(jnp.array([-2.0, 0.4])).tolist()
    [-2.0, 0.0]
    """
    check_range("hard_shrink", "threshold", threshold, 0)
    return jnp.where(jnp.abs(x) > threshold, x, 0)


def soft_shrink(x: Float[Array, "*B"], threshold: Numeric = 0.5) -> Float[Array, "*B"]:
    """All is drawn to zero by a constant: the proximal map of λ |x|.

      sign(x) max(|x| - λ, 0)

    Args:
      threshold: λ >= 0; may be traced.
    Raises:
      ValueError: `threshold` < 0.

    >>> soft_shrink(jnp.array([-2.0, 0.4])).tolist()
    [-1.5, 0.0]
    """
    check_range("soft_shrink", "threshold", threshold, 0)
    return relu(x - threshold) - relu(-x - threshold)


def tanh_shrink(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """What tanh takes away.

      x - tanh x

    >>> float(tanh_shrink(jnp.array(0.0)))
    0.0
    """
    return x - jnp.tanh(x)


def maxout(x: Float[Array, "*B C"], num_pieces: int = 2) -> Float[Array, "*B units"]:
    """The largest of each group of neighbouring channels: a convex function learned piece by piece, after a layer `num_pieces` times as wide.

      y_u = max_{j < k} x_{k u + j}

    Args:
      x: channels last, C a multiple of `num_pieces`.
      num_pieces: k >= 1.
    Returns:
      C / k channels. Equal maxima share the gradient.
    Raises:
      ValueError: C is no multiple of `num_pieces`.
    Source: Goodfellow et al. (2013), Maxout Networks, section 3.

    >>> maxout(jnp.array([1.0, 3.0, -2.0, -5.0])).tolist()
    [3.0, -2.0]
    """
    check_int("maxout", "num_pieces", num_pieces, minimum=1)
    if x.shape[-1] % num_pieces:
        raise ValueError(f"maxout: x must have a multiple of num_pieces={num_pieces} channels, got {x.shape[-1]}; widen the layer before it")
    return x.reshape(*x.shape[:-1], -1, num_pieces).max(-1)


def sparsemax(x: Float[Array, "*B"], axis: int = -1, *, where: Bool[Array, "*mask"] | None = None) -> Float[Array, "*B"]:
    """The probabilities nearest to x: like softmax, but small ones are exactly zero.

      argmin_{p >= 0, Σ p = 1} |p - x|² = max(x - τ, 0),   τ so that they add up to one

    Args:
      x: scores; the result is the same for x + c.
      axis: the axis that adds up to one.
      where: which entries may be more than zero, of a shape that broadcasts to x; the result is zero all over where none may.
    Returns:
      Probabilities. Differences below the largest score count up to one, so that -inf is as good as far.
    Source: Martins and Astudillo (2016), From Softmax to Sparsemax, algorithm 1 and eq. 11.

    >>> sparsemax(jnp.array([1.0, 0.5, -3.0])).tolist()
    [0.75, 0.25, 0.0]
    """
    scores = jnp.moveaxis(x, axis, -1)
    if where is None:
        return jnp.moveaxis(_sparsemax(scores), -1, axis)
    # The finite one: where nothing is left, its row must be as harmless as any other.
    allowed = jnp.moveaxis(jnp.broadcast_to(where, x.shape), axis, -1)
    return jnp.moveaxis(jnp.where(allowed, _sparsemax(jnp.where(allowed, scores, jnp.finfo(x.dtype).min)), 0), -1, axis)


class PReLU(linen.PReLU):
    """`flax.linen.PReLU` that may learn a slope for each channel: the same option, parameter (`negative_slope`) and values.

      max(x, 0) + a min(x, 0)

    Attributes:
      negative_slope_init: a at the beginning; linen's 0.01, the paper's and PyTorch's is 0.25.
      per_channel: whether a is one number, [], or one for each channel of the last axis, [C].
    Source: He et al. (2015), Delving Deep into Rectifiers, eq. 1.

    >>> layer = PReLU(negative_slope_init=0.25, per_channel=True)
    >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> layer.apply(variables, jnp.array([[-4.0, 3.0]])).tolist(), variables["params"]["negative_slope"].shape
    ([[-1.0, 3.0]], (2,))
    """

    per_channel: bool = False

    @linen.compact
    def __call__(self, inputs: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
        shape = inputs.shape[-1:] if self.per_channel else ()
        slope = self.param("negative_slope", lambda _: jnp.full(shape, self.negative_slope_init, self.param_dtype)).astype(inputs.dtype)
        return jnp.where(inputs >= 0, inputs, jnp.expand_dims(slope, tuple(range(inputs.ndim - len(shape)))) * inputs)


@jax.custom_jvp
def _sparsemax(x: Array) -> Array:
    # An entry more than one below the largest never takes part; cut off there, no sum can overflow.
    below = jnp.maximum(x - x.max(-1, keepdims=True), -1)
    falling = -jnp.sort(-below, axis=-1)
    excess = jnp.cumsum(falling, -1) - 1
    counts = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    size = (counts * falling > excess).sum(-1, keepdims=True)
    threshold = jnp.take_along_axis(excess, size - 1, -1) / size.astype(x.dtype)
    return jnp.maximum(below - threshold, 0)


@_sparsemax.defjvp
def _sparsemax_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    p = _sparsemax(*primals)
    (dx,) = tangents
    support = (p > 0).astype(p.dtype)
    return p, support * (dx - (support * dx).sum(-1, keepdims=True) / support.sum(-1, keepdims=True))
