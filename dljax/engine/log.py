"""Where a run's numbers go: JSON lines, TensorBoard, the terminal, or anything with a `log` method."""

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TextIO, runtime_checkable

import numpy as np

from dljax.core.contract import Mean
from dljax.engine.folder import RunFolderError

Values = Mapping[str, float | list[float | None] | None]


@runtime_checkable
class Logger(Protocol):
    """Anything that takes a run's numbers. `kind` is "metrics" or "evaluation"; None stands for nothing to report."""

    def log(self, kind: str, step: int, values: Values) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`metrics.jsonl` and `evaluations.jsonl` of a run folder: one object a report, null for nothing, never NaN.

    Args:
      folder: the run folder.
      step: lines behind this step are cut off: a run that was killed had written them after its last checkpoint.
    """

    files: ClassVar = {"metrics": "metrics.jsonl", "evaluation": "evaluations.jsonl"}

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.folder = Path(folder)
        with self._writing():
            for name in self.files.values():
                _cut(self.folder / name, step)
            # Unbuffered: what a full disk refuses must not come again when the file is closed.
            self._open = {kind: (self.folder / name).open("ab", buffering=0) for kind, name in self.files.items()}

    def log(self, kind: str, step: int, values: Values) -> None:
        """Append one line and hand it to the operating system.

        Raises:
          RunFolderError: it cannot be written.
        """
        line = memoryview(json.dumps({"step": step, **values}, allow_nan=False).encode() + b"\n")
        with self._writing():
            while line:
                line = line[self._open[kind].write(line) :]

    def sync(self) -> None:
        """Make what was written survive a loss of power."""
        with self._writing():
            for file in self._open.values():
                os.fsync(file.fileno())

    def close(self) -> None:
        for file in self._open.values():
            file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFolderError(
                f"the log in {self.folder} cannot be written ({error.strerror}); free space or choose a writable folder, then resume"
            ) from None


class Record:
    """The rows of a run: kept in memory, and handed to the loggers as they come.

    Args:
      folder: a run folder whose rows up to `step` are taken over, or None.
      loggers: told of every new row.
    """

    def __init__(self, folder: Path | None, step: int, loggers: Sequence[Logger]) -> None:
        self.loggers = list(loggers)
        self.rows: dict[str, list[dict[str, Any]]] = {"metrics": [], "evaluation": []}
        if folder is not None:
            for kind, name in JsonLines.files.items():
                self.rows[kind] = [row for row in read_lines(folder / name) if row["step"] <= step]

    def add(self, kind: str, step: int, values: Values) -> None:
        """One more row."""
        self.rows[kind].append({"step": step, **values})
        for logger in self.loggers:
            logger.log(kind, step, values)

    def arrays(self, kind: str) -> dict[str, np.ndarray]:
        """The rows as arrays [R] by name (members of a sweep behind), NaN for nothing."""
        rows = self.rows[kind]
        columns = {name: np.asarray([row[name] for row in rows], np.float64) for name in (rows[0] if rows else {})}
        return columns | ({"step": columns["step"].astype(np.int64)} if rows else {})

    def series(self, name: str) -> list[float]:
        """The values of an evaluation metric so far, without the gaps.

        Raises:
          ValueError: no evaluation has that name.
        """
        rows = self.rows["evaluation"]
        if rows and name not in rows[0]:
            raise ValueError(f"early_stopping: no evaluation metric {name!r}; there are {sorted(set(rows[0]) - {'step'})}")
        return [row[name] for row in rows if row[name] is not None]


class TensorBoard:
    """Scalars for TensorBoard, in the folder `tensorboard` of the run."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter  # seconds to import

        self._writer = SummaryWriter(str(Path(folder) / "tensorboard"))

    def log(self, kind: str, step: int, values: Values) -> None:
        """Write each scalar under its kind; a member of a sweep gets its index."""
        for name, value in values.items():
            members = value if isinstance(value, list) else [value]
            for index, number in enumerate(members):
                if number is not None:
                    tag = f"{kind}/{name}" + (f"/{index}" if isinstance(value, list) else "")
                    self._writer.add_scalar(tag, number, step)

    def close(self) -> None:
        self._writer.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file; a last line that was cut off by a kill is left out.

    >>> read_lines(Path("no such file"))
    []
    """
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def of_member(columns: Mapping[str, np.ndarray], member: int) -> dict[str, np.ndarray]:
    """One member's columns [R] out of a sweep's [R, M].

    >>> of_member({"step": np.array([5]), "loss": np.array([[1.0, 2.0]])}, 1)["loss"].tolist()
    [2.0]
    """
    return {name: values if name == "step" else values[:, member] for name, values in columns.items()}


def number(value: Any) -> float | None:
    """A float that JSON can hold: None for NaN and the infinities.

    >>> number(float("nan")), number(2)
    (None, 2.0)
    """
    value = float(value)
    return value if math.isfinite(value) else None


def divided(mean: Mean) -> np.ndarray:
    """The value of a `Mean` that is on the host already, NaN where it has nothing to say.

    >>> divided(Mean(np.array([3.0, 0.0]), np.array([2.0, 0.0]))).tolist()
    [1.5, nan]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        total, weight = np.asarray(mean.total), np.asarray(mean.weight)
        return np.where(weight > 0, np.divide(total, weight), np.nan)


class Progress:
    """The bar of a run on a terminal; a line now and then elsewhere.

    Args:
      steps: where the run ends.
      per_step, unit: what a step consumes, for the throughput.
      every: seconds between lines where the output is no terminal.
    """

    def __init__(
        self, steps: int, *, step: int = 0, per_step: int = 1, unit: str = "steps", stream: TextIO | None = None, every: float = 10.0
    ) -> None:
        self.steps, self.first, self.per_step, self.unit, self.every = steps, step, per_step, unit, every
        self.stream = sys.stderr if stream is None else stream
        self._begin = self._last = time.monotonic()
        self._bar: Any = None
        if self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
            self._bar = Bar(*columns, console=Console(file=self.stream), transient=True)
            self._task = self._bar.add_task("", total=steps, completed=step, note="compiling")
            self._bar.start()

    def say(self, message: str) -> None:
        """A line that stays: a warning, an evaluation."""
        (self._bar.console if self._bar else self).print(message)

    def print(self, message: str) -> None:
        """A plain line."""
        print(message, file=self.stream, flush=True)

    def begin(self) -> None:
        """Compilation is over: throughput counts from here."""
        self._begin = self._last = time.monotonic()

    def update(self, step: int, values: Values) -> None:
        """Show where the run stands."""
        now = time.monotonic()
        rate = (step - self.first) / max(now - self._begin, 1e-9)
        loss = values.get("loss", next(iter(values.values()), None))
        name = "loss" if "loss" in values else next(iter(values), "")
        shown = f"{name} {loss:.4g}" if isinstance(loss, float) else ""
        eta = (self.steps - step) / max(rate, 1e-9)
        note = f"{shown}  {rate * self.per_step:,.0f} {self.unit}/s  {_clock(eta)} left"
        if self._bar:
            self._bar.update(self._task, completed=step, note=note)
        elif now - self._last >= self.every or step >= self.steps:
            self._last = now
            self.print(f"step {step}/{self.steps}  {note}")

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def _cut(path: Path, step: int) -> None:
    if not path.is_file():
        return
    rows = read_lines(path)
    kept = [row for row in rows if row["step"] <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
    os.replace(partial, path)
