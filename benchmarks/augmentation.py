"""The price of augmentation: a training step with it beside the same step without, interleaved round by round.

The steps are those of two recipes on Fashion-MNIST, scanned on one device: a small net on batches of 50 (`fashion-mnist-1000/augmented`) and the net
of chapter 5 on batches of 128 (`fashion-mnist/cnn`). What is changed costs the same whatever net follows.

    python benchmarks/augmentation.py [--json] [--quick] [NAME ...]
"""

import argparse
import functools
import json
import statistics
import sys
import time

import jax
import optax

from dljax import data
from dljax.core import start, unroll
from dljax.data.augmentation import cutout, random_affine, random_flip, random_shift
from dljax.data.colour import colour_jitter
from dljax.data.mixing import cutmix, mixed, mixup
from dljax.data.rand_augment import rand_augment
from dljax.engine.profile import use_compilation_cache
from dljax.models.cnn import CNN
from dljax.nn import unit_pixels
from dljax.objectives import cross_entropy
from dljax.supervised import supervised

NETS = {"small": (CNN(10, (16, 32), 64), 50), "large": (CNN(10, (32, 64), 128), 128)}


def pictures(change):
    """An augmentation of batches by one of pictures in [0, 1]."""
    return lambda key, batch: batch | {"x": change(key, unit_pixels(batch["x"]))}


def flip_shift_cutout(key, batch):
    flip_key, shift_key, cutout_key = jax.random.split(key, 3)
    return batch | {"x": cutout(cutout_key, random_shift(shift_key, random_flip(flip_key, batch["x"]), pixels=2), size=8)}


CHANGES = {
    "flip-shift-cutout": flip_shift_cutout,
    "affine": pictures(functools.partial(random_affine, shift=2.0, rotation=0.2, zoom=0.1)),
    "colour": pictures(functools.partial(colour_jitter, brightness=0.3, contrast=0.3)),
    "rand-augment": pictures(rand_augment),
    "mixup": lambda key, batch: mixup(key, batch | {"x": unit_pixels(batch["x"])}),
    "cutmix": cutmix,
}


class Steps:
    """A scanned chunk of steps that goes on where it stood."""

    def __init__(self, net: str, augment, length: int) -> None:
        model, batch_size = NETS[net]
        learner = supervised(model, mixed(cross_entropy), optax.adam(1e-3), augment=augment)
        self.source = data.shuffled(data.load("fashion-mnist")["train"], batch_size)
        self.key, self.state, self.cursor = start(learner, self.source, jax.random.key(0))
        self.run, self.length, self.done = jax.jit(unroll(learner, self.source, length, length)), length, 0
        self.seconds()

    def seconds(self) -> tuple[float, float]:
        """Wall and processor time of a step."""
        begin, busy = time.perf_counter(), time.process_time()
        self.state, self.cursor, _ = jax.block_until_ready(self.run(self.key, self.done, self.state, self.cursor, self.source.data))
        self.done += self.length
        return (time.perf_counter() - begin) / self.length, (time.process_time() - busy) / self.length


def measure(name: str, rounds: int, length: int) -> dict:
    """One change: medians over the rounds, and the median of the ratios pair by pair; each goes first in every other round."""
    net, _, change = name.partition("-")
    with_, without = Steps(net, CHANGES[change], length), Steps(net, None, length)
    ours, theirs = [], []
    for number in range(rounds):
        for steps, times in ((with_, ours), (without, theirs))[:: -1 if number % 2 else 1]:
            times.append(steps.seconds())
    wall, busy = (statistics.median(mine[kind] / other[kind] for mine, other in zip(ours, theirs, strict=True)) for kind in (0, 1))
    return {
        "name": f"augmentation/{name}",
        "peer": "the step without",
        "unit": "steps/s",
        "ours": 1 / statistics.median(seconds for seconds, _ in ours),
        "theirs": 1 / statistics.median(seconds for seconds, _ in theirs),
        "ratio": 1 / wall,
        "peak_share": None,
        "overhead": wall - 1,
        "overhead_of_processors": busy - 1,
    }


def main() -> None:
    names = [f"{net}-{change}" for net in NETS for change in CHANGES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=", ".join(names))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--since", default="", help="ignored: this benchmark keeps no results")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in names]:
        parser.error(f"no task {unknown[0]!r}; there are {', '.join(names)}")
    use_compilation_cache()
    rows = []
    for name in options.names or (name for name in names if name.startswith("small") or not options.quick):
        rows.append(measure(name, rounds=8 if options.quick else 24, length=20 if options.quick else 50))
        print(
            f"{name}: {rows[-1]['overhead']:+.1%} of time, {rows[-1]['overhead_of_processors']:+.1%} of processor time", file=sys.stderr, flush=True
        )
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
