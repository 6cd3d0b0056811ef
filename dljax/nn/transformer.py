"""The Transformer: one stack of layers, of which BERT, GPT-2, Llama, T5 and ViT are settings (Vaswani et al., 2017)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from dljax.core.checks import check_choice, check_int
from dljax.nn.attention import attention, attention_reading, attention_weights, both, causal_mask
from dljax.nn.dense import Dense, Projection, projected
from dljax.nn.key_value_cache import KeyValueCache
from dljax.nn.normalisation import norm_layer
from dljax.nn.positions import alibi
from dljax.nn.transformer_config import TransformerConfig

__all__ = ["Attention", "FeedForward", "Transformer", "TransformerConfig", "TransformerLayer"]


class Attention(linen.Module):
    """Multi-head attention with the settings of a `TransformerConfig`: of a sequence to itself, or to a memory.

    The projections `query`, `key` and `value` have kernels of their own and are computed as one product; `out` projects the heads back. The weights
    [B, H, T, S] are sown as `attention` into the collection `intermediates` where that is asked for.

    >>> layer = Attention(TransformerConfig(num_heads=2))
    >>> (y, _), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> y.shape, sorted(variables["params"])
    ((2, 5, 8), ['key', 'out', 'query', 'value'])
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
        memory: Any = None,
        past: Any = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], tuple[Array, Array]]:
        """The heads' readings, projected back, and the keys and values [B, S, G, F] they were read from.

        Args:
          mask, bias: as for `dljax.nn.attention_weights`, the mask on top of causality.
          positions: of `x`, [B, T], for rotary positions; None for 0 ... T - 1.
          memory: what is read instead of `x`: a sequence [B, S, M], or a pair, its keys and values.
          past: the keys and values [B, C, G, F] of a cache and the place from which those of `x` are written into it; all of it is then read and
            returned. `mask` and `bias` are those of C read positions, and the mask has causality in it.
          train: whether to drop weights.
        """
        c, (batch, length, width) = self.config, x.shape
        size = c.size_of_head(width)
        has_bias = c.use_bias if c.use_attention_bias is None else c.use_attention_bias
        to_query = Projection(c.num_heads * size, has_bias, c.query_init or c.kernel_init, name="query")
        to_key, to_value = (Projection(c.groups * size, has_bias, c.kernel_init, name=name) for name in ("key", "value"))
        if memory is None:
            query, key, value = projected(x, to_query, to_key, to_value)
        else:
            (query,) = projected(x, to_query)
            key, value = memory if isinstance(memory, tuple) else projected(memory, to_key, to_value)
        query = query.reshape(batch, length, c.num_heads, size)
        key, value = (part.reshape(batch, part.shape[1], c.groups, size) for part in (key, value))
        if c.rotary is not None and memory is None:
            places = jnp.broadcast_to(jnp.arange(length), (batch, length)) if positions is None else positions
            query, key = c.rotary(query, places), c.rotary(key, places)
        if past is not None:
            # Written first and then read: the cache is changed in place.
            *old, place = past
            key, value = (
                lax.dynamic_update_slice_in_dim(kept, new.astype(kept.dtype), place, 1) for kept, new in zip(old, (key, value), strict=True)
            )
        causality: Any = {"is_causal": True, "window": c.window} if c.is_causal and memory is None and past is None else {}
        if not (train and c.attention_dropout_rate > 0) and not self.is_mutable_collection("intermediates"):
            y = attention(query, key, value, mask, bias=bias, scale=c.scale, **causality)
        else:
            if causality:
                mask = both(causal_mask(length, window=c.window), mask)
            weights = attention_weights(query, key, mask, bias=bias, scale=c.scale)
            self.sow("intermediates", "attention", weights)
            y = attention_reading(linen.Dropout(c.attention_dropout_rate, deterministic=not train)(weights), value)
        out = Dense(width, use_bias=has_bias, kernel_init=c.out_init or c.kernel_init, name="out")
        return out(y.reshape(batch, length, -1)), (key, value)

    @linen.nowrap
    def empty_cache(self, *, width: int, **options: Any) -> KeyValueCache:
        """What a stack with this attention keeps of a text, when it has read nothing; options as for `KeyValueCache.empty`."""
        return KeyValueCache.empty(num_groups=self.config.groups, head_size=self.config.size_of_head(width), **options)


class FeedForward(linen.Module):
    """The feed-forward part of a layer: W₂ act(x W₁) with the matrices `up` and `down`, or gated, W₂ (act(x W₁) · (x W₃)) with `gate`, `up`, `down`.

    >>> layer = FeedForward(TransformerConfig(num_heads=1, is_gated=True, hidden=6))
    >>> sorted(layer.init(jax.random.key(0), jnp.ones((2, 5, 4)))["params"])
    ['down', 'gate', 'up']
    """

    config: TransformerConfig

    @linen.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool = False) -> Float[Array, "B T D"]:
        c, width = self.config, x.shape[-1]
        hidden = 4 * width if c.hidden is None else c.hidden
        up = Projection(hidden, c.use_bias, c.kernel_init, name="up")
        if c.is_gated:
            gates, units = projected(x, Projection(hidden, c.use_bias, c.kernel_init, name="gate"), up)
            units = c.activation(gates) * units
        else:
            units = c.activation(projected(x, up)[0])
        units = linen.Dropout(c.hidden_dropout_rate, deterministic=not train)(units)
        return Dense(width, use_bias=c.use_bias, kernel_init=c.out_init or c.kernel_init, name="down")(units)


class TransformerLayer(linen.Module):
    """One layer: attention, attention to the memory where there is one, and the feed-forward part, each with its norm and residual connection.

    >>> layer = TransformerLayer(TransformerConfig(num_heads=2))
    >>> (y, _), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> y.shape, sorted(variables["params"])
    ((2, 5, 8), ['attention', 'attention_norm', 'feed_forward', 'feed_forward_norm'])
    """

    config: TransformerConfig

    @linen.compact
    def __call__(
        self,
        h: Float[Array, "B T D"],
        past: Any = None,
        memory: Any = None,
        shared: dict[str, Any] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], tuple[Any, Any]]:
        """The stream after the layer; the keys and values of its positions, and those of the memory, None where there is none.

        Args:
          past, memory: as for `Attention`.
          shared: what is the same for all layers: `mask`, `bias`, `positions` and `memory_mask`, each as for `Attention`.
        """
        c, shared = self.config, dict(shared or {})
        memory_mask = shared.pop("memory_mask", None)
        h, own = self._added("attention", (c.attention or Attention)(c, name="attention"), h, train, past=past, **shared)
        remembered = None
        if c.has_memory:
            h, remembered = self._added("memory", Attention(c, name="memory"), h, train, mask=memory_mask, memory=memory)
        part = (FeedForward if c.feed_forward is None else c.feed_forward)(c, name="feed_forward")
        h, _ = self._added("feed_forward", lambda x, train: (part(x, train=train), None), h, train)
        return h, (own, remembered)

    def _added(self, name: str, part: Callable[..., tuple[Array, Any]], h: Array, train: bool, **options: Any) -> tuple[Array, Any]:
        c = self.config
        norm = norm_layer(c.norm, c.epsilon, name=f"{name}_norm")
        y, kept = part(norm(h) if c.norm_first else h, train=train, **options)
        total = h + linen.Dropout(c.dropout_rate, deterministic=not train)(y)
        return (total if c.norm_first else norm(total)), kept


class Transformer(linen.Module):
    """A stack of Transformer layers, scanned: their parameters are stacked along a leading axis, `[L, ...]`.

    Where the norms come first, the stream is normalised once more at the end (`norm`).

    Attributes:
      config: what the layers are like.
      num_layers: L >= 1.
      is_shared: whether all layers have the same parameters, without a leading axis (ALBERT).
      is_unrolled: whether the scan is written out layer by layer; None for up to 12 layers. On a CPU a training step is then faster, by 13 % with 4
        layers and 24 % with 8; a rolled scan is quicker to compile, in a time that does not grow with the depth.
      remat: what the backward pass computes anew instead of keeping it: None for nothing, "full" for all of a layer, or the name of one of
        `jax.checkpoint_policies`, such as "dots_with_no_batch_dims_saveable".

    Source: Vaswani et al. (2017), Attention is all you need; Xiong et al. (2020), On layer normalization in the Transformer architecture.

    >>> stack = Transformer(TransformerConfig(num_heads=2, is_causal=True), num_layers=3)
    >>> y, variables = jax.jit(stack.init_with_output)(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> y.shape, variables["params"]["layers"]["feed_forward"]["up"]["kernel"].shape
    ((2, 5, 8), (3, 8, 32))
    """

    config: TransformerConfig
    num_layers: int
    is_shared: bool = False
    is_unrolled: bool | None = None
    remat: str | None = None

    @linen.compact
    def __call__(
        self,
        h: Float[Array, "B T D"],
        mask: Bool[Array, "..."] | None = None,
        *,
        bias: Float[Array, "..."] | None = None,
        positions: Int[Array, "B T"] | None = None,
        memory: Float[Array, "B S M"] | None = None,
        memory_mask: Bool[Array, "B S"] | None = None,
        cache: Any = None,
        train: bool = False,
    ) -> Any:
        """The stream after the last layer; with a cache a pair, the stream and the cache with these positions in it.

        Args:
          mask: True where t may read s, on top of causality; it broadcasts to [B, H, T, T]: `mask[:, None, None]` of a padding mask [B, T].
          bias: added to the scores of every layer; with a cache that of all its positions, [..., T, C].
          positions: None for 0 ... T - 1, with a cache for those that follow it.
          memory: what the layers attend to besides, an encoder's output; a cache remembers it, and later calls leave it out.
          memory_mask: True where the memory is no padding.
          cache: from `KeyValueCache.empty`, or what else the attention keeps; only for causal stacks.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: a mask beside a cache, a cache of a stack that is not causal or that has not enough room, a memory that is missing or not
            asked for.
        """
        c, length = self.config, h.shape[1]
        check_int("Transformer", "num_layers", self.num_layers, minimum=1)
        if cache is not None:
            if mask is not None or not c.is_causal:
                raise ValueError("Transformer: a cache goes with a causal stack and takes no mask: it knows what is padding (`KeyValueCache.empty`)")
            if cache.size is not None and length > cache.size:
                raise ValueError(f"Transformer: the cache has room for {cache.size} positions, got {length}; make a larger one")
            positions = cache.positions(length) if positions is None else positions
            mask = cache.mask(length, window=c.window)
            memory_mask = cache.memory_mask if memory is None else memory_mask
        remembered = None if cache is None or memory is not None else cache.memory
        if c.has_memory != (memory is not None or remembered is not None):
            raise ValueError(f"Transformer: has_memory={c.has_memory}, but a memory was {'not ' if c.has_memory else ''}given")
        if c.has_alibi:
            places = jnp.arange(length) if positions is None else positions
            distance = alibi(c.num_heads, places, places if cache is None else cache.all_positions)
            bias = distance if bias is None else bias + distance
        shared = {"mask": mask, "bias": bias, "positions": positions}
        shared["memory_mask"] = None if memory_mask is None else memory_mask[:, None, None]
        is_unrolled = self.num_layers <= 12 if self.is_unrolled is None else self.is_unrolled
        layer: Any = TransformerLayer
        if self.remat is not None:
            layer = linen.remat(layer, policy=_policy(self.remat), prevent_cse=is_unrolled, static_argnums=(5,))
        axes: dict[Any, Any] = {"intermediates": 0, "losses": 0}
        stack = linen.scan(
            layer,
            length=self.num_layers,
            variable_axes=axes if self.is_shared else {"params": 0, **axes},
            variable_broadcast="params" if self.is_shared else False,
            split_rngs={"params": not self.is_shared, "dropout": True},
            in_axes=(0, linen.broadcast if remembered is None else 0, linen.broadcast, linen.broadcast),
            unroll=self.num_layers if is_unrolled else 1,
        )(c, name="layers")
        past = None if cache is None else cache.layers
        h, (own, seen) = stack(h, past, memory if remembered is None else remembered, shared, train)
        if c.norm_first:
            h = norm_layer(c.norm, c.epsilon, name="norm")(h)
        if cache is None:
            return h
        return h, cache.after(own, length, memory=seen, memory_mask=memory_mask)


def _policy(name: str) -> Any:
    names = ("full", *(name for name in vars(jax.checkpoint_policies) if not name.startswith("_")))
    check_choice("Transformer", "remat", name, names)
    return None if name == "full" else getattr(jax.checkpoint_policies, name)
