"""GPT: a Transformer that predicts every next token from those before it (Radford et al., 2019)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric
from dljax.nn.attention import FusedSelfAttention
from dljax.nn.dense import Dense
from dljax.nn.model import as_model
from dljax.nn.product import row_product


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
      is_unrolled: whether the scan is written out layer by layer. On a CPU a training step is then faster, by 13 % with 4 layers and 24 % with 8;
        a rolled scan is quicker to compile, in a time that does not grow with the depth.

    Weights start as GPT-2's do: normal with deviation 0.02, on the way back into the residual stream 0.02/√(2L).

    Source: Radford et al. (2019), Language models are unsupervised multitask learners; normal deviations from section 2.3.

    >>> gpt = GPT(vocab_size=10, context=8, num_layers=2, num_heads=2, width=16)
    >>> logits, variables = jax.jit(gpt.init_with_output)(jax.random.key(0), jnp.zeros((3, 8), jnp.int32))
    >>> logits.shape, variables["params"]["blocks"]["up"]["kernel"].shape
    ((3, 8, 10), (2, 16, 64))
    """

    vocab_size: int
    context: int = 64
    num_layers: int = 4
    num_heads: int = 4
    width: int = 128
    dropout_rate: float = 0.0
    is_tied: bool = True
    is_unrolled: bool = True

    @linen.compact
    def __call__(self, tokens: Shaped[Array, "B T"], train: bool = False) -> Float[Array, "B T V"]:
        """Logits of each next token.

        Args:
          tokens: in [0, V), T <= C; a token outside gives NaN.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: sequences longer than the context, options out of range. TypeError: tokens that are not whole numbers.
        """
        for name in ("vocab_size", "context", "num_layers", "num_heads", "width"):
            check_int("GPT", name, getattr(self, name), minimum=1)
        check_range("GPT", "dropout_rate", self.dropout_rate, 0, 1)
        length = tokens.shape[-1]
        if length > self.context:
            raise ValueError(
                f"GPT: tokens must be at most context={self.context} long, got {length}; cut them or build the model with a longer context"
            )
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(f"GPT: tokens must be whole numbers, got {tokens.dtype}")
        embed = linen.Embed(self.vocab_size, self.width, embedding_init=_normal, name="embed")
        positions = self.param("positions", _normal, (self.context, self.width))
        h = embed(tokens) + jnp.broadcast_to(positions[:length], (*tokens.shape, self.width))
        h = linen.Dropout(self.dropout_rate, deterministic=not train)(h)
        layers = linen.scan(
            _Block,
            length=self.num_layers,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=linen.broadcast,
            unroll=self.num_layers if self.is_unrolled else 1,
        )
        h, _ = layers(self.num_heads, self.num_layers, self.dropout_rate, name="blocks")(h, train)
        h = linen.LayerNorm(epsilon=_EPSILON, name="norm")(h)
        if self.is_tied:
            return row_product(h, embed.embedding.T)
        return Dense(self.vocab_size, use_bias=False, kernel_init=_normal, name="head")(h)


def sampler(model: GPT) -> Callable[..., Int[Array, "B N"]]:
    """A function that continues a text: one compiled loop, a token at a time.

      x_t = argmax_v (logits_v + τ g_v),   g standard Gumbel: a draw from softmax(logits / τ), and the likeliest token at τ = 0

    Returns:
      `sample(key, params, prompt, *, num=200, temperature=1.0)` with
      params: the model's variables, `{"params": ...}`.
      prompt: whole numbers [B, P], P >= 1. The model sees the last `context` tokens of prompt and text.
      num: how many tokens to draw, >= 1; static under jit.
      temperature: τ >= 0; may be traced.
      It returns the tokens drawn, int32 [B, num].
    Raises:
      ValueError: when called: an empty prompt, `num` < 1, `temperature` < 0.

    >>> gpt = GPT(vocab_size=10, context=4, num_layers=1, num_heads=1, width=8)
    >>> variables = jax.jit(gpt.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    >>> sampler(gpt)(jax.random.key(1), variables, jnp.zeros((2, 3), jnp.int32), num=5).shape
    (2, 5)
    """
    forward = as_model(model).apply

    def sample(key: Key, params: Mapping[str, Any], prompt: Int[Array, "..."], *, num: int = 200, temperature: Numeric = 1.0) -> Int[Array, "B N"]:
        check_int("sample", "num", num, minimum=1)
        check_range("sample", "temperature", temperature, 0)
        if prompt.ndim != 2 or prompt.shape[1] == 0:
            raise ValueError(f"sample: prompt must be tokens [B, P] with P >= 1, got shape {prompt.shape}")
        batch, given = prompt.shape
        window = min(model.context, given + num)
        tokens = jnp.concatenate([prompt.astype(jnp.int32), jnp.zeros((batch, num), jnp.int32)], 1)

        def draw(tokens: Int[Array, "B S"], place: Int[Array, ""]) -> tuple[Int[Array, "B S"], None]:
            # What stands behind the last token is not read: attention is causal.
            start = jnp.maximum(place - window, 0)
            logits, _ = forward(params, lax.dynamic_slice_in_dim(tokens, start, window, 1))
            logits = lax.dynamic_index_in_dim(logits, place - 1 - start, 1, keepdims=False)
            noise = jax.random.gumbel(jax.random.fold_in(key, place), logits.shape, logits.dtype)
            return tokens.at[:, place].set(jnp.argmax(logits + temperature * noise, -1).astype(jnp.int32)), None

        tokens, _ = lax.scan(draw, tokens, given + jnp.arange(num))
        return tokens[:, given:]

    return sample


def attention_maps(model: GPT, params: Mapping[str, Any], tokens: Int[Array, "B T"]) -> Float[Array, "L B H T T"]:
    """The attention weights of every layer and head: how much position t (last but one axis) reads from position s (last axis).

    >>> gpt = GPT(vocab_size=10, context=4, num_layers=1, num_heads=2, width=8)
    >>> tokens = jnp.zeros((1, 4), jnp.int32)
    >>> attention_maps(gpt, jax.jit(gpt.init)(jax.random.key(0), tokens), tokens).shape
    (1, 1, 2, 4, 4)
    """
    _, sown = model.apply(params, tokens, mutable=["intermediates"])
    return sown["intermediates"]["blocks"]["attention"]["attention"][0]


_EPSILON = 1e-5
_normal = linen.initializers.normal(0.02)


class _Block(linen.Module):
    num_heads: int
    num_layers: int
    dropout_rate: float

    @linen.compact
    def __call__(self, h: Float[Array, "B T D"], train: bool) -> tuple[Float[Array, "B T D"], None]:
        out_init = linen.initializers.normal(0.02 / (2 * self.num_layers) ** 0.5)
        attention = FusedSelfAttention(self.num_heads, True, self.dropout_rate, _normal, out_init, name="attention")
        drop = linen.Dropout(self.dropout_rate, deterministic=not train)
        h = h + drop(attention(linen.LayerNorm(epsilon=_EPSILON, name="attention_norm")(h), train=train))
        x = linen.LayerNorm(epsilon=_EPSILON, name="mlp_norm")(h)
        x = jax.nn.gelu(Dense(4 * h.shape[-1], kernel_init=_normal, name="up")(x))
        return h + drop(Dense(h.shape[-1], kernel_init=out_init, name="down")(x)), None
