"""The type checker that the suite runs dljax under: beartype, told that an int is a float."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check arguments and results, but not the constructors: jax rebuilds dataclasses that are pytrees around anything."""
    return function if function.__name__ == "__init__" else _checked(function)
