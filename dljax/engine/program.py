"""A learner and a source, compiled: the start of a run, chunks of its steps, and the evaluation, on one device or many."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
        self._evaluation = None if evaluation is None else replicate(evaluation, parallel)
        self._batch_size, self._precision, self._stacked, self._debug = batch_size, precision, stacked, debug
        self._programs: dict[str | int, Future[Callable[..., Any]]] = {}  # a chunk by its length
        self._starting = self._start  # one object, by which jax knows that it has traced it
        self.shapes = self._shapes()
        self._first: Callable[..., Any] | None = None

    @functools.cached_property
    def memory(self) -> Memory | None:
        """Of the longest chunk, once one is compiled; None where the backend does not say."""
        lengths = [name for name in self._programs if isinstance(name, int)]
        return _memory(self._programs[max(lengths)].result()) if lengths and not self._debug else None

    def start(self, key: Key) -> tuple[Key, Loop]:
        """The key of the steps, and the state and the cursor at step 0."""
        run_key, state, cursor = self._compiled("start", key)(key, self.data)
        return run_key, Loop(state, cursor)

    def prepare(self, lengths: set[int], key: Key, *, with_start: bool = False) -> None:
        """Compile the start if asked for, the chunks of these lengths and the evaluation, before the first step; any key of the run's kind will do.

        They are traced one after another, and compiled side by side: that is the compiler's work, which holds no lock of Python's.
        """
        begin = time.perf_counter()
        if with_start:
            self._begin("start", key)
        for length in sorted(lengths, reverse=True):
            self._begin(length, key)
        if self._evaluation is not None:
            self._begin("evaluation", key)
        for program in self._programs.values():
            program.result()
        self.compile_seconds += time.perf_counter() - begin

    def chunk(self, key: Key, step: int, length: int, loop: Loop, data: Data | None = None) -> tuple[Loop, History, Flags]:
        """`length` steps from absolute step `step`; the buffers of `loop` are donated.

        Returns:
          `(loop, history, flags)`, the history on the host.
        """
        data = self.data if data is None else data
        state, cursor, history, flags = self._compiled(length, key)(key, np.int32(step), loop.state, loop.cursor, data)
        history, flags = jax.tree.map(self._on_host, (history, flags))
        return Loop(state, cursor), history, Flags(*map(bool, flags))

    def evaluate(self, key: Key, step: int, loop: Loop) -> Metrics:
        """The learner's fold over the evaluation data, on the host; `key` is the run's."""
        return jax.tree.map(np.asarray, self._compiled("evaluation", key)(key, np.int32(step), loop.state, self._evaluation))

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

    def _start(self, key: Key, data: Data) -> tuple[Key, State, Cursor]:
        run_key, state, cursor = start(self.learner, self.source, key, data)
        # A copy, or a leaf that is the data themselves would be donated with the state.
        state, cursor = jax.tree.map(jnp.copy, (state, cursor))
        if self.per_device:
            state, cursor = jax.tree.map(lambda x: jnp.broadcast_to(x, (self.num_copies, *x.shape)), (state, cursor))
        return run_key, state, cursor

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

    def _evaluating(self) -> Any:
        fold = self.learner.evaluate
        assert fold is not None
        parallel = None if self.per_device else self.parallel
        place = fold._replace(step=lambda acc, state, batch: fold.step(acc, state, constrained(batch, parallel)))
        run = evaluate(place, self._batch_size)

        def body(key: Key, step: Any, state: State, data: Data) -> Metrics:
            key = jax.random.fold_in(jax.random.fold_in(key, NO_STEP), step)
            return run(key, jax.tree.map(lambda x: x[0], state) if self.per_device else state, data)

        return jax.jit(body, out_shardings=None if self.parallel is None else NamedSharding(self.parallel.mesh, PartitionSpec()))

    # Compilation

    def _compiled(self, name: str | int, key: Key) -> Callable[..., Any]:
        if name not in self._programs:
            begin = time.perf_counter()
            self._begin(name, key)
            self._programs[name].result()
            self.compile_seconds += time.perf_counter() - begin
        return self._programs[name].result()

    def _begin(self, name: str | int, key: Key) -> None:
        """Trace a program, and have it compiled by another thread."""
        if name in self._programs:
            return
        args: tuple[Any, ...]
        if name == "start":
            shardings = jax.tree.map(lambda leaf: leaf.sharding, self.shapes)
            where = SingleDeviceSharding(jax.devices()[0]) if self.parallel is None else NamedSharding(self.parallel.mesh, PartitionSpec())
            transformed, args = jax.jit(self._starting, out_shardings=(where, *shardings)), (key, self.data)
        elif name == "evaluation":
            transformed, args = self._evaluating(), (key, np.int32(0), self.shapes.state, self._evaluation)
        else:
            length = int(name)
            transformed, args = self._transformed(self._body(length)), (key, np.int32(0), *self.shapes, self._data_shapes(length))
        if self._debug:
            self._programs[name] = _finished(self._uncompiled(transformed))
            return
        with precisions.use(self._precision):
            lowered = transformed.lower(*args)
        # Processes must compile in the same order, for they may tell each other what they find.
        self._programs[name] = _COMPILERS.submit(lowered.compile) if jax.process_count() == 1 else _finished(lowered.compile())

    def _uncompiled(self, transformed: Any) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with precisions.use(self._precision), jax.disable_jit(), jax.debug_nans(True):
                return transformed(*args)

        return call

    # Shapes

    def _shapes(self) -> Loop:
        with precisions.use(self._precision):
            _, state, cursor = jax.eval_shape(self._starting, jax.eval_shape(jax.random.key, 0), self.data)
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


_COMPILERS = ThreadPoolExecutor(3, thread_name_prefix="dljax-compile")


def _finished(value: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(value)
    return future


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
