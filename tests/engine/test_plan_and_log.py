"""How a run is cut into chunks, and how its numbers reach the disk and the terminal."""

import io
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljax.core import Mean
from dljax.engine import EarlyStopping, FitConfig, RunFolderError
from dljax.engine.folder import RunFolder, read_config, read_result, write_json
from dljax.engine.log import JsonLines, Logger, Progress, Record, TensorBoard, divided, number, of_member, read_lines
from dljax.engine.plan import Plan


@given(st.integers(1, 100_000), st.none() | st.integers(1, 500), st.none() | st.integers(1, 500))
def test_every_step_is_in_exactly_one_chunk_and_boundaries_are_absolute(steps, every, factor):
    config = FitConfig(every=every, chunk=None if every is None or factor is None else every * factor)
    plan = Plan.make(steps, config, None) if every is None or every <= steps else Plan.make(steps, FitConfig(every=every), None)
    segments = plan.segments(0)
    assert segments[0][0] == 0
    assert all(begin + length == following for (begin, length), (following, _) in itertools.pairwise(segments))
    assert sum(segments[-1]) == steps
    assert plan.chunk % plan.every == 0
    middle = segments[len(segments) // 2][0]
    assert plan.segments(middle) == segments[len(segments) // 2 :]
    assert plan.segments(steps) == []


@given(st.integers(1, 1_000_000))
def test_about_a_hundred_reports_and_ten_evaluations_where_nobody_says_otherwise(steps):
    plan = Plan.make(steps, FitConfig(), None)
    assert steps / plan.every >= min(steps, 33)
    assert steps / plan.every <= 301
    assert plan.evaluate_every % plan.chunk == 0
    assert 1 <= math.ceil(steps / plan.evaluate_every) <= 20


def test_what_a_saved_run_says_fills_the_gaps():
    stored = {"every": 7, "chunk": 14, "evaluate_every": 28}
    assert Plan.make(1000, FitConfig(), stored) == Plan(1000, 7, 14, 28)
    assert Plan.make(1000, FitConfig(evaluate_every=14), stored).evaluate_every == 14


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FitConfig(every=0), ValueError, "FitConfig: every must be >= 1, got 0"),
        (lambda: FitConfig(checkpoint_every=1.5), TypeError, "FitConfig: checkpoint_every must be a whole number >= 1, got 1.5"),
        (lambda: FitConfig(keep=0), ValueError, "FitConfig: keep must be >= 1, got 0"),
        (lambda: FitConfig(per_step=0), ValueError, "FitConfig: per_step must be >= 1, got 0"),
        (lambda: FitConfig(precision="fp8"), ValueError, "FitConfig: precision must be one of 'float32', 'bfloat16', got 'fp8'"),
        (lambda: EarlyStopping("loss", patience=0), ValueError, "EarlyStopping: patience must be >= 1, got 0"),
        (lambda: EarlyStopping("loss", mode="least"), ValueError, "EarlyStopping: mode must be one of 'min', 'max', got 'least'"),
        (lambda: EarlyStopping("loss", min_delta=-1), ValueError, r"EarlyStopping: min_delta must be in \[0, inf\), got -1"),
    ],
)
def test_options_out_of_range_are_refused_when_they_are_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


# The log


def test_lines_hold_null_for_nothing_and_never_nan(tmp_path):
    log = JsonLines(tmp_path)
    log.log("metrics", 5, {"loss": 0.1, "return": None, "members": [1.0, None]})
    log.log("evaluation", 5, {"accuracy": 1.0})
    log.sync()
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 5, "loss": 0.1, "return": null, "members": [1.0, null]}\n'
    assert read_lines(tmp_path / "evaluations.jsonl") == [{"step": 5, "accuracy": 1.0}]
    with pytest.raises(ValueError, match="JSON"):
        JsonLines(tmp_path).log("metrics", 6, {"loss": math.nan})


def test_lines_behind_the_step_that_is_resumed_are_cut_and_the_others_keep_their_bytes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "x": 1 / 3 + step}) + "\n" for step in (2, 4, 6)]
    path.write_text("".join(lines) + '{"step": 8, "x"')
    JsonLines(tmp_path, step=4).close()
    assert path.read_text() == "".join(lines[:2])


def test_log_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(RunFolderError, match=r"the log in .* cannot be written \(Not a directory\); free space or choose a writable folder"):
        JsonLines(tmp_path / "missing" / "..", 0) if (tmp_path / "missing").write_text("") else JsonLines(tmp_path / "missing")


def test_record_gives_columns_with_gaps(tmp_path):
    record = Record(None, 0, ())
    record.add("metrics", 2, {"loss": 1.0, "return": None})
    record.add("metrics", 4, {"loss": 0.5, "return": 3.0})
    record.add("evaluation", 4, {"score": [1.0, None]})
    record.add("evaluation", 8, {"score": [2.0, 3.0]})
    arrays = record.arrays("metrics")
    np.testing.assert_array_equal(arrays["return"], [np.nan, 3.0])
    assert arrays["step"].dtype == np.int64
    np.testing.assert_array_equal(of_member(record.arrays("evaluation"), 1)["score"], [np.nan, 3.0])
    assert Record(None, 0, ()).arrays("metrics") == {}


def test_values_become_numbers_that_json_can_hold():
    assert [number(value) for value in (np.float32(0.5), math.inf, -math.inf, math.nan, True)] == [0.5, None, None, None, 1.0]
    np.testing.assert_array_equal(divided(Mean(np.array([[1.0, 2.0]]), np.array([[4.0, 0.0]]))), [[0.25, np.nan]])
    assert isinstance(JsonLines.__new__(JsonLines), Logger)


def test_tensorboard_gets_every_value_with_its_step(tmp_path):
    board = TensorBoard(tmp_path)
    board.log("metrics", 7, {"loss": 0.25, "return": None, "score": [1.0, None, 2.0]})
    board.close()
    content = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    for tag in (b"metrics/loss", b"metrics/score/0", b"metrics/score/2"):
        assert tag in content
    assert b"return" not in content
    assert b"score/1" not in content


def test_progress_outside_a_terminal_is_a_line_now_and_then():
    stream = io.StringIO()
    progress = Progress(100, per_step=64, unit="examples", stream=stream, every=0)
    progress.begin()
    progress.update(50, {"loss": 0.25, "norm": 3.0})
    progress.update(100, {"norm": None})
    progress.say("evaluated")
    progress.close()
    first, second, third = stream.getvalue().splitlines()
    assert first.startswith("step 50/100  loss 0.25  ")
    assert "examples/s" in first
    assert second.startswith("step 100/100")
    assert third == "evaluated"


def test_progress_is_quiet_between_two_lines_and_always_shows_the_end():
    stream = io.StringIO()
    progress = Progress(3, stream=stream, every=1000)
    for step in (1, 2, 3):
        progress.update(step, {})
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["3/3"]


def test_progress_on_a_terminal_is_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = Progress(10, stream=stream)
    progress.begin()
    progress.update(5, {"loss": 1.0})
    progress.say("a line that stays")
    progress.close()
    assert "a line that stays" in stream.getvalue()


# The folder


def test_files_are_replaced_as_a_whole(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": 1}
    assert read_result(tmp_path) == {"a": 1}
    assert read_result(tmp_path / "none") == {}


def test_folder_says_who_trained_with_what(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b", {"recipe": "x", "steps": 3}, resume=False)
    assert read_config(folder.path) is None
    folder.write_config()
    folder.close()
    config = read_config(tmp_path / "a" / "b")
    assert config["recipe"] == "x"
    assert {"dljax", "python", "jax", "platform", "device_kind", "devices", "processes", "system"} <= set(config["environment"])


def test_folder_is_one_process_at_a_time(tmp_path):
    first = RunFolder(tmp_path, {"steps": 1}, resume=False)
    with pytest.raises(RunFolderError, match="another process is training in"):
        RunFolder(tmp_path, {"steps": 1}, resume=False)
    first.close()
    RunFolder(tmp_path, {"steps": 1}, resume=False).close()
