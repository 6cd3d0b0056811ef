"""Recurrent message passing: neighbours' messages update a node's state through a gated recurrent unit, several times with the same weights."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jraph
from flax import linen
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int
from dljax.nn.dense import Dense
from dljax.nn.graph import edge_features
from dljax.nn.message_passing import at_nodes, pass_messages, segment_reduce
from dljax.nn.node_features import GLOROT, dense_nodes, shapes_of


def gated_update(state: Float[Array, "N F"], read: Float[Array, "N D"], weights: dict[str, Float[Array, "..."]]) -> Float[Array, "N F"]:
    """One step of a gated recurrent unit on every node.

      r = σ(W_r m + c_r + U_r h + d_r),   z = σ(W_z m + c_z + U_z h + d_z),   n = tanh(W_n m + c_n + r (U_n h + d_n)),   h' = (1 - z) n + z h

    Args:
      state: h.
      read: m, what the node reads.
      weights: `kernel` [D, 3F] and `bias` [3F] with W and c in the order r, z, n; `state_kernel` [F, 3F] and `state_bias` [3F] with U and d.
    Source: Cho et al. (2014), Learning phrase representations using RNN encoder-decoder, with the reset gate as PyTorch and cuDNN have it.

    >>> zeros = {"kernel": jnp.zeros((1, 3)), "bias": jnp.zeros(3), "state_kernel": jnp.zeros((1, 3)), "state_bias": jnp.zeros(3)}
    >>> gated_update(jnp.ones((1, 1)), jnp.ones((1, 1)), zeros).tolist()
    [[0.5]]
    """
    from_read = read @ weights["kernel"] + weights["bias"][None]
    from_state = state @ weights["state_kernel"] + weights["state_bias"][None]
    (read_r, read_z, read_n), (state_r, state_z, state_n) = (jnp.split(part, 3, -1) for part in (from_read, from_state))
    r, z = jax.nn.sigmoid(read_r + state_r), jax.nn.sigmoid(read_z + state_z)
    n = jnp.tanh(read_n + r * state_n)
    return n + z * (state - n)


class GatedGraphConvolution(linen.Module):
    """A gated graph network: T times, every node adds up its neighbours' states, each through the matrix of its edge's type, and updates its own.

      h⁰ = (x, 0),   m_r = Σ_{e = (s → r)} (W_{type e} h_s + b_{type e}),   h^{t+1} = GRU(m, hᵗ)

    Attributes:
      features: F >= D, numbers a node; what x has less is filled up with zeros.
      num_steps: T >= 1, all with the same weights.
      num_edge_types: K >= 1 matrices. Give each direction of an edge a type of its own for the paper's "in" and "out".
      use_bias: whether there is b.
      is_sorted: whether the receivers ascend; a wrong promise gives wrong sums.
    Source: Li et al. (2016), Gated graph sequence neural networks, eq. 1-6.

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(3), [0, 1], [1, 0], edges=jnp.array([0, 1]))
    >>> out, variables = jax.eval_shape(GatedGraphConvolution(4, num_edge_types=2).init_with_output, jax.random.key(0), graph)
    >>> out.nodes.shape, sorted(variables["params"])
    ((3, 4), ['bias', 'gru_bias', 'gru_kernel', 'gru_state_bias', 'gru_state_kernel', 'kernel'])
    """

    features: int
    num_steps: int = 5
    num_edge_types: int = 1
    use_bias: bool = True
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
        """The same graph with other nodes.

        Args:
          graph: nodes are an array [N, D]; edges whole numbers [E] in [0, K), their types, or None where there is one. A type outside sends nothing.
        Raises:
          ValueError: options out of range, F < D, nodes of another kind, a graph without nodes, edges that are no types.
        """
        who = "GatedGraphConvolution"
        for name in ("features", "num_steps", "num_edge_types"):
            check_int(who, name, getattr(self, name), minimum=1)
        types = _edge_types(who, graph, self.num_edge_types)
        state = _filled_up(who, graph.nodes, self.features)
        initial = linen.initializers.variance_scaling(1, "fan_avg", "uniform", batch_axis=0)
        kernel = self.param("kernel", initial, (self.num_edge_types, self.features, self.features))
        bias = self.param("bias", linen.initializers.zeros, (self.num_edge_types, self.features)) if self.use_bias else None
        state = state.astype(kernel.dtype)
        gru = _gru_weights(self, self.features, state.dtype)

        def step(state: Array, _: None) -> tuple[Array, None]:
            values = jnp.einsum("nd,kdf->nkf", state, kernel)
            values = values if bias is None else values + bias[None].astype(values.dtype)
            if types is None:
                read = pass_messages(graph, values[:, 0], is_sorted=self.is_sorted)
            else:
                messages = at_nodes(values.reshape(-1, self.features), graph.senders * self.num_edge_types + types)
                is_type = (types >= 0) & (types < self.num_edge_types)
                read = segment_reduce(jnp.where(is_type[:, None], messages, 0), graph.receivers, len(state), is_sorted=self.is_sorted)
            return gated_update(state, read, gru), None

        return graph._replace(nodes=lax.scan(step, state, None, length=self.num_steps)[0])


class EdgeNetworkConvolution(linen.Module):
    """A message passing network: T times, every node adds up its neighbours' states, each through a matrix that a network makes of the edge.

      h⁰ = (x, 0),   m_r = Σ_{e = (s → r)} A(e) h_s + b,   h^{t+1} = GRU(m, hᵗ)

    Attributes:
      features: F >= D, numbers a node; what x has less is filled up with zeros.
      num_steps: T >= 1, all with the same weights; the matrices A(e) are made once.
      edge_sizes: hidden units of the network A, with ReLU behind each layer; its last layer has F² numbers.
      use_bias: whether there is b.
      is_sorted: whether the receivers ascend; a wrong promise gives wrong sums.
    Source: Gilmer et al. (2017), Neural message passing for quantum chemistry, section 5, "edge network".

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(3), [0, 1], [1, 0], edges=jnp.ones((2, 5)))
    >>> jax.eval_shape(EdgeNetworkConvolution(4, edge_sizes=(8,)).init_with_output, jax.random.key(0), graph)[0].nodes.shape
    (3, 4)
    """

    features: int
    num_steps: int = 3
    edge_sizes: Sequence[int] = (128,)
    use_bias: bool = True
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
        """The same graph with other nodes.

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges features e [E, D'].
        Raises:
          ValueError: options out of range, F < D, nodes of another kind, a graph without nodes, edges without features.
        """
        who = "EdgeNetworkConvolution"
        check_int(who, "features", self.features, minimum=1)
        check_int(who, "num_steps", self.num_steps, minimum=1)
        for size in self.edge_sizes:
            check_int(who, "edge_sizes", size, minimum=1)
        state = _filled_up(who, graph.nodes, self.features)
        edges = edge_features(who, graph)
        if edges is None:
            raise ValueError(f"{who}: edges must be features [E, D], got nothing; use GatedGraphConvolution")
        for i, size in enumerate(self.edge_sizes):
            edges = linen.relu(Dense(size, name=f"edge_{i}")(edges))
        matrices = Dense(self.features**2, kernel_init=GLOROT, name="matrix")(edges).reshape(-1, self.features, self.features)
        bias = self.param("bias", linen.initializers.zeros, (self.features,)) if self.use_bias else None
        state = state.astype(matrices.dtype)
        gru = _gru_weights(self, self.features, state.dtype)

        def step(state: Array, _: None) -> tuple[Array, None]:
            read = pass_messages(graph, state, lambda sent, received, edges: jnp.einsum("ed,edf->ef", sent, matrices), is_sorted=self.is_sorted)
            return gated_update(state, read if bias is None else read + bias[None].astype(read.dtype), gru), None

        return graph._replace(nodes=lax.scan(step, state, None, length=self.num_steps)[0])


def _gru_weights(layer: linen.Module, size: int, dtype: Any) -> dict[str, Array]:
    inits = {
        "kernel": GLOROT,
        "bias": linen.initializers.zeros,
        "state_kernel": linen.initializers.orthogonal(),
        "state_bias": linen.initializers.zeros,
    }
    shapes = {name: (size, 3 * size) if name.endswith("kernel") else (3 * size,) for name in inits}
    return {name: layer.param(f"gru_{name}", init, shapes[name]).astype(dtype) for name, init in inits.items()}


def _filled_up(who: str, nodes: Any, features: int) -> Array:
    nodes = dense_nodes(who, nodes)
    if nodes.shape[1] > features:
        raise ValueError(f"{who}: features must be at least the {nodes.shape[1]} numbers of a node, got {features}; project the nodes first")
    return jnp.pad(nodes, ((0, 0), (0, features - nodes.shape[1])))


def _edge_types(who: str, graph: jraph.GraphsTuple, num_edge_types: int) -> Int[Array, "E"] | None:
    types = graph.edges
    if types is None and num_edge_types == 1:
        return None
    is_types = len(jax.tree.leaves(types)) == 1 and jnp.shape(types) == graph.senders.shape and jnp.issubdtype(types.dtype, jnp.integer)
    if not is_types:
        raise ValueError(f"{who}: edges must be {len(graph.senders)} whole numbers in [0, {num_edge_types - 1}], got {shapes_of(types)}")
    return types
