"""`fit`: the imperative shell around `unroll`. It compiles, loops, reports, evaluates, saves and resumes any learner."""

import base64
import dataclasses
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np

from dljax.core import contract
from dljax.core.checks import check_int
from dljax.core.contract import EMPTY, Data, HostSource, Key, Learner, Params, Source, State
from dljax.core.experiment import Experiment
from dljax.core.tree import is_key, num_bytes, num_params
from dljax.engine.checkpoint import Checkpoints, Found, import_orbax_meanwhile, read
from dljax.engine.folder import RunFolder, read_config
from dljax.engine.host import Chunk, Feed, stacked
from dljax.engine.log import JsonLines, Logger, Progress, Record, TensorBoard, Values, divided, number
from dljax.engine.parallel import choose, copied, on_any_process, replicate
from dljax.engine.plan import FitConfig, Plan
from dljax.engine.profile import use_compilation_cache
from dljax.engine.program import Program, counted


class NonFiniteError(FloatingPointError):
    """A metric or the state is no longer finite. `run` is what was reached; its last checkpoint is finite."""

    def __init__(self, message: str, run: "Run") -> None:
        super().__init__(message)
        self.run = run


class Snapshot(NamedTuple):
    """What a callback gets, once a chunk: copies on the host, free to keep."""

    step: int
    params: Params
    metrics: Values


@dataclass(frozen=True)
class Run:
    """What a run reached.

    Attributes:
      learner, state, step: the learner and its state after `step` steps; `params` is its part to use.
      status: "done" (all steps, or the learner said so), "stopped" (early), "interrupted" (a signal; saved) or "nonfinite".
      history: name -> [R] NumPy array, NaN where a report had nothing to say; `history["step"]` [R] is the last step of each report.
      evaluations: the same for the evaluations.
      result: the figures of speed and what else `result.json` says.
      out: the run folder, or None.
    """

    learner: Learner
    state: State
    step: int
    status: str
    history: Mapping[str, np.ndarray]
    evaluations: Mapping[str, np.ndarray]
    result: dict[str, Any] = field(default_factory=dict)
    out: Path | None = None

    @property
    def params(self) -> Params:
        """What the learner says is to be evaluated, exported and acted with."""
        return self.learner.params(self.state)

    @property
    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """What the learned parameters can do, `name -> (key, ...) -> arrays`, jitted."""
        return {name: functools.partial(_bound, jax.jit(function), self.params) for name, function in self.learner.functions.items()}


def train(
    experiment: Experiment,
    key: Key,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    describe: Mapping[str, Any] | None = None,
    config: FitConfig | None = None,
    callbacks: Sequence[Callable[[Snapshot], bool | None]] = (),
    loggers: Sequence[Logger] = (),
) -> Run:
    """`fit` for an `Experiment`; what the experiment says about reports and evaluation fills the gaps of `config`.

    >>> def step(key, state, batch):
    ...     return {"params": state["params"] / 2}, {"x": state["params"]}
    >>> halve = Learner(lambda key, batch: {"params": 1.0}, step)
    >>> float(train(Experiment(halve, steps=3), jax.random.key(0)).params)
    0.125
    """
    config = config or FitConfig()
    given = {name: getattr(experiment, name) for name in ("every", "evaluate_every", "batch_size")}
    gaps = {name: value for name, value in given.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, **gaps, per_step=experiment.per_step, unit=experiment.unit)
    return fit(
        experiment.learner,
        experiment.source,
        experiment.steps,
        key,
        evaluation=experiment.evaluation,
        out=out,
        resume=resume,
        describe=describe,
        config=config,
        callbacks=callbacks,
        loggers=loggers,
    )


def fit(
    learner: Learner,
    source: Source | HostSource = EMPTY,
    steps: int = 1000,
    key: Key | None = None,
    *,
    evaluation: Data | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    describe: Mapping[str, Any] | None = None,
    config: FitConfig | None = None,
    callbacks: Sequence[Callable[[Snapshot], bool | None]] = (),
    loggers: Sequence[Logger] = (),
) -> Run:
    """Train: compile one chunk of steps, run it until the end, and keep what it says.

    A run is a pure function of its key: killed and resumed it gives the same parameters and the same history, bit for bit, on the same
    software and the same number and kind of devices.

    Args:
      learner, source: what learns and from what; a `HostSource` is read a chunk ahead of the device.
      steps: where the run ends, >= 1; more than a saved run had extends it.
      key: of the whole run; `jax.random.key(0)` where None.
      evaluation: what `learner.evaluate` folds over; None for no evaluation.
      out: the run folder for metrics, checkpoints and result; None keeps everything in memory.
      resume: go on with the run in `out`, from its last whole checkpoint; with none, start at the beginning.
      describe: what else makes the run what it is (the recipe, its options), JSON values; a resumed run must say the same.
      config: a `FitConfig`.
      callbacks: each called with a `Snapshot` after every chunk; returning True stops the run.
      loggers: `Logger`s besides the run folder's own.
    Returns:
      A `Run`.
    Raises:
      ValueError, TypeError: options that do not fit, before anything is compiled.
      RunFolderError, CheckpointError: the folder or its checkpoints cannot be used; nothing in it was changed.
      NonFiniteError: at the end of the chunk that went non-finite, naming its first bad step; the last checkpoint is finite.

    >>> def step(key, state, batch):
    ...     return {"params": state["params"] / 2}, {"x": state["params"]}
    >>> halve = Learner(lambda key, batch: {"params": 1.0}, step)
    >>> run = fit(halve, steps=4, config=FitConfig(every=2))
    >>> float(run.params), run.history["x"].tolist(), run.history["step"].tolist()
    (0.0625, [0.75, 0.1875], [2, 4])
    """
    config = config or FitConfig()
    check_int("fit", "steps", steps, minimum=1)
    if evaluation is not None and learner.evaluate is None:
        raise ValueError("fit: evaluation data were given, but the learner has no `evaluate` fold; leave them out or give it one")
    if resume and out is None:
        raise ValueError("fit: resume needs the folder of the run; pass out")
    if config.early_stopping is not None and evaluation is None:
        raise ValueError("fit: early_stopping looks at evaluations, but there are no evaluation data; pass evaluation or leave it out")
    key = jax.random.key(0) if key is None else key
    if not is_key(key) or key.shape != ():
        raise TypeError(f"fit: key must be one typed random key such as jax.random.key(0), got {key!r}")
    with ExitStack() as stack:
        trainer = _Trainer(stack, learner, source, steps, key, evaluation, config, None if out is None else Path(out).absolute(), resume)
        return trainer.run(dict(describe or {}), callbacks, loggers)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM and SIGINT only raise a flag; a second SIGINT interrupts at once. Outside the main thread nothing changes.

    >>> with interruptible() as interrupted:
    ...     interrupted()
    False
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(signum: int, frame: FrameType | None) -> None:
        if asked.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {signum: signal.signal(signum, ask) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked.is_set
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class _Trainer:
    """One call of `fit`: all that is not pure."""

    def __init__(
        self,
        stack: ExitStack,
        learner: Learner,
        source: Source | HostSource,
        steps: int,
        key: Key,
        evaluation: Data | None,
        config: FitConfig,
        out: Path | None,
        resume: bool,
    ) -> None:
        self.begin = time.perf_counter()
        self.stack, self.learner, self.source, self.key, self.evaluation, self.config, self.out = stack, learner, source, key, evaluation, config, out
        self.resume = resume
        self.plan = Plan.make(steps, config, read_config(out) if out is not None and resume else None)
        self.is_main = jax.process_index() == 0
        self.step = 0
        self.status, self.message = "done", ""
        self.is_done = False
        self.has_begun = False
        self.checkpoints: Checkpoints | None = None
        self.folder: RunFolder | None = None
        self.feed: Feed | None = None
        self.chunk: Chunk | None = None
        self.progress: Progress | None = None

    def run(self, describe: dict[str, Any], callbacks: Sequence[Callable[[Snapshot], bool | None]], loggers: Sequence[Logger]) -> Run:
        """Open, compile, loop, close."""
        found = self._open(describe)
        segments = self.plan.segments(self.step)
        source = self._feed(found, [length for _, length in segments])
        config = self.config
        parallel = choose(self.learner, source) if isinstance(config.parallel, str) else config.parallel
        self._show_progress()
        use_compilation_cache()
        self.program = Program(
            self.learner,
            source,
            every=self.plan.every,
            parallel=parallel,
            precision=config.precision,
            evaluation=self.evaluation,
            batch_size=config.batch_size,
            stacked=self.feed is not None,
            debug=config.debug,
        )
        key = replicate(self.key, parallel)
        self.program.prepare({length for _, length in segments}, key, with_start=found is None)
        if found is None:
            self.run_key, self.loop = self.program.start(key)
        else:
            self.run_key, self.loop = contract.run_key(key), read(found, self.program.shapes, per_device=self.program.per_device)
        if self.folder is not None:
            self.folder.write_config()
        self._start_record(loggers)
        self._say(self._header())
        if found is not None and (self._is_enough() or self._is_at_end(found.meta["host"].get("done", False))):
            segments = []  # it had ended early; perhaps it was killed before it could say so
        if self.progress is not None:
            self.progress.begin()
        if self.checkpoints is not None and segments:
            import_orbax_meanwhile()
        self.trained = self.saved = time.perf_counter()
        self.has_begun = True
        with interruptible() as interrupted, counted() as compilations:
            recompilations = 0
            for index, (begin, length) in enumerate(segments):
                before = compilations()
                self._advance(begin, length, first=index == 0)
                if self.status == "done":
                    self._evaluate()
                    self._ask(callbacks, interrupted)
                recompilations += compilations() - before if index > 0 else 0
                if self.status == "nonfinite":
                    break
                self._save(begin)  # what it compiles, once, is not the loop's
                if self.status != "done" or self.is_done:
                    break
        return self._close(segments[0][0] if segments else self.step, recompilations)

    # Before the loop

    def _open(self, describe: dict[str, Any]) -> Found | None:
        if self.out is None:
            return None
        if self.is_main:
            identity = {
                **describe,
                "key": np.asarray(jax.random.key_data(self.key)).tolist(),
                "precision": str(self.config.precision),
                **self.plan._asdict(),
            }
            self.folder = RunFolder(self.out, identity, resume=self.resume)
            self.stack.callback(self.folder.close)
            if self.folder.is_new:
                self.folder.write_config()  # so that a run killed while it compiles can be resumed
                self.stack.push(self._forget_false_start)
        self.checkpoints = Checkpoints(self.out / "checkpoints", keep=self.config.keep)
        self.stack.callback(self.checkpoints.close)
        found = self.checkpoints.latest() if self.resume else None
        self.step = 0 if found is None else found.step
        if self.step > self.plan.steps:
            raise ValueError(f"fit: steps={self.plan.steps}, but {self.out} has been trained for {self.step} already; use at least {self.step}")
        return found

    def _forget_false_start(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception) and self.folder is not None and not self.has_begun:
            self.folder.forget()

    def _feed(self, found: Found | None, lengths: list[int]) -> Source:
        if isinstance(self.source, Source):
            return self.source
        if found is not None:
            self.source.restore(base64.b64decode(found.meta["host"]["position"]))
        self.feed = Feed(self.source, lengths or [1])
        self.stack.callback(self.feed.close)
        self.chunk = self.feed.next()
        return stacked(self.chunk.batches)

    def _show_progress(self) -> None:
        if self.config.progress and self.is_main:
            self.progress = Progress(self.plan.steps, step=self.step, per_step=self.config.per_step, unit=self.config.unit)
            self.stack.callback(self.progress.close)

    def _start_record(self, loggers: Sequence[Logger]) -> None:
        own: list[Logger] = []
        if self.folder is not None:
            own = [JsonLines(self.folder.path, self.step), *([TensorBoard(self.folder.path)] if self.config.tensorboard else [])]
        self.record = Record(self.out, self.step, [*own, *loggers] if self.is_main else [])
        for logger in own:
            self.stack.callback(logger.close)

    def _header(self) -> str:
        program = self.program
        where = program.parallel.describe() if program.parallel else {"device": jax.devices()[0].device_kind}
        where |= {"threads": os.environ["NPROC"]} if "NPROC" in os.environ and jax.default_backend() == "cpu" else {}
        memory = f", {program.memory.total / 2**20:,.0f} MiB a device" if program.memory else ""
        begin = f"from step {self.step} to {self.plan.steps}" if self.step else f"{self.plan.steps} steps"
        placed = ", ".join(f"{name}={value}" for name, value in where.items())
        params = num_params(jax.eval_shape(self.learner.params, program.shapes.state)) // program.num_copies
        return f"{begin}, {params:,} parameters on {placed}{memory}; compiled in {program.compile_seconds:.1f} s"

    # The loop

    def _advance(self, begin: int, length: int, *, first: bool) -> None:
        data = None
        if self.feed is not None:
            self.chunk = self.chunk if first and self.chunk is not None else self.feed.next()
            data = replicate(self.chunk.batches, self.program.parallel)
        self.loop, history, flags = self.program.chunk(self.run_key, begin, length, self.loop, data)
        self.step = begin + length
        names = list(history.metrics)
        columns = {name: divided(mean) for name, mean in history.metrics.items()}
        rows = len(columns[names[0]]) if names else 0
        for row in range(rows):
            values = {name: number(column[row]) for name, column in columns.items()}
            self.record.add("metrics", begin + (row + 1) * (length // rows), values)
        if self.progress is not None:
            self.progress.update(self.step, values if rows else {})
        if int(history.bad_step) >= 0 or not flags.finite:
            self.status, self.message = "nonfinite", self._what_went_bad(int(history.bad_step))
        else:
            self._is_at_end(flags.done)

    def _is_at_end(self, done: bool) -> bool:
        # Where the steps end within a chunk, a longer run would go on to the chunk's end: so does one that extends this.
        self.is_done = done and self.step % self.plan.chunk == 0
        if self.is_done:
            self.message = f"the learner was done after at most {self.step} steps"
        return self.is_done

    def _what_went_bad(self, bad_step: int) -> str:
        kept = []
        if self.checkpoints is not None:
            self.checkpoints.wait()
            kept = self.checkpoints.steps()
        what = (
            f"a metric is not finite at step {bad_step}"
            if bad_step >= 0
            else f"the state is not finite after step {self.step - 1} (the metrics still were)"
        )
        last = f"the checkpoint of step {kept[-1]} in {self.out} is finite" if kept else "no checkpoint was saved before"
        return f"{what}; {last}. Lower the learning rate, clip the gradient, or look with debug=True"

    def _evaluate(self) -> None:
        is_last = self.is_done or self.step == self.plan.steps
        if self.evaluation is None or (self.step % self.plan.evaluate_every and not is_last):
            return
        values = {name: number(divided(mean)) for name, mean in self.program.evaluate(self.run_key, self.step, self.loop).items()}
        self.record.add("evaluation", self.step, values)
        self._say(f"step {self.step}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None))

    def _ask(self, callbacks: Sequence[Callable[[Snapshot], bool | None]], interrupted: Callable[[], bool]) -> None:
        if callbacks:
            params = self.learner.params(self.program.unstacked(self.loop).state)
            metrics = self.record.rows["metrics"][-1] if self.record.rows["metrics"] else {}
            answers = [callback(Snapshot(self.step, copied(params), dict(metrics))) for callback in callbacks]
            if on_any_process(any(answers)):
                self.status, self.message = "stopped", f"a callback stopped the run at step {self.step}"
        if not self.is_done:
            self._is_enough()
        if on_any_process(interrupted()):
            self.status, self.message = "interrupted", f"interrupted at step {self.step}"

    def _is_enough(self) -> bool:
        stopping = self.config.early_stopping
        if stopping is None or not stopping.reached(self.record.series(stopping.metric)):
            return False
        self.status, self.message = "stopped", f"{stopping.metric} has not improved for {stopping.patience} evaluations"
        return True

    def _save(self, begin: int) -> None:
        every = self.config.checkpoint_every
        due = time.perf_counter() - self.saved > 30 if every is None else begin // every != self.step // every
        if jax.process_count() > 1 and every is None:
            due = False  # clocks differ between processes, and all must save together
        if self.checkpoints is None or not (due or self.is_done or self.step == self.plan.steps or self.status != "done"):
            return
        for logger in self.record.loggers:
            if isinstance(logger, JsonLines):
                logger.sync()
        host: dict[str, Any] = {"position": base64.b64encode(self.chunk.position).decode()} if self.chunk is not None else {}
        if self.is_done:
            host["done"] = True
        self.checkpoints.save(self.step, self.loop, host, per_device=self.program.per_device)
        self.saved = time.perf_counter()

    # After the loop

    def _close(self, first: int, recompilations: int) -> Run:
        seconds = time.perf_counter() - self.trained
        if self.checkpoints is not None:
            self.checkpoints.wait()
        rate = (self.step - first) / seconds if self.step > first else 0.0
        memory = self.program.memory
        result = {
            "status": self.status,
            "message": self.message,
            "step": self.step,
            "steps": self.plan.steps,
            "seconds": time.perf_counter() - self.begin,
            "compile_seconds": self.program.compile_seconds,
            "recompilations": recompilations,
            "steps_per_second": rate,
            "units_per_second": rate * self.config.per_step,
            "unit": self.config.unit,
            "parallel": self.program.parallel.describe() if self.program.parallel else None,
            "memory_bytes": {**memory._asdict(), "total": memory.total} if memory else None,
            "state_bytes": num_bytes(self.program.shapes),
            **(self.program.cost(rate) if seconds > 10 or self.config.tensorboard else {}),
        }
        if self.folder is not None:
            self.folder.write_result(result)
        state = self.program.unstacked(self.loop).state
        run = Run(self.learner, state, self.step, self.status, self.record.arrays("metrics"), self.record.arrays("evaluation"), result, self.out)
        if self.status == "nonfinite":
            raise NonFiniteError(self.message, run)
        return run

    def _say(self, message: str) -> None:
        if self.progress is not None:
            self.progress.say(message)


def _bound(function: Callable[..., Any], params: Params, key: Key, *args: Any) -> Any:
    return function(key, params, *args)
