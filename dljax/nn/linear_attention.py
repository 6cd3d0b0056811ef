"""Linear attention (Katharopoulos et al., 2020): products of features in place of the softmax, at a cost linear in the length."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dljax.core.checks import check_int
from dljax.nn.attention import causal_mask

type_aliases = ("Features",)

Features = Callable[[Array], Array]  # [..., D] -> [..., E]


class LinearAttentionState(NamedTuple):
    """All that linear attention keeps of what it has read, in a size that does not grow.

    Attributes:
      moments: Σ_s φ(k_s) v_sᵀ, [*B, G, E, F].
      total: Σ_s φ(k_s), [*B, G, E].
    """

    moments: Float[Array, "*B G E F"]
    total: Float[Array, "*B G E"]


def elu_features(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """The features of the paper, φ(x) = elu(x) + 1: x + 1 where x > 0 and e^x elsewhere.

    Positive down to x = -87 in float32, which 1 + elu(x), computed as it is written, is only to -17.

    Source: Katharopoulos et al. (2020), eq. 7.

    >>> elu_features(jnp.array([0.0, 2.0])).tolist()
    [1.0, 3.0]
    """
    # Within the `where`, or the branch that is not taken overflows and its gradient is NaN.
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.where(x > 0, 0, x)))


def linear_attention(
    query: Float[Array, "..."],  # [*B, T, H, D]
    key: Float[Array, "..."],  # [*B, S, G, D]
    value: Float[Array, "..."],  # [*B, S, G, F]
    mask: Bool[Array, "..."] | None = None,  # [*B, S]
    *,
    feature_map: Features = elu_features,
    turn: Features | None = None,
    is_causal: bool = False,
    chunk: int = 64,
) -> Float[Array, "*B T H F"]:
    """What each position t reads, in time and memory that grow with T and not with T².

      y_t = (Σ_s v_s φ(k_s)ᵀ) φ(q_t) / (Σ_s φ(k_s)ᵀ φ(q_t))

    Args:
      query, key, value: as for `dljax.nn.attention`; G divides H, and each head of the keys serves H/G heads of the queries.
      mask: True where s may be read. A position that may read nothing reads zeros.
      feature_map: φ, of the last axis, to numbers >= 0 that are not all zero.
      turn: rotary positions: applied to φ(q) and φ(k), [*B, T, H, E], but not below the fraction, where the sum must stay positive.
      is_causal: whether s runs to t only; then T = S.
      chunk: with `is_causal`, how many positions are read as a square of weights, >= 1; changes the cost and not the values.
    Returns:
      Readings in the queries' dtype, computed in float32 at least.
    Raises:
      ValueError: heads, sizes or the mask do not fit; a chunk < 1; causal with T ≠ S.
    Source: Katharopoulos et al. (2020), Transformers are RNNs, eq. 5-6 and 10-12; Su et al. (2021), RoFormer, eq. 19, for `turn`.

    >>> x = jnp.arange(6.0).reshape(3, 1, 2)
    >>> linear_attention(jnp.zeros_like(x), jnp.zeros_like(x), x).tolist()  # all alike: the mean of the values
    [[[2.0, 3.0]], [[2.0, 3.0]], [[2.0, 3.0]]]
    """
    if is_causal:
        return causal_linear_attention(query, key, value, mask, feature_map=feature_map, turn=turn, chunk=chunk)[0]
    (q, turned_q), (k, turned_k), v = _features(query, key, value, mask, feature_map, turn)
    state = LinearAttentionState(jnp.einsum("...sge,...sgf->...gef", turned_k, v), k.sum(-3))
    y = jnp.einsum("...tgre,...gef->...tgrf", turned_q, state.moments)
    return _divided(y, jnp.einsum("...tgre,...ge->...tgr", q, state.total)).astype(query.dtype)


def causal_linear_attention(
    query: Float[Array, "..."],  # [*B, T, H, D]
    key: Float[Array, "..."],  # [*B, T, G, D]
    value: Float[Array, "..."],  # [*B, T, G, F]
    mask: Bool[Array, "..."] | None = None,  # [*B, T]
    *,
    state: LinearAttentionState | None = None,
    feature_map: Features = elu_features,
    turn: Features | None = None,
    chunk: int = 64,
) -> tuple[Float[Array, "*B T H F"], LinearAttentionState]:
    """Causal linear attention as a recurrence that reads T positions at once: with T = 1 one step of a recurrent net, whatever the length before it.

      S_t = S_{t-1} + φ(k_t) v_tᵀ,   z_t = z_{t-1} + φ(k_t),   y_t = S_tᵀ φ(q_t) / z_tᵀ φ(q_t)

    Within a chunk of positions this is a square of weights, below the diagonal; from chunk to chunk the sums are carried. In halves, quarters or
    one by one, positions are read as they are at once.

    Args:
      state: S_0 and z_0, what was read before; None for zeros.
      query, key, value, mask, feature_map, turn, chunk: as for `linear_attention`.
    Returns:
      The readings, and S_T and z_T in float32 at least.
    Raises:
      ValueError: as for `linear_attention`.
    Source: Katharopoulos et al. (2020), eq. 16-20; in chunks: Hua et al. (2022), Transformer quality in linear time, section 3.3.

    >>> x = jnp.arange(6.0).reshape(3, 1, 2)
    >>> y, state = causal_linear_attention(x, x, x)
    >>> first, half = causal_linear_attention(x[:2], x[:2], x[:2])
    >>> rest, same = causal_linear_attention(x[2:], x[2:], x[2:], state=half)
    >>> bool(jnp.allclose(jnp.concatenate([first, rest]), y)), same.moments.shape
    (True, (1, 2, 2))
    """
    check_int("linear_attention", "chunk", chunk, minimum=1)
    if query.shape[-3] != key.shape[-3]:
        raise ValueError(f"linear_attention: is_causal needs as many queries as keys, got {query.shape[-3]} and {key.shape[-3]}")
    (q, turned_q), (k, turned_k), v = _features(query, key, value, mask, feature_map, turn)
    *batch, length, groups, size = k.shape
    if state is None:
        state = LinearAttentionState(jnp.zeros((*batch, groups, size, v.shape[-1]), v.dtype), jnp.zeros((*batch, groups, size), k.dtype))
    chunk = max(1, min(chunk, length))
    num = -(-length // chunk)

    def cut(x: Array) -> Array:
        return jnp.pad(x, [(0, num * chunk - length), *[(0, 0)] * (x.ndim - 1)]).reshape(num, chunk, *x.shape[1:])

    def square(q: Array, k: Array) -> Array:
        weights = jnp.einsum("ntgre,nsge->ngrts", q, k)
        return jnp.where(causal_mask(chunk)[None, None, None], weights, 0)

    def running(before: Array, sums: Array) -> Array:
        return jnp.cumsum(jnp.concatenate([before.astype(sums.dtype)[None], sums]), 0)

    def one(parts: tuple[Array, ...], state: LinearAttentionState) -> tuple[Array, LinearAttentionState]:
        q, k, turned_q, turned_k, v = map(cut, parts)
        moments = running(state.moments, jnp.einsum("nsge,nsgf->ngef", turned_k, v))
        total = running(state.total, k.sum(1))
        above = square(turned_q, turned_k)
        below = above if turn is None else square(q, k)
        y = jnp.einsum("ngrts,nsgf->ntgrf", above, v) + jnp.einsum("ntgre,ngef->ntgrf", turned_q, moments[:-1])
        y = _divided(y, jnp.einsum("ngrts->ntgr", below) + jnp.einsum("ntgre,nge->ntgr", q, total[:-1]))
        return y.reshape(num * chunk, *y.shape[2:])[:length], LinearAttentionState(moments[-1], total[-1])

    for _ in batch:
        one = jax.vmap(one)
    y, after = one((q, k, turned_q, turned_k, v), state)
    return y.astype(query.dtype), after


def linear_attention_weights(
    query: Float[Array, "..."],  # [*B, T, H, D]
    key: Float[Array, "..."],  # [*B, S, G, D]
    mask: Bool[Array, "..."] | None = None,  # [*B, S]
    *,
    feature_map: Features = elu_features,
    turn: Features | None = None,
    is_causal: bool = False,
) -> Float[Array, "*B H T S"]:
    """How much each position t reads from each position s, to look at: the square that `linear_attention` does without.

      a_ts = φ(q_t)ᵀ φ(k_s) / Σ_s φ(q_t)ᵀ φ(k_s)

    They sum to 1 over s; with `turn` they need not, and may be negative. Arguments as for `linear_attention`.

    >>> q = jnp.ones((2, 1, 3))
    >>> linear_attention_weights(q, q, is_causal=True).tolist()
    [[[1.0, 0.0], [0.5, 0.5]]]
    """
    (q, turned_q), (k, turned_k), _ = _features(query, key, key, mask, feature_map, turn)
    below, above = (jnp.einsum("...tgre,...sge->...grts", *pair) for pair in ((q, k), (turned_q, turned_k)))
    if is_causal:
        allowed = jnp.expand_dims(causal_mask(q.shape[-4], k.shape[-3]), range(below.ndim - 2))
        below, above = (jnp.where(allowed, part, 0) for part in (below, above))
    total = below.sum(-1, keepdims=True)
    weights = (above / jnp.where(total == 0, 1, total)).astype(query.dtype)
    return weights.reshape(*weights.shape[:-4], -1, *weights.shape[-2:])


def _features(
    query: Array, key: Array, value: Array, mask: Array | None, feature_map: Features, turn: Features | None
) -> tuple[tuple[Array, Array], tuple[Array, Array], Array]:
    """φ(q) [*B, T, G, R, E] and φ(k) [*B, S, G, E], each as it is and turned, and the values, where nothing is left of what the mask forbids."""
    *batch, _, heads, size = query.shape
    *key_batch, length, groups, key_size = key.shape
    if size != key_size or batch != key_batch or groups == 0 or heads % groups or key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            "linear_attention: query, key and value must have the same batch, query and key the same size, key and value the same heads, which "
            f"must divide the query's, got {query.shape}, {key.shape} and {value.shape}"
        )
    if mask is not None and mask.shape != (*batch, length):
        raise ValueError(f"linear_attention: mask must say which keys may be read, {(*batch, length)}, got {mask.shape}")
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    q, k, v = feature_map(query.astype(dtype)), feature_map(key.astype(dtype)), value.astype(dtype)
    if mask is not None:
        k, v = (jnp.where(mask[..., None, None], part, 0) for part in (k, v))
    turned = (q, k) if turn is None else (turn(q), turn(k))
    q, turned_q = (part.reshape(*part.shape[:-2], groups, -1, part.shape[-1]) for part in (q, turned[0]))
    return (q, turned_q), (k, turned[1]), v


def _divided(y: Float[Array, "*B T G R F"], total: Float[Array, "*B T G R"]) -> Float[Array, "*B T H F"]:
    # Where nothing was read, both are zero.
    y = y / jnp.where(total == 0, 1, total)[..., None]
    return y.reshape(*y.shape[:-3], -1, y.shape[-1])
