"""`fit`: what a run reports, when it stops, and that nothing but the key decides what is learned."""

import dataclasses
import json
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import BATCH, HELD_OUT, SOURCE, TRAINING, X, assert_same_bits, network, scripted

from dljax.core import EMPTY, Experiment, Fold, Learner, Mean
from dljax.engine import EarlyStopping, FitConfig, NonFiniteError, fit, train
from dljax.engine.log import read_lines

KEY = jax.random.key(11)
CONFIG = FitConfig(every=2, chunk=4, evaluate_every=8, batch_size=12)


@pytest.fixture(scope="module")
def run():
    """24 steps with evaluations, in memory."""
    return fit(network(), SOURCE, 24, KEY, evaluation=HELD_OUT, config=CONFIG)


def test_history_has_a_row_for_every_report_and_evaluations_one_for_each(run):
    assert run.history["step"].tolist() == list(range(2, 25, 2))
    assert run.evaluations["step"].tolist() == [8, 16, 24]
    assert set(run.history) == {"step", "loss", "bias"}
    assert (run.step, run.status) == (24, "done")
    assert run.history["loss"][-1] < 0.7 * run.history["loss"][0]


def test_result_says_what_the_run_cost(run):
    result = run.result
    assert result["recompilations"] == 0
    assert result["steps_per_second"] > 0
    assert result["compile_seconds"] > 0
    assert result["memory_bytes"]["total"] > 0
    assert result["state_bytes"] >= sum(leaf.nbytes for leaf in jax.tree.leaves(run.state))
    json.dumps(result, allow_nan=False)


def test_evaluation_is_the_fold_over_all_held_out_examples(run):
    outputs = run.functions["predict"](KEY, HELD_OUT["x"])
    assert run.evaluations["error"][-1] == pytest.approx(float(((outputs - HELD_OUT["y"]) ** 2).mean()), rel=1e-5)


def test_evaluating_does_not_change_the_training_stream(run):
    alone = fit(network(), SOURCE, 24, KEY, config=CONFIG)
    assert_same_bits(alone.state, run.state)
    np.testing.assert_array_equal(alone.history["loss"], run.history["loss"])
    assert alone.evaluations == {}


@pytest.mark.parametrize("config", [FitConfig(every=24), FitConfig(every=3), FitConfig(every=1, chunk=12), FitConfig(every=5)])
def test_how_the_run_is_cut_does_not_change_what_is_learned(run, config):
    other = fit(network(), SOURCE, 24, KEY, config=config)
    for one, two in zip(jax.tree.leaves(run.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    assert other.history["step"][-1] == 24


def test_report_after_a_length_that_every_does_not_divide_covers_the_rest():
    run = fit(scripted(range(10)), EMPTY, 10, config=FitConfig(every=4))
    assert run.history["step"].tolist() == [4, 8, 10]
    assert run.history["loss"].tolist() == [1.5, 5.5, 8.5]


def test_debug_gives_the_same_without_compiling():
    config = FitConfig(every=2, evaluate_every=2)
    fast = fit(scripted(range(4)), EMPTY, 4, KEY, evaluation=(), config=config)
    slow = fit(scripted(range(4)), EMPTY, 4, KEY, evaluation=(), config=dataclasses.replace(config, debug=True))
    assert_same_bits(slow.state, fast.state)
    assert slow.history["loss"].tolist() == fast.history["loss"].tolist() == [0.5, 2.5]
    assert slow.evaluations["score"].tolist() == fast.evaluations["score"].tolist() == [1, 3]


def test_debug_stops_where_the_first_nan_is_made():
    def step(key, state, batch):
        return {"params": jnp.log(state["params"] - 2)}, {"loss": state["params"]}

    with pytest.raises(FloatingPointError, match="invalid value"):
        fit(Learner(lambda key, batch: {"params": jnp.ones(())}, step), EMPTY, 3, config=FitConfig(debug=True))


def test_bfloat16_computes_in_half_and_keeps_the_parameters(run):
    half = fit(network(), SOURCE, 24, KEY, evaluation=HELD_OUT, config=FitConfig(every=2, chunk=4, batch_size=12, precision="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype("float32")}
    difference = np.abs(half.history["loss"] - run.history["loss"])
    assert 0 < difference.max() < 0.02


# What the caller gave belongs to the caller


def test_key_data_and_arrays_that_were_given_are_alive_after_the_run():
    first = jnp.ones((8, 4))

    def step(key, state, batch):
        loss, grad = jax.value_and_grad(lambda w: ((batch["x"] @ w - batch["y"]) ** 2).mean())(state["params"])
        return {**state, "params": state["params"] - 0.01 * grad}, {"loss": loss}

    learner = Learner(lambda key, batch: {"params": first, "key": key, "batch": batch}, step)
    data, key = jax.tree.map(jnp.asarray, TRAINING), jax.random.key(3)
    whole_batch = SOURCE._replace(init=lambda key: key, next=lambda data, cursor: (cursor, data), data=data)
    run = fit(learner, whole_batch, 6, key, config=FitConfig(every=2))
    np.testing.assert_array_equal(first, np.ones((8, 4)))
    np.testing.assert_array_equal(data["x"], X)
    assert int(jax.random.bits(key)) == int(jax.random.bits(jax.random.key(3)))
    assert not np.allclose(run.params, first)


def test_callbacks_get_copies_that_they_may_keep_and_change():
    kept = []

    def vandal(snapshot):
        kept.append((snapshot.step, snapshot.params["first"]["kernel"], snapshot.params["first"]["kernel"].copy()))
        snapshot.params["second"]["kernel"][:] = np.nan
        snapshot.metrics.clear()

    seen = []
    run = fit(network(), SOURCE, 12, KEY, config=FitConfig(every=4), callbacks=[vandal, seen.append])
    plain = fit(network(), SOURCE, 12, KEY, config=FitConfig(every=4))
    assert_same_bits(run.state, plain.state)
    np.testing.assert_array_equal(run.history["loss"], plain.history["loss"])
    assert [step for step, _, _ in kept] == [4, 8, 12]
    for _, live, copy in kept:
        assert isinstance(live, np.ndarray)
        np.testing.assert_array_equal(live, copy)
    assert_same_bits(seen[-1].params, run.params)
    assert seen[-1].metrics["loss"] == run.history["loss"][-1]


def test_callback_that_says_stop_stops_the_run(tmp_path):
    run = fit(network(), SOURCE, 24, KEY, config=FitConfig(every=4), callbacks=[lambda snapshot: snapshot.step >= 8], out=tmp_path)
    assert (run.step, run.status) == (8, "stopped")
    assert run.result["message"] == "a callback stopped the run at step 8"


def test_further_loggers_get_every_row(run):
    rows = []

    class Logger:
        def log(self, kind, step, values):
            rows.append((kind, step, dict(values)))

        def close(self): ...

    fit(network(), SOURCE, 8, KEY, evaluation=HELD_OUT, config=CONFIG, loggers=[Logger()])
    assert [(kind, step) for kind, step, _ in rows] == [("metrics", 2), ("metrics", 4), ("metrics", 6), ("metrics", 8), ("evaluation", 8)]
    assert rows[3][2]["loss"] == run.history["loss"][3]


# Stopping


@pytest.mark.parametrize(
    ("values", "stopping", "step"),
    [
        ([3, 2, 1, 2, 2, 2, 2, 2], EarlyStopping("score", patience=3), 6),
        ([1, 2, 3, 2, 2, 2, 2, 2], EarlyStopping("score", patience=2, mode="max"), 5),
        ([3, 2.6, 2.51, 2.4, 1, 2, 2, 2], EarlyStopping("score", patience=2, min_delta=0.5), 3),
        ([8, 7, 6, 5, 4, 3, 2, 1], EarlyStopping("score", patience=1), 8),
        ([1, np.nan, np.nan, np.nan, 1, 1, 1, 1], EarlyStopping("score", patience=1), 5),
    ],
)
def test_4_2_early_stopping_waits_as_long_as_its_patience(values, stopping, step):
    run = fit(scripted(values), EMPTY, 8, evaluation=(), config=FitConfig(every=1, evaluate_every=1, early_stopping=stopping))
    assert run.step == step
    assert run.status == ("stopped" if step < 8 else "done")


def test_metric_that_goes_non_finite_stops_the_run_and_names_its_first_step(tmp_path):
    config = FitConfig(every=2, chunk=4, checkpoint_every=4)
    with pytest.raises(NonFiniteError, match=r"a metric is not finite at step 10; the checkpoint of step 8 in .* is finite") as raised:
        fit(network(poison=10), SOURCE, 24, KEY, config=config, out=tmp_path)
    run = raised.value.run
    assert (run.step, run.status) == (12, "nonfinite")
    assert np.isnan(run.history["loss"]).tolist() == [False] * 5 + [True]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "8"]
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "nonfinite"
    rows = read_lines(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] is None
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(NonFiniteError, match="not finite at step 10"):
        fit(network(poison=10), SOURCE, 24, KEY, config=config, out=tmp_path, resume=True)


@pytest.mark.parametrize(("leaf", "value"), [("params", np.nan), ("params", np.inf), ("other", np.nan)])
def test_state_that_goes_non_finite_stops_the_run_though_the_metrics_are_fine(leaf, value):
    def step(key, state, batch):
        state = {**state, "count": state["count"] + 1}
        return {**state, leaf: jnp.where(state["count"] == 3, value, state[leaf])}, {"loss": 1.0}

    learner = Learner(lambda key, batch: {"params": 0.0, "other": 0.0, "count": 0}, step)
    with pytest.raises(NonFiniteError, match=r"the state is not finite after step 3 \(the metrics still were\); no checkpoint was saved"):
        fit(learner, EMPTY, 8, config=FitConfig(every=4))


def test_infinity_that_is_meant_may_stand_in_the_state():
    learner = Learner(
        lambda key, batch: {"params": 0.0, "best": jnp.inf}, lambda key, state, batch: ({**state, "best": state["best"]}, {"loss": 1.0})
    )
    assert fit(learner, EMPTY, 4, config=FitConfig(every=2)).status == "done"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_run_at_the_end_of_its_chunk_and_saves_it(tmp_path, signum):
    before = signal.getsignal(signum)

    def ask(snapshot):
        if snapshot.step == 8:
            os.kill(os.getpid(), signum)

    run = fit(network(), SOURCE, 100, KEY, config=FitConfig(every=4), callbacks=[ask], out=tmp_path)
    assert run.status == "interrupted"
    assert run.step in (8, 12)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [str(run.step)]
    assert signal.getsignal(signum) is before


def test_second_interrupt_does_not_wait():
    def ask(snapshot):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(network(), SOURCE, 100, KEY, config=FitConfig(every=4), callbacks=[ask])


def test_runs_in_a_thread_that_gets_no_signals():
    runs = []
    thread = threading.Thread(target=lambda: runs.append(fit(scripted(range(4)), EMPTY, 4, config=FitConfig(every=2))))
    thread.start()
    thread.join()
    assert runs[0].status == "done"


def test_key_changes_the_run_and_the_same_key_does_not(run):
    again = fit(network(), SOURCE, 24, KEY, config=CONFIG)
    other = fit(network(), SOURCE, 24, jax.random.key(12), config=CONFIG)
    np.testing.assert_array_equal(again.history["loss"], run.history["loss"])
    assert not np.array_equal(other.history["loss"], run.history["loss"])


# Learners at the edge of the contract


def test_learner_without_state_metrics_or_data_runs_and_saves(tmp_path):
    learner = Learner(lambda key, batch: (), lambda key, state, batch: (state, {}), lambda state: ())
    run = fit(learner, EMPTY, 4, config=FitConfig(every=2), out=tmp_path)
    again = fit(learner, EMPTY, 6, config=FitConfig(every=2), out=tmp_path, resume=True)
    assert (run.step, again.step) == (4, 6)
    assert run.history == {}


def test_mean_that_has_nothing_to_say_is_null_in_the_log(tmp_path):
    learner = Learner(lambda key, batch: {"params": 0.0}, lambda key, state, batch: (state, {"return": Mean(0.0, 0.0)}))
    run = fit(learner, EMPTY, 2, config=FitConfig(every=1), out=tmp_path)
    assert np.isnan(run.history["return"]).all()
    assert [row["return"] for row in read_lines(tmp_path / "metrics.jsonl")] == [None, None]


def test_experiment_fills_the_gaps_of_the_config():
    experiment = Experiment(
        network(), SOURCE, steps=8, every=2, evaluation=HELD_OUT, batch_size=20, evaluate_every=4, per_step=BATCH, unit="examples"
    )
    run = train(experiment, KEY)
    assert run.history["step"].tolist() == [2, 4, 6, 8]
    assert run.evaluations["step"].tolist() == [4, 8]
    assert run.result["unit"] == "examples"
    assert run.result["units_per_second"] == pytest.approx(BATCH * run.result["steps_per_second"])
    assert train(experiment, KEY, config=FitConfig(every=4)).history["step"].tolist() == [4, 8]


# Refusals, before anything is compiled


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "fit: steps must be >= 1, got 0"),
        ({"steps": 2.5}, TypeError, "fit: steps must be a whole number >= 1, got 2.5"),
        ({"key": 0}, TypeError, r"fit: key must be one typed random key such as jax.random.key\(0\), got 0"),
        ({"key": jax.random.split(KEY)}, TypeError, "fit: key must be one typed random key"),
        ({"resume": True}, ValueError, "fit: resume needs the folder of the run; pass out"),
        ({"learner": scripted([1])._replace(evaluate=None), "evaluation": ()}, ValueError, "the learner has no `evaluate` fold"),
        ({"config": FitConfig(every=4, chunk=6)}, ValueError, "chunk must be a multiple of every, got chunk=6 and every=4; use 4"),
        ({"config": FitConfig(every=4, evaluate_every=6)}, ValueError, "evaluate_every must be a multiple of the chunk, got 6 and a chunk of 4"),
        ({"config": FitConfig(early_stopping=EarlyStopping("loss"))}, ValueError, "early_stopping looks at evaluations, but there are no"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        fit(**{"learner": scripted([1]), "source": EMPTY, "steps": 24, **arguments})


def test_early_stopping_on_a_metric_that_no_evaluation_has_is_refused():
    config = FitConfig(every=1, evaluate_every=1, early_stopping=EarlyStopping("accuracy"))
    with pytest.raises(ValueError, match=r"early_stopping: no evaluation metric 'accuracy'; there are \['score'\]"):
        fit(scripted([1, 2]), EMPTY, 2, evaluation=(), config=config)


def test_evaluation_that_asks_for_a_batch_size_says_so():
    count = Fold(lambda key, state: 0.0, lambda acc, state, batch: acc + batch["mask"].sum(), lambda acc: {"n": acc})
    with pytest.raises(ValueError, match="data: must be a dict of arrays"):
        fit(scripted([1, 2])._replace(evaluate=count), EMPTY, 2, evaluation=np.ones(3), config=FitConfig(batch_size=2))
