"""Transformer-XL: a causal Transformer that reads a text segment by segment and remembers the states of the last ones (Dai et al., 2019)."""

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Shaped

from dljax.core.checks import check_int, check_range
from dljax.nn.dense import Dense
from dljax.nn.product import row_product
from dljax.nn.relative_attention import RelativeAttention, SegmentMemory
from dljax.nn.transformer import Transformer
from dljax.nn.transformer_config import TransformerConfig


class TransformerXL(linen.Module):
    """A language model whose layers read, besides the segment, what they read in the M places before it.

      h̃_τ = [stop_gradient(m), h_τ],   h ← LN(h + RelativeAttention(h, h̃)),   h ← LN(h + W₂ relu(W₁ h)),   logits = h Eᵀ

    The memory m holds h of earlier segments for each layer, so that L layers reach L·M places further back than the segment, at the cost of M.
    Positions are distances; texts have no longest length. It is trained as a recurrent net is, by `dljax.supervised.truncated_bptt` on
    `dljax.data.streams`, and `dljax.models.recurrent_sampler` continues texts with it.

    Attributes:
      vocab_size: how many tokens there are, V.
      num_layers, num_heads, width: L layers with H heads each and D numbers a token, D even.
      memory_size: M >= 0. After training, a model may have a larger one: `model.clone(memory_size=...)`.
      hidden: units of the feed-forward part; None for 4 D.
      dropout_rate: the fraction of embeddings, branch outputs and hidden units that is dropped in training, in [0, 1].
      attention_dropout_rate: of the attention weights.
      norm_first: whether the norms come before each part instead, as in GPT-2; deeper stacks then need no long warm-up.
      is_tied: whether the output projection is the embedding's matrix E.
      is_unrolled, remat: as for `dljax.nn.Transformer`.

    The defaults are the paper's for enwik8, 12 layers. Its adaptive softmax for large vocabularies is not here.

    Source: Dai et al. (2019), Transformer-XL: attentive language models beyond a fixed-length context, section 3.

    >>> model = TransformerXL(vocab_size=10, num_layers=2, num_heads=2, width=8, memory_size=6)
    >>> tokens = jnp.zeros((3, 4), jnp.int32)
    >>> (logits, memory), variables = jax.jit(model.init_with_output)(jax.random.key(0), tokens)
    >>> logits, memory = jax.jit(model.apply)(variables, tokens, memory)
    >>> logits.shape, memory.states.shape, memory.length.tolist()
    ((3, 4, 10), (3, 2, 6, 8), [6, 6, 6])
    """

    vocab_size: int
    num_layers: int = 12
    num_heads: int = 8
    width: int = 512
    memory_size: int = 512
    hidden: int | None = None
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.0
    norm_first: bool = False
    is_tied: bool = True
    is_unrolled: bool | None = None
    remat: str | None = None

    @property
    def config(self) -> TransformerConfig:
        """What the layers are like."""
        return TransformerConfig(
            num_heads=self.num_heads,
            hidden=self.hidden,
            activation=jax.nn.relu,
            norm_first=self.norm_first,
            use_attention_bias=False,
            is_causal=True,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            hidden_dropout_rate=self.dropout_rate,
            kernel_init=_normal,
            attention=RelativeAttention,
        )

    @linen.compact
    def __call__(
        self, tokens: Shaped[Array, "B T"], memory: SegmentMemory | None = None, train: bool = False
    ) -> tuple[Float[Array, "B T V"], SegmentMemory]:
        """Logits of each next token, and the memory after the last.

        Args:
          tokens: the next segment of each text, in [0, V); a token outside gives NaN.
          memory: what was remembered of the segments before; None for nothing. One of zeros is nothing, too.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: options out of range, a memory of another model. TypeError: tokens that are not whole numbers.
        """
        for name in ("vocab_size", "num_layers", "num_heads", "width"):
            check_int("TransformerXL", name, getattr(self, name), minimum=1)
        check_int("TransformerXL", "memory_size", self.memory_size)
        check_range("TransformerXL", "dropout_rate", self.dropout_rate, 0, 1)
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(f"TransformerXL: tokens must be whole numbers, got {tokens.dtype}")
        embed = linen.Embed(self.vocab_size, self.width, embedding_init=_normal, name="embed")
        # As in the paper's code: what tells tokens apart must not drown in what the first layer adds.
        h = linen.Dropout(self.dropout_rate, deterministic=not train)(embed(tokens) * self.width**0.5)
        shape = (len(tokens), self.num_layers, self.memory_size, self.width)
        if memory is None:
            memory = SegmentMemory.empty(num_layers=shape[1], batch=shape[0], size=shape[2], width=shape[3], dtype=h.dtype)
        if memory.states.shape != shape:
            raise ValueError(f"TransformerXL: memory must hold states [B, L, M, D] = {shape}, got {memory.states.shape}")
        stack = Transformer(self.config, self.num_layers, is_unrolled=self.is_unrolled, remat=self.remat, name="decoder")
        h, memory = stack(h, cache=memory, train=train)
        h = linen.Dropout(self.dropout_rate, deterministic=not train)(h)
        head = None if self.is_tied else Dense(self.vocab_size, use_bias=False, kernel_init=_normal, name="head")
        return row_product(h, embed.embedding.T) if head is None else head(h), memory


_normal = linen.initializers.normal(0.02)
