"""Networks for reinforcement learning: what a policy and a value function are made of."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.nn.product import row_product


class ActorCritic(nn.Module):
    """A policy and a value function, two multilayer perceptrons that share nothing.

    Weights are orthogonal: gain √2 in hidden layers, 0.01 in the policy's last (so that training starts from the uniform policy), 1 in the value's.

    Attributes:
      num_outputs: A, the numbers that parametrise the policy: one logit an action.
      widths: of the hidden layers.
      activation: after each hidden layer.

    Source: Andrychowicz et al. (2021), "What matters for on-policy deep actor-critic methods?".

    >>> import jax
    >>> network = ActorCritic(num_outputs=2)
    >>> logits, value = network.apply(network.init(jax.random.key(0), jnp.zeros((1, 4))), jnp.ones((3, 4)))
    >>> logits.shape, value.shape
    ((3, 2), (3,))
    """

    num_outputs: int
    widths: Sequence[int] = (64, 64)
    activation: Callable[[Array], Array] = nn.tanh

    @nn.compact
    def __call__(self, observation: Float[Array, "*B D"]) -> tuple[Float[Array, "*B A"], Float[Array, "*B"]]:
        logits = self._mlp(observation, "actor", self.num_outputs, 0.01)
        value = self._mlp(observation, "critic", 1, 1.0)
        return logits, value[..., 0]

    def _mlp(self, x: Array, name: str, num_outputs: int, gain: float) -> Array:
        for index, width in enumerate(self.widths):
            x = self.activation(
                nn.Dense(width, kernel_init=nn.initializers.orthogonal(jnp.sqrt(2)), dot_general=row_product, name=f"{name}_{index}")(x)
            )
        return nn.Dense(num_outputs, kernel_init=nn.initializers.orthogonal(gain), dot_general=row_product, name=f"{name}_{len(self.widths)}")(x)
