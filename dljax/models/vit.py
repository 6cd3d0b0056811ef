"""ViT: a Transformer that reads pictures as sequences of patches (Dosovitskiy et al., 2021)."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_choice, check_int, check_range
from dljax.models.pretrained import ACTIVATIONS
from dljax.nn.convolution import Conv
from dljax.nn.dense import Dense, unit_pixels
from dljax.nn.transformer import Transformer, TransformerConfig

type_aliases = ("Size",)

Size = int | tuple[int, int]


class ViT(linen.Module):
    """A classifier of pictures: patches as tokens with learned positions, Transformer layers with norms first, and the class token's last state.

      h = [c; x_1 W ... x_N W] + P,   h ← h + Attention(LN(h)),   h ← h + W₂ gelu(W₁ LN(h)),   logits = V LN(h)_0

    The defaults are those of ViT-B/16.

    Attributes:
      num_classes: K.
      image_size, patch_size: pixels on a side, or on both sides, height first; the patch divides the picture.
      num_channels: C.
      width, num_layers, num_heads: D numbers a token, L layers with H heads each; H divides D.
      hidden: units of the feed-forward parts; None for 4 D.
      pool: "class", the state of a token of its own that stands before the patches, or "mean", that of all patches, without such a token.
      activation: of the feed-forward parts.
      epsilon: of the layer norms.
      dropout_rate, attention_dropout_rate: the fractions of embeddings and of each part's outputs, and of attention weights, that are dropped in
        training, in [0, 1].
      is_unrolled, remat: as for `dljax.nn.Transformer`.

    Source: Dosovitskiy et al. (2021), An image is worth 16x16 words, section 3.1; the mean of the patches as in Beyer, Zhai & Kolesnikov (2022),
    Better plain ViT baselines for ImageNet-1k.

    >>> import jax
    >>> vit = ViT(num_classes=3, image_size=8, patch_size=4, num_channels=1, width=8, num_layers=2, num_heads=2)
    >>> logits, variables = jax.jit(vit.init_with_output)(jax.random.key(0), jnp.zeros((5, 8, 8, 1), jnp.uint8))
    >>> logits.shape, variables["params"]["positions"].shape
    ((5, 3), (1, 5, 8))
    """

    num_classes: int
    image_size: Size = 224
    patch_size: Size = 16
    num_channels: int = 3
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    hidden: int | None = None
    pool: Literal["class", "mean"] = "class"
    activation: Callable[[Array], Array] = ACTIVATIONS["gelu"]
    epsilon: float = 1e-12
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    is_unrolled: bool | None = None
    remat: str | None = None

    @property
    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of the picture and of a patch."""
        return _both_sides(self.image_size), _both_sides(self.patch_size)

    @linen.compact
    def __call__(self, x: Num[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        """Logits of each class.

        Args:
          x: pictures, uint8 in 0 ... 255 or floats. Trained models of Google want (x / 255 - 0.5) / 0.5.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: pictures of another size or number of channels, a patch that does not divide them, options out of range. TypeError: pixels of
            another type.
        """
        patch = self._checked(x)
        window = Conv(self.width, patch, strides=patch, padding="VALID", kernel_init=_normal, name="embed")
        h = window(unit_pixels(x)).reshape(len(x), -1, self.width)
        if self.pool == "class":
            token = self.param("class_token", _normal, (1, 1, self.width), jnp.float32)
            h = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)).astype(h.dtype), h], 1)
        h = h + self.param("positions", _normal, (1, h.shape[1], self.width), jnp.float32).astype(h.dtype)
        h = linen.Dropout(self.dropout_rate, deterministic=not train)(h)
        h = Transformer(self._config(), self.num_layers, is_unrolled=self.is_unrolled, remat=self.remat, name="encoder")(h, train=train)
        return Dense(self.num_classes, kernel_init=_normal, name="head")(h[:, 0] if self.pool == "class" else h.mean(1))

    def _config(self) -> TransformerConfig:
        return TransformerConfig(
            num_heads=self.num_heads,
            hidden=self.hidden,
            activation=self.activation,
            epsilon=self.epsilon,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            kernel_init=linen.initializers.xavier_uniform(),
        )

    def _checked(self, x: Any) -> tuple[int, int]:
        picture, patch = self.sides
        for name, size in (("image_size", min(picture)), ("patch_size", min(patch)), *((name, getattr(self, name)) for name in _SIZES)):
            check_int("ViT", name, size, minimum=1)
        check_choice("ViT", "pool", self.pool, ("class", "mean"))
        check_range("ViT", "dropout_rate", self.dropout_rate, 0, 1)
        if any(side % part for side, part in zip(picture, patch, strict=True)):
            raise ValueError(f"ViT: patch_size must divide image_size {picture}, got {patch}; pad or resize the pictures")
        if x.ndim != 4 or x.shape[1:] != (*picture, self.num_channels):
            expected = ", ".join(map(str, (*picture, self.num_channels)))
            raise ValueError(f"ViT: x must be pictures [B, {expected}] (image_size, num_channels), got shape {x.shape}")
        return patch


def _both_sides(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


_SIZES = ("num_classes", "num_channels", "width", "num_layers", "num_heads")
_normal = linen.initializers.truncated_normal(0.02)
