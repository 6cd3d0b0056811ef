"""`dljax list`: the recipes."""

from collections.abc import Mapping
from typing import Annotated, Any

from dljax.cli.options import POSITIONAL, parse
from dljax.cli.status import DONE
from dljax.cli.tables import is_wide, print_json, print_table

_COLUMNS = {"ch.": "chapter", "recipe": "name", "target": "claim", "measured": "measured", "min": "minutes"}
_MORE = {"data": "data", "rows": "rows", "target from": "source"}  # where there is room


def main(args: list[str]) -> int:
    """`dljax list [NAME ...]`."""
    (options,) = parse("dljax list", args, list_)
    return list_(**options)


def list_(names: Annotated[tuple[str, ...], POSITIONAL] = (), chapter: int | None = None, row: str | None = None, json: bool = False) -> int:
    """The recipes: what they train, on what, what they claim, and about how long they take on two cores.

    Args:
      names: recipes or globs such as 'fashion-mnist/*'; all by default.
      chapter: only this chapter of the book.
      row: only this row of the table of systems, such as 3.3.
      json: print JSON.
    """
    from dljax import recipes

    rows: list[dict[str, Any]] = []
    for recipe in recipes.find(names, chapter=chapter, row=row):
        target = recipe.target
        rows.append({
            "name": recipe.name, "chapter": recipe.chapter, "rows": recipe.rows, "data": recipe.data, "metric": target.metric, "op": target.op,
            "target": target.value, "source": target.source, "minutes": recipe.minutes,
        })  # fmt: skip
    if json:
        print_json(rows)
    else:
        from dljax.cli.verify import remembered

        last = {name: _measured(row) for name, row in remembered().items()}
        shown = [{**row, "claim": f"{row['metric']} {row['op']} {row['target']:g}", "measured": last.get(row["name"], "")} for row in rows]
        print_table(shown, _COLUMNS | (_MORE if is_wide() else {}))
    return DONE


def _measured(row: Mapping[str, Any]) -> str:
    """What `dljax verify` found last on this machine."""
    value = row.get("value")
    return f"{value:.4g}{'' if row.get('passed') else ' missed'}" if isinstance(value, float) else ""
