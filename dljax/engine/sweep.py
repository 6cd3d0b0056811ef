"""`sweep`: many runs of one factory, over options and seeds, in as few programs as their structure allows.

Options that the factory can take as tracers share one compiled program; each other combination is a program of its own.
"""

import inspect
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dljax.core.checks import check_choice, check_int
from dljax.core.contract import EMPTY, Data, Learner, Source, start
from dljax.core.experiment import Experiment
from dljax.core.unroll import unroll
from dljax.engine.lanes import BATCHINGS, Group, Member, experiment_of
from dljax.engine.plan import FitConfig
from dljax.engine.profile import use_compilation_cache


@dataclass(frozen=True)
class Sweep:
    """What a sweep reached.

    Attributes:
      members: in the order of the grid's product, seeds fastest.
      status: "done" or "interrupted".
      result: programs compiled, lanes, what was traced, seconds.
      out: the folder, or None.
    """

    members: tuple[Member, ...]
    status: str
    result: dict[str, Any]
    out: Path | None = None

    def values(self, name: str) -> np.ndarray:
        """The last value of a metric for every member, [M]."""
        return np.asarray([member.last(name) for member in self.members])

    def best(self, name: str, mode: str = "max") -> Member:
        """The member with the best last value of a metric, the mean over seeds deciding between options.

        Raises:
          ValueError: `mode` is neither "min" nor "max", or no member has a finite value.
        """
        check_choice("best", "mode", mode, ("min", "max"))
        values = self.values(name) * (1 if mode == "max" else -1)
        groups: dict[str, list[int]] = {}
        for index, member in enumerate(self.members):
            groups.setdefault(repr(sorted(member.options.items(), key=lambda item: item[0])), []).append(index)
        means = {group: float(np.mean(values[indices])) for group, indices in groups.items() if np.isfinite(values[indices]).all()}
        if not means:
            raise ValueError(f"best: no combination of options has a finite {name} for every seed")
        indices = groups[max(means, key=lambda group: means[group])]
        return self.members[max(indices, key=lambda index: values[index])]


def sweep(
    factory: Callable[..., Learner | Experiment],
    grid: Mapping[str, Sequence[Any]] | None = None,
    seeds: int | Sequence[int] = 1,
    *,
    source: Source = EMPTY,
    steps: int = 1000,
    evaluation: Data | None = None,
    batching: str = "auto",
    out: Path | str | None = None,
    resume: bool = False,
    describe: Mapping[str, Any] | None = None,
    config: FitConfig | None = None,
) -> Sweep:
    """Train a factory's learners over a grid of options and seeds.

    Args:
      factory: `(**options) -> Learner`, or an `Experiment`, which brings its own source, steps and evaluation (a recipe's function).
        An option whose values are floats is traced where the factory and the step allow it; a member then equals the same run alone up to rounding.
      grid: option -> values; the product is trained.
      seeds: how many, or which.
      source, steps, evaluation: as in `fit`, for a factory of learners.
      batching: "vmap", "loop" (one compiled program, one member after another), "devices" (one member a device), or "auto": the fastest, measured.
      out: the folder; every value in its logs is a list over the members. With several structures, a folder inside for each.
      resume: go on with the sweep in `out`.
      config: a `FitConfig`; `parallel` must be None: devices serve members here.
    Returns:
      A `Sweep`. A member that goes non-finite, or whose learner is done, is frozen at the end of that chunk and reported; the others go on
      untouched.
    Raises:
      ValueError: an empty grid or no seeds, an option that the factory does not have, options of `config` that do not fit a sweep.

    >>> import jax.numpy as jnp
    >>> def shrink(rate=0.5):
    ...     def step(key, state, batch):
    ...         return {"params": rate * state["params"]}, {"x": state["params"]}
    ...     return Learner(lambda key, batch: {"params": jnp.ones(())}, step)
    >>> result = sweep(shrink, {"rate": [0.5, 0.25]}, steps=2, config=FitConfig(every=1), batching="vmap")
    >>> [float(member.params) for member in result.members], result.result["programs"]
    ([0.25, 0.0625], 1)
    """
    check_choice("sweep", "batching", batching, BATCHINGS)
    config = config or FitConfig()
    if config.parallel not in (None, "auto") or config.early_stopping is not None or config.debug:
        raise ValueError("sweep: config.parallel, early_stopping and debug do not apply to a sweep; leave them out")
    axes = {name: [_plain(value) for value in values] for name, values in (grid or {}).items()}
    known = inspect.signature(factory).parameters
    for name, values in axes.items():
        if name not in known and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            raise ValueError(f"sweep: the factory has no option {name!r}; it has {', '.join(known) or 'none'}")
        if not values:
            raise ValueError(f"sweep: grid has no values for {name!r}; give at least one")
    seeds = list(range(check_int("sweep", "seeds", seeds, minimum=1))) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"sweep: seeds must be different numbers, at least one, got {seeds}")
    use_compilation_cache()
    begin = time.perf_counter()
    given = Experiment(Learner(lambda key, batch: (), lambda key, state, batch: (state, {})), source, steps, evaluation=evaluation)
    traced = _traceable(factory, given, axes)
    structures = product({name: values for name, values in axes.items() if name not in traced})
    points = product({name: axes[name] for name in traced})
    out = None if out is None else Path(out).absolute()
    groups = []
    for index, structure in enumerate(structures):
        folder = out if out is None or len(structures) == 1 else out / f"structure-{index}"
        group = Group(factory, given, structure, points, seeds, config, batching)
        groups.append(group.run(folder, resume, dict(describe or {})))
        if groups[-1].result["status"] == "interrupted":
            break
    members = [member for group in groups for member in group.members]
    order = {repr(options): place for place, options in enumerate(product(axes))}
    members.sort(key=lambda member: order[repr({name: member.options[name] for name in axes})])
    result = {"programs": len(groups), "traced": traced, "seconds": time.perf_counter() - begin, "groups": [group.result for group in groups]}
    return Sweep(tuple(members), groups[-1].result["status"], result, out)


def _traceable(factory: Callable[..., Learner | Experiment], given: Experiment, grid: Mapping[str, list[Any]]) -> list[str]:
    """The options that may be tracers: floats that the factory and one step accept without asking for their value."""
    first = {name: values[0] for name, values in grid.items()}
    source = experiment_of(factory, given, first).source
    if not isinstance(source, Source):
        return []
    traced: list[str] = []
    for name, values in grid.items():
        if not all(isinstance(value, float) for value in values):
            continue

        def member(values: Mapping[str, Any], key: Any, data: Any) -> Any:
            made = experiment_of(factory, given, {**first, **values})
            assert isinstance(made.source, Source)
            _, state, cursor = start(made.learner, made.source, key, data)
            return unroll(made.learner, made.source, 1)(key, 0, state, cursor, data)

        def shared(values: Mapping[str, Any]) -> Any:
            made = experiment_of(factory, given, {**first, **values})
            assert isinstance(made.source, Source)
            return made.source.data, made.evaluation

        tracers = {each: jax.ShapeDtypeStruct((), jnp.asarray(grid[each]).dtype) for each in [*traced, name]}
        try:
            jax.eval_shape(member, tracers, jax.eval_shape(jax.random.key, 0), source.data)
            if _depends(jax.make_jaxpr(shared)(tracers).jaxpr):
                continue  # members of one program share their data
        except Exception:  # whatever it raises, this option is not one for tracing; a real error comes again with its value
            continue
        traced.append(name)
    return traced


def _depends(jaxpr: Any) -> bool:
    """Whether an output may depend on an input."""
    reached = {id(var) for var in jaxpr.invars}
    for eqn in jaxpr.eqns:
        if any(id(var) in reached for var in eqn.invars):
            reached.update(id(var) for var in eqn.outvars)
    return any(id(var) in reached for var in jaxpr.outvars)


def _plain(value: Any) -> Any:
    """A scalar of NumPy or jax as Python's, which a run folder can hold and a learner takes for what it is."""
    return value.item() if np.ndim(value) == 0 and isinstance(value, np.generic | np.ndarray | jax.Array) else value


def product(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values, the last name fastest.

    >>> product({"a": [1, 2], "b": [3]})
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
