"""The structure of a graph: its components, shortest paths, and the colours by which the Weisfeiler-Lehman test tells nodes and graphs apart."""

from typing import Any

import jax
import jax.numpy as jnp
import jraph
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int, check_range
from dljax.nn.graph_matrices import count_nodes, edge_weights


def components(graph: jraph.GraphsTuple) -> Int[Array, "N"]:
    """The (weakly) connected component of every node, named by its smallest node; edges count in both directions, whatever they weigh.

    Raises:
      ValueError: a graph without nodes.

    >>> from dljax.nn.graph import single_graph
    >>> components(single_graph(jnp.zeros((5, 1)), [4, 2], [1, 2])).tolist()
    [0, 1, 2, 3, 1]
    """
    num_nodes = count_nodes("components", graph)

    def spread(loop: tuple[Array, Array]) -> tuple[Array, Array]:
        label, _ = loop
        new = label.at[graph.receivers].min(label[graph.senders]).at[graph.senders].min(label[graph.receivers])
        # Pointer jumping: a label is a node of the component and may know a smaller one.
        new = jnp.minimum(new, new[new])
        return new, (new != label).any()

    return lax.while_loop(lambda loop: loop[1], spread, (jnp.arange(num_nodes, dtype=jnp.int32), jnp.array(True)))[0]


def shortest_paths(graph: jraph.GraphsTuple, sources: Int[Any, "S"]) -> Float[Array, "S N"]:
    """The lengths of the shortest paths from some nodes to all, along the edges (Bellman & Ford).

      d_j ← min(d_j, min over edges i → j of d_i + w_ij)      until nothing changes, at most N - 1 rounds

    Args:
      graph: `edges` are None (every edge is 1 long, and d counts hops) or lengths >= 0 [E].
      sources: S nodes; `jnp.arange(N)` gives all distances.
    Returns:
      d, 0 at the source, inf where no path leads.
    Raises:
      ValueError: edges that are no lengths, a graph without nodes, concrete sources that are no nodes.

    >>> from dljax.nn.graph import single_graph
    >>> shortest_paths(single_graph(jnp.zeros((4, 1)), [0, 1, 0], [1, 2, 2]), jnp.array([0])).tolist()
    [[0.0, 1.0, 1.0, inf]]
    """
    lengths, num_nodes = edge_weights("shortest_paths", graph), count_nodes("shortest_paths", graph)
    check_range("shortest_paths", "edges", lengths, 0)
    check_range("shortest_paths", "sources", sources, 0, num_nodes - 1)

    def one(source: Int[Array, ""]) -> Float[Array, "N"]:
        def relax(loop: tuple[Array, Array]) -> tuple[Array, Array]:
            distance, _ = loop
            new = distance.at[graph.receivers].min(distance[graph.senders] + lengths)
            return new, (new < distance).any()

        begin = jnp.full(num_nodes, jnp.inf, lengths.dtype).at[source].set(0)
        return lax.while_loop(lambda loop: loop[1], relax, (begin, jnp.array(True)))[0]

    return jax.vmap(one)(jnp.asarray(sources))


def weisfeiler_lehman(graph: jraph.GraphsTuple, colours: Int[Array, "N"] | None = None, *, rounds: int | None = None) -> Int[Array, "N"]:
    """Colour refinement (1-WL): two nodes keep one colour while the multisets of the colours that they read agree.

      c_v ← name of (c_v, {{ c_u : edges u → v }})

    Names are ranks, so that they are exact, not hashes, and do not depend on the order of the nodes. Two graphs are told apart where the colours of
    their nodes differ in number: colour both at once, as `jraph.batch([one, other])`. Graphs that are not told apart may still differ (those whose
    nodes all have one degree always pass), and no network that sums messages of neighbours does better.

    It needs N² numbers: for graphs of up to some thousand nodes.

    Args:
      graph: weights are not looked at; repeated edges count.
      colours: the first colours, whole numbers in any range; None begins with one colour for all.
      rounds: how often, >= 0; None goes on until no class is divided, after N rounds at most.
    Returns:
      colours in [0, N).
    Raises:
      ValueError: `rounds` < 0, a graph without nodes.
    Source: Weisfeiler & Leman (1968); Xu et al. (2019), How powerful are graph neural networks?, section 3.

    >>> from dljax.nn.graph import single_graph
    >>> path = single_graph(jnp.zeros((4, 1)), [0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2])
    >>> weisfeiler_lehman(path).tolist()
    [0, 1, 1, 0]
    """
    num_nodes = count_nodes("weisfeiler_lehman", graph)
    limit = num_nodes if rounds is None else check_int("weisfeiler_lehman", "rounds", rounds)

    def is_open(loop: tuple[Array, Array, Array]) -> Array:
        count, _, is_new = loop
        return (count < limit) & is_new

    def refine(loop: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, colour, _ = loop
        read = jnp.zeros((num_nodes, num_nodes), jnp.int32).at[graph.receivers, colour[graph.senders]].add(1)
        new = _ranks(jnp.concatenate([colour[:, None], read], 1))
        return count + 1, new, new.max() > colour.max()

    begin = jnp.zeros(num_nodes, jnp.int32) if colours is None else _ranks(colours[:, None])
    return lax.while_loop(is_open, refine, (jnp.int32(0), begin, jnp.array(True)))[1]


def _ranks(rows: Int[Array, "N K"]) -> Int[Array, "N"]:
    """The place of each row among the different rows in lexicographic order."""
    return jnp.unique(rows, axis=0, return_inverse=True, size=len(rows))[1].reshape(-1).astype(jnp.int32)
