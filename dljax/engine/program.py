"""A learner and a source, compiled: the start of a run, chunks of its steps, and the evaluation, on one device or many."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from dljax.core import precision as precisions
from dljax.core.axis import bind_axis
from dljax.core.contract import Cursor, Data, Key, Learner, Metrics, Source, State, start
from dljax.core.flops import count_flops
from dljax.core.tree import is_finite
from dljax.core.unroll import History, evaluate, unroll
from dljax.engine.parallel import Parallel, averaged, constrain_batches, constrained, local_batches, replicate, state_shardings
from dljax.engine.profile import measured_peak

NO_STEP = 2**32 - 1  # steps are int32: folded into a run's key, this number gives the key of its evaluations


class Loop(NamedTuple):
    """What a run carries from chunk to chunk; under pmap and shard_map every leaf is stacked over devices."""

    state: State
    cursor: Cursor


class Flags(NamedTuple):
    """The state after a chunk: whether nothing in it is NaN and no parameter infinite, and whether its learner says that it is done."""

    finite: bool
    done: bool


class Memory(NamedTuple):
    """Bytes that a compiled chunk needs on each device."""

    arguments: int
    outputs: int
    temporary: int
    donated: int

    @property
    def total(self) -> int:
        """What the device must hold at once."""
        return self.arguments + self.outputs + self.temporary - self.donated


class Program:
    """The compiled functions of one run.

    Attributes:
      shapes: the `Loop` as shapes, dtypes and shardings: what a checkpoint is restored into.
      compile_seconds: time spent tracing, lowering and compiling so far.
      memory: of the longest chunk, once compiled.
    """

    def __init__(
        self,
        learner: Learner,
        source: Source,
        *,
        every: int,
        parallel: Parallel | None = None,
        precision: Any = None,
        evaluation: Data | None = None,
        batch_size: int | None = None,
        stacked: bool = False,
        debug: bool = False,
    ) -> None:
        self.learner, self.source, self.every, self.parallel = learner, source, every, parallel
        self.per_device = parallel is not None and parallel.per_device
        self.num_copies = parallel.num_shards if parallel is not None and parallel.per_device else 1
        self.data = replicate(source.data, parallel)
        self.compile_seconds = 0.0
        self.memory: Memory | None = None
        self._evaluation = None if evaluation is None else replicate(evaluation, parallel)
        self._batch_size, self._precision, self._stacked, self._debug = batch_size, precision, stacked, debug
        self._chunks: dict[int, Callable[..., Any]] = {}
        self._evaluate: Callable[..., Any] | None = None
        self.shapes = self._shapes()
        self._first: Callable[..., Any] | None = None

    def start(self, key: Key) -> Loop:
        """The state and the cursor at step 0."""
        shardings = tuple(jax.tree.map(lambda leaf: leaf.sharding, self.shapes))
        return Loop(*self._compile(jax.jit(self._start, out_shardings=shardings), key, self.data)(key, self.data))

    def prepare(self, lengths: set[int], key: Key) -> None:
        """Compile the chunks of these lengths, and the evaluation, before the first step."""
        for length in sorted(lengths, reverse=True):
            self._chunk(length, key)
        if self._evaluation is not None:
            self._evaluator(key)

    def chunk(self, key: Key, step: int, length: int, loop: Loop, data: Data | None = None) -> tuple[Loop, History, Flags]:
        """`length` steps from absolute step `step`; the buffers of `loop` are donated.

        Returns:
          `(loop, history, flags)`, the history on the host.
        """
        data = self.data if data is None else data
        state, cursor, history, flags = self._chunk(length, key)(key, np.int32(step), loop.state, loop.cursor, data)
        history, flags = jax.tree.map(self._on_host, (history, flags))
        return Loop(state, cursor), history, Flags(*map(bool, flags))

    def evaluate(self, key: Key, step: int, loop: Loop) -> Metrics:
        """The learner's fold over the evaluation data, on the host; `key` is the run's."""
        return jax.tree.map(np.asarray, self._evaluator(key)(key, np.int32(step), loop.state, self._evaluation))

    def unstacked(self, loop: Loop) -> Loop:
        """The loop as one device sees it: device 0's where it is stacked."""
        if self.parallel is None or not self.per_device:
            return loop
        if self._first is None:
            same = NamedSharding(self.parallel.mesh, PartitionSpec())
            self._first = jax.jit(lambda tree: jax.tree.map(lambda x: x[0], tree), out_shardings=same)
        return self._first(loop)

    def cost(self, steps_per_second: float) -> dict[str, float]:
        """Operations of one step (matrix products and convolutions), how many a second that makes, and the share of the measured peak."""
        key = jax.eval_shape(jax.random.key, 0)
        state, cursor = jax.eval_shape(lambda key, data: start(self.learner, self.source, key, data)[1:], key, self.data)
        batch = jax.eval_shape(lambda data, cursor: self.source.next(data, cursor)[1], self.data, cursor)
        flops = count_flops(self.learner.step, key, state, batch)
        peak = measured_peak() * (1 if jax.devices()[0].platform == "cpu" or self.parallel is None else self.parallel.mesh.size)
        achieved = flops * steps_per_second
        return {"flops_per_step": flops, "achieved_flops": achieved, "peak_flops": peak, "peak_share": achieved / peak}

    # Bodies

    def _start(self, key: Key, data: Data) -> tuple[State, Cursor]:
        _, state, cursor = start(self.learner, self.source, key, data)
        # A copy, or a leaf that is the data themselves would be donated with the state.
        state, cursor = jax.tree.map(jnp.copy, (state, cursor))
        if self.per_device:
            state, cursor = jax.tree.map(lambda x: jnp.broadcast_to(x, (self.num_copies, *x.shape)), (state, cursor))
        return state, cursor

    def _body(self, length: int) -> Callable[..., Any]:
        every = self.every if length % self.every == 0 else length
        learner, source = self.learner, self.source
        if self.parallel is not None:
            if self.per_device:
                learner, source = averaged(learner), local_batches(source, self.parallel)
            else:
                source = constrain_batches(source, self.parallel)

        def chunk(key: Key, step: Any, state: State, cursor: Cursor, data: Data) -> Any:
            if self._stacked:
                cursor = jnp.zeros_like(cursor)  # the data are this chunk's own batches
            with bind_axis("data" if self.per_device else None):
                state, cursor, history = unroll(learner, source, length, every)(key, step, state, cursor, data)
            # An infinite sentinel in the state may be meant (a best loss so far); in the parameters it never is.
            no_inf = jax.tree.map(lambda x: jnp.where(jnp.isinf(x), 0, x) if jnp.issubdtype(x.dtype, jnp.inexact) else x, state)
            finite = is_finite(no_inf) & is_finite(learner.params(state))
            # One array: each that the host looks at costs it a copy.
            flags = jnp.stack([finite, jnp.bool_(False) if learner.done is None else learner.done(state)])
            if self.per_device:
                flags = jax.lax.pmin(flags.astype(jnp.int32), "data") > 0  # the host looks at one device only
            return state, cursor, history, flags

        return chunk

    def _chunk(self, length: int, key: Key) -> Callable[..., Any]:
        if length not in self._chunks:
            step = np.int32(0)
            compiled = self._compile(
                self._transformed(self._body(length)), key, step, self.shapes.state, self.shapes.cursor, self._data_shapes(length)
            )
            self._chunks[length] = compiled
            if self.memory is None and not self._debug:
                self.memory = _memory(compiled)
        return self._chunks[length]

    def _transformed(self, body: Callable[..., Any]) -> Any:
        donate = (2, 3)
        if self.parallel is None:
            return jax.jit(body, donate_argnums=donate)
        mesh = self.parallel.mesh
        same, stacked = PartitionSpec(), PartitionSpec("data")
        if self.parallel.mode == "pmap" and jax.process_count() == 1:
            devices = list(mesh.devices.flat)
            return jax.pmap(body, axis_name="data", in_axes=(None, None, 0, 0, None), devices=devices, donate_argnums=donate)
        if self.per_device:  # pmap among several processes too: there it knows only arrays of one process, and cannot be lowered ahead

            def local(key: Key, step: Any, state: State, cursor: Cursor, data: Data) -> Any:
                state, cursor = jax.tree.map(lambda x: x[0], (state, cursor))
                return jax.tree.map(lambda x: x[None], body(key, step, state, cursor, data))

            # The state may differ between devices (environments, noise), so replication cannot be checked.
            specs = (same, same, stacked, stacked, same)
            return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=stacked, check_vma=False), donate_argnums=donate)
        replicated = NamedSharding(mesh, same)
        loop = jax.tree.map(lambda leaf: leaf.sharding, self.shapes)
        return jax.jit(body, donate_argnums=donate, out_shardings=(loop.state, loop.cursor, replicated, replicated))

    def _evaluator(self, key: Key) -> Callable[..., Any]:
        if self._evaluate is None:
            fold = self.learner.evaluate
            assert fold is not None
            parallel = None if self.per_device else self.parallel
            place = fold._replace(step=lambda acc, state, batch: fold.step(acc, state, constrained(batch, parallel)))
            run = evaluate(place, self._batch_size)

            def body(key: Key, step: Any, state: State, data: Data) -> Metrics:
                key = jax.random.fold_in(jax.random.fold_in(key, NO_STEP), step)
                return run(key, jax.tree.map(lambda x: x[0], state) if self.per_device else state, data)

            out = None if self.parallel is None else NamedSharding(self.parallel.mesh, PartitionSpec())
            self._evaluate = self._compile(jax.jit(body, out_shardings=out), key, np.int32(0), self.shapes.state, self._evaluation)
        return self._evaluate

    def _compile(self, transformed: Any, *args: Any) -> Callable[..., Any]:
        if self._debug:
            return self._uncompiled(transformed)
        begin = time.perf_counter()
        with precisions.use(self._precision):
            compiled = transformed.lower(*args).compile()
        self.compile_seconds += time.perf_counter() - begin
        return compiled

    def _uncompiled(self, transformed: Any) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with precisions.use(self._precision), jax.disable_jit(), jax.debug_nans(True):
                return transformed(*args)

        return call

    # Shapes

    def _shapes(self) -> Loop:
        with precisions.use(self._precision):
            state, cursor = jax.eval_shape(self._start, jax.eval_shape(jax.random.key, 0), self.data)
        if self.parallel is None:
            device = SingleDeviceSharding(jax.devices()[0])
            shardings = jax.tree.map(lambda _: device, (state, cursor))
        elif self.per_device:
            stacked = NamedSharding(self.parallel.mesh, PartitionSpec("data"))
            shardings = jax.tree.map(lambda _: stacked, (state, cursor))
        else:
            replicated = NamedSharding(self.parallel.mesh, PartitionSpec())
            shardings = (state_shardings(self.parallel, state), jax.tree.map(lambda _: replicated, cursor))
        return Loop(*jax.tree.map(lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), (state, cursor), shardings))

    def _data_shapes(self, length: int) -> Data:
        # A chunk taken from a HostSource holds as many batches as it has steps.
        return (
            jax.tree.map(lambda x: jax.ShapeDtypeStruct((length, *x.shape[1:]), x.dtype, sharding=x.sharding), self.data)
            if self._stacked
            else self.data
        )

    def _on_host(self, leaf: Any) -> np.ndarray:
        return np.asarray(leaf.addressable_shards[0].data)[0] if self.per_device and not self._debug else np.asarray(leaf)


class Compilations:
    """Counts the programs that jax compiles in this process, whoever asks."""

    count = 0
    _listening = False

    @classmethod
    def listen(cls) -> None:
        """Start counting; further calls change nothing."""
        if not cls._listening:
            cls._listening = True
            jax.monitoring.register_event_duration_secs_listener(cls._heard)

    @classmethod
    def _heard(cls, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            cls.count += 1


@contextlib.contextmanager
def counted() -> Iterator[Callable[[], int]]:
    """How many programs were compiled inside the block.

    >>> with counted() as compilations:
    ...     compilations()
    0
    """
    Compilations.listen()
    begin = Compilations.count
    yield lambda: Compilations.count - begin


def _memory(compiled: Any) -> Memory | None:
    try:
        stats = compiled.memory_analysis()
    except Exception:  # not every backend can say
        return None
    if stats is None:
        return None
    return Memory(stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.temp_size_in_bytes, stats.alias_size_in_bytes)
