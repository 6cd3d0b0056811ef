"""Sweeps over seeds beside torch.func's vmap and a loop in PyTorch: steps of members a second.

Every member has weights and batches of its own, the same for everybody, an MLP on scikit-learn's digits or a CNN on Fashion-MNIST, both small; the
loss is the mean over the members. "dljax" is what `dljax.sweep` does when nothing is said: it measures its ways and takes the fastest; its ways
stand beside it as "batching". "torch.func" is the recipe of PyTorch's tutorial on model ensembling with one fused Adam for all members, "PyTorch" the
usual loop with a fused Adam for each. torch.func and PyTorch get their batches ready in memory.
"""

from types import SimpleNamespace

import _torch
from _harness import Contestant, Task, Work, main


def problem(work: Work):
    """A learner and its source; what a member draws comes from its key."""
    import optax

    from dljax import data
    from dljax.models.cnn import CNN
    from dljax.models.mlp import MLP
    from dljax.objectives import cross_entropy
    from dljax.supervised import supervised

    options = work.options
    pictures, labels = data.load(options["data"])["train"].values()
    source = data.shuffled({"x": pictures, "y": labels}, options["batch_size"])
    model = MLP(10, options["widths"]) if options["model"] == "mlp" else CNN(10, options["widths"], options["hidden"])
    return supervised(model, cross_entropy, optax.adam(options["learning_rate"])), source


def prepare(work: Work):
    """The weights that the members start from and their first batches, which are repeated: all leaves begin with the member."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from dljax.core import start

    learner, source = problem(work)

    def member(key, data):
        _, state, cursor = start(learner, source, key, data)
        batches = lax.scan(lambda cursor, _: source.next(data, cursor), cursor, None, 2 * work.chunk)[1]
        return {"variables": learner.params(state), "batches": batches}

    keys = jnp.stack([jax.random.key(seed) for seed in range(work.options["members"])])
    return jax.device_get(jax.jit(jax.vmap(member, (0, None)))(keys, source.data))


def ours(batching: str):
    """A contestant: the compiled functions of a sweep."""

    def build(work: Work):
        import numpy as np

        from dljax.cli.launch import Launch
        from dljax.core import Experiment
        from dljax.engine import FitConfig
        from dljax.engine.lanes import Group
        from dljax.engine.plan import Plan

        Launch().start()
        learner, source = problem(work)
        group = Group(lambda: learner, Experiment(learner, source, work.chunk), {}, [{}], range(work.options["members"]), FitConfig(), batching)
        group.plan = Plan.make(work.chunk, FitConfig(every=work.chunk), None)
        compiled = group._compiled(None)
        carries, done = [compiled.start(index) for index in range(len(compiled.rounds))], 0

        def run(steps):
            nonlocal done
            losses = []
            for _ in range(steps // work.chunk):
                histories = []
                for index, carry in enumerate(carries):
                    carries[index], (history, _) = compiled.chunk(index, done, work.chunk, carry)
                    histories.append(history)
                losses.append(np.mean([np.asarray(history["loss"]) for history in histories]))
                done += work.chunk
            return losses

        return run, {"note": f"{compiled.lanes.devices} devices x {compiled.lanes.width} members"}

    return build


def members_of(work: Work):
    """A torch model with its weights and the pictures and labels of all its steps, for each member."""
    import torch

    torch.set_num_threads(work.threads)
    arrays = work.arrays()
    layers = arrays["variables"]["params"].items()
    models = []
    for number in range(work.options["members"]):
        own = {"variables": {"params": {layer: {name: leaf[number] for name, leaf in leaves.items()} for layer, leaves in layers}}}
        models.append(_torch.model_with_weights(SimpleNamespace(options=work.options, arrays=lambda own=own: own)))
    x, y = torch.tensor(arrays["batches"]["x"]), torch.tensor(arrays["batches"]["y"]).long()
    return models, x.movedim(-1, 3).contiguous(), y


def torch_vmapped(work: Work):
    import torch
    from torch.func import functional_call, grad_and_value, stack_module_state, vmap
    from torch.nn import functional

    models, x, y = members_of(work)
    params, _ = stack_module_state(models)
    skeleton = models[0].to("meta")
    optimizer = torch.optim.Adam(params.values(), work.options["learning_rate"], fused=True)

    def objective(params, x, y):
        return functional.cross_entropy(functional_call(skeleton, params, (x.float() / 255,)), y)

    gradients = vmap(grad_and_value(objective))
    done = 0

    def run(steps):
        nonlocal done
        losses = []
        for _ in range(steps):
            number = done % x.shape[1]
            with torch.no_grad():
                grads, loss = gradients(params, x[:, number], y[:, number])
            for name, leaf in params.items():
                leaf.grad = grads[name]
            optimizer.step()
            losses.append(loss)
            done += 1
        return torch.stack(losses).double().view(-1, work.chunk * len(models)).mean(1).tolist()

    return run


def torch_looped(work: Work):
    import numpy as np
    import torch
    from torch.nn import functional

    models, x, y = members_of(work)

    def member(model, x, y):
        def objective(x, y):
            return functional.cross_entropy(model(x.float() / 255), y)

        optimizer = torch.optim.Adam(model.parameters(), work.options["learning_rate"], fused=True)
        return _torch.loop(work, optimizer, objective, lambda number: (x[number % len(x)], y[number % len(y)]))

    runs = [member(*each) for each in zip(models, x, y, strict=True)]
    return lambda steps: np.mean([run(steps) for run in runs], axis=0)


def task(name: str, chunk: int, members: int, **options) -> Task:
    contestants = {
        "dljax": Contestant(ours("auto")),
        **{f"batching: {how}": Contestant(ours(how), quick=False) for how in ("vmap", "loop", "devices")},
        "torch.func": Contestant(torch_vmapped),
        "torch.func at full speed": Contestant(torch_vmapped, env=_torch.full_speed_mkl, quick=False),
        "PyTorch: loop": Contestant(torch_looped, quick=members == 16),
    }
    return Task(f"{name}-{members}", "steps/s", contestants, prepare, chunk=chunk, per_step=members, options=options | {"members": members})


MLP = {"data": "digits", "model": "mlp", "widths": (64, 64), "batch_size": 32, "learning_rate": 1e-3}
CNN = {"data": "fashion-mnist", "model": "cnn", "widths": (8, 16), "hidden": 32, "batch_size": 32, "learning_rate": 1e-3}
TASKS = [task("mlp", 50, members, **MLP) for members in (16, 64)] + [task("cnn", 5, members, **CNN) for members in (16, 64)]

if __name__ == "__main__":
    main(TASKS)
