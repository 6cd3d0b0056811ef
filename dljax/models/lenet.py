"""LeNet-5: the first convolutional network that read cheques (LeCun et al., 1998)."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int
from dljax.models.conv_norm import pictures
from dljax.nn.convolution import Conv
from dljax.nn.dense import Dense
from dljax.nn.pooling import avg_pool, max_pool


class LeNet(linen.Module):
    """Two 5×5 convolutions with pooling, two hidden layers, and the logits.

      pictures → conv 6 → pool → conv 16 → pool → 120 → 84 → logits [B, K]

    The paper's own has trained factors in its pooling, a third layer that sees some of the maps only, and distances to fixed pictures of the letters
    as its output; this is the form in which textbooks have it since.

    Attributes:
      num_classes: K.
      widths: output channels of the convolutions.
      hidden: units of the hidden layers.
      activation: after each convolution and hidden layer; the paper's is a scaled tanh.
      is_averaged: whether pooling takes means, as in the paper, or maxima.
      padding: pixels around the picture: 2 make 28 x 28 the paper's 32 x 32.

    Source: LeCun et al. (1998), Gradient-based learning applied to document recognition, Proceedings of the IEEE 86, figure 2.

    >>> import jax
    >>> from dljax.core.tree import num_params
    >>> num_params(jax.eval_shape(LeNet().init, jax.random.key(0), jnp.zeros((1, 28, 28, 1))))
    61706
    """

    num_classes: int = 10
    widths: Sequence[int] = (6, 16)
    hidden: Sequence[int] = (120, 84)
    activation: Callable[[Array], Array] = jnp.tanh
    is_averaged: bool = True
    padding: int = 2

    @linen.compact
    def __call__(self, x: Num[Array, "B H W C"]) -> Float[Array, "B K"]:
        """Logits of each class.

        Args:
          x: pictures, uint8 in 0 ... 255 or floats.
        Raises:
          ValueError: pictures too small for a 5×5 window after each halving; a size < 1 (`padding` < 0).
        """
        sizes = [("num_classes", self.num_classes), *(("widths", width) for width in self.widths), *(("hidden", units) for units in self.hidden)]
        for name, size in sizes:
            check_int("LeNet", name, size, minimum=1)
        check_int("LeNet", "padding", self.padding)
        smallest = 1
        for _ in self.widths:
            smallest = 2 * smallest + 4
        x = pictures("LeNet", x, max(smallest - 2 * self.padding, 1))
        pool = avg_pool if self.is_averaged else max_pool
        for i, width in enumerate(self.widths):
            x = self.activation(Conv(width, (5, 5), padding=self.padding if i == 0 else 0)(x))
            x = pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        for units in self.hidden:
            x = self.activation(Dense(units)(x))
        return Dense(self.num_classes)(x)
