"""Several seeds and values at once."""

import json
from pathlib import Path

import pytest
from running import result, rows


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
