"""How a run came out: final values, groups of members, and whether the target is met."""

import statistics
from typing import Any, NamedTuple

import numpy as np

from dljax.report.markup import is_number, shown
from dljax.report.run import Column, Run

SIGNS = {">=": "≥", "<=": "≤"}


class Claim(NamedTuple):
    """The target of a run, as its result states it.

    >>> Claim("accuracy", ">=", 0.91, "a paper").metric
    'accuracy'
    """

    metric: str
    op: str
    value: float
    source: str


class Verdict(NamedTuple):
    """What a group of members reached.

    Attributes:
      group: the options in which the groups differ, "" for a single one.
      values: one for each member, NaN where it has none.
      kind: "met", "missed" or "open".
      words: the verdict as the reader sees it.

    >>> Verdict("", np.array([0.92]), "met", "✓ target met").kind
    'met'
    """

    group: str
    values: np.ndarray
    kind: str
    words: str


def claim(run: Run) -> Claim | None:
    """The target, None where the run has none that can be compared.

    >>> from pathlib import Path
    >>> claim(Run(Path("run"), result={"target": {"metric": "loss", "op": "<=", "value": 1}}))
    Claim(metric='loss', op='<=', value=1.0, source='')
    """
    target = run.result.get("target")
    if not isinstance(target, dict) or target.get("op") not in list(SIGNS) or not is_number(target.get("value")):
        return None
    source = target.get("source")
    return Claim(shown(target.get("metric")), target["op"], float(target["value"]), shown(source) if source else "")


def verdicts(run: Run) -> list[Verdict]:
    """One for each group of members; a member without a final value is a miss, for the mean of the others says nothing about it.

    >>> from pathlib import Path
    >>> run = Run(Path("run"), result={"target": {"metric": "loss", "op": "<=", "value": 1}, "measured": {"loss": 2.0}})
    >>> verdicts(run)[0].words
    '✗ target missed'
    """
    target = claim(run)
    if target is None:
        return []
    values = _measured(run, target.metric)
    of = groups(run) if len(values) == run.num_members else {"": list(range(len(values)))}
    return [Verdict(group, values[members], *_verdict(run, target, values[members])) for group, members in of.items()]


def groups(run: Run) -> dict[str, list[int]]:
    """Members that differ in nothing but their seed, under the options in which the groups differ.

    >>> from pathlib import Path
    >>> groups(Run(Path("run"), members=[{"width": width, "seed": seed} for width in (8, 16) for seed in (0, 1)]))
    {'width = 8': [0, 1], 'width = 16': [2, 3]}
    """
    everywhere = list(range(run.num_members))
    if len(run.members) != len(everywhere):
        return {"": everywhere}
    options = dict.fromkeys(name for member in run.members for name in member if name != "seed")
    varied = [name for name in options if len({shown(member.get(name)) for member in run.members}) > 1]
    found: dict[str, list[int]] = {}
    for index, member in enumerate(run.members):
        found.setdefault(", ".join(f"{name} = {shown(member.get(name))}" for name in varied), []).append(index)
    return found


def finals(column: Column, slack: float = 0.0) -> np.ndarray:
    """Each member's last value [M], NaN where it fell silent more than `slack` of the run before the others.

    Training reports may skip a member (no episode ended); evaluations skip none that is still alive.

    >>> column = (np.array([0.0, 10.0]), np.array([[1.0, 3.0], [2.0, np.nan]]))
    >>> finals(column).tolist(), finals(column, slack=1.0).tolist()
    ([2.0, nan], [2.0, 3.0])
    """
    steps, values = column
    known = np.isfinite(values)
    last = np.where(known.any(0), len(steps) - 1 - known[::-1].argmax(0), 0)
    end = steps[last.max()]
    is_current = known.any(0) & (steps[last] >= end - slack * (end - steps[0]))
    return np.where(is_current, values[last, np.arange(values.shape[1])], np.nan)


def last_step(column: Column) -> float:
    """The last step at which any member has a value.

    >>> last_step((np.array([0.0, 10.0, 20.0]), np.array([[1.0], [2.0], [np.nan]])))
    10.0
    """
    steps, values = column
    return float(steps[np.flatnonzero(np.isfinite(values).any(1))[-1]])


def numbers(value: Any) -> np.ndarray:
    """A number, or a list with one for each member, as an array [M]; NaN for what is no number.

    >>> numbers([1, None]).tolist()
    [1.0, nan]
    """
    return np.array([float(v) if is_number(v) else np.nan for v in (value if isinstance(value, list) else [value])])


def _measured(run: Run, metric: str) -> np.ndarray:
    """What the target is about, [M], NaN where a member has none: measured at the end, else last evaluated, else last reported."""
    measured = run.result.get("measured")
    values = numbers(measured.get(metric)) if isinstance(measured, dict) else np.array([])
    if np.isfinite(values).any():
        return values
    if metric in run.evaluations:
        return finals(run.evaluations[metric])
    return finals(run.metrics[metric], 0.1) if metric in run.metrics else np.array([])


def _verdict(run: Run, target: Claim, values: np.ndarray) -> tuple[str, str]:
    known = values[np.isfinite(values)]
    if run.num_members == 1 and run.result.get("status") == "nonfinite":
        return "missed", "✗ missed: the run went non-finite"
    if not len(known):
        return "open", "not measured yet"
    if len(known) < len(values):
        return "missed", f"✗ missed: no final value from {len(values) - len(known)} of {len(values)} members"
    if run.result.get("status") == "interrupted":
        return "open", "so far; the run was interrupted"
    mean = statistics.fmean(known.tolist())
    is_met = mean >= target.value if target.op == ">=" else mean <= target.value
    return ("met", "✓ target met") if is_met else ("missed", "✗ target missed")
