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
    import _linen
    import numpy as np
    import optax

    from dljax import data, nn
    from dljax.models.cnn import CNN
    from dljax.models.gcn import GCN
    from dljax.models.gpt import GPT
    from dljax.models.mlp import MLP
    from dljax.nn import single_graph, sparse_rows
    from dljax.objectives import cross_entropy
    from dljax.supervised import supervised

    options = work.options
    match options["data"]:
        case "pictures":
            pictures, labels = data.load("fashion-mnist")["train"].values()
            if "classes" in options:
                pictures, labels = _hidden(pictures, options["classes"])
            rim = options.get("padded", 0)
            pictures = np.pad(pictures, ((0, 0), (rim, rim), (rim, rim), (0, 0))) if rim else pictures
            source = data.shuffled({"x": pictures, "y": labels}, options["batch_size"])
        case "text":
            text = data.load("tinyshakespeare")
            source = data.windows(text["train"]["tokens"], options["context"], options["batch_size"])
            vocab_size = options.get("vocab_size", len(text["vocabulary"]))
        case "graph":
            cora = data.load("cora")
            words = cora["x"] / np.maximum(cora["x"].sum(1, keepdims=True), 1)
            graph = single_graph(sparse_rows(words), cora["senders"], cora["receivers"])
            source = data.repeat({"x": graph, "y": cora["y"], "mask": cora["train_mask"].astype(np.float32)})
    match options["model"]:
        case "mlp":
            model = MLP(10, options["widths"])
        case "cnn":
            model = CNN(10, options["widths"], options["hidden"])
        case "gpt":
            model = GPT(vocab_size, options["context"], options["num_layers"], options["num_heads"], options["width"])
        case "linen-gpt":
            model = _linen.GPT(vocab_size, options["num_layers"], options["num_heads"], options["width"], nn=nn)
        case "resnet":
            model = _linen.ResNet(options["stages"], options["width"], options.get("is_bottleneck", False), options.get("scale", 1), nn=nn)
        case "unet":
            model = _linen.UNet(options["widths"], options["classes"], nn=nn)
        case "lstm":
            model = _linen.LSTM(vocab_size, options["width"], nn=nn)
        case "gcn":
            model = GCN(7, options["width"], dropout_rate=0.0, is_sorted=True)
    return supervised(model, cross_entropy, optax.adam(options["learning_rate"])), source


def _hidden(pictures, classes):
    """Pictures of which half the pixels are blackened, and of every pixel the level of grey that it had."""
    import numpy as np

    is_seen = np.random.default_rng(0).integers(0, 2, pictures.shape, np.uint8)
    return pictures * is_seen, (pictures[..., 0] // (256 // classes)).astype(np.uint8)


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
    from dljax.engine.parallel import choose, replicate
    from dljax.engine.program import Program

    Launch().start()
    learner, source = problem(work)
    parallel = choose(learner, source)
    program = Program(learner, source, every=work.chunk, parallel=parallel, precision=work.options.get("precision"))
    key = replicate(jax.random.key(0), parallel)
    key, loop = program.start(key)
    done = 0

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


def task(name, chunk, *, quick_torch, torch=TORCH, scanned_is_quick=False, has_keras=False, tolerance=5e-3, small=None, **options) -> Task:
    contestants = {"dljax": Contestant(ours, first=True)}
    for how, build in torch.items():
        is_usual = how == quick_torch
        contestants[f"PyTorch: {how}"] = Contestant(build, quick=is_usual, small=how == "fused Adam", first=is_usual)
        if small is None:  # on an accelerator the processor's matrix library does not matter
            contestants[f"PyTorch at full speed: {how}"] = Contestant(build, env=_torch.full_speed_mkl, quick=is_usual)
    contestants["linen, a jitted step"] = Contestant(linen_per_step, first=True)
    contestants["linen, scanned"] = Contestant(linen_scanned, quick=scanned_is_quick)
    if has_keras:
        contestants["Keras on JAX"] = Contestant(keras, quick=False)
    count = None if options["data"] == "graph" else flops  # of sparse features most products are not done
    return Task(name, "steps/s", contestants, prepare, count, chunk, tolerance=tolerance, options=options, small=small or {})


PICTURES = {"data": "pictures", "batch_size": 128, "learning_rate": 1e-3}
TEXT = {"data": "text", "learning_rate": 1e-3}
WITHOUT_LAYOUT = {how: build for how, build in TORCH.items() if how != "channels last"}
SMALL_GPT = {"num_layers": 4, "num_heads": 4, "width": 128, "context": 128, "batch_size": 16}
TASKS = [
    task("mlp", 100, quick_torch="fused Adam", torch=WITHOUT_LAYOUT, has_keras=True, model="mlp", widths=(512, 512), **PICTURES),
    task("cnn", 10, quick_torch="channels last", has_keras=True, model="cnn", widths=(32, 64), hidden=128, **PICTURES),
    task("resnet-8", 5, quick_torch="channels last", model="resnet", stages=(1, 1, 1), width=16, padded=2, **PICTURES | {"batch_size": 64}),
    task("u-net", 5, quick_torch="channels last", model="unet", widths=(16, 32, 64), classes=4, **PICTURES | {"batch_size": 64}),
    task("lstm", 20, quick_torch="fused Adam", torch=WITHOUT_LAYOUT, has_keras=True, model="lstm", width=128, context=64, batch_size=32, **TEXT),
    task("gpt", 5, quick_torch="fused Adam", torch=WITHOUT_LAYOUT, model="gpt", **SMALL_GPT, **TEXT),
    task("gpt, import changed", 5, quick_torch="", torch={}, model="linen-gpt", **SMALL_GPT, **TEXT),
    task("gcn", 100, quick_torch="sparse features", torch=GRAPH, scanned_is_quick=True, model="gcn", width=16, data="graph", learning_rate=1e-2),
]
HALF = {"precision": "bfloat16", "tolerance": 0.05}
GPU_TASKS = [
    task("mlp-4096", 50, quick_torch="fused Adam", torch=WITHOUT_LAYOUT, model="mlp", widths=(4096, 4096), **PICTURES | {"batch_size": 8192},
         small={"widths": (64, 64), "batch_size": 64}),
    task("resnet-50", 5, quick_torch="compiled", model="resnet", stages=(3, 4, 6, 3), width=64, is_bottleneck=True, scale=8,
         **PICTURES, **HALF, small={"stages": (1, 1, 1, 1), "width": 8, "scale": 2, "batch_size": 4}),
    task("u-net-256", 5, quick_torch="compiled", model="unet", widths=(64, 128, 256), classes=4, **PICTURES | {"batch_size": 512}, **HALF,
         small={"widths": (8, 8), "batch_size": 4}),
    task("lstm-1024", 10, quick_torch="fused Adam", torch=WITHOUT_LAYOUT, model="lstm", width=1024, context=256, batch_size=256, **TEXT,
         small={"width": 32, "context": 16, "batch_size": 4}),
    task("gpt-2-124m", 5, quick_torch="compiled", torch=WITHOUT_LAYOUT, model="gpt", num_layers=12, num_heads=12, width=768, context=1024,
         vocab_size=50304, batch_size=16, **TEXT, **HALF,
         small={"num_layers": 2, "num_heads": 2, "width": 32, "context": 32, "vocab_size": 128, "batch_size": 2}),
]  # fmt: skip

if __name__ == "__main__":
    main(TASKS, GPU_TASKS)
