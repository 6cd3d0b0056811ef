"""DCGAN: a generator and a discriminator of strided convolutions, with or without a label (Radford et al., 2016)."""

from collections.abc import Sequence
from typing import Any

from flax import linen
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int
from dljax.models.conv_norm import pictures
from dljax.nn.convolution import Conv, ConvTranspose
from dljax.nn.dense import Dense
from dljax.nn.normalisation import BatchNorm

_NORMAL = linen.initializers.normal(0.02)
_SMALL = linen.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-1, out_axis=0)


class DCGANGenerator(linen.Module):
    """Latents to pictures: a dense layer makes a small picture, and transposed convolutions double it.

      z → dense [H/2ⁿ, W/2ⁿ, w₀] → (norm → ReLU → 4×4 transposed convolution, stride 2) for each width → sigmoid → [B, H, W, C]

    Norm is batch norm. With labels its scale and shift are the label's own, γ_y and β_y. Pixels are in [0, 1]: the paper's tanh, moved and halved.

    Attributes:
      shape: (H, W, C); 2 to the power of the number of widths divides H and W.
      widths: channels before each doubling, from the smallest picture on.
      num_classes: K, for latents with labels; 0 for latents alone.

    Source: Radford, Metz and Chintala (2016), Unsupervised Representation Learning with DCGANs, figure 1; the label's norms: Dumoulin, Shlens and
      Kudlur (2017), A Learned Representation for Artistic Style, eq. 5, as Miyato and Koyama (2018), cGANs with Projection Discriminator, use them.

    >>> import jax, jax.numpy as jnp
    >>> generator = DCGANGenerator((8, 8, 1), (16, 8), num_classes=10)
    >>> z, y = jnp.zeros((2, 5)), jnp.array([3, 4])
    >>> jax.eval_shape(lambda: generator.init_with_output(jax.random.key(0), z, y))[0].shape
    (2, 8, 8, 1)
    """

    shape: Sequence[int]
    widths: Sequence[int] = (128, 64)
    num_classes: int = 0

    @linen.compact
    def __call__(self, z: Float[Array, "B Z"], y: Int[Array, " B"] | None = None, train: bool = False) -> Float[Array, "B H W C"]:
        """Pictures.

        Args:
          z, y: latents, and labels in 0 ... K - 1 where there are classes.
          train: whether batch norm uses the batch's statistics and learns them.
        Raises:
          ValueError: a size < 1; a shape that cannot be halved so often; labels where there are no classes, or the other way round.
        """
        check_int("DCGANGenerator", "num_classes", self.num_classes, minimum=0)
        for name, sizes in (("shape", self.shape), ("widths", self.widths)):
            for size in sizes:
                check_int("DCGANGenerator", name, size, minimum=1)
        factor = 2 ** len(self.widths)
        if len(self.shape) != 3 or not self.widths or self.shape[0] % factor or self.shape[1] % factor:
            raise ValueError(
                f"DCGANGenerator: shape must be (H, W, C), H and W divisible by {factor} (one doubling a width), got {tuple(self.shape)} and "
                f"widths={tuple(self.widths)}"
            )
        _check_labels("DCGANGenerator", y, self.num_classes)
        height, width, channels = self.shape
        x = Dense(height // factor * width // factor * self.widths[0], use_bias=False, kernel_init=_NORMAL)(z)
        x = x.reshape(-1, height // factor, width // factor, self.widths[0])
        for level, size in enumerate((*self.widths[1:], channels)):
            x = linen.relu(LabelledNorm(self.num_classes, name=f"norm_{level}")(x, y, train))
            is_last = level == len(self.widths) - 1
            x = ConvTranspose(size, (4, 4), (2, 2), use_bias=is_last, kernel_init=_NORMAL, name=f"doubling_{level}")(x)
        return linen.sigmoid(x)


class DCGANDiscriminator(linen.Module):
    """Pictures to logits: strided convolutions halve the picture, and a linear layer looks at all that is left.

      x → (4×4 convolution, stride 2 → leaky ReLU 0.2) for each width → φ,   logit = a·φ + b + e_y·φ

    The last part is there with labels: log p(x|y)/q(x|y) is log p(y|x)/q(y|x) + log p(x)/q(x), and where both classifiers are linear in φ
    the first of these is an inner product with a vector of the label. It has no batch norm: `dljax.nn.spectral_norm(...)` keeps it smooth.

    Attributes:
      widths: channels after each halving; 2 to the power of their number divides H and W.
      num_classes: K, for pictures with labels; 0 judges the picture alone, and a label that comes with it is not looked at.
      num_further: R further outputs, linear in φ, for the terms of a GAN: classes, codes. 0 for none.

    Source: Radford, Metz and Chintala (2016), Unsupervised Representation Learning with DCGANs; Miyato and Koyama (2018), cGANs with Projection
      Discriminator, eq. 3; Odena et al. (2017) for further outputs.

    >>> import jax, jax.numpy as jnp
    >>> judged = jax.eval_shape(lambda: DCGANDiscriminator((4, 8), num_further=10).init_with_output(jax.random.key(0), jnp.zeros((2, 8, 8, 1))))[0]
    >>> judged[0].shape, judged[1].shape
    ((2, 1), (2, 10))
    """

    widths: Sequence[int] = (64, 128)
    num_classes: int = 0
    num_further: int = 0

    @linen.compact
    def __call__(self, x: Any, y: Any = None) -> Any:
        """Logits [B, 1], or a pair of them and the further outputs [B, R].

        Args:
          x: [B, H, W, C], uint8, or floats in [0, 1].
          y: labels [B].
        Raises:
          ValueError: a size < 1; pictures that cannot be halved so often; classes without labels.
        """
        for name, size in [("num_classes", self.num_classes), ("num_further", self.num_further)]:
            check_int("DCGANDiscriminator", name, size, minimum=0)
        for size in self.widths:
            check_int("DCGANDiscriminator", "widths", size, minimum=1)
        if self.num_classes:
            _check_labels("DCGANDiscriminator", y, self.num_classes)
        factor = 2 ** len(self.widths)
        x = pictures("DCGANDiscriminator", x, factor)
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"DCGANDiscriminator: x must have sides divisible by {factor} (widths={tuple(self.widths)}), got {x.shape}; pad or crop them"
            )
        x = 2 * x - 1
        for level, size in enumerate(self.widths):
            x = linen.leaky_relu(Conv(size, (4, 4), (2, 2), name=f"halving_{level}")(x), 0.2)
        x = x.reshape(x.shape[0], -1)
        logits = Dense(1, name="head")(x)
        if self.num_classes:
            logits += (linen.Embed(self.num_classes, x.shape[-1], embedding_init=_SMALL, name="projection")(y) * x).sum(-1, keepdims=True)
        return (logits, Dense(self.num_further, name="further")(x)) if self.num_further else logits


class LabelledNorm(linen.Module):
    """Batch norm whose scale and shift are those of the example's label.

      y = γ_k (x - E x) / √(Var x + ε) + β_k

    Attributes:
      num_classes: K; 0 is plain batch norm.

    Source: Dumoulin, Shlens and Kudlur (2017), A Learned Representation for Artistic Style, eq. 5, with the batch's statistics.

    >>> import jax, jax.numpy as jnp
    >>> x, y = jnp.array([[1.0], [3.0]]), jnp.array([0, 1])
    >>> layer = LabelledNorm(2)
    >>> variables = layer.init(jax.random.key(0), x, y)
    >>> variables["params"]["scale"]["embedding"] = jnp.array([[1.0], [5.0]])
    >>> layer.apply(variables, x, y, train=True, mutable=True)[0].round(3).tolist()
    [[-1.0], [5.0]]
    """

    num_classes: int = 0

    @linen.compact
    def __call__(self, x: Float[Array, "B *shape D"], y: Int[Array, " B"] | None = None, train: bool = False) -> Float[Array, "B *shape D"]:
        is_plain = not self.num_classes
        x = BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, use_scale=is_plain, use_bias=is_plain, name="norm")(x)
        if is_plain:
            return x
        one, zero = linen.initializers.ones, linen.initializers.zeros
        scale, shift = (linen.Embed(self.num_classes, x.shape[-1], embedding_init=at, name=n)(y) for n, at in (("scale", one), ("shift", zero)))
        shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
        return scale.reshape(shape) * x + shift.reshape(shape)


def _check_labels(who: str, y: Any, num_classes: int) -> None:
    if (y is not None) != bool(num_classes):
        wanted, came = ("labels", "none") if num_classes else ("no labels", "some")
        raise ValueError(f"{who}: with num_classes={num_classes} it must be given {wanted}, got {came}; they are the `context` of a batch")
