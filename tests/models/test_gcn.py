"""GCN: the paper's formula, blind to order, padding and how features are stored; it learns from two labels."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
import pytest

from dljax import core, data
from dljax.models.gcn import GCN
from dljax.nn.graph import single_graph, sparse_rows
from dljax.objectives import accuracy, cross_entropy
from dljax.supervised import supervised


def some_graph(num_nodes=8, seed=0):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((num_nodes, num_nodes)) < 0.4, 1)
    adjacency = (upper | upper.T).astype(float)
    receivers, senders = np.nonzero(adjacency)
    words = (rng.random((num_nodes, 6)) < 0.4).astype(float)
    return single_graph(words, senders, receivers), adjacency


def test_two_layers_equal_the_papers_formula_in_float64():
    with jax.enable_x64(True):
        graph, adjacency = some_graph()
        model = GCN(3, width=5, is_sorted=True)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model.init(jax.random.key(0), graph))
        loops = adjacency + np.eye(8)
        propagate = loops / np.sqrt(np.outer(loops.sum(0), loops.sum(1)))
        first, second = (variables["params"][f"layers_{layer}"]["kernel"] for layer in (0, 1))
        hidden = jnp.maximum(propagate @ graph.nodes @ first, 0)
        np.testing.assert_allclose(model.apply(variables, graph), propagate @ hidden @ second, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(model.apply(variables, graph, method="embed"), hidden, rtol=1e-12, atol=1e-14)


def test_order_and_padding_and_storage_of_the_nodes_do_not_matter():
    graph, _ = some_graph()
    model = GCN(3, use_bias=True, is_sorted=True)
    variables = model.init(jax.random.key(0), graph)
    expected = model.apply(variables, graph)
    order = np.random.default_rng(1).permutation(8)
    place = np.argsort(order)
    permuted = single_graph(graph.nodes[order], place[graph.senders], place[graph.receivers])
    np.testing.assert_allclose(model.apply(variables, permuted), expected[order], rtol=1e-4, atol=1e-6)
    padded = jraph.pad_with_graphs(graph, n_node=12, n_edge=64)
    np.testing.assert_allclose(model.apply(variables, padded)[:8], expected, rtol=1e-4, atol=1e-6)
    sparse = graph._replace(nodes=sparse_rows(graph.nodes))
    np.testing.assert_allclose(model.apply(variables, sparse), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_dropout_keeps_the_mean_of_a_linear_network(kind):
    """One layer is linear: over many masks its mean is what it says without dropout."""
    graph, _ = some_graph()
    if kind == "sparse":
        graph = graph._replace(nodes=sparse_rows(graph.nodes))
    model = GCN(3, num_layers=1, dropout_rate=0.4)
    variables = model.init(jax.random.key(0), graph)
    one = jax.jit(jax.vmap(lambda key: model.apply(variables, graph, True, rngs={"dropout": key})))(jax.random.split(jax.random.key(1), 3000))
    np.testing.assert_allclose(one.mean(0), model.apply(variables, graph), atol=5 * float(one.std(0).max()) / 3000**0.5)
    assert one.std(0).max() > 0


def test_a_graph_without_edges_is_a_network_of_single_nodes():
    graph, _ = some_graph()
    alone = graph._replace(senders=jnp.zeros(0, jnp.int32), receivers=jnp.zeros(0, jnp.int32), n_edge=jnp.array([0]))
    model = GCN(3)
    variables = model.init(jax.random.key(0), graph)
    first, second = (variables["params"][f"layers_{layer}"]["kernel"] for layer in (0, 1))
    np.testing.assert_allclose(model.apply(variables, alone), jnp.maximum(graph.nodes @ first, 0) @ second, rtol=1e-4, atol=1e-6)


def test_it_divides_the_karate_club_from_two_labels():
    club = data.load("karate")
    graph = single_graph(club["x"], club["senders"], club["receivers"])
    leaders = np.zeros(34, np.float32)
    leaders[[0, 33]] = 1
    learner = supervised(GCN(2, is_sorted=True), cross_entropy, optax.adam(0.01), metrics={"accuracy": accuracy})
    source = data.repeat({"x": graph, "y": club["y"], "mask": leaders})
    run_key, state, cursor = jax.jit(lambda key: core.start(learner, source, key))(jax.random.key(0))
    state, *_ = jax.jit(core.unroll(learner, source, 200, 200))(run_key, 0, state, cursor)
    batch = {"x": graph, "y": jnp.asarray(club["y"]), "mask": jnp.asarray(1 - leaders)}
    assert jax.jit(core.evaluate(learner.evaluate))(jax.random.key(1), state, batch)["accuracy"].value >= 28 / 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be >= 1, got 0"),
        ({"num_classes": 2, "num_layers": 0}, "num_layers must be >= 1"),
        ({"num_classes": 2, "width": 0}, "width must be >= 1"),
        ({"num_classes": 2, "dropout_rate": -0.1}, r"dropout_rate must be in \[0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(GCN(**options).init, jax.random.key(0), some_graph()[0])


def test_an_empty_graph_is_refused():
    graph, _ = some_graph()
    with pytest.raises(ValueError, match="at least one node, got none"):
        jax.eval_shape(GCN(2).init, jax.random.key(0), graph._replace(nodes=jnp.zeros((0, 6))))
