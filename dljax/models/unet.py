"""U-Net: down to a small picture and up again, with what was seen on the way down at hand (Ronneberger et al., 2015)."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int
from dljax.models.conv_norm import conv_relu, pictures
from dljax.nn.convolution import Conv, ConvTranspose
from dljax.nn.pooling import max_pool


class UNet(linen.Module):
    """Two 3×3 convolutions at every size, halved by 2×2 maxima and doubled again by 2×2 transposed convolutions, one output for every pixel.

      d₀ = f₀(x),   d_l = f_l(max 2×2(d_{l-1})),   u_L = d_L,   u_l = g_l([d_l, up(u_{l+1})]),   y = 1×1(u₀)

    Its convolutions are padded, so that outputs have the size of the pictures: the paper's are not, and lose the rim. Where a side is odd, the last
    row or column is halved alone and cut off again after doubling, so that pictures may have any size.

    Attributes:
      num_outputs: K, numbers for each pixel: logits of its class, or channels of a picture.
      widths: channels at each size, from the largest picture to the smallest.
      is_normalised: whether 3×3 convolutions have batch norm instead of biases.

    Source: Ronneberger, Fischer and Brox (2015), U-Net, figure 1.

    >>> import jax
    >>> outputs, _ = jax.eval_shape(UNet(2, (4, 8, 16)).init_with_output, jax.random.key(0), jnp.zeros((1, 13, 10, 1)))
    >>> outputs.shape
    (1, 13, 10, 2)
    """

    num_outputs: int
    widths: Sequence[int] = (64, 128, 256, 512, 1024)
    is_normalised: bool = False

    @linen.compact
    def __call__(self, x: Num[Array, "B H W C"], train: bool = False) -> Float[Array, "B H W K"]:
        """Outputs for each pixel.

        Args:
          x: pictures, uint8 in 0 ... 255 or floats.
          train: whether batch norm uses the batch's statistics and learns them.
        Raises:
          ValueError: x is not [B, H, W, C]; a size < 1; no widths.
        """
        for name, size in [("num_outputs", self.num_outputs), ("the number of widths", len(self.widths)), *(("widths", w) for w in self.widths)]:
            check_int("UNet", name, size, minimum=1)

        def twice(x: Array, width: int, name: str) -> Array:
            for i in range(2):
                x = conv_relu(x, width, is_normalised=self.is_normalised, train=train, name=f"{name}_{i}")
            return x

        x, seen = twice(pictures("UNet", x), self.widths[0], "down_0"), []
        for level, width in enumerate(self.widths[1:], 1):
            seen.append(x)
            x = twice(max_pool(x, (2, 2), (2, 2), "SAME"), width, f"down_{level}")
        for level, width in reversed(list(enumerate(self.widths[:-1]))):
            height, breadth = seen[-1].shape[1:3]
            x = ConvTranspose(width, (2, 2), (2, 2), transpose_kernel=True, name=f"doubling_{level}")(x)[:, :height, :breadth]
            x = twice(jnp.concatenate([seen.pop(), x], -1), width, f"up_{level}")
        return Conv(self.num_outputs, (1, 1), name="head")(x)
