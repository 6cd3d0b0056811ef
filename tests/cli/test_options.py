"""Options from signatures and docstrings."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from dljax.cli.options import POSITIONAL, descriptions, parse, words
from dljax.cli.status import UsageError


def paint(
    names: Annotated[tuple[str, ...], POSITIONAL] = (),
    *,
    width: int = 3,
    scale: float | None = None,
    sizes: tuple[int, ...] = (1, 2),
    thick: bool = True,
    color: Literal["red", "blue"] = "red",
) -> None:
    """Paint."""


@dataclass(frozen=True)
class Frame:
    width: int = 7
    depth: float = 1.0


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--width", "5"], {"width": 5}),
        (["--width=5"], {"width": 5}),
        (["--scale", "1e-4"], {"scale": 1e-4}),
        (["--scale", "-1e-4"], {"scale": -1e-4}),
        (["--scale", "inf"], {"scale": float("inf")}),
        (["--sizes", "4", "5", "6"], {"sizes": (4, 5, 6)}),
        (["--no-thick"], {"thick": False}),
        (["--color", "blue"], {"color": "blue"}),
        (["a", "b", "--width", "1"], {"names": ("a", "b"), "width": 1}),
    ],
)
def test_values_have_the_type_of_the_signature(args, expected):
    (values,) = parse("paint", args, paint)
    assert {name: values[name] for name in expected} == expected


def test_a_name_that_two_parts_have_belongs_to_the_first():
    first, second = parse("paint", ["--width", "5", "--depth", "2"], paint, Frame)
    assert first["width"] == 5
    assert second == {"depth": 2.0}


def test_underscores_and_hyphens_are_the_same():
    def move(*, learning_rate: float = 0.1) -> None: ...

    assert parse("move", ["--learning_rate", "1"], move) == parse("move", ["--learning-rate", "1"], move) == [{"learning_rate": 1.0}]


def test_an_option_that_is_off_by_default_has_no_negation():
    def move(*, fast: bool = False) -> None: ...

    with pytest.raises(UsageError, match="no option --no-fast; did you mean --fast"):
        parse("move", ["--no-fast"], move)


def test_a_description_ends_with_its_section():
    doc = """Move.

    Args:
      speed, angle: in metres a second
        and radians.
      far: nothing.

    Raises:
      ValueError: too fast.
    """
    assert descriptions(doc) == {"speed": "in metres a second and radians.", "angle": "in metres a second and radians.", "far": "nothing."}
    assert descriptions(None) == {}


def test_types_in_words():
    assert words(float | None) == "a number"
    assert words(bool) == "given without a value"
    assert words(tuple[str, ...]) == "values separated by spaces"
