"""Curves as inline SVG: every member thin, the mean thick, training and evaluation together; no script is needed to read them."""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dljax.report.figures import PALETTE
from dljax.report.markup import Markup, number, tag
from dljax.report.outcome import SIGNS

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 40
POINTS = 12_000
"""Points that one panel may hold, all lines together; more would be closer than the pixels."""

_DASHES = (None, "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    """One quantity along a run, with a column for each of M members.

    Attributes:
      label: the group that the members belong to, "" where there is only one.
      steps: [R], increasing.
      values: [R, M]; NaN is a gap.
      style: which colour, and after the last colour which dashes, >= 0.
      is_evaluation: drawn with a mark at each point.

    >>> line = Line("", np.arange(2), np.array([[1.0, 3.0], [np.nan, 2.0]]), style=0)
    >>> line.mean.tolist()
    [2.0, 2.0]
    """

    label: str
    steps: np.ndarray
    values: np.ndarray
    style: int
    is_evaluation: bool = False

    @property
    def title(self) -> str:
        """The group and the kind of values, in words."""
        return ", ".join(filter(None, (self.label, "evaluation" if self.is_evaluation else "training")))

    @property
    def mean(self) -> np.ndarray:
        """[R], over the members that have a value; NaN where none has."""
        known = np.isfinite(self.values)
        count = known.sum(1)
        return np.where(count > 0, np.where(known, self.values, 0).sum(1) / np.maximum(count, 1), np.nan)


def panel(name: str, lines: Sequence[Line], target: tuple[str, float] | None = None) -> Markup:
    """A metric's curves with axes and legend.

    A metric that is positive and spans more than two decades is drawn on a logarithmic scale, with a switch to the linear one.

    Args:
      name: of the metric, the title.
      lines: at least one value among them must be finite.
      target: `(op, value)`, drawn as a level.

    >>> svg = panel("loss", [Line("", np.arange(3), np.array([[1.0], [0.1], [0.001]]), 0)])
    >>> svg.count("<svg"), "log scale" in svg
    (2, True)
    """
    lines = [replace(line, values=_drawable(line.values)) for line in lines]
    finite = np.concatenate([line.values[np.isfinite(line.values)] for line in lines])
    low, high = float(finite.min()), float(finite.max())
    if target is not None:
        target = (target[0], float(_drawable(target[1])))
        low, high = min(low, target[1]), max(high, target[1])
    logarithmic = low > 0 and high > 100 * low
    scales = [("log", _log_scale), ("linear", _linear_scale)] if logarithmic else [("linear", _linear_scale)]
    drawings = [tag("div", _svg(name, lines, scale(low, high), target), class_=f"drawing {kind}") for kind, scale in scales]
    switch = tag("label", tag("input", type="checkbox", checked=True), " log scale", class_="switch") if logarithmic else None
    heading = tag("div", tag("h3", name), _legend(lines, target), switch, class_="panel-head")
    return tag("section", heading, drawings, class_="panel", data_hover=_hover(lines))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that cover an interval.

    >>> ticks(0.0, 1.0), ticks(3.0, 17.0, 3)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [5.0, 10.0, 15.0])
    """
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.999 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.15g}") for index in range(first, last + 1)]


def thinned(steps: np.ndarray, values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """At most about `limit` points [R] that keep the extremes: the smallest and the largest of each stretch, in order; a stretch of gaps stays one.

    >>> steps, values = thinned(np.arange(1000), np.where(np.arange(1000) == 500, 9.0, 0.0), 20)
    >>> len(steps) <= 20, float(values.max())
    (True, 9.0)
    """
    if len(steps) <= limit:
        return steps, values
    kept: list[int] = []
    for stretch in np.array_split(np.arange(len(steps)), max(1, limit // 2)):
        known = stretch[np.isfinite(values[stretch])]
        kept += sorted({int(known[values[known].argmin()]), int(known[values[known].argmax()])}) if len(known) else [int(stretch[0])]
    return steps[kept], values[kept]


@dataclass(frozen=True)
class _Scale:
    place: Callable[[Any], Any]  # values, of any shape, to heights in [0, 1]
    marks: list[tuple[float, str]]


def _drawable(values: Any) -> np.ndarray:
    # Beyond these the axis, which subtracts and divides, would leave the floats.
    return np.where(np.abs(values) < 1e-100, 0.0, np.clip(values, -1e100, 1e100))


def _linear_scale(low: float, high: float) -> _Scale:
    size = max(abs(low), abs(high))
    margin = 0.04 * (high - low) if high - low > 1e-9 * size else 0.05 * size or 1.0
    low, high = low - margin, high + margin
    levels = ticks(low, high)
    return _Scale(lambda values: (values - low) / (high - low), list(zip(levels, _tick_labels(levels), strict=True)))


def _log_scale(low: float, high: float) -> _Scale:
    bottom, top = math.log10(low), math.log10(high)
    bottom, top = bottom - 0.04 * (top - bottom), top + 0.04 * (top - bottom)
    stride = max(1, math.ceil((top - bottom) / 6))
    powers = [power for power in range(math.ceil(bottom), math.floor(top) + 1) if power % stride == 0]
    marks = [(10.0**power, _power_label(power)) for power in powers]
    return _Scale(lambda values: (np.log10(values) - bottom) / (top - bottom), marks)


def _power_label(power: int) -> str:
    return f"{10.0**power:g}" if -3 <= power <= 3 else "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _tick_labels(levels: Sequence[float]) -> list[str]:
    largest = max(map(abs, levels), default=0.0)
    if largest == 0:
        return ["0" for _ in levels]
    smallest = min((b - a for a, b in itertools.pairwise(levels) if b > a), default=largest)
    if largest >= 1e15 or largest < 1e-3:
        digits = min(9, 1 + math.ceil(math.log10(largest / smallest) + 1e-9))
        return [f"{level:.{digits}g}".replace("-", "−") for level in levels]
    prefixes = ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, ""))
    unit, suffix = next((unit, suffix) for bound, unit, suffix in prefixes if largest >= bound)
    decimals = min(9, max(0, -math.floor(math.log10(smallest / unit) + 1e-9)))
    return [f"{level / unit:.{decimals}f}{suffix}".replace("-", "−") if level else "0" for level in levels]


def _svg(name: str, lines: Sequence[Line], scale: _Scale, target: tuple[str, float] | None) -> Markup:
    first, last = _ends(lines)
    span = last - first or 1.0
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(steps: Any) -> Any:
        return LEFT + (steps - first) / span * (right - LEFT)

    def down(values: Any) -> Any:
        return bottom - scale.place(values) * (bottom - TOP)

    marks = []
    for level, label in scale.marks:
        y = f"{down(level):.1f}"
        marks += [tag("line", x1=LEFT, x2=right, y1=y, y2=y, class_="rule"), tag("text", label, x=LEFT - 8, y=y, dy="0.35em", class_="tick y")]
    levels = ticks(first, last, 6) if last > first else [first]
    for level, label in zip(levels, _tick_labels(levels), strict=True):
        x = f"{across(level):.1f}"
        marks += [tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"), tag("text", label, x=x, y=bottom + 17, class_="tick x")]
    marks.append(tag("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    marks.append(tag("text", "step", x=(LEFT + right) / 2, y=HEIGHT - 6, class_="tick x"))
    if target is not None:
        y = f"{down(target[1]):.1f}"
        marks.append(tag("line", x1=LEFT, x2=right, y1=y, y2=y, class_="target"))
    limit = max(60, POINTS // sum(line.values.shape[1] for line in lines))
    is_paired = any(line.is_evaluation for line in lines) and not all(line.is_evaluation for line in lines)
    drawn = [_drawn(line, across, down, limit, is_paired) for line in lines]
    description = f"{name}: " + "; ".join(_summary(line) for line in lines[:8])
    return tag("svg", marks, drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=description)


def _drawn(line: Line, across: Callable, down: Callable, limit: int, is_paired: bool) -> Markup:
    members = line.values.shape[1]
    look = {"class_": f"c{line.style % len(PALETTE)}", "stroke_dasharray": _dashes(line.style)}
    parts = []
    if members > 1:
        thin = [_path(*thinned(line.steps, line.values[:, member], limit), across, down) for member in range(members)]
        parts.append(tag("g", [tag("path", d=path) for path in thin if path], class_="thin"))
    steps, mean = thinned(line.steps, line.mean, limit)
    weight = "mean" if members > 1 else "one"
    parts.append(tag("path", d=_path(steps, mean, across, down), class_=f"{weight} behind" if is_paired and not line.is_evaluation else weight))
    known = np.isfinite(mean)
    if line.is_evaluation and known.sum() <= 60:
        points = zip(across(steps[known]), down(mean[known]), strict=True)
        parts.append(tag("g", [tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.8) for x, y in points], class_="dots"))
    return tag("g", parts, **look)


def _path(steps: np.ndarray, values: np.ndarray, across: Callable, down: Callable) -> str:
    known = np.isfinite(values)
    xs, ys = across(steps), down(np.where(known, values, 1.0))
    parts, pen_is_down = [], False
    for index, (x, y) in enumerate(zip(xs.tolist(), ys.tolist(), strict=True)):
        if known[index]:
            parts.append(f"{'L' if pen_is_down else 'M'}{x:.1f} {y:.1f}")
            # A value between two gaps is a line of no length, which a round cap makes a dot.
            if not pen_is_down and not (index + 1 < len(known) and known[index + 1]):
                parts.append("h0")
        pen_is_down = bool(known[index])
    return "".join(parts)


def _legend(lines: Sequence[Line], target: tuple[str, float] | None) -> Markup:
    largest = max(line.values.shape[1] for line in lines)
    has_marks = any(line.is_evaluation for line in lines)
    items = []
    if any(line.label for line in lines):
        groups = list(dict.fromkeys((line.style, line.label) for line in lines))
        items += [tag("li", _swatch(style), label) for style, label in groups[:12]]
        items += [tag("li", f"and {len(groups) - 12} more")] if len(groups) > 12 else []
        items += [tag("li", _swatch(None, True), "evaluation")] if has_marks else []
    elif has_marks or largest > 1 or target is not None:
        items += [tag("li", _swatch(line.style, line.is_evaluation), line.title) for line in lines]
    if target is not None:
        swatch = tag("svg", tag("line", x1=1, x2=23, y1=6, y2=6, class_="target"), viewBox="0 0 24 12", aria_hidden="true", class_="swatch")
        items.append(tag("li", swatch, f"target {SIGNS[target[0]]} {number(target[1])}"))
    if largest > 1:
        items.append(tag("li", f"thick: mean of {largest}"))
    return tag("ul", items, class_="legend")


def _swatch(style: int | None, is_marked: bool = False) -> Markup:
    parts = [tag("path", d="M1 6H23", stroke_dasharray=_dashes(style), class_="mean")] if style is not None else []
    parts += [tag("g", tag("circle", cx=12, cy=6, r=2.8), class_="dots")] if is_marked else []
    colour = "" if style is None else f" c{style % len(PALETTE)}"
    return tag("svg", parts, viewBox="0 0 24 12", aria_hidden="true", class_=f"swatch{colour}")


def _dashes(style: int | None) -> str | None:
    return None if style is None else _DASHES[style // len(PALETTE) % len(_DASHES)]


def _summary(line: Line) -> str:
    mean = line.mean[np.isfinite(line.mean)]
    if not len(mean):
        return f"{line.title} has no values"
    return f"{line.title} from {number(float(mean[0]))} to {number(float(mean[-1]))}"


def _ends(lines: Sequence[Line]) -> tuple[float, float]:
    first, last = min(float(line.steps[0]) for line in lines), max(float(line.steps[-1]) for line in lines)
    return (0.0 if 0 < first <= 0.1 * last else first), last


def _hover(lines: Sequence[Line]) -> str:
    """What the pointer reads: the frame, and each line's mean."""
    first, last = _ends(lines)
    readings = []
    for line in lines[:16]:
        steps, mean = thinned(line.steps, line.mean, 400)
        known = np.isfinite(mean)
        values = [float(f"{value:.5g}") for value in mean[known].tolist()]
        readings.append({"label": line.title, "colour": line.style % len(PALETTE), "steps": steps[known].tolist(), "values": values})
    return json.dumps({"first": first, "last": last, "left": LEFT / WIDTH, "right": 1 - RIGHT / WIDTH, "lines": readings}, separators=(",", ":"))
