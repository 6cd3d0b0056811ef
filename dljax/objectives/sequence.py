"""Losses and distances of sequences that are not aligned with their targets."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from dljax.core.checks import check_int

_LOG_ZERO = -1e30  # finite, so that no gradient is inf - inf; far below the log-probability of any path


def ctc_loss(
    logits: Float[Array, "B ..."],
    labels: Shaped[Array, "..."],
    *,
    logit_mask: Shaped[Array, "..."] | None = None,
    label_mask: Shaped[Array, "..."] | None = None,
    blank: int = 0,
) -> Float[Array, " B"]:
    """Connectionist temporal classification: minus the log-probability of all paths that spell the labels, in nats.

      -log Σ_{π: collapse(π) = labels} Π_t p_t(π_t),   collapse: merge repeats, then remove blanks

    Args:
      logits: unnormalised log-probabilities at each of T times, [B, T, C].
      labels: [B, N], classes in [0, C) other than `blank`; another label gives NaN.
      logit_mask, label_mask: [B, T] and [B, N], 1 where a time or a label is real, 0 where it is padding, which may hold anything; real ones
        come first. None for all real.
      blank: the class that stands for nothing.
    Returns:
      One value a sequence: inf, without gradient, where the labels do not fit into its times; 0 where there are neither labels nor times.
    Raises:
      ValueError: shapes that do not match; labels that are no whole numbers; `blank` outside [0, C).
    Source: Graves et al. (2006), Connectionist Temporal Classification, eq. 5-8.

    >>> round(float(ctc_loss(jnp.zeros((1, 2, 2)), jnp.array([[1]]))[0]), 4)  # 3 of 4 paths spell it: log(4 / 3)
    0.2877
    """
    if logits.ndim != 3 or labels.ndim != 2 or len(labels) != len(logits) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"ctc_loss: logits must be [B, T, C] and labels whole numbers [B, N], got {logits.shape} and {labels.dtype}{list(labels.shape)}"
        )
    check_int("ctc_loss", "blank", blank, maximum=logits.shape[-1] - 1)
    masks: list[Array] = []
    for name, mask, shape in (("logit_mask", logit_mask, logits.shape[:2]), ("label_mask", label_mask, labels.shape)):
        if mask is not None and mask.shape != shape:
            raise ValueError(f"ctc_loss: {name} must have the shape {shape}, got {mask.shape}")
        masks.append(jnp.ones(shape, bool) if mask is None else jnp.asarray(mask, bool))
    return jax.vmap(partial(_one, blank=blank))(logits, labels, *masks)


def edit_distance(
    tokens: Int[Array, "*B T"],
    labels: Int[Array, "*B S"],
    *,
    lengths: Int[Array, "*B"] | None = None,
    label_lengths: Int[Array, "*B"] | None = None,
) -> Int[Array, "*B"]:
    """Levenshtein's distance: the fewest tokens to insert, delete or replace that turn one sequence into the other.

      d_ij = min(d_{i-1,j} + 1,  d_{i,j-1} + 1,  d_{i-1,j-1} + [x_i ≠ y_j]),   d_i0 = i,  d_0j = j

    Divided by the number of labels, both summed over a data set, it is the phoneme, word or character error rate.

    Args:
      tokens, labels: the two sequences, padded on the right.
      lengths, label_lengths: how many are real, in 0 ... T and 0 ... S; None for all.
    Returns:
      int32, one whole number a pair. A row of the table takes one step of T, for all columns and pairs at once.
    Raises:
      ValueError: the batches differ.
    Source: Wagner & Fischer (1974), The string-to-string correction problem, J. ACM 21.

    >>> words = [jnp.array([list(map(ord, word.ljust(7)))]) for word in ("kitten", "sitting")]
    >>> edit_distance(*words, lengths=jnp.array([6])).tolist()
    [3]
    """
    batch = tokens.shape[:-1]
    if labels.shape[:-1] != batch:
        raise ValueError(f"edit_distance: tokens and labels must be of one batch, got {tokens.shape} and {labels.shape}")
    lengths = jnp.full(batch, tokens.shape[-1]) if lengths is None else lengths
    label_lengths = jnp.full(batch, labels.shape[-1]) if label_lengths is None else label_lengths
    if lengths.shape != batch or label_lengths.shape != batch:
        raise ValueError(f"edit_distance: lengths must have the batch's shape {batch}, got {lengths.shape} and {label_lengths.shape}")
    places = jnp.arange(labels.shape[-1] + 1, dtype=jnp.int32)

    def one(tokens: Array, labels: Array, length: Array, label_length: Array) -> Array:
        def row(before: Array, given: tuple[Array, Array]) -> tuple[Array, None]:
            place, token = given
            best = jnp.minimum(before[1:] + 1, before[:-1] + (token != labels))
            # Going right costs one a column: the running minimum of what is left when that is subtracted.
            now = lax.cummin(jnp.concatenate([place[None] + 1, best]) - places) + places
            return jnp.where(place < length, now, before), None

        last, _ = lax.scan(row, places, (jnp.arange(len(tokens), dtype=jnp.int32), tokens))
        return last[label_length]

    for _ in batch:
        one = jax.vmap(one)
    return one(tokens, labels, lengths, label_lengths)


def _one(logits: Array, labels: Array, is_time: Array, is_label: Array, *, blank: int) -> Array:
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    log_probs = jax.nn.log_softmax(jnp.where(is_time[:, None], logits.astype(dtype), 0))
    length = is_label.sum()
    is_wrong = (is_label & ((labels < 0) | (labels >= logits.shape[-1]) | (labels == blank))).any()
    # A path walks through blank, label, blank, label ... blank: it stays, goes on, or skips a blank between two different labels.
    symbols = jnp.full(2 * len(labels) + 1, blank).at[1::2].set(jnp.where(is_label, labels, blank))
    can_skip = jnp.concatenate([jnp.zeros(2, bool), (symbols[2:] != blank) & (symbols[2:] != symbols[:-2])])[: len(symbols)]
    start = jnp.full(len(symbols), _LOG_ZERO, dtype).at[0].set(0)

    def walk(alpha: Array, time: tuple[Array, Array]) -> tuple[Array, None]:
        log_prob, is_real = time
        on = jnp.concatenate([jnp.full(1, _LOG_ZERO, dtype), alpha[:-1]])
        skipped = jnp.concatenate([jnp.full(2, _LOG_ZERO, dtype), alpha[:-2]])[: len(alpha)]
        reached = jnp.logaddexp(jnp.logaddexp(alpha, on), jnp.where(can_skip, skipped, _LOG_ZERO))
        return jnp.where(is_real, reached + log_prob[symbols], alpha), None

    alpha, _ = lax.scan(walk, start, (log_probs, is_time))
    last_label = jnp.where(length > 0, alpha[jnp.maximum(2 * length - 1, 0)], _LOG_ZERO)
    log_likelihood = jnp.logaddexp(alpha[2 * length], last_label)
    return jnp.where(is_wrong, jnp.nan, jnp.where(log_likelihood > _LOG_ZERO / 2, -log_likelihood, jnp.inf))
