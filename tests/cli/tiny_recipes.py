"""Recipes that train in milliseconds, for the tests of the command line."""

from typing import Literal

import numpy as np

from dljax.core.experiment import AtLeast, AtMost, Experiment, recipe


def register() -> None:
    """Register `tiny/line`, which is sound, and `tiny/faulty`, which is not."""

    @recipe(
        "tiny/line", chapter=90, rows=("90.1",), target=AtMost("error", 0.1, source="y = 2 x is in the model's reach | always"), minutes=0.01, seeds=2
    )
    def line(*, learning_rate: float = 0.1, batch_size: int = 8, widths: tuple[int, ...] = (1, 2), power: int = 1, halve: bool = False) -> Experiment:
        """Least squares by gradient descent.

        Args:
          learning_rate: of gradient descent, > 0.
          batch_size: examples a step,
            at most 64.
          widths, power: of no use.
          halve: the gradient.
        """
        from dljax import core

        core.check_range("tiny/line", "learning_rate", learning_rate, 0, open_low=True)
        return _line(learning_rate * (0.5 if halve else 1.0), batch_size)

    @recipe("tiny/never", chapter=91, rows=("91.1",), target=AtLeast("slope", 3.0, source="out of reach"), minutes=0.01)
    def never(*, steps: int = 50) -> Experiment:
        """The same with a target that it cannot meet, a length of its own and a measurement at the end."""
        import dataclasses

        return dataclasses.replace(
            _line(0.1, 8), steps=steps, every=None, evaluate_every=None, measure=lambda params, key: {"slope": float(params["w"])}
        )

    @recipe("tiny/faulty", chapter=92, target=AtLeast("unheard", 0.0), minutes=0.01)
    def faulty(
        *, fault: Literal["none", "labels", "rows", "graph", "edges", "loss", "metrics", "nowhere", "corrupted", "mine", "bug", "figures"] = "none"
    ) -> Experiment:
        """What the user, or the data, can get wrong."""
        import dataclasses

        import jax
        import jax.numpy as jnp
        import optax
        from flax import linen

        from dljax import data
        from dljax.objectives import cross_entropy
        from dljax.supervised import supervised

        if fault == "labels":
            data.check_labels(np.array([0, 1, 10]), num_classes=10)
        if fault == "rows":
            data.shuffled({"x": np.zeros((0, 2))}, 1)
        if fault in ("graph", "edges"):
            from dljax.nn.graph import single_graph

            nodes = np.zeros((0 if fault == "graph" else 3, 2), np.float32)
            single_graph(nodes, np.array([0, 7][: len(nodes)]), np.array([1, 2][: len(nodes)]))
        if fault == "loss":
            batch = {"x": jnp.ones((4, 2)), "y": jnp.zeros(4, jnp.int32)}
            learner = supervised(linen.Dense(2), lambda outputs, y: cross_entropy(outputs, y).mean(), optax.sgd(0.1))
            return Experiment(learner, data.repeat(batch), steps=2)
        if fault in ("nowhere", "corrupted", "mine"):
            data.load(fault)
        if fault == "bug":
            {}["something"]
        experiment = _line(0.1, 8)
        if fault == "figures":

            def figures(params: object, key: jax.Array) -> dict:
                raise ValueError("figures: nothing to draw; draw something")

            return dataclasses.replace(experiment, steps=10, every=None, evaluate_every=None, figures=figures)
        return dataclasses.replace(experiment, steps=10, every=None, evaluate_every=None, exports=None)


def _line(learning_rate: float, batch_size: int) -> Experiment:
    import jax
    import jax.numpy as jnp

    from dljax import core, data

    x = np.linspace(-1, 1, 64, dtype=np.float32)

    def error(params: dict, batch: dict) -> jax.Array:
        return (params["w"] * batch["x"] - batch["y"]) ** 2

    def step(key: jax.Array, state: dict, batch: dict) -> tuple[dict, dict]:
        loss, grads = jax.value_and_grad(lambda params: error(params, batch).mean())(state["params"])
        return {"params": jax.tree.map(lambda p, g: p - learning_rate * core.pmean(g), state["params"], grads)}, {"loss": loss}

    fold = core.Fold(
        lambda key, state: (jnp.zeros(()), jnp.zeros(())),
        lambda acc, state, batch: (acc[0] + (error(state["params"], batch) * batch["mask"]).sum(), acc[1] + batch["mask"].sum()),
        lambda acc: {"error": core.Mean(*acc)},
    )
    learner = core.Learner(
        lambda key, batch: {"params": {"w": jax.random.normal(key)}},
        step,
        lambda state: state["params"],
        evaluate=fold,
        functions={"predict": lambda key, params, x: params["w"] * x},
    )

    def figures(params: dict, key: jax.Array) -> dict:
        from dljax import report

        return {"weight": report.table([{"w": float(params["w"])}], "the slope; 2 is exact")}

    return Experiment(
        learner,
        data.shuffled({"x": x, "y": 2 * x}, batch_size),
        steps=100,
        every=10,
        evaluation={"x": x, "y": 2 * x},
        batch_size=16,
        evaluate_every=50,
        measure=lambda params, key: {"slope": float(params["w"])},
        figures=figures,
        per_step=batch_size,
        unit="examples",
        exports=lambda key: {"predict": (jnp.ones((1,)),)},
    )
