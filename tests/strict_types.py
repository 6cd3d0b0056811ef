"""The type checker that the suite runs dljax under: the shapes and kinds of arrays that jaxtyping annotations state, and nothing else.

What is no array is left to the functions' own checks, whose messages are tested; and where an array of jax is announced, one of NumPy or a number
of the right shape will do, as it does for jax.
"""

import typing
from collections.abc import Callable
from types import NoneType
from typing import Any

import jaxtyping
from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arrays among the arguments and results; no constructors, for jax rebuilds dataclasses that are pytrees around anything."""
    hints = {name: _arrays(hint) for name, hint in function.__annotations__.items()}
    if function.__name__ == "__init__" or all(hint is Any for hint in hints.values()):
        return function
    function.__annotations__ = hints
    return beartype(function)


def _arrays(hint: Any) -> Any:
    parts = [part for part in typing.get_args(hint) if part is not NoneType] if NoneType in typing.get_args(hint) else [hint]
    if len(parts) != 1 or not hasattr(parts[0], "dim_str"):
        return Any
    kind = getattr(jaxtyping, parts[0].__name__.partition("[")[0], None)
    return Any if kind is None else kind[jaxtyping.ArrayLike, parts[0].dim_str] | None
