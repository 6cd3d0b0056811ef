"""`dljax resume`: go on with what `train` or `sweep` began."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dljax.cli.launch import Launch
from dljax.cli.options import POSITIONAL, parse
from dljax.cli.status import DONE, UsageError
from dljax.cli.sweep import Study, folders_of, run_study
from dljax.cli.train import run_one

if TYPE_CHECKING:
    from dljax.core.experiment import Recipe


@dataclass(frozen=True)
class Resuming:
    """Go on with a run from its last checkpoint, with the recipe, the options and the devices that it was started with.

    Attributes:
      folder: the run folder.
      steps: where to end; more than the run had extends it.
    """

    folder: Annotated[str, POSITIONAL] = ""
    steps: int | None = None


def main(args: list[str]) -> int:
    """`dljax resume DIR [--steps N]`."""
    options, launch = parse("dljax resume", args, Resuming, Launch)
    return resume(**options, launch=Launch(**launch))


def resume(folder: str, steps: int | None, launch: Launch) -> int:
    """Go on with the run or the sweep in a folder, to where it was meant to end or to `steps`."""
    if not folder:
        raise UsageError("dljax resume: give the folder of a run; `dljax runs` lists them")
    from dljax import recipes
    from dljax.core.checks import check_int
    from dljax.engine.folder import read_config

    if steps is not None:
        check_int("dljax resume", "--steps", steps, minimum=1)
    out = Path(folder)
    if not out.is_dir():
        raise UsageError(f"dljax resume: there is no folder {folder!r}; `dljax runs` lists the runs")
    out = out.parent if out.name.startswith("structure-") else out
    config = next((read_config(part) for part in folders_of(out)), None)
    if config is None:
        raise UsageError(f"dljax resume: there is no run in {folder!r} (no config.json); `dljax runs` lists the runs")
    if not isinstance(config.get("recipe"), str):
        raise UsageError(
            f"dljax resume: the run in {folder!r} was not started by `dljax train`; go on with fit(..., resume=True) in the script that started it"
        )
    recipe = recipes.get(config["recipe"])
    options = _options(recipe, config.get("options"), folder)
    trained = _trained(out)
    if steps is not None and steps < trained:
        raise UsageError(f"dljax resume: --steps {steps}, but {folder} has been trained for {trained} already; use at least {trained}")
    wanted = steps or int(config["steps"])
    if trained >= wanted and _is_reported(out):
        print(f"{folder} is done ({trained} steps); `dljax resume {folder} --steps {2 * trained}` extends it")
        return DONE
    launch, devices, threads = _as_before(launch, config)
    launch.start(devices, threads)
    if "members" in config:
        grid = {name: [_as(recipe.options[name], value) for value in values] for name, values in config.get("grid", {}).items()}
        describe: dict[str, Any] = {name: config[name] for name in ("recipe", "options", "grid", "seeds") if name in config}
        study = Study(recipe, {name: value for name, value in options.items() if name not in grid}, grid, config["seeds"], wanted, describe=describe)
        return run_study(study, launch, out, resume=True)
    # What the run has chosen for its reports and evaluations stays: the engine takes it from the folder.
    experiment = dataclasses.replace(recipe.build(**options), steps=wanted, every=None, evaluate_every=None)
    describe = {"recipe": recipe.name, "options": options, "seed": config.get("seed", 0)}
    return run_one(recipe, experiment, int(config.get("seed", 0)), out, launch, describe, resume=True)


def _options(recipe: "Recipe", stored: Any, folder: str) -> dict[str, Any]:
    stored = stored if isinstance(stored, Mapping) else {}
    unknown = sorted(set(stored) - set(recipe.options))
    if unknown:
        raise UsageError(
            f"dljax resume: {folder} was trained with {', '.join(unknown)}, which {recipe.name} does not have any more; use the dljax that started it"
        )
    return {name: _as(recipe.options[name], value) for name, value in stored.items()}


def _as(default: Any, value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value


def _as_before(launch: Launch, config: Mapping[str, Any]) -> tuple[Launch, int | None, int | None]:
    """The precision, the mesh, the devices and the threads that the run was started with, where the command line does not say otherwise."""
    before = config.get("launch")
    before = before if isinstance(before, Mapping) else {}
    precision = config.get("precision")
    if launch.precision is None and precision not in (None, "None"):
        launch = dataclasses.replace(launch, precision=precision)
    if launch.mesh is not None or launch.cores is not None or launch.one_device:
        return launch, None, None
    launch = dataclasses.replace(launch, mesh=before.get("mesh"), one_device=bool(before.get("one_device")))
    devices, threads = (value if isinstance(value := before.get(name), int) else None for name in ("devices", "threads"))
    return launch, devices, threads


def _trained(out: Path) -> int:
    """The step of the newest checkpoint, 0 where there is none."""
    from dljax.engine.checkpoint import Checkpoints

    return max((step for folder in folders_of(out) for step in Checkpoints(folder / "checkpoints").steps()), default=0)


def _is_reported(out: Path) -> bool:
    from dljax.engine.folder import read_result

    results = [read_result(folder) for folder in folders_of(out)]
    return all(result.get("status") == "done" and "target" in result for result in results) and (out / "report.html").is_file()
