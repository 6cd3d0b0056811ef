"""From picture to picture: the two players of pix2pix, a U-Net and a discriminator of patches (Isola et al., 2017)."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.models.conv_norm import pictures
from dljax.models.unet import UNet
from dljax.nn.convolution import Conv
from dljax.nn.normalisation import BatchNorm


class PictureGenerator(linen.Module):
    """A U-Net from a picture and noise to another picture of its size.

      z, c → sigmoid(UNet([c, z everywhere]))

    The paper's noise is dropout; latents in further channels leave the choice with who asks. Both are mostly ignored (section 3.1).

    Attributes:
      channels: of what is made.
      widths, is_normalised: of the `UNet`.

    Source: Isola et al. (2017), Image-to-Image Translation with Conditional Adversarial Networks, section 3.2.1.

    >>> import jax
    >>> z, c = jnp.zeros((2, 3)), jnp.zeros((2, 8, 8, 1))
    >>> jax.eval_shape(lambda: PictureGenerator(1, (4, 8)).init_with_output(jax.random.key(0), z, c))[0].shape
    (2, 8, 8, 1)
    """

    channels: int = 1
    widths: Sequence[int] = (32, 64, 128)
    is_normalised: bool = True

    @linen.compact
    def __call__(self, z: Float[Array, "B Z"], context: Any, train: bool = False) -> Float[Array, "B H W K"]:
        """Pictures with values in [0, 1].

        Args:
          z: latents.
          context: c [B, H, W, C], the picture to start from.
          train: whether batch norm uses the batch's statistics and learns them.
        Raises:
          ValueError: as `UNet`.
        """
        c = pictures("PictureGenerator", context)
        noise = jnp.broadcast_to(z[:, None, None], (*c.shape[:3], z.shape[-1]))
        x = jnp.concatenate([c, noise.astype(c.dtype)], -1)
        return linen.sigmoid(UNet(self.channels, self.widths, self.is_normalised, name="unet")(x, train))


class PatchDiscriminator(linen.Module):
    """A logit for each patch of a picture beside the one that it was made of: it judges texture, and leaves the whole to others.

      [x, c] → (4×4 convolution, stride 2 → norm, but for the first → leaky ReLU 0.2) for each width → 4×4 convolution → logits [B, h, w, 1]

    With n widths a logit sees a square of 6·2ⁿ - 2 pixels.

    Attributes:
      widths: channels after each halving.
      is_normalised: whether there is batch norm.

    Source: Isola et al. (2017), Image-to-Image Translation with Conditional Adversarial Networks, section 3.2.2 and 6.1.2.

    >>> import jax
    >>> x, c = jnp.zeros((2, 16, 16, 1)), jnp.zeros((2, 16, 16, 3))
    >>> jax.eval_shape(lambda: PatchDiscriminator((4, 8)).init_with_output(jax.random.key(0), x, c))[0].shape
    (2, 4, 4, 1)
    """

    widths: Sequence[int] = (32, 64)
    is_normalised: bool = False

    @linen.compact
    def __call__(self, x: Any, context: Any = None, train: bool = False) -> Float[Array, "B h w 1"]:
        """Logits of the patches.

        Args:
          x: the picture to judge [B, H, W, K].
          context: c [B, H, W, C], the one that it belongs to; None for none.
          train: whether batch norm uses the batch's statistics and learns them.
        Raises:
          ValueError: a width < 1, pictures of two sizes.
        """
        for size in self.widths:
            check_int("PatchDiscriminator", "widths", size, minimum=1)
        both = [pictures("PatchDiscriminator", part) for part in (x, context) if part is not None]
        if len({part.shape[:3] for part in both}) > 1:
            raise ValueError(f"PatchDiscriminator: both pictures must have one size, got {[part.shape for part in both]}")
        x = 2 * jnp.concatenate(both, -1) - 1
        for level, size in enumerate(self.widths):
            is_normed = self.is_normalised and level > 0
            x = Conv(size, (4, 4), (2, 2), use_bias=not is_normed, name=f"halving_{level}")(x)
            x = BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=f"norm_{level}")(x) if is_normed else x
            x = linen.leaky_relu(x, 0.2)
        return Conv(1, (4, 4), name="head")(x)
