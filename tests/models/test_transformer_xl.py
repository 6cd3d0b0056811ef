"""Transformer-XL: the paper's equations written out for one long text; what segments remember, how far it reaches, and its training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.core import precision
from dljax.models.rnn import recurrent_sampler
from dljax.models.transformer_xl import TransformerXL
from dljax.nn.relative_attention import SegmentMemory
from dljax.objectives import cross_entropy
from dljax.supervised import truncated_bptt

V, D, H, L = 7, 8, 2, 2
SMALL = {
    "vocab_size": V,
    "num_layers": L,
    "num_heads": H,
    "width": D,
    "hidden": 10,
    "dropout_rate": 0.0,
    "is_unrolled": False,
}  # rolled: sooner compiled


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def small(dtype=jnp.float32, **options):
    """A model, variables large enough that everything in it matters, and its compiled `apply`."""
    model = TransformerXL(**{**SMALL, **options})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.4, leaf.shape), dtype), shapes)
    return model, variables, jax.jit(model.apply)


def some_tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, shape), jnp.int32)


def nothing(model, batch, dtype=jnp.float64):
    return SegmentMemory.empty(num_layers=L, batch=batch, size=model.memory_size, width=D, dtype=dtype)


def in_segments(apply, variables, tokens, size, memory):
    outputs = []
    for start in range(0, tokens.shape[1], size):
        logits, memory = apply(variables, tokens[:, start : start + size], memory)
        outputs.append(logits)
    return jnp.concatenate(outputs, 1)


def paper(params, tokens, allowed, detached=0):
    """The equations of section 3.3 for one text [T], head by head and pair by pair of places; the states of the first places may be held fixed."""

    def norm(part, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * part["scale"][None] + part["bias"][None]

    length, size = len(tokens), D // H
    distance = np.maximum(np.arange(length)[:, None] - np.arange(length), 0)
    angles = distance[..., None] / 10000 ** (2 * np.arange(D // 2) / D)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], -1)  # [T, T, D]
    h = params["embed"]["embedding"][tokens] * D**0.5
    for layer in range(L):
        own = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["decoder"]["layers"])
        part, heads = own["attention"], []
        read = jnp.concatenate([jax.lax.stop_gradient(h[:detached]), h[detached:]])
        for head in range(H):
            cut = slice(head * size, (head + 1) * size)
            q, k, v = (y @ part[name]["kernel"][:, cut] for name, y in (("query", h), ("key", read), ("value", read)))
            r = waves @ part["position"]["kernel"][:, cut]
            scores = (q + part["content_bias"][head][None]) @ k.T + jnp.einsum("tf,tsf->ts", q + part["position_bias"][head][None], r)
            heads.append(jax.nn.softmax(jnp.where(allowed, scores / size**0.5, -jnp.inf)) @ v)
        h = norm(own["attention_norm"], h + jnp.concatenate(heads, -1) @ part["out"]["kernel"])
        up, down = own["feed_forward"]["up"], own["feed_forward"]["down"]
        units = jax.nn.relu(h @ up["kernel"] + up["bias"][None]) @ down["kernel"] + down["bias"][None]
        h = norm(own["feed_forward_norm"], h + units)
    return h @ params["embed"]["embedding"].T


PAPER = jax.jit(paper, static_argnames="detached")


@pytest.mark.parametrize(("segment", "memory_size"), [(12, 0), (4, 4), (3, 2), (4, 12)])
def test_8_4_segments_have_the_logits_of_the_papers_equations_for_one_long_text(float64, segment, memory_size):
    """A position reads its segment, and as much before the segment as is remembered."""
    model, variables, apply = small(jnp.float64, memory_size=memory_size)
    tokens = some_tokens(1, 12)
    place = np.arange(12)
    first = place // segment * segment - memory_size
    allowed = (place <= place[:, None]) & (place >= first[:, None])
    expected = PAPER(variables["params"], tokens[0], allowed)
    # The waves are computed in float32.
    np.testing.assert_allclose(in_segments(apply, variables, tokens, segment, nothing(model, 1))[0], expected, atol=2e-5)


def test_8_4_gradients_are_those_of_the_papers_equations_with_the_memory_held_fixed(float64):
    model, variables, _ = small(jnp.float64, memory_size=5)
    tokens, direction = some_tokens(1, 8), jnp.asarray(np.random.default_rng(1).normal(size=(3, V)))

    @jax.jit
    def run(variables):
        _, memory = model.apply(variables, tokens[:, :5])
        ours = jax.grad(lambda variables: (model.apply(variables, tokens[:, 5:], memory)[0][0] * direction).sum())(variables)
        theirs = jax.grad(lambda params: (paper(params, tokens[0], jnp.tri(8, dtype=bool), detached=5)[5:] * direction).sum())(variables["params"])
        return ours["params"], theirs

    ours, theirs = run(variables)
    # The waves are computed in float32.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), ours, theirs)


def test_8_4_token_by_token_the_context_is_layers_times_memory_wherever_in_the_text_it_is(float64):
    size, reach, length = 3, L * 3, 12
    model, variables, _ = small(jnp.float64, memory_size=size)

    @jax.jit
    @jax.vmap
    def read(tokens):
        def step(memory, token):
            logits, memory = model.apply(variables, token[None, None], memory)
            return memory, logits[0, 0]

        return jax.lax.scan(step, nothing(model, 1), tokens)[1]

    tokens = some_tokens(length)
    changed = (tokens[None] + jnp.eye(length, dtype=jnp.int32)) % V
    shifted = jnp.concatenate([tokens[3:], some_tokens(3, seed=9)])
    logits = read(jnp.concatenate([tokens[None], shifted[None], changed]))
    moved = jnp.abs(logits[2:, -1] - logits[:1, -1]).max(-1)
    np.testing.assert_array_equal(moved > 1e-9, np.arange(length) >= length - 1 - reach)
    # Three places earlier in a text, behind another beginning, the same tokens have the same logits.
    np.testing.assert_allclose(logits[1, reach : length - 3], logits[0, reach + 3 :], atol=1e-12)
    assert jnp.abs(logits[1, reach - 1] - logits[0, reach + 2]).max() > 1e-9


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(0, 4), min_size=3, max_size=3), junk=st.sampled_from([0.0, 1e4, np.nan]), seed=st.integers(0, 99))
def test_8_4_rows_are_apart_and_what_is_not_remembered_changes_nothing(lengths, junk, seed):
    _, variables, apply = small(memory_size=4)
    tokens, lengths = some_tokens(3, 5, seed=seed), jnp.array(lengths, jnp.int32)
    states = jnp.asarray(np.random.default_rng(seed).normal(size=(3, L, 4, D)), jnp.float32)
    is_filled = (jnp.arange(4)[None] >= 4 - lengths[:, None])[:, None, :, None]
    logits, memory = apply(variables, tokens, SegmentMemory(jnp.where(is_filled, states, 0), lengths))
    spoilt, _ = apply(variables, tokens, SegmentMemory(jnp.where(is_filled, states, junk if np.isfinite(junk) else 1e30), lengths))
    np.testing.assert_allclose(spoilt, logits, atol=1e-5)
    assert memory.length.tolist() == [4, 4, 4]
    rows = jnp.array([2, 0, 1])
    turned, _ = apply(variables, tokens[rows], SegmentMemory(states[rows], lengths[rows]))
    np.testing.assert_allclose(turned, logits[rows], atol=1e-5)


def test_8_4_truncated_backpropagation_carries_the_memory_and_a_reset_forgets_it():
    model, variables, apply = small(memory_size=4)
    learner = truncated_bptt(model, cross_entropy, optax.set_to_zero())
    tokens = some_tokens(2, 9)
    batches = [{"x": tokens[:, i : i + 4], "y": tokens[:, i + 1 : i + 5], "reset": jnp.array([i == 0, True])} for i in (0, 4)]
    shapes = jax.eval_shape(learner.init, jax.random.key(0), batches[0])
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)._replace(params=variables["params"])
    step, totals = jax.jit(learner.step), []
    for i, batch in enumerate(batches):
        state, metrics = step(jax.random.key(i), state, batch)
        totals.append(float(metrics["loss"].total))
    assert state.model_state["carry"].length.tolist() == [4, 4]

    def loss(logits, targets):
        return float(optax.softmax_cross_entropy_with_integer_labels(logits, targets).sum())

    fresh = nothing(model, 2, jnp.float32)
    carried = in_segments(apply, variables, tokens[:, :8], 4, fresh)
    alone, _ = apply(variables, tokens[:, 4:8], fresh)
    np.testing.assert_allclose(totals[0], loss(carried[:, :4], tokens[:, 1:5]), rtol=1e-5)
    expected = loss(carried[0, 4:], tokens[0, 5:]) + loss(alone[1], tokens[1, 5:])
    np.testing.assert_allclose(totals[1], expected, rtol=1e-5)
    assert abs(expected - loss(carried[:, 4:], tokens[:, 5:])) > 1e-2


def test_8_4_the_sampler_of_recurrent_models_continues_its_texts():
    model, variables, apply = small(memory_size=16)
    prompt = some_tokens(2, 3)
    found = jax.jit(functools.partial(recurrent_sampler(model), num=5, temperature=0.0))(jax.random.key(0), variables, prompt)
    text = np.asarray(prompt)
    for _ in range(5):
        padded = np.pad(text, ((0, 0), (0, 8 - text.shape[1])))
        logits, _ = apply(variables, padded)
        text = np.concatenate([text, np.asarray(logits[:, text.shape[1] - 1].argmax(-1))[:, None]], 1)
    np.testing.assert_array_equal(found, text[:, 3:])


def test_half_precision_keeps_what_is_carried_as_it_is():
    model, _, _ = small(memory_size=4)
    learner = truncated_bptt(model, cross_entropy, optax.sgd(0.1))
    batch = {"x": some_tokens(2, 4), "y": some_tokens(2, 4)}
    with precision.use("bfloat16"):
        before = jax.eval_shape(learner.init, jax.random.key(0), batch)
        after, _ = jax.eval_shape(learner.step, jax.random.key(1), before, batch)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), before)


@pytest.mark.parametrize(
    ("options", "arguments", "error", "message"),
    [
        ({"num_layers": 0}, {}, ValueError, "num_layers must be >= 1, got 0"),
        ({"memory_size": -1}, {}, ValueError, "memory_size must be >= 0, got -1"),
        ({"dropout_rate": 1.5}, {}, ValueError, r"dropout_rate must be in \[0, 1\], got 1.5"),
        ({"num_heads": 3}, {}, ValueError, "num_heads must divide the width 8, got 3"),
        ({}, {"tokens": jnp.ones((1, 2))}, TypeError, "tokens must be whole numbers, got float32"),
        (
            {"memory_size": 4},
            {"memory": SegmentMemory.empty(num_layers=L, batch=1, size=3, width=D)},
            ValueError,
            r"memory must hold states \[B, L, M, D\] = \(1, 2, 4, 8\), got \(1, 2, 3, 8\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, arguments, error, message):
    model = TransformerXL(**{**SMALL, **options})
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), **{"tokens": jnp.ones((1, 2), jnp.int32), **arguments}))
