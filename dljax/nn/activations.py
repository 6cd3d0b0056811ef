"""Activation functions: jax.nn's under one roof, what it lacks, and a table of all with their derivatives in closed form."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

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
    "ACTIVATIONS", "Activation", "PReLU", "celu", "elu", "gaussian", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish",
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


class Activation(NamedTuple):
    """A row of `ACTIVATIONS`.

    Attributes:
      function: of an array; entry by entry, or, where `is_elementwise` is False, of the last axis as a whole.
      derivative: in closed form, of the same array: entry by entry, or the Jacobian, [..., outputs, inputs]. At a kink it is that of one side.
      formula: both, as text.
      kinks: the points where there is no derivative.
      is_elementwise: whether every entry is on its own.

    >>> row = ACTIVATIONS["softplus"]
    >>> float(row.derivative(jnp.array(0.0))), row.formula
    (0.5, "log(1 + eˣ);  y' = σ(x)")
    """

    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    formula: str
    kinks: tuple[float, ...] = ()
    is_elementwise: bool = True


@partial(jax.custom_jvp)
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


def _gelu_tanh_slope(x: Array) -> Array:
    c = math.sqrt(2 / math.pi)
    t = jnp.tanh(c * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t) * (1 + t) * c * (1 + 3 * 0.044715 * x**2)


def _mish_slope(x: Array) -> Array:
    t = jnp.tanh(softplus(x))
    return t + x * (1 - t) * (1 + t) * sigmoid(x)


def _diagonal(x: Array) -> Array:
    return x[..., None] * jnp.eye(x.shape[-1], dtype=x.dtype).reshape((1,) * (x.ndim - 1) + (x.shape[-1],) * 2)


def _softmax_jacobian(x: Array) -> Array:
    p = softmax(x)
    return _diagonal(p) - p[..., :, None] * p[..., None, :]


def _sparsemax_jacobian(x: Array) -> Array:
    support = (sparsemax(x) > 0).astype(x.dtype)
    return _diagonal(support) - support[..., :, None] * support[..., None, :] / support.sum(-1)[..., None, None]


def _maxout_jacobian(x: Array) -> Array:
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    largest = (pairs == pairs.max(-1, keepdims=True)).astype(x.dtype)
    share = largest / largest.sum(-1, keepdims=True)
    return (_diagonal(jnp.ones_like(share[..., 0]))[..., None] * share[..., None, :, :]).reshape(*x.shape[:-1], x.shape[-1] // 2, x.shape[-1])


_ALPHA, _SCALE = 1.6732632423543772, 1.0507009873554805  # SELU's fixed point has mean 0 and variance 1

ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(identity, jnp.ones_like, "x;  y' = 1"),
    "step": Activation(step, jnp.zeros_like, "1 for x >= 0, else 0;  y' = 0", (0.0,)),
    "sigmoid": Activation(sigmoid, lambda x: sigmoid(x) * sigmoid(-x), "σ(x) = 1 / (1 + e⁻ˣ);  y' = σ(x) σ(-x)"),
    "log_sigmoid": Activation(log_sigmoid, lambda x: sigmoid(-x), "log σ(x);  y' = σ(-x)"),
    "hard_sigmoid": Activation(
        hard_sigmoid, lambda x: jnp.where(jnp.abs(x) < 3, 1 / 6, 0.0).astype(x.dtype), "min(max(x + 3, 0), 6) / 6;  y' = 1/6 for |x| < 3, else 0", (-3.0, 3.0)
    ),
    "sparse_sigmoid": Activation(
        sparse_sigmoid, lambda x: jnp.where(jnp.abs(x) < 1, 0.5, 0.0).astype(x.dtype), "min(max(x + 1, 0), 2) / 2;  y' = 1/2 for |x| < 1, else 0", (-1.0, 1.0)
    ),
    "tanh": Activation(tanh, lambda x: (1 - jnp.tanh(x)) * (1 + jnp.tanh(x)), "tanh x;  y' = 1 - tanh² x"),
    "hard_tanh": Activation(hard_tanh, lambda x: (jnp.abs(x) < 1).astype(x.dtype), "min(max(x, -1), 1);  y' = 1 for |x| < 1, else 0", (-1.0, 1.0)),
    "soft_sign": Activation(soft_sign, lambda x: 1 / jnp.square(1 + jnp.abs(x)), "x / (1 + |x|);  y' = 1 / (1 + |x|)²"),
    "relu": Activation(relu, lambda x: (x > 0).astype(x.dtype), "max(x, 0);  y' = 1 for x > 0, else 0", (0.0,)),
    "relu6": Activation(relu6, lambda x: ((x > 0) & (x < 6)).astype(x.dtype), "min(max(x, 0), 6);  y' = 1 for 0 < x < 6, else 0", (0.0, 6.0)),
    "squared_relu": Activation(squared_relu, lambda x: 2 * relu(x), "max(x, 0)²;  y' = 2 max(x, 0)"),
    "leaky_relu": Activation(
        leaky_relu, lambda x: jnp.where(x >= 0, 1.0, 0.01).astype(x.dtype), "x for x >= 0, else 0.01 x;  y' = 1 for x >= 0, else 0.01", (0.0,)
    ),
    "elu": Activation(elu, lambda x: jnp.exp(jnp.minimum(x, 0)), "x for x > 0, else eˣ - 1;  y' = 1 for x > 0, else eˣ"),
    "celu": Activation(celu, lambda x: jnp.exp(jnp.minimum(x, 0)), "x for x > 0, else α (e^(x/α) - 1), α = 1;  y' = 1 for x > 0, else e^(x/α)"),
    "selu": Activation(
        selu,
        lambda x: _SCALE * jnp.where(x > 0, 1.0, _ALPHA * jnp.exp(jnp.minimum(x, 0))).astype(x.dtype),
        "λ x for x > 0, else λ α (eˣ - 1), α = 1.6733, λ = 1.0507;  y' = λ for x > 0, else λ α eˣ",
        (0.0,),
    ),
    "gelu": Activation(
        gelu, _gelu_tanh_slope, "x (1 + t) / 2, t = tanh u, u = √(2/π) (x + 0.044715 x³);  y' = (1 + t) / 2 + x (1 - t²) u' / 2"
    ),
    "gelu_exact": Activation(
        partial(gelu, approximate=False),
        lambda x: jax.scipy.stats.norm.cdf(x) + x * jax.scipy.stats.norm.pdf(x),
        "x Φ(x), Φ the normal distribution;  y' = Φ(x) + x φ(x)",
    ),
    "silu": Activation(silu, lambda x: sigmoid(x) * (1 + x * sigmoid(-x)), "x σ(x);  y' = σ(x) (1 + x σ(-x))"),
    "hard_silu": Activation(
        hard_silu,
        lambda x: jnp.where(jnp.abs(x) < 3, (2 * x + 3) / 6, (x >= 3).astype(x.dtype)),
        "x min(max(x + 3, 0), 6) / 6;  y' = (2 x + 3) / 6 for |x| < 3, else 1 for x >= 3, else 0",
        (-3.0, 3.0),
    ),
    "mish": Activation(mish, _mish_slope, "x t, t = tanh(log(1 + eˣ));  y' = t + x (1 - t²) σ(x)"),
    "softplus": Activation(softplus, sigmoid, "log(1 + eˣ);  y' = σ(x)"),
    "squareplus": Activation(squareplus, lambda x: 0.5 * (1 + x / jnp.sqrt(jnp.square(x) + 4)), "(x + √(x² + 4)) / 2;  y' = (1 + x / √(x² + 4)) / 2"),
    "sparse_plus": Activation(sparse_plus, sparse_sigmoid, "0 for x <= -1, (x + 1)² / 4, x for x >= 1;  y' = min(max(x + 1, 0), 2) / 2"),
    "hard_shrink": Activation(hard_shrink, lambda x: (jnp.abs(x) > 0.5).astype(x.dtype), "x for |x| > 0.5, else 0;  y' = 1 for |x| > 0.5, else 0", (-0.5, 0.5)),
    "soft_shrink": Activation(
        soft_shrink, lambda x: (jnp.abs(x) > 0.5).astype(x.dtype), "sign(x) max(|x| - 0.5, 0);  y' = 1 for |x| > 0.5, else 0", (-0.5, 0.5)
    ),
    "tanh_shrink": Activation(tanh_shrink, lambda x: jnp.square(jnp.tanh(x)), "x - tanh x;  y' = tanh² x"),
    "gaussian": Activation(gaussian, lambda x: -2 * x * gaussian(x), "exp(-x²);  y' = -2 x exp(-x²)"),
    "softmax": Activation(softmax, _softmax_jacobian, "p_c = e^(x_c) / Σ_k e^(x_k);  J = diag(p) - p pᵀ", is_elementwise=False),
    "log_softmax": Activation(
        log_softmax,
        lambda x: _diagonal(jnp.ones_like(x)) - softmax(x)[..., None, :],
        "x_c - log Σ_k e^(x_k);  J = I - 1 pᵀ, p = softmax(x)",
        is_elementwise=False,
    ),
    "sparsemax": Activation(
        sparsemax, _sparsemax_jacobian, "max(x - τ, 0), Σ = 1;  J = diag(s) - s sᵀ / Σ s, s = 1 where the result is above 0", is_elementwise=False
    ),
    "maxout": Activation(maxout, _maxout_jacobian, "max(x_2u, x_2u+1);  J = 1 at the larger, else 0", is_elementwise=False),
}
"""Name -> function, closed derivative and formula, each at the defaults of the function of that name in `dljax.nn`; `gelu_exact` is Φ, not tanh."""
