"""Experiments and recipes: a learner with its data, its length and its target, found by name."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dljax.core.checks import check_int
from dljax.core.contract import EMPTY, Data, HostSource, Key, Learner, Params, Source

Measure = Callable[[Params, Key], Mapping[str, float]]
Figures = Callable[[Params, Key], Mapping[str, Any]]


@dataclass(frozen=True)
class Experiment:
    """All that a training run needs besides its key.

    Attributes:
      learner, source: what learns, and from what.
      steps: how many steps, >= 1.
      every: steps per report; None chooses a divisor of `steps` that gives about a hundred.
      evaluation: what `learner.evaluate` folds over: a dict of arrays [N, ...] with `batch_size`, or anything else, as one batch, without
        (`()` for a learner that makes its own experience); None for no evaluation.
      batch_size: rows of an evaluation batch.
      evaluate_every: steps between evaluations; None evaluates about ten times. The last step is always evaluated.
      measure: host code run once at the end, `(params, key) -> {name: value}`: games against opponents, exact likelihoods.
      figures: host code run once at the end, `(params, key) -> {name: figure}` of `dljax.report`: what the model makes.
      per_step, unit: what one step consumes, for the throughput: 128 "examples", 2,048 "frames".
      exports: `(key) -> {function: example arguments after params}`, for `dljax export`.

    >>> Experiment(Learner(lambda key, batch: (), lambda key, state, batch: (state, {})), steps=10).unit
    'steps'
    """

    learner: Learner
    source: Source | HostSource = EMPTY
    steps: int = 1000
    every: int | None = None
    evaluation: Data | None = None
    batch_size: int | None = None
    evaluate_every: int | None = None
    measure: Measure | None = None
    figures: Figures | None = None
    per_step: int = 1
    unit: str = "steps"
    exports: Callable[[Key], Mapping[str, tuple]] | None = None

    def __post_init__(self) -> None:
        check_int("Experiment", "steps", self.steps, minimum=1)


@dataclass(frozen=True)
class Target:
    """What a recipe claims: a metric, a bound and where the bound comes from."""

    metric: str
    op: str
    value: float
    source: str = ""

    def holds(self, value: float) -> bool:
        """Whether a measured value meets the target; NaN never does.

        >>> AtLeast("accuracy", 0.9).holds(0.91), AtMost("loss", 1.0).holds(float("nan"))
        (True, False)
        """
        return value >= self.value if self.op == ">=" else value <= self.value


def AtLeast(metric: str, value: float, source: str = "") -> Target:  # noqa: N802 (reads as a noun in a recipe)
    """A floor for a metric.

    >>> AtLeast("accuracy", 0.91).op
    '>='
    """
    return Target(metric, ">=", value, source)


def AtMost(metric: str, value: float, source: str = "") -> Target:  # noqa: N802
    """A ceiling for a metric.

    >>> AtMost("nats_per_char", 1.95).op
    '<='
    """
    return Target(metric, "<=", value, source)


@dataclass(frozen=True)
class Recipe:
    """A named experiment with a claim.

    Attributes:
      name: `data/model`.
      build: makes the experiment; its keyword arguments are the recipe's options.
      chapter, rows: where it stands in the book and in the table of systems.
      target: what `verify` compares with.
      minutes: expected time on two CPU cores.
      seeds: over how many seeds the target is a mean.
      data: the data set it trains on, as the catalogue names it; "" for none.
      cores: how many cores of a CPU its steps have work for; None for all.
    """

    name: str
    build: Callable[..., Experiment]
    chapter: int
    target: Target
    minutes: float
    rows: tuple[str, ...] = ()
    seeds: int = 1
    data: str = ""
    cores: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options and their defaults, as the signature of `build` states them."""
        return {name: parameter.default for name, parameter in inspect.signature(self.build).parameters.items()}


RECIPES: dict[str, Recipe] = {}


def recipe(
    name: str,
    *,
    chapter: int,
    target: Target,
    minutes: float,
    rows: tuple[str, ...] = (),
    seeds: int = 1,
    data: str = "",
    cores: int | None = None,
) -> Callable[[Callable], Callable]:
    """Register an experiment under a name; the decorated function stays what it is.

    Raises:
      ValueError: the name is taken, or an option of the function has no default.

    >>> @recipe("doc/none", chapter=0, target=AtMost("loss", 1.0), minutes=0)
    ... def doc_none(steps: int = 1) -> Experiment: ...
    >>> RECIPES.pop("doc/none").options
    {'steps': 1}
    """

    def register(build: Callable) -> Callable:
        if name in RECIPES:
            raise ValueError(f"recipe: {name!r} is taken by {RECIPES[name].build.__module__}; choose another name")
        for option, parameter in inspect.signature(build).parameters.items():
            if parameter.default is inspect.Parameter.empty:
                raise ValueError(f"recipe: {name!r}: option {option!r} needs a default")
        RECIPES[name] = Recipe(name, build, chapter, target, minutes, rows, seeds, data, cores)
        return build

    return register
