"""Tables on the terminal, and the same rows as JSON."""

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def print_json(value: Any) -> None:
    """Print JSON that any reader takes: null for NaN and the infinities.

    >>> print_json([{"value": float("nan"), "rows": ("1.1",)}])
    [
     {
      "value": null,
      "rows": [
       "1.1"
      ]
     }
    ]
    """
    print(json.dumps(_clean(value), indent=1, allow_nan=False, default=str))


def print_table(rows: Sequence[Row], columns: Mapping[str, str] | None = None, *, empty: str = "nothing to show") -> None:
    """Print rows as a table, in full width where the output is no terminal.

    Args:
      rows: each a mapping; what a column does not find in one is left blank.
      columns: heading -> key; the keys of the first row by default.
      empty: what to say where there is no row.

    >>> print_table([], empty="no runs")
    no runs
    """
    if not rows:
        print(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = columns or {name: name for name in rows[0]}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, key in columns.items():
        longest = max(len(cell(row.get(key))) for row in rows)
        is_number = all(isinstance(row.get(key), int | float | None) and not isinstance(row.get(key), bool) for row in rows)
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold", no_wrap=longest <= 36)
    for row in rows:
        table.add_row(*(cell(row.get(key)) for key in columns.values()))
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, width=_width())
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines() if line.strip()))


def is_wide() -> bool:
    """Whether a line has room for more than the main columns.

    >>> is_wide() in (True, False)
    True
    """
    return _width() >= 120


def _width() -> int:
    """Characters in a line: the terminal's, or plenty where the output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 200


def cell(value: Any) -> str:
    """A value as a person reads it.

    >>> cell(0.912345), cell(None), cell(True), cell(("3.3", "3.4")), cell([0.9, 0.92])
    ('0.9123', '', 'yes', '3.3, 3.4', '0.9, 0.92')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell(part)}" for name, part in value.items())
    return ", ".join(cell(part) for part in value) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _clean(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_clean(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
