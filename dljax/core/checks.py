"""Checks of options, made when a method is built: concrete values are checked, traced ones are let through."""

import math
import operator
from collections.abc import Collection
from typing import Any

import jax
import numpy as np


def check_range(
    who: str, name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Require a number in an interval; a traced value passes unseen.

    Args:
      who, name: the factory and the argument, for the message.
      low, high: the bounds, included unless `open_low` or `open_high`.
    Raises:
      ValueError: the value is concrete and outside, or NaN. TypeError: it is no real number.

    >>> check_range("sgd", "momentum", 0.9, 0, 1)
    >>> check_range("sgd", "momentum", 1.5, 0, 1)
    Traceback (most recent call last):
    ValueError: sgd: momentum must be in [0, 1], got 1.5
    """
    if isinstance(value, jax.core.Tracer):
        return
    try:
        if value is None or isinstance(value, str | bytes):  # NumPy would read them as NaN and as the number they spell
            raise TypeError
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{who}: {name} must be a number in {_interval(low, high, open_low, open_high)}, got {value!r}") from None
    above = numbers > low if open_low else numbers >= low
    below = numbers < high if open_high else numbers <= high
    if not np.all(above & below):
        raise ValueError(f"{who}: {name} must be in {_interval(low, high, open_low, open_high)}, got {value}")


def check_int(who: str, name: str, value: Any, *, minimum: int = 0, maximum: int | None = None) -> int:
    """Require a whole number >= minimum (and <= maximum), and return it as an int; booleans do not count.

    Raises:
      ValueError: outside. TypeError: not a whole number.

    >>> check_int("unroll", "steps", 0, minimum=1)
    Traceback (most recent call last):
    ValueError: unroll: steps must be >= 1, got 0
    """
    bounds = f">= {minimum}" if maximum is None else f"between {minimum} and {maximum}"
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{who}: {name} must be a whole number {bounds}, got {value!r}") from None
    if number < minimum or (maximum is not None and number > maximum):
        raise ValueError(f"{who}: {name} must be {bounds}, got {number}")
    return number


def check_choice(who: str, name: str, value: Any, allowed: Collection[Any]) -> None:
    """Require one of the allowed values.

    Raises:
      ValueError: it is none of them.

    >>> check_choice("conv", "padding", "same", ("SAME", "VALID"))
    Traceback (most recent call last):
    ValueError: conv: padding must be one of 'SAME', 'VALID', got 'same'
    """
    if value not in allowed:
        raise ValueError(f"{who}: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _interval(low: float, high: float, open_low: bool, open_high: bool) -> str:
    left = "(" if open_low or low == -math.inf else "["
    right = ")" if open_high or high == math.inf else "]"
    return f"{left}{low:g}, {high:g}{right}"
