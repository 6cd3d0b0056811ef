"""Span corruption: T5's counts, every way to cut equally likely, nothing lost."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.data.span_corruption import Spans, corrupt_spans, join_spans

FIRST, STOP, PAD = 999, 1, 0
N, T = 64, 40
texts = np.random.default_rng(0).integers(2, 800, (N, T)).astype(np.int32)


@partial(jax.jit, static_argnames=("rate", "mean_span", "num_sentinels"))
def there_and_back(key, tokens, lengths, *, rate=0.15, mean_span=3.0, num_sentinels=100):
    spans = corrupt_spans(key, tokens, lengths, first_sentinel=FIRST, rate=rate, mean_span=mean_span, num_sentinels=num_sentinels)
    return spans, join_spans(spans, tokens.shape[1], first_sentinel=FIRST, num_sentinels=num_sentinels)


def by_hand(tokens, length, is_hidden):
    """One text's inputs and targets, as figure 2 of the paper has them."""
    inputs, targets, span = [], [], -1
    for place in range(length):
        if is_hidden[place]:
            if place == 0 or not is_hidden[place - 1]:
                span += 1
                inputs.append(FIRST - span)
                targets.append(FIRST - span)
            targets.append(tokens[place])
        else:
            inputs.append(tokens[place])
    return [*inputs, STOP], [*targets, STOP]


def padded(tokens, length):
    return np.where(np.arange(tokens.shape[1]) < length[:, None], tokens, PAD)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), option=st.sampled_from([(0.15, 3.0), (0.9, 2.5)]))
def test_8_3_inputs_and_targets_give_every_text_back(seed, option):
    lengths = np.random.default_rng(seed).integers(0, T + 1, N)
    tokens = padded(texts, lengths)
    spans, (found, found_lengths) = there_and_back(jax.random.key(seed), tokens, jnp.asarray(lengths), rate=option[0], mean_span=option[1])
    np.testing.assert_array_equal(found, tokens)
    np.testing.assert_array_equal(found_lengths, lengths)
    for row in range(0, N, 9):
        # What is hidden, told by the sentinels of the inputs and the sizes of the targets' spans.
        inputs, targets = (np.asarray(part[row])[: int(num[row])] for part, num in zip(spans[:2], spans[2:], strict=True))
        begins = np.flatnonzero(targets > 900)
        sizes = np.diff([*begins, len(targets) - 1]) - 1
        is_hidden = np.concatenate([np.ones(sizes[FIRST - token], bool) if token > 900 else np.zeros(1, bool) for token in inputs[:-1]] or [[]])
        expected = by_hand(tokens[row], lengths[row], is_hidden.astype(bool))
        assert (inputs.tolist(), targets.tolist()) == expected
        assert (sizes > 0).all()
    assert (np.asarray(spans.inputs)[np.arange(spans.inputs.shape[1])[None] >= np.asarray(spans.input_lengths)[:, None]] == PAD).all()


def test_8_3_as_many_tokens_are_hidden_in_as_many_spans_as_t5_says():
    lengths = np.arange(N) % (T + 1)
    for rate, mean_span in ((0.15, 3.0), (0.5, 1.0)):
        spans, _ = there_and_back(jax.random.key(1), padded(texts, lengths), jnp.asarray(lengths), rate=rate, mean_span=mean_span)
        num_spans = (np.asarray(spans.inputs) > 900).sum(1)
        # random_spans_noise_mask of the released code.
        hidden = np.where(lengths < 2, 0, np.clip(np.round(lengths * rate), 1, np.maximum(lengths - 1, 1)))
        np.testing.assert_array_equal(spans.target_lengths - 1 - num_spans, hidden)
        np.testing.assert_array_equal(num_spans, np.where(hidden > 0, np.clip(np.round(hidden / mean_span), 1, lengths - hidden), 0))
    # 512 tokens as in the paper: 15 % of them, three a span.
    spans, _ = there_and_back(jax.random.key(2), np.tile(texts, (1, 13))[:, :512], jnp.full(N, 512))
    np.testing.assert_array_equal(spans.target_lengths, 77 + 26 + 1)
    assert (spans.inputs.shape, spans.targets.shape) == ((N, 512 - 77 + 26 + 1), (N, 77 + 26 + 1))


def test_8_3_every_way_to_cut_a_text_is_as_likely():
    num = 6000
    tokens = np.tile(np.arange(10, 17, dtype=np.int32), (num, 1))
    spans = jax.jit(partial(corrupt_spans, first_sentinel=FIRST, rate=0.43, mean_span=1.5))(jax.random.key(3), tokens)
    # Three of seven tokens in two spans: 2 ways to cut the three, 3 ways to cut the four.
    counts = Counter(map(tuple, np.asarray(spans.inputs).tolist()))
    assert len(counts) == 6
    # χ² with 5 degrees of freedom is above 20.5 once in a thousand keys.
    assert sum((count - num / 6) ** 2 / (num / 6) for count in counts.values()) < 20.5


@pytest.mark.parametrize("longest", [1, 3])
def test_the_shortest_texts(longest):
    tokens = np.arange(10, 10 + longest, dtype=np.int32)[None]
    spans, (found, lengths) = there_and_back(jax.random.key(0), tokens, jnp.array([longest]))
    assert spans.inputs[0].tolist() == [*range(10, 9 + longest), *([FIRST] if longest > 1 else [10]), STOP]
    assert spans.targets[0].tolist() == [*([FIRST, 9 + longest] if longest > 1 else []), STOP]
    assert (found.tolist(), lengths.tolist()) == (tokens.tolist(), [longest])


def test_what_a_model_wrote_is_put_into_the_holes():
    inputs = jnp.array([[5, FIRST, 6, FIRST - 1, 7, STOP]])
    written = jnp.array([[3, FIRST - 1, 8, 9, FIRST, STOP, 4]])  # words before any sentinel, spans in another order, one empty
    spans = Spans(inputs, written, jnp.array([6]), jnp.array([6]))

    def tokens_of(size):
        return jax.jit(partial(join_spans, size=size, first_sentinel=FIRST))(spans)

    tokens, lengths = tokens_of(8)
    assert (tokens.tolist(), lengths.tolist()) == ([[5, 6, 8, 9, 7, 0, 0, 0]], [5])
    # What does not fit is lost.
    tokens, lengths = tokens_of(3)
    assert (tokens.tolist(), lengths.tolist()) == ([[5, 6, 8]], [3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, r"rate must be in \(0, 1\)"),
        ({"rate": 1.0}, r"rate must be in \(0, 1\)"),
        ({"mean_span": 0.5}, "mean_span must be in"),
        ({"num_sentinels": 1}, "texts of this length have up to 2 spans, got num_sentinels=1"),
        ({"first_sentinel": 50}, "first_sentinel must be >= 99, got 50"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        corrupt_spans(jax.random.key(0), jnp.ones((2, T), jnp.int32), **{"first_sentinel": FIRST, **options})
    if "first_sentinel" in options:
        with pytest.raises(ValueError, match="size must be >= 1"):
            join_spans(Spans(*(jnp.ones((1, 1), jnp.int32),) * 2, *(jnp.ones(1, jnp.int32),) * 2), 0, first_sentinel=FIRST)
