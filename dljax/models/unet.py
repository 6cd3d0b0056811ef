"""U-Net: down to a small picture and up again, with what was seen on the way down at hand (Ronneberger et al., 2015), also one for diffusion."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int
from dljax.models.conv_norm import conv_relu, pictures
from dljax.nn.convolution import Conv, ConvTranspose
from dljax.nn.dense import Dense
from dljax.nn.pooling import avg_pool, max_pool
from dljax.nn.positions import sinusoidal_positions
from dljax.nn.style import doubled


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


class TimeUNet(linen.Module):
    """A U-Net of residual blocks that knows the time, for diffusion: pictures in, pictures out.

      r(h, e) = h + conv(φ(norm(conv(φ(norm(h))) + W e))),   e = MLP(waves(1000 t)) + V c,   φ = SiLU
      d_0 = r(conv(x), e),   d_l = r(mean 2×2(d_{l-1}), e),   u_L = r(d_L, e),   u_l = r([d_l, twice(u_{l+1})], e),   y = conv(φ(norm(u_0)))

    Where a block changes the number of channels, h goes through a 1×1 convolution. The last convolution of each block and of the net begin at zero.
    Where a side is odd, it is treated as by `UNet`.

    Attributes:
      num_outputs: K, channels of the outputs.
      widths: channels at each size, from the largest picture to the smallest.
      embedding_size: of e, even.
      num_groups: of the group norms; must divide the widths.

    Source: Ho, Jain and Abbeel (2020), Denoising Diffusion Probabilistic Models, appendix B, with one block a size and without attention.

    >>> import jax
    >>> outputs, _ = jax.eval_shape(TimeUNet(1, (8, 16)).init_with_output, jax.random.key(0), jnp.zeros((2, 7, 8, 1)), jnp.ones(2))
    >>> outputs.shape
    (2, 7, 8, 1)
    """

    num_outputs: int
    widths: Sequence[int] = (64, 128, 256)
    embedding_size: int = 128
    num_groups: int = 8

    @linen.compact
    def __call__(self, x: Num[Array, "B H W C"], time: Float[Array, " B"], context: Float[Array, "B _"] | None = None) -> Float[Array, "B H W K"]:
        """Outputs for each pixel.

        Args:
          x: pictures, floats.
          time: of each, in [0, 1].
          context: what is known of each besides, such as one-hot labels; zeros for nothing.
        Raises:
          ValueError: x is not [B, H, W, C]; a size < 1; no widths; widths that the groups do not divide; an odd `embedding_size`.
        """
        for name, size in [("num_outputs", self.num_outputs), ("the number of widths", len(self.widths)), *(("widths", w) for w in self.widths)]:
            check_int("TimeUNet", name, size, minimum=1)
        if any(width % self.num_groups for width in self.widths):
            raise ValueError(f"TimeUNet: widths must be multiples of num_groups {self.num_groups}, got {tuple(self.widths)}")
        waves = sinusoidal_positions(1000 * time, self.embedding_size)
        e = Dense(self.embedding_size, name="time_out")(linen.silu(Dense(self.embedding_size, name="time_in")(waves)))
        if context is not None:
            e += Dense(self.embedding_size, use_bias=False, name="context")(context)
        e = linen.silu(e)

        def block(h: Array, width: int, name: str) -> Array:
            inside = Conv(width, (3, 3), name=f"{name}_conv_0")(self._active(h, f"{name}_norm_0"))
            inside += Dense(width, name=f"{name}_time")(e)[:, None, None]
            zeros = linen.initializers.zeros
            inside = Conv(width, (3, 3), kernel_init=zeros, name=f"{name}_conv_1")(self._active(inside, f"{name}_norm_1"))
            return inside + (h if h.shape[-1] == width else Conv(width, (1, 1), name=f"{name}_skip")(h))

        h, seen = block(Conv(self.widths[0], (3, 3), name="first")(pictures("TimeUNet", x)), self.widths[0], "down_0"), []
        for level, width in enumerate(self.widths[1:], 1):
            seen.append(h)
            h = block(avg_pool(h, (2, 2), (2, 2), "SAME", count_include_pad=False), width, f"down_{level}")
        h = block(h, self.widths[-1], "middle")
        for level, width in reversed(list(enumerate(self.widths[:-1]))):
            height, breadth = seen[-1].shape[1:3]
            twice = doubled(h)[:, :height, :breadth]
            h = block(jnp.concatenate([seen.pop(), twice], -1), width, f"up_{level}")
        return Conv(self.num_outputs, (3, 3), kernel_init=linen.initializers.zeros, name="head")(self._active(h, "head_norm"))

    def _active(self, h: Array, name: str) -> Array:
        return linen.silu(linen.GroupNorm(self.num_groups, name=name)(h))
