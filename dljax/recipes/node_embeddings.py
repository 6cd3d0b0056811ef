"""Graphs without a label for every node (chapter 7): embeddings from random walks, and links that are missing."""

from dljax.core.experiment import AtLeast, Experiment, recipe


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
    width: int = 32, embedding_size: int = 16, learning_rate: float = 0.01, split_seed: int = 0, steps: int = 200, is_validation: bool = False
) -> Experiment:
    """A graph auto-encoder on Cora: 85 % of the citations are known, 10 % are to be found among as many pairs that are none.

    A citation that is held out is in neither of its directions an edge of the graph that the encoder reads. Each step takes all known citations and
    as many fresh random pairs. Sizes, learning rate and the number of steps are the paper's. `is_validation` scores the other 5 % instead.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core import Fold, check_range
    from dljax.models.graph_autoencoder import GraphAutoencoder
    from dljax.nn.graph import single_graph, sparse_rows
    from dljax.objectives import area_under_roc, average_precision, sigmoid_binary_cross_entropy
    from dljax.supervised import supervised

    check_range("cora/link-prediction", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    cora = data.load("cora")
    num_nodes = len(cora["x"])
    split = data.split_links(cora["senders"], cora["receivers"], num_nodes, seed=split_seed)
    words = cora["x"] / np.maximum(cora["x"].sum(1, keepdims=True), 1)
    graph = single_graph(sparse_rows(words), *split.both_directions())
    links, others = (split.validation, split.validation_negatives) if is_validation else (split.test, split.test_negatives)

    def with_random_pairs(key, batch):
        known = batch["x"]["pairs"]
        pairs = jnp.concatenate([known, jax.random.randint(key, known.shape, 0, num_nodes, known.dtype)])
        return {"x": {**batch["x"], "pairs": pairs}, "y": jnp.repeat(jnp.array([1.0, 0.0]), len(known))}

    def scores(acc, state, batch):
        logits = learner.functions["predict"](None, learner.params(state), batch["x"])
        return {
            "auc": area_under_roc(logits, batch["y"]),
            "average_precision": average_precision(logits, batch["y"]),
            "loss": sigmoid_binary_cross_entropy(logits, batch["y"]).mean(),
        }

    model = GraphAutoencoder(width, embedding_size, is_sorted=True)
    learner = supervised(model, sigmoid_binary_cross_entropy, optax.adam(learning_rate), augment=with_random_pairs)
    names = "auc", "average_precision", "loss"
    fold = Fold(lambda key, state: dict.fromkeys(names, jnp.zeros(())), scores, lambda acc: acc)

    def embed(key, params, x):
        return model.apply(params, x, method="encode")

    return Experiment(
        learner._replace(evaluate=fold, functions={**learner.functions, "embed": embed}),
        data.repeat({"x": {"graph": graph, "pairs": split.train}, "y": np.ones(len(split.train), np.float32)}),
        steps=steps,
        evaluation={
            "x": {"graph": graph, "pairs": jnp.asarray(np.concatenate([links, others]))},
            "y": jnp.asarray(np.repeat([1.0, 0.0], len(links)), jnp.float32),
        },
        unit="epochs",
    )
