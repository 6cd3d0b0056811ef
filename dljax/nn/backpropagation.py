"""Backpropagation written out: every array that the chain rule makes on its way through a fully connected net (Rumelhart, Hinton and Williams, 1986).

Forward, from a_0 = x, for the layers l = 1 ... L:

  z_l = a_{l-1} W_l + b_l        pre-activations [B, D_l]
  a_l = σ_l(z_l)                 activations [B, D_l]
  J = 1/B Σ_i ℓ(a_L[i], y[i])    the loss, a mean over the batch

Backward, from the derivative g_L = ∂J/∂a_L of the loss:

  δ_l = g_l ⊙ σ_l'(z_l)          deltas ∂J/∂z_l, where σ_l works element by element
  δ_l[i] = S_l[i]ᵀ g_l[i]        where it does not: S_l[i] = ∂a_l[i]/∂z_l[i], for softmax diag(a) - a aᵀ
  ∂J/∂W_l = a_{l-1}ᵀ δ_l         gradients
  ∂J/∂b_l = Σ_i δ_l[i]
  g_{l-1} = δ_l W_lᵀ             what the layer below is told
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.core.contract import Key
from dljax.core.flops import ELEMENTWISE, bodies, equations

Activation = Callable[[Array], Array]
_SELECTION = frozenset([
    "and", "broadcast_in_dim", "convert_element_type", "copy", "eq", "ge", "gt", "is_finite", "le", "lt", "ne", "not", "or", "select_n",
    "stop_gradient",
])  # fmt: skip


class AffineLayer(NamedTuple):
    """The parameters of one layer, or their gradients.

    Attributes:
      weights: W [D_in, D_out].
      bias: b [D_out].
    """

    weights: Float[Array, "D_in D_out"]
    bias: Float[Array, "D_out"]


class ForwardPass(NamedTuple):
    """What each layer computes.

    Attributes:
      pre_activations: z_1 ... z_L, each [B, D_l].
      activations: a_0 = x, a_1 ... a_L, each [B, D_l]; the last are the outputs.
    """

    pre_activations: tuple[Array, ...]
    activations: tuple[Array, ...]

    @property
    def outputs(self) -> Array:
        """a_L, [B, D_L]."""
        return self.activations[-1]


class BackwardPass(NamedTuple):
    """What each layer is told about the loss, of the first layer first.

    Attributes:
      loss: J, [].
      slopes: σ_l'(z_l) [B, D_l], or the Jacobians [B, D_l, D_l] of an activation that mixes elements.
      deltas: δ_l = ∂J/∂z_l, each [B, D_l].
      gradients: ∂J/∂W_l and ∂J/∂b_l.
      input_gradient: ∂J/∂x, [B, D_0].
    """

    loss: Float[Array, ""]
    slopes: tuple[Array, ...]
    deltas: tuple[Array, ...]
    gradients: tuple[AffineLayer, ...]
    input_gradient: Float[Array, "B D"]


def fully_connected(key: Key, sizes: Sequence[int]) -> tuple[AffineLayer, ...]:
    """The parameters of a fully connected net: LeCun's initialisation, W ~ N(0, 1/D_in), and b = 0.

    Args:
      sizes: D_0, D_1 ... D_L, at least two, each >= 1.
    Raises:
      ValueError: fewer than two sizes, or one below 1.

    >>> [layer.weights.shape for layer in fully_connected(jax.random.key(0), [4, 8, 3])]
    [(4, 8), (8, 3)]
    """
    if len(sizes) < 2:
        raise ValueError(f"fully_connected: sizes must name the inputs and at least one layer, got {list(sizes)}")
    widths = [check_int("fully_connected", "sizes", size, minimum=1) for size in sizes]
    keys = jax.random.split(key, len(widths) - 1)
    return tuple(
        AffineLayer(jax.random.normal(layer_key, (below, width)) / math.sqrt(below), jnp.zeros(width))
        for layer_key, below, width in zip(keys, widths[:-1], widths[1:], strict=True)
    )


def forward_pass(
    layers: Sequence[AffineLayer], x: Float[Array, "B D"], *, activation: Activation = jnp.tanh, output_activation: Activation = jax.nn.identity
) -> ForwardPass:
    """The forward half: every pre-activation and activation of a fully connected net.

    Args:
      layers: W_l, b_l from the first to the last, at least one; such as `fully_connected` makes.
      x: the inputs a_0.
      activation: σ_l of all layers but the last; [B, D] -> [B, D], each example by itself.
      output_activation: σ_L.
    Raises:
      ValueError: there are no layers, they do not fit each other or x, or an activation changes the shape.

    >>> layers = [AffineLayer(jnp.full((2, 2), 0.5), jnp.zeros(2)), AffineLayer(jnp.ones((2, 1)), jnp.ones(1))]
    >>> forward = forward_pass(layers, jnp.array([[1.0, 3.0]]), activation=jax.nn.relu)
    >>> forward.pre_activations[0].tolist(), forward.outputs.tolist()
    ([[2.0, 2.0]], [[5.0]])
    """
    if not layers:
        raise ValueError("forward_pass: layers must hold at least one layer, got none")
    pre_activations, activations = [], [x]
    for number, (layer, function) in enumerate(zip(layers, _activations(layers, activation, output_activation), strict=True), 1):
        weights, bias = layer
        if weights.shape != (activations[-1].shape[1], *bias.shape):
            raise ValueError(
                f"forward_pass: layer {number} must have weights [{activations[-1].shape[1]}, D] and a bias [D] after what comes to it "
                f"{list(activations[-1].shape)}, got {list(weights.shape)} and {list(bias.shape)}"
            )
        z = activations[-1] @ weights + bias[None, :]
        a = function(z)
        if a.shape != z.shape:
            raise ValueError(f"forward_pass: the activation of layer {number} must keep the shape {list(z.shape)}, got {list(a.shape)}")
        pre_activations.append(z)
        activations.append(a)
    return ForwardPass(tuple(pre_activations), tuple(activations))


def backpropagate(
    layers: Sequence[AffineLayer],
    x: Float[Array, "B D"],
    targets: Any,
    *,
    loss: Callable[[Array, Any], Array],
    activation: Activation = jnp.tanh,
    output_activation: Activation = jax.nn.identity,
) -> tuple[ForwardPass, BackwardPass]:
    """Forward and backward through a fully connected net of any depth, every array on the way by its name.

      δ_L = ∂J/∂a_L ⊙ σ'(z_L),   δ_l = (δ_{l+1} W_{l+1}ᵀ) ⊙ σ'(z_l),   ∂J/∂W_l = a_{l-1}ᵀ δ_l,   ∂J/∂b_l = Σ_i δ_l[i]

    Only the derivatives of σ and ℓ themselves are automatic; all else is the chain rule by hand. Whether an activation works element by element is
    read off its operations; where they do not show it, its Jacobian [B, D, D] is made, which is right for both.

    Args:
      layers, x, activation, output_activation: as for `forward_pass`.
      targets: y, what the loss takes.
      loss: ℓ, `(outputs [B, D_L], targets) -> [B]` or `[B, ...]`, whose elements of an example are summed. A loss of logits goes with the
        identity as output activation: the logarithm of a softmax that has underflowed is infinite.
    Returns:
      The forward pass, and the backward pass with the deltas and the gradients; `jax.grad` of the same net gives the same gradients.
    Raises:
      ValueError: as `forward_pass`; the loss does not return a value for each example.
    Source: Rumelhart, Hinton and Williams (1986), Nature 323; Nielsen (2015), equations BP1-BP4.

    >>> import optax
    >>> layers = fully_connected(jax.random.key(0), [4, 8, 3])
    >>> x, y = jnp.ones((2, 4)), jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> forward, backward = jax.jit(lambda *args: backpropagate(*args, loss=optax.softmax_cross_entropy))(layers, x, y)
    >>> [delta.shape for delta in backward.deltas], backward.gradients[0].weights.shape
    ([(2, 8), (2, 3)], (4, 8))
    >>> bool(jnp.allclose(backward.deltas[-1], (jax.nn.softmax(forward.outputs) - y) / 2))  # of the mean over two examples
    True
    """
    forward = forward_pass(layers, x, activation=activation, output_activation=output_activation)
    functions = _activations(layers, activation, output_activation)
    value, g = jax.value_and_grad(lambda outputs: _mean(loss(outputs, targets), len(x)))(forward.outputs)
    slopes, deltas, gradients = [], [], []
    for i in reversed(range(len(layers))):
        z, below = forward.pre_activations[i], forward.activations[i]
        slope = derivative(functions[i], z)
        delta = g * slope if slope.ndim == z.ndim else jnp.einsum("bij,bi->bj", slope, g)
        gradients.append(AffineLayer(weights=below.T @ delta, bias=delta.sum(axis=0)))
        g = delta @ layers[i].weights.T
        slopes.append(slope)
        deltas.append(delta)
    return forward, BackwardPass(value, tuple(slopes[::-1]), tuple(deltas[::-1]), tuple(gradients[::-1]), g)


def derivative(activation: Activation, z: Float[Array, "B D"]) -> Float[Array, "B D"] | Float[Array, "B D D"]:
    """Of an activation at each example: σ'(z), or its Jacobian where it mixes the elements of an example.

      σ'(z)[i, j] = ∂a[i, j]/∂z[i, j]   or   S[i, j, k] = ∂a[i, j]/∂z[i, k]

    >>> derivative(jnp.square, jnp.array([[1.0, 3.0]])).tolist()
    [[2.0, 6.0]]
    >>> derivative(jax.nn.softmax, jnp.zeros((1, 2))).tolist()
    [[[0.25, -0.25], [-0.25, 0.25]]]
    """
    if is_elementwise(activation, z):
        a, pull = jax.vjp(activation, z)
        return pull(jnp.ones_like(a))[0]
    return jax.vmap(jax.jacrev(lambda row: activation(row[None])[0]))(z)


def is_elementwise(function: Callable[[Array], Array], z: Array) -> bool:
    """Whether a function and its derivative consist of operations that work element by element; False where they only might.

    >>> is_elementwise(jax.nn.gelu, jnp.ones((2, 3))), is_elementwise(jax.nn.softmax, jnp.ones((2, 3)))
    (True, False)
    """
    closed = jax.make_jaxpr(lambda z, g: jax.vjp(function, z)[1](g))(z, z)
    names = {eqn.primitive.name for eqn, _ in equations(closed.jaxpr) if eqn.primitive.name == "cond" or not bodies(eqn)}
    return names <= ELEMENTWISE | _SELECTION


def _activations(layers: Sequence[AffineLayer], activation: Activation, output_activation: Activation) -> list[Activation]:
    return [activation] * (len(layers) - 1) + [output_activation]


def _mean(losses: Array, num_examples: int) -> Array:
    if losses.ndim == 0 or len(losses) != num_examples:
        raise ValueError(
            f"backpropagate: the loss must return a value for each of the {num_examples} examples, got shape {list(losses.shape)}; "
            "leave the mean over the batch out of it"
        )
    return losses.sum() / num_examples
