"""Llama: a Transformer that predicts every next token, with rotary positions, gated units and shared keys (Touvron et al., 2023)."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen
from jaxtyping import Array, Bool, Int, Shaped

from dljax.core.checks import check_int
from dljax.models.gpt import check_tokens
from dljax.nn.dense import Dense
from dljax.nn.positions import Rotary
from dljax.nn.product import row_product
from dljax.nn.transformer import Transformer, TransformerConfig


class Llama(linen.Module):
    """A decoder-only Transformer as the Llama models are: no biases, root mean square norms, rotary positions, SwiGLU, grouped queries.

      h = E[x],   h ← h + Attention(N(h)),   h ← h + W₂ (silu(W₁ N(h)) · (W₃ N(h))),   logits = W N(h),   N(h) = g · h / √(mean h² + ε)

    Attributes:
      vocab_size: how many tokens there are, V.
      context: the longest sequence, C. No weight depends on it.
      num_layers, num_heads, width: L layers with H heads each and D numbers a token.
      num_groups: G, heads of keys and values, a divisor of H; None for H.
      head_size: numbers a head; None for D / H.
      hidden: units of the feed-forward part; None for the first multiple of 256 from 8 D / 3, as in the paper.
      rotary: the rotary positions, and how they are stretched to longer texts.
      window: how many positions a position reads at most, itself the last; None for all.
      is_tied: whether the output projection is the embedding's matrix E, or W of its own.
      epsilon: ε.
      use_attention_bias, use_hidden_bias: whether the products of attention and of the feed-forward part have biases.
      attention_dropout_rate: the fraction of attention weights that is dropped in training, in [0, 1].
      attention: what takes the softmax attention's place, as for `dljax.nn.TransformerConfig`: `dljax.nn.LinearAttention` for long texts.
      feed_forward: another feed-forward part, as for `dljax.nn.TransformerConfig`; Mixtral's is
        `partial(MixtureOfExperts, num_experts=8, num_chosen=2, capacity_factor=None)`.
      is_unrolled, remat: as for `dljax.nn.Transformer`.

    Source: Touvron et al. (2023), LLaMA: open and efficient foundation language models, section 2.2; grouped queries as in Llama 2 and 3.

    >>> import jax.numpy as jnp
    >>> llama = Llama(vocab_size=10, context=8, num_layers=2, num_heads=4, num_groups=2, width=16, hidden=24)
    >>> logits, variables = jax.jit(llama.init_with_output)(jax.random.key(0), jnp.zeros((3, 8), jnp.int32))
    >>> logits.shape, variables["params"]["decoder"]["layers"]["attention"]["key"]["kernel"].shape
    ((3, 8, 10), (2, 16, 8))
    """

    vocab_size: int
    context: int = 2048
    num_layers: int = 32
    num_heads: int = 32
    width: int = 4096
    num_groups: int | None = None
    head_size: int | None = None
    hidden: int | None = None
    rotary: Rotary = Rotary()
    window: int | None = None
    is_tied: bool = False
    epsilon: float = 1e-6
    use_attention_bias: bool = False
    use_hidden_bias: bool = False
    attention_dropout_rate: float = 0.0
    attention: Callable[..., Any] | None = None
    feed_forward: Callable[..., linen.Module] | None = None
    is_unrolled: bool | None = None
    remat: str | None = None

    @property
    def config(self) -> TransformerConfig:
        """What the layers are like."""
        return TransformerConfig(
            num_heads=self.num_heads,
            num_groups=self.num_groups,
            head_size=self.head_size,
            hidden=self.num_hidden,
            activation=jax.nn.silu,
            is_gated=True,
            norm="rms",
            epsilon=self.epsilon,
            use_bias=self.use_hidden_bias,
            use_attention_bias=self.use_attention_bias,
            is_causal=True,
            window=self.window,
            rotary=self.rotary,
            attention_dropout_rate=self.attention_dropout_rate,
            attention=self.attention,
            kernel_init=_normal,
            feed_forward=self.feed_forward,
        )

    @property
    def num_hidden(self) -> int:
        """Units of the feed-forward part."""
        return -(-8 * self.width // 3 // 256) * 256 if self.hidden is None else self.hidden

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
          positions: None for 0 ... T - 1, with a cache for those that follow it.
          cache: from `dljax.models.empty_cache`.
          train: whether to drop attention weights, with the random stream `dropout`.
        Raises:
          ValueError: sequences longer than the context, options out of range. TypeError: tokens that are not whole numbers.
        """
        for name in ("vocab_size", "context", "num_layers", "num_heads", "width"):
            check_int("Llama", name, getattr(self, name), minimum=1)
        check_tokens("Llama", tokens, self.context)
        embed = linen.Embed(self.vocab_size, self.width, embedding_init=_normal, name="embed")
        decoder = Transformer(self.config, self.num_layers, is_unrolled=self.is_unrolled, remat=self.remat, name="decoder")
        h = decoder(embed(tokens), None if mask is None else mask[:, None, None], positions=positions, cache=cache, train=train)
        h, kept = (h, None) if cache is None else h
        head = None if self.is_tied else Dense(self.vocab_size, use_bias=False, kernel_init=_normal, name="head")
        logits = row_product(h, embed.embedding.T) if head is None else head(h)
        return logits if cache is None else (logits, kept)


_normal = linen.initializers.normal(0.02)
