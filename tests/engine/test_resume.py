"""A run that was cut off and resumed equals one that was not, bit for bit; and what cannot be resumed says why."""

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from problems import HELD_OUT, SOURCE, assert_same_bits, network, scripted

from dljax.core import EMPTY
from dljax.engine import CheckpointError, EarlyStopping, FitConfig, RunFolderError, checkpoint, fit
from dljax.engine.checkpoint import Checkpoints

KEY = jax.random.key(5)
CONFIG = FitConfig(every=2, chunk=4, evaluate_every=8, checkpoint_every=4, batch_size=12)
LOGS = ("metrics.jsonl", "evaluations.jsonl")


class KilledError(Exception):
    """What stands for a kill in these tests: nothing after it is done."""


def killed_at(step):
    def callback(snapshot):
        if snapshot.step == step:
            raise KilledError

    return callback


def go(out, steps=24, *, learner=None, resume=False, config=CONFIG, callbacks=(), **more):
    return fit(learner or network(), SOURCE, steps, KEY, evaluation=HELD_OUT, out=out, resume=resume, config=config, callbacks=callbacks, **more)


def logs(folder):
    return [(folder / name).read_bytes() for name in LOGS]


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody disturbed, with its folder; not to be changed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return go(out)


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole.out, tmp_path / "copy")


@pytest.mark.parametrize("steps", [(4,), (12, 12, 16), (20,)])
def test_run_that_was_killed_and_resumed_equals_the_one_that_was_not(whole, tmp_path, steps):
    out = tmp_path / "run"
    for index, step in enumerate(steps):
        with pytest.raises(KilledError):
            go(out, resume=index > 0, callbacks=[killed_at(step)])
    run = go(out, resume=True)
    assert run.status == "done"
    assert_same_bits(run.state, whole.state)
    assert logs(out) == logs(whole.out)
    for name in whole.history:
        np.testing.assert_array_equal(run.history[name], whole.history[name])
    for name in whole.evaluations:
        np.testing.assert_array_equal(run.evaluations[name], whole.evaluations[name])


def test_run_killed_before_its_first_checkpoint_begins_again(whole, tmp_path):
    config = FitConfig(every=2, chunk=4, evaluate_every=8, batch_size=12)
    with pytest.raises(KilledError):
        go(tmp_path, config=config, callbacks=[killed_at(8)])
    assert (tmp_path / "metrics.jsonl").read_bytes() != b""
    run = go(tmp_path, resume=True, config=config)
    assert_same_bits(run.state, whole.state)
    assert logs(tmp_path) == logs(whole.out)


def test_resume_where_nothing_is_begins_at_the_beginning(whole, tmp_path):
    assert_same_bits(go(tmp_path / "new", resume=True).state, whole.state)


def test_run_that_is_extended_equals_the_long_one(whole, tmp_path):
    go(tmp_path, steps=16)
    run = go(tmp_path, steps=24, resume=True)
    assert_same_bits(run.state, whole.state)
    assert logs(tmp_path) == logs(whole.out)
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 24


def test_extended_run_keeps_the_cut_of_the_first_where_no_option_says_otherwise(tmp_path):
    fit(scripted(range(60)), EMPTY, 30, out=tmp_path, evaluation=())
    run = fit(scripted(range(60)), EMPTY, 60, out=tmp_path, evaluation=(), resume=True)
    assert run.history["step"].tolist() == list(range(1, 61))
    assert run.evaluations["step"].tolist() == list(range(3, 61, 3))


def test_finished_run_that_is_resumed_stays_what_it_is(whole, copy):
    before = logs(copy)
    run = go(copy, resume=True)
    assert (run.step, run.status) == (24, "done")
    assert_same_bits(run.state, whole.state)
    assert logs(copy) == before


def test_interrupted_run_goes_on_where_it_stopped(whole, tmp_path):
    import signal

    run = go(tmp_path, callbacks=[lambda snapshot: os.kill(os.getpid(), signal.SIGTERM) if snapshot.step == 8 else None])
    assert run.status == "interrupted"
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "interrupted"
    assert_same_bits(go(tmp_path, resume=True).state, whole.state)


def test_run_that_had_stopped_early_does_not_go_on_when_it_is_resumed(tmp_path):
    learner = scripted([3, 2, 2, 2, 2, 2, 2, 2])
    config = FitConfig(every=1, evaluate_every=1, early_stopping=EarlyStopping("score", patience=2))
    first = fit(learner, EMPTY, 8, out=tmp_path, evaluation=(), config=config)
    again = fit(learner, EMPTY, 8, out=tmp_path, evaluation=(), config=config, resume=True)
    assert (first.step, again.step, again.status) == (4, 4, "stopped")


def test_lines_behind_the_checkpoint_and_half_a_line_are_cut_off(whole, tmp_path):
    with pytest.raises(KilledError):
        go(tmp_path, callbacks=[killed_at(12)])  # its lines are written, its checkpoint is not
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 12
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 14, "lo')
    go(tmp_path, resume=True)
    assert logs(tmp_path) == logs(whole.out)


def test_only_the_newest_checkpoints_are_kept(whole, tmp_path):
    assert Checkpoints(whole.out / "checkpoints").steps() == [20, 24]
    go(tmp_path, config=FitConfig(every=2, chunk=4, evaluate_every=8, checkpoint_every=4, batch_size=12, keep=4))
    assert Checkpoints(tmp_path / "checkpoints").steps() == [12, 16, 20, 24]
    assert not list((tmp_path / "checkpoints").glob(".partial-*"))


# Damage


def truncate(folder):
    path = max((folder / "arrays").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size // 2)


def flip(folder):
    path = max((folder / "arrays").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose(folder):
    next(path for path in sorted((folder / "arrays").rglob("*")) if path.is_file()).unlink()


def half_meta(folder):
    text = (folder / "meta.json").read_text()
    (folder / "meta.json").write_text(text[: len(text) // 2])


def other_format(folder):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"format": 0}))


DAMAGES = {
    truncate: "is not what was written",
    flip: "is not what was written",
    lose: "No such file or directory",
    half_meta: "meta.json",
    other_format: "has format 0, and this dljax reads format 1",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_checkpoint_is_recognised_and_the_one_before_it_used(whole, copy, damage):
    damage(copy / "checkpoints" / "24")
    with pytest.warns(RuntimeWarning, match=rf"{DAMAGES[damage]}.*; using the one of step 20"):
        run = go(copy, resume=True)
    assert_same_bits(run.state, whole.state)
    assert logs(copy) == logs(whole.out)
    assert Checkpoints(copy / "checkpoints").latest().step == 24  # written again


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_run_whose_checkpoints_are_all_damaged_is_refused_and_left_alone(copy, damage):
    for step in (20, 24):
        damage(copy / "checkpoints" / str(step))
    before = files(copy)
    with pytest.raises(CheckpointError, match=rf"{DAMAGES[damage]}.*No whole checkpoint is left in .*: train again into another folder"):
        go(copy, steps=28, resume=True)
    assert files(copy) == before


def test_damaged_newer_checkpoint_does_not_push_out_the_whole_one(copy):
    truncate(copy / "checkpoints" / "24")
    config = FitConfig(every=2, chunk=2, evaluate_every=8, checkpoint_every=2, batch_size=12, keep=1)
    config_of = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config_of | {"chunk": 2}))
    with pytest.raises(KilledError), pytest.warns(RuntimeWarning, match="using the one of step 20"):
        go(copy, resume=True, config=config, callbacks=[killed_at(24)])
    with pytest.warns(RuntimeWarning, match="using the one of step 22"):
        assert Checkpoints(copy / "checkpoints").latest().step == 22


def test_checkpoint_that_was_never_finished_is_no_checkpoint(whole, copy):
    shutil.move(copy / "checkpoints" / "24", copy / "checkpoints" / ".partial-24")
    run = go(copy, resume=True)
    assert_same_bits(run.state, whole.state)
    assert not (copy / "checkpoints" / ".partial-24").exists()


# Another run than the one that is there


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": jax.random.key(6)}, r"key: \[0, 5\] in the run, \[0, 6\] now"),
        ({"config": FitConfig(every=4, chunk=4, evaluate_every=8, batch_size=12)}, "every: 2 in the run, 4 now"),
        (
            {"config": FitConfig(every=2, chunk=4, evaluate_every=8, batch_size=12, precision="bfloat16")},
            "precision: 'None' in the run, 'bfloat16' now",
        ),
        ({"describe": {"recipe": "other"}}, "recipe: None in the run, 'other' now"),
    ],
)
def test_resume_with_other_options_is_refused_and_changes_nothing(copy, arguments, message):
    before = files(copy)
    given = {"key": KEY, "config": CONFIG, **arguments}
    with pytest.raises(RunFolderError, match=message) as raised:
        fit(network(), SOURCE, 28, evaluation=HELD_OUT, out=copy, resume=True, **given)
    assert "use the options it was started with or choose another folder" in str(raised.value)
    assert files(copy) == before


def test_described_options_are_compared_one_by_one(tmp_path):
    describe = {"recipe": "a/b", "options": {"width": 8, "rate": np.float32(0.5), "activation": np.tanh}}
    fit(scripted([1, 2]), EMPTY, 2, out=tmp_path, describe=describe)
    fit(scripted([1, 2]), EMPTY, 2, out=tmp_path, describe=describe, resume=True)
    with pytest.raises(RunFolderError, match=r"options.width: 8 in the run, 9 now; options.depth: None in the run, 1 now"):
        fit(scripted([1, 2]), EMPTY, 2, out=tmp_path, resume=True, describe={**describe, "options": {**describe["options"], "width": 9, "depth": 1}})
    with pytest.raises(RunFolderError, match=r"options.rate: 0.5 in the run, None now"):
        fit(scripted([1, 2]), EMPTY, 2, out=tmp_path, resume=True, describe={"options": {"width": 8, "activation": np.tanh}})


def test_description_that_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="describe: must hold JSON values, and NaN and infinity are none"):
        fit(scripted([1, 2]), EMPTY, 2, out=tmp_path, describe={"clip": float("inf")})


def test_folder_that_holds_a_run_is_not_overwritten(copy):
    before = files(copy)
    with pytest.raises(RunFolderError, match=r"already holds a run \(unnamed, 24 steps\); resume it or choose another folder"):
        go(copy)
    assert files(copy) == before


def test_fewer_steps_than_were_trained_are_refused_and_change_nothing(copy):
    before = files(copy)
    with pytest.raises(ValueError, match=r"fit: steps=12, but .* has been trained for 24 already; use at least 24"):
        go(copy, steps=12, resume=True)
    assert files(copy) == before


def test_learner_of_another_size_does_not_fit_the_checkpoint(copy):
    before = files(copy)
    with pytest.raises(CheckpointError, match=r"does not fit: .*kernel float32\[8, 16\] in the checkpoint, .*kernel float32\[8, 32\] now"):
        go(copy, steps=28, learner=network(hidden=32), resume=True)
    assert files(copy) == before


def test_learner_of_another_structure_does_not_fit_the_checkpoint(copy):
    learner = network()
    other = learner._replace(init=lambda key, batch: {**learner.init(key, batch), "extra": np.float32(0)})
    with pytest.raises(CheckpointError, match=r"only in the checkpoint: \[\]; only in the learner: \['state/extra'\]"):
        go(copy, learner=other._replace(step=lambda key, state, batch: (state, {"loss": 0.0})), resume=True)


def test_start_that_fails_leaves_no_run_behind(tmp_path):
    broken = network()._replace(step=lambda key, state, batch: state["nothing"])
    with pytest.raises(KeyError):
        go(tmp_path, learner=broken)
    assert go(tmp_path, steps=4).step == 4


@pytest.mark.parametrize(
    ("text", "message"), [('{"format": 0}', "has format 0, and this dljax reads format 1"), ('{"for', "is damaged"), ("[]", "is damaged")]
)
def test_configuration_of_another_format_or_damaged_is_refused(copy, text, message):
    (copy / "config.json").write_text(text)
    with pytest.raises(RunFolderError, match=f"config.json.*{message}"):
        go(copy, resume=True)


# The disk


def test_folder_that_another_process_writes_to_is_refused(tmp_path):
    script = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", script, tmp_path / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=r"another process is training in .*; wait for it or choose another folder"):
            go(tmp_path)
    finally:
        holder.communicate("")
    assert go(tmp_path, steps=4).status == "done"


def test_lock_is_given_back_also_after_an_error(tmp_path):
    with pytest.raises(KilledError):
        go(tmp_path, callbacks=[killed_at(8)])
    assert go(tmp_path, resume=True).status == "done"


def test_full_disk_names_the_reason_and_the_checkpoint_before_it_loads(whole, tmp_path, monkeypatch):
    def full(path, text, write=checkpoint._write_durably):
        if "partial-12" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, text)

    monkeypatch.setattr(checkpoint, "_write_durably", full)
    message = r"checkpoint of step 12 could not be written to .*No space left on device.*; the checkpoint of step 8 is untouched; free space"
    with pytest.raises(CheckpointError, match=message):
        go(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "checkpoints" / ".partial-12").exists()
    assert_same_bits(go(tmp_path, resume=True).state, whole.state)


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, which may be filled or made read-only; `disk.remount(options)`."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        return subprocess.run(["mount", *options, folder], capture_output=True).returncode

    if os.getuid() != 0 or shutil.which("mount") is None or mount("-t", "tmpfs", "-o", "size=2m", "tmpfs"):
        pytest.skip("only root may mount a small disk here")
    yield folder, lambda options: mount("-o", f"remount,{options}")
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder, leave):
    space = os.statvfs(folder)
    (folder / "ballast").write_bytes(bytes(space.f_bavail * space.f_frsize - leave))


@pytest.mark.parametrize("leave", [0, 12_000])
def test_disk_that_fills_up_ends_the_run_with_its_reason_and_keeps_the_last_checkpoint(whole, disk, leave, caplog):
    folder, _ = disk
    out = folder / "run"
    with pytest.raises((CheckpointError, RunFolderError), match=r"No space left on device.*free space or choose a writable folder"):
        go(out, callbacks=[lambda snapshot: fill(folder, leave) if snapshot.step == 12 else None])
    assert "Traceback" not in caplog.text
    kept = Checkpoints(out / "checkpoints").latest()
    assert kept is not None
    assert kept.step >= 4
    with pytest.raises((CheckpointError, RunFolderError), match="No space left on device"):
        go(out, resume=True)
    assert Checkpoints(out / "checkpoints").latest().step >= kept.step
    (folder / "ballast").unlink()
    assert_same_bits(go(out, resume=True).state, whole.state)
    assert logs(out) == logs(whole.out)


def test_read_only_folder_is_refused_and_its_run_still_loads(whole, disk):
    folder, remount = disk
    out = folder / "run"
    go(out, steps=16)
    assert remount("ro") == 0
    with pytest.raises(RunFolderError, match=r"cannot write to .*Read-only file system.*; choose a writable folder"):
        go(out, resume=True)
    with pytest.raises(RunFolderError, match=r"cannot write to .*Read-only file system"):
        go(folder / "new")
    assert Checkpoints(out / "checkpoints").latest().step == 16
    remount("rw")
    assert_same_bits(go(out, resume=True).state, whole.state)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(RunFolderError, match=r"cannot write to .*Permission denied"):
        go(tmp_path / "run")
    tmp_path.chmod(0o755)


# Signals, in a process of its own


def test_sigterm_saves_and_the_run_goes_on_where_it_was(whole, tmp_path):
    script = """
        import sys; sys.path.insert(0, sys.argv[2])
        import jax, problems
        from dljax.engine import FitConfig, fit
        config = FitConfig(every=2, chunk=4, evaluate_every=8, checkpoint_every=4, batch_size=12)
        def tell(snapshot):
            print(snapshot.step, flush=True)
            if snapshot.step == 8:
                sys.stdin.readline()
        arguments = problems.network(), problems.SOURCE, 24, jax.random.key(5)
        run = fit(*arguments, evaluation=problems.HELD_OUT, out=sys.argv[1], config=config, callbacks=[tell])
        print(run.status, run.step)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "run", os.path.dirname(__file__)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert [process.stdout.readline() for _ in range(2)] == ["4\n", "8\n"]
    process.terminate()
    rest, _ = process.communicate("\n", timeout=120)
    assert rest.split() == ["interrupted", "8"]
    assert process.returncode == 0
    assert_same_bits(go(tmp_path / "run", resume=True).state, whole.state)
