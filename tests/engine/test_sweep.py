"""`sweep`: many runs in one program, each equal to the run alone; and one that fails leaves the others alone."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import BATCH, HELD_OUT, SOURCE, TRAINING, Lines, assert_same_bits, network, source

from dljax.core import EMPTY, Experiment, Learner, check_range
from dljax.data import shuffled
from dljax.engine import EarlyStopping, FitConfig, Parallel, RunFolderError, fit, lanes, make_mesh, sweep
from dljax.engine.checkpoint import Checkpoints

RATES = [0.02, 0.05, 0.1]
SEEDS = 4
CONFIG = FitConfig(every=5, chunk=10, evaluate_every=50, batch_size=16, checkpoint_every=10)


def factory(learning_rate=0.1, momentum=0.9):
    return network(learning_rate, momentum=momentum)


def go(steps=50, *, grid=None, batching="vmap", config=CONFIG, make=factory, **more):
    grid = {"learning_rate": RATES} if grid is None else grid
    return sweep(make, grid, more.pop("seeds", SEEDS), source=SOURCE, steps=steps, evaluation=HELD_OUT, config=config, batching=batching, **more)


@pytest.fixture(scope="module")
def vmapped(tmp_path_factory):
    """Three learning rates times four seeds, with a folder; not to be changed."""
    return go(out=tmp_path_factory.mktemp("sweep") / "run")


def alone(member, steps=50, data=SOURCE, every=5):
    config = FitConfig(every=every, batch_size=16)
    return fit(factory(**member.options), data, steps, jax.random.key(member.seed), evaluation=HELD_OUT, config=config)


def test_members_come_in_the_order_of_the_grid_seeds_fastest(vmapped):
    assert [(member.options["learning_rate"], member.seed) for member in vmapped.members] == [(rate, seed) for rate in RATES for seed in range(SEEDS)]
    assert {member.status for member in vmapped.members} == {"done"}


def test_all_members_share_one_program(vmapped):
    assert vmapped.result["programs"] == 1
    assert vmapped.result["traced"] == ["learning_rate"]
    assert vmapped.result["groups"][0]["recompilations"] == 0


@pytest.mark.parametrize("index", [0, 5, 11])
def test_member_equals_the_same_run_alone(vmapped, index):
    member = vmapped.members[index]
    run = alone(member)
    np.testing.assert_allclose(member.history["loss"], run.history["loss"], rtol=1e-5)
    assert member.last("error") == pytest.approx(run.evaluations["error"][-1], rel=1e-5)
    np.testing.assert_array_equal(member.history["step"], run.history["step"])
    for one, other in zip(jax.tree.leaves(member.params), jax.tree.leaves(run.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_member_in_float64_equals_the_run_alone_to_the_end():
    with jax.enable_x64(True):
        data = source(np.float64)
        result = sweep(factory, {"learning_rate": [0.05, 0.1]}, 2, source=data, steps=400, batching="vmap", config=FitConfig(every=50))
        assert result.result["programs"] == 1
        for member in result.members[1:3]:
            run = fit(factory(**member.options), data, 400, jax.random.key(member.seed), config=FitConfig(every=50))
            assert member.params["first"]["kernel"].dtype == jnp.float64
            np.testing.assert_allclose(member.history["loss"], run.history["loss"], rtol=1e-9)
            np.testing.assert_allclose(member.params["first"]["kernel"], run.params["first"]["kernel"], rtol=1e-8)


def test_float32_learner_under_x64_is_swept_too():
    with jax.enable_x64(True):
        result = sweep(factory, {"learning_rate": [0.05, 0.1]}, source=SOURCE, steps=4, batching="vmap", config=FitConfig(every=2))
        assert result.members[0].params["first"]["kernel"].dtype == jnp.float32


@pytest.mark.parametrize("batching", ["loop", "devices", "auto"])
def test_members_are_the_same_however_they_are_laid_out(vmapped, batching):
    other = go(batching=batching)
    assert other.result["programs"] == 1
    for one, two in zip(vmapped.members, other.members, strict=True):
        np.testing.assert_allclose(one.history["loss"], two.history["loss"], rtol=1e-5)
    assert other.result["groups"][0]["recompilations"] == 0


def test_auto_measures_and_keeps_the_fastest():
    group = go(20, batching="auto").result["groups"][0]
    assert set(group["batching"]) == {"8 x 1", "1 x 12"}
    assert f"{group['lanes']['devices']} x {group['lanes']['width']}" == min(group["batching"], key=group["batching"].get)


def test_convolutions_are_not_vmapped_on_a_cpu():
    def convolution(rate=0.1):
        def step(key, state, batch):
            layout = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(batch["x"].reshape(BATCH, 2, 4, 1), state["params"], (1, 1), "SAME", dimension_numbers=layout)
            return {"params": state["params"] - rate * y.mean()}, {"y": y.mean()}

        return Learner(lambda key, batch: {"params": jnp.ones((1, 1, 1, 1))}, step)

    result = sweep(convolution, {"rate": [0.1, 0.2]}, 2, source=SOURCE, steps=2)
    assert result.result["groups"][0]["lanes"]["width"] == 1


def test_best_is_decided_by_the_mean_over_seeds(vmapped):
    errors = vmapped.values("error").reshape(len(RATES), SEEDS)
    best = vmapped.best("error", "min")
    assert best.options["learning_rate"] == RATES[int(errors.mean(1).argmin())]
    assert best.last("error") == errors[errors.mean(1).argmin()].min()
    with pytest.raises(ValueError, match="best: mode must be one of 'min', 'max', got 'least'"):
        vmapped.best("error", "least")
    with pytest.raises(KeyError, match="no metric 'accuracy'; there are"):
        vmapped.best("accuracy")


# One member that fails


def fragile(learning_rate=0.1, limit=1e9):
    """Goes non-finite once its count passes a limit."""
    learner = network(learning_rate)

    def step(key, state, batch):
        state, metrics = learner.step(key, state, batch)
        return state, {**metrics, "loss": jnp.where(state["count"] > limit, jnp.nan, metrics["loss"])}

    return learner._replace(step=step)


LIMITS = {"limit": [1e9, 17.0, 1e9 + 1]}
WHOLE = {"limit": [1e9, 1e9, 1e9 + 1]}


@pytest.mark.parametrize("batching", ["vmap", "loop", "devices"])
def test_member_that_goes_non_finite_is_reported_and_the_others_are_untouched(batching, tmp_path):
    result = go(40, grid=LIMITS, make=fragile, seeds=[3], batching=batching, out=tmp_path)
    sound = go(40, grid=WHOLE, make=fragile, seeds=[3], batching=batching)
    failed = result.members[1]
    assert (failed.status, failed.message) == ("nonfinite", "a metric is not finite at step 17")
    assert np.isnan(failed.last("error"))
    assert [member.status for member in result.members] == ["done", "nonfinite", "done"]
    assert result.result["groups"][0]["message"] == "member 1: a metric is not finite at step 17"
    for index in (0, 2):
        assert_same_bits(result.members[index].state, sound.members[index].state)
        np.testing.assert_array_equal(result.members[index].history["loss"], sound.members[index].history["loss"])
        np.testing.assert_array_equal(result.members[index].evaluations["error"], sound.members[index].evaluations["error"])
    assert int(failed.state["count"]) == 20  # frozen at the end of its chunk
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"][1] is None for row in rows] == [False] * 3 + [True] * 5


def test_sweep_whose_members_all_fail_ends_early():
    result = go(100, grid={"limit": [3.0, 4.0]}, make=fragile, seeds=1)
    assert {member.status for member in result.members} == {"nonfinite"}
    assert result.result["groups"][0]["step"] == 10
    with pytest.raises(ValueError, match="best: no combination of options has a finite loss for every seed"):
        result.best("loss")


# Kept in a folder


@pytest.mark.parametrize("batching", ["vmap", "devices"])
def test_interrupted_sweep_resumes_to_the_same_bits(batching, tmp_path):
    whole = go(40, grid=LIMITS, make=fragile, seeds=2, batching=batching, out=tmp_path / "whole")
    asked = []

    def interrupting(**options):
        learner = fragile(**options)

        def step(key, state, batch):
            state, metrics = learner.step(key, state, batch)
            return state, metrics

        return learner._replace(step=step)

    report = lanes.Group._report

    def interrupt(self, compiled, record, first, *rest):
        if first == 20 and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))
        report(self, compiled, record, first, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes.Group, "_report", interrupt)
        part = go(40, grid=LIMITS, make=interrupting, seeds=2, batching=batching, out=tmp_path / "part")
    assert (part.status, part.members[0].status) == ("interrupted", "interrupted")
    assert part.members[0].history["step"][-1] == 30
    again = go(40, grid=LIMITS, make=fragile, seeds=2, batching=batching, out=tmp_path / "part", resume=True)
    assert again.status == "done"
    for one, other in zip(whole.members, again.members, strict=True):
        assert (one.status, one.message) == (other.status, other.message)
        assert_same_bits(one.state, other.state)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "part" / name).read_bytes()


def test_extended_sweep_equals_the_long_one(vmapped, tmp_path):
    go(20, out=tmp_path)
    longer = go(50, out=tmp_path, resume=True)
    for one, other in zip(vmapped.members, longer.members, strict=True):
        assert_same_bits(one.state, other.state)
        np.testing.assert_array_equal(one.history["loss"], other.history["loss"])


def test_sweep_is_extended_also_from_within_a_chunk(tmp_path):
    go(15, grid={}, seeds=2, out=tmp_path)
    assert go(40, grid={}, seeds=2, out=tmp_path, resume=True).members[1].history["step"].tolist() == list(range(5, 41, 5))


def test_saved_sweep_is_refused_where_it_does_not_fit(vmapped):
    with pytest.raises(RunFolderError, match="already holds a run"):
        go(out=vmapped.out)
    with pytest.raises(RunFolderError, match=r"is another run .*members"):
        go(grid={"learning_rate": [0.3]}, out=vmapped.out, resume=True)
    with pytest.raises(ValueError, match=r"sweep: steps=20, but .* has been trained for 50 already; use at least 50"):
        go(20, out=vmapped.out, resume=True)
    assert Checkpoints(vmapped.out / "checkpoints").latest().step == 50
    assert json.loads((vmapped.out / "config.json").read_text())["steps"] == 50


def test_sweep_on_more_devices_than_there_are_now_is_refused(tmp_path, monkeypatch):
    go(10, grid={}, seeds=8, batching="devices", out=tmp_path)
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    with pytest.raises(ValueError, match="has its members on 8 devices, but there are 4; start with as many"):
        go(20, grid={}, seeds=8, batching="devices", out=tmp_path, resume=True)


# Options that are no numbers to trace


def test_each_structure_gets_a_program_and_a_folder_of_its_own(tmp_path):
    def sized(hidden=4, learning_rate=0.1):
        return network(learning_rate, hidden=hidden)

    result = go(10, grid={"hidden": [4, 8], "learning_rate": [0.1, 0.2]}, make=sized, seeds=2, out=tmp_path)
    assert result.result["programs"] == 2
    assert result.result["traced"] == ["learning_rate"]
    order = [(member.options["hidden"], member.options["learning_rate"], member.seed) for member in result.members]
    assert order == [(hidden, rate, seed) for hidden in (4, 8) for rate in (0.1, 0.2) for seed in (0, 1)]
    assert [member.params["first"]["kernel"].shape[1] for member in result.members] == [4] * 4 + [8] * 4
    assert {path.name for path in tmp_path.iterdir()} == {"structure-0", "structure-1"}
    again = go(10, grid={"hidden": [4, 8], "learning_rate": [0.1, 0.2]}, make=sized, seeds=2, out=tmp_path, resume=True)
    for one, other in zip(result.members, again.members, strict=True):
        assert_same_bits(one.state, other.state)


def test_float_that_the_factory_looks_at_is_not_traced():
    def branching(rate=0.1):
        return network(0.1 if rate < 0.15 else 0.2)

    result = go(10, grid={"rate": [0.1, 0.2]}, make=branching, seeds=1)
    assert (result.result["traced"], result.result["programs"]) == ([], 2)


def test_option_that_changes_how_the_source_draws_is_traced_with_it():
    def scaled(scale=1.0):
        return Experiment(
            network(), SOURCE._replace(next=lambda data, cursor: _scaled(SOURCE.next(data, cursor), scale)), 10, every=5, evaluation=HELD_OUT
        )

    result = sweep(scaled, {"scale": [1.0, 0.5]}, batching="vmap", config=FitConfig(batch_size=16))
    assert result.result["traced"] == ["scale"]
    for member in result.members:
        experiment = scaled(**member.options)
        run = fit(experiment.learner, experiment.source, 10, jax.random.key(0), config=FitConfig(every=5))
        np.testing.assert_allclose(member.history["loss"], run.history["loss"], rtol=1e-5)


def _scaled(drawn, scale):
    cursor, batch = drawn
    return cursor, {**batch, "x": scale * batch["x"]}


def test_option_that_changes_the_data_makes_each_its_own_program():
    def shifted(shift=0.0):
        return Experiment(network(), shuffled({"x": TRAINING["x"] + jnp.asarray(shift), "y": TRAINING["y"]}, BATCH), 10, every=5)

    result = sweep(shifted, {"shift": [0.0, 1.0]}, batching="vmap")
    assert (result.result["traced"], result.result["programs"]) == ([], 2)
    for member in result.members:
        run = fit(network(), shifted(**member.options).source, 10, jax.random.key(0), config=FitConfig(every=5))
        np.testing.assert_allclose(member.history["loss"], run.history["loss"], rtol=1e-5)


def test_every_value_is_checked_before_anything_is_trained():
    built = []

    def checked(rate=0.1):
        check_range("checked", "rate", rate, 0, 1)
        built.append(rate)
        return network(rate)

    with pytest.raises(ValueError, match=r"checked: rate must be in \[0, 1\], got 1.5"):
        go(10, grid={"rate": [0.1, 1.5]}, make=checked)


def test_values_may_be_arrays_of_numpy_or_jax(tmp_path):
    result = go(10, grid={"learning_rate": np.linspace(0.1, 0.2, 2, dtype=np.float32), "momentum": jnp.asarray([0.5])}, seeds=1, out=tmp_path)
    assert result.result["programs"] == 1
    assert [type(value) for value in result.members[0].options.values()] == [float, float]
    assert json.loads((tmp_path / "config.json").read_text())["members"][0]["momentum"] == 0.5


def test_sweep_of_seeds_alone_needs_no_grid():
    result = sweep(factory, seeds=[7, 3], source=SOURCE, steps=10, config=FitConfig(every=5), batching="vmap")
    assert [member.seed for member in result.members] == [7, 3]
    for member in result.members:
        run = fit(factory(), SOURCE, 10, jax.random.key(member.seed), config=FitConfig(every=5))
        np.testing.assert_allclose(member.history["loss"], run.history["loss"], rtol=1e-5)


def test_learner_without_metrics_is_swept_with_progress(capsys):
    quiet = Learner(lambda key, batch: {"params": jnp.zeros(())}, lambda key, state, batch: (state, {}))
    assert sweep(lambda: quiet, seeds=2, steps=4, config=FitConfig(progress=True), batching="vmap").status == "done"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": {"rate": [0.1]}}, "sweep: the factory has no option 'rate'; it has learning_rate, momentum"),
        ({"grid": {"learning_rate": []}}, "sweep: grid has no values for 'learning_rate'; give at least one"),
        ({"seeds": 0}, "sweep: seeds must be >= 1, got 0"),
        ({"seeds": []}, "sweep: seeds must be different numbers, at least one"),
        ({"seeds": [1, 1]}, r"sweep: seeds must be different numbers, at least one, got \[1, 1\]"),
        ({"batching": "pmap"}, "sweep: batching must be one of 'auto', 'vmap', 'loop', 'devices', got 'pmap'"),
        ({"config": FitConfig(debug=True)}, "config.parallel, early_stopping and debug do not apply"),
        ({"config": FitConfig(parallel=Parallel(make_mesh()))}, "config.parallel, early_stopping and debug do not apply"),
        ({"config": FitConfig(early_stopping=EarlyStopping("loss"))}, "config.parallel, early_stopping and debug do not apply"),
        ({"source": Lines()}, "members share a program, which a HostSource cannot feed"),
        ({"evaluation": (), "factory": lambda: network()._replace(evaluate=None)}, "the learner has no `evaluate` fold"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sweep(**{"factory": factory, "source": SOURCE, "steps": 10, **arguments})


def test_factory_that_fails_says_why():
    def broken(rate=0.1):
        raise RuntimeError("no such data")

    with pytest.raises(RuntimeError, match="no such data"):
        sweep(broken, {"rate": [0.1]}, source=EMPTY, steps=2)
