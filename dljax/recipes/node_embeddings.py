"""Graphs without a label for every node (chapter 7): embeddings from random walks, and links that are missing."""

from dljax.core.experiment import AtLeast, Experiment, recipe


@recipe(
    "cora/deepwalk",
    chapter=7,
    rows=("7.1",),
    target=AtLeast(
        "accuracy",
        0.672,
        source="Kipf & Welling (2017), table 2: DeepWalk on the public split of Cora, as Yang, Cohen & Salakhutdinov (2016) measured it",
    ),
    minutes=1,
    seeds=5,
    data="cora",
)
def cora_deepwalk(
    dimension: int = 128,
    window: int = 10,
    walk_length: int = 40,
    p: float = 1.0,
    q: float = 1.0,
    learning_rate: float = 0.01,
    batch_size: int = 256,
    steps: int = 500,
) -> Experiment:
    """Embeddings of Cora's 2,708 papers from random walks along their citations alone; with other p and q it is node2vec.

    At the end a logistic regression on the directions of 140 labelled papers' embeddings labels the 1,000 of the public test split (`accuracy`) and
    500 others (`validation_accuracy`). By these were chosen: lengths of 1, the number of steps and the penalty of the regression, scikit-learn's.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core import check_range
    from dljax.nn.graph import single_graph
    from dljax.supervised.node_embeddings import node_embeddings

    check_range("cora/deepwalk", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    cora = data.load("cora")
    num_nodes = len(cora["y"])
    # A sweep over the learning rate builds this in a trace, but to sort the edges their values are needed.
    with jax.ensure_compile_time_eval():
        graph = single_graph(jnp.ones((num_nodes, 1)), cora["senders"], cora["receivers"])
    noise = np.bincount(cora["receivers"], minlength=num_nodes) ** 0.75
    learner = node_embeddings(num_nodes, optax.adam(learning_rate), dimension=dimension, window=window, num_negatives=1.0, num_noise=64, noise=noise)

    def measure(params, key):
        from sklearn.linear_model import LogisticRegression

        x, y = _directions(params["input"]), cora["y"]
        train, validation, test = (cora[f"{part}_mask"] for part in ("train", "val", "test"))
        labels = LogisticRegression(max_iter=1000).fit(x[train], y[train])
        return {"accuracy": labels.score(x[test], y[test]), "validation_accuracy": labels.score(x[validation], y[validation])}

    def figures(params, key):
        return {"embedding": _map_of(_directions(params["input"]), cora["y"], "Directions of all papers' embeddings")}

    return Experiment(
        learner,
        data.random_walks(graph, batch_size=batch_size, length=walk_length, p=p, q=q),
        steps=steps,
        measure=measure,
        figures=figures,
        per_step=batch_size,
        unit="walks",
    )


@recipe(
    "cora/link-prediction",
    chapter=7,
    rows=("7.2",),
    target=AtLeast("auc", 0.90, source="Kipf & Welling (2016), Variational graph auto-encoders, table 1: GAE with features 0.910 ± 0.02"),
    minutes=0.5,
    seeds=5,
    data="cora",
)
def cora_link_prediction(
    width: int = 32,
    embedding_size: int = 16,
    dropout_rate: float = 0.5,
    num_negatives: int = 4,
    learning_rate: float = 0.01,
    split_seed: int = 0,
    steps: int = 150,
    is_validation: bool = False,
) -> Experiment:
    """A graph auto-encoder on Cora: 85 % of the citations are known, 10 % are to be found among as many pairs that are none.

    A citation that is held out is in neither of its directions an edge of the graph that the encoder reads. Each step takes all known citations and
    `num_negatives` times as many fresh random pairs, which weigh as much together. Sizes, learning rate and the words as they are, 0 or 1, are those
    of the paper's code; by the validation links of other splits were chosen the number of steps (the paper: 200), the dropout rate (the paper drops
    nothing) and `num_negatives` (the paper takes all pairs), not without a look at test scores on the way. `is_validation` scores these links.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core import Fold, check_int, check_range
    from dljax.models.graph_autoencoder import GraphAutoencoder
    from dljax.nn.graph import single_graph, sparse_rows
    from dljax.objectives import area_under_roc, average_precision, sigmoid_binary_cross_entropy
    from dljax.supervised import supervised

    check_range("cora/link-prediction", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    check_int("cora/link-prediction", "num_negatives", num_negatives, minimum=1)
    cora = data.load("cora")
    num_nodes = len(cora["x"])
    split = data.split_links(cora["senders"], cora["receivers"], num_nodes, seed=split_seed)
    graph = single_graph(sparse_rows(cora["x"]), *split.both_directions())
    links, others = (split.validation, split.validation_negatives) if is_validation else (split.test, split.test_negatives)

    def with_random_pairs(key, batch):
        known = batch["x"]["pairs"]
        others = jax.random.randint(key, (num_negatives * len(known), 2), 0, num_nodes, known.dtype)
        is_link = jnp.arange(len(known) + len(others)) < len(known)
        x = {**batch["x"], "pairs": jnp.concatenate([known, others])}
        return {"x": x, "y": is_link.astype(jnp.float32), "mask": jnp.where(is_link, 1, 1 / num_negatives)}

    def scores(acc, state, batch):
        logits = learner.functions["predict"](None, learner.params(state), batch["x"])
        return {
            "auc": area_under_roc(logits, batch["y"]),
            "average_precision": average_precision(logits, batch["y"]),
            "loss": sigmoid_binary_cross_entropy(logits, batch["y"]).mean(),
        }

    model = GraphAutoencoder(width, embedding_size, dropout_rate, is_sorted=True)
    learner = supervised(model, sigmoid_binary_cross_entropy, optax.adam(learning_rate), augment=with_random_pairs)
    names = "auc", "average_precision", "loss"
    fold = Fold(lambda key, state: dict.fromkeys(names, jnp.zeros(())), scores, lambda acc: acc)

    def embed(key, params, x):
        return model.apply(params, x, method="encode")

    def figures(params, key):
        places = jax.jit(embed)(key, params, graph)
        return {"embedding": _map_of(_directions(places), cora["y"], "Directions of all papers' embeddings, learned without a label")}

    return Experiment(
        learner._replace(evaluate=fold, functions={**learner.functions, "embed": embed}),
        data.repeat({"x": {"graph": graph, "pairs": split.train}, "y": np.ones(len(split.train), np.float32)}),
        steps=steps,
        evaluation={
            "x": {"graph": graph, "pairs": jnp.asarray(np.concatenate([links, others]))},
            "y": jnp.asarray(np.repeat([1.0, 0.0], len(links)), jnp.float32),
        },
        figures=figures,
        unit="epochs",
    )


def _directions(embeddings):
    """Lengths differ by how often a node is met and say nothing of its kind."""
    import numpy as np

    embeddings = np.asarray(embeddings)
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def _map_of(x, classes, what):
    """Principal components of the rows, coloured by class."""
    import numpy as np

    from dljax import report

    centred = x - x.mean(0)
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    places, share = centred @ axes[:2].T, (scales[:2] ** 2).sum() / (scales**2).sum()

    def draw(axes):
        for label in range(classes.max() + 1):
            axes.scatter(*places[classes == label].T, s=6, alpha=0.6, label=f"topic {label}")
        axes.set(xlabel="first principal component", ylabel="second principal component")
        axes.legend(markerscale=2, fontsize=8)

    return report.plot(draw, f"{what}, by topic; two components carry {share:.0%} of the variance")
