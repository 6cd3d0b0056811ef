"""`dljax train`: a recipe, its options, its seeds."""

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dljax.cli.launch import Launch
from dljax.cli.options import parse
from dljax.cli.status import DONE, INTERRUPTED, UsageError

if TYPE_CHECKING:
    from dljax.core.experiment import Experiment, Recipe

_SEEDS = 2**32


@dataclass(frozen=True)
class Training:
    """What is trained, and where to.

    Attributes:
      seed: of everything that is drawn at random.
      seeds: how many seeds from that one on, trained together.
      steps: how many steps, instead of the recipe's.
      out: the run folder; by default a new one, runs/RECIPE/TIME-seedS.
    """

    seed: int = 0
    seeds: int = 1
    steps: int | None = None
    out: Path | None = None

    def check(self) -> None:
        """Raise where a number is out of range."""
        from dljax.core.checks import check_int

        check_int("dljax train", "--seed", self.seed, minimum=0, maximum=_SEEDS - 1)
        check_int("dljax train", "--seeds", self.seeds, minimum=1, maximum=_SEEDS - self.seed)
        if self.steps is not None:
            check_int("dljax train", "--steps", self.steps, minimum=1)


def main(args: list[str]) -> int:
    """`dljax train NAME [OPTIONS]`."""
    recipe, rest = recipe_of("dljax train", args, Training, Launch, about="Train a recipe: `dljax train NAME --help` shows its options as well.")
    options, training, launch = parse(f"dljax train {recipe.name}", rest, recipe.build, Training, Launch)
    return train(recipe, options, Training(**training), Launch(**launch))


def recipe_of(prog: str, args: Sequence[str], *parts: Any, about: str) -> tuple["Recipe", list[str]]:
    """The recipe that a command line names, and the rest of it.

    Raises:
      UsageError: it names none. ValueError: there is no such recipe.
    """
    if not args or args[0].startswith("-"):
        if "--help" in args or "-h" in args:
            parse(prog, ["--help"], *parts, about=about)
        raise UsageError(f"{prog}: name a recipe first, as in `{prog} digits/mlp --seed 1`; `dljax list` shows all")
    from dljax import recipes

    return recipes.get(args[0]), list(args[1:])


def train(recipe: "Recipe", options: Mapping[str, Any], training: Training, launch: Launch) -> int:
    """Train one seed, or several together, and report."""
    training.check()
    launch.start(cores=recipe.cores if training.seeds == 1 else None)
    if training.seeds > 1:
        from dljax.cli.sweep import Study, run_study

        seeds = tuple(range(training.seed, training.seed + training.seeds))
        return run_study(
            Study(recipe, dict(options), {}, seeds, training.steps), launch, training.out or new_folder(recipe, f"seeds{seeds[0]}-{seeds[-1]}")
        )
    experiment = with_steps(recipe.build(**options), training.steps)
    out = training.out or new_folder(recipe, f"seed{training.seed}")
    describe = {"recipe": recipe.name, "options": dict(options), "seed": training.seed, "launch": launch.described(), "created": now()}
    return run_one(recipe, experiment, training.seed, out, launch, describe, resume=False)


def run_one(recipe: "Recipe", experiment: "Experiment", seed: int, out: Path, launch: Launch, describe: Mapping[str, Any], *, resume: bool) -> int:
    """Train one seed in a folder, from the start or from where it stopped."""
    import jax

    from dljax import engine
    from dljax.cli.outcome import finish, merge_result, summary
    from dljax.engine.folder import read_result

    failure, before = None, read_result(out)
    try:
        with nothing_left_of_a_false_start(out):
            run = engine.train(experiment, jax.random.key(seed), out=out, resume=resume, describe=describe, config=launch.config())
    except engine.NonFiniteError as error:
        failure, run = error, error.run
    if before.get("status") == "done" and before.get("step") == run.step:
        merge_result(out, before)  # nothing was left to train: the figures of speed are those of the first time

    def tell(values: dict[str, float]) -> None:
        if failure is None and not launch.quiet:
            print(summary(recipe, [values], run.step, run.result), flush=True)

    finish(recipe, experiment if run.status in ("done", "stopped") else without_extras(experiment), run, seed, tell)
    if failure is not None:
        raise FloatingPointError(f"{failure}. Everything up to there is in {out}") from failure
    if not launch.quiet:
        print(f"report: {out / 'report.html'}")
    if run.status == "interrupted":
        print(f"interrupted at step {run.step} and saved; `dljax resume {out}` goes on", flush=True)
        return INTERRUPTED
    return DONE


@contextmanager
def nothing_left_of_a_false_start(out: Path) -> Iterator[None]:
    """Remove a folder made inside where an error comes before the first report, so that the same command can be given again."""
    existed = out.exists()
    try:
        yield
    except Exception:
        worth_keeping = any(path.stat().st_size for path in out.rglob("*.jsonl")) or any(out.rglob("meta.json"))
        if not existed and not worth_keeping:
            shutil.rmtree(out, ignore_errors=True)
        raise


def with_steps(experiment: "Experiment", steps: int | None) -> "Experiment":
    """The experiment with another length; its reports and evaluations are then spread over that length."""
    return experiment if steps in (None, experiment.steps) else dataclasses.replace(experiment, steps=steps, every=None, evaluate_every=None)


def new_folder(recipe: "Recipe", what: str) -> Path:
    """A run folder that does not exist yet: `runs/RECIPE/TIME-WHAT`."""
    base = Path("runs") / recipe.name.replace("/", "-") / f"{time.strftime('%Y%m%d-%H%M%S')}-{what}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def now() -> str:
    """The time, for the header of a run."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def without_extras(experiment: "Experiment") -> "Experiment":
    """The experiment without what follows its training: a run that was cut short is not measured."""
    return dataclasses.replace(experiment, measure=None, figures=None)
