"""Losses of sequences that are not aligned with their targets."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Shaped

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
