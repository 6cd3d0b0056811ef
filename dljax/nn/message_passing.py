"""Message passing: what every graph layer does between its matrices. Gather at the ends of the edges, make messages, reduce at the receivers.

Padding needs no mask here: the edges that `jraph.pad_with_graphs` adds end in the nodes it adds, so no message of theirs reaches a real node.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Float, Int, Shaped

from dljax.core.checks import check_choice

type_aliases = ("Message",)

Message = Callable[[Any, Any, Any], Any]  # (senders' values, receivers' values, edges), each [E, ...] -> messages [E, ...]

REDUCTIONS = ("sum", "mean", "max")


def pass_messages(graph: jraph.GraphsTuple, values: Any, message: Message | None = None, *, reduction: str = "sum", is_sorted: bool = False) -> Any:
    """What the edges bring to every node: the one function under all graph layers.

      y_r = ⊕_{e = (s → r)} message(v_s, v_r, e),   ⊕ a sum, a mean or a maximum by number;   0 where no edge ends

    Args:
      graph: senders and receivers [E], both nodes of it; a graph that `single_graph`, jraph's batching or padding made.
      values: v, an array or a pytree of arrays [N, ...]. One row for each node, whatever `graph.nodes` may be.
      message: from the values at both ends of the edges and `graph.edges`; None sends the sender's values as they are.
      reduction: ⊕, "sum", "mean" or "max".
      is_sorted: whether the receivers ascend, as `single_graph` and jraph's batching and padding leave them; a wrong promise gives wrong sums.
    Returns:
      What `message` returns, with N rows instead of E.
    Raises:
      ValueError: another reduction.
    Source: Gilmer et al. (2017), Neural message passing for quantum chemistry, eq. 1.

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.zeros((3, 1)), [0, 1], [2, 2], edges=jnp.array([10.0, 1.0]))
    >>> pass_messages(graph, jnp.array([[2.0], [3.0], [0.0]]), lambda sent, received, edges: edges[:, None] * sent).tolist()
    [[0.0], [0.0], [23.0]]
    >>> pass_messages(graph, jnp.array([[2.0], [3.0], [0.0]]), reduction="max").tolist()
    [[0.0], [0.0], [3.0]]
    """
    sent = jax.tree.map(lambda leaf: at_nodes(leaf, graph.senders), values)
    if message is None:
        messages = sent
    else:
        received = jax.tree.map(lambda leaf: at_nodes(leaf, graph.receivers, is_sorted=is_sorted), values)
        messages = message(sent, received, graph.edges)
    num_nodes = len(jax.tree.leaves(values)[0])
    return jax.tree.map(lambda leaf: segment_reduce(leaf, graph.receivers, num_nodes, reduction, is_sorted=is_sorted), messages)


def at_nodes(values: Shaped[Array, "N *D"], index: Int[Array, "E"], *, is_sorted: bool = False) -> Shaped[Array, "E *D"]:
    """The rows of the nodes at one end of every edge.

    >>> at_nodes(jnp.array([[1.0], [2.0]]), jnp.array([1, 1, 0])).tolist()
    [[2.0], [2.0], [1.0]]
    """
    return jnp.take(values, index, axis=0, mode="clip", indices_are_sorted=is_sorted)


def segment_reduce(
    values: Float[Array, "E *D"], segments: Int[Array, "E"], num_segments: int, reduction: str = "sum", *, is_sorted: bool = False
) -> Float[Array, "S *D"]:
    """The sum, mean or maximum of the rows of each segment; 0 where a segment has no rows.

    Args:
      segments: in [0, S), of each row; rows outside are left out.
      num_segments: S.
      reduction: "sum", "mean" or "max".
      is_sorted: whether `segments` ascends; a wrong promise gives wrong values.
    Raises:
      ValueError: another reduction.

    >>> [segment_reduce(jnp.array([1.0, 3.0]), jnp.array([1, 1]), 2, kind).tolist() for kind in REDUCTIONS]
    [[0.0, 4.0], [0.0, 2.0], [0.0, 3.0]]
    """
    check_choice("segment_reduce", "reduction", reduction, REDUCTIONS)
    if reduction == "max":
        return jraph.segment_max_or_constant(values, segments, num_segments, is_sorted)
    total = jraph.segment_sum(values, segments, num_segments, is_sorted)
    if reduction == "sum":
        return total
    # One count a segment, where jraph's mean counts anew for each number.
    count = jnp.maximum(jraph.segment_sum(jnp.ones(segments.shape, values.dtype), segments, num_segments, is_sorted), 1)
    return total / count.reshape(-1, *(1,) * (values.ndim - 1))


def segment_softmax(
    logits: Float[Array, "E *H"],
    segments: Int[Array, "E"],
    num_segments: int,
    own: Float[Array, "S *H"] | None = None,
    *,
    is_sorted: bool = False,
) -> tuple[Float[Array, "E *H"], Float[Array, "S *H"] | None]:
    """Weights that are positive and sum to one in each segment, where the segment itself may take part.

      α_e = exp l_e / Z_s,   α_s = exp l_s / Z_s,   Z_s = exp l_s + Σ_{e in s} exp l_e   (without the terms of s where `own` is None)

    With `own` a node attends to itself without an edge to itself, and edges stay sorted.

    Args:
      logits: l_e, of any size: the largest of a segment is subtracted first. -∞ leaves a row out.
      segments, num_segments, is_sorted: as for `segment_reduce`.
      own: l_s, one row for each segment.
    Returns:
      `(weights of the rows, weights of the segments themselves, None without `own`)`. Without `own` a segment of which nothing is left has
      weights 0.

    >>> segment_softmax(jnp.array([1e4, 1e4, 5.0]), jnp.array([0, 0, 1]), 3)[0].tolist()
    [0.5, 0.5, 1.0]
    >>> segment_softmax(jnp.array([0.0]), jnp.array([0]), 2, jnp.zeros(2))[1].tolist()
    [0.5, 1.0]
    """
    top = jax.ops.segment_max(logits, segments, num_segments, is_sorted)
    top = jnp.maximum(top, own) if own is not None else top
    # The weights do not depend on what is subtracted, and so neither do their derivatives.
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
    parts = jnp.exp(logits - at_nodes(top, segments, is_sorted=is_sorted))
    total = jraph.segment_sum(parts, segments, num_segments, is_sorted)
    own_parts = None if own is None else jnp.exp(own - top)
    total = total if own_parts is None else total + own_parts
    inverse = 1 / jnp.where(total > 0, total, 1)
    weights = parts * at_nodes(inverse, segments, is_sorted=is_sorted)
    return weights, None if own_parts is None else own_parts * inverse


def graph_of_nodes(graph: jraph.GraphsTuple, num_nodes: int) -> Int[Array, "N"]:
    """Which graph of the batch each node belongs to: 0 ... G - 1, ascending.

    Args:
      num_nodes: N, rows of the nodes' arrays.

    >>> from dljax.nn import single_graph
    >>> graph = jraph.batch([single_graph(jnp.zeros((n, 1)), [], []) for n in (2, 1)])
    >>> graph_of_nodes(graph, 3).tolist()
    [0, 0, 1]
    """
    return jnp.repeat(jnp.arange(len(graph.n_node), dtype=jnp.int32), graph.n_node, total_repeat_length=num_nodes)
