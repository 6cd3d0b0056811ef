"""GPT: a Transformer that predicts every next token from those before it (Radford et al., 2019)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped

from dljax.core.checks import check_int, check_range
from dljax.nn.dense import Dense
from dljax.nn.product import row_product
from dljax.nn.transformer import Transformer, TransformerConfig


class GPT(linen.Module):
    """A decoder-only Transformer with learned positions: GPT-2's arithmetic, layer norms first.

      h = E[x] + P,   h ← h + Attention(LN(h)),   h ← h + W₂ gelu(W₁ LN(h)),   logits = LN(h) Eᵀ

    The layers' parameters are stacked along a leading axis, `[L, ...]`, and the layers are scanned.

    Attributes:
      vocab_size: how many tokens there are, V.
      context: the longest sequence, C.
      num_layers, num_heads, width: L blocks with H heads each and D numbers a token; H divides D.
      dropout_rate: the fraction of embeddings, attention weights and branch outputs that is dropped in training, in [0, 1].
      is_tied: whether the output projection is the embedding's matrix E, as in GPT-2, or one of its own.
      hidden: units of the feed-forward part; None for 4 D.
      activation: of the feed-forward part; GPT-2's is gelu by its formula with tanh.
      epsilon: added to the variance in every norm.
      embed_dropout_rate, attention_dropout_rate: of the embeddings and of the attention weights; `dropout_rate` where None.
      attention: what takes the softmax attention's place, as for `dljax.nn.TransformerConfig`: `dljax.nn.LinearAttention` for long texts.
      feed_forward: another feed-forward part, as for `dljax.nn.TransformerConfig`: `partial(MixtureOfExperts, num_experts=8)` makes it a Switch
        Transformer.
      is_unrolled, remat: as for `dljax.nn.Transformer`.

    Weights start as GPT-2's do: normal with deviation 0.02, on the way back into the residual stream 0.02/√(2L).

    Source: Radford et al. (2019), Language models are unsupervised multitask learners; normal deviations from section 2.3.

    >>> gpt = GPT(vocab_size=10, context=8, num_layers=2, num_heads=2, width=16)
    >>> logits, variables = jax.jit(gpt.init_with_output)(jax.random.key(0), jnp.zeros((3, 8), jnp.int32))
    >>> logits.shape, variables["params"]["decoder"]["layers"]["feed_forward"]["up"]["kernel"].shape
    ((3, 8, 10), (2, 16, 64))
    """

    vocab_size: int
    context: int = 64
    num_layers: int = 4
    num_heads: int = 4
    width: int = 128
    dropout_rate: float = 0.0
    is_tied: bool = True
    hidden: int | None = None
    activation: Callable[[Array], Array] = jax.nn.gelu
    epsilon: float = 1e-5
    embed_dropout_rate: float | None = None
    attention_dropout_rate: float | None = None
    attention: Callable[..., Any] | None = None
    feed_forward: Callable[..., linen.Module] | None = None
    is_unrolled: bool | None = None
    remat: str | None = None

    @property
    def config(self) -> TransformerConfig:
        """What the layers are like."""
        return TransformerConfig(
            num_heads=self.num_heads,
            hidden=self.hidden,
            activation=self.activation,
            epsilon=self.epsilon,
            is_causal=True,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.dropout_rate if self.attention_dropout_rate is None else self.attention_dropout_rate,
            attention=self.attention,
            kernel_init=_normal,
            out_init=linen.initializers.normal(0.02 / (2 * self.num_layers) ** 0.5),
            feed_forward=self.feed_forward,
        )

    @linen.compact
    def __call__(
        self,
        tokens: Shaped[Array, "B T"],
        mask: Bool[Array, "B T"] | None = None,
        *,
        positions: Int[Array, "B T"] | None = None,
        cache: Any = None,
        train: bool = False,
    ) -> Any:
        """Logits [B, T, V] of each next token; with a cache a pair, the logits and the cache with these tokens in it.

        Args:
          tokens: in [0, V), T <= C; a token outside gives NaN.
          mask: True where a token is no padding; None for all.
          positions: in [0, C); None for 0 ... T - 1, with a cache for those that follow it.
          cache: from `dljax.models.empty_cache`.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: sequences longer than the context, options out of range. TypeError: tokens that are not whole numbers.
        """
        for name in ("vocab_size", "context", "num_layers", "num_heads", "width"):
            check_int("GPT", name, getattr(self, name), minimum=1)
        check_range("GPT", "dropout_rate", self.dropout_rate, 0, 1)
        check_tokens("GPT", tokens, self.context)
        length = tokens.shape[-1]
        embed = linen.Embed(self.vocab_size, self.width, embedding_init=_normal, name="embed")
        table = self.param("positions", _normal, (self.context, self.width), jnp.float32)
        if positions is None and cache is not None:
            positions = cache.positions(length)
        places = jnp.broadcast_to(table[:length], (*tokens.shape, self.width)) if positions is None else table[positions]
        rate = self.dropout_rate if self.embed_dropout_rate is None else self.embed_dropout_rate
        h = linen.Dropout(rate, deterministic=not train)(embed(tokens) + places)
        decoder = Transformer(self.config, self.num_layers, is_unrolled=self.is_unrolled, remat=self.remat, name="decoder")
        h = decoder(h, None if mask is None else mask[:, None, None], cache=cache, train=train)
        h, kept = (h, None) if cache is None else h
        head = None if self.is_tied else Dense(self.vocab_size, use_bias=False, kernel_init=_normal, name="head")
        logits = row_product(h, embed.embedding.T) if head is None else head(h)
        return logits if cache is None else (logits, kept)


def check_tokens(who: str, tokens: Any, context: int) -> None:
    """Refuse what a causal model cannot read.

    Raises:
      ValueError: sequences longer than the context. TypeError: tokens that are not whole numbers.

    >>> check_tokens("GPT", jnp.zeros((1, 3), jnp.int32), 2)
    Traceback (most recent call last):
    ValueError: GPT: tokens must be at most context=2 long, got 3; cut them or build the model with a longer context
    """
    if tokens.shape[-1] > context:
        raise ValueError(
            f"{who}: tokens must be at most context={context} long, got {tokens.shape[-1]}; cut them or build the model with a longer context"
        )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"{who}: tokens must be whole numbers, got {tokens.dtype}")


def attention_maps(model: Any, params: Mapping[str, Any], tokens: Int[Array, "B T"]) -> Float[Array, "L B H T T"]:
    """The attention weights of every layer and head of a `GPT` or `Llama`: how much position t (last but one axis) reads from position s (last axis).

    >>> gpt = GPT(vocab_size=10, context=4, num_layers=1, num_heads=2, width=8)
    >>> tokens = jnp.zeros((1, 4), jnp.int32)
    >>> attention_maps(gpt, jax.jit(gpt.init)(jax.random.key(0), tokens), tokens).shape
    (1, 1, 2, 4, 4)
    """
    _, sown = model.apply(params, tokens, mutable=["intermediates"])
    return sown["intermediates"]["decoder"]["layers"]["attention"]["attention"][0]


SHARDING = (
    (r"(attention/(query|key|value)|feed_forward/(gate|up))/kernel$", PartitionSpec(None, "data", "model")),
    (r"(attention/(query|key|value)|feed_forward/(gate|up))/bias$", PartitionSpec(None, "model")),
    (r"(attention/out|feed_forward/down)/kernel$", PartitionSpec(None, "model", "data")),
)
"""Rules for `dljax.engine.by_path` that spread the layers of a `Transformer` over a mesh.

Along `model` they are cut by heads and hidden units, so that each part of a layer needs one sum over the devices (Shoeybi et al., 2020, Megatron-LM).
Along `data` each matrix is cut the other way and gathered when it is needed, as `dljax.engine.fsdp` does with the rest:
`rules=(by_path(*SHARDING), fsdp())`. The axes must divide the matrices, and `model` the width of the groups.
"""

_normal = linen.initializers.normal(0.02)
