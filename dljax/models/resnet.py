"""Residual networks: basic, bottleneck, pre-activated, wide, ResNeXt, and with squeeze and excitation, one block for all."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int, check_range
from dljax.models.conv_norm import ConvNorm, conv, norm, pictures
from dljax.nn.dense import Dense
from dljax.nn.pooling import global_avg_pool, max_pool

_SMALL = {"is_small": True, "width": 16}
RESNETS: Mapping[str, Mapping[str, Any]] = {
    "resnet18": {"blocks": (2, 2, 2, 2)},
    "resnet34": {"blocks": (3, 4, 6, 3)},
    "resnet50": {"blocks": (3, 4, 6, 3), "is_bottleneck": True},
    "resnet101": {"blocks": (3, 4, 23, 3), "is_bottleneck": True},
    "resnet152": {"blocks": (3, 8, 36, 3), "is_bottleneck": True},
    "resnext50_32x4d": {"blocks": (3, 4, 6, 3), "is_bottleneck": True, "groups": 32, "widening": 2},
    "resnext101_32x8d": {"blocks": (3, 4, 23, 3), "is_bottleneck": True, "groups": 32, "widening": 4},
    "wide_resnet50_2": {"blocks": (3, 4, 6, 3), "is_bottleneck": True, "widening": 2},
    "seresnet50": {"blocks": (3, 4, 6, 3), "is_bottleneck": True, "squeeze": 16},
    "resnet8": {"blocks": (1, 1, 1), **_SMALL},
    "resnet20": {"blocks": (3, 3, 3), **_SMALL},
    "resnet56": {"blocks": (9, 9, 9), **_SMALL},
    "preact_resnet164": {"blocks": (18, 18, 18), "is_bottleneck": True, "is_preactivated": True, **_SMALL},
    "wrn_16_4": {"blocks": (2, 2, 2), "is_small": True, "width": 64, "stem_width": 16, "is_preactivated": True},
    "wrn_28_10": {"blocks": (4, 4, 4), "is_small": True, "width": 160, "stem_width": 16, "is_preactivated": True},
}
"""Options of `ResNet` by the names that torchvision, timm and the papers use; from "resnet8" on they are for small pictures."""


class ResNet(linen.Module):
    """Residual blocks in stages, each half as large and twice as wide as the one before, the mean over all places, and the logits.

      x_{l+1} = ReLU(x_l + F(x_l)),   pre-activated x_{l+1} = x_l + F(x_l)

    F is two 3×3 convolutions, or a bottleneck: 1×1, 3×3 with the block's stride, 1×1 to four times the width. All are followed by batch norm and
    ReLU, or led by them if pre-activated. Where the shapes differ, x_l goes through a 1×1 convolution, with batch norm unless pre-activated.

    Attributes:
      num_classes: K.
      blocks: how many blocks each stage has.
      width: channels of the first stage's 3×3 convolutions.
      is_bottleneck, is_preactivated: which F.
      groups, widening: of the bottleneck's 3×3 convolution: how many groups, and its channels as a multiple of the width (a ResNeXt has 32 and 2).
      squeeze: r of `SqueezeExcitation` at the end of each F; 0 for none.
      stem_width: channels of the first convolution; 0 for `width`.
      dropout_rate: the fraction of units dropped before the last convolution of each F in training, in [0, 1).
      is_small: whether pictures are small (CIFAR, Fashion-MNIST): the first convolution is 3×3 with stride 1, instead of 7×7 with stride 2 before a
        3×3 maximum with stride 2.

    The papers' bottleneck has its stride in the first 1×1 convolution; this is torchvision's, a little better at the same size.

    Source: He et al. (2016), Deep residual learning; He et al. (2016), Identity mappings; Zagoruyko and Komodakis (2016), Wide residual networks;
    Xie et al. (2017), Aggregated residual transformations; Hu et al. (2018), Squeeze-and-excitation networks.

    >>> import jax, jax.numpy as jnp
    >>> from dljax.core.tree import num_params
    >>> shapes = jax.eval_shape(ResNet(**RESNETS["resnet18"]).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    >>> num_params(shapes["params"])
    11689512
    """

    num_classes: int = 1000
    blocks: Sequence[int] = (2, 2, 2, 2)
    width: int = 64
    is_bottleneck: bool = False
    is_preactivated: bool = False
    groups: int = 1
    widening: int = 1
    squeeze: int = 0
    stem_width: int = 0
    dropout_rate: float = 0.0
    is_small: bool = False

    @linen.compact
    def __call__(self, x: Num[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        """Logits of each class.

        Args:
          x: pictures, uint8 in 0 ... 255 or floats.
          train: whether batch norm uses the batch's statistics and learns them, and units are dropped, with the random stream `dropout`.
        Raises:
          ValueError: x is not [B, H, W, C]; a size < 1 (`squeeze`, `stem_width` < 0); groups or widening without a bottleneck; a rate outside [0, 1).
        """
        sizes = [("num_classes", self.num_classes), ("width", self.width), ("groups", self.groups), ("widening", self.widening)]
        for name, size in [*sizes, *(("blocks", number) for number in self.blocks)]:
            check_int("ResNet", name, size, minimum=1)
        check_int("ResNet", "squeeze", self.squeeze)
        check_int("ResNet", "stem_width", self.stem_width)
        check_range("ResNet", "dropout_rate", self.dropout_rate, 0, 1, open_high=True)
        if not self.is_bottleneck and (self.groups, self.widening) != (1, 1):
            raise ValueError(
                f"ResNet: groups and widening are of the bottleneck's 3x3 convolution, got {self.groups} and {self.widening} without one; "
                "set is_bottleneck, or a larger width"
            )
        x = pictures("ResNet", x)
        window, strides = (3, 1) if self.is_small else (7, 2)
        stem_width = self.stem_width or self.width
        if self.is_preactivated:
            x = conv(stem_width, window, strides, name="stem")(x)
        else:
            x = ConvNorm(stem_width, window, strides, name="stem")(x, train)
        if not self.is_small:
            x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        options = (self.is_bottleneck, self.is_preactivated, self.groups, self.widening, self.squeeze, self.dropout_rate)
        for stage, number in enumerate(self.blocks):
            for block in range(number):
                strides = 2 if stage > 0 and block == 0 else 1
                x = ResidualBlock(self.width * 2**stage, strides, *options, name=f"stage_{stage}_block_{block}")(x, train)
        if self.is_preactivated:
            x = linen.relu(norm(train, name="norm")(x))
        return Dense(self.num_classes, name="head")(global_avg_pool(x))


class ResidualBlock(linen.Module):
    """One block of a `ResNet`, whose docstring says what the attributes are.

    >>> import jax, jax.numpy as jnp
    >>> jax.eval_shape(ResidualBlock(4, 2).init_with_output, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))[0].shape
    (1, 4, 4, 4)
    """

    width: int
    strides: int = 1
    is_bottleneck: bool = False
    is_preactivated: bool = False
    groups: int = 1
    widening: int = 1
    squeeze: int = 0
    dropout_rate: float = 0.0

    @linen.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w O"]:
        layers = [(self.width, 3, self.strides, 1), (self.width, 3, 1, 1)]  # features, window, strides, groups
        if self.is_bottleneck:
            inner = self.widening * self.width
            layers = [(inner, 1, 1, 1), (inner, 3, self.strides, self.groups), (4 * self.width, 1, 1, 1)]
        last, features = len(layers) - 1, layers[-1][0]
        is_projected = self.strides != 1 or x.shape[-1] != features
        y = shortcut = x
        for i, layer in enumerate(layers):
            if self.is_preactivated:
                y = linen.relu(norm(train, name=f"norm_{i}")(y))
                shortcut = conv(features, 1, self.strides, name="shortcut")(y) if i == 0 and is_projected else shortcut
            y = linen.Dropout(self.dropout_rate if i == last else 0.0, deterministic=not train)(y)
            if self.is_preactivated:
                y = conv(*layer, name=f"conv_{i}")(y)
            else:
                y = ConvNorm(*layer, activation=linen.relu if i < last else None, name=f"conv_{i}")(y, train)
        if self.squeeze:
            y = SqueezeExcitation(self.squeeze, name="squeeze")(y)
        if self.is_preactivated:
            return shortcut + y
        return linen.relu((ConvNorm(features, 1, self.strides, activation=None, name="shortcut")(x, train) if is_projected else x) + y)


class SqueezeExcitation(linen.Module):
    """Channels weighed by what a small network makes of all their means.

      y = x · σ(W₂ ReLU(W₁ mean(x) + b₁) + b₂)

    Attributes:
      ratio: r; W₁ goes from C channels to C/r, at least one.

    Raises:
      ValueError: when traced: `ratio` < 1.
    Source: Hu et al. (2018), Squeeze-and-excitation networks, eq. 2-4.

    >>> import jax, jax.numpy as jnp
    >>> layer = SqueezeExcitation(2)
    >>> jax.tree.map(jnp.shape, jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)))["params"]["down"])
    {'bias': (2,), 'kernel': (1, 1, 4, 2)}
    """

    ratio: int = 16

    @linen.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        inner = max(channels // check_int("SqueezeExcitation", "ratio", self.ratio, minimum=1), 1)
        y = global_avg_pool(x)[:, None, None]
        y = conv(channels, 1, use_bias=True, name="up")(linen.relu(conv(inner, 1, use_bias=True, name="down")(y)))
        return x * linen.sigmoid(y)
