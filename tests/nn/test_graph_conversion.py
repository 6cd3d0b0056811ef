"""Graphs go to networkx and scipy and come back as they were."""

import networkx
import numpy as np
import pytest
import scipy.sparse

from dljax.nn.graph import single_graph
from dljax.nn.graph_conversion import graph_from_edges, graph_from_matrix, graph_from_networkx, graph_to_networkx, graph_to_scipy
from dljax.nn.graph_matrices import adjacency_matrix


def edges_of(graph):
    weights = np.ones(len(graph.senders)) if graph.edges is None else graph.edges
    return sorted(zip(np.asarray(graph.senders).tolist(), np.asarray(graph.receivers).tolist(), np.asarray(weights).tolist(), strict=True))


@pytest.mark.parametrize("edges", [None, [0.5, 2.0, 1.0, 3.0]])
def test_7_1_there_and_back_through_networkx_keeps_every_edge(edges):
    graph = single_graph(np.ones((5, 2)), [0, 0, 1, 3], [1, 1, 0, 3], None if edges is None else np.float32(edges))
    back = graph_from_networkx(graph_to_networkx(graph))
    assert edges_of(back) == edges_of(graph)
    assert (back.edges is None) == (edges is None)
    assert back.n_node.tolist() == [5]


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array, scipy.sparse.coo_matrix])
def test_7_1_dense_and_sparse_matrices_there_and_back(kind):
    matrix = np.float32([[0, 2, 0, 0], [1, 0.5, 0, 0], [0, 0, 0, 3], [0, 0, 0, 0]])
    graph = graph_from_matrix(kind(matrix))
    np.testing.assert_array_equal(adjacency_matrix(graph), matrix)
    np.testing.assert_array_equal(graph_to_scipy(graph).toarray(), matrix)
    links = graph_from_matrix(kind(matrix > 0))
    assert links.edges is None
    np.testing.assert_array_equal(adjacency_matrix(links), matrix > 0)


def test_repeated_entries_of_a_sparse_matrix_are_repeated_edges_and_stored_zeros_are_none():
    matrix = scipy.sparse.coo_array(([1.0, 2.0, 0.0], ([0, 0, 1], [1, 1, 0])), (2, 2))
    assert edges_of(graph_from_matrix(matrix)) == [(0, 1, 1.0), (0, 1, 2.0)]
    assert graph_to_scipy(graph_from_matrix(matrix)).toarray().tolist() == [[0, 3], [0, 0]]


def test_an_undirected_edge_is_listed_in_both_directions_and_a_self_loop_once():
    graph = graph_from_edges([[0, 1], [1, 1], [2, 0]], 4, weights=[1, 2, 3])
    assert edges_of(graph) == [(0, 1, 1), (0, 2, 3), (1, 0, 1), (1, 1, 2), (2, 0, 3)]
    assert graph.nodes.shape == (4, 1)
    assert edges_of(graph_from_edges([[0, 1], [1, 1]], is_directed=True)) == [(0, 1, 1), (1, 1, 1)]


def test_edges_of_networkx_without_the_attribute_weigh_1():
    graph = networkx.Graph()
    graph.add_edge("b", "a", weight=3)
    graph.add_edge("a", "c")
    assert edges_of(graph_from_networkx(graph)) == [(0, 1, 3), (1, 0, 3), (1, 2, 1), (2, 1, 1)]
    assert graph_from_networkx(graph, weight=None).edges is None
    assert graph_from_networkx(networkx.empty_graph(3)).senders.shape == (0,)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: graph_from_edges([[0, 1, 2]]), ValueError, r"pairs must be \[E, 2\], got shape \(1, 3\)"),
        (lambda: graph_from_edges([[0, 5]], 3), ValueError, r"receivers must be nodes in \[0, 2\]|senders must be nodes in \[0, 2\]"),
        (lambda: graph_from_edges([[0, -1]]), ValueError, "must be nodes in"),
        (lambda: graph_from_edges([[0.0, 1.0]]), TypeError, "whole numbers"),
        (lambda: graph_from_edges([]), ValueError, "nodes must have at least one row"),
        (lambda: graph_from_edges([[0, 1]], weights=[1, 2]), ValueError, "weights must be one number for each of the 1 pairs"),
        (lambda: graph_from_matrix(np.ones((2, 3))), ValueError, r"matrix must be \[N, N\], got shape \(2, 3\)"),
        (lambda: graph_from_matrix(np.ones((0, 0))), ValueError, "nodes must have at least one row"),
        (lambda: graph_from_networkx(networkx.Graph()), ValueError, "nodes must have at least one row"),
    ],
)
def test_what_is_no_graph_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_networkx_is_asked_for_by_name_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "networkx", None)
    with pytest.raises(ImportError, match="pip install networkx"):
        graph_to_networkx(graph_from_edges([[0, 1]]))
