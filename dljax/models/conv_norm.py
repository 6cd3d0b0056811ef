"""Convolution, batch norm and activation, in the order of 2015 and in that of 2016: what convolutional networks are put together from."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen
from jaxtyping import Array, Float, Num

from dljax.nn.convolution import Conv
from dljax.nn.dense import unit_pixels
from dljax.nn.normalisation import BatchNorm

HE = linen.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Normal weights that keep the variance of what goes back through ReLU (He et al., 2015), as torchvision starts its networks."""


def conv(features: int, window: int | Sequence[int] = 3, strides: int = 1, groups: int = 1, *, use_bias: bool = False, name: Any = None) -> Conv:
    """A layer in PyTorch's geometry: an odd window is centred on every `strides`-th pixel from the first.

    >>> conv(4, 3, 2).padding
    ((1, 1), (1, 1))
    """
    sizes = (window, window) if isinstance(window, int) else tuple(window)
    pads = tuple((size // 2, size // 2) for size in sizes)
    return Conv(features, sizes, strides, pads, feature_group_count=groups, use_bias=use_bias, kernel_init=HE, name=name)


def norm(train: bool, *, name: Any = None) -> BatchNorm:
    """Batch norm with PyTorch's ε = 1e-5, whose running statistics keep 0.9 of what they were.

    >>> norm(train=True).use_running_average
    False
    """
    return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


class ConvNorm(linen.Module):
    """A convolution without bias, batch norm, and an activation.

      y = φ(BN(W * x))

    Attributes:
      features, window, strides, groups: of the convolution; it is padded with half a window on each side.
      activation: φ; None for the identity.

    Source: Ioffe and Szegedy (2015), Batch Normalization, section 3.2.

    >>> import jax, jax.numpy as jnp
    >>> shapes = jax.eval_shape(ConvNorm(4).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    >>> jax.tree.map(jnp.shape, shapes["params"])
    {'conv': {'kernel': (3, 3, 3, 4)}, 'norm': {'bias': (4,), 'scale': (4,)}}
    """

    features: int
    window: int | Sequence[int] = 3
    strides: int = 1
    groups: int = 1
    activation: Callable[[Array], Array] | None = linen.relu

    @linen.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w O"]:
        x = norm(train, name="norm")(conv(self.features, self.window, self.strides, self.groups, name="conv")(x))
        return x if self.activation is None else self.activation(x)


class NormConv(linen.Module):
    """The same the other way round: batch norm, ReLU, then a convolution without bias.

      y = W * max(0, BN(x))

    Attributes:
      features, window, strides: as in `ConvNorm`.

    Source: He et al. (2016), Identity mappings in deep residual networks, figure 4 (e).

    >>> import jax, jax.numpy as jnp
    >>> shapes = jax.eval_shape(NormConv(4).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    >>> jax.tree.map(jnp.shape, shapes["params"])
    {'conv': {'kernel': (3, 3, 3, 4)}, 'norm': {'bias': (3,), 'scale': (3,)}}
    """

    features: int
    window: int | Sequence[int] = 3
    strides: int = 1

    @linen.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w O"]:
        return conv(self.features, self.window, self.strides, name="conv")(linen.relu(norm(train, name="norm")(x)))


def conv_relu(
    x: Float[Array, "B H W C"], features: int, window: int = 3, strides: int = 1, *, is_normalised: bool, train: bool, name: str
) -> Float[Array, "B h w O"]:
    """A convolution and ReLU inside of a module, with batch norm in between or, as before 2015, with a bias.

    >>> import jax, jax.numpy as jnp
    >>> class Net(linen.Module):
    ...     @linen.compact
    ...     def __call__(self, x):
    ...         return conv_relu(x, 4, is_normalised=False, train=False, name="first")
    >>> jax.tree.map(jnp.shape, jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"])
    {'first': {'bias': (4,), 'kernel': (3, 3, 3, 4)}}
    """
    if is_normalised:
        return ConvNorm(features, window, strides, name=name)(x, train)
    return linen.relu(conv(features, window, strides, use_bias=True, name=name)(x))


def pictures(who: str, x: Num[Array, "*shape"], smallest: int = 1) -> Float[Array, "*shape"]:
    """Pictures as floats, uint8 scaled to [0, 1], refused where a network cannot take them.

    Args:
      who: the network, for the message.
      smallest: how high and wide they must be.
    Raises:
      ValueError: x is not [B, H, W, C], or too small. TypeError: neither uint8 nor floats.

    >>> import jax.numpy as jnp
    >>> pictures("CNN", jnp.zeros((1, 3, 3, 1)), smallest=4)
    Traceback (most recent call last):
    ValueError: CNN: x must be pictures [B, H, W, C] of at least 4 x 4, got (1, 3, 3, 1)
    """
    if x.ndim != 4 or min(x.shape[1:3]) < smallest:
        raise ValueError(f"{who}: x must be pictures [B, H, W, C] of at least {smallest} x {smallest}, got {x.shape}")
    return unit_pixels(x)
