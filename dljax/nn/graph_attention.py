"""Attention over the neighbours of a graph: GAT, GATv2 and the dot products of a graph transformer.

All three weigh the messages of a node by a softmax over the edges that end in it. Their weights are sown as `attention` [E, H] into the collection
`intermediates` where that is asked for, in the order of the graph's edges.
"""

from typing import Any

import jax
import jax.numpy as jnp
import jraph
from flax import linen
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.nn.dense import Dense
from dljax.nn.graph import edge_features
from dljax.nn.message_passing import at_nodes, segment_reduce, segment_softmax
from dljax.nn.node_features import GLOROT, NodeDense, node_product, num_features


class GraphAttention(linen.Module):
    """Graph attention: every node reads its neighbours and itself, each head by how well the two ends go together.

      h'_r = b + ‖_h Σ_{s in N(r) ∪ {r}} α_sr W h_s,   α_sr = softmax_s LeakyReLU(a₁ · W h_s + a₂ · W h_r)

    The order in which a node prefers its neighbours is the same for all nodes, because the two terms only add; `GraphAttentionV2` has no such limit.

    Attributes:
      features: F, numbers a node for each head, >= 1.
      num_heads: H >= 1.
      is_averaged: take the mean over the heads [N, F], as in the paper's last layer, instead of joining them [N, H·F].
      dropout_rate: the fraction of the weights α that is dropped in training, in [0, 1), each edge and head for itself; from the stream `dropout`.
      slope: of LeakyReLU below zero, in [0, 1].
      is_sorted: whether the receivers ascend; a wrong promise gives wrong sums.
    Source: Veličković et al. (2018), Graph attention networks, eq. 1-6.

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(3), [0, 1], [1, 0])
    >>> out, variables = jax.eval_shape(GraphAttention(4, num_heads=2).init_with_output, jax.random.key(0), graph)
    >>> out.nodes.shape, jax.tree.map(jnp.shape, variables["params"])
    ((3, 8), {'attention': (2, 2, 4), 'bias': (8,), 'kernel': (3, 8)})
    """

    features: int
    num_heads: int = 1
    is_averaged: bool = False
    dropout_rate: float = 0.0
    slope: float = 0.2
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple, train: bool = False) -> jraph.GraphsTuple:
        """The same graph with other nodes.

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges are not read.
          train: whether to drop weights.
        Raises:
          ValueError: options out of range, nodes of another kind, a graph without nodes.
        """
        _check_options("GraphAttention", self.features, self.num_heads, self.dropout_rate)
        check_range("GraphAttention", "slope", self.slope, 0, 1)
        kernel = self.param("kernel", GLOROT, (num_features("GraphAttention", graph.nodes), self.num_heads * self.features))
        vectors = self.param("attention", _glorot_vectors, (2, self.num_heads, self.features)).astype(kernel.dtype)
        values = node_product(graph.nodes, kernel).reshape(-1, self.num_heads, self.features)
        sent, received = jnp.einsum("nhf,khf->knh", values, vectors)

        def activated(logits: Array) -> Array:
            return linen.leaky_relu(logits, self.slope)

        logits = activated(at_nodes(sent, graph.senders) + at_nodes(received, graph.receivers, is_sorted=self.is_sorted))
        nodes = _read(self, graph, logits, at_nodes(values, graph.senders), activated(sent + received), values, train=train)
        return graph._replace(nodes=_joined(self, nodes))


class GraphAttentionV2(linen.Module):
    """Graph attention whose score is a small network of both ends: it can prefer other neighbours for every node.

      h'_r = b + ‖_h Σ_{s in N(r) ∪ {r}} α_sr W₁ h_s,   α_sr = softmax_s a · LeakyReLU(W₁ h_s + c₁ + W₂ h_r + c₂ + W₃ e_sr)

    Attributes:
      features, num_heads, is_averaged, dropout_rate, slope, is_sorted: as for `GraphAttention`.
    Source: Brody, Alon & Yahav (2022), How attentive are graph attention networks?, eq. 7.

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(3), [0, 1], [1, 0], edges=jnp.ones((2, 5)))
    >>> out, variables = jax.eval_shape(GraphAttentionV2(4, num_heads=2).init_with_output, jax.random.key(0), graph)
    >>> out.nodes.shape, sorted(variables["params"])
    ((3, 8), ['attention', 'bias', 'edge', 'receiver', 'sender'])
    """

    features: int
    num_heads: int = 1
    is_averaged: bool = False
    dropout_rate: float = 0.0
    slope: float = 0.2
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple, train: bool = False) -> jraph.GraphsTuple:
        """The same graph with other nodes.

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges None or features e [E, D'], of which the edge to oneself has none.
          train: whether to drop weights.
        Raises:
          ValueError: options out of range, nodes or edges of another kind, a graph without nodes.
        """
        _check_options("GraphAttentionV2", self.features, self.num_heads, self.dropout_rate)
        check_range("GraphAttentionV2", "slope", self.slope, 0, 1)
        edges = edge_features("GraphAttentionV2", graph)
        sent, received = (NodeDense(self.num_heads * self.features, name=end)(graph.nodes) for end in ("sender", "receiver"))
        sent, received = (values.reshape(-1, self.num_heads, self.features) for values in (sent, received))
        vector = self.param("attention", _glorot_vectors, (1, self.num_heads, self.features)).astype(sent.dtype)

        def score(values: Array) -> Array:
            return (linen.leaky_relu(values, self.slope) * vector).sum(-1)

        messages = at_nodes(sent, graph.senders)
        both = messages + at_nodes(received, graph.receivers, is_sorted=self.is_sorted)
        if edges is not None:
            both = both + Dense(self.num_heads * self.features, use_bias=False, kernel_init=GLOROT, name="edge")(edges).reshape(both.shape)
        nodes = _read(self, graph, score(both), messages, score(sent + received), sent, train=train)
        return graph._replace(nodes=_joined(self, nodes))


class GraphDotProductAttention(linen.Module):
    """Attention of a transformer in which every node reads its neighbours only.

      h'_r = ‖_h Σ_{s in N(r)} α_sr (V h_s + W e_sr),   α_sr = softmax_s (Q h_r) · (K h_s + W e_sr) / √F

    A node without neighbours reads 0.

    Attributes:
      features, num_heads, dropout_rate, is_sorted: as for `GraphAttention`.
    Source: Shi et al. (2021), Masked label prediction: unified message passing model, eq. 3-4; without edges, Dwivedi & Bresson (2021),
      A generalization of transformer networks to graphs, eq. 4-5.

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(3), [0, 1], [1, 0])
    >>> jax.eval_shape(GraphDotProductAttention(4, num_heads=2).init_with_output, jax.random.key(0), graph)[0].nodes.shape
    (3, 8)
    """

    features: int
    num_heads: int = 1
    dropout_rate: float = 0.0
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple, train: bool = False) -> jraph.GraphsTuple:
        """The same graph with other nodes.

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges None or features e [E, D'].
          train: whether to drop weights.
        Raises:
          ValueError: options out of range, nodes or edges of another kind, a graph without nodes.
        """
        _check_options("GraphDotProductAttention", self.features, self.num_heads, self.dropout_rate)
        edges = edge_features("GraphDotProductAttention", graph)
        size = self.num_heads * self.features
        heads = -1, self.num_heads, self.features
        query, key, value = (NodeDense(size, name=name)(graph.nodes).reshape(heads) for name in ("query", "key", "value"))
        keys, values = at_nodes(key, graph.senders), at_nodes(value, graph.senders)
        if edges is not None:
            carried = Dense(size, use_bias=False, kernel_init=GLOROT, name="edge")(edges).reshape(heads)
            keys, values = keys + carried, values + carried
        queries = at_nodes(query / self.features**0.5, graph.receivers, is_sorted=self.is_sorted)
        nodes = _read(self, graph, (queries * keys).sum(-1), values, None, query, train=train)
        return graph._replace(nodes=nodes.reshape(len(nodes), -1))


def _read(layer: Any, graph: Any, logits: Array, messages: Array, own_logits: Array | None, own: Array, *, train: bool) -> Array:
    """Σ_s α_sr v_sr, with the node itself where it has a logit: [N, H, F]."""
    weights, own_weights = segment_softmax(logits, graph.receivers, len(own), own_logits, is_sorted=layer.is_sorted)
    layer.sow("intermediates", "attention", weights)
    dropout = linen.Dropout(layer.dropout_rate, deterministic=not train)
    read = segment_reduce(dropout(weights)[:, :, None] * messages, graph.receivers, len(own), is_sorted=layer.is_sorted)
    return read if own_weights is None else read + dropout(own_weights)[:, :, None] * own


def _joined(layer: Any, heads: Float[Array, "N H F"]) -> Array:
    values = heads.mean(1) if layer.is_averaged else heads.reshape(len(heads), -1)
    return values + layer.param("bias", linen.initializers.zeros, values.shape[1:])[None].astype(values.dtype)


def _check_options(who: str, features: int, num_heads: int, dropout_rate: float) -> None:
    check_int(who, "features", features, minimum=1)
    check_int(who, "num_heads", num_heads, minimum=1)
    check_range(who, "dropout_rate", dropout_rate, 0, 1, open_high=True)


def _glorot_vectors(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    # Of each head's vector as a matrix [F, 1]; shapes say nothing of heads.
    bound = (6 / (shape[-1] + 1)) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)
