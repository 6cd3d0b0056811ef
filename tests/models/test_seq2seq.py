"""Sequence to sequence: teacher forcing is the decoder step by step, rows of a batch do not meet, and scheduled sampling reads what was said."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.models.decoding import greedy
from dljax.models.seq2seq import Seq2Seq
from dljax.models.translation import decoder_step, encoder, teacher_forcing, translator
from dljax.objectives import cross_entropy
from dljax.supervised import scheduled_sampling, supervised

SIZES = {"source_size": 6, "target_size": 7, "width": 8, "embed_size": 4}
# Luong's, Bahdanau's, and none with an encoder that reads one way.
KINDS = [
    {"attention": "general", "num_layers": 2},
    {"attention": "additive", "cell": "gru"},
    {"attention": None, "cell": "lstm", "is_bidirectional": False},
    {"attention": None, "cell": "gru"},
]
B, S, T = 3, 5, 4


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    return {"source": rng.integers(0, 6, (B, S)), "lengths": np.array([5, 1, 3]), "inputs": rng.integers(0, 7, (B, T))}


@functools.cache
def built(kind):
    model = Seq2Seq(**SIZES, **KINDS[kind])
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.tree.map(jnp.asarray, batch_of()))
    rng = np.random.default_rng(kind)
    # Large enough that everything matters.
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.7, leaf.shape), leaf.dtype), shapes)
    return model, variables, jax.jit(functools.partial(model.apply, method="align"))


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_6_2_teacher_forcing_is_the_decoder_token_by_token(kind):
    model, variables, align = built(kind)
    x = batch_of()
    logits, weights = align(variables, x)
    cache, step = jax.jit(encoder(model))(variables, x["source"], x["lengths"]), jax.jit(decoder_step(model))
    for time in range(T):
        one, cache = step(variables, cache, x["inputs"][:, time])
        np.testing.assert_allclose(one, logits[:, time], rtol=1e-4, atol=1e-5)
    if KINDS[kind]["attention"]:
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
        assert (np.where(np.arange(S) < x["lengths"][:, None, None], 0, weights) == 0).all()


@settings(max_examples=8, deadline=None)
@given(kind=st.sampled_from(range(len(KINDS))), order=st.permutations(range(B)), seed=st.integers(0, 2**31 - 1))
def test_6_2_a_row_minds_neither_the_other_rows_nor_its_padding(kind, order, seed):
    _, variables, align = built(kind)
    x, other, order = batch_of(), batch_of(seed), np.array(order)
    changed = {name: value[order] for name, value in x.items()}
    is_padding = np.arange(S) >= changed["lengths"][:, None]
    changed["source"] = np.where(is_padding | (order == 2)[:, None], other["source"], changed["source"])
    whole, again = align(variables, x)[0], align(variables, changed)[0]
    np.testing.assert_allclose(again[order != 2], whole[order[order != 2]], rtol=1e-4, atol=1e-5)


def test_the_encoder_reads_a_padded_row_as_it_reads_it_alone():
    model, variables, _ = built(0)
    x = batch_of()
    cache = jax.jit(encoder(model))(variables, x["source"], x["lengths"])
    alone = jax.jit(encoder(model))(variables, x["source"][2:, :3])
    for name in ("memory", "keys"):
        np.testing.assert_allclose(cache[name][2:, :3], alone[name], rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one[2:], two, rtol=1e-4, atol=1e-5), cache["carry"], alone["carry"])


def test_6_2_scheduled_sampling_reads_the_truth_at_zero_and_its_own_draws_at_one():
    model, variables, align = built(0)  # whose forced logits come without the scan
    x, num = {**batch_of(), "lengths": np.array([5, 5, 5])}, 3000
    for name in ("source", "inputs"):
        x[name] = x[name][:1].repeat(B, 0)

    @jax.jit
    def run(key, x, probability):
        return model.apply(variables, {**x, "sampling": probability}, train=True, rngs={"dropout": key})

    np.testing.assert_allclose(run(jax.random.key(0), x, 0.0), align(variables, x)[0], rtol=1e-4, atol=1e-5)
    # At one, the second logits are what the decoder says to one of its own first words, drawn as often as it is likely: here are all it may say.
    x, every = {name: np.resize(value[:1], (7, *value.shape[1:])) for name, value in x.items()}, np.arange(7)
    x["inputs"][:, 1] = every
    first, replies = np.asarray(jax.jit(lambda x: model.apply(variables, x))(x))[:, :2].swapaxes(0, 1)  # [7, V], all alike, and [7, V]
    x = {name: np.resize(value[:1], (num, *value.shape[1:])) for name, value in x.items()}
    logits = np.asarray(run(jax.random.key(1), x, 1.0))
    np.testing.assert_allclose(logits[:, 0], np.resize(first[0], (num, 7)), rtol=1e-4, atol=1e-5)
    distance = np.abs(logits[:, None, 1] - replies[None]).max(-1)  # [num, 7]
    assert (distance.min(1) < 1e-4).all()
    counts, means = np.bincount(distance.argmin(1), minlength=7), num * np.asarray(jax.nn.softmax(first[0]))
    # χ² with 6 degrees of freedom is above 28 once in ten thousand; words that are hardly ever said do not count.
    assert ((counts - means) ** 2 / np.maximum(means, 1)).sum() < 28


def test_scheduled_sampling_follows_its_schedule_and_evaluates_with_the_truth():
    x = batch_of()
    batch = {"x": x, "y": jnp.asarray(x["inputs"]), "mask": jnp.ones((B, T))}
    plain = supervised(Seq2Seq(**SIZES), cross_entropy, optax.sgd(0.1))
    learner = scheduled_sampling(plain, optax.linear_schedule(0.0, 1.0, 4))
    state, step = jax.jit(learner.init)(jax.random.key(0), batch), jax.jit(learner.step)
    seen = []
    for number in range(6):
        state, metrics = step(jax.random.key(number), state, batch)
        seen.append(float(metrics["sampling"]))
    assert seen == [0, 0.25, 0.5, 0.75, 1, 1]
    fold, inner = learner.evaluate, plain.evaluate
    one, other = jax.jit(lambda: (fold.step(fold.init(None, state), state, batch), inner.step(inner.init(None, state.inner), state.inner, batch)))()
    assert float(fold.finish(one)["loss"].value) == float(other["loss"].value)
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got 1.5"):
        scheduled_sampling(plain, 1.5)
    with pytest.raises(ValueError, match="the batch's x must be a dict, got ndarray"):
        learner.step(jax.random.key(0), state, {**batch, "x": x["source"]})


def test_translation_is_greedy_decoding_up_to_the_stop():
    model, variables, _ = built(1)
    x = batch_of()

    @jax.jit
    def likeliest():
        cache = encoder(model)(variables, x["source"], x["lengths"])
        return greedy(decoder_step(model), variables, cache, jnp.zeros((B, 1), jnp.int32), max_tokens=8, stop_tokens=(1,))

    expected = likeliest()
    found = jax.jit(translator(model, max_tokens=8))(jax.random.key(0), variables, x["source"], x["lengths"])
    np.testing.assert_array_equal(found.tokens[:, 0], expected.tokens)
    np.testing.assert_array_equal(found.lengths[:, 0], expected.lengths)


def test_teacher_forcing_shifts_pads_and_masks():
    batch = teacher_forcing(np.array([[2, 9], [3, 4]]), np.array([1, 2]), np.array([[5, 6, 9], [9, 9, 9]]), np.array([2, 0]))
    assert batch["x"]["inputs"].tolist() == [[0, 5, 6, 0], [0, 0, 0, 0]]
    assert batch["y"].tolist() == [[5, 6, 1, 0], [1, 0, 0, 0]]
    assert batch["mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    with pytest.raises(ValueError, match="targets must not have the tokens 0 and 1"):
        teacher_forcing(np.array([[2]]), np.array([1]), np.array([[1]]), np.array([1]))


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"width": 7}, {}, "width must be even for two directions, got 7"),
        ({"attention": "luong"}, {}, "attention must be one of 'general', 'dot', 'concat', 'additive', None, got 'luong'"),
        ({"cell": "rnn"}, {}, "cell must be one of"),
        ({"dropout_rate": 2.0}, {}, r"dropout_rate must be in \[0, 1\]"),
        ({"embed_size": 0}, {}, "embed_size must be >= 1"),
        ({}, {"source": jnp.zeros((B, S))}, "source must be whole numbers, got float32"),
        ({}, {"inputs": jnp.zeros(3, jnp.int32)}, r"inputs must be tokens \[B, T\], got shape \(3,\)"),
        ({}, {"inputs": jnp.zeros((2, T), jnp.int32)}, "source and inputs must be of one batch"),
        ({}, {"lengths": jnp.ones(2, jnp.int32)}, "lengths must be one number for each of the 3 sources"),
    ],
)
def test_what_cannot_be_is_refused(options, changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        jax.eval_shape(Seq2Seq(**SIZES | options).init, jax.random.key(0), jax.tree.map(jnp.asarray, {**batch_of(), **changes}))


def test_a_probability_out_of_range_and_a_token_out_of_the_vocabulary_are_told():
    model, variables, align = built(0)
    with pytest.raises(ValueError, match=r"sampling must be in \[0, 1\], got 2"):
        model.apply(variables, {**batch_of(), "sampling": 2.0}, train=True, rngs={"dropout": jax.random.key(0)})
    x = batch_of()
    x["inputs"][0, 0] = 7
    assert np.isnan(align(variables, x)[0][0]).all()
    assert np.isfinite(align(variables, x)[0][1:]).all()
