"""Graphs as jraph's `GraphsTuple`, and the convolution over neighbours."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from flax import linen
from jax import lax
from jaxtyping import Array, Float, Shaped

from dljax.nn.message_passing import pass_messages, segment_reduce
from dljax.nn.node_features import GLOROT, SparseRows, node_product, num_features, shapes_of, sparse_rows

__all__ = ["GraphConvolution", "SparseRows", "edge_features", "edge_weights", "neighbour_sum", "single_graph", "sparse_rows"]


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
        # Ordered on the host too: on the device every number of edges would be a program of its own.
        edges=jax.tree.map(lambda leaf: leaf[order] if isinstance(leaf, jax.core.Tracer) else jnp.asarray(np.asarray(leaf)[order]), edges),
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
    weights = edge_weights("neighbour_sum", graph)
    num_nodes = values.shape[0]
    counted = jnp.ones(graph.senders.shape, values.dtype) if weights is None else weights.astype(values.dtype)
    degrees = 1 + segment_reduce(counted, graph.receivers, num_nodes, is_sorted=is_sorted)
    scale = lax.rsqrt(degrees)[:, None]
    values = scale * values
    message = None if weights is None else lambda sent, received, edges: counted[:, None] * sent
    return scale * (pass_messages(graph, values, message, is_sorted=is_sorted) + values)


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
    kernel_init: Callable[..., Any] = GLOROT

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
        """The same graph with other nodes.

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges as for `neighbour_sum`.
        Raises:
          ValueError: nodes of another kind, a graph without nodes, edges that are not weights.
        """
        kernel = self.param("kernel", self.kernel_init, (num_features("GraphConvolution", graph.nodes), self.features))
        values = neighbour_sum(graph, node_product(graph.nodes, kernel), is_sorted=self.is_sorted)
        if self.use_bias:
            values = values + self.param("bias", linen.initializers.zeros, (self.features,))[None].astype(values.dtype)
        return graph._replace(nodes=values)


def edge_features(who: str, graph: jraph.GraphsTuple) -> Float[Array, "E D"] | None:
    """The edges' features, checked.

    Raises:
      ValueError: edges that are neither None nor an array [E, D].

    >>> edge_features("layer", single_graph(jnp.zeros((1, 1)), [0], [0], jnp.ones(1)))
    Traceback (most recent call last):
    ValueError: layer: edges must be None or features [E, D] with one row for each of the 1 edges, got (1,)
    """
    edges = graph.edges
    if edges is not None and (len(jax.tree.leaves(edges)) != 1 or jnp.ndim(edges) != 2 or len(edges) != len(graph.senders)):
        raise ValueError(
            f"{who}: edges must be None or features [E, D] with one row for each of the {len(graph.senders)} edges, got {shapes_of(edges)}"
        )
    return edges


def edge_weights(who: str, graph: jraph.GraphsTuple) -> Float[Array, "E"] | None:
    """The edges' weights, checked; `GraphsTuple` has no other place for them.

    Raises:
      ValueError: edges that are neither None nor one weight for each edge.

    >>> edge_weights("layer", single_graph(jnp.zeros((1, 1)), [0], [0], jnp.ones(1))).tolist()
    [1.0]
    """
    weights = graph.edges
    if weights is not None and jnp.shape(weights) != graph.senders.shape:
        raise ValueError(f"{who}: edges must be None or one weight for each of the {len(graph.senders)} edges, got {shapes_of(weights)}")
    return weights


def _num_rows(name: str, tree: Any) -> int:
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(f"graph: {name} must be arrays with one row each, got {shapes_of(tree)}")
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
