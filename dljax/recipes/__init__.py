"""Recipes: ready experiments (model, data, learner, target) by name. Every module of this folder is loaded; importing one only registers it."""

import fnmatch
import importlib
import pkgutil
from collections.abc import Sequence
from difflib import get_close_matches

from dljax.core.experiment import RECIPES, Recipe

__all__ = ["RECIPES", "find", "get"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def get(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
      ValueError: there is none; the message says which one may have been meant.

    >>> get("digits/mpl")
    Traceback (most recent call last):
    ValueError: no recipe 'digits/mpl'; did you mean 'digits/mlp'? `dljax list` shows all
    """
    if name not in RECIPES:
        close = get_close_matches(name, RECIPES, n=2, cutoff=0.5)
        meant = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise ValueError(f"no recipe {name!r}; {meant}`dljax list` shows all")
    return RECIPES[name]


def find(patterns: Sequence[str] = (), *, chapter: int | None = None, row: str | None = None) -> list[Recipe]:
    """The recipes that fit, in the order of chapters and names.

    Args:
      patterns: names or globs such as `fashion-mnist/*`; none takes all.
      chapter, row: only those of this chapter of the book, of this row of the table of systems.
    Raises:
      ValueError: a pattern, or the chapter or row, matches nothing.

    >>> [recipe.name for recipe in find(["digits/*"])][:1]
    ['digits/mlp']
    """
    names = []
    for pattern in patterns or ["*"]:
        matches = [name for name in RECIPES if fnmatch.fnmatchcase(name, pattern)]
        if not matches and any(letter in pattern for letter in "*?["):
            raise ValueError(f"no recipe matches {pattern!r}; `dljax list` shows all")
        names += matches or [get(pattern).name]
    found = [
        recipe for recipe in RECIPES.values() if recipe.name in names and chapter in (None, recipe.chapter) and (row is None or row in recipe.rows)
    ]
    if not found:
        asked = " and ".join(f"{name} {value}" for name, value in (("chapter", chapter), ("row", row)) if value is not None)
        wanted = f" among {', '.join(patterns)}" if patterns else ""
        raise ValueError(f"no recipe of {asked}{wanted}; `dljax list` shows the chapter and the rows of each" if asked else "there are no recipes")
    return sorted(found, key=lambda recipe: (recipe.chapter, recipe.name))
