"""Graph networks whose layers have weights of their own: GAT, GraphSAGE, GIN and ChebNet, each for nodes, edges or whole graphs."""

from typing import Any

import jax
import jax.numpy as jnp
import jraph
from flax import linen
from jaxtyping import Array, Float

from dljax.core.checks import check_choice, check_int, check_range
from dljax.nn.graph_aggregation import GINConvolution, SAGEConvolution, unit_rows
from dljax.nn.graph_attention import GraphAttention, GraphAttentionV2
from dljax.nn.graph_heads import LEVELS, GraphHead
from dljax.nn.graph_polynomial import ChebyshevConvolution
from dljax.nn.node_features import NodeDropout, dense_nodes
from dljax.nn.normalisation import BatchNorm


class GAT(linen.Module):
    """Graph attention layers with ELU between them, and dropout of features and of attention.

      H^{l+1} = ELU(‖_h α_h H^l W_h),   logits = mean_h α_h H^L W_h

    Attributes:
      num_outputs: C, numbers a node, an edge or a graph.
      width: numbers a node for each head of the hidden layers.
      num_heads: of the hidden layers.
      num_layers: how many layers, >= 1.
      num_output_heads: heads whose mean is the output of a node.
      dropout_rate: the fraction of features before each layer, and of attention weights in it, that is dropped in training, in [0, 1).
      level: "node": the last layer gives the outputs, as in the paper; "edge" or "graph": all layers are hidden, and a `GraphHead` reads them.
      is_dynamic: whether its layers are `GraphAttentionV2` (GATv2), which also reads the edges' features.
      is_sorted: whether the graph's receivers ascend, as `dljax.nn.single_graph` leaves them; a wrong promise gives wrong sums.
    Source: Veličković et al. (2018), Graph attention networks, section 3.3; Brody et al. (2022), How attentive are graph attention networks?

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(4), [0, 1, 1, 2], [1, 0, 2, 1])
    >>> logits, variables = jax.eval_shape(GAT(3).init_with_output, jax.random.key(0), graph)
    >>> logits.shape, variables["params"]["layers_1"]["kernel"].shape
    ((4, 3), (64, 3))
    """

    num_outputs: int
    width: int = 8
    num_heads: int = 8
    num_layers: int = 2
    num_output_heads: int = 1
    dropout_rate: float = 0.6
    level: str = "node"
    is_dynamic: bool = False
    is_sorted: bool = False

    def setup(self) -> None:
        _check_options(self, "width", "num_heads", "num_layers", "num_output_heads")
        layer: Any = GraphAttentionV2 if self.is_dynamic else GraphAttention
        options = {"dropout_rate": self.dropout_rate, "is_sorted": self.is_sorted}
        num_hidden = self.num_layers - (self.level == "node")
        hidden = [layer(self.width, self.num_heads, **options) for _ in range(num_hidden)]
        outputs = [layer(self.num_outputs, self.num_output_heads, is_averaged=True, **options)]
        self.layers = hidden + outputs if self.level == "node" else hidden
        self.dropout = NodeDropout(self.dropout_rate)
        self.head = GraphHead(self.num_outputs, self.level)

    def __call__(self, graph: jraph.GraphsTuple, train: bool = False) -> Float[Array, "M C"]:
        """Outputs of every node [N, C], edge [E, C] or graph [G, C].

        Args:
          graph: nodes are an array [N, D] or `SparseRows`.
          train: whether to drop, with the random stream `dropout`.
        Raises:
          ValueError: options out of range; nodes or edges of another kind; a graph without nodes.
        """
        hidden = graph._replace(nodes=self.embed(graph, train))
        return self.layers[-1](hidden, train).nodes if self.level == "node" else self.head(hidden)

    def embed(self, graph: jraph.GraphsTuple, train: bool = False) -> Any:
        """What the last layer or the head reads: the hidden features of every node."""
        nodes = self.dropout(graph.nodes, train)
        for layer in self.layers[: self.num_layers - (self.level == "node")]:
            nodes = self.dropout(jax.nn.elu(layer(graph._replace(nodes=nodes), train).nodes), train)
        return nodes


class GraphSAGE(linen.Module):
    """GraphSAGE: sample-and-aggregate layers with ReLU, each followed by division by the length.

      h ← ReLU(W₁ h_r + W₂ ⊕_s h_s + b),   h ← h / ‖h‖

    It sees a node's neighbours only through their aggregate, and so runs unchanged on graphs, or samples of neighbours, that it was not trained on.

    Attributes:
      num_outputs: C, numbers a node, an edge or a graph, of a `GraphHead`.
      width, num_layers: numbers a node in each of the layers, >= 1.
      aggregation: as for `SAGEConvolution`.
      dropout_rate: the fraction of features that is dropped before each layer in training, in [0, 1).
      level: "node", "edge" or "graph".
      is_sorted: whether the graph's receivers ascend; a wrong promise gives wrong values.
    Source: Hamilton, Ying & Leskovec (2017), Inductive representation learning on large graphs, algorithm 1.

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(4), [0, 1, 1, 2], [1, 0, 2, 1])
    >>> jax.eval_shape(GraphSAGE(3).init_with_output, jax.random.key(0), graph)[0].shape
    (4, 3)
    """

    num_outputs: int
    width: int = 128
    num_layers: int = 2
    aggregation: str = "mean"
    dropout_rate: float = 0.0
    level: str = "node"
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple, train: bool = False) -> Float[Array, "M C"]:
        """Outputs of every node [N, C], edge [E, C] or graph [G, C]; arguments and errors as for `GAT`."""
        _check_options(self, "width", "num_layers")
        for i in range(self.num_layers):
            graph = graph._replace(nodes=NodeDropout(self.dropout_rate)(graph.nodes, train))
            graph = SAGEConvolution(self.width, self.aggregation, self.is_sorted, name=f"layers_{i}")(graph)
            graph = graph._replace(nodes=unit_rows(linen.relu(graph.nodes)))
        return GraphHead(self.num_outputs, self.level, name="head")(graph)


class GIN(linen.Module):
    """The graph isomorphism network: sums over neighbours, perceptrons, and a head that reads the features of all layers.

      h^{l+1} = ReLU(BN(MLP((1 + ε) h^l_r + Σ_s h^l_s))),   graph: W (Σ_n h⁰_n, ..., Σ_n h^L_n) + b

    With random weights already it tells apart all graphs that L rounds of Weisfeiler and Leman's colour refinement tell apart, and no others.

    Attributes:
      num_outputs: C, numbers a graph, a node or an edge.
      width, num_layers: units of the perceptrons' two layers, and how many of them; the paper's five count the input.
      dropout_rate: the fraction of what the head reads that is dropped in training, in [0, 1).
      level, pooling: "graph", "node" or "edge", and how nodes are pooled; the paper's alternative to sums is the mean.
      is_epsilon_trained: whether ε is trained.
      use_batch_norm: whether perceptrons and layers are normalised, with statistics over the nodes of the batch.
      is_padded: whether graphs come from `jraph.pad_with_graphs`, so that the last ones are padding, which those statistics leave out.
      is_sorted: whether the graph's receivers ascend; a wrong promise gives wrong sums.
    Source: Xu et al. (2019), How powerful are graph neural networks?, eq. 4.1-4.2 and section 7.

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.ones((4, 1)), [0, 1, 1, 2], [1, 0, 2, 1])
    >>> jax.eval_shape(GIN(3).init_with_output, jax.random.key(0), graph)[0].shape
    (1, 3)
    """

    num_outputs: int
    width: int = 64
    num_layers: int = 4
    dropout_rate: float = 0.5
    level: str = "graph"
    pooling: str = "sum"
    is_epsilon_trained: bool = True
    use_batch_norm: bool = True
    is_padded: bool = False
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple, train: bool = False) -> Float[Array, "M C"]:
        """Outputs of every graph [G, C], node [N, C] or edge [E, C]; arguments and errors as for `GAT`. Edge features [E, D'] are read."""
        _check_options(self, "width", "num_layers")
        mask = jraph.get_node_padding_mask(graph) if self.is_padded else None
        seen = [dense_nodes("GIN", graph.nodes)]
        for i in range(self.num_layers):
            layer = GINConvolution((self.width, self.width), self.is_epsilon_trained, self.use_batch_norm, self.is_sorted, name=f"layers_{i}")
            nodes = layer(graph, train, mask=mask).nodes
            if self.use_batch_norm:
                norm = BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=f"norm_{i}")
                nodes = norm(nodes, mask=None if mask is None else mask[:, None])
            graph = graph._replace(nodes=linen.relu(nodes))
            seen.append(graph.nodes)
        graph = graph._replace(nodes=jnp.concatenate([nodes.astype(seen[-1].dtype) for nodes in seen], -1))
        graph = graph._replace(nodes=NodeDropout(self.dropout_rate)(graph.nodes, train))
        return GraphHead(self.num_outputs, self.level, self.pooling, name="head")(graph)


class ChebNet(linen.Module):
    """Spectral filters of polynomials of the Laplacian, with ReLU between them and dropout before each.

      H^{l+1} = ReLU(Σ_{k<K} T_k(L̃) H^l W_k + b)

    Attributes:
      num_outputs: C, numbers a node, an edge or a graph.
      width, num_layers: numbers a node in the hidden layers, and how many layers there are.
      order: K, terms of each polynomial, which reaches K - 1 edges far.
      dropout_rate: the fraction of features that is dropped before each layer in training, in [0, 1).
      level: "node": the last layer gives the outputs; "edge" or "graph": all layers are hidden, and a `GraphHead` reads them.
      is_sorted: whether the graph's receivers ascend; a wrong promise gives wrong sums.
    Source: Defferrard et al. (2016), Convolutional neural networks on graphs with fast localized spectral filtering; sizes as Kipf & Welling (2017),
      table 3, has them for citation graphs.

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(4), [0, 1, 1, 2], [1, 0, 2, 1])
    >>> jax.eval_shape(ChebNet(3).init_with_output, jax.random.key(0), graph)[0].shape
    (4, 3)
    """

    num_outputs: int
    width: int = 16
    num_layers: int = 2
    order: int = 3
    dropout_rate: float = 0.5
    level: str = "node"
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple, train: bool = False) -> Float[Array, "M C"]:
        """Outputs of every node [N, C], edge [E, C] or graph [G, C]; arguments and errors as for `GAT`. Edges are None or weights [E]."""
        _check_options(self, "width", "num_layers", "order")
        is_node = self.level == "node"
        for i in range(self.num_layers):
            is_output = is_node and i == self.num_layers - 1
            layer = ChebyshevConvolution(self.num_outputs if is_output else self.width, self.order, is_sorted=self.is_sorted, name=f"layers_{i}")
            nodes = layer(graph._replace(nodes=NodeDropout(self.dropout_rate)(graph.nodes, train))).nodes
            graph = graph._replace(nodes=nodes if is_output else linen.relu(nodes))
        return graph.nodes if is_node else GraphHead(self.num_outputs, self.level, name="head")(graph)


def _check_options(model: Any, *sizes: str) -> None:
    who = type(model).__name__
    for name in ("num_outputs", *sizes):
        check_int(who, name, getattr(model, name), minimum=1)
    check_range(who, "dropout_rate", model.dropout_rate, 0, 1, open_high=True)
    check_choice(who, "level", model.level, LEVELS)
