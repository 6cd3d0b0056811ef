"""`dljax runs`: run folders, how far they came and what they reached."""

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from dljax.cli.options import POSITIONAL, parse
from dljax.cli.status import DONE, UsageError
from dljax.cli.tables import cell, is_wide, print_json, print_table

_OWN = ("metrics.jsonl", "checkpoints", ".lock")  # what tells a run folder from any other that has a config.json


def main(args: list[str]) -> int:
    """`dljax runs [DIR]`."""
    (options,) = parse("dljax runs", args, runs)
    return runs(**options)


def runs(folder: Annotated[str, POSITIONAL] = "runs", json: bool = False) -> int:
    """Run folders: recipe, status, steps and last values.

    Args:
      folder: where to look, with everything below it.
      json: print JSON.
    """
    root = Path(folder)
    if not root.is_dir():
        if folder != "runs":
            raise UsageError(f"dljax runs: there is no folder {folder!r}; give one that holds runs")
        rows = []
    else:
        found = {path.parent for path in root.rglob("config.json") if any((path.parent / name).exists() for name in _OWN)}
        rows = [describe(path) for path in sorted(found)]
    if json:
        print_json(rows)
    else:
        shown = [{**row, "folder": _below(row["run"], root), "at": f"{row['step']}/{row['steps']}", "last": _few(row["metrics"])} for row in rows]
        columns = {"run": "folder", "recipe": "recipe", "status": "status", "step": "at", "last values": "last"}
        columns |= {"seeds": "seeds", "seconds": "seconds"} if is_wide() else {}
        print_table(shown, columns, empty=f"no runs in {folder}; `dljax train digits/mlp` makes one")
    return DONE


def describe(path: Path) -> dict[str, Any]:
    """A run folder in a row, in whatever state it is."""
    from dljax.engine.folder import RunFolderError, read_config, read_result
    from dljax.engine.log import JsonLines, read_lines

    try:
        config = read_config(path) or {}
    except RunFolderError:
        return {"run": str(path), "recipe": None, "seeds": None, "status": "damaged", "step": None, "steps": None, "seconds": None, "metrics": {}}
    result = read_result(path)
    rows = {kind: read_lines(path / name) for kind, name in JsonLines.files.items()}
    last = {kind: dict(lines[-1]) if lines else {} for kind, lines in rows.items()}
    steps = [values.pop("step", 0) for values in last.values()]
    wanted = result.get("steps" if result.get("status") == "done" else "step")  # a learner may be done before its steps are
    done = wanted == config.get("steps") or result.get("status") in ("stopped", "nonfinite")
    status = "running" if _is_running(path) else result["status"] if done and "status" in result else "unfinished"
    members = config.get("members")
    seeds = sorted({member.get("seed") for member in members}) if isinstance(members, list) else [config.get("seed")]
    measured = result.get("measured")
    measured = measured if isinstance(measured, Mapping) else {}
    return {
        "run": str(path), "recipe": config.get("recipe"), "seeds": seeds, "status": status, "step": max(steps), "steps": config.get("steps"),
        "seconds": result.get("seconds"), "metrics": {**last["metrics"], **last["evaluation"], **measured},
    }  # fmt: skip


def _is_running(path: Path) -> bool:
    """Whether a process holds the folder's lock."""
    try:
        with (path / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _below(run: str, root: Path) -> str:
    """A run's folder as seen from the folder that was asked for."""
    return str(Path(run).relative_to(root)) if Path(run) != root else run


def _few(metrics: Mapping[str, Any], most: int = 3) -> str:
    shown = [f"{name} {cell(value)}" for name, value in metrics.items() if value is not None]
    return ", ".join(shown[-most:])
