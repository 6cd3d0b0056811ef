"""A learner that says when it is done ends its run, or its member of a sweep, with that chunk; and a run of it may be resumed and extended."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import assert_same_bits

from dljax.core import EMPTY, Fold, Learner, bound_axis
from dljax.core.check_learner import check_learner
from dljax.data import repeat
from dljax.engine import FitConfig, Parallel, fit, make_mesh, sweep
from dljax.engine.checkpoint import Checkpoints
from dljax.optim import minimizer

CONFIG = FitConfig(every=2, chunk=4, evaluate_every=12, checkpoint_every=4)


def countdown(number=5.0, bad=1e9):
    """Counts down to zero and stays there; its loss is NaN at one number."""

    def step(key, state, batch):
        left = jnp.maximum(state["params"] - 1, 0)
        return {"params": left}, {"left": left, "loss": jnp.where(left == bad, jnp.nan, left)}

    fold = Fold(lambda key, state: state["params"], lambda acc, state, batch: acc, lambda acc: {"left": acc})
    return Learner(lambda key, batch: {"params": jnp.asarray(number, jnp.float32)}, step, evaluate=fold, done=lambda state: state["params"] == 0)


def go(out=None, steps=40, **more):
    return fit(countdown(), EMPTY, steps, evaluation=(), out=out, config=more.pop("config", CONFIG), **more)


def logs(folder):
    return [(folder / name).read_bytes() for name in ("metrics.jsonl", "evaluations.jsonl")]


def test_run_ends_with_the_chunk_in_which_its_learner_is_done(tmp_path):
    run = go(tmp_path)
    assert (run.status, run.step, run.result["message"]) == ("done", 8, "the learner was done after at most 8 steps")
    assert run.history["step"].tolist() == [2, 4, 6, 8]
    assert (run.evaluations["step"].tolist(), run.evaluations["left"].tolist()) == ([8], [0.0])
    assert Checkpoints(tmp_path / "checkpoints").latest().step == 8
    assert json.loads((tmp_path / "result.json").read_text())["steps"] == 40


@pytest.mark.parametrize("steps", [40, 80])
def test_resumed_run_that_was_done_does_nothing_further(tmp_path, steps):
    whole = go(tmp_path)
    before = logs(tmp_path)
    again = go(tmp_path, steps, resume=True)
    assert (again.status, again.step, again.result["message"]) == ("done", 8, whole.result["message"])
    assert logs(tmp_path) == before
    assert_same_bits(again.state, whole.state)


@pytest.mark.parametrize("first", [3, 6])
def test_extended_run_equals_the_long_one_also_from_within_the_last_chunk(tmp_path, first):
    whole = go(tmp_path / "whole", config=FitConfig(every=1, chunk=4, checkpoint_every=4))
    config = FitConfig(every=1, chunk=4, evaluate_every=4, checkpoint_every=4)
    assert go(tmp_path / "part", first, config=config).step == first
    longer = go(tmp_path / "part", resume=True, config=config)
    assert (longer.status, longer.step) == ("done", 8)
    assert_same_bits(longer.state, whole.state)
    assert (tmp_path / "part" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_devices_that_differ_go_on_until_all_are_done(mode):
    learner = countdown()

    def step(key, state, batch):
        new, metrics = learner.step(key, state, batch)
        # Device 7 counts half as fast.
        is_waiting = (jax.lax.axis_index(bound_axis()) == 7) & (state["turn"] % 2 == 0)
        return {"params": jnp.where(is_waiting, state["params"], new["params"]), "turn": state["turn"] + 1}, metrics

    slow = learner._replace(init=lambda key, batch: {**learner.init(key, batch), "turn": jnp.int32(0)}, step=step)
    assert fit(slow, EMPTY, 40, config=FitConfig(every=2, parallel=Parallel(make_mesh(data=8), mode))).step == 10


@pytest.mark.parametrize("batching", ["vmap", "loop"])
def test_member_that_is_done_is_frozen_and_the_others_go_on(tmp_path, batching):
    grid = {"number": [5.0, 3.0, 19.0, 11.0], "bad": [1e9, 10.0]}
    result = sweep(countdown, grid, steps=16, evaluation=(), out=tmp_path, config=CONFIG, batching=batching)
    facts = [(member.options["number"], member.status, member.message) for member in result.members if member.options["bad"] == 1e9]
    done = "the learner was done after at most {} steps".format
    assert facts == [(5.0, "done", done(8)), (3.0, "done", done(4)), (19.0, "done", ""), (11.0, "done", done(12))]
    assert [member.status for member in result.members if member.options["bad"] == 10.0] == ["done", "done", "nonfinite", "nonfinite"]
    for member in result.members[::2]:
        alone = fit(countdown(member.options["number"]), EMPTY, 16, evaluation=(), config=CONFIG)
        assert_same_bits(member.state, alone.state)
        for name, values in alone.history.items():
            np.testing.assert_array_equal(member.history[name][: len(values)], values, err_msg=name)
        assert np.isnan(member.history["left"][len(alone.history["left"]) :]).all()
        known = ~np.isnan(member.evaluations["left"])
        assert member.evaluations["left"][known].tolist() == alone.evaluations["left"].tolist()
        assert member.evaluations["step"][known].tolist() == alone.evaluations["step"].tolist()


def test_sweep_whose_members_are_all_done_ends_and_stays_ended(tmp_path):
    arguments = {"evaluation": (), "out": tmp_path, "config": CONFIG, "batching": "vmap"}
    first = sweep(countdown, {"number": [5.0, 9.0]}, steps=40, **arguments)
    assert (first.status, first.result["groups"][0]["step"]) == ("done", 12)
    before = logs(tmp_path)
    again = sweep(countdown, {"number": [5.0, 9.0]}, steps=80, resume=True, **arguments)
    assert logs(tmp_path) == before
    for one, other in zip(first.members, again.members, strict=True):
        assert (one.status, one.message) == (other.status, other.message)
        assert_same_bits(one.state, other.state)


def test_extended_sweep_equals_the_long_one_also_from_within_the_last_chunk(tmp_path):
    def swept(out, steps, resume=False):
        return sweep(countdown, {"number": [5.0, 19.0]}, steps=steps, out=tmp_path / out, config=CONFIG, batching="vmap", resume=resume)

    swept("part", 6)
    part, whole = swept("part", 24, resume=True), swept("whole", 24)
    assert [member.message for member in part.members] == [member.message for member in whole.members]
    assert (tmp_path / "part" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_minimiser_ends_its_run_when_it_has_converged():
    batch = {"x": np.eye(4, dtype=np.float32) + 0.3, "y": np.arange(4, dtype=np.float32)}
    learner = minimizer(lambda w, batch: ((batch["x"] @ w - batch["y"]) ** 2).mean(), lambda key, batch: jnp.zeros(4), tolerance=1e-4)
    run = fit(learner, repeat(batch), 1000, config=FitConfig(every=5))
    assert run.step < 50
    np.testing.assert_allclose(batch["x"] @ run.params, batch["y"], atol=1e-3)


def test_learner_that_says_more_than_yes_or_no_breaks_the_contract():
    with pytest.raises(ValueError, match=r"done\(state\) must be one truth value, got .*float32"):
        check_learner(countdown()._replace(done=lambda state: state["params"]))
    with pytest.raises(ValueError, match=r"done\(state\) fails: KeyError"):
        check_learner(countdown()._replace(done=lambda state: state["goal"]))
    check_learner(countdown())
