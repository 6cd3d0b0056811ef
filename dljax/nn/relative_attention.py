"""Attention of Transformer-XL (Dai et al., 2019): scores know distances, not places, so that a segment can read the states of those before it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from dljax.core.checks import check_int
from dljax.nn.attention import attention_reading, attention_scores, both, causal_mask, masked_softmax
from dljax.nn.dense import Dense, Projection, projected
from dljax.nn.positions import sinusoidal_positions
from dljax.nn.transformer_config import TransformerConfig


def relative_shift(x: Float[Array, "*B T K"]) -> Float[Array, "*B T K"]:
    """From columns by distance to columns by place, without a table of indices.

      y_ts = x_{t, s + T - 1 - t},   s <= t + K - T

    Column j of `x` speaks of the distance K - 1 - j, and the T reading positions are the last of the K places: place s lies t + K - T - s before
    position t. What stands at places behind the position has no meaning.

    Source: Dai et al. (2019), appendix B.

    >>> relative_shift(jnp.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])).tolist()  # positions 1 and 2 of three places
    [[1.0, 0.0, 0.0], [2.0, 1.0, 0.0]]
    """
    *batch, length, read = x.shape
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 0)])
    return padded.reshape(*batch, read + 1, length)[..., 1:, :].reshape(x.shape)


class RelativeAttention(linen.Module):
    """Multi-head attention with relative positions: what `TransformerConfig(attention=RelativeAttention)` puts in the place of `dljax.nn.Attention`.

      score_ts = ((W_q x_t + u)ᵀ W_k x_s + (W_q x_t + v)ᵀ W_r R_{t-s}) / √F,   R_d the waves of distance d

    The states that earlier segments left are read as well, and no gradient goes back into them. Parameters are those of `Attention` and, besides,
    `position` (W_r), `content_bias` (u) and `position_bias` (v), which each layer has for itself.

    Attributes:
      config: what the layers are like; causal.

    Source: Dai et al. (2019), Transformer-XL, section 3.3.

    >>> import jax
    >>> layer = RelativeAttention(TransformerConfig(num_heads=2, is_causal=True))
    >>> (y, _), variables = jax.jit(layer.init_with_output)(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> y.shape, sorted(variables["params"])
    ((2, 5, 8), ['content_bias', 'key', 'out', 'position', 'position_bias', 'query', 'value'])
    """

    config: TransformerConfig

    @linen.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "..."] | None = None,
        bias: Float[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        past: tuple[Float[Array, "B M D"]] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], tuple[Array]]:
        """The heads' readings, projected back, and what later segments read of this one: `x`.

        Args:
          mask, bias: as for `dljax.nn.Attention`; with a past of M + T read places, and the mask has causality in it.
          positions: of no matter: only distances count.
          past: the states of the M places before the segment.
          train: whether to drop weights.
        Raises:
          ValueError: a config that is not causal, or with rotary positions.
        """
        c, (batch, length, width) = self.config, x.shape
        if not c.is_causal or c.rotary is not None:
            raise ValueError(f"RelativeAttention: needs is_causal=True and rotary=None, got is_causal={c.is_causal} and rotary={c.rotary}")
        size, groups = c.size_of_head(width), c.groups
        has_bias = c.use_bias if c.use_attention_bias is None else c.use_attention_bias
        seen = x if past is None else jnp.concatenate([lax.stop_gradient(past[0]).astype(x.dtype), x], 1)
        read = seen.shape[1]
        to_query = Projection(c.num_heads * size, has_bias, c.query_init or c.kernel_init, name="query")
        to_key, to_value = (Projection(groups * size, has_bias, c.kernel_init, name=name) for name in ("key", "value"))
        to_position = Projection(c.num_heads * size, False, c.kernel_init, name="position")
        query = projected(x, to_query)[0].reshape(batch, length, c.num_heads, size)
        key, value = (part.reshape(batch, read, groups, size) for part in projected(seen, to_key, to_value))
        waves = sinusoidal_positions(jnp.arange(read)[::-1], width).astype(x.dtype)
        place = projected(waves, to_position)[0].reshape(read, c.num_heads, size)
        u, v = (self.param(name, c.kernel_init, (c.num_heads, size), jnp.float32) for name in ("content_bias", "position_bias"))
        u, v = (part.astype(query.dtype)[None, None] for part in (u, v))
        distance = jnp.einsum("bthf,khf->bhtk", query + v, place)
        scale = size**-0.5 if c.scale is None else c.scale
        scores = attention_scores(query + u, key, scale=scale) + relative_shift(distance) * scale
        if past is None:
            mask = both(causal_mask(length, window=c.window), mask)
        weights = masked_softmax(scores, mask, bias).astype(query.dtype)
        self.sow("intermediates", "attention", weights)
        y = attention_reading(linen.Dropout(c.attention_dropout_rate, deterministic=not train)(weights), value)
        out = Dense(width, use_bias=has_bias, kernel_init=c.out_init or c.kernel_init, name="out")
        return out(y.reshape(batch, length, -1)), (x,)


class SegmentMemory(NamedTuple):
    """What L layers of `RelativeAttention` read in the last M places before a segment of B sequences. All zeros: nothing was before.

    It is the cache of a `Transformer` with this attention, and the carry of `dljax.supervised.truncated_bptt`.

    Attributes:
      states: what each layer's attention read, the latest last, [B, L, M, D].
      length: [B], how many of them are filled, the last ones.

    >>> memory = SegmentMemory.empty(num_layers=1, batch=1, size=3, width=2)
    >>> later = memory.after((jnp.ones((1, 1, 2, 2)),), 2)
    >>> later.states[0, 0, :, 0].tolist(), later.mask(1)[0, 0].astype(int).tolist()
    ([0.0, 1.0, 1.0], [[0, 1, 1, 1]])
    """

    states: Float[Array, "B L M D"]
    length: Int[Array, "B"]
    memory = memory_mask = size = None  # type: ignore[misc]  # what a cache of keys and values has besides

    @classmethod
    def empty(cls, *, num_layers: int, batch: int, size: int, width: int, dtype: Any = jnp.float32) -> "SegmentMemory":
        """A memory of nothing.

        Args:
          num_layers, batch, width: L, B, D, each >= 1.
          size: M >= 0.
        Raises:
          ValueError: a size out of range.
        """
        least = {"batch": (batch, 1), "num_layers": (num_layers, 1), "size": (size, 0), "width": (width, 1)}
        shape = tuple(check_int("SegmentMemory", name, value, minimum=minimum) for name, (value, minimum) in least.items())
        return cls(jnp.zeros(shape, dtype), jnp.zeros(batch, jnp.int32))

    @property
    def layers(self) -> tuple[Float[Array, "L B M D"]]:
        """What each layer is given of it."""
        return (jnp.moveaxis(self.states, 1, 0),)

    def after(self, layers: tuple[Float[Array, "L B T D"]], num: int, *, memory: Any = None, memory_mask: Any = None) -> "SegmentMemory":
        """The memory when a segment of `num` places has been read, with what each layer's attention read of it; no gradient goes back."""
        new = jnp.moveaxis(lax.stop_gradient(layers[0]), 0, 1).astype(self.states.dtype)
        # The length stops at M: a stream has no end, and its count would overflow.
        return SegmentMemory(jnp.concatenate([self.states, new], 2)[:, :, num:], jnp.minimum(self.length + num, self.states.shape[2]))

    def positions(self, num: int) -> Int[Array, "B T"]:
        """The positions of the next `num` tokens, counted from the first that is remembered."""
        return self.length[:, None] + jnp.arange(num)[None]

    def mask(self, num: int, *, window: int | None = None) -> Bool[Array, "B 1 T K"]:
        """True where one of the next `num` tokens may read one of M + T places: what is remembered, not behind the token, within the window."""
        size = self.states.shape[2]
        places, read = size + jnp.arange(num)[:, None], jnp.arange(size + num)[None]
        before = read <= places
        if window is not None:
            before &= read > places - window
        return before[None, None] & (read >= size - self.length[:, None])[:, None, None]
