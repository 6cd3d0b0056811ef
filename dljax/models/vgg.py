"""VGG: nothing but 3×3 convolutions, halving, and large hidden layers (Simonyan & Zisserman, 2015)."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int, check_range
from dljax.models.conv_norm import conv_relu, pictures
from dljax.nn.dense import Dense
from dljax.nn.pooling import adaptive_avg_pool, max_pool

VGGS: Mapping[str, Mapping[str, Any]] = {
    "vgg11": {"blocks": (1, 1, 2, 2, 2)},
    "vgg13": {"blocks": (2, 2, 2, 2, 2)},
    "vgg16": {"blocks": (2, 2, 3, 3, 3)},
    "vgg19": {"blocks": (2, 2, 4, 4, 4)},
}
"""Options of `VGG` by the number of layers with weights: configurations A, B, D and E of the paper."""


class VGG(linen.Module):
    """Stages of 3×3 convolutions, each halved by a 2×2 maximum, then hidden layers and the logits.

      [B, H, W, C] → ((3×3 convolution → ReLU) for each block → 2×2 maximum) for each stage → hidden layers → logits [B, K]

    Attributes:
      num_classes: K.
      blocks: how many convolutions each stage has.
      width: channels of the first stage; each stage has twice those of the one before, at most eight times the first.
      hidden: units of the hidden layers. For pictures of 32 x 32, (512,) with `pool_size` 1 is customary.
      pool_size: the last maps are averaged to this size on both sides, so that pictures of any size fit the first hidden layer: 7 is what 224 gives.
      dropout_rate: the fraction of units dropped after each hidden layer in training, in [0, 1).
      is_normalised: whether convolutions have batch norm instead of biases.

    Source: Simonyan and Zisserman (2015), Very deep convolutional networks, table 1.

    >>> import jax, jax.numpy as jnp
    >>> from dljax.core.tree import num_params
    >>> num_params(jax.eval_shape(VGG(**VGGS["vgg16"]).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3))))
    138357544
    """

    num_classes: int = 1000
    blocks: Sequence[int] = (2, 2, 3, 3, 3)
    width: int = 64
    hidden: Sequence[int] = (4096, 4096)
    pool_size: int = 7
    dropout_rate: float = 0.5
    is_normalised: bool = False

    @linen.compact
    def __call__(self, x: Num[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        """Logits of each class.

        Args:
          x: pictures, uint8 in 0 ... 255 or floats.
          train: whether to drop units, with the random stream `dropout`, and whether batch norm uses the batch's statistics.
        Raises:
          ValueError: pictures too small to be halved by each stage; a size < 1; a rate outside [0, 1).
        """
        sizes = [("num_classes", self.num_classes), ("width", self.width), ("pool_size", self.pool_size)]
        for name, size in [*sizes, *(("blocks", number) for number in self.blocks), *(("hidden", units) for units in self.hidden)]:
            check_int("VGG", name, size, minimum=1)
        check_range("VGG", "dropout_rate", self.dropout_rate, 0, 1, open_high=True)
        x = pictures("VGG", x, 2 ** len(self.blocks))
        for stage, number in enumerate(self.blocks):
            features = self.width * 2 ** min(stage, 3)
            for block in range(number):
                x = conv_relu(x, features, is_normalised=self.is_normalised, train=train, name=f"stage_{stage}_block_{block}")
            x = max_pool(x, (2, 2), (2, 2))
        x = adaptive_avg_pool(x, self.pool_size)
        x = x.reshape(x.shape[0], -1)
        for layer, units in enumerate(self.hidden):
            x = linen.relu(Dense(units, name=f"hidden_{layer}")(x))
            x = linen.Dropout(self.dropout_rate, deterministic=not train)(x)
        return Dense(self.num_classes, name="head")(x)
