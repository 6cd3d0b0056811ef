"""Supervised training beside PyTorch, flax.linen, Keras and PyTorch Geometric: steps a second on the same work.

Every contestant starts from the same weights and sees the same batches of real data: Fashion-MNIST, tiny Shakespeare, Cora. Ours is what
`dljax train` runs: the engine's compiled chunks of steps, the data set on the device, each core a device where that pays. The others are given their
batches ready in memory. "PyTorch" is what its users get; "PyTorch at full speed" has the limit of its matrix library on AMD processors lifted.
"""

import _torch
from _harness import Contestant, Task, Work, main

TORCH = {
    "eager": _torch.trained(fused=False),
    "fused Adam": _torch.trained(),
    "channels last": _torch.trained(channels_last=True),
    "compiled": _torch.trained(channels_last=True, compiled=True),
}
GRAPH = {
    "Geometric": _torch.geometric,
    "sparse adjacency": _torch.sparse_matrices(features=False),
    "sparse features": _torch.sparse_matrices(features=True),
}


def problem(work: Work):
    """Ours: the learner and its source, as the recipes build them."""
    import numpy as np
    import optax

    from dljax import data
    from dljax.models.cnn import CNN
    from dljax.models.gcn import GCN
    from dljax.models.gpt import GPT
    from dljax.models.mlp import MLP
    from dljax.nn import single_graph, sparse_rows
    from dljax.objectives import cross_entropy
    from dljax.supervised import supervised

    options = work.options
    match options["model"]:
        case "mlp":
            model = MLP(10, options["widths"])
        case "cnn":
            model = CNN(10, options["widths"], options["hidden"])
        case "gpt":
            text = data.load("tinyshakespeare")
            model = GPT(len(text["vocabulary"]), options["context"], options["num_layers"], options["num_heads"], options["width"])
        case "gcn":
            model = GCN(7, options["width"], dropout_rate=0.0, is_sorted=True)
    if options["data"] == "pictures":
        source = data.shuffled(data.load("fashion-mnist")["train"], options["batch_size"])
    elif options["data"] == "text":
        source = data.windows(text["train"]["tokens"], options["context"], options["batch_size"])
    else:
        cora = data.load("cora")
        words = cora["x"] / np.maximum(cora["x"].sum(1, keepdims=True), 1)
        graph = single_graph(sparse_rows(words), cora["senders"], cora["receivers"])
        source = data.repeat({"x": graph, "y": cora["y"], "mask": cora["train_mask"].astype(np.float32)})
    return supervised(model, cross_entropy, optax.adam(options["learning_rate"])), source


def prepare(work: Work):
    """The weights that everybody starts from and the first batches, which are repeated."""
    import jax
    import numpy as np

    from dljax.core import start

    learner, source = problem(work)
    _, state, cursor = jax.jit(lambda key, data: start(learner, source, key, data))(jax.random.key(0), source.data)
    arrays = {"variables": learner.params(state)}
    if work.options["data"] == "graph":
        graph, rows = source.data["x"], source.data["x"].nodes
        nodes = np.zeros(rows.shape, np.float32)
        np.add.at(nodes, (np.arange(len(nodes))[:, None], np.asarray(rows.index)), np.asarray(rows.value))
        arrays |= {"graph": {"nodes": nodes, "senders": graph.senders, "receivers": graph.receivers}}
        arrays |= {"y": source.data["y"], "mask": source.data["mask"]}
    else:
        following = jax.jit(source.next)
        batches = []
        for _ in range(2 * work.chunk):
            cursor, batch = following(source.data, cursor)
            batches.append(jax.device_get(batch))
        arrays["batches"] = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    return arrays


def flops(work: Work):
    import _linen

    return _linen.flops(work)


def ours(work: Work):
    """The engine's program, on the devices that the command line would use."""
    import jax
    import numpy as np

    from dljax.cli.launch import Launch
    from dljax.core.contract import run_key
    from dljax.engine.parallel import choose, replicate
    from dljax.engine.program import Program

    Launch().start()
    learner, source = problem(work)
    parallel = choose(learner, source)
    program = Program(learner, source, every=work.chunk, parallel=parallel)
    key = replicate(jax.random.key(0), parallel)
    loop, done = program.start(key), 0
    key = run_key(key)

    def run(steps):
        nonlocal loop, done
        losses = []
        for _ in range(steps // work.chunk):
            loop, history, _ = program.chunk(key, done, work.chunk, loop)
            losses.append(float(np.asarray(history["loss"])[-1]))
            done += work.chunk
        return losses

    return run, {"note": f"{1 if parallel is None else parallel.num_shards} of {jax.device_count()} devices"}


def linen_per_step(work: Work):
    import _linen

    return _linen.per_step(work)


def linen_scanned(work: Work):
    import _linen

    return _linen.scanned(work)


def keras(work: Work):
    import _keras

    return _keras.trained(work)


def task(name: str, chunk: int, *, quick_torch: str, torch=TORCH, scanned_is_quick=False, has_keras=False, **options) -> Task:
    contestants = {"dljax": Contestant(ours, first=True)}
    for how, build in torch.items():
        is_usual = how == quick_torch
        contestants[f"PyTorch: {how}"] = Contestant(build, quick=is_usual, first=is_usual)
        contestants[f"PyTorch at full speed: {how}"] = Contestant(build, env=_torch.full_speed_mkl, quick=is_usual)
    contestants["linen, a jitted step"] = Contestant(linen_per_step, first=True)
    contestants["linen, scanned"] = Contestant(linen_scanned, quick=scanned_is_quick)
    if has_keras:
        contestants["Keras on JAX"] = Contestant(keras, quick=False)
    return Task(name, "steps/s", contestants, prepare=prepare, flops=flops, chunk=chunk, options=options)


PICTURES = {"data": "pictures", "batch_size": 128, "learning_rate": 1e-3}
WITHOUT_LAYOUT = {how: build for how, build in TORCH.items() if how != "channels last"}
TASKS = [
    task("mlp", 100, quick_torch="fused Adam", torch=WITHOUT_LAYOUT, has_keras=True, model="mlp", widths=(512, 512), **PICTURES),
    task("cnn", 10, quick_torch="channels last", has_keras=True, model="cnn", widths=(32, 64), hidden=128, **PICTURES),
    task(
        "gpt", 5, quick_torch="fused Adam", torch=WITHOUT_LAYOUT, model="gpt", num_layers=4, num_heads=4, width=128, context=128,
        data="text", batch_size=16, learning_rate=1e-3,
    ),
    task("gcn", 100, quick_torch="sparse features", torch=GRAPH, scanned_is_quick=True, model="gcn", width=16, data="graph", learning_rate=1e-2),
]  # fmt: skip

if __name__ == "__main__":
    main(TASKS)
