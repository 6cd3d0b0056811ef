"""Attention (Vaswani et al., 2017): every position reads from the others, weighted by how well its query meets their keys."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Bool, Float

from dljax.core.checks import check_int, check_range
from dljax.nn.dense import Dense
from dljax.nn.product import row_product, traced_for_cpu


def attention_weights(
    query: Float[Array, "*B T H D"], key: Float[Array, "*B S H D"], mask: Bool[Array, "..."] | None = None
) -> Float[Array, "*B H T S"]:
    """How much each position t reads from each position s.

      a_ts = softmax_s(q_t · k_s / √D)

    Args:
      query, key: D numbers for each of H heads at T reading and S read positions.
      mask: True where t may read s; it broadcasts to [*B, H, T, S]. A position that may read nothing reads everything alike.
    Returns:
      Weights >= 0 that sum to 1 over s, in the inputs' dtype; the softmax is computed in float32 at least.
    Raises:
      ValueError: heads or sizes differ.

    >>> q = jnp.ones((3, 1, 2))
    >>> attention_weights(q, q, causal_mask(3))[0, :2].tolist()
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    """
    if query.shape[-2:] != key.shape[-2:] or query.shape[:-3] != key.shape[:-3]:
        raise ValueError(f"attention: query and key must have the same batch, heads and size, got {query.shape} and {key.shape}")
    scores = jnp.einsum("...thd,...shd->...hts", query, key) / jnp.sqrt(query.shape[-1]).astype(query.dtype)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if mask is not None:
        scores = jnp.where(jnp.expand_dims(mask, range(scores.ndim - mask.ndim)), scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores).astype(query.dtype)


def attention(
    query: Float[Array, "*B T H D"],
    key: Float[Array, "*B S H D"],
    value: Float[Array, "*B S H F"],
    mask: Bool[Array, "..."] | None = None,
    *,
    is_causal: bool = False,
) -> Float[Array, "*B T H F"]:
    """Scaled dot-product attention: the mean of the values under the weights.

      y_t = Σ_s a_ts v_s

    On an Nvidia GPU (Ampere or later), in half precision, without a mask, with F = D <= 128 a multiple of 8, it is cuDNN's flash attention, whose
    memory grows with T and not with T·S; that one has no forward-mode and no second derivatives. Anywhere else it is written as two plain products:
    on the CPU their gradient is as fast as any of the fused forms.

    Args:
      query, key, mask: as for `attention_weights`.
      value: what is read, F numbers for each head.
      is_causal: whether t reads only s <= t, on top of the mask.
    Raises:
      ValueError: heads or sizes differ.
    Source: Vaswani et al. (2017), Attention is all you need, eq. 1; Dao et al. (2022), FlashAttention.

    >>> x = jnp.arange(6.0).reshape(3, 1, 2)
    >>> attention(jnp.zeros_like(x), x, x).tolist()  # all alike: the mean of the values
    [[[2.0, 3.0]], [[2.0, 3.0]], [[2.0, 3.0]]]
    """
    is_half = all(x.dtype in (jnp.bfloat16, jnp.float16) and x.dtype == query.dtype for x in (query, key, value))
    is_fitting = query.shape[-2:] == key.shape[-2:] and key.shape == value.shape and query.shape[-1] <= 128 and query.shape[-1] % 8 == 0
    if mask is None and is_half and is_fitting and query.shape[:-3] == key.shape[:-3] and _has_flash_attention():
        one_batch = [x.reshape(-1, *x.shape[-3:]) for x in (query, key, value)]
        return jax.nn.dot_product_attention(*one_batch, is_causal=is_causal, implementation="cudnn").reshape(query.shape)
    if is_causal:
        mask = _causal(mask, query.shape[-3], key.shape[-3])
    return _read(attention_weights(query, key, mask), value)


def causal_mask(length: int) -> Bool[Array, "T T"]:
    """True where position t may read position s: s <= t.

    >>> causal_mask(3).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    return jnp.tril(jnp.ones((length, length), bool))


class FusedSelfAttention(linen.Module):
    """Multi-head self-attention: queries, keys and values are one projection of the same positions, and the heads' readings are projected back.

    The weights [B, H, T, T] are sown as `attention` into the collection `intermediates` where that is asked for; else, and where none are dropped,
    they need not be computed, and the layer is as fast as `attention`.

    Attributes:
      num_heads: H, a divisor of the width D of the input.
      is_causal: whether a position reads only itself and earlier ones.
      dropout_rate: the fraction of weights that is dropped in training, in [0, 1]; it draws from the stream `dropout`.
      kernel_init, out_init: of the joint projection `qkv` [D, 3D] and of the projection back `out` [D, D].
    Raises:
      ValueError: when applied: `num_heads` does not divide D.

    >>> x = jnp.ones((2, 5, 8))
    >>> y, variables = FusedSelfAttention(num_heads=2).init_with_output(jax.random.key(0), x)
    >>> y.shape, jax.tree.map(jnp.shape, variables["params"]["qkv"])
    ((2, 5, 8), {'bias': (24,), 'kernel': (8, 24)})
    """

    num_heads: int
    is_causal: bool = True
    dropout_rate: float = 0.0
    kernel_init: Callable[..., Any] = linen.initializers.lecun_normal()
    out_init: Callable[..., Any] = linen.initializers.lecun_normal()

    @linen.compact
    def __call__(self, x: Float[Array, "*B T D"], mask: Bool[Array, "..."] | None = None, *, train: bool = False) -> Float[Array, "*B T D"]:
        """One number per position, head and size in, the same shape out.

        Args:
          mask: as for `attention_weights`, on top of causality.
          train: whether to drop weights.
        """
        *_, length, width = x.shape
        check_int("FusedSelfAttention", "num_heads", self.num_heads, minimum=1)
        check_range("FusedSelfAttention", "dropout_rate", self.dropout_rate, 0, 1)
        if width % self.num_heads:
            raise ValueError(f"FusedSelfAttention: num_heads must divide the width of the input, got {self.num_heads} heads and width {width}")
        qkv = Dense(3 * width, kernel_init=self.kernel_init, name="qkv")(x)
        query, key, value = jnp.split(qkv.reshape(*x.shape[:-1], 3 * self.num_heads, -1), 3, axis=-2)
        if self.is_mutable_collection("intermediates") or (train and self.dropout_rate > 0):
            weights = attention_weights(query, key, _causal(mask, length, length) if self.is_causal else mask)
            self.sow("intermediates", "attention", weights)
            y = _read(linen.Dropout(self.dropout_rate, deterministic=not train)(weights), value)
        else:
            y = attention(query, key, value, mask, is_causal=self.is_causal)
        return Dense(width, kernel_init=self.out_init, name="out")(y.reshape(x.shape))


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


def _causal(mask: Bool[Array, "..."] | None, length: int, read: int) -> Bool[Array, "..."]:
    causal = jnp.tril(jnp.ones((length, read), bool))
    return causal if mask is None else jnp.logical_and(*jnp.broadcast_arrays(mask, causal))


def _has_flash_attention() -> bool:
    """Whether what is traced now runs on an Nvidia GPU of compute capability 8 or more: cuDNN's flash attention needs one."""
    if traced_for_cpu() or jax.default_backend() != "gpu":
        return False
    major = str(getattr(jax.local_devices()[0], "compute_capability", "")).partition(".")[0]
    return major.isdecimal() and int(major) >= 8


def _read(weights: Float[Array, "*B H T S"], value: Float[Array, "*B S H F"]) -> Float[Array, "*B T H F"]:
    return jnp.einsum("...hts,...shf->...thf", weights, value)
