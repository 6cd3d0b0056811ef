"""Graph networks that use one layer several times, and a Transformer over neighbours: gated graph network, MPNN, graph transformer."""

from collections.abc import Sequence
from typing import Any

import jraph
from flax import linen
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.nn.dense import Dense
from dljax.nn.graph_attention import GraphDotProductAttention
from dljax.nn.graph_heads import GraphHead
from dljax.nn.graph_recurrent import EdgeNetworkConvolution, GatedGraphConvolution
from dljax.nn.node_features import GLOROT, NodeDense
from dljax.nn.normalisation import LayerNorm


class GatedGNN(linen.Module):
    """A gated graph network: states of nodes that exchange messages through a gated recurrent unit, and a head.

    Attributes:
      num_outputs: C, numbers a graph, a node or an edge.
      width: numbers of a node's state; features that are more are projected to them, fewer are filled up with zeros.
      num_steps: how often messages are passed, with the same weights.
      num_edge_types: matrices, one for each type of edges.
      level, pooling: "graph", "node" or "edge", and how nodes are pooled.
      is_sorted: whether the graph's receivers ascend; a wrong promise gives wrong sums.
    Source: Li et al. (2016), Gated graph sequence neural networks, section 3.

    >>> import jax, jax.numpy as jnp
    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(4), [0, 1, 1, 2], [1, 0, 2, 1], edges=jnp.array([0, 0, 1, 1]))
    >>> jax.eval_shape(GatedGNN(3, num_edge_types=2).init_with_output, jax.random.key(0), graph)[0].shape
    (1, 3)
    """

    num_outputs: int
    width: int = 64
    num_steps: int = 5
    num_edge_types: int = 1
    level: str = "graph"
    pooling: str = "attention"
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple) -> Float[Array, "M C"]:
        """Outputs of every graph [G, C], node [N, C] or edge [E, C].

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges whole numbers [E], their types, or None where there is one.
        Raises:
          ValueError: options out of range; nodes or edges of another kind; a graph without nodes.
        """
        check_int("GatedGNN", "width", self.width, minimum=1)
        if graph.nodes.shape[-1] > self.width:
            graph = graph._replace(nodes=NodeDense(self.width, name="embed")(graph.nodes))
        hidden = GatedGraphConvolution(self.width, self.num_steps, self.num_edge_types, is_sorted=self.is_sorted, name="layer")(graph)
        # The types have had their say: a head of edges reads the ends.
        return GraphHead(self.num_outputs, self.level, self.pooling, name="head")(hidden._replace(edges=None))


class MPNN(linen.Module):
    """The message passing network of quantum chemistry: matrices made of the bonds, a gated recurrent unit, a set-to-set readout.

      h⁰ = ReLU(W x + b),   m_r = Σ A(e_sr) h_s,   h^{t+1} = GRU(m, hᵗ),   y = network(set2set(h^T))

    Attributes:
      num_outputs: C, numbers a graph, a node or an edge.
      width: numbers of a node's state.
      num_steps: T, how often messages are passed.
      edge_sizes: hidden units of the network A of the edges.
      level, pooling: "graph", "node" or "edge", and how nodes are pooled.
      is_sorted: whether the graph's receivers ascend; a wrong promise gives wrong sums.
    Source: Gilmer et al. (2017), Neural message passing for quantum chemistry, section 5.

    >>> import jax, jax.numpy as jnp
    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(4), [0, 1, 1, 2], [1, 0, 2, 1], edges=jnp.ones((4, 5)))
    >>> jax.eval_shape(MPNN(1).init_with_output, jax.random.key(0), graph)[0].shape
    (1, 1)
    """

    num_outputs: int
    width: int = 64
    num_steps: int = 3
    edge_sizes: Sequence[int] = (128,)
    level: str = "graph"
    pooling: str = "set2set"
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple) -> Float[Array, "M C"]:
        """Outputs of every graph [G, C], node [N, C] or edge [E, C].

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges features [E, D'].
        Raises:
          ValueError: options out of range; nodes or edges of another kind; a graph without nodes.
        """
        check_int("MPNN", "width", self.width, minimum=1)
        hidden = graph._replace(nodes=linen.relu(NodeDense(self.width, name="embed")(graph.nodes)))
        hidden = EdgeNetworkConvolution(self.width, self.num_steps, self.edge_sizes, is_sorted=self.is_sorted, name="layer")(hidden)
        return GraphHead(self.num_outputs, self.level, self.pooling, self.width, name="head")(hidden)


class GraphTransformer(linen.Module):
    """A Transformer in which every node attends to its neighbours.

      h ← LN(h + O Attention(h, e)),   h ← LN(h + W₂ ReLU(W₁ h))

    A place in the graph is not given: add Laplacian eigenvectors to the features where it matters. The layers' parameters are stacked along a
    leading axis, `[L, ...]`, and the layers are scanned.

    Attributes:
      num_outputs: C, numbers a graph, a node or an edge.
      width, num_layers, num_heads: numbers a node, layers and heads; the heads divide the width.
      dropout_rate: the fraction of attention weights and of what each branch adds that is dropped in training, in [0, 1).
      level, pooling: "graph", "node" or "edge", and how nodes are pooled.
      is_sorted: whether the graph's receivers ascend; a wrong promise gives wrong sums.
    Source: Dwivedi & Bresson (2021), A generalization of transformer networks to graphs, eq. 3-8; edges as Shi et al. (2021).

    >>> import jax, jax.numpy as jnp
    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(4), [0, 1, 1, 2], [1, 0, 2, 1])
    >>> jax.eval_shape(GraphTransformer(3).init_with_output, jax.random.key(0), graph)[0].shape
    (1, 3)
    """

    num_outputs: int
    width: int = 80
    num_layers: int = 10
    num_heads: int = 8
    dropout_rate: float = 0.0
    level: str = "graph"
    pooling: str = "mean"
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple, train: bool = False) -> Float[Array, "M C"]:
        """Outputs of every graph [G, C], node [N, C] or edge [E, C].

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges None or features [E, D'].
          train: whether to drop, with the random stream `dropout`.
        Raises:
          ValueError: options out of range, heads that do not divide the width; nodes or edges of another kind; a graph without nodes.
        """
        for name in ("width", "num_layers", "num_heads"):
            check_int("GraphTransformer", name, getattr(self, name), minimum=1)
        check_range("GraphTransformer", "dropout_rate", self.dropout_rate, 0, 1, open_high=True)
        if self.width % self.num_heads:
            raise ValueError(f"GraphTransformer: num_heads must divide width, got {self.num_heads} heads and width {self.width}")
        layers = linen.scan(
            _Block,
            length=self.num_layers,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=linen.broadcast,
        )
        nodes = NodeDense(self.width, name="embed")(graph.nodes)
        nodes, _ = layers(self.num_heads, self.dropout_rate, self.is_sorted, name="blocks")(nodes, graph._replace(nodes=None), train)
        return GraphHead(self.num_outputs, self.level, self.pooling, name="head")(graph._replace(nodes=nodes))


class _Block(linen.Module):
    num_heads: int
    dropout_rate: float
    is_sorted: bool

    @linen.compact
    def __call__(self, nodes: Array, graph: Any, train: bool) -> tuple[Array, None]:
        width = nodes.shape[1]
        dropout = linen.Dropout(self.dropout_rate, deterministic=not train)
        attention = GraphDotProductAttention(width // self.num_heads, self.num_heads, self.dropout_rate, self.is_sorted, name="attention")
        read = Dense(width, kernel_init=GLOROT, name="out")(attention(graph._replace(nodes=nodes), train).nodes)
        nodes = LayerNorm(epsilon=1e-5, name="attention_norm")(nodes + dropout(read))
        update = Dense(width, kernel_init=GLOROT, name="down")(linen.relu(Dense(2 * width, kernel_init=GLOROT, name="up")(nodes)))
        return LayerNorm(epsilon=1e-5, name="norm")(nodes + dropout(update)), None
