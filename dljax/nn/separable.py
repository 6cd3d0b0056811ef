"""Depthwise and separable convolution: a kernel for each channel, then a mixture of the channels."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.nn.convolution import Conv, Padding, Sizes, convolution
from dljax.nn.dense import promote_to_kernel


class DepthwiseConv(linen.Module):
    """Convolution of every channel with kernels of its own; the number of channels follows from the input.

      y[b, t, m·c + j] = Σ_i x[b, s·t + d·i - p, c] · kernel[i, 0, m·c + j] + bias[m·c + j],   j < m

    PyTorch's `Conv2d(C, m·C, k, groups=C)`, with m·k² weights a channel where a full convolution has m·k²·C.

    Attributes:
      kernel_size: sizes of the window, one for each spatial axis.
      strides, padding, kernel_dilation: s, p and d of `convolution`.
      multiplier: m, output channels for each input channel.
      use_bias: whether there is a bias.
      kernel_init, bias_init: initialisers of `kernel` [*window, 1, m·C] and `bias` [m·C].

    Raises:
      ValueError: when traced: `multiplier` < 1, and what `convolution` refuses.
    Source: Sifre (2014), Rigid-motion scattering for image classification, section 6.2; Chollet (2017), Xception, section 2.

    >>> import jax
    >>> y, variables = jax.eval_shape(DepthwiseConv((3, 3)).init_with_output, jax.random.key(0), jnp.ones((1, 8, 8, 4)))
    >>> y.shape, jax.tree.map(jnp.shape, variables["params"])
    ((1, 8, 8, 4), {'bias': (4,), 'kernel': (3, 3, 1, 4)})
    """

    kernel_size: Sequence[int]
    strides: Sizes = 1
    padding: Padding = "SAME"
    kernel_dilation: Sizes = 1
    multiplier: int = 1
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Any = linen.initializers.lecun_normal()
    bias_init: Any = linen.initializers.zeros

    @linen.compact
    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *out O"]:
        channels = x.shape[-1]
        features = channels * check_int("DepthwiseConv", "multiplier", self.multiplier, minimum=1)
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, 1, features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_to_kernel(x, kernel, bias, dtype=self.dtype)
        y = convolution(x, kernel, strides=self.strides, padding=self.padding, dilation=self.kernel_dilation, groups=channels)
        return y if bias is None else y + jnp.reshape(bias, (1,) * (y.ndim - 1) + (-1,))


class SeparableConv(linen.Module):
    """A depthwise convolution, then a pointwise one that mixes the channels: a full convolution whose kernel is a product.

      y = pointwise(depthwise(x)),   kernel[i, c, o] = Σ_j depthwise[i, m·c + j] · pointwise[m·c + j, o]

    It has m·C·(k² + O) weights where the full kernel has k²·C·O: eight to nine times fewer for 3×3 windows and many channels.

    Attributes:
      features: O, output channels.
      kernel_size, strides, padding, kernel_dilation, multiplier: of the depthwise part.
      use_bias: whether the pointwise part has a bias; the depthwise part has none, which would be a part of it.

    Raises:
      ValueError: when traced: `features` or `multiplier` < 1, and what `convolution` refuses.
    Source: Chollet (2017), Xception: Deep learning with depthwise separable convolutions, section 2, without an activation in between.

    >>> import jax
    >>> jax.eval_shape(SeparableConv(6, (3, 3)).init_with_output, jax.random.key(0), jnp.ones((1, 8, 8, 4)))[0].shape
    (1, 8, 8, 6)
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sizes = 1
    padding: Padding = "SAME"
    kernel_dilation: Sizes = 1
    multiplier: int = 1
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *out O"]:
        check_int("SeparableConv", "features", self.features, minimum=1)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        geometry = (self.kernel_size, self.strides, self.padding, self.kernel_dilation, self.multiplier)
        x = DepthwiseConv(*geometry, use_bias=False, name="depthwise", **types)(x)
        window = (1,) * len(self.kernel_size)
        return Conv(self.features, window, use_bias=self.use_bias, name="pointwise", **types)(x)
