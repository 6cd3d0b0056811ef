"""ConvNeXt: a residual network in the manner of a Transformer (Liu et al., 2022)."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int, check_range
from dljax.models.conv_norm import pictures
from dljax.nn.convolution import Conv
from dljax.nn.dense import Dense
from dljax.nn.dropout import Noise, stochastic_depth
from dljax.nn.pooling import global_avg_pool
from dljax.nn.separable import DepthwiseConv

CONVNEXTS: Mapping[str, Mapping[str, Any]] = {
    "convnext_tiny": {"blocks": (3, 3, 9, 3), "widths": (96, 192, 384, 768), "drop_rate": 0.1},
    "convnext_small": {"blocks": (3, 3, 27, 3), "widths": (96, 192, 384, 768), "drop_rate": 0.4},
    "convnext_base": {"blocks": (3, 3, 27, 3), "widths": (128, 256, 512, 1024), "drop_rate": 0.5},
    "convnext_large": {"blocks": (3, 3, 27, 3), "widths": (192, 384, 768, 1536), "drop_rate": 0.5},
}
"""Options of `ConvNeXt` by the paper's names, with the stochastic depth of its training on ImageNet-1K."""

_NORMAL = linen.initializers.truncated_normal(0.02)


class ConvNeXt(linen.Module):
    """Patches, then blocks in stages with halvings between them, the mean over all places, and the logits.

      x ← x + γ · W₂ GELU(W₁ LN(depthwise 7×7(x)))

    Attributes:
      num_classes: K.
      blocks, widths: how many blocks each stage has, and their channels.
      patch_size: side of the patches, which the first convolution turns into vectors; 1 or 2 for small pictures (CIFAR, Fashion-MNIST).
      drop_rate: of the last block's branch in training (stochastic depth), in [0, 1); it grows from zero in the first block, in equal steps.
      layer_scale: what γ starts as.

    Source: Liu et al. (2022), A ConvNet for the 2020s, figure 4 and appendix A.

    >>> import jax, jax.numpy as jnp
    >>> from dljax.core.tree import num_params
    >>> num_params(jax.eval_shape(ConvNeXt(**CONVNEXTS["convnext_tiny"]).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3))))
    28589128
    """

    num_classes: int = 1000
    blocks: Sequence[int] = (3, 3, 9, 3)
    widths: Sequence[int] = (96, 192, 384, 768)
    patch_size: int = 4
    drop_rate: float = 0.1
    layer_scale: float = 1e-6

    @linen.compact
    def __call__(self, x: Num[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        """Logits of each class.

        Args:
          x: pictures, uint8 in 0 ... 255 or floats; what is left of whole patches on the right and below is not seen.
          train: whether to drop branches, with the random stream `dropout`.
        Raises:
          ValueError: pictures too small for a patch after each halving; a size < 1; stages of unequal numbers; a rate outside [0, 1).
        """
        sizes = [("num_classes", self.num_classes), ("patch_size", self.patch_size)]
        for name, size in [*sizes, *(("blocks", number) for number in self.blocks), *(("widths", width) for width in self.widths)]:
            check_int("ConvNeXt", name, size, minimum=1)
        check_range("ConvNeXt", "drop_rate", self.drop_rate, 0, 1, open_high=True)
        if len(self.blocks) != len(self.widths):
            raise ValueError(f"ConvNeXt: blocks and widths must have one number for each stage, got {self.blocks} and {self.widths}")
        x = pictures("ConvNeXt", x, self.patch_size * 2 ** (len(self.blocks) - 1))
        last, seen = max(sum(self.blocks) - 1, 1), 0
        for stage, (number, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            size = 2 if stage > 0 else self.patch_size
            x = linen.LayerNorm(name=f"norm_{stage}")(x) if stage > 0 else x
            x = Conv(width, (size, size), size, "VALID", kernel_init=_NORMAL, name=f"halving_{stage}" if stage > 0 else "stem")(x)
            x = linen.LayerNorm(name="norm_0")(x) if stage == 0 else x
            for block in range(number):
                x = ConvNeXtBlock(self.drop_rate * seen / last, self.layer_scale, name=f"stage_{stage}_block_{block}")(x, train)
                seen += 1
        x = linen.LayerNorm(name="norm")(global_avg_pool(x))
        return Dense(self.num_classes, kernel_init=_NORMAL, name="head")(x)


class ConvNeXtBlock(linen.Module):
    """One block of a `ConvNeXt`.

    Attributes:
      drop_rate: of the branch in training, in [0, 1).
      layer_scale: what γ starts as.

    >>> import jax, jax.numpy as jnp
    >>> jax.eval_shape(ConvNeXtBlock().init_with_output, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))[0].shape
    (1, 8, 8, 3)
    """

    drop_rate: float = 0.0
    layer_scale: float = 1e-6

    @linen.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        y = DepthwiseConv((7, 7), kernel_init=_NORMAL, name="depthwise")(x)
        y = Dense(4 * channels, kernel_init=_NORMAL, name="up")(linen.LayerNorm(name="norm")(y))
        y = Dense(channels, kernel_init=_NORMAL, name="down")(linen.gelu(y, approximate=False))
        y = y * self.param("scale", linen.initializers.constant(self.layer_scale), (channels,)).astype(y.dtype).reshape(1, 1, 1, -1)
        return x + (Noise(stochastic_depth, self.drop_rate, deterministic=not train)(y) if self.drop_rate else y)
