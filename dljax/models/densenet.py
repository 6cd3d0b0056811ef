"""DenseNet: every layer sees what all layers before it in its block have made (Huang et al., 2017)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int, check_range
from dljax.models.conv_norm import ConvNorm, NormConv, conv, norm, pictures
from dljax.nn.dense import Dense
from dljax.nn.pooling import avg_pool, global_avg_pool, max_pool

DENSENETS: Mapping[str, Mapping[str, Any]] = {
    "densenet121": {"blocks": (6, 12, 24, 16)},
    "densenet169": {"blocks": (6, 12, 32, 32)},
    "densenet201": {"blocks": (6, 12, 48, 32)},
    "densenet161": {"blocks": (6, 12, 36, 24), "growth": 48, "width": 96},
    "densenet_40_12": {"blocks": (12, 12, 12), "growth": 12, "width": 16, "is_bottleneck": False, "compression": 1.0, "is_small": True},
    "densenet_bc_100_12": {"blocks": (16, 16, 16), "growth": 12, "width": 24, "is_small": True},
}
"""Options of `DenseNet` by the names that torchvision and the paper use; the last two are for small pictures."""


class DenseNet(linen.Module):
    """Dense blocks with halvings between them, the mean over all places, and the logits.

      x_l = F_l([x₀, x₁, ..., x_{l-1}]),   F_l = 3×3 convolution after (1×1 convolution to 4k after) batch norm and ReLU, k channels

    Attributes:
      num_classes: K.
      blocks: how many layers F each block has.
      growth: k, channels that a layer adds.
      width: channels of the first convolution.
      is_bottleneck: whether F has the 1×1 convolution in front (DenseNet-B).
      compression: θ in (0, 1]: which fraction of its channels a block hands on (DenseNet-C).
      dropout_rate: the fraction of units dropped after each F in training, in [0, 1); the paper has 0.2 where it does not augment.
      is_small: whether pictures are small (CIFAR, Fashion-MNIST): the first convolution is 3×3 with stride 1, instead of 7×7 with stride 2, batch
        norm, ReLU and a 3×3 maximum with stride 2.

    Source: Huang et al. (2017), Densely connected convolutional networks, section 3 and table 1.

    >>> import jax
    >>> from dljax.core.tree import num_params
    >>> shapes = jax.eval_shape(DenseNet(10, **DENSENETS["densenet_40_12"]).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> num_params(shapes["params"])
    1019722
    """

    num_classes: int = 1000
    blocks: Sequence[int] = (6, 12, 24, 16)
    growth: int = 32
    width: int = 64
    is_bottleneck: bool = True
    compression: float = 0.5
    dropout_rate: float = 0.0
    is_small: bool = False

    @linen.compact
    def __call__(self, x: Num[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        """Logits of each class.

        Args:
          x: pictures, uint8 in 0 ... 255 or floats.
          train: whether batch norm uses the batch's statistics and learns them, and units are dropped, with the random stream `dropout`.
        Raises:
          ValueError: pictures too small to be halved; a size < 1; `compression` outside (0, 1]; a rate outside [0, 1).
        """
        sizes = [("num_classes", self.num_classes), ("growth", self.growth), ("width", self.width)]
        for name, size in [*sizes, *(("blocks", number) for number in self.blocks)]:
            check_int("DenseNet", name, size, minimum=1)
        check_range("DenseNet", "compression", self.compression, 0, 1, open_low=True)
        check_range("DenseNet", "dropout_rate", self.dropout_rate, 0, 1, open_high=True)
        # The first convolution and maximum round up.
        smallest = 2 ** (len(self.blocks) - 1)
        x = pictures("DenseNet", x, smallest if self.is_small else 4 * (smallest - 1) + 1)
        if self.is_small:
            x = conv(self.width, 3, name="stem")(x)
        else:
            x = max_pool(ConvNorm(self.width, 7, 2, name="stem")(x, train), (3, 3), (2, 2), ((1, 1), (1, 1)))
        for block, number in enumerate(self.blocks):
            if block > 0:
                features = max(int(x.shape[-1] * self.compression), 1)
                x = avg_pool(NormConv(features, 1, name=f"transition_{block}")(x, train), (2, 2), (2, 2))
            for layer in range(number):
                name, y = f"block_{block}_layer_{layer}", x
                if self.is_bottleneck:
                    y = NormConv(4 * self.growth, 1, name=f"{name}_reduce")(y, train)
                y = NormConv(self.growth, name=f"{name}_grow")(y, train)
                y = linen.Dropout(self.dropout_rate, deterministic=not train)(y)
                x = jnp.concatenate([x, y], -1)
        x = linen.relu(norm(train, name="norm")(x))
        return Dense(self.num_classes, name="head")(global_avg_pool(x))
