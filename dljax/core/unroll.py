"""`unroll`: many steps of any learner as one pure function, a scan of scans; and the fold over a data set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Int, Shaped

from dljax.core.checks import check_int
from dljax.core.contract import Batch, Cursor, Data, Fold, Key, Learner, Mean, Metrics, Source, State


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class History:
    """What R reports of a run said, each the weighted mean over its steps.

    Attributes:
      metrics: name -> `Mean` with leaves [R].
      bad_step: [] the first step with a metric that is not finite, -1 where there is none.

    `history["loss"]` is the array of values, [R], NaN where a report has nothing to say.
    """

    metrics: Mapping[str, Mean]
    bad_step: Int[Array, "*members"]

    def __getitem__(self, name: str) -> Array:
        return self.metrics[name].value


def unroll(learner: Learner, source: Source, steps: int, every: int = 1) -> Callable[..., tuple[State, Cursor, History]]:
    """Many steps as one pure function that may be jitted, vmapped, sharded or differentiated.

      run(key, step, state, cursor, data=source.data) -> (state, cursor, history)

    Step t gets the key `fold_in(key, t)`: the stream does not depend on how a run is cut into chunks.

    Args:
      steps: how many steps one call makes, >= 1.
      every: steps per report, a divisor of `steps`; metrics are averaged over them.
    Returns:
      `run`, whose `step` [] int32 is the absolute number of the first step, and whose history has `steps // every` rows.
      Pass `data` as an argument where `run` is jitted, or the data become a constant of the program.
    Raises:
      ValueError: `steps` or `every` < 1, or `every` does not divide `steps`.

    >>> from dljax.core.contract import EMPTY, start
    >>> learner = Learner(lambda key, batch: {"params": 1.0}, lambda key, state, batch: ({"params": 0.5 * state["params"]}, {"x": state["params"]}))
    >>> key, state, cursor = start(learner, EMPTY, jax.random.key(0))
    >>> state, cursor, history = unroll(learner, EMPTY, steps=4, every=2)(key, 0, state, cursor)
    >>> float(state["params"]), history["x"].tolist()
    (0.0625, [0.75, 0.1875])
    """
    check_int("unroll", "steps", steps, minimum=1)
    check_int("unroll", "every", every, minimum=1)
    if steps % every:
        raise ValueError(f"unroll: every must divide steps, got every={every} and steps={steps}; use {steps - steps % every} steps or another every")

    def run(key: Key, step: Int[ArrayLike, ""], state: State, cursor: Cursor, data: Data | None = None) -> tuple[State, Cursor, History]:
        data = source.data if data is None else data

        def one(carry: tuple, _: None) -> tuple[tuple, dict[str, Mean]]:
            step, state, cursor, bad_step = carry
            cursor, batch = source.next(data, cursor)
            state, metrics = learner.step(jax.random.fold_in(key, step), state, batch)
            means = {name: _as_mean(name, value) for name, value in metrics.items()}
            bad = ~jnp.all(jnp.asarray([jnp.isfinite(mean.total) for mean in means.values()], bool))
            return (step + 1, state, cursor, jnp.where((bad_step < 0) & bad, step, bad_step)), means

        def block(carry: tuple, _: None) -> tuple[tuple, dict[str, Mean]]:
            carry, means = lax.scan(one, carry, None, length=every)
            return carry, jax.tree.map(lambda x: x.sum(0), means)

        # The carry must not change its type: a Python scalar in the state would be weakly typed on the way in and strong on the way out.
        state, cursor = jax.tree.map(_strong, (state, cursor))
        carry = (jnp.int32(step), state, cursor, jnp.int32(-1))
        (_, state, cursor, bad_step), metrics = lax.scan(block, carry, None, length=steps // every)
        return state, cursor, History(metrics, bad_step)

    return run


def evaluate(fold: Fold, batch_size: int | None = None) -> Callable[[Key, State, Data], Metrics]:
    """A fold over a whole data set as one pure function, the ragged last batch padded and masked.

    Args:
      batch_size: rows a batch, >= 1; data must then be a dict of arrays with the same leading size, and each batch gets `mask` [B].
        None hands the data to the fold as one batch, as they are (a graph, or `()` for a learner that makes its own).
    Returns:
      `f(key, state, data) -> metrics`, every leaf a `Mean`.
    Raises:
      ValueError: `batch_size` < 1; empty data or data that are no dict of equally long arrays.

    >>> total = Fold(lambda key, state: jnp.zeros(()), lambda acc, state, batch: acc + (batch["mask"] * batch["x"]).sum(), lambda acc: {"sum": acc})
    >>> float(evaluate(total, batch_size=2)(jax.random.key(0), (), {"x": jnp.arange(5.0)})["sum"].value)
    10.0
    """
    if batch_size is not None:
        check_int("evaluate", "batch_size", batch_size, minimum=1)

    def run(key: Key, state: State, data: Data) -> Metrics:
        acc = jax.tree.map(_strong, fold.init(key, state))
        if batch_size is None:
            acc = fold.step(acc, state, data)
        else:
            size = num_rows(data)
            rows = min(batch_size, size)

            def one(acc: Any, start: Int[Array, ""]) -> tuple[Any, None]:
                return fold.step(acc, state, _padded(data, start, rows, size)), None

            acc, _ = lax.scan(one, acc, jnp.arange(0, size, rows))
        return {name: _as_mean(name, value) for name, value in fold.finish(acc).items()}

    return run


def num_rows(data: Data) -> int:
    """The common leading size of a dict of arrays.

    Raises:
      ValueError: no dict, no arrays, none or unequal rows.

    >>> num_rows({"x": jnp.zeros((3, 2)), "y": jnp.zeros(3)})
    3
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"data: must be a dict of arrays [N, ...], got {type(data).__name__}; use batch_size=None to pass it as one batch")
    sizes = {jax.tree_util.keystr(path): jnp.shape(leaf)[:1] for path, leaf in jax.tree_util.tree_leaves_with_path(data)}
    if not sizes or len(set(sizes.values())) > 1 or () in sizes.values():
        raise ValueError(f"data: every array must have the same number of rows, got {sizes}")
    (size,) = next(iter(sizes.values()))
    if size == 0:
        raise ValueError(f"data: must have at least one row, got none in {sorted(sizes)}")
    return size


def _padded(data: Mapping, start: Int[Array, ""], rows: int, size: int) -> Batch:
    index = start + jnp.arange(rows)
    mask: Bool[Array, B] = index < size
    batch = jax.tree.map(lambda x: jnp.take(x, jnp.minimum(index, size - 1), axis=0), dict(data))
    mask = mask.astype(jnp.float32)
    if "mask" in batch:
        given = batch["mask"]
        mask = given * mask.reshape(mask.shape + (1,) * (given.ndim - 1))
    return batch | {"mask": mask}


def _as_mean(name: str, value: Any) -> Mean:
    total, weight = value if isinstance(value, Mean) else (value, 1.0)
    if jnp.shape(total) != () or jnp.shape(weight) != ():
        raise ValueError(f"metric {name!r}: must be a scalar or a Mean of scalars, got shape {jnp.shape(total)}; average it in the step")
    dtype = jnp.promote_types(jnp.result_type(total), jnp.float32)
    return Mean(jnp.asarray(total, dtype), jnp.asarray(weight, dtype))


def _strong(leaf: Shaped[Any, "..."]) -> Array:
    leaf = jnp.asarray(leaf)
    return lax.convert_element_type(leaf, leaf.dtype) if jax.dtypes.issubdtype(leaf.dtype, jnp.number) else leaf
