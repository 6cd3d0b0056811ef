"""The graph auto-encoder: the paper's formula, blind to the order of nodes; it finds links that it was not shown."""

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import optax
import pytest

from dljax import core, data
from dljax.models.graph_autoencoder import GraphAutoencoder
from dljax.nn.graph import single_graph
from dljax.objectives import area_under_roc, sigmoid_binary_cross_entropy
from dljax.supervised import supervised


def test_7_2_logits_of_links_equal_the_papers_formula_in_float64():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        upper = np.triu(rng.random((8, 8)) < 0.4, 1)
        adjacency = (upper | upper.T).astype(float)
        receivers, senders = np.nonzero(adjacency)
        graph = single_graph(rng.normal(size=(8, 5)), senders, receivers)
        pairs = np.stack(np.triu_indices(8, 1), 1)
        model = GraphAutoencoder(width=6, embedding_size=3, is_sorted=True)
        x = {"graph": graph, "pairs": jnp.asarray(pairs)}
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), jax.jit(model.init)(jax.random.key(0), x))
        first, second = (variables["params"]["encoder"][f"layers_{layer}"]["kernel"] for layer in (0, 1))
        loops = adjacency + np.eye(8)
        propagate = loops / np.sqrt(np.outer(loops.sum(0), loops.sum(1)))
        z = propagate @ np.maximum(propagate @ np.asarray(graph.nodes) @ first, 0) @ second
        np.testing.assert_allclose(model.apply(variables, graph, method="encode"), z, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(model.apply(variables, x), (z @ z.T)[pairs[:, 0], pairs[:, 1]], rtol=1e-11, atol=1e-13)


def test_7_2_links_held_out_of_a_network_of_communities_are_found():
    theirs = networkx.planted_partition_graph(4, 15, 0.7, 0.01, seed=0)
    ends = np.array(theirs.edges).T
    split = data.split_links(*ends, 60, test=0.2, seed=1)
    graph = single_graph(jnp.eye(60), *split.both_directions())
    pairs = jnp.asarray(np.concatenate([split.train, np.random.default_rng(0).integers(60, size=split.train.shape)]), jnp.int32)
    batch = {"x": {"graph": graph, "pairs": pairs}, "y": jnp.repeat(jnp.array([1.0, 0.0]), len(split.train))}
    learner = supervised(GraphAutoencoder(16, 8, is_sorted=True), sigmoid_binary_cross_entropy, optax.adam(0.03))

    @jax.jit
    def train(key, test):
        source = data.repeat(batch)
        run_key, state, cursor = core.start(learner, source, key)
        state, *_ = core.unroll(learner, source, 60, 60)(run_key, 0, state, cursor)
        logits = learner.functions["predict"](key, learner.params(state), {"graph": graph, "pairs": test})
        return area_under_roc(logits, jnp.arange(len(test)) < len(test) // 2)

    test = jnp.asarray(np.concatenate([split.test, split.test_negatives]))
    # Who knows the communities would reach 0.5 + 0.5 · (P(same | link) - P(same | no link)) = 0.5 + 0.5 · (0.96 - 0.09) = 0.935.
    assert train(jax.random.key(0), test) > 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "GraphAutoencoder: width must be >= 1, got 0"),
        ({"embedding_size": 0}, "GraphAutoencoder: embedding_size must be >= 1, got 0"),
        ({"dropout_rate": 1.5}, r"GraphAutoencoder: dropout_rate must be in \[0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    x = {"graph": single_graph(jnp.eye(2), [0, 1], [1, 0]), "pairs": jnp.array([[0, 1]])}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(GraphAutoencoder(**options).init, jax.random.key(0), x)


def test_inputs_without_graph_or_pairs_are_refused():
    with pytest.raises(ValueError, match=r'x must have "graph" and "pairs", got the keys \[\'pairs\'\]'):
        jax.eval_shape(GraphAutoencoder().init, jax.random.key(0), {"pairs": jnp.array([[0, 1]])})
