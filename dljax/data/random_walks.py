"""Random walks on a graph, uniform (DeepWalk) and of second order (node2vec): sentences whose words are nodes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Data, Key, Numeric, Source
from dljax.data.neighbours import NeighbourLists, neighbour_lists
from dljax.data.sources import ShuffledCursor, shuffled


def sample_walks(key: Key, lists: NeighbourLists, starts: Int[Array, "W"], length: int, *, p: Numeric = 1.0, q: Numeric = 1.0) -> Int[Array, "W L"]:
    """Walks that go from node to node along the edges, each step by its weight; p and q make them stay near or go far.

      P(x | v, t) ∝ α w_vx,   α = 1/p where x = t,  1 where there is an edge from t to x,  1/q elsewhere

    for the step from v to x of a walk that came to v from t; the first step, and all where p = q = 1, have P(x | v) ∝ w_vx. A node without
    a way out keeps the walk. Steps of second order are drawn by rejection, which is exact: a step takes at most about
    max(1, 1/p, 1/q) / min(1, 1/p, 1/q) draws, and all walks wait for the last.

    Args:
      lists: of a graph in direction "out", with its weights if it has some.
      starts: the first nodes.
      length: L, nodes of a walk with its first, >= 1.
      p: the return parameter, > 0; large values keep a walk from going straight back. May be traced.
      q: the in-out parameter, > 0; above 1 a walk stays near (breadth first), below 1 it leaves (depth first). May be traced.
    Raises:
      ValueError: `length` < 1; p or q not positive or not finite.
    Source: Perozzi, Al-Rfou & Skiena (2014), DeepWalk; Grover & Leskovec (2016), node2vec, section 3.2; rejection: Yang et al. (2019), KnightKing.

    >>> from dljax.nn import single_graph
    >>> lists = neighbour_lists(single_graph(jnp.zeros((3, 1)), [0, 1], [1, 2]))
    >>> sample_walks(jax.random.key(0), lists, jnp.array([0]), 4).tolist()
    [[0, 1, 2, 2]]
    """
    check_int("sample_walks", "length", length, minimum=1)
    _check_parameters("sample_walks", p, q)
    starts = starts.astype(jnp.int32)
    if len(lists.neighbour) == 0:
        return jnp.tile(starts[:, None], (1, length))
    is_first_order = not any(isinstance(value, jax.core.Tracer) for value in (p, q)) and p == 1 and q == 1
    following = _first_order(lists) if is_first_order else _second_order(lists, p, q)

    def move(walkers: tuple[Array, Array], key: Key) -> tuple[tuple[Array, Array], Array]:
        previous, current = walkers
        node = following(key, previous, current)
        return (current, node), node

    # -1: a walk that came from nowhere.
    _, rest = lax.scan(move, (jnp.full_like(starts, -1), starts), jax.random.split(key, length - 1))
    return jnp.concatenate([starts[:, None], rest.T], 1)


def second_order_probabilities(
    adjacency: Float[Array, "N N"], previous: Int[Any, ""], current: Int[Any, ""], *, p: Numeric = 1.0, q: Numeric = 1.0
) -> Float[Array, "N"]:
    """The probabilities of node2vec's next node, exactly, for small graphs: what `sample_walks` draws from.

    Args:
      adjacency: weights w >= 0, from row to column.
      previous, current: t and v, nodes; previous may be -1, for a walk that begins.
      p, q: as for `sample_walks`.
    Raises:
      ValueError: p or q not positive or not finite.

    >>> triangle_with_tail = jnp.array([[0.0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 0]])
    >>> second_order_probabilities(triangle_with_tail, 0, 2, p=0.5, q=1.0).tolist()  # 2 : 1 : 1
    [0.5, 0.25, 0.0, 0.25]
    """
    _check_parameters("second_order_probabilities", p, q)
    nodes = jnp.arange(len(adjacency))
    bias = jnp.where(nodes == previous, 1 / p, jnp.where(adjacency[previous] > 0, 1.0, 1 / q))
    weights = adjacency[current] * jnp.where(previous < 0, 1.0, bias)
    total = weights.sum()
    return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), (nodes == current).astype(weights.dtype))


class WalkCursor(NamedTuple):
    """Where `random_walks` stands: which starts come next, the key of the steps, and how many batches it gave."""

    starts: ShuffledCursor
    key: Key
    step: Int[Array, ""]


def random_walks(graph: jraph.GraphsTuple, *, batch_size: int, length: int, p: Numeric = 1.0, q: Numeric = 1.0) -> Source:
    """Fresh random walks at each step: every epoch begins one walk at each node, in another order, as DeepWalk does.

    Args:
      graph: single and concrete; `edges` are None or weights >= 0 [E].
      batch_size: W, walks of a batch, from 1 to the number of nodes.
      length, p, q: as for `sample_walks`.
    Returns:
      A source of `{"walks": int32 [W, L]}`.
    Raises:
      ValueError: options out of range, edges that are no weights.
    Source: Perozzi, Al-Rfou & Skiena (2014), algorithm 1.

    >>> from dljax.nn import single_graph
    >>> source = random_walks(single_graph(jnp.zeros((2, 1)), [0, 1], [1, 0]), batch_size=2, length=3)
    >>> sorted(source.next(source.data, source.init(jax.random.key(0)))[1]["walks"].tolist())
    [[0, 1, 0], [1, 0, 1]]
    """
    check_int("random_walks", "length", length, minimum=1)
    _check_parameters("random_walks", p, q)
    lists = neighbour_lists(graph, weights=graph.edges)
    order = shuffled({"start": jnp.arange(lists.num_nodes, dtype=jnp.int32)}, batch_size)

    def init(key: Key) -> WalkCursor:
        order_key, walk_key = jax.random.split(key)
        return WalkCursor(order.init(order_key), walk_key, jnp.int32(0))

    def next(data: Data, cursor: WalkCursor) -> tuple[WalkCursor, Batch]:
        starts, drawn = order.next(data["starts"], cursor.starts)
        walks = sample_walks(jax.random.fold_in(cursor.key, cursor.step), data["lists"], drawn["start"], length, p=p, q=q)
        return WalkCursor(starts, cursor.key, cursor.step + 1), {"walks": walks}

    return Source(init, next, {"starts": order.data, "lists": lists})


def _check_parameters(who: str, p: Numeric, q: Numeric) -> None:
    for name, value in {"p": p, "q": q}.items():
        check_range(who, name, value, 0, open_low=True, open_high=True)


def _first_order(lists: NeighbourLists) -> Callable[[Key, Array, Array], Array]:
    def following(key: Key, previous: Int[Array, "W"], current: Int[Array, "W"]) -> Int[Array, "W"]:
        low, high = lists.start[current], lists.start[current + 1]
        if lists.cumulative is None:
            place = low + jax.random.randint(key, current.shape, 0, jnp.maximum(high - low, 1), jnp.int32)
        else:
            drawn = jax.random.uniform(key, current.shape, lists.cumulative.dtype)
            place = _searched(lists.cumulative, low, high, drawn, jnp.less_equal)
        return jnp.where(high > low, jnp.take(lists.neighbour, place, mode="clip"), current)

    return following


def _second_order(lists: NeighbourLists, p: Numeric, q: Numeric) -> Callable[[Key, Array, Array], Array]:
    propose = _first_order(lists)
    back, away = (1 / jnp.asarray(value, float) for value in (p, q))
    largest = jnp.maximum(1, jnp.maximum(back, away))

    def following(key: Key, previous: Int[Array, "W"], current: Int[Array, "W"]) -> Int[Array, "W"]:
        low, high = (lists.start[jnp.maximum(previous, 0) + shift] for shift in (0, 1))
        can_leave = lists.start[current + 1] > lists.start[current]

        def is_open(loop: tuple[Array, Array, Bool[Array, "W"]]) -> Bool[Array, ""]:
            return loop[2].any()

        def draw(loop: tuple[Array, Array, Bool[Array, "W"]]) -> tuple[Array, Array, Array]:
            count, node, waits = loop
            propose_key, accept_key = jax.random.split(jax.random.fold_in(key, count))
            proposed = propose(propose_key, previous, current)
            place = _searched(lists.neighbour, low, high, proposed, jnp.less)
            is_near = (place < high) & (jnp.take(lists.neighbour, place, mode="clip") == proposed)
            bias = jnp.where(proposed == previous, back, jnp.where(is_near, 1, away))
            is_accepted = (previous < 0) | (jax.random.uniform(accept_key, current.shape, bias.dtype) * largest < bias)
            return count + 1, jnp.where(waits, proposed, node), waits & ~is_accepted

        return lax.while_loop(is_open, draw, (jnp.int32(0), current, can_leave))[1]

    return following


def _searched(values: Array, low: Array, high: Array, target: Array, is_before: Callable[[Array, Array], Array]) -> Int[Array, "W"]:
    """The first place in [low, high) whose ascending value is not before the target; high where all are."""

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        is_right = (low < high) & is_before(jnp.take(values, middle, mode="clip"), target)
        return jnp.where(is_right, middle + 1, low), jnp.where(is_right, high, jnp.where(low < high, middle, high))

    return lax.fori_loop(0, len(values).bit_length(), halve, (low, high))[0]
