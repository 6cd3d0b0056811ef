"""The side-by-side harness: contestants in processes of their own, interleaved round by round on the same work.

A benchmark script says what its tasks are and calls `main`:

    def prepare(work): ...   # initial weights and batches for everybody, a dict of arrays, nested as it likes
    def ours(work):          # runs in a process of its own; imports what it needs
        ...
        return run           # run(steps) -> losses, or a function that finds them off the clock: goes on where it stood, and is done when it returns

    if __name__ == "__main__":
        main([Task("mlp", "steps/s", {"dljax": ours, "PyTorch: eager": eager, "PyTorch: compiled": compiled}, prepare=prepare, chunk=100)])

The part of a contestant's name before a colon is its group; the best of a group counts. A contestant whose import fails is left out with a note.
What a contestant says of itself goes beside `run`: `return run, {"note": "two devices"}`.

A task is measured in three parts. *Check*: each contestant makes two chunks of steps from the same beginning; the losses must agree with dljax's,
and the first chunk's excess over the second is its compile time. *Race*: rounds of about the same time each, contestants in turn, with a probe of the
machine between them. *First result*, in full runs, for contestants marked so: seconds from starting the interpreter to the end of
the first chunk, alone on the machine, with an empty and with a filled compilation cache.
"""

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

OURS = "dljax"
PAUSE = 0.05  # seconds: idle threads of some libraries go on spinning for a while
LONG = 25.0  # seconds: a chunk that takes longer is not measured again and again
Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """What a contestant is told.

    Attributes:
      chunk: steps are asked for in multiples of it.
      size: "cpu" for the usual sizes, "gpu" for those of an accelerator, "small" where such sizes are tried out on a CPU.
      quick: whether minutes count.
      threads: the cores there are.
      options: the task's own.
      path: where `prepare` left its arrays.
    """

    chunk: int
    size: str
    quick: bool
    threads: int
    options: Tree
    path: Path

    def arrays(self) -> dict[str, Any]:
        """What `prepare` returned, as NumPy arrays."""
        with np.load(self.path, allow_pickle=False) as stored:
            return _nested({name: stored[name] for name in stored.files})


Losses = Sequence[float] | None
Run = Callable[[int], Losses | Callable[[], Losses]]
Build = Callable[[Work], Run | tuple[Run, Tree]]


class CannotRunError(Exception):
    """Why a contestant cannot take part here."""


@dataclass(frozen=True)
class Contestant:
    """A contestant that is more than a function.

    Attributes:
      build: `work -> run`, or `(run, what it says of itself)`.
      env: `folder -> further environment variables` of its process; `CannotRunError` where it cannot take part. What it makes goes into the folder.
      quick: whether it takes part in quick runs.
      small: whether it takes part where the sizes of an accelerator are tried out on a CPU.
      first: whether its time to the first result is measured.
      note: a word for the results.
    """

    build: Build
    env: Callable[[Path], Mapping[str, str]] | None = None
    quick: bool = True
    small: bool = True
    first: bool = False
    note: str = ""


@dataclass(frozen=True)
class Task:
    """One piece of work that contestants do side by side.

    Attributes:
      name: of the row.
      unit: what is counted, such as "steps/s"; more is better.
      contestants: name -> `build` or a `Contestant`; "dljax" is ours.
      prepare: `work -> arrays` for all, run once in a process of its own.
      flops: `work -> operations of one step`, asked after `prepare`; for the share of the peak.
      chunk: steps are asked for in multiples of it, so that a scan is compiled once.
      per_step: units in one step.
      tolerance: the largest relative difference of a chunk's loss to ours.
      options: for the functions to read.
      small: those that differ where the sizes of an accelerator are tried out on a CPU.
      quick: whether it is part of quick runs in which nobody names it.
    """

    name: str
    unit: str
    contestants: Mapping[str, Build | Contestant]
    prepare: Callable[[Work], Tree] | None = None
    flops: Callable[[Work], float] | None = None
    chunk: int = 1
    per_step: float = 1
    tolerance: float = 5e-3
    options: Tree = field(default_factory=dict)
    small: Tree = field(default_factory=dict)
    quick: bool = True

    def contestant(self, name: str) -> Contestant:
        found = self.contestants[name]
        return found if isinstance(found, Contestant) else Contestant(found)


def main(tasks: Sequence[Task], gpu: Sequence[Task] | None = None, bench: "type[Bench] | None" = None) -> None:
    """The script's command line, for `dljax bench` and for its own workers.

    Args:
      gpu: the tasks for `--device gpu`; none by default.
      bench: how they are measured; `Bench` by default.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="tasks; all by default")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--quick", action="store_true", help="minutes instead of an hour")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--since", default="", help="skip tasks that the results hold from this time on (2026-01-31T12:00:00)")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    by_name = {task.name: task for task in (tasks if options.device == "cpu" else gpu or [])}
    if options.worker:
        name, contestant, work = options.worker
        _serve(by_name[name], contestant, work)
        return
    unknown = [name for name in options.names if name not in by_name]
    if unknown:
        parser.error(f"no task {unknown[0]!r}; there are {', '.join(by_name) or 'none'}")
    rows, whole = [], True
    if by_name:
        measuring = (bench or Bench)(Path(sys.argv[0]).absolute(), options.quick, options.device)
        chosen = options.names or [name for name, task in by_name.items() if task.quick or not options.quick]
        rows, whole = measuring.run([by_name[name] for name in chosen], options.since)
    if options.json:
        print(json.dumps(rows))
    sys.exit(0 if whole else 1)


class Bench:
    """A run of one script: it starts the workers, measures, and keeps the results.

    `ROUNDS` and `SECONDS` say how many rounds a run has, at most, and how long they are; the second number is for quick runs and for those on an
    accelerator, the third where its sizes are tried out on a CPU.
    """

    ROUNDS, SECONDS = (7, 3, 2), (2.0, 0.5, 0.1)

    def __init__(self, script: Path, quick: bool, device: str) -> None:
        self.script, self.quick, self.device = script, quick, device

    def run(self, tasks: Sequence[Task], since: str = "") -> tuple[list[dict[str, Any]], bool]:
        """The rows of all tasks, and whether every contestant that could run did, and agreed."""
        from _machine import accelerator, machine, versions

        with tempfile.TemporaryDirectory(prefix="dljax-bench-") as folder:
            self.folder = Path(folder)
            env = self._env(self.folder / "cache")
            device = accelerator(env)
            self.size = "cpu" if self.device == "cpu" else "small" if device.platform == "cpu" else "gpu"
            pace = 2 if self.size == "small" else int(self.quick or self.size == "gpu")
            self.rounds, self.seconds = self.ROUNDS[pace], self.SECONDS[pace]
            suffix = {"cpu": "", "gpu": "-gpu", "small": "-small"}[self.size] + ("-quick" if self.quick else "")
            self.path = self.script.parent / "results" / f"{self.script.stem}{suffix}.json"
            header = {"benchmark": self.script.stem, "size": self.size, "quick": self.quick, "machine": machine(), "versions": versions()}
            header["device"] = {"platform": device.platform, "kind": device.kind}
            results = self._kept(header)
            results["peak_flops"] = device.peak_flops
            for task in tasks:
                if since and results["tasks"].get(task.name, {}).get("date", "") >= since:
                    _note(f"{task.name}: measured already")
                    continue
                begin = time.perf_counter()
                result = self.measure(task, device.peak_flops)
                results["tasks"][task.name] = result
                _write(self.path, results)
                _note(f"{task.name}: done in {time.perf_counter() - begin:.0f} s")
        measured = [results["tasks"][task.name] for task in tasks]
        return [row for result in measured for row in result["rows"]], all(result["whole"] for result in measured)

    def measure(self, task: Task, peak: float) -> dict[str, Any]:
        """One task: its contestants' figures and the rows."""
        from _machine import Probe

        probe, found = Probe(), {}
        names = [name for name in task.contestants if self._takes_part(task.contestant(name))]
        path = self.folder / f"{task.name.replace('/', '-')}.npz"
        with self._worker(task, "", path) as worker:
            said = worker.hear()
        flops = said.pop("flops", None)
        if said:
            _note(f"{task.name}: could not be prepared: {said}")
            return {"date": _now(), "unit": task.unit, "whole": False, "contestants": {}, "rows": []} | said
        firsts = {} if self.quick or self.size != "cpu" else self._first_results(task, [name for name in names if task.contestant(name).first], path)
        workers: dict[str, Worker] = {}
        try:
            for name in names:
                try:
                    workers[name] = self._worker(task, name, path)
                except CannotRunError as reason:
                    found[name] = {"left_out": str(reason)}
            for name in list(workers):
                said = self._tried(name, workers, found, Worker.hear)
                if name in workers:
                    found[name] = {"setup_seconds": said.pop("seconds"), "note": task.contestant(name).note} | said
            self._check(task, workers, found)
            self._race(task, workers, found, probe)
        finally:
            for worker in workers.values():
                worker.close()
        for name, seconds in firsts.items():
            found[name]["first_result_seconds"] = seconds
        for name, result in found.items():
            for problem in ("left_out", "error"):
                if problem in result:
                    _note(f"{task.name}: {name} {problem.replace('_', ' ')}: {result[problem]}")
        whole = all("error" not in result and result.get("agrees", True) for result in found.values())
        disturbance = probe.summary()
        if disturbance["disturbed"]:
            _note(f"{task.name}: the machine was disturbed (spread {disturbance['spread']:.0%}, share of the cores {disturbance['share']:.0%})")
        return {
            "date": _now(),
            "unit": task.unit,
            "whole": whole,
            "probe": disturbance,
            "contestants": found,
            "flops": flops,
            "rows": self._rows(task, found, flops, peak, disturbance["disturbed"]),
        }

    # The three parts

    def _check(self, task: Task, workers: dict[str, "Worker"], found: dict[str, Any]) -> None:
        for name in list(workers):
            replies = [self._tried(name, workers, found, lambda worker: worker.ask(steps=task.chunk)) for _ in range(2) if name in workers]
            if name not in workers:
                continue
            first, second = replies
            found[name] |= {
                "compile_seconds": max(first["seconds"] - second["seconds"], 0.0),
                "chunk_seconds": second["seconds"],
                "busy_cores": second["cpu_seconds"] / second["seconds"],
                "losses": [*first["losses"], *second["losses"]],
            }
        reference = found.get(OURS, {}).get("losses")
        for name in workers:
            losses = found[name]["losses"]
            if reference and losses and name != OURS:
                gap = max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(losses, reference, strict=True))
                found[name] |= {"loss_gap": gap, "agrees": bool(gap <= task.tolerance)}
                if gap > task.tolerance:
                    _note(f"{task.name}: {name} reaches another loss: {losses} against {reference}")

    def _race(self, task: Task, workers: dict[str, "Worker"], found: dict[str, Any], probe: Any) -> None:
        steps = {name: max(round(self.seconds / found[name]["chunk_seconds"]), 1) * task.chunk for name in workers}
        rates: dict[str, dict[int, float]] = {name: {} for name in workers}
        spent = dict.fromkeys(workers, 0.0)
        busy: dict[str, list[float]] = {name: [] for name in workers}
        for name in workers:
            if found[name]["chunk_seconds"] > LONG:  # the check has measured it
                rates[name][0] = task.chunk * task.per_step / found[name]["chunk_seconds"]
                busy[name], spent[name] = [found[name]["busy_cores"]], float("inf")
        probe.take()
        for number in range(self.rounds):
            turn = list(workers)
            shift = number % max(len(turn), 1)
            for name in turn[shift:] + turn[:shift]:
                # A contestant whose chunk takes longer than a round sits out once its time is used up.
                if spent[name] > 1.5 * self.rounds * self.seconds:
                    continue
                time.sleep(PAUSE)
                probe.take()
                said = self._tried(name, workers, found, lambda worker, name=name: worker.ask(steps=steps[name]))
                if name in workers:
                    rates[name][number] = steps[name] * task.per_step / said["seconds"]
                    busy[name].append(said["cpu_seconds"] / said["seconds"])
                    spent[name] += said["seconds"]
        for name in workers:
            found[name] |= {
                "rate": statistics.median(rates[name].values()),
                "rates": list(rates[name].values()),
                "rounds": list(rates[name]),
                "steps_a_round": steps[name],
                "busy_cores": statistics.median(busy[name]),
            }

    def _first_results(self, task: Task, names: Sequence[str], path: Path) -> dict[str, dict[str, float]]:
        seconds: dict[str, dict[str, float]] = {}
        for name in names:
            taken: list[float] = []
            with tempfile.TemporaryDirectory(dir=self.folder) as cache:
                while len(taken) < (4 if max(taken, default=0.0) < LONG else 2):
                    begin = time.perf_counter()
                    try:
                        with self._worker(task, name, path, Path(cache)) as worker:
                            if {"error", "left_out"} & (worker.hear() | worker.ask(steps=task.chunk)).keys():
                                taken = []
                                break
                            taken.append(time.perf_counter() - begin)
                    except CannotRunError:
                        taken = []
                        break
            if taken:
                seconds[name] = {"cold": taken[0], "warm": statistics.median(taken[1:])}
        return seconds

    # Helpers

    def _takes_part(self, contestant: Contestant) -> bool:
        return contestant.small if self.size == "small" else contestant.quick or not self.quick

    def _rows(self, task: Task, found: dict[str, Any], flops: float | None, peak: float, disturbed: bool) -> list[dict[str, Any]]:
        ours = found.get(OURS, {})
        share = None if flops is None or "rate" not in ours else flops * ours["rate"] / task.per_step / peak
        row = {"name": f"{self.script.stem}/{task.name}", "peak_share": share, "disturbed": disturbed}
        rows = []
        for name, result in found.items():
            if name == OURS or "rate" not in result:
                continue
            ratio = None
            if "rate" in ours:
                mine, other = (dict(zip(side["rounds"], side["rates"], strict=True)) for side in (ours, result))
                ratio = statistics.median(mine[number] / other[number] for number in mine.keys() & other.keys())
            rows.append(
                row | {"peer": name, "unit": task.unit, "ours": ours.get("rate"), "theirs": result["rate"], "ratio": ratio}
                | {"agrees": result.get("agrees")}
            )  # fmt: skip
            for kind in ("cold", "warm") if "first_result_seconds" in result and "first_result_seconds" in ours else ():
                mine, theirs = ours["first_result_seconds"][kind], result["first_result_seconds"][kind]
                first = {"name": f"{row['name']}: first result, {kind} cache", "peak_share": None, "disturbed": disturbed}
                rows.append(first | {"peer": name, "unit": "s", "ours": mine, "theirs": theirs, "ratio": theirs / mine, "agrees": None})
        if not rows and "rate" in ours:
            rows.append(row | {"peer": None, "unit": task.unit, "ours": ours["rate"], "theirs": None, "ratio": None, "agrees": None})
        return rows

    def _tried(self, name: str, workers: dict[str, "Worker"], found: dict[str, Any], ask: Callable[["Worker"], dict]) -> dict[str, Any]:
        """What a worker answers; one that fails drops out, with the reason among what was found."""
        said = ask(workers[name])
        if "error" in said or "left_out" in said:
            found[name] = said
            workers.pop(name).close()
        return dict(said)

    def _worker(self, task: Task, name: str, path: Path, cache: Path | None = None) -> "Worker":
        work = {"chunk": task.chunk, "size": self.size, "quick": self.quick, "path": str(path)}
        further = task.contestant(name).env if name else None
        env = self._env(cache or self.folder / "cache") | (dict(further(self.folder)) if further else {})
        told = ["--device", self.device, "--worker", task.name, name, json.dumps(work)]
        return Worker([sys.executable, str(self.script), *told], env, self.folder / "stderr.txt")

    def _env(self, cache: Path) -> dict[str, str]:
        """One cache of compiled programs for everybody, and no more of the device's memory than is used."""
        ours = {
            "JAX_COMPILATION_CACHE_DIR": str(cache / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "PYTHONPATH": os.pathsep.join([str(self.script.parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep),
        }
        return dict(os.environ) | ours | ({"JAX_PLATFORMS": "cpu"} if self.device == "cpu" else {})

    def _kept(self, header: dict[str, Any]) -> dict[str, Any]:
        """What the results hold already, if it was measured on the same machine with the same versions."""
        try:
            before = json.loads(self.path.read_text())
        except (OSError, ValueError):
            before = {}
        is_same = all(before.get(name) == value for name, value in header.items())
        return header | {"tasks": before["tasks"] if is_same else {}}


class Worker:
    """A contestant's process, asked in lines of JSON; `hear` and `ask` give `{"error": ...}` where it fails."""

    PATIENCE = 600.0

    def __init__(self, command: Sequence[str], env: Mapping[str, str], stderr: Path) -> None:
        self.stderr = stderr.with_name(f"{stderr.stem}-{time.monotonic_ns()}{stderr.suffix}")
        with self.stderr.open("w") as file:
            self.process = subprocess.Popen(command, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True)
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, **message: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has died: `hear` says how
        return self.hear()

    def hear(self) -> dict[str, Any]:
        try:
            line = self.lines.get(timeout=self.PATIENCE)
        except queue.Empty:
            return {"error": f"no answer within {self.PATIENCE:.0f} s"}
        return json.loads(line) if line else {"error": f"ended with status {self.process.wait()}: {self._last_words()}"}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.stderr.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "nothing on stderr"


def _serve(task: Task, name: str, work: str) -> None:
    """A worker: build, then a round for each line on stdin. What libraries print goes to stderr."""
    from dljax.cli.launch import available_cores

    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**message: Any) -> None:
        print(json.dumps(message), file=channel, flush=True)

    told = json.loads(work)
    options = {**task.options, **(task.small if told["size"] == "small" else {})}
    told = Work(**(told | {"path": Path(told["path"])}), threads=available_cores(), options=options)
    try:
        begin = time.perf_counter()
        if not name:
            if task.prepare is not None:
                np.savez(told.path, **_flat(task.prepare(told)))
            say(**({} if task.flops is None else {"flops": float(task.flops(told))}))
            return
        built = task.contestant(name).build(told)
        run, facts = built if isinstance(built, tuple) else (built, {})
        say(seconds=time.perf_counter() - begin, **facts)
        for line in sys.stdin:
            steps = json.loads(line)["steps"]
            begin, busy = time.perf_counter(), time.process_time()
            losses = run(steps)
            seconds, busy = time.perf_counter() - begin, time.process_time() - busy
            losses = losses() if callable(losses) else losses
            say(seconds=seconds, cpu_seconds=busy, losses=[float(loss) for loss in (() if losses is None else losses)])
    except (ImportError, CannotRunError) as error:
        say(left_out=str(error))
    except Exception as error:
        traceback.print_exc()
        say(error=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}")


def _flat(tree: Tree, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts of arrays as one, names joined by slashes."""
    found: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: np.asarray(value)}
    return found


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in arrays.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return tree


def _write(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(partial, path)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
