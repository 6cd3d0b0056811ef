"""A plain convolutional network for small pictures, fast on a CPU."""

from collections.abc import Sequence

from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int, check_range
from dljax.nn.convolution import Conv
from dljax.nn.dense import Dense, unit_pixels
from dljax.nn.pooling import max_pool


class CNN(linen.Module):
    """Convolutions, each halving the picture by max pooling, then a hidden layer and the logits.

      [B, H, W, C] → (3×3 convolution → 2×2 maximum → ReLU) for each width → ReLU layer → logits [B, K]

    Attributes:
      num_classes: K.
      widths: output channels of each convolution; the picture must be at least 2 to the power of their number on both sides.
      hidden: units of the hidden layer.
      dropout_rate: the fraction of units dropped before the hidden layer and before the logits in training, in [0, 1).

    Source: the plan of LeNet-5 (LeCun et al., 1998, Proceedings of the IEEE 86) with ReLU, max pooling and 3×3 kernels.

    >>> import jax, jax.numpy as jnp
    >>> logits, variables = CNN(10).init_with_output(jax.random.key(0), jnp.zeros((2, 28, 28, 1), jnp.uint8))
    >>> logits.shape, sorted(variables["params"])
    ((2, 10), ['Conv_0', 'Conv_1', 'Dense_0', 'Dense_1'])
    """

    num_classes: int
    widths: Sequence[int] = (32, 64)
    hidden: int = 128
    dropout_rate: float = 0.0

    @linen.compact
    def __call__(self, x: Num[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        """Logits of each class.

        Args:
          x: pictures, uint8 in 0 ... 255 or floats.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: pictures too small to be halved once for each width; a size < 1; a rate outside [0, 1).
        """
        for name, size in [("num_classes", self.num_classes), ("hidden", self.hidden), *(("widths", width) for width in self.widths)]:
            check_int("CNN", name, size, minimum=1)
        check_range("CNN", "dropout_rate", self.dropout_rate, 0, 1, open_high=True)
        smallest = 2 ** len(self.widths)
        if x.ndim != 4 or min(x.shape[1:3]) < smallest:
            raise ValueError(f"CNN: x must be pictures [B, H, W, C] of at least {smallest} x {smallest} (widths={self.widths}), got {x.shape}")
        x = unit_pixels(x)
        for width in self.widths:
            # The maximum commutes with ReLU, which then works on a quarter of the numbers.
            x = linen.relu(max_pool(Conv(width, (3, 3))(x), (2, 2), (2, 2)))
        x = x.reshape(x.shape[0], -1)
        x = linen.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = linen.relu(Dense(self.hidden)(x))
        x = linen.Dropout(self.dropout_rate, deterministic=not train)(x)
        return Dense(self.num_classes)(x)
