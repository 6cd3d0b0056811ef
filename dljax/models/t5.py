"""T5: an encoder-decoder that turns texts into texts, whose attention knows distances (Raffel et al., 2020)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Bool, Float, Shaped

from dljax.core.checks import check_int
from dljax.models.encoder_decoder import checked_pairs, source_mask
from dljax.nn.dense import Dense
from dljax.nn.key_value_cache import KeyValueCache
from dljax.nn.positions import RelativeBias
from dljax.nn.product import row_product
from dljax.nn.transformer import Transformer, TransformerConfig


class T5(linen.Module):
    """An encoder and a decoder with root mean square norms first, no biases, and a learned bias of each distance in every layer's scores.

      m = E[x],   m ← m + Attention(N(m), B),   m ← m + W₂ relu(W₁ N(m)),   memory = N(m)
      h = E[y],   h ← h + Attention(N(h), B'),   h ← h + Attention(N(h), memory),   h ← h + W₂ relu(W₁ N(h)),   logits = D^(-1/2) N(h) Eᵀ

    The scores of the attention are q·k + b, without 1/√F; the bias b is that of the distance and the head, the same in all layers, one table for the
    encoder and one for the decoder. The defaults are T5 small's. Version 1.1 has gated units and a head W of its own, logits = W N(h):
    `T5(is_gated=True, activation=jax.nn.gelu, hidden=1024, num_layers=8, num_heads=6, is_tied=False)` is its small model.

    Attributes:
      vocab_size: V.
      width, num_layers, num_heads: D numbers a token, L layers of the encoder with H heads each.
      num_decoder_layers: of the decoder; None for L.
      head_size: numbers a head; None for D / H.
      hidden: units of the feed-forward parts; None for 4 D.
      num_buckets, max_distance: as for `dljax.nn.RelativeBias`.
      activation, is_gated: of the feed-forward parts, as for `dljax.nn.TransformerConfig`.
      is_tied: whether the output's matrix is that of the embeddings, by D^(-1/2).
      pad: the source token that pads, which nobody reads where no mask is given; None for none. Targets begin with it.
      epsilon: added to the mean square in every norm.
      dropout_rate: the fraction of embeddings, outputs, units and attention weights that is dropped in training, in [0, 1].
      is_unrolled, remat: as for `dljax.nn.Transformer`.

    Weights start as T5's do: normal, of variance 1/inputs; the queries' 1/(D F), for the scores are not scaled; embeddings 1.
    It trains on what `dljax.data.corrupt_spans` makes of texts, and writes with `dljax.models.generate_target`.

    Source: Raffel et al. (2020), Exploring the limits of transfer learning with a unified text-to-text transformer, section 2.1; Shazeer (2020), GLU
    variants improve Transformer, for version 1.1.

    >>> t5 = T5(vocab_size=10, width=8, num_layers=1, num_heads=2, head_size=3)
    >>> x = {"source": jnp.array([[3, 4, 0], [5, 6, 7]]), "inputs": jnp.zeros((2, 4), jnp.int32)}
    >>> logits, variables = jax.jit(t5.init_with_output)(jax.random.key(0), x)
    >>> logits.shape, variables["params"]["decoder"]["layers"]["memory"]["key"]["kernel"].shape
    ((2, 4, 10), (1, 8, 6))
    """

    vocab_size: int = 32128
    width: int = 512
    num_layers: int = 6
    num_heads: int = 8
    num_decoder_layers: int | None = None
    head_size: int | None = 64
    hidden: int | None = None
    num_buckets: int = 32
    max_distance: int = 128
    activation: Callable[[Array], Array] = jax.nn.relu
    is_gated: bool = False
    is_tied: bool = True
    pad: int | None = 0
    epsilon: float = 1e-6
    dropout_rate: float = 0.1
    is_unrolled: bool | None = None
    remat: str | None = None

    @property
    def decoder_layers(self) -> int:
        """Layers of the decoder."""
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    def config(self, is_decoder: bool) -> TransformerConfig:
        """What the layers of the encoder and of the decoder are like."""
        size = self.width // self.num_heads if self.head_size is None else self.head_size
        return TransformerConfig(
            num_heads=self.num_heads,
            head_size=self.head_size,
            hidden=self.hidden,
            activation=self.activation,
            is_gated=self.is_gated,
            norm="rms",
            epsilon=self.epsilon,
            use_bias=False,
            scale=1.0,
            is_causal=is_decoder,
            has_memory=is_decoder,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.dropout_rate,
            hidden_dropout_rate=self.dropout_rate,
            kernel_init=_normal(1.0),
            query_init=_normal(1 / max(size, 1)),
        )

    def setup(self) -> None:
        for name, size in (("num_decoder_layers", self.decoder_layers), *((name, getattr(self, name)) for name in _SIZES)):
            check_int("T5", name, size, minimum=1)
        if self.pad is not None:
            check_int("T5", "pad", self.pad, maximum=self.vocab_size - 1)
        self.embed = linen.Embed(self.vocab_size, self.width, embedding_init=linen.initializers.normal(1.0))
        self.dropout = linen.Dropout(self.dropout_rate)
        for name, is_decoder, num_layers in (("encoder", False, self.num_layers), ("decoder", True, self.decoder_layers)):
            stack = Transformer(self.config(is_decoder), num_layers, is_unrolled=self.is_unrolled, remat=self.remat)
            init = linen.initializers.normal(self.width**-0.5)
            bias = RelativeBias(self.num_heads, self.num_buckets, self.max_distance, is_decoder, init)
            setattr(self, name, stack)
            setattr(self, f"{name}_bias", bias)
        if not self.is_tied:
            self.head = Dense(self.vocab_size, use_bias=False, kernel_init=_normal(1.0))

    def __call__(self, x: Mapping[str, Any], train: bool = False) -> Float[Array, "B T V"]:
        """Logits of each next target token, given those before: teacher forcing.

        Args:
          x: a dict of
            - `source` [B, S] and `inputs` [B, T], what the decoder reads at each time: the targets one place later, behind `pad`. Whole numbers in
              [0, V); another gives NaN.
            - optionally `lengths` [B], how many tokens of each source are real; None for all that are not `pad`.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: options out of range, arrays that do not fit. TypeError: tokens that are no whole numbers.
        """
        source, inputs, mask = checked_pairs("T5", x, self.pad)
        return self.decode(inputs, self.encode(source, mask, train), mask, train=train)

    def encode(self, source: Shaped[Array, "B S"], mask: Bool[Array, "B S"] | None = None, train: bool = False) -> Float[Array, "B S D"]:
        """What the decoder attends to.

        Args:
          mask: True where a source token may be read; None for all that are not `pad`.
        """
        mask = source_mask("T5", source, mask, self.pad)
        places = jnp.arange(source.shape[1])
        h = self.dropout(self.embed(source), deterministic=not train)
        h = self.encoder(h, None if mask is None else mask[:, None, None], bias=self.encoder_bias(places, places), train=train)
        return self.dropout(h, deterministic=not train)

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
        places = jnp.arange(tokens.shape[1]) if cache is None else cache.positions(tokens.shape[1])
        bias = self.decoder_bias(places, places if cache is None else cache.all_positions)
        h = self.dropout(self.embed(tokens), deterministic=not train)
        h = self.decoder(h, bias=bias, memory=memory, memory_mask=memory_mask, cache=cache, train=train)
        h, kept = (h, None) if cache is None else h
        h = self.dropout(h, deterministic=not train)
        logits = row_product(h * self.width**-0.5, self.embed.embedding.T) if self.is_tied else self.head(h)
        return logits if cache is None else (logits, kept)


_SIZES = ("vocab_size", "width", "num_layers", "num_heads")


def _normal(scale: float) -> Any:
    return linen.initializers.variance_scaling(scale, "fan_in", "normal")
