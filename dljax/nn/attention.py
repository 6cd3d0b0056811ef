"""Attention (Vaswani et al., 2017): every position reads from the others, weighted by how well its query meets their keys."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Bool, Float

from dljax.core.checks import check_int
from dljax.nn.product import row_product, traced_for_cpu


def attention_weights(
    query: Float[Array, "*B T H D"],
    key: Float[Array, "*B S G D"],
    mask: Bool[Array, "..."] | None = None,
    *,
    bias: Float[Array, "..."] | None = None,
    scale: float | None = None,
) -> Float[Array, "*B H T S"]:
    """How much each position t reads from each position s.

      a_ts = softmax_s(scale · q_t · k_s + b_ts)

    Args:
      query, key: D numbers for each of H heads at T reading, and of G heads at S read positions. G divides H: each head of the keys serves H/G heads
        of the queries in turn (grouped queries; Ainslie et al., 2023).
      mask: True where t may read s; it broadcasts to [*B, H, T, S]. A position that may read nothing reads everything alike.
      bias: added to the scores; it broadcasts to [*B, H, T, S].
      scale: of the scores; None for 1/√D.
    Returns:
      Weights >= 0 that sum to 1 over s, in the inputs' dtype; the softmax is computed in float32 at least.
    Raises:
      ValueError: heads or sizes differ.

    >>> q = jnp.ones((3, 1, 2))
    >>> attention_weights(q, q, causal_mask(3))[0, :2].tolist()
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    """
    return masked_softmax(attention_scores(query, key, scale=scale), mask, bias).astype(query.dtype)


def attention_scores(query: Float[Array, "..."], key: Float[Array, "..."], *, scale: float | None = None) -> Float[Array, "*B H T S"]:
    """How well each query meets each key, scale · q_t · k_s; arguments as for `attention_weights`.

    Raises:
      ValueError: heads or sizes differ.

    >>> attention_scores(jnp.ones((1, 2, 4)), jnp.ones((3, 1, 4))).tolist()
    [[[2.0, 2.0, 2.0]], [[2.0, 2.0, 2.0]]]
    """
    *batch, _, heads, size = query.shape
    *key_batch, _, groups, key_size = key.shape
    if size != key_size or batch != key_batch or groups == 0 or heads % groups:
        raise ValueError(
            f"attention: query and key must have the same batch and size, and the key's heads must divide the query's, "
            f"got {query.shape} and {key.shape}"
        )
    if heads == groups:
        scores = jnp.einsum("...thd,...shd->...hts", query, key)
    else:
        scores = jnp.einsum("...tgrd,...sgd->...grts", query.reshape(*query.shape[:-2], groups, -1, size), key)
        scores = scores.reshape(*batch, heads, *scores.shape[-2:])
    return scores / jnp.sqrt(size).astype(query.dtype) if scale is None else scores * scale


def masked_softmax(
    scores: Float[Array, "*B H T S"], mask: Bool[Array, "..."] | None = None, bias: Float[Array, "..."] | None = None
) -> Float[Array, "*B H T S"]:
    """The softmax of scores, in float32 at least, with `mask` and `bias` as for `attention_weights`.

    >>> masked_softmax(jnp.zeros((1, 1, 2)), jnp.array([True, False])).tolist()
    [[[1.0, 0.0]]]
    """
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if bias is not None:
        scores = scores + jnp.expand_dims(bias, range(scores.ndim - bias.ndim))
    if mask is not None:
        scores = jnp.where(jnp.expand_dims(mask, range(scores.ndim - mask.ndim)), scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores)


def attention_reading(weights: Float[Array, "*B H T S"], value: Float[Array, "*B S G F"]) -> Float[Array, "*B T H F"]:
    """The mean of the values under the weights, y_t = Σ_s a_ts v_s; the values' G heads serve the H heads of the weights as the keys do.

    >>> attention_reading(jnp.full((1, 1, 2), 0.5), jnp.array([[[2.0]], [[4.0]]])).tolist()
    [[[3.0]]]
    """
    *batch, heads, length, read = weights.shape
    groups, size = value.shape[-2:]
    if heads == groups:
        return jnp.einsum("...hts,...shf->...thf", weights, value)
    y = jnp.einsum("...grts,...sgf->...tgrf", weights.reshape(*batch, groups, -1, length, read), value)
    return y.reshape(*batch, length, heads, size)


def attention(
    query: Float[Array, "*B T H D"],
    key: Float[Array, "*B S G D"],
    value: Float[Array, "*B S G F"],
    mask: Bool[Array, "..."] | None = None,
    *,
    bias: Float[Array, "..."] | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    window: int | None = None,
) -> Float[Array, "*B T H F"]:
    """Scaled dot-product attention: the mean of the values under the weights.

      y_t = Σ_s a_ts v_s

    On an Nvidia GPU (Ampere or later), in half precision, without a mask or bias, with F = D <= 128 a multiple of 8, it is cuDNN's flash attention,
    whose memory grows with T and not with T·S; that one has no forward-mode and no second derivatives. Anywhere else it is written as two plain
    products: on the CPU their gradient is as fast as any of the fused forms.

    Args:
      query, key, mask, bias, scale: as for `attention_weights`.
      value: what is read, F numbers for each head of the keys.
      is_causal: whether t reads only s <= t, on top of the mask.
      window: with `is_causal`, how many positions t reads, itself the last: s > t - window (Beltagy et al., 2020); None for all. >= 1.
    Raises:
      ValueError: heads or sizes differ; a window < 1 or without causality.
    Source: Vaswani et al. (2017), Attention is all you need, eq. 1; Dao et al. (2022), FlashAttention.

    >>> x = jnp.arange(6.0).reshape(3, 1, 2)
    >>> attention(jnp.zeros_like(x), x, x).tolist()  # all alike: the mean of the values
    [[[2.0, 3.0]], [[2.0, 3.0]], [[2.0, 3.0]]]
    """
    if window is not None and not is_causal:
        raise ValueError("attention: window needs is_causal=True: it says how many positions back one reads")
    is_half = all(x.dtype in (jnp.bfloat16, jnp.float16) and x.dtype == query.dtype for x in (query, key, value))
    is_fitting = query.shape[-1] == key.shape[-1] and key.shape == value.shape and query.shape[-1] <= 128 and query.shape[-1] % 8 == 0
    is_plain = mask is None and bias is None and query.shape[:-3] == key.shape[:-3] and query.shape[-2] % key.shape[-2] == 0
    if is_half and is_fitting and is_plain and _has_flash_attention():
        one_batch = [x.reshape(-1, *x.shape[-3:]) for x in (query, key, value)]
        local = None if window is None else (window - 1, 0)
        y = jax.nn.dot_product_attention(*one_batch, scale=scale, is_causal=is_causal, local_window_size=local, implementation="cudnn")
        return y.reshape(query.shape)
    if is_causal:
        mask = both(mask, causal_mask(query.shape[-3], key.shape[-3], window=window))
    return attention_reading(attention_weights(query, key, mask, bias=bias, scale=scale), value)


def causal_mask(length: int, read: int | None = None, *, window: int | None = None) -> Bool[Array, "T S"]:
    """True where position t may read position s: t - window < s <= t.

    Args:
      length, read: T and S; S = T where it is None.
      window: how many positions are read at most, >= 1; None for all.

    >>> causal_mask(3).astype(int).tolist(), causal_mask(3, window=2).astype(int).tolist()
    ([[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 0, 0], [1, 1, 0], [0, 1, 1]])
    """
    mask = jnp.tril(jnp.ones((length, length if read is None else read), bool))
    return mask if window is None else mask & ~jnp.tril(mask, -check_int("causal_mask", "window", window, minimum=1))


def both(mask: Bool[Array, "..."] | None, other: Bool[Array, "..."] | None) -> Bool[Array, "..."] | None:
    """What two masks allow, None being one that allows everything.

    >>> both(None, jnp.array([True])).tolist(), both(jnp.array([True, False]), jnp.array([[True, True]])).tolist()
    ([True], [[True, False]])
    """
    if mask is None or other is None:
        return other if mask is None else mask
    return jnp.logical_and(*jnp.broadcast_arrays(mask, other))


class MultiHeadDotProductAttention(linen.MultiHeadDotProductAttention):
    """`flax.linen.MultiHeadDotProductAttention` with its projections on `row_product`: the same options, parameters and values.

    >>> layer = MultiHeadDotProductAttention(num_heads=2)
    >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> y.shape, variables["params"]["query"]["kernel"].shape
    ((2, 5, 8), (8, 2, 4))
    """

    qkv_dot_general: Any = row_product
    out_dot_general: Any = row_product


class MultiHeadAttention(MultiHeadDotProductAttention):
    """`MultiHeadDotProductAttention` by its other name, after which linen names its parameters."""


class SelfAttention(MultiHeadDotProductAttention):
    """`flax.linen.SelfAttention`, of which every position is query, key and value.

    >>> SelfAttention(num_heads=2).init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)))[0].shape
    (2, 5, 8)
    """

    @linen.compact
    def __call__(  # type: ignore[override]
        self, inputs_q: Any, mask: Any = None, deterministic: bool | None = None, dropout_rng: Any = None, sow_weights: bool = False
    ) -> Any:
        return super().__call__(inputs_q, mask=mask, deterministic=deterministic, dropout_rng=dropout_rng, sow_weights=sow_weights)


def _has_flash_attention() -> bool:
    """Whether what is traced now runs on an Nvidia GPU of compute capability 8 or more: cuDNN's flash attention needs one."""
    if traced_for_cpu() or jax.default_backend() != "gpu":
        return False
    major = str(getattr(jax.local_devices()[0], "compute_capability", "")).partition(".")[0]
    return major.isdecimal() and int(major) >= 8
