"""`load`: a finished or interrupted run, back from its folder."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dljax.core.contract import Source, start
from dljax.core.experiment import RECIPES, Experiment
from dljax.engine.checkpoint import Checkpoints, read
from dljax.engine.fit import Run
from dljax.engine.folder import RunFolderError, read_config, read_result
from dljax.engine.host import stacked
from dljax.engine.log import Record, of_member
from dljax.engine.program import Loop


def load(path: Path | str, experiment: Experiment | None = None, *, member: int | None = None) -> Run:
    """The learner, the state of its newest whole checkpoint, and what was logged up to it.

    Args:
      experiment: what was trained; None rebuilds it from the recipe and options that the folder names (`import dljax.recipes` first).
      member: which member of a sweep.
    Raises:
      RunFolderError: no run, an unknown recipe, or a sweep without `member`.
      CheckpointError: no whole checkpoint, or one of another structure.
    """
    path = Path(path).absolute()
    config = read_config(path)
    if config is None:
        raise RunFolderError(f"load: there is no run in {path}; give the folder that holds config.json")
    members: list[dict[str, Any]] = config.get("members") or []
    if bool(members) != (member is not None) or (member is not None and not 0 <= member < len(members)):
        held = "one run; leave member out" if not members else f"a sweep; give member from 0 to {len(members) - 1}"
        raise RunFolderError(f"load: {path} holds {held}")
    options = {**config.get("options", {})}
    if member is not None:
        options |= {name: value for name, value in members[member].items() if name != "seed"}
    experiment = experiment or _rebuilt(path, config.get("recipe"), options)
    checkpoints = Checkpoints(path / "checkpoints")
    found = checkpoints.latest()
    if found is None:
        raise RunFolderError(f"load: the run in {path} has no checkpoint yet; resume it")
    source = experiment.source if isinstance(experiment.source, Source) else stacked(experiment.source.take(1))
    key = jax.eval_shape(jax.random.key, 0)
    carry = jax.eval_shape(lambda key, data: jax.tree.map(jnp.asarray, start(experiment.learner, source, key, data)[1:]), key, source.data)
    result = read_result(path)
    status = result.get("status", "interrupted") if result.get("step", -1) >= found.step else "interrupted"
    if member is None:
        state, _ = read(found, Loop(*_placed(carry)))
    else:
        state, _ = _member(found, carry, config["lanes"], len(members), member)
        status = found.meta["host"]["status"][member] if member in found.meta["host"]["frozen"] else status
    record = Record(path, found.step, ())
    history, evaluations = (columns if member is None else of_member(columns, member) for columns in map(record.arrays, ("metrics", "evaluation")))
    return Run(experiment.learner, state, found.step, status, history, evaluations, result, path)


def _rebuilt(path: Path, recipe: Any, options: dict[str, Any]) -> Experiment:
    if recipe not in RECIPES:
        raise RunFolderError(
            f"load: {path} was trained by the recipe {recipe!r}, which is not registered; import its module first, or pass the experiment"
        )
    return RECIPES[recipe].build(**options)


def _placed(tree: Any, lead: tuple[int, ...] = ()) -> Any:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype, sharding=device), tree)


def _member(found: Any, carry: Any, lanes: list[int], size: int, member: int) -> Any:
    width = lanes[0] * lanes[1]
    rounds = [_placed(carry, (width,))] * -(-size // width)
    carries, frozen = read(found, (rounds, {index: _placed(carry) for index in found.meta["host"]["frozen"]}))
    return frozen[member] if member in frozen else jax.tree.map(lambda x: x[member % width], carries[member // width])
