"""Checks of options: they name who, what, what is allowed and what came, and let tracers through."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.core import check_choice, check_int, check_range


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(1), jnp.float32(0), np.asarray([0.0, 1.0])])
def test_numbers_within_the_bounds_pass(value):
    check_range("sgd", "momentum", value, 0, 1)


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (1.5, {}, r"sgd: momentum must be in \[0, 1\], got 1.5"),
        (-1, {}, r"sgd: momentum must be in \[0, 1\], got -1"),
        (math.nan, {}, r"must be in \[0, 1\], got nan"),
        (0, {"open_low": True}, r"must be in \(0, 1\], got 0"),
        (1, {"open_high": True}, r"must be in \[0, 1\), got 1"),
        (np.asarray([0.5, 2.0]), {}, r"must be in \[0, 1\], got \[0.5 2. \]"),
    ],
)
def test_numbers_outside_are_refused(value, options, message):
    with pytest.raises(ValueError, match=message):
        check_range("sgd", "momentum", value, 0, 1, **options)


def test_open_end_reads_as_infinity():
    with pytest.raises(ValueError, match=r"must be in \(0, inf\), got 0"):
        check_range("adam", "learning_rate", 0, 0, open_low=True)
    check_range("adam", "learning_rate", math.inf, 0)


@pytest.mark.parametrize("value", ["0.5", None, "a", 1j, {}, [[1], [1, 2]]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match=r"sgd: momentum must be a number in \[0, 1\], got "):
        check_range("sgd", "momentum", value, 0, 1)


def test_tracers_pass_unseen():
    jax.jit(lambda rate: check_range("sgd", "learning_rate", rate, 0, 1))(5.0)
    jax.vmap(lambda rate: check_range("sgd", "learning_rate", rate, 0, 1))(jnp.asarray([5.0, -5.0]))


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), jnp.int32(3)])
def test_whole_numbers_come_back_as_int(value):
    checked = check_int("unroll", "steps", value, minimum=1, maximum=3)
    assert checked == 3
    assert type(checked) is int


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "unroll: steps must be between 1 and 3, got 0"),
        (4, ValueError, "unroll: steps must be between 1 and 3, got 4"),
        (2.0, TypeError, "unroll: steps must be a whole number between 1 and 3, got 2.0"),
        (True, TypeError, "got True"),
        ("2", TypeError, "got '2'"),
        (None, TypeError, "got None"),
    ],
)
def test_other_numbers_are_refused(value, error, message):
    with pytest.raises(error, match=message):
        check_int("unroll", "steps", value, minimum=1, maximum=3)


def test_choices():
    check_choice("conv", "padding", "SAME", ("SAME", "VALID"))
    with pytest.raises(ValueError, match="conv: padding must be one of 'SAME', 'VALID', got 'same'"):
        check_choice("conv", "padding", "same", ("SAME", "VALID"))
