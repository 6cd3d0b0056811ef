"""Neighbourhoods: the neighbours of each node in one list, and mini-batches of nodes with a sample of what surrounds them (GraphSAGE)."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from dljax.core.checks import check_choice, check_int
from dljax.core.contract import Batch, Data, Key, Source
from dljax.data.sources import ShuffledCursor, shuffled


class NeighbourLists(NamedTuple):
    """A graph by rows (compressed sparse rows): the neighbours of node v are `neighbour[start[v] : start[v + 1]]`, ascending.

    Attributes:
      start: [N + 1], ascending from 0 to E.
      neighbour: the nodes at the other end.
      edge: which edge of the graph each is.
      cumulative: running sums of a node's weights over their total, in (0, 1], for drawing by weight; None where all weigh the same.
    """

    start: Int[Array, "N+1"]
    neighbour: Int[Array, "E"]
    edge: Int[Array, "E"]
    cumulative: Float[Array, "E"] | None = None

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.start.shape[0] - 1

    @property
    def degrees(self) -> Int[Array, "N"]:
        """How many neighbours each node has; repeated edges count."""
        return jnp.diff(self.start)


def neighbour_lists(graph: jraph.GraphsTuple, *, direction: str = "out", weights: Any = None) -> NeighbourLists:
    """Sort the edges of a graph by node, once and on the host.

    Args:
      graph: concrete, checked by `dljax.nn.single_graph` or one of its siblings.
      direction: "out" lists the receivers of a node's edges, where a walk goes from it; "in" their senders, whose messages it reads.
      weights: None, or numbers >= 0 [E], how likely each neighbour is drawn; edges of weight 0 are left out.
    Raises:
      ValueError: another direction; weights that are negative, not finite or not one for each edge; an end of an edge that is no node.
      TypeError: a graph that is traced: edges are sorted by their values.

    >>> from dljax.nn import single_graph
    >>> lists = neighbour_lists(single_graph(jnp.zeros((3, 1)), [0, 0, 1], [2, 1, 0]))
    >>> lists.start.tolist(), lists.neighbour.tolist()
    ([0, 2, 3, 3], [1, 2, 0])
    """
    check_choice("neighbour_lists", "direction", direction, ("out", "in"))
    if isinstance(graph.senders, jax.core.Tracer):
        raise TypeError("neighbour_lists: the graph must be concrete; make it outside of jit, or inside `with jax.ensure_compile_time_eval():`")
    num_nodes = len(jax.tree.leaves(graph.nodes)[0])
    senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)
    for name, ends in {"senders": senders, "receivers": receivers}.items():
        if ends.size and not 0 <= ends.min() <= ends.max() < num_nodes:
            raise ValueError(f"neighbour_lists: {name} must be nodes in [0, {num_nodes - 1}], got {ends.min()} to {ends.max()}")
    here, there = (senders, receivers) if direction == "out" else (receivers, senders)
    order = np.lexsort((there, here))
    if weights is not None:
        weights = np.asarray(weights, np.float64)
        if weights.shape != here.shape or not np.all((weights >= 0) & np.isfinite(weights)):
            raise ValueError(f"neighbour_lists: weights must be None or one finite number >= 0 for each of the {len(here)} edges")
        order = order[weights[order] > 0]
    here = here[order]
    start = np.searchsorted(here, np.arange(num_nodes + 1))
    lists = NeighbourLists(*(jnp.asarray(values, jnp.int32) for values in (start, there[order], order)))
    if weights is None:
        return lists
    total = np.bincount(here, weights[order], num_nodes)
    # Row by row, or the rounding of all rows before would enter.
    rows = [np.cumsum(weights[order][low:high]) / total[node] for node, (low, high) in enumerate(itertools.pairwise(start))]
    for row in rows:
        row[-1:] = 1
    return lists._replace(cumulative=jnp.asarray(np.concatenate([np.zeros(0), *rows]), float))


class Neighbourhood(NamedTuple):
    """Nodes with a sample of their neighbours, of the neighbours' neighbours and so on: M places, of which the first B are the seeds.

    A node that is met twice has two places, so that the shapes are fixed and every place is the root of a tree.

    Attributes:
      node: the node at each place; 0 at places that are padding, which come last, one at least.
      edge: which edge of the graph each edge is; 0 for padding, which comes last.
      senders, receivers: places. The receivers ascend; padding joins the first place that is padding with itself, as in jraph.
      num_nodes, num_edges: [], how many are real.
    """

    node: Int[Array, "M"]
    edge: Int[Array, "E"]
    senders: Int[Array, "E"]
    receivers: Int[Array, "E"]
    num_nodes: Int[Array, ""]
    num_edges: Int[Array, ""]


def sample_neighbourhood(key: Key, lists: NeighbourLists, seeds: Int[Array, "B"], fanouts: Sequence[int]) -> Neighbourhood:
    """Draw neighbours of the seeds, neighbours of those, and so on, without replacement: fewer where a node has fewer.

    A mean over the drawn neighbours has the mean over all neighbours as its expectation, and is equal to it where a fanout is at least the degree.

    Args:
      lists: of a graph in direction "in", for networks whose nodes read their senders.
      seeds: B nodes.
      fanouts: how many neighbours at each of K hops, each >= 1, the seeds' first; a network of K layers wants K.
    Returns:
      M = B (1 + f₁ + f₁ f₂ + ...) + 1 places and M - B - 1 edges.
    Raises:
      ValueError: no fanouts, or one below 1.
    Source: Hamilton, Ying & Leskovec (2017), Inductive representation learning on large graphs, algorithm 2; theirs draws with replacement.
      Subsets by R. Floyd's algorithm: Bentley & Floyd (1987), Communications of the ACM 30.

    >>> from dljax.nn import single_graph
    >>> lists = neighbour_lists(single_graph(jnp.zeros((3, 1)), [1, 2, 0], [0, 0, 1]), direction="in")
    >>> drawn = sample_neighbourhood(jax.random.key(0), lists, jnp.array([0]), [2])
    >>> drawn.node.tolist(), drawn.senders.tolist(), drawn.receivers.tolist()
    ([0, 1, 2, 0], [1, 2], [0, 0])
    """
    _check_fanouts("sample_neighbourhood", fanouts)
    num_seeds = len(seeds)
    nodes, edges, parents, is_real = [seeds.astype(jnp.int32)], [], [], [jnp.ones(num_seeds, bool)]
    offset = 0
    for hop, fanout in enumerate(fanouts):
        places = offset + jnp.arange(len(nodes[-1]), dtype=jnp.int32)
        entry, is_drawn = _subsets(jax.random.fold_in(key, hop), lists, nodes[-1], is_real[-1], fanout)
        offset += len(nodes[-1])
        nodes.append(jnp.where(is_drawn, jnp.take(lists.neighbour, entry, mode="clip"), 0) if len(lists.neighbour) else jnp.zeros_like(entry))
        edges.append(jnp.where(is_drawn, jnp.take(lists.edge, entry, mode="clip"), 0) if len(lists.edge) else jnp.zeros_like(entry))
        parents.append(jnp.repeat(places, fanout))
        is_real.append(is_drawn)
    real = jnp.concatenate([*is_real, jnp.zeros(1, bool)])
    is_edge = real[num_seeds:-1]
    num_nodes, num_edges = real.sum(dtype=jnp.int32), is_edge.sum(dtype=jnp.int32)
    # What is real moves to the front and keeps its order, so the receivers stay sorted.
    place, edge_place = _front(real, num_nodes), _front(is_edge, num_edges)
    senders = jnp.where(is_edge, place[num_seeds:-1], num_nodes)
    receivers = jnp.where(is_edge, place[jnp.concatenate(parents)], num_nodes)
    node = jnp.zeros(len(real), jnp.int32).at[place].set(jnp.concatenate([*nodes, jnp.zeros(1, jnp.int32)]), unique_indices=True)
    entries = jnp.concatenate(edges), senders, receivers
    edge, senders, receivers = (jnp.zeros_like(values).at[edge_place].set(values, unique_indices=True) for values in entries)
    return Neighbourhood(node, edge, senders, receivers, num_nodes, num_edges)


class NeighbourhoodCursor(NamedTuple):
    """Where `neighbourhoods` stands: which seeds come next, the key of the draws, and how many batches it gave."""

    seeds: ShuffledCursor
    key: Key
    step: Int[Array, ""]


def neighbourhoods(graph: jraph.GraphsTuple, y: Any, *, fanouts: Sequence[int], batch_size: int, seeds: Any = None) -> Source:
    """Mini-batches for networks on a graph too large for full batches: shuffled seed nodes, each with a sample of its neighbourhood.

    A batch is what `dljax.supervised.supervised` takes: the targets of all places with the mask of the seeds, so that the network's outputs
    for the places [M] are compared at the seeds alone. What a seed reads from K hops is right for K layers whose sums over neighbours are means;
    a layer that asks for degrees of the whole graph, as a graph convolution does, must be given them as weights of the edges.

    Args:
      graph: single and concrete; nodes and edges are pytrees of arrays with one row each. Nodes read their senders.
      y: targets [N, ...], a pytree of arrays.
      fanouts: how many neighbours at each hop, each >= 1; not less than the largest degree makes the batch exact.
      batch_size: B, seeds of a batch, from 1 to their number.
      seeds: which nodes to train on, distinct whole numbers [S] or a mask [N] of booleans; None takes all.
    Returns:
      A source of `{"x": graph, "y": [M, ...], "mask": [M], "node": [M]}`: a jraph graph of two, the second the padding, and the number of each node.
      Each epoch takes every seed once, in another order.
    Raises:
      ValueError: fanouts, batch size or seeds out of range; `y` with another number of rows.

    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(4), [0, 1, 2, 3], [1, 2, 3, 0])
    >>> source = neighbourhoods(graph, jnp.arange(4), fanouts=[2, 2], batch_size=2)
    >>> _, batch = source.next(source.data, source.init(jax.random.key(0)))
    >>> batch["x"].nodes.shape, batch["x"].n_node.tolist(), batch["mask"].sum().tolist()
    ((15, 4), [6, 9], 2.0)
    """
    _check_fanouts("neighbourhoods", fanouts)
    lists = neighbour_lists(graph, direction="in")
    num_nodes = lists.num_nodes
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(y)]
    if any(shape[:1] != (num_nodes,) for shape in shapes):
        raise ValueError(f"neighbourhoods: y must have one row for each of the {num_nodes} nodes, got shapes {shapes}")
    order = shuffled({"seed": _as_seeds(seeds, num_nodes)}, batch_size)

    def init(key: Key) -> NeighbourhoodCursor:
        seeds_key, draw_key = jax.random.split(key)
        return NeighbourhoodCursor(order.init(seeds_key), draw_key, jnp.int32(0))

    def next(data: Data, cursor: NeighbourhoodCursor) -> tuple[NeighbourhoodCursor, Batch]:
        seeds, drawn = order.next(data["seeds"], cursor.seeds)
        found = sample_neighbourhood(jax.random.fold_in(cursor.key, cursor.step), data["lists"], drawn["seed"], fanouts)
        is_node = jnp.arange(len(found.node)) < found.num_nodes
        graph = jraph.GraphsTuple(
            nodes=_rows(data["nodes"], found.node, is_node),
            edges=_rows(data["edges"], found.edge, jnp.arange(len(found.edge)) < found.num_edges),
            senders=found.senders,
            receivers=found.receivers,
            globals=None,
            n_node=jnp.stack([found.num_nodes, len(found.node) - found.num_nodes]).astype(jnp.int32),
            n_edge=jnp.stack([found.num_edges, len(found.edge) - found.num_edges]).astype(jnp.int32),
        )
        mask = (jnp.arange(len(found.node)) < batch_size).astype(jnp.float32)
        batch = {"x": graph, "y": _rows(data["y"], found.node, is_node), "mask": mask, "node": found.node}
        return NeighbourhoodCursor(seeds, cursor.key, cursor.step + 1), batch

    return Source(init, next, {"seeds": order.data, "lists": lists, "nodes": graph.nodes, "edges": graph.edges, "y": jax.tree.map(jnp.asarray, y)})


def _check_fanouts(who: str, fanouts: Sequence[int]) -> None:
    if len(fanouts) == 0:
        raise ValueError(f"{who}: fanouts must be at least one number, got none")
    for fanout in fanouts:
        check_int(who, "fanouts", fanout, minimum=1)


def _as_seeds(seeds: Any, num_nodes: int) -> Int[np.ndarray, "S"]:
    if seeds is None:
        return np.arange(num_nodes, dtype=np.int32)
    seeds = np.asarray(seeds)
    if seeds.dtype == bool and seeds.shape == (num_nodes,):
        seeds = np.flatnonzero(seeds)
    is_list = seeds.ndim == 1 and seeds.size > 0 and np.issubdtype(seeds.dtype, np.integer)
    if not is_list or not 0 <= seeds.min() <= seeds.max() < num_nodes or len(np.unique(seeds)) < len(seeds):
        raise ValueError(f"neighbourhoods: seeds must be distinct nodes in [0, {num_nodes - 1}] or a mask [{num_nodes}], one at least")
    return seeds.astype(np.int32)


def _subsets(
    key: Key, lists: NeighbourLists, nodes: Int[Array, "B"], is_real: Bool[Array, "B"], fanout: int
) -> tuple[Int[Array, "B*fanout"], Bool[Array, "B*fanout"]]:
    """Places in the lists of min(fanout, degree) neighbours of each node, each subset equally likely; and which places are drawn."""
    low = lists.start[nodes]
    degree = jnp.where(is_real, lists.start[nodes + 1] - low, 0)
    last = jnp.maximum(degree - fanout, 0)[:, None] + jnp.arange(fanout, dtype=jnp.int32)[None]
    drawn = jax.random.randint(key, last.shape, 0, last + 1, jnp.int32)

    def choose(index: Int[Array, ""], chosen: Int[Array, "B fanout"]) -> Int[Array, "B fanout"]:
        is_taken = (chosen == drawn[:, index, None]).any(1)
        return chosen.at[:, index].set(jnp.where(is_taken, last[:, index], drawn[:, index]))

    chosen = lax.fori_loop(0, fanout, choose, jnp.full((len(nodes), fanout), -1, jnp.int32))
    is_drawn = jnp.arange(fanout)[None] < degree[:, None]
    # In the order of the lists, so that a sum over all neighbours has the order of the whole graph's.
    chosen = jnp.sort(jnp.where(is_drawn, chosen, jnp.iinfo(jnp.int32).max), axis=1)
    return jnp.where(is_drawn, low[:, None] + chosen, 0).reshape(-1), is_drawn.reshape(-1)


def _front(is_first: Bool[Array, "M"], num_first: Int[Array, ""]) -> Int[Array, "M"]:
    """Where each goes when those that are first go to the front and all keep their order."""
    before = jnp.cumsum(is_first, dtype=jnp.int32)
    return jnp.where(is_first, before - 1, num_first + jnp.arange(len(is_first), dtype=jnp.int32) - before)


def _rows(tree: Any, index: Int[Array, "M"], is_real: Bool[Array, "M"]) -> Any:
    def take(leaf: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        if leaf.shape[0] == 0:
            return jnp.zeros((len(index), *leaf.shape[1:]), leaf.dtype)
        return jnp.where(is_real.reshape(-1, *(1,) * (leaf.ndim - 1)), jnp.take(leaf, index, axis=0, mode="clip"), 0).astype(leaf.dtype)

    return jax.tree.map(take, tree)
