"""The same run on one device, on eight, and on two processes: by shardings, pmap and shard_map; and checkpoints that go from one to the other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from problems import BATCH, HELD_OUT, SOURCE, X, Y, assert_same_bits, network, source
from two_processes import MODES, PORT_RANGE, free_port

from dljax.core import EMPTY, Learner, Source, local_key
from dljax.engine import CheckpointError, FitConfig, NonFiniteError, Parallel, by_path, fit, fsdp, make_mesh
from dljax.engine.parallel import choose

KEY = jax.random.key(2)
SPREAD = {name: make() for name, make in MODES.items()}
CONFIG = FitConfig(every=1, chunk=5, evaluate_every=25, checkpoint_every=25, batch_size=16)


def config(name, **more):
    return FitConfig(**{**CONFIG.__dict__, "parallel": SPREAD[name] if name else None, **more})


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Fifty steps on one device."""
    return fit(network(), SOURCE, 50, KEY, evaluation=HELD_OUT, config=CONFIG, out=tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """The same fifty steps on eight devices, stopped in the middle and resumed, in each mode; made when first asked for."""
    made = {}

    def run(name):
        if name not in made:
            out = tmp_path_factory.mktemp(name)
            first = fit(network(), SOURCE, 25, KEY, evaluation=HELD_OUT, config=config(name), out=out)
            assert first.result["recompilations"] == 0
            made[name] = fit(network(), SOURCE, 50, KEY, evaluation=HELD_OUT, config=config(name), out=out, resume=True)
        return made[name]

    return run


@pytest.mark.parametrize("name", SPREAD)
def test_losses_on_eight_devices_equal_those_on_one(alone, spread, name):
    run = spread(name)
    np.testing.assert_allclose(run.history["loss"], alone.history["loss"], rtol=1e-5)
    np.testing.assert_allclose(run.evaluations["error"], alone.evaluations["error"], rtol=1e-5)
    assert run.result["parallel"]["devices"] == 8
    assert run.result["recompilations"] == 0


def test_losses_in_float64_stay_equal_over_500_steps():
    with jax.enable_x64(True):
        runs = {}
        for name in (None, *SPREAD):
            runs[name] = fit(network(), source(np.float64), 500, jax.random.key(2), config=config(name, every=50, chunk=250, evaluate_every=None))
        assert runs[None].params["first"]["kernel"].dtype == jnp.float64
        assert runs[None].history["loss"][-1] < 0.2 * runs[None].history["loss"][0]
        for name in SPREAD:
            np.testing.assert_allclose(runs[name].history["loss"], runs[None].history["loss"], rtol=1e-5, err_msg=name)
            np.testing.assert_allclose(runs[name].params["first"]["kernel"], runs[None].params["first"]["kernel"], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", SPREAD)
def test_checkpoint_of_eight_devices_resumes_on_one(alone, spread, name, tmp_path):
    out = tmp_path / "run"
    fit(network(), SOURCE, 25, KEY, evaluation=HELD_OUT, config=config(name), out=out)
    run = fit(network(), SOURCE, 50, KEY, evaluation=HELD_OUT, config=CONFIG, out=out, resume=True)
    np.testing.assert_allclose(run.history["loss"], alone.history["loss"], rtol=1e-5)
    np.testing.assert_array_equal(run.history["loss"][:25], spread(name).history["loss"][:25])


@pytest.mark.parametrize("name", SPREAD)
def test_checkpoint_of_one_device_resumes_on_eight(alone, name, tmp_path):
    fit(network(), SOURCE, 25, KEY, evaluation=HELD_OUT, config=CONFIG, out=tmp_path)
    run = fit(network(), SOURCE, 50, KEY, evaluation=HELD_OUT, config=config(name), out=tmp_path, resume=True)
    np.testing.assert_allclose(run.history["loss"], alone.history["loss"], rtol=1e-5)


def test_rules_place_the_state_as_they_say(spread):
    whole = spread("fsdp").state
    assert whole["params"]["first"]["kernel"].sharding.spec == PartitionSpec(None, "data")
    assert whole["momentum"]["second"]["kernel"].sharding.spec == PartitionSpec("data", None)
    assert whole["params"]["first"]["kernel"].addressable_shards[0].data.shape == (8, 2)
    assert whole["count"].sharding.is_fully_replicated
    split = spread("tensor").state
    assert split["params"]["first"]["kernel"].sharding.spec == PartitionSpec(None, "model")
    assert split["momentum"]["first"]["bias"].sharding.spec == PartitionSpec("model")
    assert split["params"]["second"]["kernel"].addressable_shards[0].data.shape == (4, 4)


def test_state_of_a_run_on_every_device_is_that_of_one(spread):
    for name in ("pmap", "shard_map"):
        assert spread(name).params["first"]["kernel"].shape == (8, 16)
        assert spread(name).functions["predict"](KEY, X).shape == Y.shape


@pytest.mark.parametrize("name", SPREAD)
def test_callbacks_get_whole_parameters_once_a_chunk_without_compiling_again(alone, name):
    seen = []
    run = fit(network(), SOURCE, 25, KEY, config=config(name), callbacks=[seen.append])
    assert [snapshot.step for snapshot in seen] == [5, 10, 15, 20, 25]
    assert seen[0].params["first"]["kernel"].shape == (8, 16)
    assert_same_bits(seen[-1].params, run.params)
    assert run.result["recompilations"] == 0


# State that differs between devices


def walker(size=3) -> Learner:
    """Each device walks its own way; only the metric is shared."""

    def step(key, state, batch):
        walk = state["walk"] + jax.random.normal(local_key(key), (size,))
        return {"params": state["params"] + 1, "walk": walk}, {"distance": (walk**2).mean()}

    return Learner(lambda key, batch: {"params": jnp.zeros(2), "walk": jnp.zeros(size)}, step)


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_state_of_each_device_is_saved_and_resumed_on_as_many(mode, tmp_path):
    parallel = Parallel(make_mesh(data=4), mode)
    options = {"key": KEY, "config": FitConfig(every=1, checkpoint_every=1, parallel=parallel)}
    whole = fit(walker(), EMPTY, 6, **options)
    fit(walker(), EMPTY, 3, **options, out=tmp_path)
    again = fit(walker(), EMPTY, 6, **options, out=tmp_path, resume=True)
    assert_same_bits(again.state, whole.state)
    np.testing.assert_array_equal(again.history["distance"], whole.history["distance"])
    leaves = {name: stacked for name, _, _, stacked in json.loads((tmp_path / "checkpoints" / "6" / "meta.json").read_text())["leaves"]}
    assert leaves == {"state/params": False, "state/walk": True}


@pytest.mark.parametrize(("devices", "message"), [(None, "state/walk differs between the 4 devices that wrote it"), (2, "state/walk")])
def test_state_of_each_device_is_refused_on_another_number(devices, message, tmp_path):
    fit(walker(), EMPTY, 3, KEY, config=FitConfig(every=1, parallel=Parallel(make_mesh(data=4), "shard_map")), out=tmp_path)
    parallel = None if devices is None else Parallel(make_mesh(data=devices), "shard_map")
    with pytest.raises(CheckpointError, match=message):
        fit(walker(), EMPTY, 6, KEY, config=FitConfig(every=1, parallel=parallel), out=tmp_path, resume=True)


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_noise_differs_between_devices_and_metrics_are_their_mean(mode):
    def step(key, state, batch):
        noise = jax.random.normal(local_key(key))
        return {"params": state["params"]}, {"noise": noise, "square": noise**2}

    learner = Learner(lambda key, batch: {"params": 0.0}, step)
    run = fit(learner, EMPTY, 20, KEY, config=FitConfig(every=1, chunk=10, parallel=Parallel(make_mesh(data=8), mode)))
    assert (run.history["square"] > run.history["noise"] ** 2 + 1e-6).all()  # a mean of squares is the square of a mean only where all are equal


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_state_that_goes_non_finite_on_one_device_only_stops_the_run(mode):
    def step(key, state, batch):
        bad = batch["x"].sum() == 3
        return {"params": state["params"], "own": jnp.where(bad, jnp.nan, 0.0)}, {"loss": 1.0}

    learner = Learner(lambda key, batch: {"params": 0.0, "own": 0.0}, step)
    numbers = Source(lambda key: (), lambda data, cursor: (cursor, {"x": data}), jnp.arange(4.0))
    with pytest.raises(NonFiniteError, match="the state is not finite after step 1"):
        fit(learner, numbers, 4, config=FitConfig(every=2, parallel=Parallel(make_mesh(data=4), mode)))


# What "auto" chooses, and what is refused


def test_auto_spreads_convolutions_and_large_products_over_the_cores_and_leaves_small_products_alone():
    def learner(apply):
        return Learner(lambda key, batch: {"params": jnp.ones(())}, lambda key, state, batch: (state, {"x": apply(batch).sum()}))

    image = Source(lambda key: (), lambda data, cursor: (cursor, data), jnp.ones((8, 6, 6, 1)))
    convolution = learner(
        lambda x: jax.lax.conv_general_dilated(x, jnp.ones((3, 3, 1, 1)), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )
    product = learner(lambda x: x.reshape(8, 36) @ jnp.ones((36, 2)))
    assert choose(convolution, image).num_shards == 8
    assert choose(product, image) is None
    # 2 · 512 · 256 · 256 operations a product, for one number of the state; then for as many numbers as its matrix has.
    rows, matrix = image._replace(data=jnp.ones((512, 256))), jnp.ones((256, 256))
    assert choose(learner(lambda x: x @ matrix), rows).num_shards == 8
    assert choose(learner(lambda x: x @ matrix)._replace(init=lambda key, batch: {"params": matrix}), rows) is not None
    assert choose(learner(lambda x: x[:128] @ matrix)._replace(init=lambda key, batch: {"params": matrix}), rows) is None
    assert choose(convolution, image._replace(data=jnp.ones((7, 6, 6, 1)))) is None
    assert choose(walker(), EMPTY) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_mesh(data=16), "make_mesh: seed=1 x data=16 x model=1 needs 16 devices, but there are 8; use a smaller mesh"),
        (lambda: make_mesh(data=0), "make_mesh: data must be >= 1, got 0"),
        (lambda: Parallel(make_mesh(data=2), "spmd"), "Parallel: mode must be one of 'jit', 'pmap', 'shard_map', got 'spmd'"),
        (lambda: Parallel(make_mesh(data=2), "pmap", (fsdp(),)), "rules shard the state under mode='jit' only, got mode='pmap'"),
        (lambda: Parallel(make_mesh(data=2, model=2), "shard_map"), "mode='shard_map' uses the data axis only"),
        (lambda: FitConfig(parallel="all"), "FitConfig: parallel must be one of 'auto', got 'all'"),
    ],
)
def test_mesh_and_mode_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("kernel$", PartitionSpec(None, None, "model"))], "gives .* to .*first/kernel, which has only 2 dimensions"),
        ([("second/kernel$", PartitionSpec(None, "model"))], r"splits a dimension of .*second/kernel \(16, 4\) in 8, which does not divide 4"),
    ],
)
def test_rule_that_does_not_fit_an_array_is_refused(pairs, message):
    parallel = Parallel(make_mesh(model=8), rules=(by_path(*pairs),))
    with pytest.raises(ValueError, match=f"by_path: .*{message}"):
        fit(network(), SOURCE, 4, config=FitConfig(parallel=parallel))


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_batch_that_cannot_be_cut_evenly_is_refused(mode):
    with pytest.raises(ValueError, match=rf"a batch leaf of shape \({BATCH}, 8\) cannot be cut into 5 equal parts; use a batch size divisible by 5"):
        fit(network(), SOURCE, 4, config=FitConfig(parallel=Parallel(make_mesh(data=5), mode)))


# Two processes


def on_two_processes(out: Path, name: str, steps: int, *options: str) -> list[dict]:
    """What each of two processes with four devices says after a run."""
    script = Path(__file__).with_name("two_processes.py")
    port = free_port()
    environment = {**os.environ, "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")}
    command = [sys.executable, script, f"127.0.0.1:{port}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    started = [subprocess.Popen([*command, str(index), out, name, str(steps), *options], **pipes) for index in range(2)]
    try:
        ended = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, ended, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in ended]


def test_ports_are_local():
    assert free_port() in PORT_RANGE


@pytest.mark.parametrize("name", ["fsdp", "shard_map"])
def test_two_processes_go_on_from_eight_devices_and_equal_one(alone, tmp_path, name):
    fit(network(), SOURCE, 25, KEY, evaluation=HELD_OUT, config=config(name), out=tmp_path)
    said = on_two_processes(tmp_path, name, 50)
    for process in said:
        assert (process["status"], process["step"], process["devices"], process["recompilations"]) == ("done", 50, 8, 0)
        np.testing.assert_allclose(process["loss"], alone.history["loss"], rtol=1e-5)
        np.testing.assert_allclose(process["error"], alone.evaluations["error"], rtol=1e-5)
        assert process["callback_shape"] == [8, 16]
    assert said[0]["kernel"] == said[1]["kernel"]
    np.testing.assert_allclose(said[0]["kernel"], alone.params["first"]["kernel"], rtol=1e-4, atol=1e-5)
    back = fit(network(), SOURCE, 55, KEY, evaluation=HELD_OUT, config=CONFIG, out=tmp_path, resume=True)
    assert back.step == 55


@pytest.mark.slow
@pytest.mark.parametrize("name", SPREAD)
def test_two_processes_equal_one_from_the_beginning(alone, tmp_path, name):
    for process in on_two_processes(tmp_path, name, 50):
        np.testing.assert_allclose(process["loss"], alone.history["loss"], rtol=1e-5)


def test_signal_to_one_process_stops_both(tmp_path):
    said = on_two_processes(tmp_path, "data", 1000, "interrupt")
    assert [(process["status"], process["step"]) for process in said] == [("interrupted", said[0]["step"])] * 2
    assert said[0]["step"] < 1000
    assert (tmp_path / "checkpoints" / str(said[0]["step"])).is_dir()


@pytest.mark.parametrize("index", [-1, 2])
def test_process_outside_the_number_is_refused(index):
    from dljax.engine import start_processes

    with pytest.raises(ValueError, match=f"start_processes: process_id must be between 0 and 1, got {index}"):
        start_processes("127.0.0.1:1", 2, index)
