"""Random walks take each step as often as its probability says, exactly."""

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest
from scipy.stats import chi2

from dljax.data.neighbours import neighbour_lists
from dljax.data.random_walks import random_walks, sample_walks, second_order_probabilities
from dljax.nn.graph import single_graph
from dljax.nn.graph_conversion import graph_from_networkx
from dljax.nn.graph_matrices import adjacency_matrix, transition_matrix

WALKS = jax.jit(sample_walks, static_argnums=3)


def weighted_graph(is_directed=False, seed=3):
    """10 nodes: dense enough for triangles, with a self-loop and an isolated node."""
    theirs = networkx.gnm_random_graph(9, 32 if is_directed else 18, seed=seed, directed=is_directed)
    rng = np.random.default_rng(seed)
    theirs.add_edge(2, 2)
    theirs.add_node(9)
    for edge in theirs.edges.values():
        edge["weight"] = float(rng.uniform(0.3, 3))
    return theirs


def chi_square(counts, probabilities):
    """The statistic over the rows that were visited, with its critical value at 1e-4; nothing may come that cannot."""
    assert not counts[probabilities == 0].any()
    visited = counts.sum(1) >= 200
    expected = counts.sum(1, keepdims=True) * probabilities
    terms = np.where(expected > 0, (counts - expected) ** 2 / np.where(expected > 0, expected, 1), 0)[visited]
    freedom = ((probabilities > 0).sum(1) - 1)[visited].sum()
    return terms.sum(), chi2.ppf(1 - 1e-4, freedom)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_7_1_steps_of_uniform_and_weighted_walks_are_as_frequent_as_the_transition_matrix_says(is_weighted):
    graph = graph_from_networkx(weighted_graph(is_directed=True), weight="weight" if is_weighted else None)
    lists = neighbour_lists(graph, weights=graph.edges)
    walks = np.asarray(WALKS(jax.random.key(0), lists, jnp.arange(4000) % 10, 12))
    counts = np.zeros((10, 10))
    np.add.at(counts, (walks[:, :-1].ravel(), walks[:, 1:].ravel()), 1)
    statistic, critical = chi_square(counts, np.asarray(transition_matrix(graph)))
    assert statistic < critical
    assert (walks[9] == 9).all()  # isolated: it stays


@pytest.mark.parametrize(("p", "q"), [(0.25, 4.0), (4.0, 0.5), (1.0, 0.2), (1.0, 1.0)])
def test_7_1_steps_of_node2vec_are_as_frequent_as_its_formula_says(p, q):
    theirs = weighted_graph()
    graph = graph_from_networkx(theirs)
    lists = neighbour_lists(graph, weights=graph.edges)
    # Traced p and q: one program for all.
    walks = np.asarray(SECOND_ORDER(jax.random.key(1), lists, jnp.arange(6000) % 10, p, q))
    counts = np.zeros((10, 10, 10))
    np.add.at(counts, (walks[:, :-2].ravel(), walks[:, 1:-1].ravel(), walks[:, 2:].ravel()), 1)
    expected = np.stack([[by_hand(theirs, t, v, p, q) for v in range(10)] for t in range(10)])
    statistic, critical = chi_square(counts.reshape(100, 10), expected.reshape(100, 10))
    assert statistic < critical


SECOND_ORDER = jax.jit(lambda key, lists, starts, p, q: sample_walks(key, lists, starts, 12, p=p, q=q))


def by_hand(theirs, previous, current, p, q):
    """Grover & Leskovec's section 3.2.2 with networkx's distances."""
    weights = np.zeros(10)
    for node in theirs[current]:
        distance = networkx.shortest_path_length(theirs, previous, node) if networkx.has_path(theirs, previous, node) else 3
        if node == previous:
            bias = 1 / p
        elif distance == 1:
            bias = 1
        else:
            bias = 1 / q
        weights[node] = bias * theirs[current][node]["weight"]
    return weights / weights.sum() if weights.any() else np.eye(10)[current]


def test_7_1_second_order_probabilities_equal_the_formula():
    theirs = weighted_graph()
    with jax.enable_x64(True):
        adjacency = adjacency_matrix(graph_from_networkx(theirs))
        every = jax.vmap(jax.vmap(lambda t, v: second_order_probabilities(adjacency, t, v, p=0.3, q=2.5), (None, 0)), (0, None))
        found = jax.jit(every)(jnp.arange(10), jnp.arange(10))
        expected = [[by_hand(theirs, t, v, 0.3, 2.5) for v in range(10)] for t in range(10)]
        np.testing.assert_allclose(found, expected, rtol=1e-14)
        begin = second_order_probabilities(adjacency, -1, 0, p=0.3, q=2.5)
        np.testing.assert_allclose(begin, adjacency[0] / adjacency[0].sum(), rtol=1e-14)


def test_a_walk_with_p_and_q_of_one_has_the_same_law_on_both_paths():
    """Python's 1 takes the short way, a traced 1 the way by rejection."""
    graph = graph_from_networkx(networkx.star_graph(3))
    lists = neighbour_lists(graph)
    starts = jnp.zeros(3000, jnp.int32)
    for walks in (WALKS(jax.random.key(0), lists, starts, 12), SECOND_ORDER(jax.random.key(0), lists, starts, 1.0, 1.0)):
        leaves = np.asarray(walks)[:, 1::2]
        assert (np.asarray(walks)[:, ::2] == 0).all()
        counts = np.bincount(leaves.ravel(), minlength=4)[1:]
        assert ((counts - leaves.size / 3) ** 2 / (leaves.size / 3)).sum() < chi2.ppf(1 - 1e-4, 2)


def test_each_epoch_begins_one_walk_at_every_node_and_batches_are_pure_functions_of_the_cursor():
    graph = graph_from_networkx(networkx.cycle_graph(6))
    source = random_walks(graph, batch_size=2, length=5, p=0.5, q=2.0)
    following = jax.jit(source.next)
    cursor, starts = source.init(jax.random.key(0)), []
    for _ in range(3):
        (cursor, batch), again = following(source.data, cursor), following(source.data, cursor)[1]
        np.testing.assert_array_equal(batch["walks"], again["walks"])
        steps = np.abs(np.diff(batch["walks"]))
        assert np.isin(steps, [1, 5]).all()
        starts += batch["walks"][:, 0].tolist()
    assert sorted(starts) == list(range(6))


def test_walks_without_edges_stay():
    lists = neighbour_lists(single_graph(jnp.ones((2, 1)), [], []))
    assert sample_walks(jax.random.key(0), lists, jnp.array([1, 0]), 3, p=2.0).tolist() == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 0.0}, r"random_walks: p must be in \(0, inf\), got 0.0"),
        ({"q": -1.0}, r"random_walks: q must be in \(0, inf\), got -1.0"),
        ({"q": float("nan")}, "q must be in"),
        ({"length": 0}, "length must be >= 1, got 0"),
        ({"batch_size": 3}, "batch_size 3 is larger"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    graph = single_graph(jnp.ones((2, 1)), [0, 1], [1, 0])
    with pytest.raises(ValueError, match=message):
        random_walks(graph, **{"batch_size": 2, "length": 3} | options)


def test_edges_that_are_no_weights_are_refused():
    with pytest.raises(ValueError, match="weights must be None or one finite number >= 0 for each of the 1 edges"):
        random_walks(single_graph(jnp.ones((2, 1)), [0], [1], np.ones((1, 4))), batch_size=1, length=2)
