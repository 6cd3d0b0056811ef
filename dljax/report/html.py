"""The report: one HTML file for a run, or for several side by side, that needs no network and trusts nothing it shows."""

import base64
import hashlib
import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from dljax.report.curves import Line, panel
from dljax.report.figures import PALETTE, write_atomically
from dljax.report.markup import DASH, Markup, duration, is_number, join, memory, number, quantity, shown, tag
from dljax.report.outcome import SIGNS, Claim, claim, finals, groups, last_step, numbers, verdicts
from dljax.report.run import Column, Embedded, Run, extent, read_run

_ROWS, _CHARACTERS = 500, 100_000  # of a table and of a text that the page shows
_STATUS = {
    "done": "done",
    "stopped": "stopped early",
    "interrupted": "interrupted, can be resumed",
    "nonfinite": "went non-finite",
    None: "no result yet",
}


def write(run_dir: str | os.PathLike[str]) -> Path:
    """Write `report.html` into a run's folder: outcome, curves, figures, options, environment and speed.

    What is missing or damaged in the folder (a run that still goes on, or was killed) is left out and said on the page.

    Args:
      run_dir: the folder of a run, with any of `config.json`, `metrics.jsonl`, `evaluations.jsonl`, `result.json` and `figures/figures.json`.
    Returns:
      The path of the page, which opens from the disk.
    Raises:
      FileNotFoundError: no such folder, or neither a configuration nor metrics in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}')
    ...     write(folder).name
    'report.html'
    """
    run = read_run(run_dir)
    name = _name(run)
    sections = [
        _header(run, name),
        _outcome(run),
        _tiles(run),
        _curves([line for part in ("training", "evaluation") for line in _lines(run, part)], claim(run)),
        _figures(run),
        _section("Final values", _final_values(run)),
        _section("Members", _members_table(run)),
        _columns(
            _section("Options", _pairs(_options(run))),
            _section("Environment", _pairs({key: shown(value) for key, value in _flat(run.config.get("environment")).items()})),
            _section("Speed", _pairs(_speed(run))),
        ),
        _section("Notes", tag("ul", [tag("li", note) for note in run.notes])) if run.notes else None,
    ]
    return _publish(run.folder / "report.html", name, sections)


def compare(run_dirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Write one page that overlays the curves of several runs, with their final values and where their options differ.

    Args:
      run_dirs: folders as for `write`, at least one.
      out: the page to write, by convention an `.html` file.
    Raises:
      ValueError: no runs. FileNotFoundError: as for `write`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}')
    ...     compare([folder, folder], Path(folder, "both.html")).name
    'both.html'
    """
    if not run_dirs:
        raise ValueError("compare: run_dirs must have at least one run folder, got none")
    runs = [read_run(folder) for folder in run_dirs]
    labels = _labels(runs)
    lines = [
        line
        for style, (run, label) in enumerate(zip(runs, labels, strict=True))
        for part in ("training", "evaluation")
        for line in _lines(run, part, {label: [*range(run.num_members)]}, style)
    ]
    notes = [f"{label}: {note}" for run, label in zip(runs, labels, strict=True) for note in run.notes]
    targets = {target for target in map(claim, runs) if target is not None}
    facts = [{"status": _status(run), "target": _reached(run), **_options(run)} for run in runs]
    environments = [{key: shown(value) for key, value in _flat(run.config.get("environment")).items()} for run in runs]
    sections = [
        tag("header", tag("h1", f"{len(runs)} runs"), tag("p", ", ".join(labels), class_="quiet")),
        _curves(lines, targets.pop() if len(targets) == 1 else None),
        _section("Final values", _side_by_side(labels, [_final_spreads(run, range(run.num_members)) for run in runs])),
        _section("Runs", _side_by_side(labels, facts, mark=True)),
        _section("Environment", _side_by_side(labels, environments, mark=True)),
        _section("Speed", _side_by_side(labels, [_speed(run) for run in runs])),
        _section("Notes", tag("ul", [tag("li", note) for note in notes])) if notes else None,
    ]
    return _publish(Path(out), f"{len(runs)} runs", sections)


def _name(run: Run) -> str:
    recipe = run.config.get("recipe")
    return recipe if isinstance(recipe, str) and recipe else run.folder.name


def _labels(runs: Sequence[Run]) -> list[str]:
    """Recipe or folder; the folder beside it, and then a number, where that does not tell them apart."""
    labels = [_name(run) for run in runs]
    if len(set(labels)) < len(labels):
        labels = [run.folder.name for run in runs]
    if len(set(labels)) < len(labels):
        labels = [f"{label} #{index + 1}" for index, label in enumerate(labels)]
    return labels


def _status(run: Run) -> str:
    status = run.result.get("status")
    return _STATUS.get(status, shown(status)) if isinstance(status, str) or status is None else shown(status)


def _spread(values: Iterable[float]) -> str:
    values = [float(value) for value in values if math.isfinite(value)]
    if not values:
        return DASH
    if len(values) == 1:
        return number(values[0])
    return f"{number(statistics.fmean(values))} ± {number(statistics.stdev(values), 2)} (n = {len(values)})"


def _header(run: Run, name: str) -> Markup:
    status = run.result.get("status")
    kind = status if isinstance(status, str) and status in _STATUS else "open"
    facts = [run.folder.name if run.folder.name != name else None, run.config.get("created")]
    seeds = [member["seed"] for member in run.members if "seed" in member]
    if run.num_members > 1:
        facts.append(f"{run.num_members} members")
        facts.append(f"{len(set(map(shown, seeds)))} seeds" if seeds else None)
    elif run.config.get("seed") is not None:
        facts.append(f"seed {shown(run.config['seed'])}")
    line = " · ".join(shown(fact) for fact in facts if fact is not None)
    return tag("header", tag("h1", name, " ", tag("span", _status(run), class_=f"badge {kind}")), tag("p", line, class_="quiet"))


def _outcome(run: Run) -> Markup:
    message, target = run.result.get("message"), claim(run)
    note = tag("p", shown(message), class_="message") if message else None
    if target is None:
        return join(note)
    reached = verdicts(run)
    lines = []
    for group, values, kind, words in reached:
        where = tag("span", f" · {group}", class_="quiet") if group else None
        lines.append(tag("p", f"{target.metric} ", tag("strong", _spread(values)), " ", tag("b", words, class_=kind), where))
    origin = f"target: {target.metric} {SIGNS[target.op]} {number(target.value)}" + (f" · source: {target.source}" if target.source else "")
    kinds = {verdict.kind for verdict in reached}
    return join(tag("div", lines, tag("p", origin, class_="quiet"), class_=f"outcome {kinds.pop() if len(kinds) == 1 else ''}"), note)


def _reached(run: Run) -> str:
    return "; ".join(f"{group} {words} ({_spread(values)})".strip() for group, values, _, words in verdicts(run)) or DASH


def _tiles(run: Run) -> Markup:
    result, config = run.result, run.config
    given = config.get("environment")
    environment = given if isinstance(given, dict) else {}
    step, steps = result.get("step"), config.get("steps")
    if not is_number(step):
        step = max((steps[-1] for steps, _ in run.metrics.values()), default=None)
    progress = f"{number(step)} of {number(steps)}" if is_number(steps) and step != steps else number(step)
    share = f"{100 * result['peak_share']:.3g} % of peak" if is_number(result.get("peak_share")) else None
    device = " × ".join(shown(environment[key]) for key in ("devices", "platform") if key in environment)
    kind = environment.get("device_kind")
    tiles = [
        ("steps", progress, None),
        ("time", duration(result.get("seconds")), _with(duration, "compilation ", result.get("compile_seconds"))),
        ("throughput", *_throughput(result)),
        ("arithmetic", quantity(result.get("achieved_flops"), "FLOP/s"), share),
        ("device", device or DASH, shown(kind) if kind not in (None, environment.get("platform")) else None),
    ]
    shown_tiles = [
        tag("div", tag("dt", title), tag("dd", value, tag("small", extra) if extra else None)) for title, value, extra in tiles if value != DASH
    ]
    return tag("dl", shown_tiles, class_="tiles") if shown_tiles else Markup("")


def _with(unit: Any, words: str, value: Any) -> str | None:
    return words + unit(value) if is_number(value) else None


def _throughput(result: Mapping[str, Any]) -> tuple[str, str | None]:
    steps = f"{number(result['steps_per_second'], 3)} steps/s" if is_number(result.get("steps_per_second")) else None
    if is_number(result.get("units_per_second")) and result.get("unit") not in (None, "steps"):
        return f"{number(result['units_per_second'], 3)} {shown(result['unit'])}/s", steps
    return steps or DASH, None


def _lines(run: Run, part: str, members: Mapping[str, list[int]] | None = None, style: int | None = None) -> list[tuple[str, Line]]:
    """The curves of a run's training or evaluation, with the metric of each; None for the groups of a sweep and their colours."""
    members = groups(run) if members is None else members
    if style is None:
        # With one group the colour tells training from evaluation; with several it tells the groups apart.
        style = 1 if len(members) == 1 and part == "evaluation" else 0
    lines = []
    for name, (steps, values) in (run.metrics if part == "training" else run.evaluations).items():
        for index, (label, some) in enumerate(members.items()):
            columns = values[:, [member for member in some if member < values.shape[1]]]
            if np.isfinite(columns).any():
                lines.append((name, Line(label, steps, columns, style + index, part == "evaluation")))
    return lines


def _curves(lines: Iterable[tuple[str, Line]], target: Claim | None) -> Markup | None:
    metrics: dict[str, list[Line]] = {}
    for name, line in lines:
        metrics.setdefault(name, []).append(line)
    levels = {target.metric: (target.op, target.value)} if target is not None else {}
    panels = [panel(name, group, levels.get(name)) for name, group in metrics.items()]
    return _section("Curves", tag("div", panels, class_="panels")) if panels else None


def _figures(run: Run) -> Markup | None:
    cards = [_card(figure) for figure in run.figures]
    return _section("Figures", tag("div", cards, class_="cards")) if cards else None


def _card(figure: Embedded) -> Markup:
    name, caption, media, content = figure
    is_wide = not media.startswith("image/")
    if media.startswith("image/"):
        width, height = extent(content, media) or (0, 0)
        is_wide = width > 1600
        source = f"data:{media};base64,{base64.b64encode(content).decode()}"
        body = tag("img", src=source, alt=caption, width=width, height=height)
    elif media == "application/json":
        body = _json_table(content)
    else:
        string = content.decode("utf-8", "replace")
        cut = f"\n… {len(string) - _CHARACTERS:,} more characters in the file" if len(string) > _CHARACTERS else None
        body = tag("pre", string[:_CHARACTERS], cut)
    return tag("figure", body, tag("figcaption", tag("b", name), " ", caption), class_="wide" if is_wide else None)


def _json_table(content: bytes) -> Markup:
    try:
        rows = json.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return tag("p", "This table could not be read.", class_="quiet")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    body = [[_cell(row.get(column)) for column in columns] for row in rows[:_ROWS]]
    more = tag("p", f"{len(rows) - _ROWS} more rows in the file", class_="quiet") if len(rows) > _ROWS else None
    return join(_table(columns, body), more)


def _final_values(run: Run) -> Markup | None:
    by_group = {group: _final_spreads(run, members) for group, members in groups(run).items()}
    if len(by_group) > 1:
        return _side_by_side(list(by_group), list(by_group.values()))
    measured = run.result.get("measured")
    measured = measured if isinstance(measured, dict) else {}
    body = []
    for name in dict.fromkeys((*measured, *run.evaluations, *run.metrics)):
        row = [name]
        for history, slack in ((run.metrics, 0.1), (run.evaluations, 0.0)):
            column = history.get(name)
            row += [DASH, DASH] if column is None else [_spread(finals(column, slack)), number(last_step(column))]
        body.append([*row, _spread(numbers(measured.get(name)))])
    heads = ["metric", "training", "at step", "evaluation", "at step", "measured at the end"]
    kept = [0, *(column for column in range(1, len(heads)) if any(row[column] != DASH for row in body))]
    return _table([heads[column] for column in kept], [[row[column] for column in kept] for row in body]) if body else None


def _final_spreads(run: Run, members: Iterable[int]) -> dict[str, str]:
    measured = run.result.get("measured")
    values = {f"{name}, training": finals(column, 0.1) for name, column in run.metrics.items()}
    values |= {f"{name}, evaluation": finals(column) for name, column in run.evaluations.items()}
    values |= {f"{name}, measured": numbers(value) for name, value in (measured if isinstance(measured, dict) else {}).items()}
    return {name: _spread(some[[member for member in members if member < len(some)]]) for name, some in values.items()}


def _members_table(run: Run) -> Markup | None:
    if run.num_members == 1:
        return None
    options = list(dict.fromkeys(name for member in run.members for name in member))
    history = run.evaluations or run.metrics
    body = []
    for index in range(run.num_members):
        member = run.members[index] if index < len(run.members) else {}
        row = [str(index), *(shown(member[name]) if name in member else DASH for name in options)]
        body.append(row + [_last_value(column, index) for column in history.values()])
    return _table(["member", *options, *(f"{name}, last" for name in history)], body)


def _last_value(column: Column, member: int) -> str:
    steps, values = column
    known = np.flatnonzero(np.isfinite(values[:, member])) if member < values.shape[1] else np.array([], int)
    if not known.size:
        return DASH
    step = float(steps[known[-1]])
    return number(float(values[known[-1], member])) + ("" if step == last_step(column) else f" (step {number(step)})")


def _options(run: Run) -> dict[str, str]:
    config = run.config
    options = {key: shown(config[key]) for key in ("recipe", "seed", "steps", "every") if key in config}
    given = config.get("options")
    return options | {f"{name}": shown(value) for name, value in _flat(given).items()}


def _speed(run: Run) -> dict[str, str]:
    result = run.result
    lines = {
        "time": duration(result.get("seconds")),
        "compilation": duration(result.get("compile_seconds")),
        "recompilations": number(result.get("recompilations")),
        "steps per second": number(result.get("steps_per_second")),
        f"{shown(result.get('unit', 'units'))} per second": number(result.get("units_per_second")),
        "arithmetic of a step": quantity(result.get("flops_per_step"), "FLOP"),
        "achieved": quantity(result.get("achieved_flops"), "FLOP/s"),
        "measured peak": quantity(result.get("peak_flops"), "FLOP/s"),
        "share of the peak": f"{100 * result['peak_share']:.3g} %" if is_number(result.get("peak_share")) else DASH,
    }
    for name, value in _flat(result.get("memory_bytes")).items():
        lines[f"memory, {name}"] = memory(value)
    return {name: value for name, value in lines.items() if value != DASH}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested object as `outer.inner -> value`."""
    if not isinstance(value, dict):
        return {}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) and inner else {f"{prefix}{key}": inner}
    return flat


def _pairs(pairs: Mapping[str, str]) -> Markup | None:
    if not pairs:
        return None
    rows = [tag("tr", tag("th", key, scope="row"), tag("td", value)) for key, value in pairs.items()]
    return tag("div", tag("table", rows, class_="pairs"), class_="scroll")


def _side_by_side(labels: Sequence[str], columns: Sequence[Mapping[str, str]], mark: bool = False) -> Markup | None:
    """One row a key and one column a run; rows in which the runs differ are marked."""
    keys = list(dict.fromkeys(key for column in columns for key in column))
    if not keys:
        return None
    rows = []
    for key in keys:
        values = [column.get(key, DASH) for column in columns]
        differs = mark and len(set(values)) > 1
        rows.append(tag("tr", tag("th", key, scope="row"), [tag("td", value) for value in values], class_="differs" if differs else None))
    swatches = [tag("i", class_=f"chip b{index % len(PALETTE)}") for index in range(len(labels))]
    heads = [tag("th", chip, label, scope="col") for chip, label in zip(swatches, labels, strict=True)]
    return tag("div", tag("table", tag("thead", tag("tr", tag("th", ""), heads)), tag("tbody", rows)), class_="scroll")


def _cell(value: Any) -> str:
    return "" if value is None else number(value) if is_number(value) else shown(value)


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> Markup:
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in heads]))
    rows = [tag("tr", [tag("td", cell) for cell in row]) for row in body]
    return tag("div", tag("table", head, tag("tbody", rows)), class_="scroll")


def _section(title: str, content: Markup | None) -> Markup | None:
    return None if content is None else tag("section", tag("h2", title), content)


def _columns(*sections: Markup | None) -> Markup:
    return tag("div", sections, class_="columns")


def _publish(path: Path, title: str, sections: Sequence[Markup | None]) -> Path:
    style, script = (resources.files("dljax.report").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    # Only this style and this script may run: markup that slipped through could do nothing, and nothing is fetched.
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} · dljax"),
        tag("style", Markup(style)),
    )
    body = tag("body", tag("main", sections), tag("footer", "Written by dljax from the files of the run."), tag("script", Markup(script)))
    page = "<!DOCTYPE html>\n" + tag("html", head, body, lang="en")
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
