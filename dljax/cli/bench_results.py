"""What the benchmarks measured: the table of the README and the plot, from benchmarks/results/*.json alone."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dljax.cli.bench_growth import PLOT as GROWTH_PLOT
from dljax.cli.bench_growth import draw_growth, growth_table, is_growth

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
PLOT = "bench.svg"
Result = Mapping[str, Any]
Row = Mapping[str, Any]


def read_results(folder: Path, *, quick: bool = False) -> list[Result]:
    """The results of every benchmark, in the order of their names, but for an accelerator's sizes that were tried out on a CPU.

    Args:
      quick: those of quick runs, which are kept apart.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        if bool(result.get("quick")) == quick and result.get("size") != "small" and result.get("tasks"):
            found.append(result)
    return found


def group(peer: str | None) -> str:
    """What stands before the colon of a peer's name: ways to do the same thing, of which the best counts.

    >>> group("PyTorch: compiled"), group("gymnax"), group(None)
    ('PyTorch', 'gymnax', '')
    """
    return (peer or "").partition(":")[0]


def strongest(rows: Iterable[Row]) -> dict[str, Row]:
    """Of each group of peers the one that comes off best against ours; those that reach another result do not count.

    >>> rows = [{"peer": "torch: a", "ratio": 2.0, "agrees": True}, {"peer": "torch: b", "ratio": 1.5, "agrees": True}]
    >>> strongest(rows)["torch"]["ratio"]
    1.5
    """
    best: dict[str, Row] = {}
    for row in rows:
        if row["ratio"] is None or row.get("agrees") is False:
            continue
        name = group(row["peer"])
        if name not in best or row["ratio"] < best[name]["ratio"]:
            best[name] = row
    return best


def table(results: Sequence[Result]) -> str:
    """Markdown: one table a benchmark, one line a task, one column a group of peers; of growth the exponents."""
    return "\n\n".join(_table(result) for result in results)


def write_table(readme: Path, results: Sequence[Result], plot: str) -> None:
    """Put the tables and the plot between the markers of a README.

    Args:
      plot: the picture's path from the README; that of growth lies beside it.
    Raises:
      ValueError: the README has no markers.
    """
    from dljax.report.figures import write_atomically

    text = readme.read_text()
    if BEGIN not in text or END not in text[text.index(BEGIN) :]:
        raise ValueError(f"{readme}: has no lines {BEGIN} and {END} to write between; add them")
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    pictures = [f"![How many times as fast as its peers dljax is]({plot})"]
    if any(map(is_growth, results)):
        pictures.append(f"![How time and memory grow]({Path(plot).with_name(GROWTH_PLOT).as_posix()})")
    write_atomically(readme, "".join([head, BEGIN, "\n", "\n\n".join(pictures), "\n\n", table(results), "\n", END, tail]).encode())


def draw(results: Sequence[Result], path: Path) -> None:
    """How many times as fast dljax is, for every task and group of peers, as an SVG; how time and memory grow, as one beside it."""
    import matplotlib

    from dljax.report.figures import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dljax", "font.size": 9}):
        write_atomically(path, _svg(_ratios(results)))
        growth = [result for result in results if is_growth(result)]
        if growth:
            write_atomically(path.with_name(GROWTH_PLOT), _svg(draw_growth(growth)))


def _svg(figure: Any) -> bytes:
    import io

    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    # Matplotlib leaves blanks at the ends of lines, which git shows as mistakes.
    return re.sub(rb"[ \t]+\n", b"\n", file.getvalue())


def _ratios(results: Sequence[Result]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    from dljax.report.figures import PALETTE

    panels = [(result, lines) for result in results if (lines := _compared(result))]
    heights = [len(lines) + 2 for _, lines in panels]
    figure = Figure(figsize=(8, 0.28 * sum(heights) + 0.5), layout="constrained")
    axes: Any = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0] if panels else []
    for axis, (result, lines) in zip(axes, panels, strict=True):
        names = list(dict.fromkeys(name for best in lines.values() for name in best))
        for number, name in enumerate(names):
            places = [(best[name]["ratio"], height) for height, best in enumerate(lines.values()) if name in best]
            axis.plot(*zip(*places, strict=True), "osD^vPX<>"[number % 9], color=PALETTE[number % len(PALETTE)], markersize=6, alpha=0.85, label=name)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set(xscale="log", yticks=range(len(lines)), yticklabels=list(lines), ylim=(len(lines) - 0.5, -0.5))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(axis="x", which="both", linewidth=0.3)
        axis.set_title(_title(result), loc="left", fontsize=9, fontweight="bold")
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    return figure


def _compared(result: Result) -> dict[str, dict[str, Row]]:
    """Task -> group of peers -> its best row, of the tasks that measure a rate."""
    lines = {}
    for name, rows in _tasks(result).items():
        best = strongest(row for row in rows if row["unit"] != "s")
        if best:
            lines[name] = best
    return lines


def _tasks(result: Result) -> dict[str, list[Row]]:
    """Row name without the benchmark's -> its rows."""
    found: dict[str, list[Row]] = {}
    for task in result["tasks"].values():
        for row in task["rows"]:
            found.setdefault(row["name"].removeprefix(f"{result['benchmark']}/"), []).append(row)
    return found


def _table(result: Result) -> str:
    if is_growth(result):
        return f"**{_title(result)}**\n\n{growth_table(result)}\n\n{_footnote(result)}"
    tasks = _tasks(result)
    groups = list(dict.fromkeys(group(row["peer"]) for rows in tasks.values() for row in rows if row["ratio"] is not None))
    lines = [f"| {' | '.join([result['benchmark'], 'dljax', 'of peak', *groups])} |", f"|{' --- |' * (3 + len(groups))}"]
    for name, rows in tasks.items():
        best, first = strongest(rows), rows[0]
        ours = "" if first["ours"] is None else f"{_short(first['ours'])} {first['unit']}"
        share = "" if first["peak_share"] is None else f"{first['peak_share']:.0%}"
        mark = " †" if any(row.get("disturbed") for row in rows) else ""
        cells = [_cell(best[name]) if name in best else "" for name in groups]
        lines.append(f"| {' | '.join([name + mark, ours, share, *cells])} |")
    return f"**{_title(result)}**\n\n" + "\n".join(lines) + f"\n\n{_footnote(result)}"


def _cell(row: Row) -> str:
    way = (row["peer"] or "").partition(":")[2].strip()
    ratio = f"{row['ratio']:.2f}×" if row["ratio"] < 10 else f"{row['ratio']:.0f}×"
    return f"**{ratio}**" * (row["ratio"] >= 1) + ratio * (row["ratio"] < 1) + (f" ({way})" if way else "")


def _title(result: Result) -> str:
    device, machine = result["device"], result["machine"]
    where = f"{machine['cores']} cores of {machine['processor']}" if device["platform"] == "cpu" else device["kind"]
    return f"{result['benchmark']}, {where}"


def _footnote(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    dates = sorted(task["date"][:10] for task in result["tasks"].values())
    is_disturbed = any(row.get("disturbed") for task in result["tasks"].values() for row in task["rows"])
    note = " † Something else was computing meanwhile." if is_disturbed else ""
    said = "How many times as fast as each peer, the best of its ways (in brackets)."
    if is_growth(result):
        said = "Fitted exponents, those expected in brackets."
    pace = " A quick run, of a few short rounds." if result["quick"] else ""
    return f"{said}{pace}{note} {dates[-1]}; {versions}."


def _short(value: float) -> str:
    """Three digits and a magnitude: 1234567 as 1.23M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
