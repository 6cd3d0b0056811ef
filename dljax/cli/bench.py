"""`dljax bench`: the side-by-side benchmarks of a checkout.

A benchmark is a script `benchmarks/NAME.py` (not one that starts with `_`). It is run in a process of its own, from the checkout's folder, as

    python benchmarks/NAME.py --json [--quick] [--device cpu|gpu]

and prints one JSON list of rows as the last thing on stdout; progress and notes go to stderr. A row has `name` (the task), `peer` (what dljax is
compared with), `unit` (such as "steps/s"; more is better), `ours`, `theirs`, `ratio` (the median of the pairwise ratios ours / theirs) and
`peak_share` (the share of the device's measured peak that ours reaches), each number null where it does not apply. `--quick` asks for minutes
instead of an hour. A peer that is not installed is left out with a note. Status 0 says that all rows were measured.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from dljax.cli.options import POSITIONAL, parse
from dljax.cli.status import DONE, MISSED, UsageError
from dljax.cli.tables import print_json, print_table

FIELDS = ("name", "peer", "unit", "ours", "theirs", "ratio", "peak_share")


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
    json: bool = False,
) -> int:
    """Run benchmarks of dljax beside what one would use instead; they stand in benchmarks/ of a checkout.

    Args:
      names: benchmarks; without any, the names are listed.
      all: every benchmark.
      quick: minutes instead of an hour.
      device: cpu or gpu; jax's default device otherwise.
      json: print JSON.
    """
    folder = benchmarks_folder()
    scripts = {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}
    if not scripts:
        raise UsageError(f"dljax bench: there are no benchmarks in {folder} yet")
    unknown = [name for name in names if name not in scripts]
    if unknown:
        raise UsageError(f"dljax bench: no benchmark {unknown[0]!r}; there are {', '.join(scripts)}")
    if not names and not all:
        rows = [{"benchmark": name, "what": _first_line(path)} for name, path in scripts.items()]
        print_json(rows) if json else print_table(rows)
        return DONE
    rows, failed = [], []
    for name in names or scripts:
        more = [*(["--quick"] if quick else []), *(["--device", device] if device else [])]
        try:
            rows += run(scripts[name], *more)
        except UsageError as error:
            failed.append(name)
            print(f"dljax: {error}", file=sys.stderr)
    print_json(rows) if json else print_table(rows, {field: field for field in FIELDS}, empty="nothing was measured")
    return MISSED if failed else DONE


def benchmarks_folder() -> Path:
    """The folder `benchmarks` of the working folder, or of the checkout that dljax runs from.

    Raises:
      UsageError: there is none: dljax was installed without its checkout.
    """
    for place in (Path("benchmarks"), Path(__file__).parents[2] / "benchmarks"):
        if place.is_dir():
            return place.absolute()
    raise UsageError("dljax bench: there is no benchmarks/ here; the benchmarks come with the source: run this in a checkout of dljax")


def run(script: Path, *args: str) -> list[dict[str, Any]]:
    """The rows of one benchmark.

    Raises:
      UsageError: it failed, or printed no rows.
    """
    done = subprocess.run([sys.executable, str(script), "--json", *args], cwd=script.parents[1], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UsageError(f"benchmark {script.stem} ended with status {done.returncode}; run `python {script}` to see why")
    start = done.stdout.find("[")
    try:
        rows = json.loads(done.stdout[start:]) if start >= 0 else None
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"benchmark {script.stem} printed no JSON list of rows; `dljax.cli.bench` says what a benchmark prints")
    return [{field: row.get(field) for field in FIELDS} for row in rows]


def _first_line(path: Path) -> str:
    import ast

    try:
        return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    except (OSError, SyntaxError):
        return ""
