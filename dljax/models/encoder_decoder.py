"""The original Transformer: an encoder reads, a decoder writes and attends to what was read (Vaswani et al., 2017)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Bool, Float, Shaped

from dljax.core.checks import check_int
from dljax.nn.key_value_cache import KeyValueCache
from dljax.nn.positions import Rotary, sinusoidal_positions
from dljax.nn.product import row_product
from dljax.nn.transformer import Transformer, TransformerConfig


class EncoderDecoder(linen.Module):
    """An encoder and a decoder with norms last, sinusoidal positions, and one matrix of embeddings for both and for the output.

      m = √D E[x] + P,   m ← N(m + Attention(m)),   m ← N(m + W₂ relu(W₁ m))
      h = √D E[y] + P,   h ← N(h + Attention(h)),   h ← N(h + Attention(h, m)),   h ← N(h + W₂ relu(W₁ h)),   logits = h Eᵀ

    The defaults are those of the base model.

    Attributes:
      vocab_size: V, of sources and targets together.
      width, num_layers, num_heads: D numbers a token, even, L layers each way with H heads each; H divides D.
      hidden: units of the feed-forward parts; None for 4 D.
      pad: the source token that pads, which nobody reads where no mask is given; None for none.
      rotary: rotary positions of the self-attention in place of the waves P; None for the waves.
      norm_first: whether norms come first, as in `dljax.nn.TransformerConfig`. With both, a small model of one's own learns in far fewer steps.
      activation: of the feed-forward parts.
      epsilon: added to the variance in every norm.
      dropout_rate: the fraction of embeddings and of each part's outputs that is dropped in training, in [0, 1].
      attention_dropout_rate: of the attention weights.
      is_unrolled, remat: as for `dljax.nn.Transformer`.

    It trains on what `dljax.models.teacher_forcing` makes of pairs, and writes with `dljax.models.generate_target`.

    Source: Vaswani et al. (2017), Attention is all you need, section 3; the released code has the half of sines before that of cosines, too.

    >>> model = EncoderDecoder(vocab_size=10, width=8, num_layers=1, num_heads=2)
    >>> x = {"source": jnp.array([[3, 4, 0], [5, 6, 7]]), "inputs": jnp.zeros((2, 4), jnp.int32)}
    >>> logits, variables = jax.jit(model.init_with_output)(jax.random.key(0), x)
    >>> logits.shape
    (2, 4, 10)
    """

    vocab_size: int
    width: int = 512
    num_layers: int = 6
    num_heads: int = 8
    hidden: int | None = None
    pad: int | None = 0
    rotary: Rotary | None = None
    norm_first: bool = False
    activation: Callable[[Array], Array] = jax.nn.relu
    epsilon: float = 1e-5
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.0
    is_unrolled: bool | None = None
    remat: str | None = None

    @property
    def decoder_layers(self) -> int:
        """Layers of the decoder."""
        return self.num_layers

    def config(self, is_decoder: bool) -> TransformerConfig:
        """What the layers of the encoder and of the decoder are like."""
        return TransformerConfig(
            num_heads=self.num_heads,
            hidden=self.hidden,
            activation=self.activation,
            norm_first=self.norm_first,
            rotary=self.rotary,
            epsilon=self.epsilon,
            is_causal=is_decoder,
            has_memory=is_decoder,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            kernel_init=linen.initializers.xavier_uniform(),
        )

    def setup(self) -> None:
        for name in ("vocab_size", "width", "num_layers", "num_heads"):
            check_int("EncoderDecoder", name, getattr(self, name), minimum=1)
        if self.pad is not None:
            check_int("EncoderDecoder", "pad", self.pad, maximum=self.vocab_size - 1)
        self.embed = linen.Embed(self.vocab_size, self.width, embedding_init=linen.initializers.normal(self.width**-0.5))
        self.dropout = linen.Dropout(self.dropout_rate)
        self.encoder, self.decoder = (
            Transformer(self.config(is_decoder), self.num_layers, is_unrolled=self.is_unrolled, remat=self.remat) for is_decoder in (False, True)
        )

    def __call__(self, x: Mapping[str, Any], train: bool = False) -> Float[Array, "B T V"]:
        """Logits of each next target token, given those before: teacher forcing.

        Args:
          x: a dict of
            - `source` [B, S] and `inputs` [B, T], what the decoder reads at each time: the targets one place later, behind a token that stands for
              the beginning. Whole numbers in [0, V); another gives NaN.
            - optionally `lengths` [B], how many tokens of each source are real; None for all that are not `pad`.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: options out of range, arrays that do not fit. TypeError: tokens that are no whole numbers.
        """
        source, inputs, mask = checked_pairs("EncoderDecoder", x, self.pad)
        return self.decode(inputs, self.encode(source, mask, train), mask, train=train)

    def encode(self, source: Shaped[Array, "B S"], mask: Bool[Array, "B S"] | None = None, train: bool = False) -> Float[Array, "B S D"]:
        """What the decoder attends to.

        Args:
          mask: True where a source token may be read; None for all that are not `pad`.
        """
        mask = source_mask("EncoderDecoder", source, mask, self.pad)
        return self.encoder(self._embedded(source, None, train), None if mask is None else mask[:, None, None], train=train)

    def decode(
        self,
        tokens: Shaped[Array, "B T"],
        memory: Float[Array, "B S D"] | None = None,
        memory_mask: Bool[Array, "B S"] | None = None,
        *,
        cache: KeyValueCache | None = None,
        train: bool = False,
    ) -> Any:
        """Logits [B, T, V] of each next token; with a cache a pair, the logits and the cache with these tokens and the memory in it.

        Args:
          memory, memory_mask: from `encode`, and what of it may be read; a cache remembers both, and later calls leave them out.
          cache: from `KeyValueCache.empty`.
        """
        h = self.states(tokens, memory, memory_mask, cache=cache, train=train)
        return self.logits(h) if cache is None else (self.logits(h[0]), h[1])

    def states(
        self,
        tokens: Shaped[Array, "B T"],
        memory: Float[Array, "B S D"] | None = None,
        memory_mask: Bool[Array, "B S"] | None = None,
        *,
        cache: KeyValueCache | None = None,
        train: bool = False,
    ) -> Any:
        """What `decode` makes its logits of, [B, T, D], and the cache where there is one."""
        h = self._embedded(tokens, None if cache is None else cache.positions(tokens.shape[1]), train)
        return self.decoder(h, memory=memory, memory_mask=memory_mask, cache=cache, train=train)

    def logits(self, h: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """h Eᵀ."""
        return row_product(h, self.embed.embedding.T)

    def _embedded(self, tokens: Array, positions: Array | None, train: bool) -> Array:
        places = jnp.arange(tokens.shape[1])[None] if positions is None else positions
        h = self.embed(tokens) * self.width**0.5
        if self.rotary is None:
            h += jnp.broadcast_to(sinusoidal_positions(places, self.width), h.shape).astype(h.dtype)
        return self.dropout(h, deterministic=not train)


def checked_pairs(who: str, x: Mapping[str, Any], pad: int | None) -> tuple[Array, Array, Array | None]:
    """Sources, what the decoder reads, and which source tokens are real, of the batch of a sequence-to-sequence model.

    Raises:
      ValueError: arrays that do not fit. TypeError: tokens that are no whole numbers.

    >>> checked_pairs("T5", {"source": jnp.array([[3, 4]]), "inputs": jnp.array([[0]]), "lengths": jnp.array([1])}, 0)[2].tolist()
    [[True, False]]
    """
    source, inputs, lengths = (None if x.get(name) is None else jnp.asarray(x[name]) for name in ("source", "inputs", "lengths"))
    if source is None or inputs is None:
        raise ValueError(f"{who}: x must have `source` and `inputs`, got {', '.join(x)}")
    if inputs.ndim != 2 or len(inputs) != len(source):
        raise ValueError(f"{who}: source and inputs must be tokens [B, S] and [B, T] of one batch, got shapes {source.shape} and {inputs.shape}")
    if not jnp.issubdtype(inputs.dtype, jnp.integer):
        raise TypeError(f"{who}: inputs must be whole numbers, got {inputs.dtype}")
    if lengths is not None and lengths.shape != source.shape[:1]:
        raise ValueError(f"{who}: lengths must be one number for each of the {len(source)} sources, got shape {lengths.shape}")
    mask = None if lengths is None else jnp.arange(source.shape[-1])[None] < lengths[:, None]
    return source, inputs, source_mask(who, source, mask, pad)


def source_mask(who: str, source: Array, mask: Array | None, pad: int | None) -> Array | None:
    """Which source tokens are real: those of the mask, or where there is none those that are not `pad`.

    Raises:
      ValueError: sources that are not [B, S], a mask of another shape. TypeError: tokens that are no whole numbers.

    >>> source_mask("T5", jnp.array([[3, 0]]), None, 0).tolist()
    [[True, False]]
    """
    if source.ndim != 2:
        raise ValueError(f"{who}: source must be tokens [B, S], got shape {source.shape}")
    if not jnp.issubdtype(source.dtype, jnp.integer):
        raise TypeError(f"{who}: source must be whole numbers, got {source.dtype}")
    if mask is not None and mask.shape != source.shape:
        raise ValueError(f"{who}: the mask must have the shape {source.shape} of source, got {mask.shape}")
    return source != pad if mask is None and pad is not None else mask
