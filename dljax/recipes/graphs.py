"""Graphs (chapter 7): labelling the papers of a citation graph."""

from dljax.core.experiment import AtLeast, Experiment, recipe


@recipe(
    "cora/gcn",
    chapter=7,
    rows=("7.2",),
    target=AtLeast("accuracy", 0.80, source="Kipf & Welling (2017), Table 2: 0.815, mean of 100 runs"),
    minutes=0.2,
    seeds=5,
    data="cora",
)
def cora_gcn(
    width: int = 16,
    dropout_rate: float = 0.5,
    learning_rate: float = 0.01,
    weight_decay: float = 5e-4,
    steps: int = 200,
) -> Experiment:
    """A two-layer GCN on Cora: 140 labelled papers of 2,708, scored on the 1,000 of the public test split.

    The number of steps is the paper's; nothing is chosen by the test papers.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core import check_range
    from dljax.models.gcn import GCN
    from dljax.nn.graph import single_graph, sparse_rows
    from dljax.objectives import accuracy, cross_entropy
    from dljax.supervised import supervised

    check_range("cora/gcn", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    check_range("cora/gcn", "weight_decay", weight_decay, 0, open_high=True)
    cora = data.load("cora")
    words = cora["x"] / np.maximum(cora["x"].sum(1, keepdims=True), 1)
    graph = single_graph(sparse_rows(words), cora["senders"], cora["receivers"])
    labels = jnp.asarray(cora["y"])
    model = GCN(len(_TOPICS), width, dropout_rate=dropout_rate, is_sorted=True)
    # The paper decays the first layer only, as a penalty in the loss: before Adam's scaling, not after it.
    optimizer = optax.chain(optax.add_decayed_weights(weight_decay, mask=_is_first_layer), optax.adam(learning_rate))
    learner = supervised(model, cross_entropy, optimizer, metrics={"accuracy": accuracy})

    def embed(key, params, x):
        return model.apply(params, x, method="embed")

    learner = learner._replace(functions={**learner.functions, "embed": embed})

    def figures(params, key):
        from dljax import report

        is_test, classes = cora["test_mask"], cora["y"]
        hidden = np.asarray(jax.jit(embed)(key, params, graph))[is_test]
        # Directions only: lengths differ by the number of citations and would hide the classes.
        hidden = hidden / np.maximum(np.linalg.norm(hidden, axis=1, keepdims=True), 1e-12)
        centred = hidden - hidden.mean(0)
        _, scales, axes = np.linalg.svd(centred, full_matrices=False)
        places = centred @ axes[:2].T
        share = (scales[:2] ** 2).sum() / (scales**2).sum()

        def draw(axes):
            for label, topic in enumerate(_TOPICS):
                axes.scatter(*places[classes[is_test] == label].T, s=8, alpha=0.7, label=topic)
            axes.set(xlabel="first principal component", ylabel="second principal component")
            axes.legend(markerscale=2, fontsize=8)

        return {
            "embedding": report.plot(
                draw,
                f"Directions of {is_test.sum():,} test papers' hidden features, by true topic; two components carry {share:.0%} of the variance",
            )
        }

    return Experiment(
        learner,
        data.repeat({"x": graph, "y": labels, "mask": jnp.asarray(cora["train_mask"], jnp.float32)}),
        steps=steps,
        evaluation={"x": graph, "y": labels, "mask": jnp.asarray(cora["test_mask"], jnp.float32)},
        figures=figures,
        unit="epochs",
    )


_TOPICS = (
    "theory",
    "reinforcement learning",
    "genetic algorithms",
    "neural networks",
    "probabilistic methods",
    "case-based reasoning",
    "rule learning",
)


def _is_first_layer(params):
    return {name: dict.fromkeys(layer, name == "layers_0") for name, layer in params.items()}
