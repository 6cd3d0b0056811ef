"""The harness of benchmarks/, and what `dljax bench` makes of its results."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

from dljax.cli.bench_results import draw, read_results, strongest, table

CHECKOUT = Path(__file__).parents[2]
SCRIPT = '''"""Sums of ten numbers."""
import os
import numpy as np
from _harness import Bench, CannotRunError, Contestant, Task, main

Bench.ROUNDS, Bench.SECONDS = (2, 2, 2), (0.02, 0.02, 0.02)

def prepare(work):
    return {"a": {"x": np.arange(10.0)}}

def flops(work):
    return 500 * len(work.arrays()["a"]["x"])

def adds(function):
    def build(work):
        x = work.arrays()["a"]["x"]
        print("what a library prints does not matter")
        def run(steps):
            for _ in range(steps * 500):
                total = function(x)
            return [total + work.options["add"]] * (steps // work.chunk)
        return run, {"note": f"of {len(x)}"}
    return build

def absent(work):
    import no_such_package

def dies(work):
    return lambda steps: os._exit(3)

def refused(folder):
    raise CannotRunError("no compiler")

contestants = {
    "dljax": adds(np.sum), "Python: sum": adds(sum), "Python: slower": adds(lambda x: sum(list(x))), "wrong": lambda work: lambda steps: [3.0],
    "absent": absent, "dies": dies, "refused": Contestant(adds(sum), env=refused), "slow": Contestant(adds(sum), quick=False),
}
if __name__ == "__main__":
    main([
        Task("ten", "sums/s", contestants, prepare=prepare, flops=flops, chunk=2, per_step=500, options={"add": 0}),
        Task("alone", "sums/s", {"dljax": adds(np.sum)}, prepare=prepare, options={"add": 1}),
    ])
'''


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A script on the harness, run once: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "benchmarks").mkdir()
    script = folder / "benchmarks" / "sums.py"
    script.write_text(SCRIPT)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (CHECKOUT, CHECKOUT / "benchmarks")))}

    def run(*args):
        return subprocess.run([sys.executable, script, "--json", "--quick", *args], env=env, capture_output=True, text=True, check=False)

    return folder, run, run()


def test_contestants_are_compared_and_failures_are_named(measured):
    folder, _, done = measured
    assert done.returncode == 1  # one reaches another loss, one dies
    rows = json.loads(done.stdout)
    assert [(row["name"], row["peer"], row["agrees"]) for row in rows] == [
        ("sums/ten", "Python: sum", True), ("sums/ten", "Python: slower", True), ("sums/ten", "wrong", False), ("sums/alone", None, None),
    ]  # fmt: skip
    assert rows[0]["ratio"] == pytest.approx(rows[0]["ours"] / rows[0]["theirs"], rel=1)
    assert rows[0]["peak_share"] > 0
    for said in ("wrong reaches another loss", "absent left out: No module named 'no_such_package'", "dies error: ended with status 3",
                 "refused left out: no compiler"):  # fmt: skip
        assert said in done.stderr
    (result,) = read_results(folder / "benchmarks" / "results", quick=True)
    ours = result["tasks"]["ten"]["contestants"]["dljax"]
    assert ours["note"] == "of 10"
    assert ours["losses"] == [45.0, 45.0]
    assert 1 <= len(ours["rates"]) <= 2  # one that is slowed down by others may have used up its time after the first
    assert set(result["machine"]) == {"processor", "cores", "memory_gib", "system"}
    assert result["versions"]["python"]
    assert set(result["tasks"]["ten"]["probe"]) == {"spread", "share", "disturbed"}


def test_what_was_measured_already_is_left_out(measured):
    _, run, _ = measured
    done = run("alone", "--since", "2020-01-01T00:00:00")
    assert "alone: measured already" in done.stderr
    assert [row["name"] for row in json.loads(done.stdout)] == ["sums/alone"]
    assert "no task 'nine'; there are ten, alone" in run("nine").stderr


def row(name, peer, ratio, unit="steps/s", **more):
    return {"name": f"b/{name}", "peer": peer, "unit": unit, "ours": 1234.5, "theirs": 1.0, "ratio": ratio, "peak_share": 0.25,
            "agrees": True, "disturbed": False, **more}  # fmt: skip


def result(rows):
    header = {"benchmark": "b", "quick": False, "machine": {"processor": "P", "cores": 2}, "device": {"platform": "cpu", "kind": "cpu"}}
    return header | {"versions": {"jax": "1"}, "tasks": {"t": {"date": "2026-01-02T03:04:05", "rows": rows}}}


def test_the_strongest_peer_of_a_group_counts_if_it_agrees():
    rows = [row("mlp", "torch: a", 2.0), row("mlp", "torch: b", 1.5), row("mlp", "torch: c", 0.1, agrees=False), row("mlp", "linen", 12.3)]
    assert {name: best["ratio"] for name, best in strongest(rows).items()} == {"torch": 1.5, "linen": 12.3}


def test_table_has_a_line_for_each_task_and_a_column_for_each_group():
    rows = [row("mlp", "torch: a", 1.5, disturbed=True), row("mlp", "linen", 0.5), row("alone", None, None)]
    written = table([result(rows)])
    assert "| b | dljax | of peak | torch | linen |" in written
    assert "| mlp † | 1.23k steps/s | 25% | **1.50×** (a) | 0.50× |" in written
    assert "| alone | 1.23k steps/s | 25% |  |  |" in written
    assert "† Something else was computing meanwhile. 2026-01-02; jax 1." in written


def test_plot_is_the_same_for_the_same_results(tmp_path):
    rows = [row("mlp", "torch: a", 1.5), row("mlp: first result, warm cache", "torch: a", 3.0, unit="s")]
    for name in "ab":
        draw([result(rows)], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    text = "".join(xml.etree.ElementTree.parse(tmp_path / "a").getroot().itertext())
    assert "mlp" in text
    assert "first result" not in text


def test_growth_has_a_table_and_a_plot_of_its_own(tmp_path):
    growing = {"sizes": [1, 2, 4], "why": "Each of B is alike.", "peer": "expected exponent"}
    time = row("batch", ratio=None, unit="exponent of time", **growing) | {"ours": 1.04, "theirs": 1.0, "values": [0.01, 0.02, 0.04]}
    memory = row("batch", ratio=None, unit="exponent of memory", **growing) | {"ours": 0.5, "theirs": 1.0, "values": [2e6, 3e6, 4e6]}
    growth = result([time, memory])
    assert "| t | 1.04 (1) | 0.50 (1) | Each of B is alike. |" in table([growth])
    draw([result([row("mlp", "torch: a", 1.5)]), growth], tmp_path / "bench.svg")
    text = "".join(xml.etree.ElementTree.parse(tmp_path / "growth.svg").getroot().itertext())
    assert "time 1.04 (1), memory 0.50 (1)" in text
    assert "10 ms" in text
    assert "exponent" not in (tmp_path / "bench.svg").read_text()


def test_bench_writes_what_the_results_hold(dljax):
    Path("benchmarks/results").mkdir(parents=True)
    Path("benchmarks/b.py").write_text("")
    called = dljax("bench", "--plot")
    assert called.status == 2
    assert "nothing is measured" in called.err
    Path("benchmarks/results/b.json").write_text(json.dumps(result([row("mlp", "torch: a", 1.5)])))
    Path("README.md").write_text("before\n")
    called = dljax("bench", "--write")
    assert called.status == 2
    assert "has no lines <!-- bench -->" in called.err
    Path("README.md").write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    assert dljax("bench", "--write").status == 0
    text = Path("README.md").read_text()
    assert text.startswith("before\n<!-- bench -->\n![")
    assert text.endswith("<!-- /bench -->\nafter\n")
    assert "**1.50×** (a)" in text
    assert "old" not in text
    assert Path("benchmarks/results/bench.svg").is_file()


def test_bench_goes_on_with_a_run_that_was_interrupted(dljax):
    Path("benchmarks/results").mkdir(parents=True)
    counts = "import json, pathlib, sys; log = pathlib.Path('log'); log.write_text(log.read_text() + sys.argv[0][-4] if log.exists() else 'a');"
    Path("benchmarks/a.py").write_text(counts + "print(json.dumps([{'name': 'a'}]))")
    Path("benchmarks/b.py").write_text(counts + "print(json.dumps([{'name': 'b'}])); sys.exit(1)")
    begun = {"args": ["--quick"], "since": "2026-01-01T00:00:00", "done": {"a": [[{"name": "a", "ours": 5.0}], True]}}
    Path("benchmarks/results/.run").write_text(json.dumps(begun))
    Path("log").write_text("")
    called = dljax("bench", "--quick", "--json")
    assert called.status == 1  # b says that not all is well
    assert "going on with the run of 2026-01-01T00:00:00" in called.err
    assert [line["name"] for line in json.loads(called.out)] == ["a", "b"]
    assert Path("log").read_text() == "b"
    assert not Path("benchmarks/results/.run").exists()
    Path("benchmarks/results/.run").write_text(json.dumps(begun))
    assert dljax("bench", "--quick", "--fresh").status == 1
    assert Path("log").read_text() == "bab"
