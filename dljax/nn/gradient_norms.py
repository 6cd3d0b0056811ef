"""How gradients fade or grow on their way back through time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def gradient_norms(step: Callable[[Any, Any], Any], carry: Any, inputs: Any, loss: Callable[[Any], Any]) -> Any:
    """The norm of the derivative of a loss by the state after each step, along all paths through later states.

      ‖dL/dh_t‖,   dL/dh_t = ∂L/∂h_t + (∂h_{t+1}/∂h_t)ᵀ dL/dh_{t+1}

    In a linear net, whose loss asks for the last state only, it is ‖(U)^{T-t} dL/dh_T‖ with h_t = x_t W + h_{t-1} U: it vanishes where all
    eigenvalues of U are inside the unit circle.

    Args:
      step: `(carry, x_t) -> carry`: of a linen cell `lambda carry, x: cell.apply(variables, carry, x)[0]`.
      carry: the state before the first step, any pytree.
      inputs: a pytree of arrays [T, ...].
      loss: of the states after each step, the carry's pytree with arrays [T, ...], to a number.
    Returns:
      The carry's pytree with an array [T] for each leaf, the norm over all its numbers; of an LSTM those of c and of h.

    Source: Hochreiter (1991), Untersuchungen zu dynamischen neuronalen Netzen; Pascanu, Mikolov & Bengio (2013), On the difficulty of training
      recurrent neural networks.

    >>> norms = gradient_norms(lambda h, x: 0.5 * h + x, jnp.zeros(()), jnp.ones(4), lambda states: states[-1])
    >>> norms.tolist()
    [0.125, 0.25, 0.5, 1.0]
    """

    def states(added: Any) -> Any:
        def one(carry: Any, given: tuple) -> tuple[Any, Any]:
            x, more = given
            new = step(carry, x)
            carry = new if more is None else jax.tree.map(jnp.add, new, more)
            return carry, carry

        return lax.scan(one, carry, (inputs, added))[1]

    # Nothing is added to each state: the derivative by what is added is the derivative by the state.
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda: states(None)))
    gradient = jax.grad(lambda added: loss(states(added)))(nothing)
    return jax.tree.map(lambda leaf: jnp.sqrt(jnp.square(leaf).reshape(leaf.shape[0], -1).sum(1)), gradient)
