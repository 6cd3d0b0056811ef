"""A table of the activation functions: each with its derivative in closed form and its formula."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from dljax.nn.activations import (
    celu,
    elu,
    gaussian,
    gelu,
    hard_shrink,
    hard_sigmoid,
    hard_silu,
    hard_tanh,
    identity,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    maxout,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    soft_shrink,
    soft_sign,
    softmax,
    softplus,
    sparse_plus,
    sparse_sigmoid,
    sparsemax,
    squared_relu,
    squareplus,
    step,
    tanh,
    tanh_shrink,
)


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
        hard_sigmoid,
        lambda x: jnp.where(jnp.abs(x) < 3, 1 / 6, 0.0).astype(x.dtype),
        "min(max(x + 3, 0), 6) / 6;  y' = 1/6 for |x| < 3, else 0",
        (-3.0, 3.0),
    ),
    "sparse_sigmoid": Activation(
        sparse_sigmoid,
        lambda x: jnp.where(jnp.abs(x) < 1, 0.5, 0.0).astype(x.dtype),
        "min(max(x + 1, 0), 2) / 2;  y' = 1/2 for |x| < 1, else 0",
        (-1.0, 1.0),
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
    "gelu": Activation(gelu, _gelu_tanh_slope, "x (1 + t) / 2, t = tanh u, u = √(2/π) (x + 0.044715 x³);  y' = (1 + t) / 2 + x (1 - t²) u' / 2"),
    "gelu_exact": Activation(
        partial(gelu, approximate=False),
        lambda x: 0.5 * lax.erfc(-x / math.sqrt(2)) + x * jnp.exp(-jnp.square(x) / 2) / math.sqrt(2 * math.pi),
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
    "hard_shrink": Activation(
        hard_shrink, lambda x: (jnp.abs(x) > 0.5).astype(x.dtype), "x for |x| > 0.5, else 0;  y' = 1 for |x| > 0.5, else 0", (-0.5, 0.5)
    ),
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
