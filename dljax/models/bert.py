"""BERT: a Transformer that reads in both directions (Devlin et al., 2019), and RoBERTa and ALBERT, which are settings of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Bool, Float, Int, Shaped

from dljax.core.checks import check_int, check_range
from dljax.models.pretrained import ACTIVATIONS
from dljax.nn.dense import Dense
from dljax.nn.initialisers import Initializer
from dljax.nn.normalisation import norm_layer
from dljax.nn.positions import Rotary
from dljax.nn.product import row_product
from dljax.nn.transformer import Transformer, TransformerConfig


class BERTOutput(NamedTuple):
    """What BERT makes of texts.

    Attributes:
      hidden: [B, T, D], each token in its context.
      pooled: [B, D], tanh of a linear map of the first token's; None without a pooler.
    """

    hidden: Float[Array, "B T D"]
    pooled: Float[Array, "B D"] | None


class BERT(linen.Module):
    """An encoder of texts: embeddings of words, positions and types, and Transformer layers whose norms come last.

      h = N(E[x] + P[t] + S[type]),   h ← N(h + Attention(h)),   h ← N(h + W₂ gelu(W₁ h)),   pooled = tanh(W h₀ + b)

    The defaults are BERT base's. RoBERTa is `BERT(50265, epsilon=1e-5, num_types=1, pad=1, counts_positions=True)`; ALBERT base is
    `BERT(30000, embedding_size=128, is_shared=True, activation=jax.nn.gelu)`. With `rotary` and `norm_first` a small model of one's own learns to
    read its neighbours several times sooner.

    Attributes:
      vocab_size: V.
      width, num_layers, num_heads: D numbers a token, L layers with H heads each; H divides D.
      hidden: units of the feed-forward parts; None for 4 D.
      context: the longest text, in tokens.
      num_types: kinds of texts in one sequence, such as question and answer; 0 for no such embedding.
      embedding_size: the size of the embeddings, which a linear map then brings to D (ALBERT); None for D without a map.
      is_shared: whether all layers have the same parameters (ALBERT).
      pad: the token that pads, which nobody reads where no mask is given; None for none.
      counts_positions: whether positions count the tokens that are no padding, from `pad` + 1 on (RoBERTa), rather than all from 0.
      rotary: rotary positions in place of the table P; None for the table.
      norm_first: whether norms come first, as in `dljax.nn.TransformerConfig`.
      activation: of the feed-forward parts.
      epsilon: of the layer norms.
      dropout_rate, attention_dropout_rate: the fractions of outputs and of attention weights that are dropped in training, in [0, 1].
      has_pooler: whether there is a pooled output.
      init_deviation: of the normal numbers that weights start as; BERT's 0.02 suits its width, and narrower models want more, as 1/√D.
      is_unrolled: as for `dljax.nn.Transformer`.

    Source: Devlin et al. (2019), BERT; Liu et al. (2019), RoBERTa; Lan et al. (2020), ALBERT; Warner et al. (2024), ModernBERT, for rotary positions
    and norms first.

    >>> bert = BERT(vocab_size=10, width=8, num_layers=2, num_heads=2, context=6)
    >>> output, variables = jax.eval_shape(bert.init_with_output, jax.random.key(0), jnp.ones((3, 5), jnp.int32))
    >>> output.hidden.shape, output.pooled.shape
    ((3, 5, 8), (3, 8))
    """

    vocab_size: int = 30522
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    hidden: int | None = None
    context: int = 512
    num_types: int = 2
    embedding_size: int | None = None
    is_shared: bool = False
    pad: int | None = 0
    counts_positions: bool = False
    rotary: Rotary | None = None
    norm_first: bool = False
    activation: Callable[[jax.Array], jax.Array] = ACTIVATIONS["gelu"]
    epsilon: float = 1e-12
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    has_pooler: bool = True
    init_deviation: float = 0.02
    is_unrolled: bool = True

    @property
    def size_of_embedding(self) -> int:
        """Numbers of a word's embedding."""
        return self.width if self.embedding_size is None else self.embedding_size

    @property
    def normal(self) -> Initializer:
        """What weights start as."""
        return linen.initializers.normal(self.init_deviation)

    @property
    def num_positions(self) -> int:
        """Rows of the table of positions: RoBERTa leaves the first ones to padding."""
        return self.context + (self.pad + 1 if self.counts_positions and self.pad is not None else 0)

    def setup(self) -> None:
        for name in ("vocab_size", "width", "context"):
            check_int("BERT", name, getattr(self, name), minimum=1)
        check_int("BERT", "num_types", self.num_types, minimum=0)
        if self.pad is not None:
            check_int("BERT", "pad", self.pad, minimum=0, maximum=self.vocab_size - 1)
        elif self.counts_positions:
            raise ValueError("BERT: counts_positions=True needs a pad, the token that is not counted")
        if self.counts_positions and self.rotary is not None:
            raise ValueError("BERT: counts_positions=True needs the table of positions, got rotary positions; leave one out")
        check_range("BERT", "init_deviation", self.init_deviation, 0)
        size, normal = self.size_of_embedding, self.normal
        self.embed = linen.Embed(self.vocab_size, size, embedding_init=normal)
        if self.rotary is None:
            self.positions = self.param("positions", normal, (self.num_positions, size))
        if self.num_types:
            self.types = self.param("types", normal, (self.num_types, size))
        self.embed_norm = norm_layer("layer", self.epsilon)
        self.dropout = linen.Dropout(self.dropout_rate)
        if self.embedding_size is not None:
            self.project = Dense(self.width, kernel_init=normal)
        config = TransformerConfig(
            num_heads=self.num_heads,
            hidden=self.hidden,
            activation=self.activation,
            norm_first=self.norm_first,
            rotary=self.rotary,
            epsilon=self.epsilon,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            kernel_init=normal,
        )
        self.encoder = Transformer(config, self.num_layers, is_shared=self.is_shared, is_unrolled=self.is_unrolled)
        if self.has_pooler:
            self.pooler = Dense(self.width, kernel_init=normal)

    def __call__(
        self, tokens: Shaped[Array, "B T"], mask: Bool[Array, "B T"] | None = None, types: Int[Array, "B T"] | None = None, train: bool = False
    ) -> BERTOutput:
        """The tokens in their contexts.

        Args:
          tokens: in [0, V), T <= `context`; a token outside gives NaN.
          mask: True where a token may be read, such as `Encoded.mask`; None for all that are not `pad`.
          types: in [0, `num_types`), such as `Encoded.types`; None for 0.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: texts longer than the context, types without an embedding, options out of range. TypeError: tokens that are no whole numbers.
        """
        _check_tokens(tokens, self.context)
        if types is not None and not self.num_types:
            raise ValueError("BERT: types were given, but num_types=0: the model has no embedding of types")
        h = self.embed(tokens)
        if self.rotary is None:
            h = h + self._positions(tokens)
        if self.num_types:
            h = h + jnp.take(self.types, jnp.zeros_like(tokens) if types is None else types, axis=0)
        h = self.dropout(self.embed_norm(h), deterministic=not train)
        if self.embedding_size is not None:
            h = self.project(h)
        mask = tokens != self.pad if mask is None and self.pad is not None else mask
        hidden = self.encoder(h, None if mask is None else mask[:, None, None], train=train)
        return BERTOutput(hidden, jnp.tanh(self.pooler(hidden[:, 0])) if self.has_pooler else None)

    def read_out(self, h: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        """The products of vectors with every word's embedding."""
        return row_product(h, self.embed.embedding.T)

    def _positions(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T E"]:
        if not self.counts_positions:
            return jnp.broadcast_to(self.positions[: tokens.shape[1]], (*tokens.shape, self.size_of_embedding))
        is_token = tokens != self.pad
        first = self.num_positions - self.context
        return jnp.take(self.positions, jnp.where(is_token, jnp.cumsum(is_token, 1), 0) + (first - 1), axis=0)


class MaskedLanguageModel(linen.Module):
    """What stood where: logits of every word at every place, by BERT's own embeddings.

      logits = N(gelu(W h + b)) Eᵀ + c

    Attributes:
      bert: the encoder.

    Source: Devlin et al. (2019), section 3.1.

    >>> model = MaskedLanguageModel(BERT(vocab_size=10, width=8, num_layers=1, num_heads=2, context=6, has_pooler=False))
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.ones((3, 5), jnp.int32), places=jnp.zeros((3, 2), jnp.int32))[0].shape
    (3, 2, 10)
    """

    bert: BERT

    @linen.compact
    def __call__(
        self,
        tokens: Shaped[Array, "B T"],
        mask: Bool[Array, "B T"] | None = None,
        types: Int[Array, "B T"] | None = None,
        places: Int[Array, "B K"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B K V"]:
        """Logits [B, T, V], or [B, K, V] of K places in each text, which spares the products of all others.

        Args:
          tokens, mask, types, train: as for `BERT`.
          places: in [0, T).
        """
        h = self.bert(tokens, mask, types, train).hidden
        if places is not None:
            h = jnp.take_along_axis(h, places[..., None], 1)
        h = self.bert.activation(Dense(self.bert.size_of_embedding, kernel_init=self.bert.normal, name="transform")(h))
        h = norm_layer("layer", self.bert.epsilon, name="norm")(h)
        bias = self.param("bias", linen.initializers.zeros_init(), (self.bert.vocab_size,))
        return self.bert.read_out(h) + jnp.expand_dims(bias, (0, 1))


class TextClassifier(linen.Module):
    """Logits of the classes of whole texts, from BERT's pooled output.

    Attributes:
      bert: the encoder, with a pooler.
      num_classes: K.
      dropout_rate: before the last layer; None for the encoder's.

    >>> model = TextClassifier(BERT(vocab_size=10, width=8, num_layers=1, num_heads=2, context=6), num_classes=3)
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.ones((4, 5), jnp.int32))[0].shape
    (4, 3)
    """

    bert: BERT
    num_classes: int
    dropout_rate: float | None = None

    @linen.compact
    def __call__(
        self, tokens: Shaped[Array, "B T"], mask: Bool[Array, "B T"] | None = None, types: Int[Array, "B T"] | None = None, train: bool = False
    ) -> Float[Array, "B K"]:
        """Logits of each class; arguments as for `BERT`.

        Raises:
          ValueError: an encoder without a pooler; no class.
        """
        if not self.bert.has_pooler:
            raise ValueError("TextClassifier: bert must have a pooler, got has_pooler=False")
        return _classified(self, self.bert(tokens, mask, types, train).pooled, train)


class TokenClassifier(linen.Module):
    """Logits of the classes of single tokens, such as names or parts of speech.

    Attributes:
      bert: the encoder.
      num_classes: K.
      dropout_rate: before the last layer; None for the encoder's.

    >>> model = TokenClassifier(BERT(vocab_size=10, width=8, num_layers=1, num_heads=2, context=6, has_pooler=False), num_classes=3)
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.ones((4, 5), jnp.int32))[0].shape
    (4, 5, 3)
    """

    bert: BERT
    num_classes: int
    dropout_rate: float | None = None

    @linen.compact
    def __call__(
        self, tokens: Shaped[Array, "B T"], mask: Bool[Array, "B T"] | None = None, types: Int[Array, "B T"] | None = None, train: bool = False
    ) -> Float[Array, "B T K"]:
        """Logits of each class at each token; arguments as for `BERT`."""
        return _classified(self, self.bert(tokens, mask, types, train).hidden, train)


def sentence_embedding(hidden: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """One unit vector a text, the mean over its tokens: how sentence-transformers read MiniLM and its kin.

      u = m / |m|,   m = Σ_t mask_t h_t / Σ_t mask_t

    Args:
      hidden: `BERTOutput.hidden`.
      mask: True where a token is no padding. A text without tokens has the embedding 0.
    Source: Reimers & Gurevych (2019), Sentence-BERT, section 3.

    >>> sentence_embedding(jnp.array([[[3.0, 0.0], [3.0, 8.0], [9.0, 9.0]]]), jnp.array([[True, True, False]])).round(3).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    weights = mask.astype(hidden.dtype)[..., None]
    mean = (jnp.where(mask[..., None], hidden, 0) * weights).sum(1) / jnp.maximum(weights.sum(1), 1)
    square = jnp.square(mean).sum(-1, keepdims=True)
    is_zero = square == 0
    return mean / jnp.where(is_zero, 1, jnp.sqrt(jnp.where(is_zero, 1, square)))


def _check_tokens(tokens: Array, context: int) -> None:
    if tokens.ndim != 2 or tokens.shape[1] > context:
        raise ValueError(f"BERT: tokens must be [B, T] with T at most context={context}, got shape {tokens.shape}; cut the texts")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"BERT: tokens must be whole numbers, got {tokens.dtype}")


def _classified(model: Any, x: Any, train: bool) -> Array:
    check_int(type(model).__name__, "num_classes", model.num_classes, minimum=1)
    rate = model.bert.dropout_rate if model.dropout_rate is None else model.dropout_rate
    check_range(type(model).__name__, "dropout_rate", rate, 0, 1)
    x = linen.Dropout(rate, deterministic=not train)(x)
    return Dense(model.num_classes, kernel_init=model.bert.normal, name="classifier")(x)
