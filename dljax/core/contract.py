"""The contract: what a learner, a source of batches and a fold over a data set are.

Everything in dljax meets here. A method is a `Learner`, data come from a `Source` (pure) or a `HostSource` (not), held-out data are
folded by a `Fold`, and the engine compiles, vectorises, shards, checkpoints and reports any combination of them.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

type_aliases = ("Key", "Numeric", "State", "Params", "Batch", "Cursor", "Data", "Metrics")

Key = PRNGKeyArray
# A scalar option that may be a Python number, an array [] or a tracer. Static checkers take it for Any: a union with complex numbers has no order.
if TYPE_CHECKING:
    Numeric = Any
else:
    Numeric = ArrayLike
State = Any  # a pytree of arrays: all that the next step needs
Params = Any  # a pytree of arrays: what to evaluate, export and act with
Batch = Any  # a pytree of arrays, by convention a dict such as {"x": [B, ...], "y": [B], "mask": [B]}
Cursor = Any  # a pytree of arrays: where a source stands
Data = Any  # a pytree of arrays: what a source draws from
Metrics = Mapping[str, Any]  # flat, fixed keys; leaves are scalars [] or `Mean`


class Mean(NamedTuple):
    """A weighted mean that has not been divided yet, so that means of means come out right.

      value = total / weight,  undefined (null in the log) where weight = 0

    Attributes:
      total: Σ w·x, [] in a step, [R] in a history of R reports.
      weight: Σ w, same shape; 0 says that this step has nothing to report (no episode ended).

    >>> float(Mean(jnp.float32(6.0), jnp.float32(4.0)).value)
    1.5
    """

    total: Float[ArrayLike, "*rows"]
    weight: Float[ArrayLike, "*rows"]

    @property
    def value(self) -> Array:
        """`total / weight`, NaN where the weight is zero."""
        weight = jnp.asarray(self.weight)
        return jnp.where(weight > 0, self.total / jnp.where(weight > 0, weight, 1), jnp.nan)


class Fold(NamedTuple):
    """Metrics over a whole data set that are no mean of means: AUC, perplexity, FID, ragged sets, carried sequences.

    Attributes:
      init: `(key, state) -> acc`, an empty accumulator; `state` is the learner's.
      step: `(acc, state, batch) -> acc`; a padded batch has `mask` [B], 1 where an example is real and 0 where it is padding.
      finish: `acc -> metrics`, a flat dict of scalars [] or `Mean`.

    >>> count = Fold(lambda key, state: 0.0, lambda acc, state, batch: acc + batch["mask"].sum(), lambda acc: {"examples": acc})
    >>> float(count.finish(count.step(count.init(None, None), None, {"mask": jnp.ones(3)}))["examples"])
    3.0
    """

    init: Callable[[Key, State], Any]
    step: Callable[[Any, State, Batch], Any]
    finish: Callable[[Any], Metrics]


def _params_of(state: State) -> Params:
    return state["params"] if isinstance(state, Mapping) else state.params


class Learner(NamedTuple):
    """A method as a pair of pure functions on a state.

    Attributes:
      init: `(key, batch) -> state`. A first batch gives shapes and data-dependent initialisation; `()` where none is needed.
      step: `(key, state, batch) -> (state, metrics)`. Pure: jit, vmap, scan and shard it freely. Same structure, shapes and dtypes in and out.
      params: `state -> params`, what to evaluate, export, average and act with; the field or the key `params` of the state if not given.
      evaluate: a `Fold` over held-out data, or None.
      functions: what the learned parameters can do, `name -> (key, params, ...) -> arrays`: predict, sample, log_prob, act, encode ...
      done: `state -> []` bool, for problems whose end can be seen (a minimum, a fixed point): nothing is left to do, and a step changes nothing.
        A run ends with the chunk in which it comes true. None: it ends with its steps.

    >>> mean = Learner(init=lambda key, batch: {"params": jnp.zeros(())},
    ...                step=lambda key, state, batch: ({"params": 0.9 * state["params"] + 0.1 * batch.mean()}, {"batch_mean": batch.mean()}))
    >>> state, metrics = mean.step(jax.random.key(0), mean.init(jax.random.key(1), jnp.ones(4)), jnp.ones(4))
    >>> float(state["params"]), float(metrics["batch_mean"])
    (0.10000000149011612, 1.0)
    """

    init: Callable[[Key, Batch], State]
    step: Callable[[Key, State, Batch], tuple[State, Metrics]]
    params: Callable[[State], Params] = _params_of
    evaluate: Fold | None = None
    functions: Mapping[str, Callable[..., Any]] = {}
    done: Callable[[State], Any] | None = None


class Source(NamedTuple):
    """Batches as a pure function of a cursor; the data stay out of the checkpoint and out of the compiled program.

    Attributes:
      init: `key -> cursor`.
      next: `(data, cursor) -> (cursor, batch)`, pure.
      data: the pytree of arrays that `next` draws from; () where there is none.

    >>> count = Source(init=lambda key: jnp.int32(0), next=lambda data, cursor: (cursor + 1, data[cursor % 3]), data=jnp.arange(3.0))
    >>> cursor, batch = count.next(count.data, count.init(jax.random.key(0)))
    >>> int(cursor), float(batch)
    (1, 0.0)
    """

    init: Callable[[Key], Cursor]
    next: Callable[[Data, Cursor], tuple[Cursor, Batch]]
    data: Data = ()


EMPTY = Source(init=lambda key: (), next=lambda data, cursor: (cursor, ()), data=())
"""The source of learners that make their own experience: every batch is `()`."""


@runtime_checkable
class HostSource(Protocol):
    """Batches that cannot be a pure function: a Grain pipeline, environments of another library.

    The engine takes a chunk ahead of the device and scans over it. `state()` after `take` describes the position *behind* what was taken;
    `restore(state)` on a fresh source must continue with exactly the batches that would have followed.
    """

    def take(self, num: int) -> Batch:
        """The next `num` batches, stacked: a pytree of NumPy arrays [num, B, ...]."""
        ...

    def state(self) -> bytes:
        """The position, as bytes that `restore` understands."""
        ...

    def restore(self, state: bytes) -> None:
        """Go to a position that `state` returned, in this process or an earlier one."""
        ...


def start(learner: Learner, source: Source, key: Key, data: Data | None = None) -> tuple[Key, State, Cursor]:
    """The beginning of a run, a pure function of its key.

    Args:
      key: the key of the whole run.
      data: used instead of `source.data`, so that a compiled program can take the data as an argument.
    Returns:
      `(run_key, state, cursor)`. Step t uses `fold_in(run_key, t)`. The first batch shapes the state and is trained on as well:
      the cursor stands before it.

    >>> learner = Learner(lambda key, batch: {"params": jnp.zeros_like(batch)}, lambda key, state, batch: (state, {}))
    >>> run_key, state, cursor = start(learner, EMPTY._replace(next=lambda data, cursor: (cursor, jnp.ones(2))), jax.random.key(0))
    >>> state["params"].shape
    (2,)
    """
    init_key, source_key, step_key = jax.random.split(key, 3)
    cursor = source.init(source_key)
    _, batch = source.next(source.data if data is None else data, cursor)
    return step_key, learner.init(init_key, batch), cursor


def run_key(key: Key) -> Key:
    """The part of a run's key that its steps fold their number into.

    >>> run_key(jax.random.key(0)).shape
    ()
    """
    return jax.random.split(key, 3)[2]
