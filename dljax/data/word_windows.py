"""Words with the words around them, drawn on the device: what skip-gram and CBOW learn from."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dljax.core.checks import check_choice, check_int, check_range
from dljax.core.contract import Batch, Data, Source
from dljax.data.sources import SteppedCursor, _stepped
from dljax.data.text import joined


def word_windows(
    texts: Iterable[np.ndarray],
    size: int,
    batch_size: int,
    *,
    kind: str = "skip-gram",
    window: int = 5,
    subsampling: float | None = 1e-4,
    num_negatives: int = 5,
    num_noise: int = 256,
    noise_power: float = 0.75,
) -> Source:
    """Pairs of a word and its context with words of noise, for `dljax.supervised.negative_sampling`.

    A word at a uniform place, and its neighbours at most c apart, with c uniform in 1 ... window for each word: near ones are seen more often. A word
    of frequency f is kept with the probability

      p = min(1, √(s / f) + s / f),   noise: P(w) ∝ #(w)^0.75

    Places are drawn by the p of their words; neighbours weigh by the p of theirs, which is what leaving them out at random gives on average (word2vec
    closes the gaps in the text, too, and so reaches a little further). The noise is shared by the batch, M words in place of k for each pair, and
    weighs k/M: the same gradient on average by a product of matrices.

    Args:
      texts: of each, the ids of its words; windows do not reach from one into the next.
      size: V, of the vocabulary.
      batch_size: B >= 1.
      kind: "skip-gram", each word predicts one of its neighbours, or "cbow", the neighbours' mean predicts the word.
      window: >= 1.
      subsampling: s > 0, or None to keep all words.
      num_negatives: k >= 1, words of noise that weigh as much as one pair.
      num_noise: M >= 1, words of noise that are drawn.
      noise_power: the power of the counts that noise is drawn by, in [0, 1].
    Returns:
      A source of `x` int32 [B, C], the words that predict, and `x_mask` float32 [B, C] (C = 1 for skip-gram, else 2·window); `y` int32 [B], what is
      predicted; `mask` float32 [B], its weight; `noise` int32 [M], and `noise_weight` float32 [M], k/M.
    Raises:
      ValueError: an option out of range, texts of fewer than two words, or an id outside.

    Source: Mikolov et al. (2013), Distributed representations of words and phrases and their compositionality, sections 2.2-2.3; the probability of
      their program word2vec.

    >>> source = word_windows([np.arange(10), np.arange(5)], size=10, batch_size=4, window=2, num_noise=3)
    >>> _, batch = source.next(source.data, source.init(jax.random.key(0)))
    >>> batch["x"].shape, batch["y"].shape, batch["noise"].shape
    ((4, 1), (4,), (3,))
    """
    check_choice("word_windows", "kind", kind, ("skip-gram", "cbow"))
    for name, value in {"size": size, "batch_size": batch_size, "window": window, "num_negatives": num_negatives, "num_noise": num_noise}.items():
        check_int("word_windows", name, value, minimum=1)
    check_range("word_windows", "noise_power", noise_power, 0, 1)
    if subsampling is not None:
        check_range("word_windows", "subsampling", subsampling, 0, open_low=True)
    tokens, text = joined(texts)
    if len(tokens) < 2 or not 0 <= tokens.min() <= tokens.max() < size:
        found = f"{len(tokens)} ids" + (f" from {tokens.min()} to {tokens.max()}" if len(tokens) else "")
        raise ValueError(f"word_windows: texts must hold at least two ids in [0, {size - 1}], got {found}")
    counts = np.bincount(tokens, minlength=size).astype(np.float64)
    kept = keep_probability(counts, subsampling)
    offsets = np.array([offset for offset in range(-window, window + 1) if offset], np.int32)
    # With c uniform, a neighbour at distance d is inside in (window - d + 1) of `window` cases.
    near = np.cumsum(window + 1 - np.abs(offsets))
    data = {
        "tokens": tokens,
        "text": text,
        "kept": np.float32(kept),
        "places": np.float32(np.cumsum(kept[tokens]) / kept[tokens].sum()),
        "noise": np.float32(np.cumsum(counts**noise_power) / (counts**noise_power).sum()),
    }

    def neighbours(data: Data, place: Array, offset: Array) -> tuple[Array, Float[Array, "B C"]]:
        other = place + offset
        inside = jnp.clip(other, 0, len(tokens) - 1)
        word = jnp.take(data["tokens"], inside)
        is_real = (other == inside) & (jnp.take(data["text"], inside) == jnp.take(data["text"], place))
        return word, jnp.where(is_real, jnp.take(data["kept"], word), 0)

    def next(data: Data, cursor: SteppedCursor) -> tuple[SteppedCursor, Batch]:
        place_key, offset_key, noise_key = jax.random.split(jax.random.fold_in(cursor.key, cursor.step), 3)
        place = _drawn(place_key, data["places"], batch_size)[:, None]
        words = jnp.take(data["tokens"], place)
        if kind == "skip-gram":
            chosen = jnp.searchsorted(jnp.asarray(near), jax.random.randint(offset_key, (batch_size, 1), 0, near[-1]), side="right")
            context, weight = neighbours(data, place, jnp.take(jnp.asarray(offsets), chosen))
            batch = {"x": words, "x_mask": jnp.ones(words.shape, jnp.float32), "y": context[:, 0], "mask": weight[:, 0]}
        else:
            reach = jax.random.randint(offset_key, (batch_size, 1), 1, window + 1)
            context, weight = neighbours(data, place, jnp.asarray(offsets)[None])
            weight = jnp.where(jnp.abs(jnp.asarray(offsets))[None] <= reach, weight, 0)
            batch = {"x": context, "x_mask": weight, "y": words[:, 0], "mask": (weight.sum(1) > 0).astype(jnp.float32)}
        noise = _drawn(noise_key, data["noise"], num_noise)
        batch |= {"noise": noise, "noise_weight": jnp.full(num_noise, num_negatives / num_noise, jnp.float32)}
        return SteppedCursor(cursor.key, cursor.step + 1), batch

    return Source(_stepped, next, jax.tree.map(jnp.asarray, data))


def keep_probability(counts: np.ndarray, subsampling: float | None) -> np.ndarray:
    """The probability that subsampling keeps each word, by how often it was seen.

      p = min(1, √(s / f) + s / f),   f = count / Σ counts

    >>> keep_probability(np.array([75, 25]), 0.25).round(3).tolist(), keep_probability(np.array([1]), None).tolist()
    ([0.911, 1.0], [1.0])
    """
    if subsampling is None:
        return np.ones(len(counts))
    ratio = subsampling * counts.sum() / np.maximum(counts, 1)
    return np.minimum(1, np.sqrt(ratio) + ratio)


def _drawn(key: Array, cumulative: Float[Array, "N"], num: int) -> Array:
    # float32 steps of 2⁻²⁴ near 1 are far below the probability of any word of a text of millions.
    index = jnp.searchsorted(cumulative, jax.random.uniform(key, (num,)), side="right")
    return jnp.minimum(index, len(cumulative) - 1).astype(jnp.int32)
