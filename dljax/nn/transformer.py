"""The Transformer: one stack of layers, of which BERT, GPT-2, Llama, T5 and ViT are settings (Vaswani et al., 2017)."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from dljax.core.checks import check_choice, check_int, check_range
from dljax.nn.attention import attention, attention_reading, attention_weights, causal_mask
from dljax.nn.dense import Dense, promote_to_kernel
from dljax.nn.key_value_cache import KeyValueCache
from dljax.nn.positions import Rotary, alibi
from dljax.nn.product import row_product

_INIT = linen.initializers.lecun_normal()


@dataclass(frozen=True)
class TransformerConfig:
    """What the layers of a Transformer are like.

    Attributes:
      num_heads: H, heads of the queries, >= 1.
      num_groups: G, heads of the keys and values, a divisor of H; None for H, 1 for multi-query attention.
      head_size: numbers a head; None for the width D / H, which then must be whole.
      hidden: units of the feed-forward part; None for 4 D.
      activation: of the feed-forward part.
      is_gated: whether its units are gated, W₃ (act(x W₁) · (x W₂)) in place of W₂ act(x W₁): SwiGLU with `jax.nn.silu` (Shazeer, 2020).
      norm: "layer" (mean and variance, with bias) or "rms" (no mean, no bias; Zhang & Sennrich, 2019).
      norm_first: whether each part reads the normalised stream and adds to it, h + f(N(h)), or the sum is normalised, N(h + f(h)).
      epsilon: added to the variance.
      use_bias, use_attention_bias: whether the products of the feed-forward part and of the attention have biases; the latter as the former where
        it is None.
      scale: of the attention's scores; None for 1/√head_size.
      is_causal: whether a position reads only itself and earlier ones.
      window: with `is_causal`, how many positions are read at most, itself the last; None for all.
      has_memory: whether each layer also attends to a memory: the decoder of an encoder-decoder.
      rotary: rotary positions, or None.
      has_alibi: whether scores fall with the distance (`alibi`).
      dropout_rate: the fraction of each part's outputs that is dropped in training, in [0, 1].
      attention_dropout_rate, hidden_dropout_rate: of the attention's weights, and of the units of the feed-forward part.
      kernel_init, out_init, query_init: of all matrices, of those on the way back into the stream, and of the queries' (T5's start smaller, for its
        scores are not scaled); `kernel_init` where None.
      feed_forward: makes of the config, and a `name`, a module `(x, train) -> y` that takes the feed-forward part's place:
        `partial(MixtureOfExperts, num_experts=8)`.
    Raises:
      ValueError: options out of range or at odds.

    >>> TransformerConfig(num_heads=4, num_groups=2).num_groups
    2
    """

    num_heads: int
    num_groups: int | None = None
    head_size: int | None = None
    hidden: int | None = None
    activation: Callable[[Array], Array] = jax.nn.gelu
    is_gated: bool = False
    norm: Literal["layer", "rms"] = "layer"
    norm_first: bool = True
    epsilon: float = 1e-5
    use_bias: bool = True
    use_attention_bias: bool | None = None
    scale: float | None = None
    is_causal: bool = False
    window: int | None = None
    has_memory: bool = False
    rotary: Rotary | None = None
    has_alibi: bool = False
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    hidden_dropout_rate: float = 0.0
    kernel_init: Callable[..., Any] = _INIT
    out_init: Callable[..., Any] | None = None
    query_init: Callable[..., Any] | None = None
    feed_forward: Callable[..., linen.Module] | None = None

    def __post_init__(self) -> None:
        for name in ("num_heads", "num_groups", "head_size", "hidden", "window"):
            if getattr(self, name) is not None:
                check_int("TransformerConfig", name, getattr(self, name), minimum=1)
        for name in ("dropout_rate", "attention_dropout_rate", "hidden_dropout_rate"):
            check_range("TransformerConfig", name, getattr(self, name), 0, 1)
        check_range("TransformerConfig", "epsilon", self.epsilon, 0)
        check_choice("TransformerConfig", "norm", self.norm, ("layer", "rms"))
        if self.num_heads % self.groups:
            raise ValueError(f"TransformerConfig: num_groups must divide num_heads={self.num_heads}, got {self.num_groups}")
        if self.window is not None and not self.is_causal:
            raise ValueError("TransformerConfig: window needs is_causal=True: it says how many positions back one reads")

    @property
    def groups(self) -> int:
        """G, heads of the keys and values."""
        return self.num_heads if self.num_groups is None else self.num_groups

    def size_of_head(self, width: int) -> int:
        """Numbers a head in a stream of this width.

        Raises:
          ValueError: the heads do not divide the width.
        """
        if self.head_size is None and width % self.num_heads:
            raise ValueError(f"Transformer: num_heads must divide the width {width}, got {self.num_heads}; or give head_size")
        return width // self.num_heads if self.head_size is None else self.head_size


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
        to_query = _Projection(c.num_heads * size, has_bias, c.query_init or c.kernel_init, name="query")
        to_key, to_value = (_Projection(c.groups * size, has_bias, c.kernel_init, name=name) for name in ("key", "value"))
        if memory is None:
            query, key, value = _projected(x, to_query, to_key, to_value)
        else:
            (query,) = _projected(x, to_query)
            key, value = memory if isinstance(memory, tuple) else _projected(memory, to_key, to_value)
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
        up = _Projection(hidden, c.use_bias, c.kernel_init, name="up")
        if c.is_gated:
            gates, units = _projected(x, _Projection(hidden, c.use_bias, c.kernel_init, name="gate"), up)
            units = c.activation(gates) * units
        else:
            units = c.activation(_projected(x, up)[0])
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
        h, own = self._added("attention", Attention(c, name="attention"), h, train, past=past, **shared)
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
        cache: KeyValueCache | None = None,
        train: bool = False,
    ) -> Any:
        """The stream after the last layer; with a cache a pair, the stream and the cache with these positions in it.

        Args:
          mask: True where t may read s, on top of causality; it broadcasts to [B, H, T, T]: `mask[:, None, None]` of a padding mask [B, T].
          bias: added to the scores of every layer; with a cache that of all its positions, [..., T, C].
          positions: None for 0 ... T - 1, with a cache for those that follow it.
          memory: what the layers attend to besides, an encoder's output; a cache remembers it, and later calls leave it out.
          memory_mask: True where the memory is no padding.
          cache: from `KeyValueCache.empty`; only for causal stacks.
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
            if length > cache.size:
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
        past = None if cache is None else (cache.key, cache.value, jnp.broadcast_to(cache.length, (self.num_layers,)))
        h, ((key, value), seen) = stack(h, past, memory if remembered is None else remembered, shared, train)
        if c.norm_first:
            h = norm_layer(c.norm, c.epsilon, name="norm")(h)
        if cache is None:
            return h
        return h, cache._replace(key=key, value=value, length=cache.length + length, memory=seen, memory_mask=memory_mask)


def norm_layer(norm: str, epsilon: float, *, name: str | None = None) -> linen.Module:
    """Layer norm ("layer", linen's `LayerNorm(use_fast_variance=False)`) or root mean square norm ("rms", linen's `RMSNorm`), over the last axis.

    >>> norm_layer("rms", 1e-6).init_with_output(jax.random.key(0), jnp.full((1, 2), 3.0))[0].round(3).tolist()
    [[1.0, 1.0]]
    """
    check_choice("norm_layer", "norm", norm, ("layer", "rms"))
    return linen.RMSNorm(epsilon=epsilon, name=name) if norm == "rms" else _LayerNorm(epsilon, name=name)


def both(mask: Bool[Array, "..."] | None, other: Bool[Array, "..."] | None) -> Bool[Array, "..."] | None:
    """What two masks allow, None being one that allows everything.

    >>> both(None, jnp.array([True])).tolist(), both(jnp.array([True, False]), jnp.array([[True, True]])).tolist()
    ([True], [[True, False]])
    """
    if mask is None or other is None:
        return other if mask is None else mask
    return jnp.logical_and(*jnp.broadcast_arrays(mask, other))


class _LayerNorm(linen.Module):
    epsilon: float

    @linen.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        scale, bias = (self.param(name, init, x.shape[-1:], jnp.float32) for name, init in (("scale", _ONES), ("bias", _ZEROS)))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        rate = lax.rsqrt(_variance(wide) + self.epsilon)
        y = (wide - wide.mean(-1, keepdims=True)) * rate * jnp.expand_dims(scale, range(x.ndim - 1)) + jnp.expand_dims(bias, range(x.ndim - 1))
        return y.astype(jnp.result_type(x, scale, bias))


@jax.custom_jvp
def _variance(x: Float[Array, "*B D"]) -> Float[Array, "*B 1"]:
    # The quick form E x² - (E x)² loses all digits where the mean is large, as in a deep stream.
    return jnp.square(x - x.mean(-1, keepdims=True)).mean(-1, keepdims=True)


@_variance.defjvp
def _variance_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # The mean's own derivative adds nothing, and is left out: a training step of a small GPT takes some per cent less.
    (x,), (dx,) = primals, tangents
    centred = x - x.mean(-1, keepdims=True)
    return jnp.square(centred).mean(-1, keepdims=True), 2 * (centred * dx).mean(-1, keepdims=True)


_ONES, _ZEROS = linen.initializers.ones_init(), linen.initializers.zeros_init()


class _Projection(linen.Module):
    """The parameters of a `Dense` layer, so that several of the same input can be one product."""

    features: int
    use_bias: bool
    kernel_init: Callable[..., Any]

    @linen.compact
    def __call__(self, size: int) -> tuple[Array, Array | None]:
        kernel = self.param("kernel", self.kernel_init, (size, self.features), jnp.float32)
        return kernel, self.param("bias", _ZEROS, (self.features,), jnp.float32) if self.use_bias else None


def _projected(x: Float[Array, "*B D"], *projections: _Projection) -> list[Array]:
    kernels, biases = zip(*(projection(x.shape[-1]) for projection in projections), strict=True)
    kernel = kernels[0] if len(kernels) == 1 else jnp.concatenate(kernels, -1)
    bias = None if biases[0] is None else jnp.concatenate(biases)
    x, kernel, bias = promote_to_kernel(x, kernel, bias)
    y = row_product(x, kernel)
    y = y if bias is None else y + jnp.expand_dims(bias, range(y.ndim - 1))
    ends = list(itertools.accumulate(projection.features for projection in projections))
    return jnp.split(y, ends[:-1], -1)


def _policy(name: str) -> Any:
    names = ("full", *(name for name in vars(jax.checkpoint_policies) if not name.startswith("_")))
    check_choice("Transformer", "remat", name, names)
    return None if name == "full" else getattr(jax.checkpoint_policies, name)
