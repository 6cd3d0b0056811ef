"""GoogLeNet: Inception modules, windows of several sizes side by side (Szegedy et al., 2015)."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int, check_range
from dljax.models.conv_norm import conv_relu, pictures
from dljax.nn.dense import Dense
from dljax.nn.pooling import global_avg_pool, max_pool

# Channels of 1×1; 3×3 reduced, 3×3; 5×5 reduced, 5×5; after the maximum. A list is halved before the next begins.
_MODULES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)  # fmt: skip


class Inception(linen.Module):
    """Four views of the same maps, one beside the other: 1×1, 3×3 and 5×5 convolutions, and a maximum; 1×1 convolutions keep them cheap.

      y = [1×1(x), 3×3(1×1(x)), 5×5(1×1(x)), 1×1(max 3×3(x))],   ReLU after each convolution

    Attributes:
      widths: output channels of the six convolutions, in the order of table 1: 1×1, 3×3 reduced, 3×3, 5×5 reduced, 5×5, after the maximum.
      large_window: 5; torchvision's network has 3 here, by an old mistake.
      is_normalised: whether convolutions have batch norm instead of biases.

    Source: Szegedy et al. (2015), Going deeper with convolutions, figure 2 (b).

    >>> import jax
    >>> jax.eval_shape(Inception((2, 1, 3, 1, 4, 5)).init_with_output, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))[0].shape
    (1, 8, 8, 14)
    """

    widths: Sequence[int]
    large_window: int = 5
    is_normalised: bool = False

    @linen.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B H W O"]:
        ones, reduce_3, threes, reduce_5, fives, pooled = self.widths
        many = max_pool(x, (3, 3), (1, 1), "SAME")
        views = (("one", x, [(ones, 1)]), ("three", x, [(reduce_3, 1), (threes, 3)]), ("five", x, [(reduce_5, 1), (fives, self.large_window)]))
        outputs = []
        for name, y, layers in (*views, ("pool", many, [(pooled, 1)])):
            for i, (features, window) in enumerate(layers):
                y = conv_relu(y, features, window, is_normalised=self.is_normalised, train=train, name=f"{name}_{i}")
            outputs.append(y)
        return jnp.concatenate(outputs, -1)


class GoogLeNet(linen.Module):
    """A stem, nine Inception modules with halvings between them, the mean over all places, dropout, and the logits.

    The paper's local response normalisation, which was found to change nothing, and its two further outputs for training are left out.

    Attributes:
      num_classes: K.
      modules: `widths` of the Inception modules, in stages that are halved by a 3×3 maximum in between; the paper's nine by default.
      stem_widths: channels of the stem's convolutions: 7×7 with stride 2, 1×1, 3×3, and a maximum with stride 2 after the first and the last.
      dropout_rate: the fraction of units dropped before the logits in training, in [0, 1).
      is_normalised, large_window: as in `Inception`.
      is_small: whether pictures are small (CIFAR, Fashion-MNIST): the stem is one 3×3 convolution to the last of `stem_widths`.

    Source: Szegedy et al. (2015), Going deeper with convolutions, table 1; with batch norm, Ioffe and Szegedy (2015), section 4.2.

    >>> import jax
    >>> from dljax.core.tree import num_params
    >>> num_params(jax.eval_shape(GoogLeNet().init, jax.random.key(0), jnp.zeros((1, 224, 224, 3))))
    6998552
    """

    num_classes: int = 1000
    modules: Sequence[Sequence[Sequence[int]]] = _MODULES
    stem_widths: Sequence[int] = (64, 64, 192)
    dropout_rate: float = 0.4
    is_normalised: bool = False
    large_window: int = 5
    is_small: bool = False

    @linen.compact
    def __call__(self, x: Num[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        """Logits of each class.

        Args:
          x: pictures, uint8 in 0 ... 255 or floats.
          train: whether to drop units, with the random stream `dropout`, and whether batch norm uses the batch's statistics.
        Raises:
          ValueError: x is not [B, H, W, C]; a size < 1; a rate outside [0, 1); `modules` or `stem_widths` of other lengths than 6 and 3.
        """
        check_int("GoogLeNet", "num_classes", self.num_classes, minimum=1)
        check_int("GoogLeNet", "large_window", self.large_window, minimum=1)
        check_range("GoogLeNet", "dropout_rate", self.dropout_rate, 0, 1, open_high=True)
        for name, length, widths in [("stem_widths", 3, self.stem_widths), *(("modules", 6, module) for stage in self.modules for module in stage)]:
            if len(widths) != length:
                raise ValueError(f"GoogLeNet: {name} must have {length} widths, got {widths}")
            for width in widths:
                check_int("GoogLeNet", name, width, minimum=1)
        x = pictures("GoogLeNet", x)
        first, second, third = self.stem_widths
        layers = [(third, 3, 1)] if self.is_small else [(first, 7, 2), (second, 1, 1), (third, 3, 1)]
        for i, layer in enumerate(layers):
            x = conv_relu(x, *layer, is_normalised=self.is_normalised, train=train, name=f"stem_{i}")
            x = _halved(x) if i != 1 and not self.is_small else x
        for stage, modules in enumerate(self.modules):
            x = _halved(x) if stage > 0 else x
            for i, widths in enumerate(modules):
                x = Inception(widths, self.large_window, self.is_normalised, name=f"stage_{stage}_module_{i}")(x, train)
        x = linen.Dropout(self.dropout_rate, deterministic=not train)(global_avg_pool(x))
        return Dense(self.num_classes, name="head")(x)


def _halved(x: Array) -> Array:
    # PyTorch's and Caffe's ceil_mode: the last window may reach over the edge, and none begins beyond it.
    pads = tuple((0, 3 - length if length < 3 else (length - 3) % 2) for length in x.shape[1:3])
    return max_pool(x, (3, 3), (2, 2), pads)
