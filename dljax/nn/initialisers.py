"""Initialisers: jax.nn's under one roof, data-dependent and depth-dependent ones, and what becomes of a signal on its way through a deep net."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from flax.linen.initializers import ones_init, zeros_init
from jax import lax
from jax.nn.initializers import (
    Initializer,
    constant,
    delta_orthogonal,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    ones,
    orthogonal,
    truncated_normal,
    uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
    zeros,
)
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key
from dljax.nn.model import Model, Variables, as_model

__all__ = [
    "FixupBranch", "Initializer", "Propagation", "constant", "delta_orthogonal", "fixup", "gain", "glorot_normal", "glorot_uniform", "he_normal",
    "he_uniform", "kaiming_normal", "kaiming_uniform", "lecun_normal", "lecun_uniform", "lsuv", "normal", "ones", "ones_init", "orthogonal",
    "signal_propagation", "truncated_normal", "uniform", "variance_scaling", "xavier_normal", "xavier_uniform", "zeros", "zeros_init",
]  # fmt: skip


def gain(activation: Callable[[Array], Array]) -> float:
    """By how much to widen weights of variance 1 / fan-in, so that pre-activations of variance one keep it from layer to layer.

      g = 1 / √(E φ(z)²),   z ~ N(0, 1)

    `orthogonal(gain(φ))` and `variance_scaling(gain(φ)**2, "fan_in", "normal")` use it: √2 for ReLU (He), 1.5925 for tanh (PyTorch rounds it to 5/3),
    1 for the identity (LeCun) and for SELU, which is made for it. By 100-point Gauss-Legendre quadrature on each side of zero.

    Args:
      activation: φ, entry by entry; smooth on either side of zero.
    Returns:
      g, a Python float.
    Raises:
      ValueError: φ is zero, or not finite, on N(0, 1).

    >>> round(gain(jax.nn.relu), 4), round(gain(jnp.tanh), 4)
    (1.4142, 1.5925)
    """
    nodes, weights = np.polynomial.legendre.leggauss(100)
    z = 5 * (nodes + 1)  # |z| beyond 10 has a probability of 1e-23
    z, weights = np.concatenate([-z, z]), np.concatenate([weights, weights]) * 5
    with jax.ensure_compile_time_eval():
        values = np.asarray(activation(jnp.asarray(z)), np.float64)
    moment = float((weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * values**2).sum())
    if not (0 < moment < math.inf):
        raise ValueError(f"gain: activation must have a positive and finite second moment under N(0, 1), got {moment}")
    return 1 / math.sqrt(moment)


def fixup(num_branches: int, num_layers: int = 2, *, base: Initializer | None = None) -> Initializer:
    """Initialiser of all layers of a residual branch but the last, so that a net without normalisation changes by Θ(learning rate) in a step.

      W = L^(-1 / (2m - 2)) · W_base

    The last layer of each branch, and the classifier, start from `zeros`. `FixupBranch` puts it together.

    Args:
      num_branches: L >= 1, residual branches of the net.
      num_layers: m >= 2, layers of a branch.
      base: of a plain net; `he_normal()` by default.
    Raises:
      ValueError: an option out of its range.
    Source: Zhang, Dauphin and Ma (2019), Fixup Initialization, section 3, rule 2.

    >>> fixup(16, 2)(jax.random.key(0), (100, 100)).std() / he_normal()(jax.random.key(0), (100, 100)).std()
    Array(0.25, dtype=float32)
    """
    check_int("fixup", "num_branches", num_branches, minimum=1)
    check_int("fixup", "num_layers", num_layers, minimum=2)
    scale = num_branches ** (-1 / (2 * num_layers - 2))

    plain = he_normal() if base is None else base

    def init(key: Key, shape: Any, dtype: Any = None, out_sharding: Any = None) -> Array:
        options = {name: value for name, value in {"dtype": dtype, "out_sharding": out_sharding}.items() if value is not None}
        return scale * plain(key, shape, **options)

    return init


class FixupBranch(linen.Module):
    """A residual branch that trains without normalisation, at any depth: `x + FixupBranch(...)(x)`.

      s · W_m φ(... φ(W_1 (x + b_1) + c_1) ... + b_m) + c_m

    Its scalars start at b = c = 0 and s = 1, its last layer at zero, the others at `fixup`.

    Attributes:
      layer: makes a layer when it is given `kernel_init`, `use_bias` and `name`: `partial(nn.Dense, 64)`.
      num_branches: L, of the whole net.
      num_layers: m >= 2.
      activation: φ.
    Source: Zhang, Dauphin and Ma (2019), Fixup Initialization, section 3 and figure 1.

    >>> from functools import partial
    >>> y, variables = FixupBranch(partial(linen.Dense, 3), num_branches=8).init_with_output(jax.random.key(0), jnp.ones((2, 3)))
    >>> float(jnp.abs(y).max()), sorted(variables["params"])
    (0.0, ['bias_1', 'bias_2', 'layer_1', 'layer_2', 'scale', 'shift_1', 'shift_2'])
    """

    layer: Callable[..., Any]
    num_branches: int
    num_layers: int = 2
    activation: Callable[[Array], Array] = jax.nn.relu

    @linen.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        inner = fixup(self.num_branches, self.num_layers)
        for number in range(1, self.num_layers + 1):
            is_last = number == self.num_layers
            x = x + self.param(f"bias_{number}", zeros, ()).astype(x.dtype)
            x = self.layer(kernel_init=zeros if is_last else inner, use_bias=False, name=f"layer_{number}")(x)
            if is_last:
                x = x * self.param("scale", ones, ()).astype(x.dtype)
            x = x + self.param(f"shift_{number}", zeros, ()).astype(x.dtype)
            x = x if is_last else self.activation(x)
        return x


def lsuv(model: linen.Module, *, variance: float = 1.0) -> Model:
    """Layer-sequential unit variance: kernels start orthonormal, scaled so that each layer's output has variance one on the first batch.

      W_l ← W_l √(v / Var(W_l h_{l-1} + b_l)),   l = 1, 2 ... in the order of the forward pass, h computed with the kernels before it

    Every module with a parameter `kernel` is a layer. Its biases start at zero, so that one division is enough, and one forward pass does them all; a
    layer that is called again keeps what its first call gave it, and one whose output is constant its orthonormal kernel.

    Args:
      model: a linen module.
      variance: v > 0.
    Returns:
      A `Model` with another `init` and the same `apply`: `supervised(lsuv(net), ...)`.
    Raises:
      TypeError: `model` is no linen module. ValueError: `variance` <= 0.
    Source: Mishkin and Matas (2016), All You Need Is a Good Init, algorithm 1.

    >>> model = lsuv(linen.Dense(4))
    >>> x = 100 * jax.random.normal(jax.random.key(0), (50, 8))
    >>> round(float(model.apply(model.init(jax.random.key(1), x), x)[0].var()), 4)
    1.0
    """
    if not isinstance(model, linen.Module):
        raise TypeError(f"lsuv: model must be a linen module, got {type(model).__name__}")
    check_range("lsuv", "variance", variance, 0, open_low=True)
    plain = as_model(model)

    def init(key: Key, x: Any) -> Variables:
        kernel_key, init_key = jax.random.split(key)
        seen: set[tuple[str, ...]] = set()

        def scaled(call: Callable[..., Any], args: tuple, options: dict[str, Any], context: Any) -> Any:
            module, outputs = context.module, call(*args, **options)
            if context.method_name != "__call__" or module.path in seen or not module.has_variable("params", "kernel"):
                return outputs
            variables = module.variables
            kernel = variables["params"]["kernel"]
            if kernel.ndim < 2:
                return outputs

            def outputs_of(kernel: Array) -> Array:
                return module.clone().apply({**variables, "params": {**variables["params"], "kernel": kernel}}, *args, **options, mutable=True)[0]

            kernel = orthogonal()(jax.random.fold_in(kernel_key, len(seen)), kernel.shape, kernel.dtype)
            # The clone, which comes by here as well, has no path.
            seen.update({(), module.path})
            measured = outputs_of(kernel).var()
            kernel = kernel * jnp.where(measured > 0, jnp.sqrt(variance / jnp.where(measured > 0, measured, 1)), 1)
            module.put_variable("params", "kernel", kernel)
            return outputs_of(kernel)

        with linen.intercept_methods(scaled):
            return plain.init(init_key, x)

    return Model(init, plain.apply)


class Propagation(NamedTuple):
    """What becomes of a signal in a net of L layers, z_l = W_l φ(z_{l-1}) + b_l; each number is over the units and examples of one layer.

    Attributes:
      mean, variance, second_moment: of the pre-activations z, [L].
      activation_mean, activation_variance: of φ(z), [L].
      gradient_variance: of the derivatives with respect to z of Σ ξ·z_L, ξ ~ N(0, 1): 1 at the last layer, [L].
    """

    mean: Float[Array, " L"]
    variance: Float[Array, " L"]
    second_moment: Float[Array, " L"]
    activation_mean: Float[Array, " L"]
    activation_variance: Float[Array, " L"]
    gradient_variance: Float[Array, " L"]


def signal_propagation(
    key: Key,
    initializer: Initializer,
    activation: Callable[[Array], Array],
    *,
    depth: int = 50,
    width: int = 256,
    num_examples: int = 64,
    bias_initializer: Initializer = zeros,
) -> Propagation:
    """Statistics of activations and gradients, layer by layer, in a freshly initialised dense net.

      z_l = W_l φ(z_{l-1}) + b_l,   z_0 ~ N(0, 1)

    With the right initialiser the second moment of z stays where it is, at any depth; with another it vanishes, explodes or goes to a fixed point
    that has forgotten the input.

    Args:
      initializer: of the kernels [width, width], as those of jax.nn: `he_normal()`.
      activation: φ, entry by entry.
      depth: L >= 1 layers.
      width: units of every layer, >= 1; what one draw does differs from what the mean does by about √(depth / width).
      num_examples: how many inputs, >= 1.
      bias_initializer: of the biases [width].
    Returns:
      Six statistics for each layer.
    Raises:
      ValueError: a number < 1.
    Source: Glorot and Bengio (2010), section 4.2; He et al. (2015), section 2.2; Poole et al. (2016), Exponential Expressivity, section 2.

    >>> moments = signal_propagation(jax.random.key(0), he_normal(), jax.nn.relu, depth=4, width=32).second_moment
    >>> moments.shape
    (4,)
    """
    for name, number in (("depth", depth), ("width", width), ("num_examples", num_examples)):
        check_int("signal_propagation", name, number, minimum=1)
    input_key, layer_key, cotangent_key = jax.random.split(key, 3)

    def layer(number: Array, z: Array) -> Array:
        kernel_key, bias_key = jax.random.split(jax.random.fold_in(layer_key, number))
        return activation(z) @ initializer(kernel_key, (width, width), z.dtype) + bias_initializer(bias_key, (width,), z.dtype)[None]

    def forward(z: Array, number: Array) -> tuple[Array, tuple]:
        z = layer(number, z)
        h = activation(z)
        return z, (z, (z.mean(), z.var(), jnp.square(z).mean(), h.mean(), h.var()))

    def backward(gradient: Array, number_and_z: tuple[Array, Array]) -> tuple[Array, Array]:
        # The kernels are made again from their keys: kept, they would be the largest array by far.
        number, z = number_and_z
        _, pull = jax.vjp(lambda z: layer(number + 1, z), z)
        (gradient,) = pull(gradient)
        return gradient, gradient.var()

    x = jax.random.normal(input_key, (num_examples, width))
    _, (zs, (mean, variance, second_moment, activation_mean, activation_variance)) = lax.scan(forward, x, jnp.arange(depth))
    cotangent = jax.random.normal(cotangent_key, x.shape)
    _, gradients = lax.scan(backward, cotangent, (jnp.arange(depth - 1), zs[:-1]), reverse=True)
    gradient_variance = jnp.concatenate([gradients, cotangent.var()[None]])
    return Propagation(mean, variance, second_moment, activation_mean, activation_variance, gradient_variance)
