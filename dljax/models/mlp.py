"""The multilayer perceptron."""

from collections.abc import Sequence

from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int, check_range
from dljax.nn.dense import Dense, unit_pixels


class MLP(linen.Module):
    """Dense layers with ReLU between them; whatever comes in is flattened to one vector an example.

      h₀ = x,   h_l = ReLU(W_l h_{l-1} + b_l),   output W_L h_{L-1} + b_L

    Attributes:
      num_outputs: K, units of the last layer.
      widths: units of the hidden layers.
      dropout_rate: the fraction of hidden units dropped in training, in [0, 1).

    >>> import jax, jax.numpy as jnp
    >>> outputs, variables = MLP(10, (32,)).init_with_output(jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
    >>> outputs.shape, jax.tree.map(jnp.shape, variables["params"]["Dense_0"])
    ((2, 10), {'bias': (32,), 'kernel': (64, 32)})
    """

    num_outputs: int
    widths: Sequence[int] = (128, 128)
    dropout_rate: float = 0.0

    @linen.compact
    def __call__(self, x: Num[Array, "B *shape"], train: bool = False) -> Float[Array, "B K"]:
        """Outputs of the last layer.

        Args:
          x: examples of any shape, floats or uint8 pictures in 0 ... 255.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: a size < 1, or a rate outside [0, 1).
        """
        for name, size in [("num_outputs", self.num_outputs), *(("widths", width) for width in self.widths)]:
            check_int("MLP", name, size, minimum=1)
        check_range("MLP", "dropout_rate", self.dropout_rate, 0, 1, open_high=True)
        x = unit_pixels(x).reshape(x.shape[0], -1)
        for width in self.widths:
            x = linen.relu(Dense(width)(x))
            x = linen.Dropout(self.dropout_rate, deterministic=not train)(x)
        return Dense(self.num_outputs)(x)
