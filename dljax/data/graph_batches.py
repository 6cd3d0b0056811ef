"""Batches of graphs for graph-level learning: many small graphs of different sizes as one graph of a fixed size."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Int

from dljax.core.checks import check_int
from dljax.core.contract import Batch, Data, Source
from dljax.data.sources import shuffled


def graph_batches(
    graphs: Sequence[jraph.GraphsTuple], targets: Any, batch_size: int, *, num_nodes: int | None = None, num_edges: int | None = None
) -> Source:
    """Batches of single graphs, packed one behind another and padded to one size, put together on the device.

    A batch equals `jraph.pad_with_graphs(jraph.batch(its graphs), ...)`: B graphs, and one of padding behind them. All graphs are kept as one list
    of nodes and one of edges, of which a batch gathers its pieces; each epoch takes every graph once, in a new order.

    Args:
      graphs: single graphs (`n_node` [1]), alike in what their nodes and edges hold, receivers ascending, as `single_graph` and
        `smiles_to_graph` leave them; `globals` are not used.
      targets: [G, ...], a row for each graph.
      batch_size: B, 1 <= B <= G.
      num_nodes, num_edges: room for the nodes and edges of a batch; None makes it as large as the B largest graphs need, so that every batch fits.
        Sums of B sizes seldom come near that: with less room batches cost less, and the last graphs of the few that do not fit are left out.
    Returns:
      A source of `{"x": GraphsTuple, "y": [B + 1, ...], "mask": [B + 1]}`, where the mask is 0 for the padding and for graphs left out, which have
      no nodes.
    Raises:
      ValueError: no graphs, batched or different ones, receivers that do not ascend, targets of another number, B out of range, room that is too
        small for the largest graph.

    >>> from dljax.nn import single_graph
    >>> graphs = [single_graph(np.full((n, 1), n), [0], [n - 1]) for n in (1, 2, 3)]
    >>> source = graph_batches(graphs, np.array([1.0, 2.0, 3.0]), batch_size=2)
    >>> _, batch = jax.jit(source.next)(source.data, source.init(jax.random.key(0)))
    >>> batch["x"].nodes.shape, batch["x"].n_edge.tolist(), batch["mask"].tolist()
    ((6, 1), [1, 1, 0], [1.0, 1.0, 0.0])
    """
    targets = _checked("graph_batches", graphs, targets)
    check_int("graph_batches", "batch_size", batch_size, minimum=1, maximum=len(graphs))
    room = {}
    for name, asked, kind in (("num_nodes", num_nodes, "n_node"), ("num_edges", num_edges, "n_edge")):
        sizes = np.sort([int(getattr(graph, kind)[0]) for graph in graphs])
        room[name] = int(sizes[-batch_size:].sum()) if asked is None else check_int("graph_batches", name, asked, minimum=int(sizes[-1]))
    order = shuffled({"row": np.arange(len(graphs), dtype=np.int32)}, batch_size)

    def next(data: Data, cursor: Any) -> tuple[Any, Batch]:
        cursor, rows = order.next({"row": data["row"]}, cursor)
        chosen = rows["row"]
        batch, is_in = _packed(data["graphs"], chosen, **room)
        y = jnp.concatenate([data["y"][chosen], jnp.zeros_like(data["y"][:1])])
        return cursor, {"x": batch, "y": y, "mask": jnp.append(is_in, False).astype(jnp.float32)}

    return Source(order.init, next, {**order.data, "graphs": jax.tree.map(jnp.asarray, _listed(graphs)), "y": jnp.asarray(targets)})


def graph_batch(graphs: Sequence[jraph.GraphsTuple], targets: Any) -> Batch:
    """All graphs as one padded batch, such as a learner is evaluated on.

    Args:
      graphs, targets: as for `graph_batches`.
    Returns:
      `{"x": GraphsTuple, "y": [G + 1, ...], "mask": [G + 1]}`, the last graph being padding.
    Raises:
      ValueError: as `graph_batches`.

    >>> from dljax.nn import single_graph
    >>> batch = graph_batch([single_graph(np.ones((n, 1)), [], []) for n in (1, 2)], np.array([1.0, 2.0]))
    >>> batch["x"].n_node.tolist(), batch["mask"].tolist()
    ([1, 2, 1], [1.0, 1.0, 0.0])
    """
    targets = _checked("graph_batch", graphs, targets)
    together = jraph.batch_np([jax.tree.map(np.asarray, graph._replace(globals=None)) for graph in graphs])
    padded = jraph.pad_with_graphs(together, int(together.n_node.sum()) + 1, len(together.senders), len(graphs) + 1)
    mask = np.append(np.ones(len(graphs), np.float32), np.float32(0))
    y = np.concatenate([targets, np.zeros_like(targets[:1])])
    return jax.tree.map(jnp.asarray, {"x": padded, "y": y, "mask": mask})


def _listed(graphs: Sequence[jraph.GraphsTuple]) -> jraph.GraphsTuple:
    """All graphs behind one another; senders and receivers count from 0 in each graph."""

    def joined(*leaves: Any) -> np.ndarray:
        return np.concatenate([np.asarray(leaf) for leaf in leaves])

    return jax.tree.map(joined, *(graph._replace(globals=None) for graph in graphs))


def _packed(graphs: jraph.GraphsTuple, chosen: Int[Array, "B"], num_nodes: int, num_edges: int) -> tuple[jraph.GraphsTuple, Bool[Array, "B"]]:
    sizes = [counts[chosen] for counts in (graphs.n_node, graphs.n_edge)]
    is_in = (jnp.cumsum(sizes[0]) <= num_nodes) & (jnp.cumsum(sizes[1]) <= num_edges)
    # One more node than there is room for: the padding's edges end in it.
    nodes, _, is_node, n_node, first = _places(graphs.n_node, chosen, jnp.where(is_in, sizes[0], 0), num_nodes + 1)
    edges, edge_graph, is_edge, n_edge, _ = _places(graphs.n_edge, chosen, jnp.where(is_in, sizes[1], 0), num_edges)

    def taken(values: Array, places: Array, is_real: Array) -> Array:
        rows = jnp.take(values, places, axis=0, mode="clip")
        return jnp.where(is_real.reshape(-1, *(1,) * (values.ndim - 1)), rows, 0)

    def end(ends: Array) -> Array:
        # The edges of the padding lead from its first node to itself.
        return jnp.where(is_edge, jnp.take(ends, edges, mode="clip"), 0) + first[edge_graph]

    batch = jraph.GraphsTuple(
        nodes=jax.tree.map(lambda leaf: taken(leaf, nodes, is_node), graphs.nodes),
        edges=jax.tree.map(lambda leaf: taken(leaf, edges, is_edge), graphs.edges),
        senders=end(graphs.senders),
        receivers=end(graphs.receivers),
        globals=None,
        n_node=n_node,
        n_edge=n_edge,
    )
    return batch, is_in


def _places(counts: Int[Array, "G"], chosen: Int[Array, "B"], sizes: Int[Array, "B"], room: int) -> tuple[Array, ...]:
    """Where each of the batch's rows lies in the list, its graph in the batch, whether it is real, the batch's counts, where its graphs begin."""
    starts = jnp.cumsum(counts) - counts
    ends = jnp.cumsum(sizes)
    row = jnp.arange(room, dtype=jnp.int32)
    graph = jnp.searchsorted(ends, row, side="right", method="compare_all").astype(jnp.int32)
    firsts = jnp.concatenate([jnp.zeros(1, jnp.int32), ends])
    which = jnp.minimum(graph, len(chosen) - 1)
    return starts[chosen][which] + row - firsts[which], graph, row < ends[-1], jnp.append(sizes, room - ends[-1]), firsts


def _checked(who: str, graphs: Sequence[jraph.GraphsTuple], targets: Any) -> np.ndarray:
    targets = np.asarray(targets)
    if not len(graphs):
        raise ValueError(f"{who}: graphs must be at least one, got none")
    if targets.shape[:1] != (len(graphs),):
        raise ValueError(f"{who}: targets must have one row for each of the {len(graphs)} graphs, got shape {targets.shape}")

    def kinds(tree: Any) -> Any:
        return jax.tree.structure(tree), [(jnp.shape(leaf)[1:], jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]

    like = kinds((graphs[0].nodes, graphs[0].edges))
    for place, graph in enumerate(graphs):
        if len(graph.n_node) != 1:
            raise ValueError(f"{who}: graphs must be single ones, got a batch of {len(graph.n_node)} at {place}; use jraph.unbatch")
        if kinds((graph.nodes, graph.edges)) != like:
            raise ValueError(f"{who}: graphs must be alike in what their nodes and edges hold, got another kind at {place}")
        if np.any(np.diff(graph.receivers) < 0):
            raise ValueError(f"{who}: receivers must ascend, those of the graph at {place} do not; make it by single_graph")
    return targets
