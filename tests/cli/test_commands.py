"""What the commands do: training, resuming, sweeping, verifying, and everything that prints a table."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dljax import recipes
from dljax.cli import main
from dljax.cli.outcome import verdict
from dljax.cli.sweep import interval
from dljax.core.experiment import AtMost

HERE = Path(__file__).parent
WITH_TINY = (
    f"import sys; sys.path.insert(0, {str(HERE)!r}); import tiny_recipes; tiny_recipes.register(); from dljax.cli import main; sys.exit(main())"
)


def in_process(*args: str, code: str = WITH_TINY, **kwargs) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def result(folder: str) -> dict:
    return json.loads(Path(folder, "result.json").read_text())


def rows(folder: str, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(folder, name).read_text().splitlines()]


# help, list


def test_help_names_every_command_and_imports_no_jax():
    heavy = "[name for name in ('jax', 'numpy', 'rich', 'tyro') if name in sys.modules]"
    code = f"import sys; from dljax.cli import main; status = main(['--help']); print({heavy}, status)"
    out, _ = in_process(code=code).communicate()
    assert out.splitlines()[-1] == "[] 0"
    for command in ("list", "train", "resume", "sweep", "verify", "report", "runs", "data", "bench", "export", "doctor"):
        assert f"\n  {command} " in out


def test_python_dash_m_is_the_command():
    done = subprocess.run([sys.executable, "-m", "dljax", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dljax ")


def test_help_of_train_has_the_options_of_the_recipe_with_their_descriptions(dljax):
    called = dljax("train", "tiny/line", "--help")
    assert called.status == 0
    text = " ".join(called.out.replace("│", " ").split())
    assert "--learning-rate FLOAT of gradient descent, > 0. (default: 0.1)" in text
    assert "examples a step, at most 64." in text
    assert "--mesh STR" in text


def test_help_of_train_without_a_recipe_has_the_common_options(dljax):
    called = dljax("train", "--help")
    assert called.status == 0
    assert "--seeds INT" in called.out


def test_list_as_json_has_the_agreed_fields(dljax):
    called = dljax("list", "tiny/line", "--json")
    assert called.status == 0
    assert json.loads(called.out) == [
        {
            "name": "tiny/line", "chapter": 90, "rows": ["90.1"], "data": "", "metric": "error", "op": "<=", "target": 0.1,
            "source": "y = 2 x is in the model's reach | always", "minutes": 0.01,
        }
    ]  # fmt: skip


def test_list_filters_by_chapter_row_and_glob(dljax):
    assert [row["name"] for row in json.loads(dljax("list", "--chapter", "91", "--json").out)] == ["tiny/never"]
    assert [row["name"] for row in json.loads(dljax("list", "--row", "90.1", "--json").out)] == ["tiny/line"]
    assert [row["name"] for row in json.loads(dljax("list", "tiny/*", "--json").out)] == ["tiny/line", "tiny/never", "tiny/faulty"]


def test_a_closed_pipe_is_no_error():
    process = in_process("list")
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == ""


def test_no_recipe_has_an_option_that_the_command_line_keeps_for_itself():
    from dljax.cli.launch import Launch
    from dljax.cli.train import Training

    # `steps` may be the recipe's own, where its schedule depends on it.
    kept = {*Launch.__dataclass_fields__, *Training.__dataclass_fields__, "help", "json", "batching"} - {"steps"}
    assert {name: kept & set(recipe.options) for name, recipe in recipes.RECIPES.items() if kept & set(recipe.options)} == {}


# train, resume


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


# sweep


def test_train_with_several_seeds_is_one_run_folder_with_a_list_of_each_value(dljax):
    called = dljax("train", "tiny/line", "--seeds", "3", "--seed", "2", "--steps", "40", "--out", "out")
    assert called.status == 0, called.err
    assert "(mean of 3), target <= 0.1: met" in called.out
    kept = result("out")
    assert len(kept["measured"]["slope"]) == 3
    assert [member["seed"] for member in json.loads(Path("out/config.json").read_text())["members"]] == [2, 3, 4]
    assert dljax("train", "tiny/line", "--seed", "3", "--steps", "40", "--out", "alone").status == 0
    assert kept["measured"]["slope"][1] == pytest.approx(result("alone")["measured"]["slope"], rel=1e-5)


def test_sweep_compares_values_over_seeds(dljax):
    called = dljax("sweep", "tiny/line", "--learning-rate", "0.01,0.2", "--seeds", "2", "--steps", "40", "--out", "out", "--json")
    assert called.status == 0, called.err
    slow, fast = json.loads(called.out)
    assert (slow["learning_rate"], fast["learning_rate"]) == (0.01, 0.2)
    assert fast["error"] < slow["error"]
    assert slow["seeds"] == 2
    assert slow["interval"][0] < slow["error"] < slow["interval"][1]
    assert Path("out/report.html").is_file()
    assert json.loads(Path("out/config.json").read_text())["grid"] == {"learning_rate": [0.01, 0.2]}


def test_sweep_over_structures_makes_a_folder_for_each_and_one_page_over_all(dljax):
    called = dljax("sweep", "tiny/line", "--batch-size", "4,16", "--halve", "false,true", "--steps", "20", "--out", "out", "--batching", "loop")
    assert called.status == 0, called.err
    assert len(list(Path("out").glob("structure-*/report.html"))) == 4
    assert Path("out/report.html").is_file()
    Path("out/report.html").unlink()
    assert dljax("report", "out").status == 0
    assert "4 runs" in Path("out/report.html").read_text()
    assert dljax("resume", "out", "--steps", "30", "--quiet").status == 0
    assert all(rows(folder)[-1]["step"] == 30 for folder in Path("out").glob("structure-*"))


def test_sweep_takes_lists_as_values(dljax):
    assert dljax("sweep", "tiny/line", "--widths", "1 2,3", "--steps", "10", "--out", "out", "--quiet").status == 0
    members = [json.loads(Path(folder, "config.json").read_text())["members"] for folder in sorted(Path("out").glob("structure-*"))]
    assert [member[0]["widths"] for member in members] == [[1, 2], [3]]


def test_sweep_reports_a_member_that_goes_non_finite_and_keeps_the_others(dljax):
    called = dljax("sweep", "tiny/line", "--learning-rate", "0.1,1e10", "--steps", "40", "--out", "out")
    assert called.status == 0
    assert "went non-finite: learning_rate=1e+10 seed 0" in called.err
    measured = result("out")["measured"]["slope"]
    assert measured[0] == pytest.approx(2.0, abs=0.1)
    assert measured[1] is None


def test_an_extended_sweep_is_the_whole_one(dljax):
    for steps, out in (("20", "part"), ("40", "whole")):
        assert dljax("sweep", "tiny/line", "--learning-rate", "0.01,0.1", "--seeds", "2", "--steps", steps, "--out", out, "--quiet").status == 0
    called = dljax("resume", "part", "--steps", "40", "--quiet")
    assert called.status == 0, called.err
    assert result("part")["measured"] == result("whole")["measured"]


# verify


def test_verify_passes_and_gives_the_agreed_fields(dljax):
    called = dljax("verify", "tiny/line", "--json")
    assert called.status == 0, called.err
    (row,) = json.loads(called.out)
    assert list(row) == ["name", "metric", "op", "target", "value", "interval", "seeds", "seconds", "passed"]
    assert (row["name"], row["op"], row["target"], row["seeds"], row["passed"]) == ("tiny/line", "<=", 0.1, 2, True)
    assert row["interval"][0] <= row["value"] <= row["interval"][1]
    assert "verified" not in row


def test_verify_misses_with_status_one_and_takes_what_is_measured_at_the_end(dljax):
    called = dljax("verify", "tiny/never", "--json")
    assert called.status == 1
    (row,) = json.loads(called.out)
    assert row["value"] == pytest.approx(2.0, abs=0.1)
    assert row["interval"] is None
    assert row["passed"] is False


def test_an_error_in_one_recipe_does_not_stop_the_others(dljax):
    called = dljax("verify", "tiny/faulty", "tiny/line", "--json")
    assert called.status == 2
    assert [row["passed"] for row in json.loads(called.out)] == [True, False]


def test_verify_writes_the_table_and_leaves_the_rest_of_the_readme(dljax):
    Path("README.md").write_text("# before\n<!-- results -->\nold text\n<!-- /results -->\nafter\n")
    assert dljax("verify", "tiny/line", "--write", "--quiet").status == 0
    assert dljax("verify", "tiny/never", "--write", "--quiet").status == 1
    text = Path("README.md").read_text()
    assert text.startswith("# before\n<!-- results -->\n| recipe |")
    assert text.endswith("<!-- /results -->\nafter\n")
    assert "old text" not in text
    line, never = (line for line in text.splitlines() if line.startswith("| `tiny/"))
    assert "| `tiny/line` | 90 | none | error ≤ 0.1 |" in line
    assert "reach \\| always |" in line
    assert "(missed)" in never
    assert "Written by `dljax verify --all --write` on" in text


def test_list_shows_what_was_measured_last(dljax):
    assert dljax("verify", "tiny/never", "--quiet").status == 1
    line = next(line for line in dljax("list", "tiny/never").out.splitlines() if "tiny/never" in line)
    assert re.search(r"slope >= 3 +1\.9\d* missed", line)


def test_interval_is_student_s():
    # scipy.stats.t.interval(0.95, 4, loc=3, scale=sqrt(2.5 / 5))
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((1.0367568385, 4.9632431615))
    assert interval([1.0]) is None


def test_nothing_measured_meets_no_target():
    assert verdict(AtMost("loss", 1.0), []).endswith("MISSED")


# runs, report, export, data, bench, doctor


def test_runs_lists_what_is_done_broken_and_unfinished(dljax):
    for name in ("a", "b", "c"):
        assert dljax("train", "tiny/line", "--steps", "20", "--out", f"runs/{name}", "--quiet").status == 0
    Path("runs/b/config.json").write_text("{")
    Path("runs/c/result.json").unlink()
    Path("runs/other").mkdir()
    Path("runs/other/config.json").write_text("{}")
    found = {row["run"]: row for row in json.loads(dljax("runs", "--json").out)}
    assert {name: row["status"] for name, row in found.items()} == {"runs/a": "done", "runs/b": "damaged", "runs/c": "unfinished"}
    assert found["runs/a"]["metrics"].keys() == {"loss", "error", "slope"}
    assert (found["runs/a"]["step"], found["runs/a"]["steps"], found["runs/a"]["seeds"]) == (20, 20, [0])
    table = dljax("runs").out
    assert "20/20" in table
    assert "unfinished" in table


def test_runs_without_any(dljax):
    called = dljax("runs")
    assert called.status == 0
    assert "no runs in runs; `dljax train digits/mlp` makes one" in called.out


def test_report_is_written_again_and_compares(dljax):
    for name in ("a", "b"):
        assert dljax("train", "tiny/line", "--steps", "20", "--out", name, "--quiet").status == 0
    Path("a/report.html").unlink()
    called = dljax("report", "a", "b")
    assert called.status == 0
    assert len(called.out.splitlines()) == 2
    assert Path("a/report.html").is_file()
    assert dljax("report", "a", "b", "--compare", "both.html").status == 0
    assert "2 runs" in Path("both.html").read_text()


def test_export_writes_a_program_that_gives_the_same_values(dljax):
    import jax
    import jax.numpy as jnp

    from dljax import engine

    assert dljax("train", "tiny/line", "--out", "out", "--quiet").status == 0
    called = dljax("export", "out")
    assert called.status == 0, called.err
    (path,) = called.out.split()
    predicted = engine.load_exported(path)(jax.random.key(0), jnp.array([1.0, 2.0, 3.0]))
    assert predicted.tolist() == pytest.approx([slope * result("out")["measured"]["slope"] for slope in (1, 2, 3)])
    assert "exists" in dljax("export", "out").err


def test_data_list_and_check_as_json(dljax):
    (row,) = json.loads(dljax("data", "list", "digits", "--json").out)
    assert (row["name"], row["place"]) == ("digits", "embedded")
    called = dljax("data", "check", "digits", "karate", "--json")
    assert called.status == 0
    assert [row["status"] for row in json.loads(called.out)] == ["ok", "ok"]
    assert "fashion-mnist" in dljax("data", "list").out
    assert "digits: embedded, verified" in dljax("data", "get", "digits").out


BENCHMARK = '''"""Counts to three."""
import json, sys
print("warming up", file=sys.stderr)
print(json.dumps([{"name": "count", "peer": "abacus", "unit": "steps/s", "ours": 3.0, "theirs": 1.0, "ratio": 3.0, "peak_share": None,
                   "args": sys.argv[1:]}]))
'''


def test_bench_runs_what_stands_in_benchmarks(dljax):
    Path("benchmarks").mkdir()
    Path("benchmarks/count.py").write_text(BENCHMARK)
    Path("benchmarks/broken.py").write_text("raise SystemExit(5)")
    Path("benchmarks/_shared.py").write_text("1 / 0")
    assert json.loads(dljax("bench", "--json").out) == [{"benchmark": "broken", "what": ""}, {"benchmark": "count", "what": "Counts to three."}]
    called = dljax("bench", "count", "--json", "--quick")
    assert called.status == 0
    (row,) = json.loads(called.out)
    measured = {"name": "count", "peer": "abacus", "unit": "steps/s", "ours": 3.0, "theirs": 1.0, "ratio": 3.0}
    assert row == measured | {"peak_share": None, "agrees": None, "disturbed": None}
    called = dljax("bench", "--all")
    assert called.status == 1
    assert "broken ended with status 5" in called.err
    assert "abacus" in called.out
    called = dljax("bench", "cuont")
    assert called.status == 2
    assert "no benchmark 'cuont'; there are broken, count" in called.err


def test_doctor_says_what_is_there_and_what_to_do(dljax, monkeypatch):
    monkeypatch.delenv("DLJAX_DATA", raising=False)
    found = json.loads(dljax("doctor", "--json").out)
    assert {"versions", "devices", "folders", "data", "extras"} == {row["part"] for row in found}
    assert all(row["remedy"] for row in found if not row["ok"])
    assert next(row for row in found if row["name"] == "digits")["ok"]
    monkeypatch.setenv("DLJAX_DATA", "/no/such/folder")
    called = dljax("doctor")
    assert called.status == 0
    assert "no such folder: correct it or unset it" in called.out


# devices

DEVICES = """
import sys
from dljax.cli.launch import Launch, available_cores, num_threads
Launch(**eval(sys.argv[1])).start(cores=eval(sys.argv[2]))
import jax
print(jax.device_count(), num_threads() or 0, available_cores())
"""


@pytest.mark.parametrize(
    ("options", "useful", "environment", "devices", "threads"),
    [
        ("{}", "None", {}, "cores", 0),
        ("{'one_device': True}", "1", {}, 1, 0),
        ("{'cores': 3}", "1", {}, 3, 3),
        ("{}", "1", {}, 1, 1),
        ("{}", "1", {"NPROC": "2"}, 1, 2),
        ("{}", "1", {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5, 0),
        ("{}", "None", {"JAX_NUM_CPU_DEVICES": "4"}, 4, 0),
    ],
)
def test_a_cpu_has_a_device_for_each_core_unless_something_says_otherwise(options, useful, environment, devices, threads):
    clean = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "NPROC")}
    out, err = in_process(options, useful, code=DEVICES, env={**clean, "JAX_PLATFORMS": "cpu", **environment}).communicate()
    *found, cores = map(int, out.split())
    assert found == [cores if devices == "cores" else devices, threads], err


def test_main_is_the_entry_point_of_the_package():
    from importlib.metadata import entry_points

    points = [point for point in entry_points(group="console_scripts") if point.name == "dljax"]
    if not points:
        pytest.skip("dljax is on the path, but not installed")
    assert points[0].load() is main
