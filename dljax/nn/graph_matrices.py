"""The matrices of a graph: adjacency, degrees, Laplacians and their spectrum, the random walk, its stationary distribution, PageRank."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Shaped

from dljax.core.checks import check_choice, check_range
from dljax.core.contract import Numeric

KINDS = ("combinatorial", "symmetric", "random-walk")


def adjacency_matrix(graph: jraph.GraphsTuple) -> Float[Array, "N N"]:
    """A, dense: what goes from each node (row) to each node (column).

      A_ij = Σ of the weights of the edges from i to j

    An undirected graph lists both directions, and A is symmetric. Repeated edges are added up. A self-loop, listed once, stands once on the diagonal.
    A batch of graphs gives a matrix of blocks; of a graph that jraph padded, the block of the real nodes is the graph's own matrix.

    Args:
      graph: `edges` are None (every edge weighs 1) or weights [E].
    Raises:
      ValueError: edges that are not one weight for each edge; a graph without nodes.

    >>> from dljax.nn.graph import single_graph
    >>> adjacency_matrix(single_graph(jnp.zeros((2, 1)), [0, 0, 1], [1, 1, 1])).tolist()
    [[0.0, 2.0], [0.0, 1.0]]
    """
    weights, num_nodes = edge_weights("adjacency_matrix", graph), count_nodes("adjacency_matrix", graph)
    return jnp.zeros((num_nodes, num_nodes), weights.dtype).at[graph.senders, graph.receivers].add(weights)


def degrees(graph: jraph.GraphsTuple, *, direction: str = "out") -> Float[Array, "N"]:
    """The summed weights of every node's edges: rows ("out") or columns ("in") of the adjacency matrix.

    A self-loop counts once, as in the matrix, where drawings of undirected graphs, and networkx's `degree`, count both of its ends.

    Args:
      graph: as for `adjacency_matrix`.
      direction: "out" counts the edges that leave, "in" those that arrive; of an undirected graph they are equal.
    Raises:
      ValueError: as for `adjacency_matrix`; another direction.

    >>> from dljax.nn.graph import single_graph
    >>> degrees(single_graph(jnp.zeros((3, 1)), [0, 0], [1, 2])).tolist()
    [2.0, 0.0, 0.0]
    """
    check_choice("degrees", "direction", direction, ("out", "in"))
    ends = graph.senders if direction == "out" else graph.receivers
    return jraph.segment_sum(edge_weights("degrees", graph), ends, count_nodes("degrees", graph))


def laplacian(graph: jraph.GraphsTuple, kind: str = "combinatorial") -> Float[Array, "N N"]:
    """The Laplacian of a graph, dense.

      combinatorial   L = D - A
      symmetric       D^-½ L D^-½,  spectrum in [0, 2]
      random-walk     D⁻¹ L = I - P, the same spectrum, rows that sum to 0

    D holds the out-degrees. The row and column of a node of degree 0 are 0 in all three, so that 0 is an eigenvalue once for each component.

    Args:
      graph: as for `adjacency_matrix`; of a directed one, rows are what leaves.
      kind: one of the three.
    Raises:
      ValueError: as for `adjacency_matrix`; another kind; negative weights where degrees are divided by.
    Source: Chung (1997), Spectral graph theory, chapter 1.

    >>> from dljax.nn.graph import single_graph
    >>> laplacian(single_graph(jnp.zeros((2, 1)), [0, 1], [1, 0])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    check_choice("laplacian", "kind", kind, KINDS)
    if kind != "combinatorial":
        check_range("laplacian", "weights", edge_weights("laplacian", graph), 0, open_high=True)
    adjacency = adjacency_matrix(graph)
    degree = adjacency.sum(1)
    difference = jnp.diag(degree) - adjacency
    if kind == "symmetric":
        root = _inverse(jnp.sqrt(degree))
        return root[:, None] * difference * root[None]
    return difference if kind == "combinatorial" else _inverse(degree)[:, None] * difference


class Spectrum(NamedTuple):
    """Eigenvalues in ascending order, and the eigenvectors as columns.

    Attributes:
      values: λ; inf at the end, once for each node that does not count.
      vectors: column k belongs to λ_k; those of inf are 0.
    """

    values: Float[Array, "N"]
    vectors: Float[Array, "N N"]


def laplacian_spectrum(graph: jraph.GraphsTuple, kind: str = "symmetric", *, mask: Shaped[Any, "N"] | None = None) -> Spectrum:
    """Eigenvalues and eigenvectors of a Laplacian of an undirected graph.

    0 is an eigenvalue once for each component; the second vector, Fiedler's, divides a connected graph where few edges are cut.

    Args:
      graph: undirected, both directions of each edge listed with one weight.
      kind: as for `laplacian`. The vectors of "combinatorial" and "symmetric" are orthonormal; those of "random-walk" are D^-½ times those of
        "symmetric", orthonormal under D, with the constant vector for 0. A node of degree 0 keeps its unit vector.
      mask: [N], True or 1 for the nodes that count, such as `jraph.get_node_padding_mask` of a padded graph; None counts all.
    Raises:
      ValueError: as for `laplacian`; a concrete graph with an edge whose other direction is missing or weighs otherwise.
    Source: Fiedler (1973), Algebraic connectivity of graphs; von Luxburg (2007), A tutorial on spectral clustering, section 3.

    >>> from dljax.nn.graph import single_graph
    >>> path = single_graph(jnp.zeros((3, 1)), [0, 1, 1, 2], [1, 0, 2, 1])
    >>> jnp.abs(laplacian_spectrum(path, "combinatorial").values).round(4).tolist()
    [0.0, 1.0, 3.0]
    """
    check_choice("laplacian_spectrum", "kind", kind, KINDS)
    matrix = laplacian(graph, "symmetric" if kind == "random-walk" else kind)
    if not isinstance(matrix, jax.core.Tracer) and not np.allclose(matrix, matrix.T, rtol=1e-5, atol=1e-6 * float(jnp.abs(matrix).max())):
        raise ValueError("laplacian_spectrum: the graph must be undirected, both directions of each edge with one weight; list both, or add Aᵀ to A")
    counts = jnp.ones(len(matrix), bool) if mask is None else jnp.asarray(mask) > 0
    # Nodes that do not count get eigenvalues above all others, and so come last.
    above = 1 + 2 * jnp.abs(matrix).sum(1).max()
    matrix = jnp.where(counts[:, None] & counts[None], matrix, jnp.where(jnp.eye(len(matrix), dtype=bool), above, 0))
    values, vectors = jnp.linalg.eigh(matrix)
    is_real = jnp.arange(len(matrix)) < counts.sum()
    if kind == "random-walk":
        degree = degrees(graph)
        vectors = jnp.where(degree > 0, _inverse(jnp.sqrt(degree)), 1)[:, None] * vectors
    return Spectrum(jnp.where(is_real, values, jnp.inf), jnp.where(is_real[None], vectors, 0))


def transition_matrix(graph: jraph.GraphsTuple) -> Float[Array, "N N"]:
    """P, the random walk that leaves a node by an edge as often as the edge weighs: P_ij = A_ij / D_i.

    A node without a way out keeps the walk, P_ii = 1; so all rows sum to 1.

    Args:
      graph: as for `adjacency_matrix`, weights >= 0.
    Raises:
      ValueError: as for `adjacency_matrix`; a negative weight.

    >>> from dljax.nn.graph import single_graph
    >>> transition_matrix(single_graph(jnp.zeros((3, 1)), [0, 0], [1, 2])).tolist()
    [[0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    check_range("transition_matrix", "weights", edge_weights("transition_matrix", graph), 0, open_high=True)
    adjacency = adjacency_matrix(graph)
    degree = adjacency.sum(1)
    return _inverse(degree)[:, None] * adjacency + jnp.diag((degree == 0).astype(adjacency.dtype))


def stationary_distribution(transition: Float[Array, "N N"], start: Float[Array, "N"] | None = None) -> Float[Array, "N"]:
    """Where a walk is found in the long run: the mean of its distributions over all times.

      π = lim_T 1/T Σ_{t<T} s Pᵗ,   π P = π

    It exists for every chain: periodic ones (of which s Pᵗ itself has no limit), such with nodes that are left for ever, and such of several
    components, where it depends on the start. Of a connected undirected graph it is D_i / Σ D. Computed by squaring (I + P) / 2, which has the same
    limit, until nothing changes.

    Args:
      transition: P, rows that sum to 1.
      start: s, the distribution of the first node; None takes all alike.
    Returns:
      π, which sums to 1.
    Raises:
      ValueError: a concrete matrix whose rows are not distributions, or a start that is none.

    >>> stationary_distribution(jnp.array([[0.0, 1.0], [1.0, 0.0]])).tolist()
    [0.5, 0.5]
    """
    num_nodes = len(transition)
    start = jnp.full(num_nodes, 1 / num_nodes, transition.dtype) if start is None else start
    for name, rows in {"transition": transition, "start": start}.items():
        if not isinstance(rows, jax.core.Tracer) and not (np.all(rows >= 0) and np.allclose(rows.sum(-1), 1, atol=1e-4)):
            raise ValueError(f"stationary_distribution: {name} must be >= 0 and sum to 1 in each row; use transition_matrix(graph)")
    precision = 4 * jnp.finfo(transition.dtype).eps

    def is_open(loop: tuple[Array, Array, Array]) -> Array:
        count, _, change = loop
        return (change > precision) & (count < 64)

    def square(loop: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, power, _ = loop
        new = jnp.matmul(power, power, precision="highest")
        new = new / new.sum(1, keepdims=True)
        return count + 1, new, jnp.abs(new - power).max()

    lazy = (transition + jnp.eye(num_nodes, dtype=transition.dtype)) / 2
    _, power, _ = lax.while_loop(is_open, square, (jnp.int32(0), lazy, jnp.asarray(jnp.inf, transition.dtype)))
    return start @ power


def pagerank(
    graph: jraph.GraphsTuple, *, damping: Numeric = 0.85, personalisation: Shaped[Any, "N"] | None = None, tolerance: Numeric | None = None
) -> Float[Array, "N"]:
    """How often a surfer is at each node who follows an edge with probability d and otherwise goes to a node of his choice.

      r = d (r P + s Σ_{i without a way out} r_i) + (1 - d) s

    by iteration over the edges, without a matrix; the error shrinks by d in each round.

    Args:
      graph: as for `adjacency_matrix`, weights >= 0.
      damping: d in [0, 1); may be traced.
      personalisation: s, weights >= 0 [N], not all 0, scaled to sum to 1; None takes all nodes alike. Of a padded graph, the mask of its real nodes.
      tolerance: stop where a round changes r by less, summed over nodes; None takes 8 times the rounding error. At most 10,000 rounds.
    Returns:
      r, which sums to 1.
    Raises:
      ValueError: as for `adjacency_matrix`; options out of range; a personalisation that is all 0 or has another length.
    Source: Page, Brin, Motwani & Winograd (1999); nodes without a way out as in networkx.

    >>> from dljax.nn.graph import single_graph
    >>> pagerank(single_graph(jnp.zeros((3, 1)), [0, 1], [2, 2]), damping=0.5).round(3).tolist()
    [0.25, 0.25, 0.5]
    """
    check_range("pagerank", "damping", damping, 0, 1, open_high=True)
    weights, num_nodes = edge_weights("pagerank", graph), count_nodes("pagerank", graph)
    check_range("pagerank", "weights", weights, 0, open_high=True)
    goal = jnp.ones(num_nodes, weights.dtype) if personalisation is None else jnp.asarray(personalisation, weights.dtype)
    if goal.shape != (num_nodes,):
        raise ValueError(f"pagerank: personalisation must have one weight for each of the {num_nodes} nodes, got shape {goal.shape}")
    check_range("pagerank", "personalisation", goal, 0, open_high=True)
    check_range("pagerank", "the sum of personalisation", goal.sum(), 0, open_low=True)
    goal = goal / goal.sum()
    limit = 8 * jnp.finfo(goal.dtype).eps if tolerance is None else tolerance
    degree = degrees(graph)
    share = weights * _inverse(degree)[graph.senders]

    def is_open(loop: tuple[Array, Array, Array]) -> Array:
        count, _, change = loop
        return (change > limit) & (count < 10_000)

    def round_trip(loop: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, rank, _ = loop
        arrived = jraph.segment_sum(share * rank[graph.senders], graph.receivers, num_nodes)
        stranded = jnp.where(degree > 0, 0, rank).sum()
        new = damping * (arrived + goal * stranded) + (1 - damping) * goal
        new = new / new.sum()
        return count + 1, new, jnp.abs(new - rank).sum()

    return lax.while_loop(is_open, round_trip, (jnp.int32(0), goal, jnp.asarray(jnp.inf, goal.dtype)))[1]


def count_nodes(who: str, graph: jraph.GraphsTuple) -> int:
    """N, from the rows of the nodes' features.

    Raises:
      ValueError: no features, or none of any node; the message begins with `who`.

    >>> from dljax.nn.graph import single_graph
    >>> count_nodes("me", single_graph(jnp.ones((3, 1)), [], []))
    3
    """
    leaves = jax.tree.leaves(graph.nodes)
    if not leaves or leaves[0].shape[0] == 0:
        raise ValueError(f"{who}: the graph must have at least one node, and nodes with one row each, got none")
    return leaves[0].shape[0]


def edge_weights(who: str, graph: jraph.GraphsTuple) -> Float[Array, "E"]:
    """The edges' weights, 1 where there are none.

    Raises:
      ValueError: edges that are not one number each; the message begins with `who`.

    >>> from dljax.nn.graph import single_graph
    >>> edge_weights("me", single_graph(jnp.ones((2, 1)), [0], [1])).tolist()
    [1.0]
    """
    if graph.edges is None:
        return jnp.ones(graph.senders.shape, float)
    if getattr(graph.edges, "shape", None) != graph.senders.shape:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(graph.edges)]
        raise ValueError(f"{who}: edges must be None or one weight for each of the {len(graph.senders)} edges, got {shapes}")
    return jnp.asarray(graph.edges, jnp.promote_types(graph.edges.dtype, float))


def _inverse(values: Float[Array, "N"]) -> Float[Array, "N"]:
    return jnp.where(values > 0, 1 / jnp.where(values > 0, values, 1), 0)
