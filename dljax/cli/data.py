"""`dljax data`: list, get and check the data sets of the catalogue."""

import dataclasses
import sys
from difflib import get_close_matches
from typing import Annotated, Any

from dljax.cli.options import POSITIONAL, parse
from dljax.cli.status import DONE, MISSED, USAGE, UsageError, explain
from dljax.cli.tables import is_wide, print_json, print_table

_HELP = """usage: dljax data list|get|check [NAME ...] [--json]

  list           data sets: what they are, their licence, and whether they are at hand
  get NAME ...   download what is missing, and verify it
  check [NAME]   verify the checksums of what is at hand; downloads nothing
"""


def main(args: list[str]) -> int:
    """`dljax data list|get|check`."""
    actions = {"list": list_, "get": get, "check": check}
    if args and args[0] in ("-h", "--help"):
        print(_HELP, end="")
        return DONE
    if not args or args[0] not in actions:
        close = get_close_matches(args[0], actions, n=1) if args else []
        given = f", got {args[0]!r}" if args else ""
        raise UsageError(f"dljax data: say what to do: list, get or check{given}{f'; did you mean {close[0]}?' if close else ''}")
    (options,) = parse(f"dljax data {args[0]}", args[1:], actions[args[0]])
    return actions[args[0]](**options)


def list_(names: Annotated[tuple[str, ...], POSITIONAL] = (), json: bool = False) -> int:
    """The data sets of the catalogue, and where each is.

    Args:
      names: data sets; all by default.
      json: print JSON.
    """
    from dljax import data

    infos = [data.info(name) for name in _known(names)] if names else data.available()
    if json:
        print_json([dataclasses.asdict(info) for info in infos])
        return DONE
    rows = [{**dataclasses.asdict(info), "size": f"{info.num_bytes / 1e6:.1f} MB" if info.num_bytes else "", "at": _place(info)} for info in infos]
    more = {"modality": "modality", "licence": "licence"} if is_wide() else {}
    print_table(rows, {"name": "name", "what": "description", "size": "size", "at hand": "at", **more})
    return DONE


def get(names: Annotated[tuple[str, ...], POSITIONAL] = (), quiet: bool = False) -> int:
    """Download what is missing of data sets, and verify it.

    Args:
      names: data sets.
      quiet: print nothing but errors.
    """
    if not names:
        raise UsageError("dljax data get: name a data set; `dljax data list` shows them")
    from dljax import data

    status = DONE
    for name in _known(names):
        try:
            info = data.get(name, None if quiet or not sys.stderr.isatty() else _show)
        except (OSError, ValueError) as error:
            status = max(status, explain(error))
            continue
        if not quiet:
            print(f"{name}: {_place(info)}, verified")
    return status


def check(names: Annotated[tuple[str, ...], POSITIONAL] = (), json: bool = False) -> int:
    """Verify the checksums of what is at hand; exit status 1 where a file is damaged.

    Args:
      names: data sets; all by default, and then what is missing is no fault.
      json: print JSON.
    """
    from dljax import data

    rows: list[dict[str, Any]] = []
    for name in _known(names) if names else data.CATALOGUE:
        files = data.check(name)
        rows += [{"data": name, **dataclasses.asdict(file)} for file in files] or [
            {"data": name, "name": "", "status": "ok", "path": "embedded", "detail": ""}
        ]
    if json:
        print_json(rows)
    else:
        print_table(rows, {"data": "data", "file": "name", "status": "status", "path": "path", "detail": "detail"})
    statuses = {row["status"] for row in rows}
    return MISSED if "damaged" in statuses else USAGE if names and "missing" in statuses else DONE


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    from dljax import data

    for name in names:
        if name not in data.CATALOGUE:
            close = get_close_matches(name, data.CATALOGUE, n=1, cutoff=0.5)
            remedy = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(data.CATALOGUE)}"
            raise UsageError(f"no data set {name!r}; {remedy}")
    return names


def _place(info: Any) -> str:
    if not info.missing:
        return info.place + (f" ({info.folder})" if info.folder else "")
    return f"no; `dljax data get {info.name}`" + (f" or `apt install {info.package}`" if info.package else "")


def _show(name: str, done: int, total: int) -> None:
    end = "\n" if done >= total else ""
    print(f"\r{name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB", end=end, file=sys.stderr, flush=True)
