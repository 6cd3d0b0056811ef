"""Filters on a graph's spectrum that need no eigenvectors: Chebyshev polynomials of the Laplacian (ChebNet)."""

import jax.numpy as jnp
import jraph
from flax import linen
from jax import lax
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Numeric
from dljax.nn.graph import edge_weights
from dljax.nn.message_passing import pass_messages, segment_reduce
from dljax.nn.node_features import node_product, num_features


def chebyshev_sum(
    graph: jraph.GraphsTuple, values: Float[Array, "K N F"], *, max_eigenvalue: Numeric = 2.0, is_sorted: bool = False
) -> Float[Array, "N F"]:
    """A sum of Chebyshev polynomials of the scaled Laplacian, each applied to values of its own.

      y = Σ_{k<K} T_k(L̃) v_k,   L̃ = 2 L / λ_max - I,   L = I - D^-½ A D^-½,   T₀ = 1,   T₁ = x,   T_k = 2 x T_{k-1} - T_{k-2}

    A polynomial of degree K - 1 reaches nodes K - 1 edges away, in K - 1 sums over the edges: Clenshaw's recursion b_k = v_k + 2 L̃ b_{k+1} - b_{k+2}.

    Args:
      graph: senders and receivers [E], both directions of each edge; `edges` None or weights >= 0 [E]. D^-½ is 0 for a node without edges.
      values: v, K >= 1.
      max_eigenvalue: λ_max > 0, the largest of L or a bound of it: every L has its eigenvalues in [0, 2]. May be traced.
      is_sorted: whether the receivers ascend; a wrong promise gives wrong sums.
    Raises:
      ValueError: λ_max out of range, edges that are no weights.
    Source: Defferrard, Bresson & Vandergheynst (2016), Convolutional neural networks on graphs with fast localized spectral filtering, eq. 4-5.

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.zeros((2, 1)), [0, 1], [1, 0])  # L̃ = [[0, -1], [-1, 0]]
    >>> chebyshev_sum(graph, jnp.array([[[0.0], [0.0]], [[3.0], [0.0]]])).tolist()
    [[0.0], [-3.0]]
    """
    check_range("chebyshev_sum", "max_eigenvalue", max_eigenvalue, 0, open_low=True, open_high=True)
    weights = edge_weights("chebyshev_sum", graph)
    weights = jnp.ones(graph.senders.shape, values.dtype) if weights is None else weights.astype(values.dtype)
    degrees = segment_reduce(weights, graph.receivers, values.shape[1], is_sorted=is_sorted)
    scale = jnp.where(degrees > 0, lax.rsqrt(jnp.where(degrees > 0, degrees, 1)), 0)[:, None]
    stretch = jnp.asarray(2 / max_eigenvalue, values.dtype)

    def laplacian(values: Array) -> Array:
        read = pass_messages(graph, scale * values, lambda sent, received, edges: weights[:, None] * sent, is_sorted=is_sorted)
        return (stretch - 1) * values - stretch * scale * read

    def step(last: tuple[Array, Array], value: Array) -> tuple[tuple[Array, Array], None]:
        one, two = last
        return (value + 2 * laplacian(one) - two, one), None

    zero = jnp.zeros_like(values[0])
    (one, two), _ = lax.scan(step, (zero, zero), values[1:], reverse=True)
    return values[0] + laplacian(one) - two if len(values) > 1 else values[0]


class ChebyshevConvolution(linen.Module):
    """A filter on the graph's spectrum: a polynomial of the Laplacian with a matrix for each power.

      H' = Σ_{k<K} T_k(L̃) H W_k + b

    Attributes:
      features: F, numbers a node afterwards, >= 1.
      order: K >= 1; 1 reads only the node itself.
      max_eigenvalue: λ_max > 0 of the Laplacian, or its bound 2.
      is_sorted: whether the receivers ascend; a wrong promise gives wrong sums.
    Source: Defferrard et al. (2016), eq. 4-6.

    >>> import jax
    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(3), [0, 1], [1, 0])
    >>> out, variables = jax.eval_shape(ChebyshevConvolution(4, order=2).init_with_output, jax.random.key(0), graph)
    >>> out.nodes.shape, jax.tree.map(jnp.shape, variables["params"])
    ((3, 4), {'bias': (4,), 'kernel': (2, 3, 4)})
    """

    features: int
    order: int = 3
    max_eigenvalue: float = 2.0
    is_sorted: bool = False

    @linen.compact
    def __call__(self, graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
        """The same graph with other nodes.

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges None or weights >= 0 [E].
        Raises:
          ValueError: options out of range, nodes or edges of another kind, a graph without nodes.
        """
        check_int("ChebyshevConvolution", "features", self.features, minimum=1)
        check_int("ChebyshevConvolution", "order", self.order, minimum=1)
        size = num_features("ChebyshevConvolution", graph.nodes)
        # Glorot's bounds for each power's matrix.
        initial = linen.initializers.variance_scaling(1, "fan_avg", "uniform", batch_axis=0)
        kernel = self.param("kernel", initial, (self.order, size, self.features))
        # The matrices commute with the polynomials, which then work on F numbers a node.
        values = node_product(graph.nodes, kernel.swapaxes(0, 1).reshape(size, -1)).reshape(-1, self.order, self.features)
        nodes = chebyshev_sum(graph, values.swapaxes(0, 1), max_eigenvalue=self.max_eigenvalue, is_sorted=self.is_sorted)
        return graph._replace(nodes=nodes + self.param("bias", linen.initializers.zeros, (self.features,))[None].astype(nodes.dtype))
