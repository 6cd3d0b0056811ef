"""Blocks of style-based and of growing generators: convolutions that a style modulates, pixel norm, and layers that fade in."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Numeric
from dljax.nn.convolution import Padding, convolution
from dljax.nn.dense import Dense


def modulated_convolution(
    x: Float[Array, "B *spatial C"],
    kernel: Float[Array, "*window C O"],
    style: Float[Array, "B C"],
    *,
    padding: Padding = "SAME",
    is_demodulated: bool = True,
    epsilon: Numeric = 1e-8,
) -> Float[Array, "B *out O"]:
    """A convolution whose kernel is scaled for each example by its style, and back to outputs of unit variance.

      w'_kio = s_i w_kio,   w''_kio = w'_kio / √(Σ_ki w'_kio² + ε),   y = w'' * x

    Inputs are scaled by s and outputs by what demodulates: the same numbers as with a kernel of its own for each example, by one convolution of all.

    Args:
      kernel: w.
      style: s.
      padding: as of `convolution`.
      is_demodulated: whether to divide; the last layer, which makes colours, does not.
      epsilon: ε >= 0.
    Raises:
      ValueError: ε < 0; as `convolution`.
    Source: Karras et al. (2020), Analyzing and Improving the Image Quality of StyleGAN, eq. 1 to 3.

    >>> x, kernel = jnp.ones((2, 4, 1)), jnp.array([[[2.0]]])
    >>> modulated_convolution(x, kernel, jnp.array([[3.0], [-5.0]])).round(3)[:, 0, 0].tolist()  # of one input only the sign is left
    [1.0, -1.0]
    """
    check_range("modulated_convolution", "epsilon", epsilon, 0)
    spatial = (1,) * (x.ndim - 2)
    y = convolution(x * style.reshape(style.shape[0], *spatial, style.shape[1]), kernel, padding=padding)
    if not is_demodulated:
        return y
    squares = jnp.square(kernel).sum(tuple(range(kernel.ndim - 2)))
    scale = lax.rsqrt(jnp.square(style) @ squares + epsilon)
    return y * scale.reshape(scale.shape[0], *spatial, scale.shape[1])


class ModulatedConv(linen.Module):
    """A modulated convolution whose style is an affine function of a latent, one at the start.

      s = A w + b,   b = 1 at first

    Attributes:
      features: O.
      window: sizes of the kernel.
      is_demodulated: whether outputs are brought to unit variance.

    Source: Karras et al. (2020), Analyzing and Improving the Image Quality of StyleGAN, section 2.2.

    >>> import jax
    >>> x, w = jnp.ones((2, 4, 4, 3)), jnp.zeros((2, 5))
    >>> y, variables = ModulatedConv(6).init_with_output(jax.random.key(0), x, w)
    >>> y.shape, sorted(variables["params"])
    ((2, 4, 4, 6), ['bias', 'kernel', 'style'])
    """

    features: int
    window: Sequence[int] = (3, 3)
    is_demodulated: bool = True

    @linen.compact
    def __call__(self, x: Float[Array, "B *spatial C"], w: Float[Array, "B W"]) -> Float[Array, "B *spatial O"]:
        check_int("ModulatedConv", "features", self.features, minimum=1)
        style = Dense(x.shape[-1], bias_init=linen.initializers.ones, name="style")(w)
        kernel: Any = self.param("kernel", linen.initializers.lecun_normal(), (*self.window, x.shape[-1], self.features))
        bias: Any = self.param("bias", linen.initializers.zeros, (self.features,))
        y = modulated_convolution(x, kernel.astype(x.dtype), style, is_demodulated=self.is_demodulated)
        return y + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def adaptive_instance_norm(
    x: Float[Array, "B *spatial C"], scale: Float[Array, "B C"], shift: Float[Array, "B C"], *, epsilon: Numeric = 1e-5
) -> Float[Array, "B *spatial C"]:
    """Each channel of each example brought to mean zero and variance one over its pixels, then scaled and shifted by a style.

      y = γ (x - E x) / √(Var x + ε) + β

    Args:
      scale, shift: γ and β, of each example and channel.
      epsilon: ε > 0.
    Raises:
      ValueError: ε <= 0.
    Source: Huang and Belongie (2017), Arbitrary Style Transfer with Adaptive Instance Normalization, eq. 8.

    >>> y = adaptive_instance_norm(jnp.array([[[1.0], [3.0]]]), jnp.array([[2.0]]), jnp.array([[5.0]]))
    >>> [round(float(value), 3) for value in y.ravel()]
    [3.0, 7.0]
    """
    check_range("adaptive_instance_norm", "epsilon", epsilon, 0, open_low=True)
    pixels, each = tuple(range(1, x.ndim - 1)), (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
    centred = x - x.mean(pixels, keepdims=True)
    deviation = lax.rsqrt(jnp.square(centred).mean(pixels, keepdims=True) + epsilon)
    return scale.reshape(each) * centred * deviation + shift.reshape(each)


def pixel_norm(x: Float[Array, "*B C"], *, epsilon: Numeric = 1e-8) -> Float[Array, "*B C"]:
    """Every pixel's features divided by their root mean square.

      y = x / √(mean_c x_c² + ε)

    Args:
      epsilon: ε > 0.
    Raises:
      ValueError: ε <= 0.
    Source: Karras et al. (2018), Progressive Growing of GANs, section 4.2.

    >>> pixel_norm(jnp.array([3.0, -3.0])).round(4).tolist()
    [1.0, -1.0]
    """
    check_range("pixel_norm", "epsilon", epsilon, 0, open_low=True)
    return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon)


def doubled(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Pictures of twice the size, each pixel four times.

    >>> doubled(jnp.arange(2.0).reshape(1, 1, 2, 1))[0, :, :, 0].tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """
    return x.repeat(2, 1).repeat(2, 2)


def fade_in(old: Float[Array, "B *shape"], new: Float[Array, "B *shape"], share: Numeric) -> Float[Array, "B *shape"]:
    """What a growing network says while a new layer comes in: at first the old one alone, in the end the new one alone.

      (1 - α) old + α new,   exactly old at α = 0 and exactly new at α = 1

    Of a generator `old` is `doubled` of what the smaller one makes; of a discriminator, features of the picture at half its size.

    Args:
      share: α in [0, 1]; may be traced.
    Raises:
      ValueError: α outside [0, 1].
    Source: Karras et al. (2018), Progressive Growing of GANs for Improved Quality, Stability, and Variation, figure 2.

    >>> fade_in(jnp.zeros((1, 2)), jnp.ones((1, 2)), 0.25).tolist()
    [[0.25, 0.25]]
    """
    check_range("fade_in", "share", share, 0, 1)
    return (1 - share) * old + share * new
