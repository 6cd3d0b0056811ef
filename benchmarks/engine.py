"""The price of the engine: `fit` beside a hand-written scanned loop of the same step, for every recipe, interleaved round by round.

Both run the same number of steps from the same key, in chunks of the same length, on one device. `fit` reports, writes its logs and would
save a checkpoint; the loop by hand does nothing but call the compiled chunk. Compilation stands apart in both.

    python benchmarks/engine.py [--json] [--quick] [NAME ...]
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import dljax.recipes  # noqa: F401 (registers the recipes)
from dljax.core import RECIPES, start, unroll
from dljax.engine import FitConfig, fit
from dljax.engine.profile import use_compilation_cache

ON_AN_ACCELERATOR = ("cartpole/ppo", "digits/mlp")


def chunk_length(experiment, seconds: float) -> int:
    """Steps that take about the given time, at least one."""
    key, state, cursor = start(experiment.learner, experiment.source, jax.random.key(0))
    run = jax.jit(unroll(experiment.learner, experiment.source, 2))
    data = experiment.source.data
    jax.block_until_ready(run(key, 0, state, cursor, data))
    begin = time.perf_counter()
    jax.block_until_ready(run(key, 0, state, cursor, data))
    return max(round(2 * seconds / (time.perf_counter() - begin)), 1)


class ByHand:
    """The loop that a user would write: a jitted scan that donates its state, called chunk after chunk."""

    def __init__(self, experiment, length: int) -> None:
        self.experiment, self.length = experiment, length
        self.run = jax.jit(unroll(experiment.learner, experiment.source, length, length), donate_argnums=(2, 3))
        self.seconds(1)

    def seconds(self, chunks: int) -> tuple[float, float]:
        key, state, cursor = jax.jit(lambda key, data: start(self.experiment.learner, self.experiment.source, key, data))(
            jax.random.key(0), self.experiment.source.data
        )
        jax.block_until_ready(state)
        begin, busy = time.perf_counter(), time.process_time()
        for chunk in range(chunks):
            state, cursor, history = self.run(key, np.int32(chunk * self.length), state, cursor, self.experiment.source.data)
        jax.block_until_ready((state, history))
        return time.perf_counter() - begin, time.process_time() - busy


def fit_seconds(experiment, length: int, chunks: int) -> tuple[float, float, int]:
    """The time from the first chunk to the last, logs included, the processors' time, and how often anything was compiled after the first chunk."""
    stamps = []

    class Clock:
        """Hears of every chunk; the first one ends what is to be compiled."""

        def log(self, kind: str, step: int, values: object) -> None:
            stamps.append((step, time.perf_counter(), time.process_time()))

        def close(self) -> None: ...

    with tempfile.TemporaryDirectory() as folder:
        steps, out = length * (chunks + 1), Path(folder) / "run"
        run = fit(
            experiment.learner, experiment.source, steps, jax.random.key(0), out=out, config=FitConfig(every=length, chunk=length), loggers=[Clock()]
        )
    (_, begin, busy), (_, end, busy_end) = stamps[0], stamps[-1]
    return end - begin, busy_end - busy, run.result["recompilations"]


def measure(name: str, rounds: int, seconds: float) -> dict:
    """One recipe: medians over the rounds, and the median of the ratios pair by pair; each goes first in every other round."""
    experiment = dataclasses.replace(RECIPES[name].build(), evaluation=None)
    length, chunks = chunk_length(experiment, seconds / 10), 10
    by_hand = ByHand(experiment, length)
    fit_seconds(experiment, length, 1)
    ours, theirs, recompilations = [], [], 0
    for number in range(rounds):
        if number % 2:
            theirs.append(by_hand.seconds(chunks))
        *taken, again = fit_seconds(experiment, length, chunks)
        ours.append(taken)
        if not number % 2:
            theirs.append(by_hand.seconds(chunks))
        recompilations += again
    rates = [length * chunks / statistics.median(wall for wall, _ in times) for times in (ours, theirs)]
    wall, busy = (statistics.median(mine[kind] / other[kind] for mine, other in zip(ours, theirs, strict=True)) for kind in (0, 1))
    return {
        "name": f"engine/{name}",
        "peer": "a hand-written scanned loop",
        "unit": "steps/s",
        "ours": rates[0],
        "theirs": rates[1],
        "ratio": 1 / wall,
        "peak_share": None,
        "overhead": wall - 1,
        "overhead_of_processors": busy - 1,
        "recompilations": recompilations,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--since", default="", help="ignored: this benchmark keeps no results")
    options = parser.parse_args()
    use_compilation_cache()
    is_quick = options.quick or options.device == "gpu"
    rows = []
    of_each_chapter = {RECIPES[name].chapter: name for name in sorted(RECIPES, reverse=True)}.values()
    chosen = ON_AN_ACCELERATOR if options.device == "gpu" else sorted(of_each_chapter if options.quick else RECIPES)
    for name in options.names or chosen:
        rows.append(measure(name, rounds=4 if is_quick else 12, seconds=2.0 if is_quick else 4.0))
        wall, busy, again = (rows[-1][each] for each in ("overhead", "overhead_of_processors", "recompilations"))
        print(f"{name}: {wall:+.1%} of time, {busy:+.1%} of processor time over a loop by hand, {again} recompilations", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
