"""`dljax sweep`: several values of a recipe's options and several seeds, in as few programs as their structure allows."""

import itertools
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dljax.cli.launch import Launch
from dljax.cli.options import parse
from dljax.cli.status import DONE, INTERRUPTED, UsageError
from dljax.cli.tables import cell, print_json, print_table
from dljax.cli.train import Training, new_folder, nothing_left_of_a_false_start, now, recipe_of, with_steps, without_extras

if TYPE_CHECKING:
    from dljax.core.experiment import Experiment, Recipe
    from dljax.engine import Member, Sweep


@dataclass(frozen=True)
class Study:
    """What a sweep trains: a recipe with some options fixed, others varied, over seeds."""

    recipe: "Recipe"
    options: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    steps: int | None = None
    batching: str = "auto"
    describe: Mapping[str, Any] = field(default_factory=dict)

    def build(self, **point: Any) -> "Experiment":
        """The experiment at one point of the grid."""
        return with_steps(self.recipe.build(**{**self.options, **point}), self.steps)


@dataclass(frozen=True)
class Sweeping(Training):
    """What is swept, and where to.

    Attributes:
      seed: the first seed.
      seeds: how many seeds from that one on, for each combination.
      steps: how many steps, instead of the recipe's.
      out: the folder; by default a new one, runs/RECIPE/TIME-sweep.
      batching: vmap, loop, devices, or auto, which measures them.
      json: print JSON.
    """

    batching: str = "auto"
    json: bool = False


def main(args: list[str]) -> int:
    """`dljax sweep NAME --OPTION V1,V2 ... [--seeds N]`."""
    about = "Train a recipe for every combination of values: `dljax sweep NAME --learning-rate 1e-3,1e-2 --seeds 4`."
    recipe, rest = recipe_of("dljax sweep", args, Sweeping, Launch, about=about)
    prog = f"dljax sweep {recipe.name}"
    if "--help" in rest or "-h" in rest:
        parse(prog, ["--help"], recipe.build, Sweeping, Launch, about=about)
    varied, rest = _split(prog, recipe, rest)
    sweeping_options, launch_options = parse(prog, rest, Sweeping, Launch)
    sweeping, launch = Sweeping(**sweeping_options), Launch(**launch_options)
    sweeping.check()
    launch.start()
    grid = {name: values for name, values in varied.items() if len(values) > 1}
    fixed = {**recipe.options, **{name: values[0] for name, values in varied.items()}}
    if not grid and sweeping.seeds == 1:
        example = next(iter(recipe.options), "learning_rate").replace("_", "-")
        raise UsageError(f"{prog}: nothing varies; give an option several values, as in --{example} A,B, or --seeds 4")
    seeds = tuple(range(sweeping.seed, sweeping.seed + sweeping.seeds))
    study = Study(recipe, {name: value for name, value in fixed.items() if name not in grid}, grid, seeds, sweeping.steps, sweeping.batching)
    for name, values in grid.items():
        for value in values:  # a traced value passes unseen, and a structure comes late: refuse both now
            study.build(**{**fixed, name: value})
    return run_study(study, launch, sweeping.out or new_folder(recipe, "sweep"), as_json=sweeping.json)


def run_study(study: Study, launch: Launch, out: Path, *, resume: bool = False, as_json: bool = False) -> int:
    """Train all members into a folder, measure each, report, and print what each combination reached."""
    from dljax import engine, report
    from dljax.cli.outcome import summary

    if launch.mesh is not None or launch.debug:
        raise UsageError(
            f"--{'mesh' if launch.mesh else 'debug'} does not apply to several members, which are spread over the devices themselves; leave it out"
        )
    describe = study.describe or {
        "recipe": study.recipe.name, "options": dict(study.options), "grid": study.grid, "seeds": list(study.seeds), "launch": launch.described(),
        "created": now(),
    }  # fmt: skip
    config = launch.config()
    with nothing_left_of_a_false_start(out):
        swept = engine.sweep(study.build, study.grid, study.seeds, batching=study.batching, out=out, resume=resume, describe=describe, config=config)
    values = _finish(study, swept, out)
    folders = folders_of(out)
    if len(folders) > 1:
        report.compare(folders, out / "report.html")
    rows = _rows(study, swept.members, values)
    if as_json:
        print_json(rows)
    elif not launch.quiet:
        if study.grid:
            print_table(rows)
        reached = [value for value in values if value]
        if len(rows) == 1 and reached:
            step = int(swept.members[0].history["step"][-1]) if "step" in swept.members[0].history else 0
            print(summary(study.recipe, reached, step, swept.result))
        print(f"report: {out / 'report.html'}")
    if swept.status == "interrupted":
        print(f"interrupted and saved; `dljax resume {out}` goes on", flush=True)
        return INTERRUPTED
    lost = [f"{_label(member.options)} seed {member.seed}: {member.message}".strip() for member in swept.members if member.status == "nonfinite"]
    # A study of options may well contain some that diverge; the seeds of one run may not.
    if lost and (not study.grid or len(lost) == len(swept.members)):
        raise FloatingPointError(f"{'; '.join(lost)}. Lower the learning rate or clip the gradient. Everything up to there is in {out}")
    if lost and not launch.quiet:
        print(f"went non-finite: {'; '.join(lost)}", file=sys.stderr)
    return DONE


def folders_of(out: Path) -> list[Path]:
    """The run folders of a sweep: itself, or one for each structure."""
    return [out] if (out / "config.json").is_file() else sorted(out.glob("structure-*"))


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % t-interval of a mean; None for fewer than two values.

      mean ± t₀.₉₇₅,ₙ₋₁ s / √n

    >>> [round(bound, 3) for bound in interval([0.90, 0.92, 0.94])]
    [0.87, 0.97]
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    mean, half = statistics.fmean(values), float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / len(values) ** 0.5
    return mean - half, mean + half


def _split(prog: str, recipe: "Recipe", args: Sequence[str]) -> tuple[dict[str, list[Any]], list[str]]:
    """The values of each of the recipe's options, and the rest of the command line."""
    varied: dict[str, list[Any]] = {}
    rest: list[str] = []
    taken = {*Sweeping.__dataclass_fields__, *Launch.__dataclass_fields__} - set(recipe.options)
    place = 0
    while place < len(args):
        given, equals, value = args[place].partition("=")
        name = given[2:].replace("-", "_") if given.startswith("--") else ""
        place += 1
        if name not in recipe.options:
            if name and name not in taken and name.removeprefix("no_") not in taken:
                parse(prog, [given], recipe.build, Sweeping, Launch)  # says what may have been meant
            rest.append(args[place - 1])
            continue
        values = [value] if equals else list(itertools.takewhile(lambda arg: not arg.startswith("--"), args[place:]))
        place += 0 if equals else len(values)
        varied[name] = [_value(prog, recipe, name, part) for part in " ".join(values).split(",")]
        if len({repr(value) for value in varied[name]}) < len(varied[name]):
            raise UsageError(f"{prog}: {given} has the same value twice, got {' '.join(values)!r}; give each once")
    return varied, rest


def _value(prog: str, recipe: "Recipe", name: str, text: str) -> Any:
    option = "--" + name.replace("_", "-")
    if isinstance(recipe.options[name], bool):
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{prog}: {option} takes true and false, got {text!r}; for example {option} true,false")
        return text.lower() == "true"
    (values,) = parse(prog, [option, *text.split()], recipe.build)
    return values[name]


def _finish(study: Study, swept: "Sweep", out: Path) -> list[dict[str, float]]:
    """Measure and report the members folder by folder; the final values in the order of the sweep."""
    from dljax.cli.outcome import finish_members
    from dljax.engine.folder import read_config

    values: list[dict[str, float]] = [{} for _ in swept.members]
    places = {_identity(member.options, member.seed): place for place, member in enumerate(swept.members)}
    for folder in folders_of(out):
        listed = (read_config(folder) or {}).get("members", [])
        here = [places[identity] for member in listed if (identity := json.dumps(member, sort_keys=True)) in places]
        members = [swept.members[place] for place in here]
        built: dict[str, Experiment] = {}
        for member in members:
            if (label := _identity(member.options, 0)) not in built:
                experiment = study.build(**member.options)
                built[label] = experiment if swept.status == "done" else without_extras(experiment)
        finals = finish_members(study.recipe, [built[_identity(member.options, 0)] for member in members], members, folder)
        for place, final in zip(here, finals, strict=True):
            values[place] = final
    return values


def _identity(options: Mapping[str, Any], seed: int) -> str:
    return json.dumps({**options, "seed": seed}, sort_keys=True, default=str)


def _rows(study: Study, members: Sequence["Member"], values: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row for each combination of options, the mean over its seeds."""
    metric = study.recipe.target.metric
    groups: dict[str, list[int]] = {}
    for place, member in enumerate(members):
        groups.setdefault(_identity(member.options, 0), []).append(place)
    rows = []
    for places in groups.values():
        finals = [values[place][metric] for place in places if metric in values[place]]
        bounds = interval(finals)
        rows.append({
            **{name: members[places[0]].options[name] for name in study.grid}, "seeds": len(places),
            metric: statistics.fmean(finals) if finals else None, "interval": None if bounds is None else list(bounds), "finite": len(finals),
        })  # fmt: skip
    return rows


def _label(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={cell(value)}" for name, value in options.items())
