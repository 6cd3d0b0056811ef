"""Graph layers on jraph's `GraphsTuple`: convolution over neighbours, and nodes whose features are mostly zero."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from flax import linen
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from dljax.core.checks import check_int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SparseRows:
    """A matrix with mostly empty rows, such as the bags of words of N documents: each row as a list of its entries.

    A product with it costs K numbers a row where a dense one costs D, and so does dropout on its values. Its arrays have the leading axis of
    the nodes, so that jraph batches and pads them like any others.

    Attributes:
      index: the columns of a row's entries, each in [0, D).
      value: the entries; 0 pads a row that has fewer than K.
      size: D, how many columns there are.

    >>> rows = sparse_rows([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    >>> rows.index.tolist(), rows.value.tolist(), rows.shape
    ([[1], [0]], [[2.0], [0.0]], (2, 3))
    """

    index: Int[Array, "N K"]
    value: Float[Array, "N K"]
    size: int = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """[N, D]."""
        return self.index.shape[0], self.size


def sparse_rows(matrix: Any, num_entries: int | None = None) -> SparseRows:
    """The entries of a dense matrix that are not zero, row by row.

    Args:
      matrix: [N, D], on the host.
      num_entries: K, room for the entries of a row, >= 1; None takes what the fullest row needs.
    Raises:
      ValueError: no matrix, or a row with more than `num_entries` entries.

    >>> sparse_rows([[1.0, 2.0]], num_entries=1)
    Traceback (most recent call last):
    ValueError: sparse_rows: num_entries must be at least 2, the entries of the fullest row, got 1
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2:
        raise ValueError(f"sparse_rows: matrix must be [N, D], got shape {matrix.shape}")
    fullest = int(np.count_nonzero(matrix, axis=1).max(initial=0))
    room = max(fullest, 1) if num_entries is None else check_int("sparse_rows", "num_entries", num_entries, minimum=1)
    if room < fullest:
        raise ValueError(f"sparse_rows: num_entries must be at least {fullest}, the entries of the fullest row, got {room}")
    rows, columns = np.nonzero(matrix)
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    index = np.zeros((len(matrix), room), np.int32)
    value = np.zeros((len(matrix), room), matrix.dtype)
    index[rows, places], value[rows, places] = columns, matrix[rows, columns]
    return SparseRows(jnp.asarray(index), jnp.asarray(value), matrix.shape[1])


def single_graph(nodes: Any, senders: Any, receivers: Any, edges: Any = None) -> jraph.GraphsTuple:
    """One graph from its lists, checked on the host, its edges sorted by receiver so that layers may be told `is_sorted=True`.

    Args:
      nodes: features, a pytree of arrays [N, ...].
      senders, receivers: whole numbers [E] in [0, N): edge e goes from senders[e] to receivers[e]. An undirected graph lists both directions.
      edges: None, or a pytree of arrays [E, ...].
    Raises:
      ValueError: no nodes, unequal numbers of rows, an end of an edge that is no node. TypeError: ends that are not whole numbers.

    >>> graph = single_graph(jnp.eye(3), [0, 1, 2], [2, 0, 1])
    >>> graph.senders.tolist(), graph.receivers.tolist(), graph.n_node.tolist(), graph.n_edge.tolist()
    ([1, 2, 0], [0, 1, 2], [3], [3])
    """
    num_nodes = _num_rows("nodes", nodes)
    ends = {name: _as_indices(name, values, num_nodes) for name, values in {"senders": senders, "receivers": receivers}.items()}
    num_edges = len(ends["senders"])
    if len(ends["receivers"]) != num_edges:
        raise ValueError(f"graph: senders and receivers must be equally many, got {num_edges} and {len(ends['receivers'])}")
    if edges is not None and _num_rows("edges", edges) != num_edges:
        raise ValueError(f"graph: edges must have one row for each of the {num_edges} senders, got {_num_rows('edges', edges)}")
    order = np.argsort(ends["receivers"], kind="stable")
    return jraph.GraphsTuple(
        nodes=jax.tree.map(jnp.asarray, nodes),
        edges=jax.tree.map(lambda leaf: jnp.asarray(leaf)[order], edges),
        senders=jnp.asarray(ends["senders"][order]),
        receivers=jnp.asarray(ends["receivers"][order]),
        globals=None,
        n_node=jnp.array([num_nodes], jnp.int32),
        n_edge=jnp.array([num_edges], jnp.int32),
    )


def neighbour_sum(graph: jraph.GraphsTuple, values: Float[Array, "N D"], *, is_sorted: bool = False) -> Float[Array, "N D"]:
    """Sum of the neighbours' values, self included, with symmetric normalisation: the propagation of a graph convolution.

      y = D^-½ (A + I) D^-½ v,   A_rs = weight of the edge from s to r (1 without weights),   D_rr = 1 + Σ_s A_rs

    Args:
      graph: senders and receivers [E], and `edges`: None or weights >= 0, [E]. Batched and padded graphs are fine.
      values: v, one row for each node.
      is_sorted: whether the receivers ascend, as `single_graph` and jraph's batching and padding leave them; a wrong promise gives wrong sums.
    Raises:
      ValueError: edges that are not one weight for each edge.
    Source: Kipf & Welling (2017), Semi-supervised classification with graph convolutional networks, eq. 2.

    >>> graph = single_graph(jnp.zeros((2, 1)), [0, 1], [1, 0])
    >>> neighbour_sum(graph, jnp.array([[2.0], [4.0]])).round(5).tolist()
    [[3.0], [3.0]]
    """
    weights = graph.edges
    if weights is not None and jnp.shape(weights) != graph.senders.shape:
        raise ValueError(f"neighbour_sum: edges must be None or one weight for each of the {len(graph.senders)} edges, got {_shapes(weights)}")
    num_nodes = values.shape[0]
    counted = jnp.ones(graph.senders.shape, values.dtype) if weights is None else weights.astype(values.dtype)
    degrees = 1 + jraph.segment_sum(counted, graph.receivers, num_nodes, indices_are_sorted=is_sorted)
    scale = lax.rsqrt(degrees)[:, None]
    values = scale * values
    messages = values[graph.senders] if weights is None else counted[:, None] * values[graph.senders]
    return scale * (jraph.segment_sum(messages, graph.receivers, num_nodes, indices_are_sorted=is_sorted) + values)


class GraphConvolution(linen.Module):
    """A graph convolution: a dense layer on every node, then the normalised sum over its neighbours and itself.

      H' = D^-½ (A + I) D^-½ H W + b

    Attributes:
      features: F, numbers a node afterwards.
      use_bias: whether there is b; the paper has none.
      is_sorted: whether the receivers ascend; a wrong promise gives wrong sums.
      kernel_init: of W [D, F]; Glorot's, as in the paper.
    Source: Kipf & Welling (2017), eq. 2, without its nonlinearity.

    >>> graph = single_graph(jnp.eye(3), [0, 1], [1, 0])
    >>> layer = GraphConvolution(2)
    >>> out, variables = layer.init_with_output(jax.random.key(0), graph)
    >>> out.nodes.shape, bool(jnp.allclose(out.nodes[2], variables["params"]["kernel"][2]))  # node 2 has no neighbours
    ((3, 2), True)
    """

    features: int
    use_bias: bool = False
    is_sorted: bool = False
    kernel_init: Callable[..., Any] = linen.initializers.glorot_uniform()

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
        """The same graph with other nodes.

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges as for `neighbour_sum`.
        Raises:
          ValueError: nodes of another kind, a graph without nodes, edges that are not weights.
        """
        nodes = graph.nodes
        if not isinstance(nodes, SparseRows) and jnp.ndim(nodes) != 2:
            raise ValueError(f"GraphConvolution: nodes must be an array [N, D] or SparseRows, got {_shapes(nodes)}")
        if nodes.shape[0] == 0:
            raise ValueError("GraphConvolution: the graph must have at least one node, got none")
        kernel = self.param("kernel", self.kernel_init, (nodes.shape[1], self.features))
        if isinstance(nodes, SparseRows):
            values = jnp.einsum("nk,nkf->nf", nodes.value.astype(kernel.dtype), kernel[nodes.index])
        else:
            values = nodes.astype(kernel.dtype) @ kernel
        values = neighbour_sum(graph, values, is_sorted=self.is_sorted)
        if self.use_bias:
            values = values + self.param("bias", linen.initializers.zeros, (self.features,))[None].astype(values.dtype)
        return graph._replace(nodes=values)


def _num_rows(name: str, tree: Any) -> int:
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(f"graph: {name} must be arrays with one row each, got {_shapes(tree)}")
    ((size,),) = sizes
    if name == "nodes" and size == 0:
        raise ValueError("graph: nodes must have at least one row, got none")
    return size


def _as_indices(name: str, values: Any, num_nodes: int) -> Shaped[np.ndarray, "E"]:
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"graph: {name} must be [E], got shape {values.shape}")
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"graph: {name} must be whole numbers, got {values.dtype}")
    if values.size and not 0 <= values.min() <= values.max() < num_nodes:
        raise ValueError(f"graph: {name} must be nodes in [0, {num_nodes - 1}], got {values.min()} to {values.max()}")
    return values.astype(np.int32)


def _shapes(tree: Any) -> str:
    return ", ".join(map(str, (jnp.shape(leaf) for leaf in jax.tree.leaves(tree)))) or "nothing"
