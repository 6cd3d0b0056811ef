"""Members of a sweep in lanes: one program for all that share a structure, vmapped or one member a device, whichever is faster."""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dljax.core import precision as precisions
from dljax.core.contract import Data, Learner, Params, Source, State, run_key, start
from dljax.core.experiment import Experiment
from dljax.core.flops import equations
from dljax.core.tree import is_finite
from dljax.core.unroll import evaluate, unroll
from dljax.engine.checkpoint import Checkpoints, read
from dljax.engine.fit import interruptible
from dljax.engine.folder import RunFolder, read_config
from dljax.engine.log import JsonLines, Logger, Progress, Record, TensorBoard, divided, number, of_member
from dljax.engine.plan import FitConfig, Plan
from dljax.engine.program import NO_STEP, counted

BATCHINGS = ("auto", "vmap", "loop", "devices")


class Lanes(NamedTuple):
    """How members are laid out: `devices` x `width` at a time, `width` of them vmapped on each device."""

    devices: int
    width: int

    @property
    def size(self) -> int:
        """Members of one call."""
        return self.devices * self.width


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
      options: the values of the grid it has.
      seed: its key is `jax.random.key(seed)`.
      status: "done", "interrupted" or "nonfinite"; `message` says where.
      history, evaluations: name -> [R] arrays, NaN for nothing.
      learner, state: its learner and last state; `params` is its part to use.
    """

    options: Mapping[str, Any]
    seed: int
    status: str
    message: str
    history: Mapping[str, np.ndarray]
    evaluations: Mapping[str, np.ndarray]
    learner: Learner
    state: State

    @property
    def params(self) -> Params:
        """What the learner says is to be evaluated, exported and acted with."""
        return self.learner.params(self.state)

    def last(self, name: str) -> float:
        """The last value of an evaluation metric, or of a training metric where there is no such evaluation; NaN where there is none.

        Raises:
          KeyError: neither has that name.
        """
        for rows in (self.evaluations, self.history):
            if name in rows:
                known = rows[name][~np.isnan(rows[name])]
                return float(known[-1]) if len(known) and self.status != "nonfinite" else float("nan")
        raise KeyError(f"sweep: no metric {name!r}; there are {sorted({*self.evaluations, *self.history} - {'step'})}")


class Outcome(NamedTuple):
    """What a group of members reached: the members and the figures of `result.json`."""

    members: tuple[Member, ...]
    result: dict[str, Any]


def experiment_of(factory: Callable[..., Learner | Experiment], given: Experiment, options: Mapping[str, Any]) -> Experiment:
    """What a factory makes of options; a bare learner gets the rest from `given`."""
    made = factory(**options)
    return made if isinstance(made, Experiment) else dataclasses.replace(given, learner=made)


class Group:
    """The members that share a structure, hence a program."""

    def __init__(
        self,
        factory: Callable[..., Learner | Experiment],
        given: Experiment,
        structure: Mapping[str, Any],
        points: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        config: FitConfig,
        batching: str,
    ) -> None:
        self.factory, self.given, self.structure, self.batching = factory, given, structure, batching
        self.options = [{**structure, **point} for point in points for _ in seeds]
        self.seeds = [seed for _ in points for seed in seeds]
        self.size = len(self.seeds)
        # Each point is built once with its values: they are checked here, a tracer is not.
        experiments = [experiment_of(factory, given, {**structure, **point}) for point in points]
        self.experiment = experiment = experiments[0]
        self.learners = [each.learner for each in experiments for _ in seeds]
        if not isinstance(experiment.source, Source):
            raise ValueError("sweep: members share a program, which a HostSource cannot feed; use a Source, or fit them one by one")
        self.source = experiment.source
        gaps = {name: getattr(experiment, name) for name in ("every", "evaluate_every", "batch_size") if getattr(config, name) is None}
        self.config = dataclasses.replace(config, **gaps, per_step=experiment.per_step, unit=experiment.unit)
        self.hyper = {name: np.asarray([options[name] for options in self.options]) for name in (points[0] if points else {})}
        self.compile_seconds = 0.0

    # Pure bodies of one member

    def _parts(self, hyper: Mapping[str, Any]) -> tuple[Learner, Source]:
        """The learner of these options, and the source: its functions may depend on them, its data do not."""
        if not hyper:
            return self.experiment.learner, self.source
        made = experiment_of(self.factory, self.given, {**self.structure, **hyper})
        assert isinstance(made.source, Source)
        return made.learner, made.source

    def start_member(self, hyper: Any, key: Any, data: Any) -> Any:
        _, state, cursor = start(*self._parts(hyper), key, data)
        return jax.tree.map(jnp.copy, (state, cursor))

    def chunk_member(self, length: int) -> Callable[..., Any]:
        every = self.plan.every if length % self.plan.every == 0 else length

        def body(hyper: Any, key: Any, step: Any, carry: Any, data: Any) -> Any:
            learner, source = self._parts(hyper)
            state, cursor, history = unroll(learner, source, length, every)(run_key(key), step, *carry, data)
            done = jnp.bool_(False) if learner.done is None else learner.done(state)
            return (state, cursor), (history, jnp.stack([is_finite(learner.params(state)), done]))

        return body

    def evaluate_member(self, hyper: Any, key: Any, step: Any, carry: Any, data: Any) -> Any:
        key = jax.random.fold_in(jax.random.fold_in(run_key(key), NO_STEP), step)
        fold = self._parts(hyper)[0].evaluate
        assert fold is not None
        return evaluate(fold, self.config.batch_size)(key, carry[0], data)

    # Lanes

    def mapped(self, lanes: Lanes, body: Callable[..., Any], shared: tuple[int, ...], donate: tuple[int, ...] = ()) -> Any:
        """`body` of one member as a jitted function of a round of members; the arguments in `shared` are the same for all."""

        def local(*args: Any) -> Any:
            if lanes.width > 1:
                return jax.vmap(body, in_axes=tuple(None if index in shared else 0 for index in range(len(args))))(*args)
            single = [arg if index in shared else jax.tree.map(lambda x: x[0], arg) for index, arg in enumerate(args)]
            return jax.tree.map(lambda x: x[None], body(*single))

        def mapped(*args: Any) -> Any:
            if lanes.devices == 1:
                return local(*args)
            specs = tuple(PartitionSpec() if index in shared else PartitionSpec("seed") for index in range(len(args)))
            return jax.shard_map(local, mesh=self._mesh(lanes), in_specs=specs, out_specs=PartitionSpec("seed"), check_vma=False)(*args)

        return jax.jit(mapped, donate_argnums=donate)

    def _mesh(self, lanes: Lanes) -> Mesh:
        return Mesh(np.asarray(jax.devices()[: lanes.devices]), ("seed",), axis_types=(AxisType.Auto,))

    def place(self, lanes: Lanes, tree: Any, spec: PartitionSpec) -> Any:
        return tree if lanes.devices == 1 else jax.device_put(tree, NamedSharding(self._mesh(lanes), spec))

    def rounds(self, lanes: Lanes) -> list[np.ndarray]:
        """The members of each call; the last is filled up with its own first member."""
        indices = [np.arange(begin, min(begin + lanes.size, self.size)) for begin in range(0, self.size, lanes.size)]
        return [np.concatenate([round_, np.full(lanes.size - len(round_), round_[0])]) for round_ in indices]

    def _candidates(self) -> list[Lanes]:
        devices = min(jax.local_device_count(), self.size)
        vmap, loop, spread = Lanes(1, self.size), Lanes(1, 1), Lanes(devices, 1)
        wide = Lanes(devices, -(-self.size // devices))
        named = {"vmap": [wide if devices > 1 and self.size % devices == 0 else vmap], "loop": [loop], "devices": [spread]}
        if self.batching != "auto":
            return named[self.batching]
        if self.size == 1:
            return [loop]
        single = spread if devices > 1 else loop
        if jax.devices()[0].platform == "cpu" and self._has_convolutions():
            return [single]  # XLA's CPU convolutions lose several times over under vmap
        return [single, *named["vmap"]]

    def _has_convolutions(self) -> bool:
        key = jax.eval_shape(jax.random.key, 0)
        first = {name: values[0] for name, values in self.hyper.items()}
        carry = jax.eval_shape(self.start_member, first, key, self.source.data)
        jaxpr = jax.make_jaxpr(self.chunk_member(1))(first, key, np.int32(0), carry, self.source.data)
        return any(eqn.primitive.name == "conv_general_dilated" for eqn, _ in equations(jaxpr.jaxpr))

    # Running

    def run(self, out: Path | None, resume: bool, describe: dict[str, Any]) -> "Outcome":
        """Choose the lanes, compile, loop, and gather the members."""
        experiment, config = self.experiment, self.config
        if experiment.evaluation is not None and experiment.learner.evaluate is None:
            raise ValueError("sweep: evaluation data were given, but the learner has no `evaluate` fold; leave them out or give it one")
        stored = read_config(out) if out is not None and resume else None
        self.plan = Plan.make(experiment.steps, config, stored)
        self.status = ["done"] * self.size
        self.messages = [""] * self.size
        self.frozen: dict[int, Any] = {}
        with ExitStack() as stack:
            return self._run(stack, out, resume, describe, stored)

    def _run(self, stack: ExitStack, out: Path | None, resume: bool, describe: dict[str, Any], stored: Mapping[str, Any] | None) -> "Outcome":
        plan, config = self.plan, self.config
        progress = Progress(plan.steps, per_step=config.per_step * self.size, unit=config.unit) if config.progress else None
        if progress is not None:
            stack.callback(progress.close)
        compiled = self._compiled(stored)
        step, found, checkpoints = 0, None, None
        if out is not None:
            members = [{**options, "seed": seed} for options, seed in zip(self.options, self.seeds, strict=True)]
            identity = {**describe, "members": members, "lanes": list(compiled.lanes), "precision": str(config.precision), **plan._asdict()}
            folder = RunFolder(out, identity, resume=resume)
            stack.callback(folder.close)
            checkpoints = Checkpoints(out / "checkpoints", keep=config.keep)
            stack.callback(checkpoints.close)
            found = checkpoints.latest() if resume else None
            step = found.step if found else 0
            if step > plan.steps:
                raise ValueError(f"sweep: steps={plan.steps}, but {out} has been trained for {step} already; use at least {step}")
            folder.write_config()
        loggers: list[Logger] = [] if out is None else [JsonLines(out, step), *([TensorBoard(out)] if config.tensorboard else [])]
        record = Record(out, step, loggers)
        for logger in loggers:
            stack.callback(logger.close)
        if found is None:
            carries = [compiled.start(index) for index in range(len(compiled.rounds))]
        else:
            carries, self.frozen = read(found, ([compiled.carry] * len(compiled.rounds), self._frozen_shapes(compiled, found.meta["host"]["frozen"])))
            self.status, self.messages = found.meta["host"]["status"], found.meta["host"]["messages"]
        if progress is not None:
            progress.say(f"{self.size} members, {compiled.lanes.size} at a time; compiled in {self.compile_seconds:.1f} s")
            progress.begin()
        begin, saved, interrupt = time.perf_counter(), time.perf_counter(), False
        first_step, recompilations = step, 0
        with interruptible() as interrupted, counted() as compilations:
            for first, length in [] if len(self.frozen) == self.size else plan.segments(step):
                before = compilations()
                outputs = []
                for index in range(len(carries)):
                    carries[index], output = compiled.chunk(index, first, length, carries[index])
                    outputs.append(output)
                step = first + length
                ended = self._report(compiled, record, first, length, outputs, carries)
                if progress is not None:
                    latest = record.rows["metrics"][-1] if record.rows["metrics"] else {}
                    progress.update(step, {name: values[0] for name, values in latest.items() if isinstance(values, list)})
                is_due = step % plan.evaluate_every == 0 or step == plan.steps
                if compiled.has_evaluation and (is_due or ended):
                    results = [compiled.evaluate(index, step, carry) for index, carry in enumerate(carries)]
                    shown = ended | ({*range(self.size)} - self.frozen.keys() if is_due else set())
                    record.add("evaluation", step, {name: self._column(compiled, [result[name] for result in results], shown) for name in results[0]})
                recompilations += compilations() - before if first > first_step else 0
                interrupt = interrupted()
                last = step == plan.steps or interrupt or len(self.frozen) == self.size
                due = (
                    time.perf_counter() - saved > 30
                    if config.checkpoint_every is None
                    else first // config.checkpoint_every != step // config.checkpoint_every
                )
                if checkpoints is not None and (last or due):
                    host = {"status": self.status, "messages": self.messages, "frozen": sorted(self.frozen)}
                    checkpoints.save(step, (carries, self.frozen), host)
                    saved = time.perf_counter()
                if last:
                    break
        if checkpoints is not None:
            checkpoints.wait()
        seconds = time.perf_counter() - begin
        rate = (step - first_step) / max(seconds, 1e-9)
        result: dict[str, Any] = {
            "status": "interrupted" if interrupt and step < plan.steps else "done",
            "message": "; ".join(f"member {index}: {message}" for index, message in enumerate(self.messages) if message),
            "step": step,
            "steps": plan.steps,
            "seconds": seconds,
            "compile_seconds": self.compile_seconds,
            "recompilations": recompilations,
            "steps_per_second": rate,
            "units_per_second": rate * config.per_step * self.size,
            "unit": config.unit,
            "lanes": compiled.lanes._asdict(),
            "batching": self.measured,
        }
        if out is not None:
            folder.write_result(result)
        return Outcome(self._members(compiled, record, carries, result["status"]), result)

    def _compiled(self, stored: Mapping[str, Any] | None) -> "Compiled":
        """The functions in the fastest layout of lanes, or in that of the sweep that is resumed."""
        candidates = [Lanes(*stored["lanes"])] if stored is not None and "lanes" in stored else self._candidates()
        if candidates[0].devices > jax.local_device_count():
            raise ValueError(
                f"sweep: the sweep that is resumed has its members on {candidates[0].devices} devices, but there are {jax.local_device_count()}; "
                "start with as many, or train again into another folder"
            )
        lengths = {length for _, length in self.plan.segments(0)}
        compiled = [Compiled(self, lanes, lengths, self.experiment.evaluation) for lanes in candidates]
        self.compile_seconds = sum(one.compile_seconds for one in compiled)
        self.measured: dict[str, float] = {}
        if len(compiled) == 1:
            return compiled[0]
        seconds = [one.seconds_per_chunk(max(lengths)) for one in compiled]
        self.measured = {f"{one.lanes.devices} x {one.lanes.width}": cost for one, cost in zip(compiled, seconds, strict=True)}
        return compiled[seconds.index(min(seconds))]

    def _column(self, compiled: "Compiled", parts: list[Any], shown: Collection[int], row: int | None = None) -> list[float | None]:
        """One metric of the members shown, None for the others, from the rounds' `Mean`s."""
        column: list[float | None] = [None] * self.size
        for members, part in zip(compiled.rounds, parts, strict=True):
            values = divided(part)
            for lane, member in enumerate(members):
                if member in shown:
                    column[member] = number(values[lane] if row is None else values[lane, row])
        return column

    def _report(self, compiled: "Compiled", record: Record, first: int, length: int, outputs: list[Any], carries: list[Any]) -> set[int]:
        """Add a chunk to the record, and freeze the members that it ends: those that went bad, and those that are done, which are returned."""
        outputs = jax.tree.map(np.asarray, outputs)
        histories, running = [history for history, _ in outputs], {*range(self.size)} - self.frozen.keys()
        names = list(histories[0].metrics)
        rows = histories[0].metrics[names[0]].total.shape[1] if names else 0
        for row in range(rows):
            values = {name: self._column(compiled, [history.metrics[name] for history in histories], running, row) for name in names}
            record.add("metrics", first + (row + 1) * (length // rows), values)
        ended = set()
        for index, (members, (history, flags)) in enumerate(zip(compiled.rounds, outputs, strict=True)):
            is_bad = (history.bad_step >= 0) | ~flags[:, 0]
            bad = dict(zip(members[is_bad].tolist(), history.bad_step[is_bad].tolist(), strict=True))
            fresh = {member: step for member, step in bad.items() if member in running}
            # Within a chunk a longer sweep would go on to its end: so does one that extends this.
            is_boundary = (first + length) % self.plan.chunk == 0
            done = {*members[flags[:, 1] & is_boundary].tolist()} & (running - bad.keys())
            ended |= done
            for member in [*fresh, *done]:
                lane = int(np.flatnonzero(members == member)[0])
                self.frozen[member] = jax.tree.map(lambda x, lane=lane: jnp.copy(x[lane]), carries[index])
                self.messages[member] = f"the learner was done after at most {first + length} steps"
            for member, bad_step in fresh.items():
                self.status[member] = "nonfinite"
                self.messages[member] = (
                    f"a metric is not finite at step {bad_step}"
                    if bad_step >= 0
                    else f"the parameters are not finite after step {first + length - 1}"
                )
            is_sound = [self.status[member] != "nonfinite" for member in members]
            if fresh and any(is_sound):
                # Its lane goes on as a copy of a sound one: NaN would only slow it down.
                source = np.asarray([lane if sound else is_sound.index(True) for lane, sound in enumerate(is_sound)])
                carries[index] = jax.tree.map(lambda x, source=source: jax.device_put(x[source], x.sharding), carries[index])
        return ended

    def _frozen_shapes(self, compiled: "Compiled", members: Sequence[int]) -> dict[int, Any]:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=device), compiled.carry)
        return dict.fromkeys(members, one)

    def _members(self, compiled: "Compiled", record: Record, carries: list[Any], status: str) -> tuple[Member, ...]:
        histories, evaluations = record.arrays("metrics"), record.arrays("evaluation")
        where = {int(member): (index, lane) for index, members in enumerate(compiled.rounds) for lane, member in reversed(list(enumerate(members)))}
        made = []
        for member, (options, seed) in enumerate(zip(self.options, self.seeds, strict=True)):
            index, lane = where[member]
            carry = self.frozen[member] if member in self.frozen else jax.tree.map(lambda x, lane=lane: x[lane], carries[index])
            own = of_member(histories, member), of_member(evaluations, member)
            state = self.status[member] if member in self.frozen else status
            made.append(Member(options, seed, state, self.messages[member], *own, self.learners[member], carry[0]))
        return tuple(made)


class Compiled:
    """A group's functions, compiled for one layout of lanes."""

    def __init__(self, group: Group, lanes: Lanes, lengths: set[int], evaluation: Data | None) -> None:
        begin = time.perf_counter()
        self.group, self.lanes = group, lanes
        self.rounds = group.rounds(lanes)
        self.data = group.place(lanes, group.source.data, PartitionSpec())
        self.evaluation = None if evaluation is None else group.place(lanes, evaluation, PartitionSpec())
        keys = jnp.stack([jax.random.key(seed) for seed in group.seeds])
        spec = PartitionSpec("seed")
        self.hyper = [group.place(lanes, {name: values[members] for name, values in group.hyper.items()}, spec) for members in self.rounds]
        self.keys = [group.place(lanes, keys[members], spec) for members in self.rounds]
        with precisions.use(group.config.precision):
            args = (self.hyper[0], self.keys[0])
            self._start = group.mapped(lanes, group.start_member, shared=(2,)).lower(*args, self.data).compile()
            info, placed = self._start.out_info, self._start.output_shardings
            self.carry = carry = jax.tree.map(lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), info, placed)
            self._chunks = {length: self._compiled(length) for length in lengths}
            self._evaluate = None
            if evaluation is not None:
                self._evaluate = group.mapped(lanes, group.evaluate_member, shared=(2, 4)).lower(*args, np.int32(0), carry, self.evaluation).compile()
        self.has_evaluation = self._evaluate is not None
        self.compile_seconds = time.perf_counter() - begin

    def start(self, round_: int) -> Any:
        return self._start(self.hyper[round_], self.keys[round_], self.data)

    def chunk(self, round_: int, step: int, length: int, carry: Any) -> Any:
        if length not in self._chunks:  # up to the next boundary, where a sweep is extended
            with precisions.use(self.group.config.precision):
                self._chunks[length] = self._compiled(length)
        return self._chunks[length](self.hyper[round_], self.keys[round_], np.int32(step), carry, self.data)

    def _compiled(self, length: int) -> Any:
        chunk = self.group.mapped(self.lanes, self.group.chunk_member(length), shared=(2, 4), donate=(3,))
        return chunk.lower(self.hyper[0], self.keys[0], np.int32(0), self.carry, self.data).compile()

    def evaluate(self, round_: int, step: int, carry: Any) -> Any:
        assert self._evaluate is not None
        return jax.tree.map(np.asarray, self._evaluate(self.hyper[round_], self.keys[round_], np.int32(step), carry, self.evaluation))

    def seconds_per_chunk(self, length: int) -> float:
        """What a chunk of all members costs, measured on one round that is thrown away."""
        carry = self.start(0)
        jax.block_until_ready(carry)
        times: list[float] = []
        while len(times) < 3 and sum(times) < 0.5:  # one long chunk says enough: more would cost what the choice is to save
            begin = time.perf_counter()
            carry, _ = self.chunk(0, len(times) * length, length, carry)
            jax.block_until_ready(carry)
            times.append(time.perf_counter() - begin)
        return min(times) * len(self.rounds)
