"""`dljax bench`: the side-by-side benchmarks of a checkout.

A benchmark is a script `benchmarks/NAME.py` (not one that starts with `_`). It is run in a process of its own, from the checkout's folder, as

    python benchmarks/NAME.py --json [--quick] [--device cpu|gpu] [--since TIME]

and prints one JSON list of rows as the last thing on stdout; progress and notes go to stderr. A row has `name` (the task), `peer` (what dljax is
compared with), `unit` (such as "steps/s": more is better; "s": less is; "exponent of time": neither is), `ours`, `theirs`, `ratio` (how many times
better ours is, the median of the ratios pair by pair), `peak_share` (the share of the device's measured peak that ours reaches), `agrees` (whether
both reach the same loss) and `disturbed` (whether something else was computing meanwhile), each null where it does not apply. `--quick` asks for
minutes instead of an hour; `--since` leaves out what the script's results hold from that time on. A peer that is not installed is left out with a
note. Status 0 says that all rows were measured and that all contestants agree.

Scripts on `benchmarks/_harness.py` keep what they measure in benchmarks/results/; the README's table and plot are made from these files.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from dljax.cli.bench_results import PLOT, draw, read_results, write_table
from dljax.cli.options import POSITIONAL, parse
from dljax.cli.status import DONE, MISSED, UsageError
from dljax.cli.tables import print_json, print_table

FIELDS = ("name", "peer", "unit", "ours", "theirs", "ratio", "peak_share", "agrees", "disturbed")


def main(args: list[str]) -> int:
    """`dljax bench NAME ... | --all`."""
    (options,) = parse("dljax bench", args, bench)
    return bench(**options)


def bench(
    names: Annotated[tuple[str, ...], POSITIONAL] = (),
    *,
    all: bool = False,
    quick: bool = False,
    device: Literal["cpu", "gpu"] | None = None,
    fresh: bool = False,
    write: bool = False,
    plot: bool = False,
    json: bool = False,
) -> int:
    """Run benchmarks of dljax beside what one would use instead; they stand in benchmarks/ of a checkout.

    Args:
      names: benchmarks; without any, the names are listed.
      all: every benchmark; a run that was interrupted goes on where it stopped.
      quick: minutes instead of an hour; every benchmark where none is named. Its results are kept apart from those of full runs.
      device: cpu or gpu; the CPU by default.
      fresh: with --all, begin anew instead of going on.
      write: put the table of what is measured into README.md, with the plot.
      plot: draw benchmarks/results/bench.svg, and growth.svg where growth was measured.
      json: print JSON.
    """
    folder = benchmarks_folder()
    scripts = {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}
    if not scripts:
        raise UsageError(f"dljax bench: there are no benchmarks in {folder} yet")
    unknown = [name for name in names if name not in scripts]
    if unknown:
        raise UsageError(f"dljax bench: no benchmark {unknown[0]!r}; there are {', '.join(scripts)}")
    is_all = not names and (all or quick)
    if not names and not is_all:
        if not write and not plot:
            rows = [{"benchmark": name, "what": _first_line(path)} for name, path in scripts.items()]
            print_json(rows) if json else print_table(rows)
        return publish(folder, quick, write, plot)
    args = [*(["--quick"] if quick else []), *(["--device", device] if device else [])]
    whole = Whole(folder, args, fresh) if is_all else None
    rows, status = [], DONE
    for name in names or scripts:
        try:
            found, is_whole = run(scripts[name], *args) if whole is None else whole.run(name, scripts[name])
            rows += found
            status = status if is_whole else MISSED
        except UsageError as error:
            status = MISSED
            print(f"dljax: {error}", file=sys.stderr)
    if whole is not None:
        whole.end()
    print_json(rows) if json else print_table(rows, {field: field for field in FIELDS}, empty="nothing was measured")
    publish(folder, quick, write, plot)
    return status


class Whole:
    """A run of every benchmark that can be interrupted: what is done is kept until the end, and the next call goes on with it."""

    def __init__(self, folder: Path, args: list[str], fresh: bool) -> None:
        self.path, self.args = folder / "results" / ".run", args
        begun = {} if fresh else self._read()
        if begun.get("args") == args:
            print(f"going on with the run of {begun['since']}; --fresh begins anew", file=sys.stderr)
        else:
            begun = {"args": args, "since": time.strftime("%Y-%m-%dT%H:%M:%S"), "done": {}}
        self.begun = begun

    def run(self, name: str, script: Path) -> tuple[list[dict[str, Any]], bool]:
        """What `run` gives for one benchmark, now or before this run was interrupted."""
        if name not in self.begun["done"]:
            self._write()
            self.begun["done"][name] = run(script, *self.args, "--since", self.begun["since"])
            self._write()
        return self.begun["done"][name]

    def end(self) -> None:
        """Every benchmark was tried: nothing is left to go on with."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}

    def _write(self) -> None:
        from dljax.engine.folder import write_json

        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.begun)


def publish(folder: Path, quick: bool, write: bool, plot: bool) -> int:
    """The table and the plot, from what the results hold.

    Raises:
      UsageError: there are no results, or no place for the table.
    """
    if not write and not plot:
        return DONE
    results = read_results(folder / "results", quick=quick)
    if not results:
        raise UsageError(f"dljax bench: nothing is measured in {folder / 'results'}; run `dljax bench --all` first")
    picture = folder / "results" / PLOT
    draw(results, picture)
    if write:
        readme = folder.parent / "README.md"
        try:
            write_table(readme, results, picture.relative_to(readme.parent).as_posix())
        except (OSError, ValueError) as error:
            raise UsageError(f"dljax bench --write: {error}") from error
    return DONE


def benchmarks_folder() -> Path:
    """The folder `benchmarks` of the working folder, or of the checkout that dljax runs from.

    Raises:
      UsageError: there is none: dljax was installed without its checkout.
    """
    for place in (Path("benchmarks"), Path(__file__).parents[2] / "benchmarks"):
        if place.is_dir():
            return place.absolute()
    raise UsageError("dljax bench: there is no benchmarks/ here; the benchmarks come with the source: run this in a checkout of dljax")


def run(script: Path, *args: str) -> tuple[list[dict[str, Any]], bool]:
    """The rows of one benchmark, and whether all were measured and all contestants agree.

    Raises:
      UsageError: it printed no rows.
    """
    done = subprocess.run([sys.executable, str(script), "--json", *args], cwd=script.parents[1], stdout=subprocess.PIPE, text=True, check=False)
    start = done.stdout.find("[")
    try:
        rows = json.loads(done.stdout[start:]) if start >= 0 else None
    except ValueError:
        rows = None
    if done.returncode and not rows:
        raise UsageError(f"benchmark {script.stem} ended with status {done.returncode}; run `python {script}` to see why")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"benchmark {script.stem} printed no JSON list of rows; `dljax.cli.bench` says what a benchmark prints")
    return [{field: row.get(field) for field in FIELDS} for row in rows], not done.returncode


def _first_line(path: Path) -> str:
    import ast

    try:
        return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    except (OSError, SyntaxError):
        return ""
