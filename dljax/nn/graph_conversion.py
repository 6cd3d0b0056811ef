"""Graphs of other libraries: edge lists, dense and sparse matrices and networkx graphs become jraph's `GraphsTuple`, and go back."""

from typing import Any

import jraph
import numpy as np

from dljax.nn.graph import single_graph


def graph_from_edges(
    pairs: Any, num_nodes: int | None = None, *, weights: Any = None, is_directed: bool = False, nodes: Any = None
) -> jraph.GraphsTuple:
    """A graph from the list of its edges.

    Args:
      pairs: whole numbers [E, 2], from and to.
      num_nodes: N; None takes one more than the largest number in `pairs`.
      weights: None, or one number for each pair; they become the graph's `edges`.
      is_directed: whether a pair is one direction only. If not, both are listed, self-loops once; a pair listed in both directions counts twice.
      nodes: features, a pytree of arrays [N, ...]; None gives each node the one feature 1.
    Returns:
      the graph, its edges sorted by receiver.
    Raises:
      ValueError: pairs that are not [E, 2], ends that are no nodes, no nodes, another number of weights.
      TypeError: ends that are not whole numbers.

    >>> graph = graph_from_edges([[0, 1], [1, 1]])
    >>> graph.senders.tolist(), graph.receivers.tolist()
    ([1, 0, 1], [0, 1, 1])
    """
    pairs = np.asarray(pairs)
    if pairs.size == 0:
        pairs = pairs.reshape(0, 2).astype(np.int32)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"graph_from_edges: pairs must be [E, 2], got shape {pairs.shape}")
    size = int(pairs.max(initial=-1)) + 1 if num_nodes is None else num_nodes
    if weights is not None:
        weights = _as_floats(weights)
        if weights.shape != (len(pairs),):
            raise ValueError(f"graph_from_edges: weights must be one number for each of the {len(pairs)} pairs, got shape {weights.shape}")
    if not is_directed:
        back = pairs[:, 0] != pairs[:, 1]
        pairs = np.concatenate([pairs, pairs[back][:, ::-1]])
        weights = None if weights is None else np.concatenate([weights, weights[back]])
    return single_graph(_features(nodes, size), pairs[:, 0], pairs[:, 1], weights)


def graph_from_matrix(matrix: Any, *, nodes: Any = None) -> jraph.GraphsTuple:
    """A graph from its adjacency matrix: an edge from row to column for each entry that is not 0.

    Args:
      matrix: [N, N], dense or a scipy sparse matrix or array. Of booleans it gives a graph without weights, else the entries are the weights;
        entries that a sparse matrix stores repeatedly become repeated edges, and stored zeros are no edges.
      nodes: as for `graph_from_edges`.
    Raises:
      ValueError: no square matrix, or an empty one.

    >>> graph = graph_from_matrix(np.array([[0.0, 2.0], [0.0, 0.0]]))
    >>> graph.senders.tolist(), graph.receivers.tolist(), graph.edges.tolist()
    ([0], [1], [2.0])
    """
    matrix = matrix.tocoo() if hasattr(matrix, "tocoo") else np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"graph_from_matrix: matrix must be [N, N], got shape {matrix.shape}")
    if isinstance(matrix, np.ndarray):
        rows, columns = np.nonzero(matrix)
        entries = matrix[rows, columns]
    else:
        rows, columns, entries = matrix.row, matrix.col, matrix.data
    kept = entries != 0
    weights = None if entries.dtype == bool else _as_floats(entries[kept])
    return single_graph(_features(nodes, matrix.shape[0]), rows[kept].astype(np.int32), columns[kept].astype(np.int32), weights)


def graph_from_networkx(graph: Any, *, weight: str | None = "weight", nodes: Any = None) -> jraph.GraphsTuple:
    """A graph from networkx: `Graph`, `DiGraph`, `MultiGraph` or `MultiDiGraph`.

    Args:
      graph: its nodes are numbered in the order of `list(graph)`.
      weight: the attribute of edges that is their weight, 1 where an edge lacks it; where all lack it, or for None, the graph has no weights.
      nodes: as for `graph_from_edges`; attributes of networkx's nodes are not read.
    Raises:
      ValueError: a graph without nodes.

    >>> import networkx
    >>> graph_from_networkx(networkx.path_graph(["a", "b", "c"])).senders.tolist()
    [1, 0, 2, 1]
    """
    place = {node: number for number, node in enumerate(graph)}
    pairs = [(place[here], place[there]) for here, there in graph.edges()]
    found = [] if weight is None else list(graph.edges(data=weight))
    weights = [1.0 if value is None else value for *_, value in found] if any(value is not None for *_, value in found) else None
    return graph_from_edges(pairs, len(place), weights=weights, is_directed=graph.is_directed(), nodes=nodes)


def graph_to_networkx(graph: jraph.GraphsTuple) -> Any:
    """A `MultiDiGraph` of networkx with every edge as it is listed, and its weight if it has one; nodes are 0 ... N - 1.

    An undirected graph has both directions there; `.to_undirected()` would take each twice, `networkx.Graph(...)` of the result takes one.

    Args:
      graph: concrete; `edges` are None or weights [E].
    Raises:
      ImportError: networkx is not installed.

    >>> graph_to_networkx(graph_from_edges([[0, 1]])).number_of_edges()
    2
    """
    try:
        import networkx
    except ImportError as error:
        raise ImportError("graph_to_networkx: needs networkx; pip install networkx") from error
    made = networkx.MultiDiGraph()
    made.add_nodes_from(range(len(graph.nodes)))
    ends = np.asarray(graph.senders).tolist(), np.asarray(graph.receivers).tolist()
    if graph.edges is None:
        made.add_edges_from(zip(*ends, strict=True))
    else:
        made.add_weighted_edges_from(zip(*ends, np.asarray(graph.edges).tolist(), strict=True))
    return made


def graph_to_scipy(graph: jraph.GraphsTuple) -> Any:
    """The adjacency matrix as a sparse array of scipy, [N, N] in rows (CSR); repeated edges are added up.

    Args:
      graph: concrete; `edges` are None or weights [E].

    >>> graph_to_scipy(graph_from_edges([[0, 1]])).toarray().tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    from scipy.sparse import coo_array

    entries = np.ones(len(graph.senders)) if graph.edges is None else np.asarray(graph.edges)
    return coo_array((entries, (np.asarray(graph.senders), np.asarray(graph.receivers))), (len(graph.nodes),) * 2).tocsr()


def _features(nodes: Any, size: int) -> Any:
    return np.ones((size, 1), np.float32) if nodes is None else nodes


def _as_floats(weights: Any) -> np.ndarray:
    weights = np.asarray(weights)
    return weights if np.issubdtype(weights.dtype, np.floating) else weights.astype(float)
