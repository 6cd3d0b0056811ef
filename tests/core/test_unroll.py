"""`unroll` and `start`: laws that hold for every learner, shown on one that is easily wrong about any of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.core import EMPTY, Learner, Mean, Source, start, unroll

KEY = jax.random.key(7)
DATA = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
ROWS = Source(lambda key: jax.random.randint(key, (), 0, 5), lambda data, cursor: (cursor + 1, data[cursor % 5]), DATA)


def noisy_average() -> Learner:
    """Depends on the key, the order of the batches and the number of steps: nothing may be lost or repeated."""

    def init(key, batch):
        return {"params": jax.random.normal(key, batch.shape), "count": jnp.int32(0)}

    def step(key, state, batch):
        params = 0.9 * state["params"] + 0.1 * (batch + jax.random.normal(key, batch.shape))
        metrics = {"norm": (params**2).sum(), "seen": Mean(batch.sum(), state["count"] % 2)}
        return {"params": params, "count": state["count"] + 1}, metrics

    return Learner(init, step)


LEARNER = noisy_average()


@pytest.fixture(scope="module")
def by_hand():
    """Twelve steps one by one, without any of the code under test: the states and the metrics."""
    run_key, state, cursor = start(LEARNER, ROWS, KEY)
    step = jax.jit(LEARNER.step)
    rows = []
    for index in range(12):
        cursor, batch = ROWS.next(DATA, cursor)
        state, metrics = step(jax.random.fold_in(run_key, index), state, batch)
        rows.append(metrics)
    return state, cursor, rows


@pytest.fixture(scope="module")
def compiled():
    return {length: jax.jit(unroll(LEARNER, ROWS, length)) for length in (1, 2, 3)}


def begun():
    return start(LEARNER, ROWS, KEY)


def test_scan_equals_a_loop_over_steps(by_hand):
    state, cursor, rows = by_hand
    key, *loop = begun()
    scanned, end, history = jax.jit(unroll(LEARNER, ROWS, 12))(key, 0, *loop)
    np.testing.assert_allclose(scanned["params"], state["params"], rtol=1e-6)
    np.testing.assert_array_equal(scanned["count"], state["count"])
    np.testing.assert_array_equal(end, cursor)
    np.testing.assert_allclose(history["norm"], [row["norm"] for row in rows], rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.permutations([1, 2, 3, 2, 1, 3]))
def test_cutting_a_run_into_chunks_does_not_change_it(by_hand, compiled, lengths):
    state, cursor, rows = by_hand
    key, *loop = begun()
    step, pieces = 0, []
    for length in lengths:
        *loop, piece = compiled[length](key, step, *loop)
        pieces.append(piece["norm"])
        step += length
    np.testing.assert_allclose(loop[0]["params"], state["params"], rtol=1e-6)
    np.testing.assert_array_equal(loop[1], cursor)
    np.testing.assert_allclose(np.concatenate(pieces), [row["norm"] for row in rows], rtol=1e-5)


def test_chunks_of_one_compiled_program_give_the_same_bits_as_one_call_after_another(by_hand):
    four = jax.jit(unroll(LEARNER, ROWS, 4, every=2))
    runs = []
    for _ in range(2):
        key, *loop = begun()
        for step in (0, 4, 8):
            *loop, _ = four(key, step, *loop)
        runs.append(loop[0]["params"])
    np.testing.assert_array_equal(*runs)
    np.testing.assert_allclose(runs[0], by_hand[0]["params"], rtol=1e-6)


def test_report_is_the_mean_over_its_steps(by_hand):
    key, *loop = begun()
    _, _, history = unroll(LEARNER, ROWS, 12, every=4)(key, 0, *loop)
    norms = np.asarray([row["norm"] for row in by_hand[2]]).reshape(3, 4)
    np.testing.assert_allclose(history["norm"], norms.mean(1), rtol=1e-5)
    np.testing.assert_array_equal(history.metrics["norm"].weight, [4, 4, 4])


def test_mean_is_weighted_over_the_steps_that_had_something_to_say(by_hand):
    key, *loop = begun()
    _, _, history = unroll(LEARNER, ROWS, 12, every=4)(key, 0, *loop)
    totals = np.asarray([row["seen"].total for row in by_hand[2]]).reshape(3, 4)
    np.testing.assert_allclose(history["seen"], totals.sum(1) / 2, rtol=1e-5)  # the counts 1 and 3 of each four have weight 1


def test_report_without_any_weight_is_undefined():
    learner = Learner(lambda key, batch: 0.0, lambda key, state, batch: (state, {"return": Mean(0.0, 0.0)}))
    *_, history = unroll(learner, EMPTY, 2)(KEY, 0, 0.0, ())
    assert np.isnan(history["return"]).all()
    assert int(history.bad_step) == -1  # nothing to say is not a bad step


def test_mean_of_means_weighs_each_by_its_weight():
    learner = Learner(lambda key, batch: 0, lambda key, state, batch: (state + 1, {"x": Mean(jnp.float32(state), jnp.float32(state))}))
    *_, history = unroll(learner, EMPTY, 3, every=3)(KEY, 0, 0, ())
    assert history["x"].tolist() == [1.0]  # (0 + 1 + 2) / (0 + 1 + 2), and not a mean of 0/0, 1 and 1


@pytest.mark.parametrize(("values", "expected"), [([1, 2, 3, 4], -1), ([1, np.nan, 3, 4], 1), ([1, 2, 3, -np.inf], 3), ([np.nan] * 4, 0)])
def test_bad_step_is_the_first_with_a_metric_that_is_not_finite(values, expected):
    values = jnp.asarray(values, jnp.float32)
    learner = Learner(lambda key, batch: 0, lambda key, state, batch: (state + 1, {"fine": 1.0, "x": values[state]}))
    for every in (1, 2):
        state, _, history = unroll(learner, EMPTY, 4, every)(KEY, 10, 0, ())
        assert int(history.bad_step) == (expected if expected < 0 else 10 + expected)
        assert int(state) == 4  # the run itself goes on


def test_vmap_over_keys_equals_one_run_after_another():
    keys = jax.random.split(KEY, 3)

    def whole(key):
        run_key, *loop = start(LEARNER, ROWS, key)
        return unroll(LEARNER, ROWS, 4)(run_key, 0, *loop)[0]["params"]

    alone = jax.jit(whole)
    np.testing.assert_allclose(jax.jit(jax.vmap(whole))(keys), np.stack([alone(key) for key in keys]), rtol=1e-5)


def test_state_of_python_numbers_keeps_its_type_in_the_scan():
    learner = Learner(
        lambda key, batch: {"a": 1.0, "n": 0}, lambda key, state, batch: ({"a": state["a"] * 0.5, "n": state["n"] + 1}, {"a": state["a"]})
    )
    state, _, _ = unroll(learner, EMPTY, 3)(KEY, 0, {"a": 1.0, "n": 0}, ())
    assert float(state["a"]) == 0.125
    assert not state["a"].weak_type
    assert int(state["n"]) == 3


def test_state_may_hold_a_typed_key():
    learner = Learner(lambda key, batch: {"key": key}, lambda key, state, batch: ({"key": jax.random.split(state["key"])[0]}, {}))
    state, _, history = unroll(learner, EMPTY, 2)(KEY, 0, {"key": KEY}, ())
    assert (jax.random.key_data(state["key"]) == jax.random.key_data(jax.random.split(jax.random.split(KEY)[0])[0])).all()
    assert dict(history.metrics) == {}


def test_run_is_differentiable_with_respect_to_an_option():
    def end(rate):
        learner = Learner(lambda key, batch: 1.0, lambda key, state, batch: (rate * state, {}))
        return unroll(learner, EMPTY, 3)(KEY, 0, 1.0, ())[0]

    assert float(jax.grad(end)(0.5)) == pytest.approx(3 * 0.5**2)


def test_data_given_to_the_run_replace_those_of_the_source(compiled):
    key, *loop = begun()
    own, *_ = compiled[2](key, 0, *loop)
    other, *_ = compiled[2](key, 0, *loop, data=jnp.zeros_like(DATA))
    assert not np.allclose(own["params"], other["params"])


def test_start_is_a_pure_function_of_the_key_and_leaves_the_cursor_before_the_first_batch():
    one, other = begun(), begun()
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))
    run_key, state, cursor = one
    assert int(cursor) == int(ROWS.init(jax.random.split(KEY, 3)[1]))
    assert (jax.random.key_data(run_key) == jax.random.key_data(jax.random.split(KEY, 3)[2])).all()
    assert not np.allclose(state["params"], start(LEARNER, ROWS, jax.random.key(8))[1]["params"])


def test_metric_that_is_no_scalar_is_refused():
    learner = Learner(lambda key, batch: 0, lambda key, state, batch: (state, {"loss": jnp.zeros(3)}))
    with pytest.raises(ValueError, match=r"metric 'loss': must be a scalar or a Mean of scalars, got shape \(3,\); average it in the step"):
        unroll(learner, EMPTY, 1)(KEY, 0, 0, ())


@pytest.mark.parametrize(
    ("steps", "every", "message"),
    [
        (0, 1, "steps must be >= 1, got 0"),
        (4, 0, "every must be >= 1, got 0"),
        (10, 4, r"every must divide steps, got every=4 and steps=10; use 8 steps"),
        (4, 5, "every must divide steps"),
    ],
)
def test_impossible_lengths_are_refused(steps, every, message):
    with pytest.raises(ValueError, match=message):
        unroll(LEARNER, ROWS, steps, every)


def test_length_that_is_no_whole_number_is_refused():
    with pytest.raises(TypeError, match=r"steps must be a whole number >= 1, got 1\.5"):
        unroll(LEARNER, ROWS, 1.5)


@pytest.mark.parametrize("value", [True, np.int8(3), 1.5, jnp.bfloat16(1.5)])
def test_metrics_of_any_number_type_are_reported_in_float32(value):
    learner = Learner(lambda key, batch: 0, lambda key, state, batch: (state, {"x": value}))
    *_, history = unroll(learner, EMPTY, 2, every=2)(KEY, 0, 0, ())
    assert history["x"].dtype == jnp.float32
    assert float(history["x"][0]) == float(value)


def test_metrics_in_float64_stay_float64():
    with jax.enable_x64(True):
        learner = Learner(lambda key, batch: 0, lambda key, state, batch: (state, {"x": jnp.float64(0.1)}))
        *_, history = unroll(learner, EMPTY, 2)(KEY, 0, 0, ())
        assert history["x"].dtype == jnp.float64
