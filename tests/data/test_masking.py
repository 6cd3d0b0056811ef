"""Masked language modelling: BERT's rates, whole words, and never a token that is padding or special."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.data.masking import mask_tokens

V, SPECIAL, MASK, N, T = 50, 5, 4, 2000, 64
OPTIONS = {"mask_token": MASK, "vocab_size": V, "num_special": SPECIAL}
masked = jax.jit(lambda key, tokens, is_open, rate: mask_tokens(key, tokens, is_open, rate=rate, **OPTIONS))
masked_words = jax.jit(lambda key, tokens, is_open, words: mask_tokens(key, tokens, is_open, words=words, **OPTIONS))


def texts(lengths, seed=0):
    """[CLS] and [SEP] around as many ordinary tokens as `lengths` say, padding behind."""
    rng = np.random.default_rng(seed)
    tokens, is_open = np.zeros((len(lengths), T), np.int32), np.zeros((len(lengths), T), bool)
    for row, length in enumerate(lengths):
        tokens[row, : length + 2] = [2, *rng.integers(SPECIAL, V, length), 3]
        is_open[row, 1 : length + 1] = True
    return tokens, is_open


def test_exactly_the_share_that_bert_takes_is_asked_for_and_nothing_else_changes():
    lengths = np.arange(N) % (T - 1)
    tokens, is_open = texts(lengths)
    for rate in (0.0, 0.15, 0.4, 1.0):
        shown, targets, is_target = masked(jax.random.key(1), tokens, is_open, rate)
        expected = np.where(rate * lengths > 0, np.maximum(1, np.round(np.float32(rate) * lengths.astype(np.float32))), 0)
        np.testing.assert_array_equal(is_target.sum(1), expected)
        np.testing.assert_array_equal(targets, tokens)
        assert not (is_target & ~is_open).any()
        np.testing.assert_array_equal(shown[~is_target], tokens[~is_target])


def test_eight_of_ten_targets_are_hidden_one_is_random_and_one_stays():
    tokens, is_open = texts([60] * N)
    shown, _, is_target = masked(jax.random.key(2), tokens, is_open, 0.15)
    total = int(is_target.sum())
    assert total == N * 9
    is_mask, is_same = (np.asarray(side)[np.asarray(is_target)] for side in (shown == MASK, shown == tokens))
    drawn = np.asarray(shown)[np.asarray(is_target)][~is_mask & ~is_same]
    # A random token is the same by chance once in 45 times.
    for count, share in ((is_mask.sum(), 0.8), (is_same.sum(), 0.1 + 0.1 / 45), (len(drawn), 0.1 * 44 / 45)):
        assert abs(count - share * total) < 4 * np.sqrt(total * share * (1 - share))
    assert set(drawn) == set(range(SPECIAL, V))  # every ordinary token, and no special one


def test_every_open_place_is_as_likely_a_target():
    tokens, is_open = texts([40] * N)
    frequency = masked(jax.random.key(3), tokens, is_open, 0.15).is_target.mean(0)[1:41]
    np.testing.assert_allclose(frequency, 0.15, atol=4.5 * np.sqrt(0.15 * 0.85 / N))


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_words_are_targets_as_wholes_and_no_more_than_needed(sizes, seed):
    tokens, is_open = texts([sum(sizes)], seed)
    words = np.full((1, T), -1, np.int32)
    words[0, 1 : sum(sizes) + 1] = np.repeat(np.arange(len(sizes)), sizes)
    shown, _, is_target = masked_words(jax.random.key(seed), tokens, is_open, words)
    is_target = np.asarray(is_target)
    assert not (is_target & ~is_open).any()
    chosen = {word for word in range(len(sizes)) if is_target[words == word].any()}
    assert all(is_target[words == word].all() for word in chosen)
    budget = max(1, round(0.15 * sum(sizes)))
    taken = sum(sizes[word] for word in chosen)
    assert taken >= budget
    assert any(taken - sizes[word] < budget for word in chosen)  # without the last one there were too few


def test_it_is_a_function_of_its_key_and_other_texts_in_the_batch_get_their_own_draws():
    tokens, is_open = texts([30] * N)
    first, again, other = (masked(jax.random.key(seed), tokens, is_open, 0.3) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.is_target != other.is_target).any()
    assert (first.is_target[0] != first.is_target[1]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.5}, r"mask_tokens: rate must be in \[0, 1\], got 1.5"),
        ({"mask_share": -0.1}, r"mask_share must be in \[0, 1\], got -0.1"),
        ({"mask_share": 0.8, "random_share": 0.3}, r"mask_share \+ random_share must be in \[0, 1\], got 1.1"),
        ({"mask_token": V}, "mask_token must be between 0 and 49, got 50"),
        ({"num_special": V}, "num_special must be between 0 and 49, got 50"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    tokens, is_open = texts([3])
    with pytest.raises(ValueError, match=message):
        mask_tokens(jax.random.key(0), jnp.asarray(tokens), jnp.asarray(is_open), **OPTIONS | options)
