"""Truncated backpropagation through time: segments make up the whole, the gradient is exact at full length, documents do not mix."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from dljax import core
from dljax.data import stream_segments, streams
from dljax.models import RecurrentLanguageModel
from dljax.nn import lstm
from dljax.objectives import cross_entropy, squared_error
from dljax.supervised import truncated_bptt

B, T, D, H = 2, 12, 3, 4
FROZEN = optax.set_to_zero()


def init(key, x):
    keys = jax.random.split(key, 2)
    size = x.shape[-1]
    return {
        "kernel": 0.5 * jax.random.normal(keys[0], (size, 4 * H), x.dtype),
        "recurrent": 0.5 * jax.random.normal(keys[1], (H, 4 * H), x.dtype),
        "bias": jnp.zeros(4 * H, x.dtype),
    }


def apply(params, x, carry):
    return lstm(x, params["kernel"], params["recurrent"], params["bias"], carry=carry)


def sequences(length=T):
    rng = np.random.default_rng(0)
    return {"x": jnp.asarray(rng.normal(size=(B, length, D))), "y": jnp.asarray(rng.normal(size=(B, length, H)))}


def cut(batch, start, stop):
    return jax.tree.map(lambda leaf: leaf[:, start:stop], batch)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def test_6_1_segments_have_the_summed_loss_and_the_carry_of_the_whole(float64):
    learner, batch = truncated_bptt((init, apply), squared_error, FROZEN), sequences()
    step = jax.jit(learner.step)
    fresh = jax.jit(learner.init)(jax.random.key(0), batch)
    whole, metrics = step(jax.random.key(1), fresh, batch)
    total, state = 0.0, fresh
    for start in range(0, T, 4):
        state, part = step(jax.random.key(start), state, cut(batch, start, start + 4))
        total += part["loss"].total
    np.testing.assert_allclose(total, metrics["loss"].total, rtol=1e-13)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), state.model_state["carry"], whole.model_state["carry"])


def test_6_1_the_gradient_is_that_of_bptt_where_one_segment_is_the_whole_and_truncated_where_it_is_not(float64):
    learner, batch = truncated_bptt((init, apply), squared_error, optax.sgd(1.0)), sequences()
    state = jax.jit(learner.init)(jax.random.key(0), batch)

    def by_hand(params, batch, carry):
        return squared_error(apply(params, batch["x"], carry)[0], batch["y"]).mean()

    step, grad = jax.jit(learner.step), jax.jit(jax.grad(by_hand))
    full, _ = step(jax.random.key(1), state, batch)
    expected = grad(state.params, batch, None)
    jax.tree.map(lambda a, b, g: np.testing.assert_allclose(a - b, g, rtol=1e-10, atol=1e-12), state.params, full.params, expected)
    # The second half's gradient holds what the first half left behind fixed.
    first, second = cut(batch, 0, 6), cut(batch, 6, 12)
    middle, _ = step(jax.random.key(1), state, first)
    last, _ = step(jax.random.key(2), middle, second)
    carry = jax.jit(apply)(state.params, first["x"], None)[1]
    expected = grad(middle.params, second, carry)
    jax.tree.map(lambda a, b, g: np.testing.assert_allclose(a - b, g, rtol=1e-10, atol=1e-12), middle.params, last.params, expected)


def test_6_1_a_document_that_begins_sees_nothing_of_the_one_before(float64):
    learner, batch = truncated_bptt((init, apply), squared_error, FROZEN), sequences()
    step = jax.jit(learner.step)
    fresh = jax.jit(learner.init)(jax.random.key(0), batch)
    first, second = cut(batch, 0, 6), cut(batch, 6, 12)
    used, _ = step(jax.random.key(1), fresh, first | {"reset": jnp.array([True, True])})
    mixed, _ = step(jax.random.key(2), used, second | {"reset": jnp.array([True, False])})
    alone, _ = step(jax.random.key(2), fresh, second | {"reset": jnp.array([False, False])})
    on, _ = step(jax.random.key(2), used, second | {"reset": jnp.array([False, False])})
    for a, b, c in zip(*(jax.tree.leaves(state.model_state["carry"]) for state in (mixed, alone, on)), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], c[1])
        assert (a[1] != b[1]).all()


def text(num=90):
    return np.random.default_rng(0).integers(0, 5, num)


def language_learner(**options):
    model = RecurrentLanguageModel(5, 6, embedding_size=3)
    return truncated_bptt(model, cross_entropy, optax.adam(1e-2), metrics={"nats": cross_entropy}, **options)


@pytest.mark.rank_promotion
def test_6_4_evaluation_reads_the_whole_text_with_the_state_carried():
    tokens = text(100)
    learner = language_learner(num_evaluated=3)
    source = streams(text(), 8, 2)
    state = jax.jit(lambda key: core.start(learner, source, key)[1])(jax.random.key(0))
    assert set(learner.params(state)) == {"params"}  # a carry is nothing to predict with
    data = stream_segments(tokens, 8, 3)
    result = jax.jit(core.evaluate(learner.evaluate, 3))(jax.random.key(0), state, data)
    ends = [0, 33, 66, 99]
    rows = [tokens[start : stop + 1] for start, stop in itertools.pairwise(ends)]
    logits = jax.jit(learner.functions["predict"])(jax.random.key(0), learner.params(state), jnp.asarray([row[:-1] for row in rows]))
    expected = cross_entropy(logits, jnp.asarray([row[1:] for row in rows])).mean()
    np.testing.assert_allclose(result["nats"].value, expected, rtol=1e-5)
    np.testing.assert_allclose(result["loss"].value, expected, rtol=1e-5)
    assert float(result["loss"].weight) == 99


def test_truncated_bptt_refuses_what_it_cannot_carry():
    with pytest.raises(TypeError, match=r"truncated_bptt: model must be a linen module or an \(init, apply\) pair that hands on a carry, got int"):
        truncated_bptt(3, squared_error, FROZEN)
    with pytest.raises(ValueError, match="truncated_bptt: num_evaluated must be >= 1, got 0"):
        truncated_bptt((init, apply), squared_error, FROZEN, num_evaluated=0)
    learner, batch = truncated_bptt((init, apply), squared_error, FROZEN), jax.tree.map(jnp.float32, sequences(2))
    state = learner.init(jax.random.key(0), batch)
    with pytest.raises(ValueError, match="the carried state is of 2 streams, got a batch of 1; keep their number, and say num_evaluated"):
        learner.step(jax.random.key(0), state, jax.tree.map(lambda leaf: leaf[:1], batch))
    with pytest.raises(ValueError, match=r"truncated_bptt: a batch must be a dict with \"x\" and \"y\".*got the keys \['x'\]"):
        learner.step(jax.random.key(0), state, {"x": batch["x"]})
    with core.bind_axis("data"), pytest.raises(ValueError, match="the carried state belongs to the rows of a batch.*shard by jit"):
        learner.step(jax.random.key(0), state, batch)
    with pytest.raises(TypeError, match="supervised: loss must be a function"):
        truncated_bptt(linen.Dense(1), "mse", FROZEN)
