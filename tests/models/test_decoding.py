"""Decoding: token for token what transformers generates, exhaustive with enough beams, sampled as the softmax says, each row for itself."""

import functools
import itertools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.models.decoding import beam_search, greedy, keep_min_p, keep_top_k, keep_top_p, sample

GOLDEN = Path(__file__).parents[1] / "golden"
SCRIPT = runpy.run_path(str(GOLDEN / "make_decoding.py"))
OPTIONS = {"max_tokens": SCRIPT["MAX_TOKENS"], "stop_tokens": SCRIPT["STOPS"], "pad_token": SCRIPT["PAD"]}


def elman(params, hidden, tokens):
    """The network of make_decoding.py: what it says depends on all that it has read."""
    hidden = jnp.tanh(params["embedding"][tokens] + hidden @ params["recurrent"])
    return hidden @ params["output"], hidden


def table(params, cache, tokens):
    """A Markov chain: the logits of what follows each token."""
    return params[tokens], cache


@functools.cache
def network():
    arrays = SCRIPT["network"]()
    params = {name: jnp.asarray(arrays[name]) for name in ("embedding", "recurrent", "output")}
    return params, jnp.zeros((6, SCRIPT["HIDDEN"])), jnp.asarray(arrays["prompts"]), jnp.asarray(arrays["lengths"])


@functools.partial(jax.jit, static_argnames="early_stopping")
def beams_of(params, cache, prompts, lengths, penalties, early_stopping=False):
    def search(penalty):
        options = OPTIONS | {"num_beams": SCRIPT["NUM_BEAMS"], "early_stopping": early_stopping, "length_penalty": penalty}
        return beam_search(elman, params, cache, prompts, lengths=lengths, **options)

    return jax.vmap(search)(penalties)


greedy_of = jax.jit(lambda params, cache, prompts, lengths: greedy(elman, params, cache, prompts, lengths=lengths, **OPTIONS))


@functools.cache
def expected(is_live):
    if is_live:
        pytest.importorskip("transformers")
        return SCRIPT["reference"]()
    return np.load(GOLDEN / "decoding.npz")


IS_LIVE = [False, pytest.param(True, marks=pytest.mark.slow)]


@pytest.mark.parametrize("is_live", IS_LIVE)
def test_6_2_greedy_decoding_is_that_of_transformers_token_for_token(is_live):
    found = greedy_of(*network())
    np.testing.assert_array_equal(found.tokens, expected(is_live)["greedy"])
    ends = np.isin(found.tokens, SCRIPT["STOPS"])
    np.testing.assert_array_equal(found.lengths, np.where(ends.any(1), ends.argmax(1) + 1, OPTIONS["max_tokens"]))


@pytest.mark.parametrize("is_live", IS_LIVE)
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_6_2_beam_search_is_that_of_transformers_token_for_token(early_stopping, is_live):
    beams, arrays = beams_of(*network(), jnp.array(SCRIPT["PENALTIES"]), early_stopping=early_stopping), expected(is_live)
    np.testing.assert_array_equal(beams.tokens, arrays[f"tokens/{early_stopping}"])
    np.testing.assert_allclose(beams.scores, arrays[f"scores/{early_stopping}"], rtol=1e-5)


def every_sequence(log_probs, first, stop, alpha):
    """All ways to end, with their scores, by walking all of them."""
    found = {}
    for text in itertools.product(range(3), repeat=len(log_probs)):
        text = text[: text.index(stop) + 1] if stop in text else text
        total = sum(log_probs[time, a, b] for time, (a, b) in enumerate(itertools.pairwise((first, *text))))
        found[text] = total / len(text) ** alpha
    return sorted(found.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_6_2_beam_search_with_beams_for_all_sequences_is_exhaustive(alpha):
    logits = jax.random.normal(jax.random.key(0), (4, 3, 3)) * 2  # of what follows each token at each time
    options = {"max_tokens": 4, "num_beams": 3**4, "stop_tokens": [2], "length_penalty": alpha, "early_stopping": "never", "pad_token": -1}

    def step(params, time, tokens):
        return params[time, tokens], time + 1

    beams = jax.jit(lambda logits: beam_search(step, logits, jnp.zeros(2, jnp.int32), jnp.array([[0], [1]]), **options))(logits)
    for row, first in enumerate((0, 1)):
        sequences = every_sequence(np.asarray(jax.nn.log_softmax(logits)), first, 2, alpha)
        texts = [(*text, *[-1] * (4 - len(text))) for text, _ in sequences]
        assert list(map(tuple, beams.tokens[row, : len(texts)].tolist())) == texts
        np.testing.assert_allclose(beams.scores[row, : len(texts)], [score for _, score in sequences], rtol=1e-5)
        assert beams.lengths[row, : len(texts)].tolist() == [len(text) for text, _ in sequences]
        # There are no more: what is left of the beams is empty.
        assert np.isneginf(beams.scores[row, len(texts) :]).all()
        assert (beams.lengths[row, len(texts) :] == 0).all()
        assert (beams.tokens[row, len(texts) :] == -1).all()


def test_6_2_one_beam_that_stops_at_once_is_greedy_decoding():
    beams = jax.jit(lambda *network: beam_search(elman, *network[:3], lengths=network[3], num_beams=1, early_stopping=True, **OPTIONS))(*network())
    found = greedy_of(*network())
    np.testing.assert_array_equal(beams.tokens[:, 0], found.tokens)
    np.testing.assert_array_equal(beams.lengths[:, 0], found.lengths)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 2**31 - 1))
def test_6_2_a_row_minds_neither_the_other_rows_nor_its_padding(order, seed):
    params, cache, prompts, lengths = network()
    order, penalties = np.array(order), jnp.array(SCRIPT["PENALTIES"])
    junk = np.random.default_rng(seed).integers(0, SCRIPT["VOCABULARY"], prompts.shape)
    changed = np.where(np.arange(4) < np.asarray(lengths)[:, None], prompts, junk)[order]
    # Half of the rows become others altogether.
    changed[order >= 3] = junk[order >= 3]
    stay = order < 3
    for whole, other in (
        (greedy_of(params, cache, prompts, lengths), greedy_of(params, cache, changed, lengths[order])),
        (
            jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), beams_of(params, cache, prompts, lengths, penalties)),
            jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), beams_of(params, cache, changed, lengths[order], penalties)),
        ),
    ):
        for one, two in zip(whole, other, strict=True):
            np.testing.assert_allclose(two[stay], one[order[stay]], rtol=1e-6)


def test_rows_of_a_cache_may_be_on_any_axis():
    params, cache, prompts, lengths = network()

    def stacked(params, cache, tokens):
        logits, hidden = elman(params, cache["layers"][1], tokens)
        return logits, {"layers": jnp.stack([cache["layers"][0], hidden]), "count": cache["count"] + 1}

    given = {"layers": jnp.stack([cache, cache]), "count": jnp.zeros(3)}
    options = {"lengths": lengths, "num_beams": 4, **OPTIONS}
    beams = jax.jit(lambda *given: beam_search(stacked, *given, batch_axis={"layers": 1, "count": None}, **options))(params, given, prompts)
    np.testing.assert_array_equal(beams.tokens, beams_of(*network(), jnp.array([1.0])).tokens[0])


def test_a_prompt_that_was_read_before_is_continued_from_its_last_token():
    params, cache, prompts, lengths = network()
    rows = np.flatnonzero(np.asarray(lengths) == 4)
    for token in prompts[rows, :-1].T:
        _, cache = elman(params, cache[: len(rows)], token)
    found = greedy(elman, params, cache, prompts[rows, -1:], **OPTIONS)
    np.testing.assert_array_equal(found.tokens, greedy_of(*network()).tokens[rows])


@pytest.mark.parametrize("way", ["greedy", "beam"])
def test_the_loop_ends_with_the_last_row(way):
    steps = []

    def counted(params, cache, tokens):
        jax.debug.callback(lambda: steps.append(1))
        return jax.nn.one_hot((tokens + 1) % 5, 5) * 1e4, cache

    decode = greedy if way == "greedy" else functools.partial(beam_search, num_beams=2, early_stopping=True)
    found = jax.jit(lambda prompt: decode(counted, None, (), prompt, max_tokens=1000, stop_tokens=[4]))(jnp.array([[3], [1]]))
    assert found.lengths.reshape(2, -1)[:, 0].tolist() == [1, 3]
    jax.effects_barrier()
    assert len(steps) <= 6


def chi_squared(tokens, probabilities):
    counts = np.bincount(np.ravel(tokens), minlength=len(probabilities))
    assert (counts[probabilities == 0] == 0).all()
    is_kept = probabilities > 0
    means = counts.sum() * probabilities[is_kept]
    return ((counts[is_kept] - means) ** 2 / means).sum()


def test_6_2_samples_come_as_often_as_the_cut_softmax_says():
    logits = jax.random.normal(jax.random.key(2), (5, 5)) * 2
    prompt = jnp.zeros((20_000, 1), jnp.int32)

    @jax.jit
    def draw(key, temperature, min_p):
        return sample(key, table, logits, (), prompt, max_tokens=3, temperature=temperature, top_k=4, min_p=min_p).tokens

    for temperature, min_p in ((1.0, 0.0), (1.7, 0.3)):
        tokens = np.asarray(draw(jax.random.key(0), temperature, min_p))
        for before, after in ((prompt[:, 0], tokens[:, 0]), (tokens[:, 0], tokens[:, 1]), (tokens[:, 1], tokens[:, 2])):
            for state in set(np.asarray(before).tolist()):
                sharpened = np.exp(np.asarray(logits[state], np.float64) / temperature)
                kept = (sharpened >= np.sort(sharpened)[1]) & (sharpened >= min_p * sharpened.max())
                # χ² with at most 4 degrees of freedom is above 23 once in ten thousand.
                assert chi_squared(after[np.asarray(before) == state], kept * sharpened / (kept * sharpened).sum()) < 23


def test_temperature_zero_is_greedy_and_rows_draw_for_themselves():
    params, cache, prompts, lengths = network()

    @jax.jit
    def draw(key, temperature, prompts, lengths):
        options = OPTIONS | {"temperature": temperature, "top_p": 0.95, "lengths": lengths}
        return sample(key, elman, params, cache[: len(prompts)], prompts, **options)

    cold = draw(jax.random.key(0), 0.0, prompts, lengths)
    np.testing.assert_array_equal(cold.tokens, greedy_of(*network()).tokens)
    nearly = draw(jax.random.key(0), 1e-30, prompts, lengths)
    np.testing.assert_array_equal(nearly.tokens, cold.tokens)
    warm, fewer = draw(jax.random.key(0), 1.0, prompts, lengths), draw(jax.random.key(0), 1.0, prompts[:3], lengths[:3])
    np.testing.assert_array_equal(warm.tokens[:3], fewer.tokens)
    assert (warm.tokens != cold.tokens).any()
    assert (warm.tokens != draw(jax.random.key(1), 1.0, prompts, lengths).tokens).any()


FILTERS = [(keep_top_k, 1), (keep_top_k, 3), (keep_top_k, 99), (keep_min_p, 0.0), (keep_min_p, 0.05), (keep_min_p, 1.0)]
FILTERS += [(keep_top_p, p) for p in (0.0, 0.3, 0.9, 1.0)]


@functools.cache
def some_logits():
    return np.random.default_rng(0).normal(0, 3, (200, 11)).astype(np.float32)


@pytest.mark.parametrize(("function", "value"), FILTERS)
def test_6_2_cuts_are_what_their_papers_say(function, value):
    for row, kept in zip(some_logits(), np.isfinite(function(jnp.asarray(some_logits()), value)), strict=True):
        order = np.argsort(-row)
        probabilities = np.exp(np.float64(row)) / np.exp(np.float64(row)).sum()
        if function is keep_top_k:
            wanted = order[:value]
        elif function is keep_min_p:
            wanted = np.flatnonzero(probabilities >= value * probabilities.max())
        else:
            before = np.cumsum(probabilities[order]) - probabilities[order]
            wanted = order[: max(1, (before < value).sum())]
        assert sorted(wanted) == np.flatnonzero(kept).tolist()


@pytest.mark.parametrize(("function", "value"), FILTERS)
def test_6_2_cuts_are_those_of_transformers(function, value):
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    kinds = {keep_top_k: process.TopKLogitsWarper, keep_top_p: process.TopPLogitsWarper, keep_min_p: process.MinPLogitsWarper}
    expected = kinds[function](value)(None, torch.tensor(some_logits())).numpy()
    np.testing.assert_array_equal(function(jnp.asarray(some_logits()), value), expected)


def test_extreme_logits_are_decoded():
    logits = jnp.array([[1e4, -1e4, -jnp.inf], [-jnp.inf, -jnp.inf, 0.0], [3e38, 0.0, 0.0]])
    options = {"temperature": 1e-3, "top_k": 3, "top_p": 0.9, "min_p": 0.1}

    @jax.jit
    def decode(prompt):
        best = greedy(table, logits, (), prompt, max_tokens=1), sample(jax.random.key(0), table, logits, (), prompt, max_tokens=1, **options)
        return *best, beam_search(table, logits, (), prompt, max_tokens=1, num_beams=2)

    likeliest, drawn, beams = decode(jnp.arange(3)[:, None])
    assert likeliest.tokens.tolist() == drawn.tokens.tolist() == [[0], [2], [0]]
    assert beams.tokens[:, 0].tolist() == [[0], [2], [0]]
    assert beams.scores[:, 0].tolist() == [0, 0, 0]
    assert np.isneginf(beams.scores[1, 1])


@pytest.mark.parametrize("decode", [greedy, beam_search, functools.partial(sample, jax.random.key(0))])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": jnp.zeros((2, 0), jnp.int32)}, "P >= 1, got shape"),
        ({"prompt": jnp.zeros(2, jnp.int32)}, r"tokens \[B, P\]"),
        ({"prompt": jnp.zeros((2, 1))}, "prompt must be whole numbers, got float32"),
        ({"max_tokens": 0}, "max_tokens must be >= 1, got 0"),
        ({"lengths": jnp.array([1, 3])}, r"lengths must be in \[1, 2\]"),
        ({"lengths": jnp.array([1])}, "one number for each of the 2 prompts"),
        ({"stop_tokens": [-1]}, "stop_tokens must be >= 0, got -1"),
    ],
)
def test_what_cannot_be_continued_is_refused(decode, changes, message):
    options = {"prompt": jnp.zeros((2, 2), jnp.int32), "max_tokens": 3} | changes
    with pytest.raises((ValueError, TypeError), match=message):
        decode(table, jnp.zeros((3, 3)), (), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: sample(jax.random.key(0), table, jnp.zeros((3, 3)), (), jnp.zeros((1, 1), int), max_tokens=1, temperature=-1),
            "temperature must be",
        ),
        (lambda: beam_search(table, jnp.zeros((3, 3)), (), jnp.zeros((1, 1), int), max_tokens=1, num_beams=0), "num_beams must be >= 1"),
        (
            lambda: beam_search(table, jnp.zeros((3, 3)), (), jnp.zeros((1, 1), int), max_tokens=1, early_stopping="soon"),
            "early_stopping must be one of",
        ),
        (
            lambda: beam_search(table, jnp.zeros((3, 3)), (), jnp.zeros((1, 1), int), max_tokens=1, length_penalty=float("nan")),
            "length_penalty must be",
        ),
        (
            lambda: beam_search(table, jnp.zeros((3, 3)), jnp.zeros((4, 1)), jnp.zeros((1, 1), int), max_tokens=1),
            "1 rows of the prompt on axis 0, got",
        ),
        (lambda: keep_top_k(jnp.zeros(3), 0), "k must be >= 1"),
        (lambda: keep_top_p(jnp.zeros(3), 1.1), r"p must be in \[0, 1\]"),
        (lambda: keep_min_p(jnp.zeros(3), -0.1), r"p must be in \[0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
