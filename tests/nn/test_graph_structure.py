"""Components, shortest paths and Weisfeiler-Lehman colours against networkx, on random graphs."""

import jax
import jax.numpy as jnp
import jraph
import networkx
import numpy as np
import pytest

from dljax.nn.graph_conversion import graph_from_edges, graph_from_networkx
from dljax.nn.graph_structure import components, shortest_paths, weisfeiler_lehman


def test_7_1_components_are_networkx_components():
    for seed in range(20):
        theirs = networkx.gnm_random_graph(20, 14, seed=seed, directed=seed % 2 == 1)
        label = COMPONENTS(graph_from_networkx(theirs)).tolist()
        parts = networkx.weakly_connected_components(theirs) if theirs.is_directed() else networkx.connected_components(theirs)
        expected = {node: min(part) for part in parts for node in part}
        assert label == [expected[node] for node in range(20)]


COMPONENTS = jax.jit(components)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_7_1_shortest_paths_equal_dijkstra(is_weighted):
    distances = jax.jit(shortest_paths)
    for seed in range(5):
        theirs = networkx.gnm_random_graph(15, 25, seed=seed, directed=True)
        rng = np.random.default_rng(seed)
        for edge in theirs.edges.values():
            edge["weight"] = rng.uniform(0, 3) if is_weighted else 1
        found = distances(graph_from_networkx(theirs), jnp.arange(15))
        expected = np.full((15, 15), np.inf)
        for source, lengths in networkx.all_pairs_dijkstra_path_length(theirs):
            expected[source, list(lengths)] = list(lengths.values())
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def classes(colours):
    return {frozenset(np.flatnonzero(colours == colour).tolist()) for colour in np.unique(colours)}


def refined(theirs):
    """The stable partition, by hand: dictionaries of multisets."""
    colour = dict.fromkeys(theirs, 0)
    for _ in theirs:
        signature = {node: (colour[node], tuple(sorted(colour[other] for other in theirs[node]))) for node in theirs}
        names = {each: rank for rank, each in enumerate(sorted(set(signature.values())))}
        colour = {node: names[signature[node]] for node in theirs}
    return np.array([colour[node] for node in sorted(theirs)])


def test_7_1_colours_are_the_classes_of_1_wl_and_do_not_depend_on_the_order_of_nodes():
    colour = jax.jit(weisfeiler_lehman)
    for seed in range(8):
        theirs = networkx.gnm_random_graph(12, 13, seed=seed)
        colours = np.asarray(colour(graph_from_networkx(theirs)))
        assert classes(colours) == classes(refined(theirs))
        order = np.random.default_rng(seed).permutation(12)
        pairs = np.argsort(order)[np.array(theirs.edges)]
        np.testing.assert_array_equal(colour(graph_from_edges(pairs, 12)), colours[order])


def test_7_1_colours_tell_apart_what_1_wl_tells_apart_and_no_more():
    def are_told_apart(one, other):
        both = jraph.batch([graph_from_networkx(one), graph_from_networkx(other)])
        colours = np.asarray(weisfeiler_lehman(both))
        return sorted(colours[: len(one)]) != sorted(colours[len(one) :])

    star, path = networkx.star_graph(3), networkx.path_graph(4)
    assert are_told_apart(star, path)
    two_triangles, hexagon = networkx.disjoint_union(networkx.cycle_graph(3), networkx.cycle_graph(3)), networkx.cycle_graph(6)
    assert not are_told_apart(two_triangles, hexagon)
    decalin, bicyclopentyl = (networkx.cycle_graph(10), networkx.disjoint_union(networkx.cycle_graph(5), networkx.cycle_graph(5)))
    decalin.add_edge(0, 5)
    bicyclopentyl.add_edge(0, 5)
    assert not are_told_apart(decalin, bicyclopentyl)


def test_first_colours_and_the_number_of_rounds_are_the_users():
    ring = graph_from_networkx(networkx.cycle_graph(6))
    assert weisfeiler_lehman(ring, jnp.array([7, -1, -1, -1, -1, -1]), rounds=0).tolist() == [1, 0, 0, 0, 0, 0]
    assert classes(weisfeiler_lehman(ring, jnp.array([7, -1, -1, -1, -1, -1]))) == {
        frozenset({0}),
        frozenset({1, 5}),
        frozenset({2, 4}),
        frozenset({3}),
    }


def test_structure_refuses_what_is_no_graph_or_no_node():
    graph = graph_from_edges([[0, 1]], weights=[-1.0])
    with pytest.raises(ValueError, match=r"shortest_paths: edges must be in \[0, inf\), got"):
        shortest_paths(graph, jnp.array([0]))
    with pytest.raises(ValueError, match=r"shortest_paths: sources must be in \[0, 1\], got"):
        shortest_paths(graph._replace(edges=None), jnp.array([2]))
    with pytest.raises(ValueError, match="weisfeiler_lehman: rounds must be >= 0, got -1"):
        weisfeiler_lehman(graph, rounds=-1)
    with pytest.raises(ValueError, match="components: the graph must have at least one node"):
        components(graph._replace(nodes=jnp.ones((0, 1))))
