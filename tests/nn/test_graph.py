"""Graph layers: equal to the dense formula and to jraph's, whatever the order, padding or batching of the nodes."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.nn.graph import GraphConvolution, SparseRows, neighbour_sum, single_graph, sparse_rows


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_graph(seed=0, num_nodes=9, num_pairs=14, size=5, is_weighted=False):
    """An undirected graph without repeated edges or self-loops, and its dense adjacency matrix."""
    rng = np.random.default_rng(seed)
    upper = np.zeros((num_nodes, num_nodes))
    places = np.stack(np.triu_indices(num_nodes, 1), 1)
    for row, column in rng.permutation(places)[:num_pairs]:
        upper[row, column] = rng.uniform(0.5, 2) if is_weighted else 1
    adjacency = upper + upper.T
    senders, receivers = rng.permutation(np.argwhere(adjacency)).reshape(-1, 2).T
    edges = adjacency[receivers, senders] if is_weighted else None
    return single_graph(rng.normal(size=(num_nodes, size)), senders, receivers, edges), adjacency


def dense_convolution(adjacency, x, kernel):
    loops = adjacency + np.eye(len(adjacency))
    scale = np.diag(loops.sum(1) ** -0.5)
    return scale @ loops @ scale @ x @ kernel


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("is_sorted", [False, True])
def test_convolution_and_its_gradients_equal_the_dense_formula(is_weighted, is_sorted):
    graph, adjacency = random_graph(is_weighted=is_weighted)
    layer = GraphConvolution(4, is_sorted=is_sorted)
    kernel = jax.random.normal(jax.random.key(0), (5, 4), jnp.float64)

    def ours(kernel, x):
        return layer.apply({"params": {"kernel": kernel}}, graph._replace(nodes=x)).nodes

    outputs, pull = jax.vjp(ours, kernel, graph.nodes)
    expected, pull_dense = jax.vjp(lambda kernel, x: dense_convolution(adjacency, x, kernel), kernel, graph.nodes)
    np.testing.assert_allclose(outputs, expected, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), pull(jnp.sin(outputs)), pull_dense(jnp.sin(outputs)))


def test_a_directed_edge_is_read_by_its_receiver_alone():
    graph = single_graph(jnp.eye(2), [0], [1])
    # D = (1, 2): node 1 reads itself with 1/2 and node 0 with 1/√(1·2).
    np.testing.assert_allclose(neighbour_sum(graph, graph.nodes), [[1, 0], [0.5**0.5, 0.5]], rtol=1e-12)


def test_convolution_equals_jraphs():
    graph, _ = random_graph()
    kernel = jax.random.normal(jax.random.key(0), (5, 4), jnp.float64)
    theirs = jraph.GraphConvolution(lambda nodes: nodes @ kernel, add_self_edges=True, symmetric_normalization=True)(graph)
    ours = GraphConvolution(4).apply({"params": {"kernel": kernel}}, graph)
    np.testing.assert_allclose(ours.nodes, theirs.nodes, rtol=1e-6)  # jraph counts degrees in float32


def test_permuting_nodes_permutes_outputs():
    layer = GraphConvolution(3, is_sorted=True)
    apply = jax.jit(layer.apply)
    variables = layer.init(jax.random.key(0), random_graph()[0])
    for seed in range(20):
        graph, _ = random_graph(seed)
        order = np.random.default_rng(seed).permutation(9)
        place = np.argsort(order)
        permuted = single_graph(graph.nodes[order], place[graph.senders], place[graph.receivers])
        np.testing.assert_allclose(apply(variables, permuted).nodes, apply(variables, graph).nodes[order], rtol=1e-9, atol=1e-12)


def as_sparse(graph):
    return graph._replace(nodes=sparse_rows(np.where(np.abs(graph.nodes) > 0.7, graph.nodes, 0), 5))


@pytest.mark.parametrize("kind", [lambda graph: graph, as_sparse])
def test_padding_and_batching_change_nothing(kind):
    graphs = [kind(random_graph(seed, num_nodes)[0]) for seed, num_nodes in ((0, 9), (1, 6))]
    layer = GraphConvolution(3, use_bias=True, is_sorted=True)
    variables = layer.init(jax.random.key(0), graphs[0])
    alone = np.concatenate([layer.apply(variables, graph).nodes for graph in graphs])
    batched = jraph.batch(graphs)
    np.testing.assert_allclose(layer.apply(variables, batched).nodes, alone, rtol=1e-12)
    padded = jraph.pad_with_graphs(batched, n_node=20, n_edge=80, n_graph=4)
    np.testing.assert_allclose(layer.apply(variables, padded).nodes[:15], alone, rtol=1e-12)


def test_sorted_edges_stay_sorted_when_batched_and_padded():
    graphs = [random_graph(seed)[0] for seed in range(3)]
    padded = jraph.pad_with_graphs(jraph.batch(graphs), n_node=40, n_edge=100, n_graph=5)
    for graph in [*graphs, padded]:
        assert (np.diff(graph.receivers) >= 0).all()


def test_sparse_rows_give_what_dense_rows_give():
    graph, _ = random_graph()
    dense = np.where(np.abs(graph.nodes) > 0.7, graph.nodes, 0)
    layer = GraphConvolution(4)
    variables = layer.init(jax.random.key(0), graph)

    def outputs_and_gradient(nodes):
        outputs, pull = jax.vjp(lambda variables: layer.apply(variables, graph._replace(nodes=nodes)).nodes, variables)
        return outputs, pull(jnp.cos(outputs))

    results = outputs_and_gradient(jnp.asarray(dense)), outputs_and_gradient(sparse_rows(dense))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12), *results)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), num_rows=st.integers(0, 6), size=st.integers(1, 6), extra=st.integers(0, 2))
def test_sparse_rows_hold_every_entry_once(seed, num_rows, size, extra):
    matrix = np.random.default_rng(seed).integers(-1, 2, (num_rows, size)).astype(np.float64)
    fullest = max(1, int((matrix != 0).sum(1).max(initial=0)))
    rows = sparse_rows(matrix, fullest + extra)
    dense = np.zeros((num_rows, size))
    np.add.at(dense, (np.arange(num_rows)[:, None], rows.index), rows.value)
    np.testing.assert_array_equal(dense, matrix)
    assert rows.shape == matrix.shape
    assert rows.index.shape == (num_rows, fullest + extra)


def test_sparse_rows_pass_through_jit_and_keep_their_size():
    rows = sparse_rows(np.eye(4))
    out = jax.jit(lambda rows: jax.tree.map(lambda leaf: leaf + 0, rows))(rows)
    assert isinstance(out, SparseRows)
    assert out.shape == (4, 4)


def test_a_graph_without_edges_is_a_dense_layer():
    graph = single_graph(jax.random.normal(jax.random.key(0), (4, 3), jnp.float64), [], [])
    layer = GraphConvolution(2, use_bias=True, is_sorted=True)
    variables = layer.init(jax.random.key(1), graph)
    np.testing.assert_allclose(layer.apply(variables, graph).nodes, graph.nodes @ variables["params"]["kernel"], rtol=1e-12)


def test_single_graph_sorts_edges_with_their_features():
    graph = single_graph(np.zeros((4, 1)), [0, 1, 2, 3], [3, 0, 3, 1], edges={"weight": np.arange(4.0)})
    assert graph.receivers.tolist() == [0, 1, 3, 3]
    assert graph.senders.tolist() == [1, 3, 0, 2]
    assert graph.edges["weight"].tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros((0, 2)), [], []), ValueError, "nodes must have at least one row"),
        ((None, [], []), ValueError, "nodes must be arrays with one row each, got nothing"),
        ((np.zeros((2, 1)), [0, 2], [1, 0]), ValueError, r"senders must be nodes in \[0, 1\], got 0 to 2"),
        ((np.zeros((2, 1)), [0, 1], [1, -1]), ValueError, r"receivers must be nodes in \[0, 1\], got -1 to 1"),
        ((np.zeros((2, 1)), [0, 1], [1]), ValueError, "equally many, got 2 and 1"),
        ((np.zeros((2, 1)), [[0]], [1]), ValueError, r"senders must be \[E\], got shape \(1, 1\)"),
        ((np.zeros((2, 1)), [0.0], [1]), TypeError, "whole numbers, got float64"),
        ((np.zeros((2, 1)), [0], [1], np.ones(3)), ValueError, "edges must have one row for each of the 1 senders, got 3"),
    ],
)
def test_single_graph_refuses_lists_that_are_no_graph(arguments, error, message):
    with pytest.raises(error, match=message):
        single_graph(*arguments)


def test_convolution_refuses_graphs_it_cannot_read():
    graph = single_graph(jnp.eye(3), [0, 1], [1, 0])
    layer = GraphConvolution(2)
    with pytest.raises(ValueError, match=r"nodes must be an array \[N, D\] or SparseRows, got \(3,\)"):
        layer.init(jax.random.key(0), graph._replace(nodes=jnp.ones(3)))
    with pytest.raises(ValueError, match="at least one node"):
        layer.init(jax.random.key(0), graph._replace(nodes=jnp.ones((0, 3))))
    with pytest.raises(ValueError, match="one weight for each of the 2 edges"):
        layer.init(jax.random.key(0), graph._replace(edges=jnp.ones((2, 7))))


def test_sparse_rows_refuse_what_is_no_matrix_or_does_not_fit():
    with pytest.raises(ValueError, match=r"matrix must be \[N, D\]"):
        sparse_rows([1.0])
    with pytest.raises(ValueError, match="num_entries must be at least 2"):
        sparse_rows([[1.0, 2.0], [0.0, 0.0]], 1)
