"""Layers that add up, average or take the largest of the neighbours: GraphSAGE and the graph isomorphism network."""

from collections.abc import Sequence

import jax.numpy as jnp
import jraph
from flax import linen
from jaxtyping import Array, Float, Shaped

from dljax.core.checks import check_choice, check_int
from dljax.nn.dense import Dense
from dljax.nn.graph import edge_features
from dljax.nn.message_passing import REDUCTIONS, Message, pass_messages
from dljax.nn.node_features import GLOROT, NodeDense, dense_nodes
from dljax.nn.normalisation import BatchNorm


class SAGEConvolution(linen.Module):
    """GraphSAGE's layer: a node's own features and an aggregate of its neighbours', each with a matrix of its own.

      h'_r = W₁ h_r + b + W₂ ⊕_{s in N(r)} h_s

    Attributes:
      features: F, numbers a node afterwards, >= 1.
      aggregation: ⊕, "mean", "sum", "max", or "pool": the maximum of ReLU(W₃ h_s + c), D numbers. No neighbours give 0.
      is_sorted: whether the receivers ascend; a wrong promise gives wrong values.
    Source: Hamilton, Ying & Leskovec (2017), Inductive representation learning on large graphs, algorithm 1 and section 3.3, without nonlinearity.

    >>> import jax
    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(3), [0, 1], [1, 0])
    >>> out, variables = jax.eval_shape(SAGEConvolution(4).init_with_output, jax.random.key(0), graph)
    >>> out.nodes.shape, sorted(variables["params"])
    ((3, 4), ['neighbours', 'own'])
    """

    features: int
    aggregation: str = "mean"
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
        """The same graph with other nodes.

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges are not read.
        Raises:
          ValueError: options out of range, nodes of another kind, a graph without nodes.
        """
        check_int("SAGEConvolution", "features", self.features, minimum=1)
        check_choice("SAGEConvolution", "aggregation", self.aggregation, (*REDUCTIONS, "pool"))
        neighbours = NodeDense(self.features, use_bias=False, name="neighbours")
        if self.aggregation in ("sum", "mean"):
            # A matrix commutes with sums, and mostly makes the messages shorter.
            read = pass_messages(graph, neighbours(graph.nodes), reduction=self.aggregation, is_sorted=self.is_sorted)
        else:
            if self.aggregation == "pool":
                values = linen.relu(NodeDense(graph.nodes.shape[-1], name="pool")(graph.nodes))
            else:
                values = dense_nodes("SAGEConvolution", graph.nodes)
            read = neighbours(pass_messages(graph, values, reduction="max", is_sorted=self.is_sorted))
        return graph._replace(nodes=NodeDense(self.features, name="own")(graph.nodes) + read)


class GINConvolution(linen.Module):
    """The graph isomorphism network's layer: a perceptron on the sum over a node and its neighbours, as strong as one round of colour refinement.

      h'_r = MLP((1 + ε) h_r + Σ_{s in N(r)} h_s),   with edge features Σ_s ReLU(h_s + W e_sr + c)

    A sum tells multisets of neighbours apart that a mean or a maximum takes for one.

    Attributes:
      sizes: units of the perceptron's layers, at least one, with ReLU between them.
      is_epsilon_trained: whether ε is trained, from 0 (the paper's GIN-ε), or stays 0 (its GIN-0).
      use_batch_norm: whether the perceptron normalises before each ReLU.
      is_sorted: whether the receivers ascend; a wrong promise gives wrong sums.
    Source: Xu et al. (2019), How powerful are graph neural networks?, eq. 4.1; with edges Hu et al. (2020), Strategies for pre-training graph neural
      networks.

    >>> import jax
    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(3), [0, 1], [1, 0])
    >>> jax.eval_shape(GINConvolution((8, 4)).init_with_output, jax.random.key(0), graph)[0].nodes.shape
    (3, 4)
    """

    sizes: Sequence[int]
    is_epsilon_trained: bool = True
    use_batch_norm: bool = False
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple, train: bool = False, *, mask: Shaped[Array, "N"] | None = None) -> jraph.GraphsTuple:
        """The same graph with other nodes.

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges None or features e [E, D'].
          train: whether batch norm takes the statistics of these nodes.
          mask: 1 where a node counts in those, 0 where it is padding; None counts all.
        Raises:
          ValueError: options out of range, nodes or edges of another kind, a graph without nodes.
        """
        if not self.sizes:
            raise ValueError("GINConvolution: sizes must have at least one layer, got none")
        for size in self.sizes:
            check_int("GINConvolution", "sizes", size, minimum=1)
        edges = edge_features("GINConvolution", graph)
        first = NodeDense(self.sizes[0], use_bias=False, name="layers_0")
        epsilon = self.param("epsilon", linen.initializers.zeros, ()) if self.is_epsilon_trained else jnp.zeros(())

        def summed(values: Array, message: Message | None = None) -> Array:
            return (1 + epsilon).astype(values.dtype) * values + pass_messages(graph, values, message, is_sorted=self.is_sorted)

        if edges is None:
            # A matrix commutes with the sum, and mostly makes the messages shorter.
            nodes = summed(first(graph.nodes))
        else:
            values = dense_nodes("GINConvolution", graph.nodes)
            carried = Dense(values.shape[1], kernel_init=GLOROT, name="edge")(edges)
            nodes = first(summed(values, lambda sent, received, edges: linen.relu(sent + carried)))
        nodes = nodes + self.param("bias", linen.initializers.zeros, (self.sizes[0],))[None].astype(nodes.dtype)
        for i, size in enumerate(self.sizes[1:], 1):
            if self.use_batch_norm:
                norm = BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=f"norm_{i}")
                nodes = norm(nodes, mask=None if mask is None else mask[:, None])
            nodes = Dense(size, kernel_init=GLOROT, name=f"layers_{i}")(linen.relu(nodes))
        return graph._replace(nodes=nodes)


def unit_rows(values: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Every row divided by its length; rows of zeros stay as they are, and so do their gradients.

      y_i = v_i / ‖v_i‖

    >>> unit_rows(jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(3).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    square = jnp.square(values).sum(-1, keepdims=True)
    return values * jnp.where(square > 0, 1 / jnp.sqrt(jnp.where(square > 0, square, 1)), 1)
