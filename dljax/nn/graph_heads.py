"""Heads of graph networks: what is said of every node, every edge or every graph of a batch; and the pooling of nodes in between."""

import jax
import jax.numpy as jnp
import jraph
from flax import linen
from jaxtyping import Array, Float

from dljax.core.checks import check_choice, check_int
from dljax.nn.dense import Dense
from dljax.nn.message_passing import REDUCTIONS, at_nodes, graph_of_nodes, segment_reduce, segment_softmax

POOLINGS = (*REDUCTIONS, "attention", "set2set")
LEVELS = ("node", "edge", "graph")


def pool_nodes(graph: jraph.GraphsTuple, values: Float[Array, "N D"], pooling: str = "sum") -> Float[Array, "G D"]:
    """The sum, mean or maximum of the nodes of each graph; 0 for a graph without nodes.

    Each graph is pooled alone, the padding of `jraph.pad_with_graphs` too, whose nodes are graphs of their own.

    Args:
      pooling: "sum", "mean" or "max".
    Raises:
      ValueError: another pooling.

    >>> from dljax.nn import single_graph
    >>> graph = jraph.pad_with_graphs(single_graph(jnp.ones((2, 1)), [], []), n_node=5, n_edge=1, n_graph=3)
    >>> pool_nodes(graph, jnp.array([[1.0], [3.0], [7.0], [7.0], [7.0]]), "mean").tolist()
    [[2.0], [7.0], [0.0]]
    """
    check_choice("pool_nodes", "pooling", pooling, REDUCTIONS)
    return segment_reduce(values, graph_of_nodes(graph, len(values)), len(graph.n_node), pooling, is_sorted=True)


class AttentionPooling(linen.Module):
    """A weighted sum of the nodes of each graph, with weights that a network gives them.

      y = Σ_n α_n (V h_n + c),   α = softmax over the nodes of a graph of w · h_n + b

    Attributes:
      features: F, numbers a graph, >= 1.
    Source: Li et al. (2016), Gated graph sequence neural networks, eq. 7, with the softmax of each graph for a gate, as PyTorch Geometric has it.

    >>> from dljax.nn import single_graph
    >>> jax.eval_shape(AttentionPooling(4).init_with_output, jax.random.key(0), single_graph(jnp.ones((3, 2)), [], []))[0].shape
    (1, 4)
    """

    features: int

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple) -> Float[Array, "G F"]:
        check_int("AttentionPooling", "features", self.features, minimum=1)
        graphs, num_graphs = graph_of_nodes(graph, len(graph.nodes)), len(graph.n_node)
        weights, _ = segment_softmax(Dense(1, name="gate")(graph.nodes), graphs, num_graphs, is_sorted=True)
        return segment_reduce(weights * Dense(self.features, name="value")(graph.nodes), graphs, num_graphs, is_sorted=True)


class Set2Set(linen.Module):
    """A summary of a set that is read several times: a recurrent network asks, attention over the nodes answers.

      q_t = LSTM((q_{t-1}, r_{t-1})),   α = softmax over the nodes of a graph of h_n · q_t,   r_t = Σ_n α_n h_n;   y = (q_T, r_T)

    Attributes:
      num_steps: T >= 1.
    Returns:
      Twice as many numbers a graph as a node has.
    Source: Vinyals, Bengio & Kudlur (2016), Order matters: sequence to sequence for sets, eq. 3-7.

    >>> from dljax.nn import single_graph
    >>> jax.eval_shape(Set2Set().init_with_output, jax.random.key(0), single_graph(jnp.ones((3, 2)), [], []))[0].shape
    (1, 4)
    """

    num_steps: int = 3

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple) -> Float[Array, "G F"]:
        check_int("Set2Set", "num_steps", self.num_steps, minimum=1)
        (num_nodes, size), num_graphs = graph.nodes.shape, len(graph.n_node)
        graphs = graph_of_nodes(graph, num_nodes)
        cell = linen.OptimizedLSTMCell(size, name="cell")
        carry = cell.initialize_carry(jax.random.key(0), (num_graphs, 2 * size))
        carry, read = jax.tree.map(lambda leaf: leaf.astype(graph.nodes.dtype), (carry, jnp.zeros((num_graphs, 2 * size))))
        for _ in range(self.num_steps):
            carry, query = cell(carry, read)
            logits = (graph.nodes * at_nodes(query, graphs, is_sorted=True)).sum(-1)
            weights, _ = segment_softmax(logits, graphs, num_graphs, is_sorted=True)
            answer = segment_reduce(weights[:, None] * graph.nodes, graphs, num_graphs, is_sorted=True)
            read = jnp.concatenate([query, answer], -1)
        return read


class GraphHead(linen.Module):
    """What a network says of every node, edge or graph, from the features of the nodes.

      node: W h_n + b;   edge (s → r): W (h_s, h_r, e) + b;   graph: W pool(h) + b;   with `width` a ReLU layer in front

    Attributes:
      num_outputs: C, numbers for each.
      level: "node", "edge" or "graph".
      pooling: of the nodes of a graph: "sum", "mean", "max", "attention" or "set2set".
      width: units of a ReLU layer in front; None for none.

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(3), [0, 1], [1, 0])
    >>> [jax.eval_shape(GraphHead(5, level).init_with_output, jax.random.key(0), graph)[0].shape for level in LEVELS]
    [(3, 5), (2, 5), (1, 5)]
    """

    num_outputs: int
    level: str = "node"
    pooling: str = "mean"
    width: int | None = None

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple) -> Float[Array, "M C"]:
        """One row for every node [N, C], edge [E, C] or graph [G, C].

        Args:
          graph: nodes are an array [N, D]; edges, read at the level of edges only, None or an array [E, D'].
        Raises:
          ValueError: options out of range.
        """
        check_int("GraphHead", "num_outputs", self.num_outputs, minimum=1)
        check_choice("GraphHead", "level", self.level, LEVELS)
        check_choice("GraphHead", "pooling", self.pooling, POOLINGS)
        values = graph.nodes
        if self.level == "edge":
            ends = [at_nodes(values, end) for end in (graph.senders, graph.receivers)]
            values = jnp.concatenate(ends if graph.edges is None else [*ends, graph.edges.reshape(len(graph.senders), -1)], -1)
        elif self.level == "graph":
            if self.pooling == "attention":
                values = AttentionPooling(values.shape[1], name="pool")(graph)
            else:
                values = Set2Set(name="pool")(graph) if self.pooling == "set2set" else pool_nodes(graph, values, self.pooling)
        if self.width is not None:
            check_int("GraphHead", "width", self.width, minimum=1)
            values = linen.relu(Dense(self.width, name="hidden")(values))
        return Dense(self.num_outputs, name="output")(values)
