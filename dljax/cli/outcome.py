"""What follows a run: measurements, figures, the report, and the closing words."""

import dataclasses
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dljax.cli.tables import cell

if TYPE_CHECKING:
    from dljax.core.experiment import Experiment, Recipe, Target
    from dljax.engine import Member, Run

    Reached = Run | Member


def measured(experiment: "Experiment", reached: "Reached", seed: int) -> dict[str, float]:
    """What `experiment.measure` says of the parameters that a run reached, {} where it has none."""
    if experiment.measure is None:
        return {}
    import jax

    return {name: float(value) for name, value in experiment.measure(reached.params, jax.random.fold_in(jax.random.key(seed), 1)).items()}


def last_values(reached: "Reached", measurements: Mapping[str, float] | None = None) -> dict[str, float]:
    """The final value of everything: measured at the end, else last evaluated, else last reported; NaN where there was nothing to say."""
    values: dict[str, float] = {}
    for columns in (reached.history, reached.evaluations):
        for name, column in columns.items():
            known = column[column == column]  # NaN is not itself
            if name != "step" and len(known):
                values[name] = float(known[-1])
    return values | dict(measurements or {})


def finish(
    recipe: "Recipe", experiment: "Experiment", run: "Run", seed: int, tell: Callable[[dict[str, float]], None] | None = None
) -> dict[str, float]:
    """Measure, draw and report a run in its folder; what could be done is kept where a part of it fails.

    Args:
      tell: called with the final values as soon as they are known: drawing takes longer than a short run.
    Returns:
      The final values.
    """
    assert run.out is not None
    merge_result(run.out, {"target": dataclasses.asdict(recipe.target)})
    measurements: dict[str, float] = {}
    try:
        measurements = measured(experiment, run, seed)
        merge_result(run.out, {"measured": measurements})
        if tell is not None:
            tell(last_values(run, measurements))
        _draw(experiment, run, run.out, seed)
    finally:
        _report(run.out)
    return last_values(run, measurements)


def finish_members(recipe: "Recipe", experiments: Sequence["Experiment"], members: Sequence["Member"], out: Path) -> list[dict[str, float]]:
    """The same for the members of a sweep that share a folder; the figures are those of the first that is finite.

    Returns:
      The final values of each member; none for one that went non-finite.
    """
    merge_result(out, {"target": dataclasses.asdict(recipe.target)})
    healthy = [index for index, member in enumerate(members) if member.status != "nonfinite"]
    measurements: list[dict[str, float]] = [{} for _ in members]
    try:
        for index in healthy:
            measurements[index] = measured(experiments[index], members[index], members[index].seed)
        names = dict.fromkeys(name for values in measurements for name in values)
        merge_result(out, {"measured": {name: [values.get(name) for values in measurements] for name in names}})
        if healthy:
            _draw(experiments[healthy[0]], members[healthy[0]], out, members[healthy[0]].seed)
    finally:
        _report(out)
    return [last_values(member, values) if index in healthy else {} for index, (member, values) in enumerate(zip(members, measurements, strict=True))]


def merge_result(out: Path, more: Mapping[str, Any]) -> None:
    """Add to the `result.json` of a run folder, NaN as null."""
    from dljax.engine.folder import RESULT, read_result, write_json

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: clean(part) for name, part in value.items()}
        if isinstance(value, list):
            return [clean(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write_json(out / RESULT, {**read_result(out), **clean(more)})


def verdict(target: "Target", values: Sequence[float]) -> str:
    """Whether a target is met, in words.

    >>> from dljax.core import AtLeast
    >>> verdict(AtLeast("accuracy", 0.9), [0.91, 0.93]), verdict(AtLeast("accuracy", 0.9), [0.8])
    ('accuracy 0.92 (mean of 2), target >= 0.9: met', 'accuracy 0.8, target >= 0.9: MISSED')
    """
    if not values:
        return f"{target.metric}: nothing was measured, target {target.op} {target.value:g}: MISSED"
    mean = statistics.fmean(values)
    several = f" (mean of {len(values)})" if len(values) > 1 else ""
    return f"{target.metric} {mean:.4g}{several}, target {target.op} {target.value:g}: {'met' if target.holds(mean) else 'MISSED'}"


def summary(recipe: "Recipe", reached: Sequence[Mapping[str, float]], step: int, result: Mapping[str, Any]) -> str:
    """The closing lines of a run or of several seeds of it."""
    names = dict.fromkeys(name for values in reached for name in values if name != recipe.target.metric)
    means = {name: statistics.fmean([values[name] for values in reached if name in values]) for name in names}
    seconds, compiling = result.get("seconds"), result.get("compile_seconds")
    time = f" in {seconds:.1f} s" if seconds else ""
    time += f", compilation {compiling:.1f} s of it" if seconds and compiling else ""
    others = ", ".join(f"{name} {cell(value)}" for name, value in means.items())
    lines = [
        f"{recipe.name}: {step:,} steps{time}",
        verdict(recipe.target, [values[recipe.target.metric] for values in reached if recipe.target.metric in values]),
    ]
    return "\n  ".join([*lines, *([others] if others else [])])


def _draw(experiment: "Experiment", reached: "Reached", out: Path, seed: int) -> None:
    if experiment.figures is None:
        return
    import jax

    from dljax import report

    figures = experiment.figures(reached.params, jax.random.fold_in(jax.random.key(seed), 2))
    report.save_figures(out, figures)


def _report(out: Path) -> None:
    from dljax import report

    try:
        report.write(out)
    except OSError as error:
        print(f"dljax: the report of {out} could not be written ({error}); `dljax report {out}` writes it again", file=sys.stderr)
