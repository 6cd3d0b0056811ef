"""Recipes against their targets, and the table in the README."""

import json
import re
from pathlib import Path

import pytest

from dljax.cli.outcome import verdict
from dljax.cli.sweep import interval
from dljax.core.experiment import AtMost


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
