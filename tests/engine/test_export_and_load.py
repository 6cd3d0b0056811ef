"""What a run leaves behind: loaded again with its history, and exported to run without dljax."""

import json
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import HELD_OUT, SOURCE, X, assert_same_bits, network

from dljax.core import RECIPES, AtLeast, Experiment, recipe
from dljax.engine import CheckpointError, FitConfig, Parallel, RunFolderError, export, fit, load, load_exported, make_mesh, sweep

KEY = jax.random.key(9)
CONFIG = FitConfig(every=5, batch_size=20)


@pytest.fixture
def registered():
    before = dict(RECIPES)

    @recipe("test/network", chapter=0, target=AtLeast("error", 0), minutes=0)
    def build(learning_rate: float = 0.1, hidden: int = 16) -> Experiment:
        return Experiment(network(learning_rate, hidden=hidden), SOURCE, steps=20, evaluation=HELD_OUT)

    yield "test/network"
    RECIPES.clear()
    RECIPES.update(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    describe = {"recipe": "test/network", "options": {"hidden": 8}}
    out = tmp_path_factory.mktemp("load") / "run"
    return fit(network(hidden=8), SOURCE, 20, KEY, evaluation=HELD_OUT, config=CONFIG, out=out, describe=describe)


# load


def test_run_is_loaded_by_the_recipe_and_the_options_it_names(run, registered):
    loaded = load(run.out)
    assert_same_bits(loaded.state, run.state)
    assert (loaded.step, loaded.status) == (20, "done")
    for name in run.history:
        np.testing.assert_array_equal(loaded.history[name], run.history[name])
    np.testing.assert_array_equal(loaded.evaluations["error"], run.evaluations["error"])
    np.testing.assert_allclose(loaded.functions["predict"](KEY, X), run.functions["predict"](KEY, X), rtol=1e-6)
    assert loaded.result["steps_per_second"] == run.result["steps_per_second"]


def test_run_is_loaded_with_an_experiment_that_is_given(run):
    assert_same_bits(load(run.out, Experiment(network(hidden=8), SOURCE)).state, run.state)


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_run_of_many_devices_is_loaded_on_one(mode, tmp_path):
    spread = fit(network(), SOURCE, 10, KEY, config=FitConfig(every=5, parallel=Parallel(make_mesh(data=4), mode)), out=tmp_path)
    loaded = load(tmp_path, Experiment(network(), SOURCE))
    assert_same_bits(loaded.state, spread.state)
    assert loaded.params["first"]["kernel"].devices() == {jax.devices()[0]}


@pytest.mark.parametrize("batching", ["vmap", "loop", "devices"])
def test_member_of_a_sweep_is_loaded(batching, tmp_path, registered):
    def factory(learning_rate=0.1, hidden=16):
        learner = network(learning_rate, hidden=hidden)
        limit = jnp.where(jnp.asarray(learning_rate) > 0.25, jnp.nan, 1.0)

        def step(key, state, batch):
            state, metrics = learner.step(key, state, batch)
            return state, {**metrics, "loss": limit * metrics["loss"]}

        return learner._replace(step=step)

    grid = {"learning_rate": [0.1, 0.2, 0.3]}
    made = sweep(factory, grid, 3, source=SOURCE, steps=20, evaluation=HELD_OUT, config=CONFIG, batching=batching, out=tmp_path)
    for index in (0, 4, 8):
        member = made.members[index]
        loaded = load(tmp_path, Experiment(network(), SOURCE), member=index)
        assert_same_bits(loaded.state, member.state)
        assert loaded.status == member.status
        np.testing.assert_array_equal(loaded.history["loss"], member.history["loss"])
        np.testing.assert_array_equal(loaded.evaluations["error"], member.evaluations["error"])
    assert made.members[8].status == "nonfinite"


def test_interrupted_run_is_loaded_as_far_as_it_was_saved(tmp_path, registered):
    class KilledError(Exception):
        pass

    def kill(snapshot):
        if snapshot.step == 15:
            raise KilledError

    config = FitConfig(every=5, checkpoint_every=5, batch_size=20)
    with pytest.raises(KilledError):
        fit(network(), SOURCE, 20, KEY, config=config, out=tmp_path, callbacks=[kill], describe={"recipe": "test/network"})
    loaded = load(tmp_path)
    assert (loaded.step, loaded.status) == (10, "interrupted")
    assert loaded.history["step"].tolist() == [5, 10]


@pytest.mark.parametrize(
    ("config", "member", "message"),
    [
        (None, None, "load: there is no run in .*; give the folder that holds config.json"),
        ({"recipe": "no/such"}, None, "was trained by the recipe 'no/such', which is not registered; import its module first, or pass"),
        ({"recipe": None}, None, "was trained by the recipe None"),
        ({"recipe": "test/network"}, 0, "holds one run; leave member out"),
        ({"recipe": "test/network", "members": [{}, {}]}, None, "holds a sweep; give member from 0 to 1"),
        ({"recipe": "test/network", "members": [{}, {}]}, 2, "holds a sweep; give member from 0 to 1"),
        ({"recipe": "test/network"}, None, "has no checkpoint yet; resume it"),
    ],
)
def test_folder_that_cannot_be_loaded_says_why(config, member, message, tmp_path, registered):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps({"format": 1, **config}))
    with pytest.raises(RunFolderError, match=message):
        load(tmp_path, member=member)


def test_run_of_another_learner_is_not_loaded(run):
    with pytest.raises(CheckpointError, match=r"does not fit: .*float32\[8, 8\] in the checkpoint, .*float32\[8, 16\] now"):
        load(run.out, Experiment(network(hidden=16), SOURCE))


# export


class Layer(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


PARAMS = {
    "params": {"z": Layer(jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.bfloat16), jnp.arange(3.0)), "a": [jnp.ones((3, 3)), 2.0]},
    "batch_stats": {"norm": {"mean": jnp.full(3, 0.5), "count": jnp.int32(7)}},
}


def predict(key, params, x):
    z, (mix, scale), stats = params["params"]["z"], params["params"]["a"], params["batch_stats"]["norm"]
    hidden = x.astype(jnp.bfloat16) @ z.kernel + z.bias[None, :]
    return {"y": scale * (hidden - stats["mean"][None, :]) @ mix, "count": stats["count"]}


def test_exported_program_gives_the_same_for_any_batch_size(tmp_path):
    path = export(predict, PARAMS, (X[:2],), tmp_path / "exported")
    program = load_exported(path)
    for rows in (1, 7, 96):
        expected, outputs = jax.jit(predict)(KEY, PARAMS, X[:rows]), program(KEY, X[:rows])
        np.testing.assert_array_equal(outputs["y"], expected["y"])
        assert int(outputs["count"]) == 7
    assert sorted(path.name for path in path.parent.iterdir()) == ["params.safetensors", "predict.stablehlo"]


def test_weights_are_named_by_their_paths_and_keep_their_types(tmp_path):
    from safetensors.numpy import load_file

    export(predict, PARAMS, (X[:2],), tmp_path)
    weights = load_file(tmp_path / "params.safetensors")
    assert {name: str(value.dtype) for name, value in weights.items()} == {
        "batch_stats/norm/count": "int32",
        "batch_stats/norm/mean": "float32",
        "params/a/0": "float32",
        "params/a/1": "float32",
        "params/z/bias": "float32",
        "params/z/kernel": "bfloat16",
    }


def test_exported_noise_depends_on_the_key(tmp_path):
    path = export(lambda key, params, x: x + jax.random.normal(key, x.shape), {}, (jnp.zeros((2, 3)),), tmp_path, name="sample")
    program = load_exported(path)
    one = program(jax.random.key(0), jnp.zeros((4, 3)))
    np.testing.assert_array_equal(one, program(jax.random.key(0), jnp.zeros((4, 3))))
    np.testing.assert_array_equal(one, jax.random.normal(jax.random.key(0), (4, 3)))
    assert not np.array_equal(one, program(jax.random.key(1), jnp.zeros((4, 3))))


def test_arguments_may_be_trees_and_several(tmp_path):
    def score(key, params, batch, weights):
        return (batch["x"] * weights[:, None]).sum(-1) + batch["n"]

    path = export(score, {"unused": jnp.ones(1)}, ({"x": jnp.ones((2, 3)), "n": jnp.ones(2, jnp.int32)}, jnp.ones(2)), tmp_path, name="score")
    given = {"x": jnp.ones((5, 3)), "n": jnp.arange(5)}, jnp.arange(5.0)
    np.testing.assert_array_equal(load_exported(path)(KEY, *given), score(KEY, None, *given))


def test_program_runs_in_a_process_that_never_saw_dljax(tmp_path):
    path = export(predict, PARAMS, (X[:2],), tmp_path)
    np.save(tmp_path / "x.npy", X[:5])
    script = """
import sys, jax, numpy as np
from safetensors.flax import load_file
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
weights = load_file(sys.argv[2])
print(np.asarray(program.call(jax.random.key_data(jax.random.key(0)), weights, np.load(sys.argv[3]))["y"]).tolist())
assert "dljax" not in sys.modules
"""
    said = subprocess.run(
        [sys.executable, "-c", script, path, tmp_path / "params.safetensors", tmp_path / "x.npy"], capture_output=True, text=True, check=True
    )
    np.testing.assert_allclose(json.loads(said.stdout), jax.jit(predict)(KEY, PARAMS, X[:5])["y"], rtol=1e-5)


def test_program_may_be_made_for_other_platforms(tmp_path):
    path = export(predict, PARAMS, (X[:2],), tmp_path, platforms=("cpu", "tpu"))
    assert jax.export.deserialize(bytearray(path.read_bytes())).platforms == ("cpu", "tpu")


def test_what_cannot_be_exported_says_why(tmp_path):
    with pytest.raises(ValueError, match=r"export: predict: every argument needs a leading batch dimension, got a scalar 1\.0"):
        export(predict, PARAMS, (1.0,), tmp_path)
    with pytest.raises(ValueError, match="export: halves cannot be compiled for any batch size"):
        export(lambda key, params, x: x.reshape(3, -1), {}, (jnp.ones((4, 2)),), tmp_path, name="halves")
    assert not list(tmp_path.iterdir())
    export(predict, PARAMS, (X[:2],), tmp_path)
    with pytest.raises(ValueError, match=r"export: .*predict.stablehlo exists; choose another folder"):
        export(predict, PARAMS, (X[:2],), tmp_path)
    with pytest.raises(FileNotFoundError):
        load_exported(tmp_path / "sample.stablehlo")
