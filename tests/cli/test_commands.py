"""What the other commands do: help, lists, reports, export, data, benchmarks, the doctor; and which devices they see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import in_process, result

from dljax import recipes
from dljax.cli import main

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
