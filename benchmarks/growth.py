"""How time and memory grow with the size of the problem: fitted exponents beside those that the arithmetic lets one expect.

One quantity is doubled, all else being equal; the sizes take turns round by round, each in its own process. Time is that of a training step (of a
rollout where environments grow, of a layer and its gradient where attention does), memory what the compiled program needs for its arguments and
temporary buffers. The exponent is the slope of the straight line nearest to the logarithms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from _harness import Bench, CannotRunError, Contestant, Task, Work, main

CLASSES = 10


def batch(work: Work, size: int):
    return mlp_step((128, 128), size, num_inputs=784)


def width(work: Work, size: int):
    return mlp_step((size, size), 128, num_inputs=64)


def mlp_step(widths: tuple[int, ...], batch_size: int, num_inputs: int):
    from dljax.models.mlp import MLP

    return learned(MLP(CLASSES, widths), labelled((batch_size, num_inputs)))


def depth(work: Work, size: int):
    from dljax.models.gpt import GPT

    return learned(GPT(64, context=64, num_layers=size, num_heads=2, width=64, is_unrolled=False), tokens(8, 64))


def sequence_of_an_lstm(work: Work, size: int):
    import _linen

    from dljax import nn

    return learned(_linen.LSTM(64, 64, nn=nn), tokens(32, size))


def sequence_of_attention(work: Work, size: int):
    import jax
    import jax.numpy as jnp

    from dljax.nn import attention

    dtype = jnp.float32 if work.size == "cpu" else jnp.bfloat16
    heads = [jax.random.normal(key, (1, size, 4, 32), dtype) for key in jax.random.split(jax.random.key(0), 3)]
    return called(jax.grad(lambda heads: attention(*heads, is_causal=True).sum(dtype=jnp.float32)), heads)


def nodes(work: Work, size: int):
    from dljax.models.gcn import GCN
    from dljax.nn import single_graph

    rng = np.random.default_rng(0)
    senders, receivers = rng.integers(0, size, (2, 8 * size), np.int32)
    rows = labelled((size, 64))
    graph = single_graph(rows["x"], senders, receivers)
    return learned(GCN(CLASSES, 32, dropout_rate=0.0, is_sorted=True), rows | {"x": graph})


def environments(work: Work, size: int):
    import jax

    from dljax.rl import cartpole, random_policy, rollout

    env = cartpole()
    return called(lambda key: rollout(env, random_policy(env), key, num_envs=size, steps=64), jax.random.key(0))


def seeds(work: Work, size: int):
    """Members of a sweep, vmapped."""
    import jax

    from dljax.core import start, unroll
    from dljax.models.mlp import MLP

    learner, source = problem(MLP(CLASSES, (64, 64)), labelled((256, 64)))
    keys, states, cursors = jax.jit(jax.vmap(lambda key: start(learner, source, key)))(jax.random.split(jax.random.key(0), size))
    several = jax.vmap(unroll(learner, source, steps=4, every=4), (0, None, 0, 0, None))
    return called(lambda *args: several(args[0], 0, *args[1:]), keys, states, cursors, source.data)


def devices(work: Work, size: int):
    """The batch of a CNN over the devices; on a CPU a device is one core, and there are no others."""
    import os

    from dljax.cli.launch import Launch, available_cores

    is_cpu = work.size != "gpu"
    if is_cpu and size > available_cores():
        raise CannotRunError(f"there are only {available_cores()} cores")
    if is_cpu and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:size])
    Launch(cores=size if is_cpu else None).start()
    import jax

    from dljax.engine.parallel import Parallel, make_mesh
    from dljax.models.cnn import CNN

    if size > jax.device_count():
        raise CannotRunError(f"there are only {jax.device_count()} devices")
    parallel = Parallel(make_mesh(data=size)) if size > 1 else None
    return learned(CNN(CLASSES, (16, 32), 64), labelled((256, 28, 28, 1)), parallel)


def labelled(shape: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal(shape, np.float32), "y": rng.integers(0, CLASSES, shape[0], np.int32)}


def tokens(batch_size: int, length: int) -> dict[str, Any]:
    drawn = np.random.default_rng(0).integers(0, 64, (batch_size, length + 1), np.int32)
    return {"x": drawn[:, :-1], "y": drawn[:, 1:]}


def problem(model: Any, data: Any):
    """The learner and its source, the same batch at every step."""
    import optax

    from dljax.data import repeat
    from dljax.objectives import cross_entropy
    from dljax.supervised import supervised

    return supervised(model, cross_entropy, optax.adam(1e-3)), repeat(data)


def learned(model: Any, data: Any, parallel: Any = None):
    """`run` of the engine's program, one step a chunk, and its memory."""
    import jax

    from dljax.engine.parallel import replicate
    from dljax.engine.program import Program

    learner, source = problem(model, data)
    program = Program(learner, source, every=1, parallel=parallel)
    key = replicate(jax.random.key(0), parallel)
    key, loop = program.start(key)
    done = 0
    program.prepare({1}, key)

    def run(steps):
        nonlocal loop, done
        for _ in range(steps):
            loop, _, _ = program.chunk(key, done, 1, loop)
            done += 1

    return run, facts(program.memory and program.memory.arguments + program.memory.temporary)


def called(function: Callable[..., Any], *args: Any):
    """`run` of a compiled function of always the same arguments, and its memory."""
    import jax

    compiled = jax.jit(function).lower(*args).compile()
    memory = compiled.memory_analysis()

    def run(steps):
        for _ in range(steps):
            jax.block_until_ready(compiled(*args))

    return run, facts(memory and memory.argument_size_in_bytes + memory.temp_size_in_bytes)


def facts(size: int | None) -> dict[str, int]:
    """The memory, where the backend can say."""
    return {"bytes": size} if size else {}


@dataclass(frozen=True)
class Axis:
    """One quantity that is doubled.

    Attributes:
      name: of the row.
      build: `(work, size) -> (run, {"bytes": memory})`.
      sizes: on a CPU; quick runs leave out every other one where there are five.
      expected: "time" and "memory" -> the exponent.
      why: where the expected exponents come from.
      further: how many sizes more there are on an accelerator, each twice as large.
    """

    name: str
    build: Callable[[Work, int], Any]
    sizes: tuple[int, ...]
    expected: dict[str, float]
    why: str
    further: int = 3

    def task(self, device: str) -> Task:
        def contestant(place: int, size: int) -> Contestant:
            return Contestant(lambda work: self.build(work, size), quick=place % 2 == 0 or len(self.sizes) < 5, small=place < 2)

        sizes = [*self.sizes, *(self.sizes[-1] * 2**more for more in range(1, self.further + 1) if device == "gpu")]
        contestants = {str(size): contestant(place, size) for place, size in enumerate(sizes)}
        return Task(self.name, "steps/s", contestants, options={"expected": self.expected, "why": self.why})


class Growth(Bench):
    """Sizes in place of contestants, and rows of exponents."""

    ROUNDS, SECONDS = (7, 3, 1), (0.6, 0.2, 0.1)

    def _rows(self, task: Task, found: dict[str, Any], flops: float | None, peak: float, disturbed: bool) -> list[dict[str, Any]]:
        rows = []
        for kind, expected in task.options["expected"].items():
            known = {int(name): result for name, result in found.items() if {"time": "rate", "memory": "bytes"}[kind] in result}
            if len(known) < 2:
                continue
            values = [1 / result["rate"] if kind == "time" else result["bytes"] for result in known.values()]
            slope = float(np.polyfit(np.log(list(known)), np.log(values), 1)[0])
            row = {"name": f"{self.script.stem}/{task.name}", "peer": "expected exponent", "unit": f"exponent of {kind}", "ours": slope}
            row |= {"theirs": expected, "ratio": None, "peak_share": None, "agrees": None, "disturbed": disturbed}
            rows.append(row | {"sizes": list(known), "values": values, "why": task.options["why"]})
        return rows


LINEAR = {"time": 1.0, "memory": 1.0}
AXES = [
    Axis("batch", batch, (1024, 2048, 4096, 8192, 16384), LINEAR, "A perceptron does the same for every example, and keeps its activations."),
    Axis("width", width, (512, 1024, 2048, 4096), {"time": 2.0, "memory": 2.0},
         "The matrix between two layers of W units has W² numbers, each with a gradient and two moments.", further=2),
    Axis("depth", depth, (2, 4, 8, 16), LINEAR, "Every block of a GPT computes and keeps the same."),
    Axis("sequence length, attention", sequence_of_attention, (256, 512, 1024, 2048), {"time": 2.0, "memory": 2.0},
         "Each of T positions reads from T; as two plain products all T² weights are kept."),
    Axis("sequence length, LSTM", sequence_of_an_lstm, (16, 32, 64, 128, 256), LINEAR, "One step of the recurrence after another, each kept."),
    Axis("nodes", nodes, (2048, 4096, 8192, 16384, 32768), LINEAR, "The degree stays the same, so edges grow with nodes."),
    Axis("environments", environments, (1024, 2048, 4096, 8192, 16384), LINEAR, "Every environment takes the same 64 steps, all kept.", further=2),
    Axis("seeds", seeds, (4, 8, 16, 32, 64), LINEAR, "Every member of a sweep computes and keeps the same.", further=2),
    Axis("devices", devices, (1, 2, 4, 8), {"time": -1.0}, "Each of D devices has a D-th of the batch; each updates all parameters.", further=0),
]  # fmt: skip

if __name__ == "__main__":
    main([axis.task("cpu") for axis in AXES], [axis.task("gpu") for axis in AXES], Growth)
