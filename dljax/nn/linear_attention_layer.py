"""Linear attention as a layer of a Transformer, and what is kept of a text that is continued: as much after a million tokens as after one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Bool, Float, Int

from dljax.core.checks import check_int
from dljax.nn.dense import Dense, Projection, projected
from dljax.nn.linear_attention import (
    Features,
    LinearAttentionState,
    causal_linear_attention,
    elu_features,
    linear_attention,
    linear_attention_weights,
)
from dljax.nn.transformer_config import TransformerConfig


class LinearAttention(linen.Module):
    """Multi-head linear attention: what `TransformerConfig(attention=LinearAttention)` puts in the place of `dljax.nn.Attention`.

    The parameters are those of `Attention`. Of its settings there are no windows, biases, scales or dropped weights. Rotary positions turn the
    features above the fraction.

    Attributes:
      config: what the layers are like.
      feature_map, chunk: as for `linear_attention`; `attention=partial(LinearAttention, chunk=128)`.

    Source: Katharopoulos et al. (2020), Transformers are RNNs.

    >>> layer = LinearAttention(TransformerConfig(num_heads=2, is_causal=True))
    >>> (y, state), variables = jax.jit(layer.init_with_output)(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> y.shape, state.moments.shape, sorted(variables["params"])
    ((2, 5, 8), (2, 2, 4, 4), ['key', 'out', 'query', 'value'])
    """

    config: TransformerConfig
    feature_map: Features = elu_features
    chunk: int = 64

    @linen.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "..."] | None = None,
        bias: Float[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        past: LinearAttentionState | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """The heads' readings, projected back, and, where the stack is causal, the state behind the last position.

        Args:
          mask: True where a position is no padding; it broadcasts to [B, 1, 1, T].
          bias: None.
          positions: of `x`, [B, T], for rotary positions; None for 0 ... T - 1.
          past: the state before the first position; None for zeros.
        Raises:
          ValueError: settings that linear attention does not have, a bias, or a mask that differs from query to query or head to head.
        """
        c, (batch, length, width) = self.config, x.shape
        size = c.size_of_head(width)
        surplus = {"window": c.window, "scale": c.scale, "attention_dropout_rate": c.attention_dropout_rate or None, "bias": bias}
        for name, value in surplus.items():
            if value is not None:
                got = "an array" if name == "bias" else value
                raise ValueError(f"LinearAttention: there is no softmax on which {name} could act, got {got}; leave it out (a rate: 0)")
        has_bias = c.use_bias if c.use_attention_bias is None else c.use_attention_bias
        to_query = Projection(c.num_heads * size, has_bias, c.query_init or c.kernel_init, name="query")
        to_key, to_value = (Projection(c.groups * size, has_bias, c.kernel_init, name=name) for name in ("key", "value"))
        query, key, value = projected(x, to_query, to_key, to_value)
        query = query.reshape(batch, length, c.num_heads, size)
        key, value = (part.reshape(batch, length, c.groups, size) for part in (key, value))
        options: dict[str, Any] = {"feature_map": self.feature_map}
        if c.rotary is not None:
            rotary, places = c.rotary, jnp.broadcast_to(jnp.arange(length), (batch, length)) if positions is None else positions
            options["turn"] = lambda features: rotary(features, places)
        is_read = _of_keys(mask, batch, length)
        if self.is_mutable_collection("intermediates") and past is None:
            self.sow("intermediates", "attention", linear_attention_weights(query, key, is_read, is_causal=c.is_causal, **options))
        if c.is_causal:
            y, state = causal_linear_attention(query, key, value, is_read, state=past, chunk=self.chunk, **options)
        else:
            y, state = linear_attention(query, key, value, is_read, **options), None
        out = Dense(width, use_bias=has_bias, kernel_init=c.out_init or c.kernel_init, name="out")
        return out(y.reshape(batch, length, -1)), state

    @linen.nowrap
    def empty_cache(self, *, width: int, **options: Any) -> "LinearAttentionCache":
        """What a stack with this attention keeps of a text, when it has read nothing; options as for `LinearAttentionCache.empty`."""
        size = self.config.size_of_head(width)
        features = jax.eval_shape(self.feature_map, jax.ShapeDtypeStruct((size,), jnp.float32)).shape[-1]
        return LinearAttentionCache.empty(num_groups=self.config.groups, num_features=features, head_size=size, **options)


class LinearAttentionCache(NamedTuple):
    """The states of L layers of linear attention that read B sequences; as `KeyValueCache`, with no end to the room.

    Attributes:
      moments, total: as in `LinearAttentionState`, [L, B, G, E, F] and [L, B, G, E].
      length: how many places have been read, padding included.
      start: [B], how many of them are padding, on the left: place s of sequence b is its position s - start_b.

    >>> cache = LinearAttentionCache.empty(num_layers=2, batch=1, num_groups=1, num_features=3, head_size=3)
    >>> cache.moments.shape, cache.positions(2).tolist()
    ((2, 1, 1, 3, 3), [[0, 1]])
    """

    moments: Float[Array, "L B G E F"]
    total: Float[Array, "L B G E"]
    length: Int[Array, ""]
    start: Int[Array, "B"]
    memory = memory_mask = size = None  # type: ignore[misc]  # what a cache of keys and values has besides

    @classmethod
    def empty(
        cls,
        *,
        num_layers: int,
        batch: int,
        num_groups: int,
        num_features: int,
        head_size: int,
        size: int | None = None,
        start: Int[Array, "B"] | None = None,
        dtype: Any = jnp.float32,
    ) -> "LinearAttentionCache":
        """A cache that has read nothing.

        Args:
          num_layers, batch, num_groups, num_features, head_size: L, B, G, E, F, each >= 1.
          size: how many positions will be read; needs no room.
          start: of each sequence, how many of its first places will be padding; None for none.
          dtype: float32 where it is narrower: sums over a long text need the digits.
        Raises:
          ValueError: a size < 1.
        """
        sizes = {"num_layers": num_layers, "batch": batch, "num_groups": num_groups, "num_features": num_features, "head_size": head_size}
        shape = tuple(check_int("LinearAttentionCache", name, value, minimum=1) for name, value in sizes.items())
        dtype = jnp.promote_types(dtype, jnp.float32)
        start = jnp.zeros((batch,), jnp.int32) if start is None else start.astype(jnp.int32)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape[:-1], dtype), jnp.int32(0), start)

    @property
    def batch_axis(self) -> "LinearAttentionCache":
        """As of `KeyValueCache`."""
        return LinearAttentionCache(1, 1, None, 0)  # type: ignore[arg-type]

    @property
    def layers(self) -> LinearAttentionState:
        """What each layer is given of it."""
        return LinearAttentionState(self.moments, self.total)

    def after(self, layers: LinearAttentionState, num: int, *, memory: Any = None, memory_mask: Any = None) -> "LinearAttentionCache":
        """The cache when `num` positions have been read, with what each layer then has. A memory is not kept: it is given with every call."""
        return LinearAttentionCache(*layers, self.length + num, self.start)

    def positions(self, num: int) -> Int[Array, "B T"]:
        """The positions of the next `num` tokens of each sequence; padding has position 0."""
        return jnp.maximum(self.length + jnp.arange(num)[None] - self.start[:, None], 0)

    def mask(self, num: int, *, window: int | None = None) -> Bool[Array, "B 1 1 T"]:
        """True where one of the next `num` tokens is no padding."""
        return (self.length + jnp.arange(num)[None] >= self.start[:, None])[:, None, None]


def _of_keys(mask: Bool[Array, "..."] | None, batch: int, length: int) -> Bool[Array, "B T"] | None:
    if mask is None:
        return None
    shape = (1,) * (4 - mask.ndim) + mask.shape
    if shape[1:3] != (1, 1):
        raise ValueError(f"LinearAttention: mask must be the same for all heads and queries, [B, 1, 1, {length}], got {mask.shape}")
    return jnp.broadcast_to(mask.reshape(shape), (batch, 1, 1, length))[:, 0, 0]
