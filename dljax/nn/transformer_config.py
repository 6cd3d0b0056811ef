"""What the layers of a Transformer are like: the one table of settings that `dljax.nn.Transformer` is built from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
from flax import linen
from jaxtyping import Array

from dljax.core.checks import check_choice, check_int, check_range
from dljax.nn.positions import Rotary

_INIT = linen.initializers.lecun_normal()


@dataclass(frozen=True)
class TransformerConfig:
    """What the layers of a Transformer are like.

    Attributes:
      num_heads: H, heads of the queries, >= 1.
      num_groups: G, heads of the keys and values, a divisor of H; None for H, 1 for multi-query attention.
      head_size: numbers a head; None for the width D / H, which then must be whole.
      hidden: units of the feed-forward part; None for 4 D.
      activation: of the feed-forward part.
      is_gated: whether its units are gated, W₃ (act(x W₁) · (x W₂)) in place of W₂ act(x W₁): SwiGLU with `jax.nn.silu` (Shazeer, 2020).
      norm: "layer" (mean and variance, with bias) or "rms" (no mean, no bias; Zhang & Sennrich, 2019).
      norm_first: whether each part reads the normalised stream and adds to it, h + f(N(h)), or the sum is normalised, N(h + f(h)).
      epsilon: added to the variance.
      use_bias, use_attention_bias: whether the products of the feed-forward part and of the attention have biases; the latter as the former where
        it is None.
      scale: of the attention's scores; None for 1/√head_size.
      is_causal: whether a position reads only itself and earlier ones.
      window: with `is_causal`, how many positions are read at most, itself the last; None for all.
      has_memory: whether each layer also attends to a memory: the decoder of an encoder-decoder.
      rotary: rotary positions, or None.
      has_alibi: whether scores fall with the distance (`alibi`).
      dropout_rate: the fraction of each part's outputs that is dropped in training, in [0, 1].
      attention_dropout_rate, hidden_dropout_rate: of the attention's weights, and of the units of the feed-forward part.
      kernel_init, out_init, query_init: of all matrices, of those on the way back into the stream, and of the queries' (T5's start smaller, for its
        scores are not scaled); `kernel_init` where None.
      attention: makes, of this config and a `name`, a module called as `dljax.nn.Attention` that takes its place in reading the sequence itself, such
        as `dljax.nn.LinearAttention`; None for `Attention`.
      feed_forward: makes of the config, and a `name`, a module `(x, train) -> y` that takes the feed-forward part's place:
        `partial(MixtureOfExperts, num_experts=8)`.
    Raises:
      ValueError: options out of range or at odds.

    >>> TransformerConfig(num_heads=4, num_groups=2).num_groups
    2
    """

    num_heads: int
    num_groups: int | None = None
    head_size: int | None = None
    hidden: int | None = None
    activation: Callable[[Array], Array] = jax.nn.gelu
    is_gated: bool = False
    norm: Literal["layer", "rms"] = "layer"
    norm_first: bool = True
    epsilon: float = 1e-5
    use_bias: bool = True
    use_attention_bias: bool | None = None
    scale: float | None = None
    is_causal: bool = False
    window: int | None = None
    has_memory: bool = False
    rotary: Rotary | None = None
    has_alibi: bool = False
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    hidden_dropout_rate: float = 0.0
    kernel_init: Callable[..., Any] = _INIT
    out_init: Callable[..., Any] | None = None
    query_init: Callable[..., Any] | None = None
    attention: Callable[..., Any] | None = None
    feed_forward: Callable[..., linen.Module] | None = None

    def __post_init__(self) -> None:
        for name in ("num_heads", "num_groups", "head_size", "hidden", "window"):
            if getattr(self, name) is not None:
                check_int("TransformerConfig", name, getattr(self, name), minimum=1)
        for name in ("dropout_rate", "attention_dropout_rate", "hidden_dropout_rate"):
            check_range("TransformerConfig", name, getattr(self, name), 0, 1)
        check_range("TransformerConfig", "epsilon", self.epsilon, 0)
        check_choice("TransformerConfig", "norm", self.norm, ("layer", "rms"))
        if self.num_heads % self.groups:
            raise ValueError(f"TransformerConfig: num_groups must divide num_heads={self.num_heads}, got {self.num_groups}")
        if self.window is not None and not self.is_causal:
            raise ValueError("TransformerConfig: window needs is_causal=True: it says how many positions back one reads")
        if self.attention is not None and self.has_alibi:
            raise ValueError("TransformerConfig: has_alibi is a bias of softmax attention's scores; leave it out, or leave out attention=...")

    @property
    def groups(self) -> int:
        """G, heads of the keys and values."""
        return self.num_heads if self.num_groups is None else self.num_groups

    def size_of_head(self, width: int) -> int:
        """Numbers a head in a stream of this width.

        Raises:
          ValueError: the heads do not divide the width.
        """
        if self.head_size is None and width % self.num_heads:
            raise ValueError(f"Transformer: num_heads must divide the width {width}, got {self.num_heads}; or give head_size")
        return width // self.num_heads if self.head_size is None else self.head_size
