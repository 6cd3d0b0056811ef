"""How a run is cut: its options, and the absolute steps at which things happen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dljax.core.checks import check_choice, check_int, check_range
from dljax.engine.parallel import Parallel


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when an evaluation metric has not improved for `patience` evaluations.

    Attributes:
      metric: the name in the evaluations.
      patience: >= 1.
      mode: "min" or "max".
      min_delta: what counts as better, >= 0.

    >>> EarlyStopping("loss", patience=2).reached([3.0, 2.0, 2.5, 2.1])
    True
    """

    metric: str
    patience: int = 5
    mode: str = "min"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        check_int("EarlyStopping", "patience", self.patience, minimum=1)
        check_choice("EarlyStopping", "mode", self.mode, ("min", "max"))
        check_range("EarlyStopping", "min_delta", self.min_delta, 0)

    def reached(self, values: Sequence[float]) -> bool:
        """Whether a series of evaluations says stop."""
        sign = 1 if self.mode == "min" else -1
        best, age = math.inf, 0
        for value in values:
            better = sign * value < best - self.min_delta
            best, age = (sign * value, 0) if better else (best, age + 1)
        return age >= self.patience


@dataclass(frozen=True)
class FitConfig:
    """How `fit` runs; none of it changes what is learned but `precision` and `parallel`, and those only by rounding.

    Attributes:
      every: steps per report; None chooses a divisor of the steps that gives about a hundred.
      chunk: steps per compiled call, a multiple of `every`; None takes `every`.
      evaluate_every: steps between evaluations, a multiple of the chunk; None evaluates about ten times.
      batch_size: rows of an evaluation batch; None hands over the evaluation data as one batch.
      checkpoint_every: steps between checkpoints, rounded up to a chunk; None saves about every half minute. The end is always saved.
      keep: checkpoints kept, >= 1.
      precision: None (dtypes as they are), "float32", "bfloat16" or a `Policy`.
      parallel: None (one device), a `Parallel`, or "auto" (the batch over all devices where that pays).
      early_stopping: None or an `EarlyStopping`.
      per_step, unit: what a step consumes, for the throughput.
      progress: whether to show it.
      tensorboard: whether to write for it.
      debug: run step by step without jit, with NaN checks.

    >>> FitConfig(every=10).chunk is None
    True
    """

    every: int | None = None
    chunk: int | None = None
    evaluate_every: int | None = None
    batch_size: int | None = None
    checkpoint_every: int | None = None
    keep: int = 2
    precision: Any = None
    parallel: Parallel | str | None = None
    early_stopping: EarlyStopping | None = None
    per_step: int = 1
    unit: str = "steps"
    progress: bool = False
    tensorboard: bool = False
    debug: bool = False

    def __post_init__(self) -> None:
        for name in ("every", "chunk", "evaluate_every", "batch_size", "checkpoint_every"):
            if getattr(self, name) is not None:
                check_int("FitConfig", name, getattr(self, name), minimum=1)
        check_int("FitConfig", "keep", self.keep, minimum=1)
        check_int("FitConfig", "per_step", self.per_step, minimum=1)
        if isinstance(self.precision, str):
            check_choice("FitConfig", "precision", self.precision, ("float32", "bfloat16"))
        if isinstance(self.parallel, str):
            check_choice("FitConfig", "parallel", self.parallel, ("auto",))


class Plan(NamedTuple):
    """The absolute steps at which things happen."""

    steps: int
    every: int
    chunk: int
    evaluate_every: int

    @staticmethod
    def make(steps: int, config: FitConfig, stored: Mapping[str, Any] | None) -> "Plan":
        """Fill what the options leave open, from the run that is resumed where there is one.

        >>> Plan.make(9380, FitConfig(), None)
        Plan(steps=9380, every=70, chunk=70, evaluate_every=910)
        """
        stored = stored or {}
        every = config.every or stored.get("every") or _divisor_near(steps, config.chunk or config.evaluate_every or steps)
        if every > steps:
            every = steps
        chunk = config.chunk or stored.get("chunk") or every
        if chunk % every:
            raise ValueError(f"fit: chunk must be a multiple of every, got chunk={chunk} and every={every}; use {max(chunk // every, 1) * every}")
        evaluate_every = config.evaluate_every or stored.get("evaluate_every") or max(round(steps / 10 / chunk), 1) * chunk
        if evaluate_every % chunk and evaluate_every < steps:
            raise ValueError(
                f"fit: evaluate_every must be a multiple of the chunk, got {evaluate_every} and a chunk of {chunk}; "
                f"use {max(round(evaluate_every / chunk), 1) * chunk} or set every to a divisor of it"
            )
        return Plan(steps, every, chunk, evaluate_every)

    def segments(self, step: int) -> list[tuple[int, int]]:
        """`(first step, length)` of each chunk from `step` on; boundaries are multiples of the chunk, wherever one starts.

        >>> Plan(10, 2, 4, 4).segments(3)
        [(3, 1), (4, 4), (8, 2)]
        """
        ends = [*range((step // self.chunk + 1) * self.chunk, self.steps, self.chunk), self.steps]
        return [(begin, end - begin) for begin, end in zip([step, *ends], ends, strict=False) if end > begin]


def _divisor_near(steps: int, whole: int) -> int:
    """The divisor of both numbers nearest to a hundredth of the steps, or that hundredth where none is within a factor of three."""
    wanted = max(steps / 100, 1)
    common = math.gcd(steps, whole)
    divisors = [divisor for divisor in range(1, common + 1) if common % divisor == 0 and wanted / 3 <= divisor <= wanted * 3]
    return min(divisors, key=lambda divisor: abs(math.log(divisor / wanted)), default=min(round(wanted), whole))
