"""The masked autoencoder for distribution estimation, MADE: one pass of a network, of which every output sees only earlier inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.nn.dense import promote_to_kernel
from dljax.nn.product import row_product


class MADE(linen.Module):
    """A fully connected network, masked so that the outputs of variable i depend on the variables before it only.

      ∂ output_i / ∂ x_j = 0   for j >= i

    Attributes:
      num_outputs: P, outputs of each variable.
      widths: units of the hidden layers. Unit number h sees the first (h mod (D - 1)) + 1 variables; with a context, the first h mod D.
      activation: between the layers.
      last_init: of the kernel of the last layer.

    Source: Germain, Gregor, Murray and Larochelle (2015), MADE: Masked Autoencoder for Distribution Estimation, eq. 12-13; degrees in turn, not
      drawn.

    >>> import jax
    >>> model = MADE(2, (16,))
    >>> variables = model.init(jax.random.key(0), jnp.ones(3))
    >>> jacobian = jax.jacobian(lambda x: model.apply(variables, x))(jnp.ones(3))  # [3, 2, 3]
    >>> (jacobian != 0).any(1).astype(int).tolist()
    [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    """

    num_outputs: int
    widths: Sequence[int] = (128, 128)
    activation: Callable[[Array], Array] = linen.relu
    last_init: Any = linen.initializers.lecun_normal()

    @linen.compact
    def __call__(self, x: Float[Array, "..."], context: Float[Array, " C"] | None = None) -> Float[Array, "D P"]:
        """Outputs of each variable.

        Args:
          x: D variables of one example, [D], or [D, F] with F numbers each (one-hot values).
          context: what all outputs may see.
        Raises:
          ValueError: an option < 1.
        """
        check_int("MADE", "num_outputs", self.num_outputs, minimum=1)
        num, rest = x.shape[0], x.size // x.shape[0]
        degrees, values = np.repeat(np.arange(num), rest) + 1, x.reshape(-1)
        for layer, width in enumerate(self.widths):
            check_int("MADE", "widths", width, minimum=1)
            units = np.arange(width) % max(num - 1, 1) + 1 if context is None else np.arange(width) % num
            # A unit of degree m sees the inputs 1 ... m, and units of degree m and less.
            values = self._masked(f"hidden_{layer}", values, degrees[:, None] <= units, linen.initializers.lecun_normal())
            if layer == 0 and context is not None:
                values = values + linen.Dense(width, use_bias=False, name="context")(context)
            values, degrees = self.activation(values), units
        outputs = np.repeat(np.arange(num), self.num_outputs)
        values = self._masked("last", values, degrees[:, None] <= outputs, self.last_init)
        return values.reshape(num, self.num_outputs)

    def _masked(self, name: str, x: Float[Array, " I"], mask: np.ndarray, init: Any) -> Float[Array, " O"]:
        kernel = self.param(f"{name}_kernel", init, mask.shape)
        bias = self.param(f"{name}_bias", linen.initializers.zeros, mask.shape[1:])
        x, kernel, bias = promote_to_kernel(x, kernel, bias)
        return row_product(x, kernel * jnp.asarray(mask, kernel.dtype)) + bias
