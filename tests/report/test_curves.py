"""Curves: what is drawn is what was measured, on axes that can be read."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.report.curves import Line, panel, thinned, ticks

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


def _line(values, **options) -> Line:
    values = np.asarray(values, float)
    return Line(**{"label": "", "steps": np.arange(len(values)) * 10.0, "values": values.reshape(len(values), -1), "style": 0} | options)


def _paths(svg: str, kind: str) -> list[str]:
    return re.findall(rf'<path d="([^"]*)" class="{kind}', svg)


@given(low=st.floats(-1e9, 1e9), size=st.floats(1e-3, 1e9), about=st.integers(2, 12))
def test_ticks_are_round_ordered_inside_and_neither_few_nor_many(low, size, about):
    marks = ticks(low, low + size, about)
    assert marks == sorted(set(marks))
    assert about / 3 - 1 <= len(marks) <= 2 * about + 1
    slack = 1e-6 * size + 1e-9 * abs(low)
    assert all(low - slack <= mark <= low + size + slack for mark in marks)


@given(st.lists(st.one_of(finite, st.just(float("nan"))), min_size=1, max_size=300), st.integers(4, 50))
def test_thinning_keeps_the_extremes_and_the_order(values, limit):
    values = np.array(values)
    steps, kept = thinned(np.arange(len(values)), values, limit)
    assert len(steps) <= max(limit, 2)
    assert (np.diff(steps) > 0).all()
    np.testing.assert_array_equal(values[steps], kept)
    if np.isfinite(values).any():
        assert np.nanmin(kept) == np.nanmin(values)
        assert np.nanmax(kept) == np.nanmax(values)


def test_curve_has_the_points_at_their_places():
    svg = panel("loss", [_line([0.0, 2.0, 1.0])])
    (path,) = _paths(svg, "one")
    points = np.array([[float(number) for number in point.split()] for point in re.split("[ML]", path)[1:]])
    left, right, low, high = points[0, 0], points[2, 0], points[0, 1], points[1, 1]
    assert points[1, 0] == pytest.approx((left + right) / 2, abs=0.1)
    assert low > high, "SVG counts downwards"
    assert points[2, 1] == pytest.approx((low + high) / 2, abs=0.1)


def test_null_is_a_gap_and_a_lonely_value_a_dot():
    (path,) = _paths(panel("return", [_line([1, 2, np.nan, 3, np.nan, 4, 5])]), "one")
    assert re.sub(r"[\d.]+ [\d.]+", "p", path) == "MpLpMph0MpLp"


def test_every_member_is_thin_and_their_mean_thick():
    svg = panel("loss", [_line([[1, 3, np.nan], [2, 6, 7]])])
    thin = re.search(r'<g class="thin">(.*?)</g>', svg).group(1)
    assert thin.count("<path") == 3
    assert len(_paths(svg, "mean")) == 2, "the curve and its entry in the legend"
    np.testing.assert_allclose(_line([[1, 3, np.nan], [2, 6, 7]]).mean, [2, 5])
    assert "thick: mean of 3" in svg


@pytest.mark.parametrize(("values", "is_log"), [([1, 0.5, 0.009], True), ([1, 0.5, 0.02], False), ([1, 0, 1e-9], False), ([-1e-3, 1, 900], False)])
def test_log_scale_where_positive_over_more_than_two_decades(values, is_log):
    svg = panel("loss", [_line(values)])
    assert ("log scale" in svg) == is_log
    assert svg.count('role="img"') == 1 + is_log


def test_log_scale_has_equal_steps_for_equal_factors():
    (path, _) = _paths(panel("loss", [_line([1, 1e-2, 1e-4])]), "one")
    heights = [float(point.split()[1]) for point in re.split("[ML]", path)[1:]]
    assert np.diff(heights)[0] == pytest.approx(np.diff(heights)[1], abs=0.15)


def test_target_is_drawn_inside_the_axes_even_where_no_value_reaches_it():
    svg = panel("accuracy", [_line([0.1, 0.2])], target=(">=", 0.9))
    height = float(re.search(r'y1="([\d.]+)" y2="[\d.]+" class="target"', svg.split('role="img"')[1]).group(1))
    assert 0 < height < 300
    assert "target ≥ 0.9" in svg


def test_many_members_and_reports_stay_small():
    values = np.random.default_rng(0).random((20_000, 100))
    assert len(panel("loss", [_line(values)])) < 600_000


@settings(deadline=None)
@given(st.lists(st.one_of(finite, st.just(float("nan"))), min_size=1, max_size=20), st.one_of(st.none(), finite))
def test_any_finite_values_are_drawn_within_the_picture(values, bound):
    if not np.isfinite(values).any():
        values = [*values, 0.0]
    with np.errstate(all="raise", under="ignore"):
        svg = panel("x", [_line(values)], None if bound is None else ("<=", bound))
    for path in _paths(svg, "one"):
        for point in re.split("[ML]", path)[1:]:
            x, y = (float(number) for number in point.removesuffix("h0").split())
            assert 0 <= x <= 560
            assert 0 <= y <= 300
    assert "nan" not in svg
    assert "inf" not in svg
