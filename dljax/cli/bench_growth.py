"""What the growth benchmark measured: a table of exponents, and time and memory against size."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

PLOT = "growth.svg"
PEER = "expected exponent"
COLUMNS = 3
Result = Mapping[str, Any]
Row = Mapping[str, Any]


def is_growth(result: Result) -> bool:
    """Whether its rows are exponents.

    >>> is_growth({"tasks": {"batch": {"rows": [{"peer": "expected exponent"}]}}}), is_growth({"tasks": {}})
    (True, False)
    """
    return any(row["peer"] == PEER for task in result["tasks"].values() for row in task["rows"])


def growth_table(result: Result) -> str:
    """Markdown: one line for each quantity that grows, fitted exponents with the expected ones in brackets."""
    lines = [f"| {result['benchmark']} with | exponent of time | of memory | expected because |", "| --- | --- | --- | --- |"]
    for name, task in result["tasks"].items():
        rows = _rows(task)
        if rows:
            mark = " †" if any(row.get("disturbed") for row in rows.values()) else ""
            cells = [f"{rows[kind]['ours']:.2f} ({rows[kind]['theirs']:g})" if kind in rows else "" for kind in ("time", "memory")]
            lines.append(f"| {' | '.join([name + mark, *cells, next(iter(rows.values()))['why']])} |")
    return "\n".join(lines)


def draw_growth(results: Sequence[Result]) -> Any:
    """A matplotlib figure: for each quantity a panel of seconds (left) and bytes (right), dashed lines with the expected exponents."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    from dljax.report.figures import PALETTE

    panels = [(result, name, rows) for result in results for name, task in result["tasks"].items() if (rows := _rows(task))]
    height = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(10, 2.6 * height), layout="constrained")
    axes: Any = figure.subplots(height, COLUMNS, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (result, name, rows) in zip(axes, panels, strict=False):
        sides = {"time": axis} | ({"memory": axis.twinx()} if "memory" in rows else {})
        for colour, unit, (kind, side) in zip(PALETTE, ("s", "B"), sides.items(), strict=False):
            if kind not in rows:
                continue
            sizes, values, expected = (rows[kind][part] for part in ("sizes", "values", "theirs"))
            middle, level = (math.prod(numbers) ** (1 / len(numbers)) for numbers in (sizes, values))
            side.plot(sizes, values, "os"[kind == "memory"], color=colour, markersize=4)
            side.plot(sizes, [level * (size / middle) ** expected for size in sizes], "--", color=colour, linewidth=1)
            side.set(xscale="log", yscale="log")
            side.yaxis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: _short(value, unit)))
            for line in (side.xaxis, side.yaxis):
                line.set_minor_formatter(NullFormatter())
            side.tick_params(axis="y", colors=colour)
        first = next(iter(rows.values()))
        axis.set_xticks(first["sizes"], [f"{size}" for size in first["sizes"]], fontsize=7)
        fits = ", ".join(f"{kind} {row['ours']:.2f} ({row['theirs']:g})" for kind, row in rows.items())
        device = "" if result["device"]["platform"] == "cpu" else f", {result['device']['kind']}"
        axis.set_title(f"{name}{device}\n{fits}", loc="left", fontsize=8)
    return figure


def _rows(task: Mapping[str, Any]) -> dict[str, Row]:
    """What grew -> its row."""
    return {row["unit"].removeprefix("exponent of "): row for row in task["rows"] if row["peer"] == PEER}


def _short(value: float, unit: str) -> str:
    """With the prefix that leaves a number from 1 to 999: 0.002 s as 2 ms."""
    power = min(max(math.floor(math.log10(value) / 3 + 1e-9), -3), 4)
    return f"{value / 1000.0**power:g} {'nµm kMGT'[power + 3].strip()}{unit}"
