"""MobileNets: depthwise and pointwise convolutions instead of full ones (Howard et al., 2017; Sandler et al., 2018)."""

from collections.abc import Sequence

from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int, check_range
from dljax.models.conv_norm import ConvNorm, pictures
from dljax.nn.dense import Dense
from dljax.nn.pooling import global_avg_pool


class MobileNetV1(linen.Module):
    """A convolution, then depthwise 3×3 and pointwise 1×1 convolutions in turn, each with batch norm and ReLU, the mean over all places, the logits.

    Attributes:
      num_classes: K.
      layers: channels and stride of each pair of a depthwise and a pointwise convolution.
      stem_width: channels of the first convolution, which has stride 2.
      width_multiplier: α > 0, a factor of all widths.
      is_small: whether pictures are small (CIFAR, Fashion-MNIST): the first convolution and the first pair with stride 2 have stride 1.

    Source: Howard et al. (2017), MobileNets, table 1.

    >>> import jax, jax.numpy as jnp
    >>> from dljax.core.tree import num_params
    >>> num_params(jax.eval_shape(MobileNetV1().init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"])
    4231976
    """

    num_classes: int = 1000
    layers: Sequence[Sequence[int]] = (
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
    )  # fmt: skip
    stem_width: int = 32
    width_multiplier: float = 1.0
    is_small: bool = False

    @linen.compact
    def __call__(self, x: Num[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        """Logits of each class.

        Args:
          x: pictures, uint8 in 0 ... 255 or floats.
          train: whether batch norm uses the batch's statistics and learns them.
        Raises:
          ValueError: x is not [B, H, W, C]; a size < 1; `width_multiplier` <= 0.
        """
        _check("MobileNetV1", self.num_classes, self.stem_width, self.width_multiplier, self.layers, 2)
        x = pictures("MobileNetV1", x)
        widths = [max(int(width * self.width_multiplier), 1) for width in (self.stem_width, *(width for width, _ in self.layers))]
        strides = _strides([2, *(stride for _, stride in self.layers)], self.is_small)
        x = ConvNorm(widths[0], 3, strides[0], name="stem")(x, train)
        for i, (width, stride) in enumerate(zip(widths[1:], strides[1:], strict=True)):
            x = ConvNorm(x.shape[-1], 3, stride, groups=x.shape[-1], name=f"depthwise_{i}")(x, train)
            x = ConvNorm(width, 1, name=f"pointwise_{i}")(x, train)
        return Dense(self.num_classes, name="head")(global_avg_pool(x))


class MobileNetV2(linen.Module):
    """A convolution, inverted residual blocks, a wide 1×1 convolution, the mean over all places, dropout, and the logits.

      F(x) = 1×1 to C' (linear) after depthwise 3×3 after 1×1 to t·C,   y = x + F(x) where the shapes are the same, else F(x)

    All convolutions have batch norm, and ReLU6 but for the linear one.

    Attributes:
      num_classes: K.
      stages: t (expansion), c (channels), n (blocks) and s (stride of the first block) of each stage, as in the paper's table 2.
      stem_width, last_width: channels of the first convolution, which has stride 2, and of the last.
      width_multiplier: α > 0, a factor of all widths, which are rounded to multiples of 8; `last_width` is never made smaller.
      dropout_rate: the fraction of units dropped before the logits in training, in [0, 1).
      is_small: whether pictures are small (CIFAR, Fashion-MNIST): the first convolution and the first stage with stride 2 have stride 1.

    Source: Sandler et al. (2018), MobileNetV2, tables 1 and 2.

    >>> import jax, jax.numpy as jnp
    >>> from dljax.core.tree import num_params
    >>> num_params(jax.eval_shape(MobileNetV2().init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"])
    3504872
    """

    num_classes: int = 1000
    stages: Sequence[Sequence[int]] = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    )  # fmt: skip
    stem_width: int = 32
    last_width: int = 1280
    width_multiplier: float = 1.0
    dropout_rate: float = 0.2
    is_small: bool = False

    @linen.compact
    def __call__(self, x: Num[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        """Logits of each class.

        Args:
          x: pictures, uint8 in 0 ... 255 or floats.
          train: whether batch norm uses the batch's statistics and learns them, and units are dropped, with the random stream `dropout`.
        Raises:
          ValueError: x is not [B, H, W, C]; a size < 1; `width_multiplier` <= 0; a rate outside [0, 1).
        """
        _check("MobileNetV2", self.num_classes, self.stem_width, self.width_multiplier, self.stages, 4)
        check_int("MobileNetV2", "last_width", self.last_width, minimum=1)
        check_range("MobileNetV2", "dropout_rate", self.dropout_rate, 0, 1, open_high=True)
        x = pictures("MobileNetV2", x)
        stem_stride, *strides = _strides([2, *(stage[3] for stage in self.stages)], self.is_small)
        x = ConvNorm(_multiple_of_8(self.stem_width * self.width_multiplier), 3, stem_stride, activation=linen.relu6, name="stem")(x, train)
        for stage, ((expansion, width, number, _), stride) in enumerate(zip(self.stages, strides, strict=True)):
            for block in range(number):
                features = _multiple_of_8(width * self.width_multiplier)
                x = InvertedResidual(features, expansion, stride if block == 0 else 1, name=f"stage_{stage}_block_{block}")(x, train)
        last_width = _multiple_of_8(self.last_width * max(self.width_multiplier, 1.0))
        x = global_avg_pool(ConvNorm(last_width, 1, activation=linen.relu6, name="last")(x, train))
        x = linen.Dropout(self.dropout_rate, deterministic=not train)(x)
        return Dense(self.num_classes, name="head")(x)


class InvertedResidual(linen.Module):
    """One block of a `MobileNetV2`: wide inside, narrow where it is added to.

    Attributes:
      features: C', output channels.
      expansion: t; with 1 there is no first convolution.
      strides: of the depthwise convolution.

    >>> import jax, jax.numpy as jnp
    >>> jax.eval_shape(InvertedResidual(4, 6, 2).init_with_output, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))[0].shape
    (1, 4, 4, 4)
    """

    features: int
    expansion: int = 6
    strides: int = 1

    @linen.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w O"]:
        inner, y = self.expansion * x.shape[-1], x
        if self.expansion > 1:
            y = ConvNorm(inner, 1, activation=linen.relu6, name="expand")(y, train)
        y = ConvNorm(inner, 3, self.strides, groups=inner, activation=linen.relu6, name="depthwise")(y, train)
        y = ConvNorm(self.features, 1, activation=None, name="project")(y, train)
        return x + y if x.shape == y.shape else y


def _check(who: str, num_classes: int, stem_width: int, width_multiplier: float, rows: Sequence[Sequence[int]], length: int) -> None:
    check_int(who, "num_classes", num_classes, minimum=1)
    check_int(who, "stem_width", stem_width, minimum=1)
    check_range(who, "width_multiplier", width_multiplier, 0, open_low=True, open_high=True)
    name = "layers" if length == 2 else "stages"
    for row in rows:
        if len(row) != length:
            raise ValueError(f"{who}: {name} must have {length} numbers each, got {row}")
        for number in row:
            check_int(who, name, number, minimum=1)


def _strides(strides: list[int], is_small: bool) -> list[int]:
    # Small pictures are not halved the first two times.
    large = [i for i, stride in enumerate(strides) if stride > 1][:2] if is_small else []
    return [1 if i in large else stride for i, stride in enumerate(strides)]


def _multiple_of_8(width: float) -> int:
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8
