"""T5's span corruption: texts with holes, and what was in them (Raffel et al., 2020)."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key


class Spans(NamedTuple):
    """Texts with holes, and what fills the holes.

    Attributes:
      inputs: [B, I], the texts, each hidden span one sentinel, then the stop and padding.
      targets: [B, O], each hidden span behind its sentinel, then the stop and padding.
      input_lengths, target_lengths: [B], how many of them are real, the stop included.
    """

    inputs: Int[Array, "B I"]
    targets: Int[Array, "B O"]
    input_lengths: Int[Array, "B"]
    target_lengths: Int[Array, "B"]


def corrupt_spans(
    key: Key,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"] | None = None,
    *,
    first_sentinel: int,
    num_sentinels: int = 100,
    rate: float = 0.15,
    mean_span: float = 3.0,
    stop_token: int = 1,
    pad_token: int = 0,
) -> Spans:
    """T5's span corruption: the model reads a text with holes and says what was in them.

      Thank you for inviting me to your party last week → Thank you <0> me to your party <1>,   <0> for inviting <1> last

    Of a text of n >= 2 tokens, m = round(rate·n), at least 1 and at most n - 1, are hidden in k = round(m / mean_span) spans, at least 1 and at
    most n - m. The hidden tokens and the others are each cut into k parts, every way to cut them equally likely; the parts alternate, and the text
    begins with one that is not hidden and ends with one that is. The arrays are as large as texts of T tokens need.

    Args:
      tokens: whole numbers without sentinels, padded on the right.
      lengths: n of each text, in 0 ... T; None for T. In one of fewer than 2 tokens nothing is hidden.
      first_sentinel, num_sentinels: the j-th span's sentinel is `first_sentinel` - j, as T5 has its 100 at the end of the vocabulary.
      rate: in (0, 1).
      mean_span: >= 1.
      stop_token, pad_token: what ends a text, and what stands behind.
    Returns:
      Inputs and targets with their lengths.
    Raises:
      ValueError: an option out of range, fewer sentinels than spans, texts of no places.
    Source: Raffel et al. (2020), section 3.1.4 and figure 2, with the spans of its released code (`random_spans_noise_mask`), in which no sentinel
    follows the last span.

    >>> spans = corrupt_spans(jax.random.key(0), jnp.arange(10, 22)[None], first_sentinel=99, rate=0.25, mean_span=1.5)
    >>> spans.inputs.tolist(), spans.targets.tolist()
    ([[10, 99, 12, 13, 14, 15, 16, 17, 18, 19, 98, 1]], [[99, 11, 98, 20, 21, 1]])
    >>> join_spans(spans, 12, first_sentinel=99, num_sentinels=10)[0].tolist()
    [[10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]]
    """
    check_range("corrupt_spans", "rate", rate, 0, 1, open_low=True, open_high=True)
    check_range("corrupt_spans", "mean_span", mean_span, 1)
    num_texts, longest = tokens.shape
    check_int("corrupt_spans", "length of the texts", longest, minimum=1)
    hidden, spans = _span_counts(longest, rate, mean_span)
    most = int(spans[-1])
    _check_sentinels("corrupt_spans", first_sentinel, num_sentinels, most)
    lengths = jnp.full(num_texts, longest, jnp.int32) if lengths is None else lengths.astype(jnp.int32)
    num_hidden, num_spans = jnp.asarray(hidden)[lengths], jnp.asarray(spans)[lengths]
    hidden_key, shown_key = jax.random.split(key)
    sizes = _parts(hidden_key, num_hidden, num_spans, int(hidden[-1]), most), _parts(shown_key, lengths - num_hidden, num_spans, longest, most)
    ends = jnp.cumsum(sizes[0] + sizes[1], 1)
    rows, exists = jnp.arange(num_texts)[:, None], jnp.arange(most)[None] < num_spans[:, None]
    starts = jnp.where(exists, ends - sizes[0], longest + 1)
    edges = jnp.zeros((num_texts, longest + 1), jnp.int32).at[rows, starts].add(1, mode="drop")
    span = jnp.cumsum(edges, 1)[:, :longest] - 1  # the last that has begun
    is_hidden = jnp.cumsum(edges.at[rows, jnp.where(exists, ends, longest + 1)].add(-1, mode="drop"), 1)[:, :longest] > 0
    is_shown = ~is_hidden & (jnp.arange(longest)[None] < lengths[:, None])
    num_shown, num_seen = (jnp.cumsum(part, 1) - part for part in (is_shown, is_hidden))

    def written(size: int, length: Array, places: Array, is_token: Array, sentinels: Array) -> Array:
        text = jnp.full((num_texts, size), pad_token, tokens.dtype)
        text = text.at[rows, jnp.where(is_token, places, size)].set(tokens, mode="drop")
        names = jnp.broadcast_to(first_sentinel - jnp.arange(most)[None], sentinels.shape).astype(tokens.dtype)
        text = text.at[rows, jnp.where(exists, sentinels, size)].set(names, mode="drop")
        return text.at[rows, length[:, None] - 1].set(stop_token)

    shares = [jnp.cumsum(part, 1) for part in sizes]
    order = jnp.arange(most)[None]
    input_lengths, target_lengths = lengths - num_hidden + num_spans + 1, num_hidden + num_spans + 1
    longest_input, longest_target = longest - int(hidden[-1]) + most + 1, int(hidden[-1]) + most + 1
    return Spans(
        written(longest_input, input_lengths, num_shown + span + 1, is_shown, shares[1] + order),
        written(longest_target, target_lengths, num_seen + span + 1, is_hidden, shares[0] - sizes[0] + order),
        input_lengths,
        target_lengths,
    )


def join_spans(spans: Spans, size: int, *, first_sentinel: int, num_sentinels: int = 100, pad_token: int = 0) -> tuple[Array, Array]:
    """The texts that were corrupted, or those that a model's targets make: each sentinel of the inputs replaced by what follows it in the targets.

    Args:
      spans: such as `corrupt_spans` returns; targets may be what a model wrote. A sentinel that they do not have stands for nothing.
      size: T, room for the longest text; what does not fit is lost.
      first_sentinel, num_sentinels, pad_token: as for `corrupt_spans`.
    Returns:
      tokens [B, T] and lengths [B].
    Raises:
      ValueError: an option out of range.

    >>> spans = Spans(jnp.array([[5, 99, 6, 1]]), jnp.array([[99, 7, 8, 1]]), jnp.array([4]), jnp.array([4]))
    >>> tokens, lengths = join_spans(spans, 5, first_sentinel=99, num_sentinels=10)
    >>> tokens.tolist(), lengths.tolist()
    ([[5, 7, 8, 6, 0]], [4])
    """
    check_int("join_spans", "size", size, minimum=1)
    _check_sentinels("join_spans", first_sentinel, num_sentinels, 0)
    inputs, targets, *lengths = spans
    rows = jnp.arange(len(inputs))[:, None]

    def numbered(text: Array, length: Array) -> tuple[Array, Array, Array]:
        """Whether a token is an ordinary one, or a sentinel, and its number; the stop is neither."""
        number = first_sentinel - text.astype(jnp.int32)
        is_real = jnp.arange(text.shape[1])[None] < length[:, None] - 1
        is_sentinel = is_real & (number >= 0) & (number < num_sentinels)
        return is_real & ~is_sentinel, is_sentinel, number

    is_token, is_sentinel, number = numbered(targets, lengths[1])
    places = jnp.broadcast_to(jnp.arange(targets.shape[1])[None], targets.shape)
    last = lax.cummax(jnp.where(is_sentinel, places, -1), axis=1)  # the place of the sentinel before
    is_token &= last >= 0
    span = jnp.where(is_token, jnp.take_along_axis(number, jnp.maximum(last, 0), 1), num_sentinels)
    sizes = jnp.zeros((len(inputs), num_sentinels), jnp.int32).at[rows, span].add(1, mode="drop")
    is_shown, is_hole, hole = numbered(inputs, lengths[0])
    hole = jnp.where(is_hole, hole, num_sentinels)
    width = jnp.where(is_hole, jnp.take_along_axis(sizes, jnp.minimum(hole, num_sentinels - 1), 1), is_shown)
    start = jnp.cumsum(width, 1) - width
    text = jnp.full((len(inputs), size), pad_token, inputs.dtype)
    text = text.at[rows, jnp.where(is_shown, start, size)].set(inputs, mode="drop")
    begins = jnp.full((len(inputs), num_sentinels), size, start.dtype).at[rows, hole].set(start, mode="drop")
    there = jnp.take_along_axis(begins, jnp.minimum(span, num_sentinels - 1), 1) + places - last - 1
    text = text.at[rows, jnp.where(is_token, there, size)].set(targets.astype(inputs.dtype), mode="drop")
    return text, jnp.minimum(width.sum(1), size)


@lru_cache
def _span_counts(longest: int, rate: float, mean_span: float) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens are hidden, and in how many spans, in texts of 0 ... T tokens; neither falls with the length, nor does what is left."""
    lengths = np.arange(longest + 1)
    hidden = np.where(lengths < 2, 0, np.clip(np.round(rate * lengths), 1, np.maximum(lengths - 1, 1)))
    spans = np.minimum(np.maximum(np.round(hidden / mean_span), hidden > 0), lengths - hidden)
    return hidden.astype(np.int32), spans.astype(np.int32)


def _parts(key: Key, num: Int[Array, "B"], num_parts: Int[Array, "B"], most: int, most_parts: int) -> Int[Array, "B K"]:
    """The sizes of the parts of `num` things cut into `num_parts` that are not empty, every way to cut them equally likely."""
    order = jnp.arange(most)[None]
    # The first k - 1 of the places between two things in random order are where a part begins.
    bits = jnp.where((order > 0) & (order < num[:, None]), jax.random.uniform(key, (len(num), most)), 2.0)
    rank = jnp.argsort(jnp.argsort(bits, 1), 1)
    part = jnp.cumsum(rank < num_parts[:, None] - 1, 1)
    part = jnp.where(order < num[:, None], part, most_parts)
    return jnp.zeros((len(num), most_parts), jnp.int32).at[jnp.arange(len(num))[:, None], part].add(1, mode="drop")


def _check_sentinels(who: str, first: Any, num: Any, needed: int) -> None:
    check_int(who, "num_sentinels", num, minimum=1)
    check_int(who, "first_sentinel", first, minimum=num - 1)
    if needed > num:
        raise ValueError(f"{who}: texts of this length have up to {needed} spans, got num_sentinels={num}; give more or cut the texts")
