"""`dljax verify`: train recipes, compare them with their targets, and write the table of the README."""

import json
import math
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dljax.cli.launch import Launch, available_cores
from dljax.cli.options import POSITIONAL, parse
from dljax.cli.outcome import last_values, measured, verdict
from dljax.cli.status import DONE, MISSED, NONFINITE, UsageError, explain
from dljax.cli.sweep import interval
from dljax.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from dljax.core.experiment import Recipe
    from dljax.engine import Member, Run

BEGIN, END = "<!-- results -->", "<!-- /results -->"
_COLUMNS = {
    "recipe": "name", "metric": "metric", "": "op", "target": "target", "measured": "value", "95 % interval": "interval", "seeds": "seeds",
    "seconds": "seconds", "passed": "passed",
}  # fmt: skip
_HEADS = ("recipe", "chapter", "data", "target", "measured", "95 % interval", "seeds", "time", "on", "target from")


@dataclass(frozen=True)
class Verifying:
    """Train recipes and compare the mean over their seeds with their targets; exit status 1 where one is missed.

    Attributes:
      names: recipes or globs such as 'fashion-mnist/*'.
      all: every recipe.
      chapter: those of this chapter of the book.
      row: those of this row of the table of systems, such as 3.3.
      seeds: how many seeds, instead of the recipe's number.
      write: put the rows into the table of results in README.md.
      json: print JSON.
    """

    names: Annotated[tuple[str, ...], POSITIONAL] = ()
    all: bool = False
    chapter: int | None = None
    row: str | None = None
    seeds: int | None = None
    write: bool = False
    json: bool = False


def main(args: list[str]) -> int:
    """`dljax verify NAME ... | --chapter N | --row R | --all`."""
    options, launch = parse("dljax verify", args, Verifying, Launch)
    return verify(Verifying(**options), Launch(**launch))


def verify(asked: Verifying, launch: Launch) -> int:
    """Verify one recipe after another; an error in one does not stop the others.

    Returns:
      The exit status: the worst of all.
    """
    if not (asked.names or asked.all or asked.chapter is not None or asked.row is not None):
        raise UsageError("dljax verify: say which recipes: names, globs such as 'digits/*', --chapter N, --row 3.3 or --all")
    if asked.names and asked.all:
        raise UsageError(f"dljax verify: --all and {', '.join(asked.names)} exclude each other; leave one out")
    from dljax import recipes
    from dljax.core.checks import check_int

    if asked.seeds is not None:
        check_int("dljax verify", "--seeds", asked.seeds, minimum=1)
    found = recipes.find(asked.names, chapter=asked.chapter, row=asked.row)
    readme = readme_with_table() if asked.write else None
    launch.start()
    rows, status, interrupted = [], DONE, False
    for recipe in found:
        if not launch.quiet:
            print(f"{recipe.name}: about {recipe.minutes:g} min on two cores", file=sys.stderr)
        try:
            row, outcome = _verified(recipe, asked.seeds or recipe.seeds, launch)
        except KeyboardInterrupt:
            interrupted = True
            break
        except Exception as error:
            outcome = explain(error, debug=launch.debug)
            row = _row(recipe, [], asked.seeds or recipe.seeds, 0.0)
        rows.append(row)
        status = max(status, outcome)
        if outcome in (DONE, MISSED):
            if not launch.quiet:
                print(f"  {verdict(recipe.target, [row['value']])} ({_clock(row['seconds'])})", file=sys.stderr)
            remember(row)
            if readme is not None:
                write_table(readme, [row])
    if asked.json:
        print_json(rows)
    elif not launch.quiet:
        print_table(rows, _COLUMNS, empty="nothing was verified")
    if interrupted:
        raise KeyboardInterrupt
    return status


def _verified(recipe: "Recipe", num_seeds: int, launch: Launch) -> tuple[dict[str, Any], int]:
    from dljax import engine
    from dljax.core.contract import Source

    begin = time.perf_counter()
    experiment = recipe.build()
    if num_seeds > 1 and isinstance(experiment.source, Source):
        swept = engine.sweep(recipe.build, seeds=num_seeds, config=launch.config())
        reached: Sequence[Run | Member] = swept.members
    else:
        reached = [_trained(experiment, seed, launch) for seed in range(num_seeds)]
    if any(one.status == "interrupted" for one in reached):
        raise KeyboardInterrupt
    values = []
    for seed, one in enumerate(reached):
        if one.status == "nonfinite":
            print(f"dljax: {recipe.name}, seed {seed}, went non-finite; lower its learning rate", file=sys.stderr)
            continue
        final = last_values(one, measured(experiment, one, seed))
        if recipe.target.metric not in final:
            raise UsageError(
                f"{recipe.name}: nothing reports its target {recipe.target.metric!r}; there are {', '.join(sorted(final)) or 'no metrics'}"
            )
        values.append(final[recipe.target.metric])
    row = _row(recipe, values if len(values) == num_seeds else [], num_seeds, time.perf_counter() - begin)
    return row, NONFINITE if len(values) < num_seeds else DONE if row["passed"] else MISSED


def _trained(experiment: Any, seed: int, launch: Launch) -> "Run":
    import jax

    from dljax import engine

    try:
        return engine.train(experiment, jax.random.key(seed), config=launch.config())
    except engine.NonFiniteError as error:
        return error.run


def _row(recipe: "Recipe", values: Sequence[float], num_seeds: int, seconds: float) -> dict[str, Any]:
    target, mean = recipe.target, statistics.fmean(values) if values else math.nan
    bounds = interval(values)
    return {
        "name": recipe.name, "metric": target.metric, "op": target.op, "target": target.value, "value": mean if values else None,
        "interval": None if bounds is None else list(bounds), "seeds": num_seeds, "seconds": seconds, "passed": target.holds(mean),
    }  # fmt: skip


# What was measured last, for `dljax list`


def remember(row: Mapping[str, Any]) -> None:
    """Keep a row in the user's cache; a cache that cannot be written is no reason to fail."""
    from dljax.engine.folder import write_json

    path = _memory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**remembered(), row["name"]: {**row, "date": time.strftime("%Y-%m-%d")}})
    except OSError:
        return


def remembered() -> dict[str, dict[str, Any]]:
    """Recipe -> the row of its last verification on this machine."""
    try:
        rows = json.loads(_memory().read_text())
    except (OSError, ValueError):
        return {}
    return {name: row for name, row in rows.items() if isinstance(row, dict)} if isinstance(rows, dict) else {}


def _memory() -> Path:
    from dljax.core.cache import cache_folder

    return cache_folder() / "verified.json"


# The table of the README


def readme_with_table() -> Path:
    """The README of the working folder, or of the checkout that dljax runs from, that has a place for the table.

    Raises:
      UsageError: none has.
    """
    places = [Path("README.md"), Path(__file__).parents[2] / "README.md"]
    for place in places:
        if place.is_file() and BEGIN in (text := place.read_text()) and END in text[text.index(BEGIN) :]:
            return place
    raise UsageError(f"dljax verify --write: neither {' nor '.join(map(str, places))} has the lines {BEGIN} and {END} to write between; add them")


def write_table(readme: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace or add the rows in the table; those of other recipes stay as they are, those of recipes that are gone go."""
    from dljax.core.experiment import RECIPES
    from dljax.report.figures import write_atomically

    text = readme.read_text()
    head, rest = text.split(BEGIN, 1)
    table, tail = rest.split(END, 1)
    lines = {match[1]: line for line in table.splitlines() if (match := re.match(r"\| `([^`]+)` \|", line))}
    lines |= {row["name"]: _line(RECIPES[row["name"]], row) for row in rows}
    kept = sorted((recipe.chapter, name) for name, recipe in RECIPES.items() if name in lines)
    body = [f"| {' | '.join(_HEADS)} |", f"|{' --- |' * len(_HEADS)}", *(lines[name] for _, name in kept)]
    write_atomically(readme, "".join([head, BEGIN, "\n", "\n".join(body), f"\n\n{_machine()}\n", END, tail]).encode())


def _line(recipe: "Recipe", row: Mapping[str, Any]) -> str:
    target, value, bounds = recipe.target, row["value"], row["interval"]
    shown = "not finite" if value is None else f"{'**' if row['passed'] else ''}{value:.4g}{'**' if row['passed'] else ' (missed)'}"
    cells = (
        f"`{recipe.name}`", str(recipe.chapter), recipe.data or "none", f"{target.metric} {'≥' if target.op == '>=' else '≤'} {target.value:g}",
        shown, "" if bounds is None else f"{bounds[0]:.4g} ... {bounds[1]:.4g}", str(row["seeds"]), _clock(row["seconds"]), time.strftime("%Y-%m-%d"),
        " ".join(target.source.split()).replace("|", "\\|"),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _machine() -> str:
    import jax

    device = jax.devices()[0]
    where = f"{available_cores()} CPU cores" if device.platform == "cpu" else f"{jax.device_count()} x {device.device_kind}"
    return f"Written by `dljax verify --all --write` on {where}, JAX {jax.__version__}; time is that of all seeds, compilation included."
