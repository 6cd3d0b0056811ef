"""`dljax report`: the HTML page of a run, written again, or of several side by side."""

from pathlib import Path
from typing import Annotated

from dljax.cli.options import POSITIONAL, parse
from dljax.cli.status import DONE, UsageError
from dljax.cli.sweep import folders_of


def main(args: list[str]) -> int:
    """`dljax report DIR ...`."""
    (options,) = parse("dljax report", args, report)
    return report(**options)


def report(folders: Annotated[tuple[str, ...], POSITIONAL] = (), compare: Path | None = None) -> int:
    """Write report.html of runs again, from what is in their folders.

    Args:
      folders: run folders, or those of sweeps.
      compare: write one page with all of them side by side to this file instead.
    """
    if not folders:
        raise UsageError("dljax report: give run folders; `dljax runs` lists them")
    from dljax import report as pages

    if compare is not None:
        if compare.is_dir():
            raise UsageError(f"dljax report: --compare {compare} is a folder; give the file to write, such as {compare / 'compare.html'}")
        print(pages.compare(folders, compare))
        return DONE
    for folder in folders:
        parts = folders_of(Path(folder))
        if len(parts) > 1:
            for part in parts:
                pages.write(part)
        print(pages.compare(parts, Path(folder, "report.html")) if len(parts) > 1 else pages.write(folder))
    return DONE
