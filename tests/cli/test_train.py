"""Training and resuming: what a run leaves, and what becomes of one that is interrupted."""

import json
import signal
import time
from pathlib import Path

import pytest
from running import in_process, result, rows


def test_train_leaves_a_whole_run_and_says_what_it_reached(dljax):
    called = dljax("train", "tiny/line", "--learning-rate", "0.2", "--seed", "3", "--no-progress")
    assert called.status == 0
    (folder,) = Path("runs/tiny-line").iterdir()
    assert folder.name.endswith("-seed3")
    assert "tiny/line: 100 steps" in called.out
    assert "target <= 0.1: met" in called.out
    assert str(folder / "report.html") in called.out
    config = json.loads((folder / "config.json").read_text())
    assert (config["recipe"], config["seed"], config["options"]["learning_rate"], config["options"]["batch_size"]) == ("tiny/line", 3, 0.2, 8)
    assert config["launch"]["devices"] == config["environment"]["devices"]
    kept = result(folder)
    assert kept["target"] == {"metric": "error", "op": "<=", "value": 0.1, "source": "y = 2 x is in the model's reach | always"}
    assert kept["measured"]["slope"] == pytest.approx(2.0, abs=0.1)
    assert len(rows(folder)) == 10
    assert len(rows(folder, "evaluations.jsonl")) == 2
    assert (folder / "figures" / "figures.json").is_file()
    assert "the slope; 2 is exact" in (folder / "report.html").read_text()
    assert (folder / "checkpoints" / "100" / "meta.json").is_file()


def test_two_runs_of_one_second_get_two_folders(dljax, monkeypatch):
    monkeypatch.setattr("dljax.cli.train.time.strftime", lambda form: "now")
    for _ in range(2):
        assert dljax("train", "tiny/line", "--steps", "10", "--quiet").status == 0
    assert sorted(path.name for path in Path("runs/tiny-line").iterdir()) == ["now-seed0", "now-seed0-2"]


def test_quiet_prints_nothing(dljax):
    called = dljax("train", "tiny/line", "--steps", "10", "--quiet")
    assert (called.out, called.err) == ("", "")


def test_progress_goes_to_stderr(dljax):
    called = dljax("train", "tiny/line", "--steps", "10")
    assert "step 10/10" in called.err
    assert "step 10/10" not in called.out


def test_steps_of_the_recipe_itself_go_to_the_recipe(dljax):
    assert dljax("train", "tiny/never", "--steps", "30", "--out", "out").status == 0
    config = json.loads(Path("out/config.json").read_text())
    assert config["options"] == {"steps": 30}
    assert config["steps"] == 30


def test_a_resumed_and_extended_run_is_the_uninterrupted_one(dljax):
    assert dljax("train", "tiny/line", "--seed", "5", "--steps", "40", "--out", "whole").status == 0
    assert dljax("train", "tiny/line", "--seed", "5", "--steps", "20", "--out", "part").status == 0
    called = dljax("resume", "part", "--steps", "40")
    assert called.status == 0, called.err
    assert "from step 20 to 40" in called.err
    assert result("part")["measured"] == result("whole")["measured"]
    assert rows("part")[-5:] == rows("whole")[-5:]


def test_an_extended_run_may_have_the_length_that_the_recipe_gives(dljax):
    assert dljax("train", "tiny/line", "--steps", "20", "--out", "out").status == 0
    assert dljax("resume", "out", "--steps", "100").status == 0
    assert rows("out")[-1]["step"] == 100


def test_resuming_what_is_done_changes_nothing(dljax):
    assert dljax("train", "tiny/line", "--steps", "20", "--out", "out").status == 0
    before = Path("out/result.json").read_text()
    called = dljax("resume", "out")
    assert called.status == 0
    assert "out is done (20 steps)" in called.out
    assert Path("out/result.json").read_text() == before


def test_a_run_killed_before_its_report_is_measured_by_resuming(dljax):
    assert dljax("train", "tiny/line", "--steps", "20", "--out", "out").status == 0
    before = result("out")
    Path("out/report.html").unlink()
    Path("out/result.json").write_text(json.dumps({name: value for name, value in before.items() if name not in ("target", "measured")}))
    assert dljax("resume", "out").status == 0
    assert result("out") == before
    assert Path("out/report.html").is_file()


def test_what_comes_after_the_training_fails_without_losing_it(dljax):
    called = dljax("train", "tiny/faulty", "--fault", "figures", "--out", "out")
    assert called.status == 2
    assert "nothing to draw; draw something" in called.err
    assert result("out")["measured"]["slope"]
    assert Path("out/report.html").is_file()
    assert Path("out/checkpoints/10/meta.json").is_file()


def test_a_run_that_goes_non_finite_keeps_what_it_reached(dljax):
    called = dljax("train", "tiny/line", "--learning-rate", "1e10", "--out", "out")
    assert called.status == 3
    assert "Everything up to there is in out" in called.err
    assert result("out")["status"] == "nonfinite"
    assert Path("out/report.html").is_file()


def test_an_error_of_ours_is_reported_as_such_and_shown_with_debug(dljax, monkeypatch):
    called = dljax("train", "tiny/faulty", "--fault", "bug")
    assert called.status == 70
    assert "internal error" in called.err
    assert "KeyError: 'something'" in called.err
    assert "Traceback" not in called.err
    assert "Traceback" in dljax("train", "tiny/faulty", "--fault", "bug", "--debug").err
    monkeypatch.setenv("DLJAX_DEBUG", "1")
    assert "Traceback" in dljax("train", "tiny/lime").err


def test_an_interrupted_run_is_saved_and_goes_on(dljax):
    process = in_process("train", "tiny/line", "--steps", "1000000", "--out", "out", "--one-device")
    metrics = Path("out/metrics.jsonl")
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "saved; `dljax resume out` goes on" in out
    step = result("out")["step"]
    assert Path(f"out/checkpoints/{step}/meta.json").is_file()
    called = dljax("resume", "out", "--steps", str(step + 10))
    assert called.status == 0, called.err
    assert rows("out")[-1]["step"] == step + 10


def test_bfloat16_and_a_mesh_are_recorded_and_resumed(dljax):
    assert dljax("train", "tiny/line", "--steps", "10", "--precision", "bf16", "--mesh", "data=1", "--out", "out").status == 0
    config = json.loads(Path("out/config.json").read_text())
    assert (config["precision"], config["launch"]["mesh"]) == ("bfloat16", "data=1")
    called = dljax("resume", "out", "--steps", "20")
    assert called.status == 0, called.err
    assert "data=1" in called.err or "devices=1" in called.err


def test_tensorboard_files_are_written(dljax):
    assert dljax("train", "tiny/line", "--steps", "10", "--tensorboard", "--out", "out", "--quiet").status == 0
    assert list(Path("out/tensorboard").iterdir())
