"""The matrices of a graph equal networkx's, and the spectrum is what theory says of it."""

import jax
import jax.numpy as jnp
import jraph
import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.nn.graph import single_graph
from dljax.nn.graph_conversion import graph_from_edges, graph_from_matrix, graph_from_networkx
from dljax.nn.graph_matrices import (
    adjacency_matrix,
    degrees,
    laplacian,
    laplacian_spectrum,
    pagerank,
    stationary_distribution,
    transition_matrix,
)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_networkx(kind, is_weighted, seed=0, num_nodes=12, num_edges=20):
    """With self-loops, two isolated nodes, and repeated edges where the kind has them."""
    rng = np.random.default_rng(seed)
    graph = kind()
    graph.add_nodes_from(range(num_nodes))
    for here, there in rng.integers(num_nodes - 2, size=(num_edges, 2)).tolist():
        graph.add_edge(here, there, **({"weight": rng.uniform(0.5, 2)} if is_weighted else {}))
    graph.add_edge(3, 3, **({"weight": 1.5} if is_weighted else {}))
    return graph


KINDS = [networkx.Graph, networkx.DiGraph, networkx.MultiGraph, networkx.MultiDiGraph]


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_7_1_adjacency_degrees_laplacians_and_pagerank_equal_networkx(kind, is_weighted):
    theirs = random_networkx(kind, is_weighted)
    ours = graph_from_networkx(theirs)

    @jax.jit
    def everything(graph):
        return {
            "adjacency": adjacency_matrix(graph),
            "out": degrees(graph),
            "in": degrees(graph, direction="in"),
            "laplacian": laplacian(graph),
            "symmetric": laplacian(graph, "symmetric"),
            "random-walk": laplacian(graph, "random-walk"),
            "transition": transition_matrix(graph),
            "pagerank": pagerank(graph),
            "personal": pagerank(graph, damping=0.6, personalisation=jnp.arange(12.0)),
        }

    found = everything(ours)
    adjacency = networkx.to_numpy_array(theirs)
    np.testing.assert_allclose(found["adjacency"], adjacency, rtol=1e-14)
    np.testing.assert_allclose(found["out"], adjacency.sum(1), rtol=1e-14)
    np.testing.assert_allclose(found["in"], adjacency.sum(0), rtol=1e-14)
    np.testing.assert_allclose(found["laplacian"], networkx.laplacian_matrix(theirs).toarray(), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(found["symmetric"], networkx.normalized_laplacian_matrix(theirs).toarray(), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(found["transition"].sum(1), 1, rtol=1e-14)
    np.testing.assert_allclose(found["random-walk"], np.eye(12) - found["transition"], atol=1e-14)
    options = {"tol": 1e-15, "max_iter": 10_000}
    ranks = networkx.pagerank(theirs, **options)
    personal = networkx.pagerank(theirs, alpha=0.6, personalization=dict(enumerate(range(12))), **options)
    np.testing.assert_allclose(found["pagerank"], [ranks[node] for node in theirs], rtol=1e-12)
    np.testing.assert_allclose(found["personal"], [personal[node] for node in theirs], rtol=1e-12, atol=1e-15)


def test_a_self_loop_counts_once_where_networkx_counts_both_of_its_ends():
    club = networkx.karate_club_graph()
    theirs = dict(club.degree(weight="weight"))
    np.testing.assert_allclose(degrees(graph_from_networkx(club)), list(theirs.values()), rtol=1e-14)
    club.add_edge(0, 0, weight=5)
    difference = np.array(list(dict(club.degree(weight="weight")).values())) - np.asarray(degrees(graph_from_networkx(club)))
    assert difference.tolist() == [5] + [0] * 33


@pytest.mark.parametrize("kind", ["combinatorial", "symmetric", "random-walk"])
def test_7_1_spectrum_of_the_karate_club_equals_networkx(kind):
    club = networkx.karate_club_graph()
    graph = graph_from_networkx(club)
    values, vectors = jax.jit(laplacian_spectrum, static_argnums=1)(graph, kind)
    expected = networkx.laplacian_spectrum(club) if kind == "combinatorial" else networkx.normalized_laplacian_spectrum(club)
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-13)
    matrix = laplacian(graph, kind)
    np.testing.assert_allclose(matrix @ vectors, vectors * values[None], atol=1e-12)
    metric = jnp.diag(degrees(graph)) if kind == "random-walk" else jnp.eye(34)
    np.testing.assert_allclose(vectors.T @ metric @ vectors, np.eye(34), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.floats(0, 0.4))
def test_7_1_spectrum_of_the_normalised_laplacian_is_in_0_to_2_with_a_0_for_each_component(seed, density):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((9, 9)) < density) * rng.uniform(0.1, 3, (9, 9))
    graph = networkx.from_numpy_array(upper + np.triu(upper, 1).T)
    spectrum = SPECTRUM(adjacency := networkx.to_numpy_array(graph))
    num_components = networkx.number_connected_components(graph)
    for name, values in spectrum.items():
        assert (np.abs(values) < 1e-10).sum() == num_components, name
        assert values[0] > -1e-12
    assert spectrum["symmetric"][-1] <= 2 + 1e-12
    # 2 is reached by bipartite components alone, those without a node of degree 0.
    parts = [graph.subgraph(part) for part in networkx.connected_components(graph) if adjacency[list(part)].sum()]
    num_bipartite = sum(networkx.is_bipartite(part) for part in parts)
    assert (np.abs(spectrum["symmetric"] - 2) < 1e-10).sum() == num_bipartite


@jax.jit
def SPECTRUM(adjacency):  # noqa: N802 (one program for all examples)
    num = len(adjacency)
    rows, columns = jnp.divmod(jnp.arange(num * num), num)
    graph = jraph.GraphsTuple(jnp.ones((num, 1)), adjacency.reshape(-1), columns, rows, None, jnp.array([num]), jnp.array([num * num]))
    return {kind: laplacian_spectrum(graph, kind).values for kind in ("combinatorial", "symmetric")}


def test_padding_changes_no_matrix_and_no_rank_of_the_real_nodes():
    theirs = random_networkx(networkx.Graph, True)
    graph = graph_from_networkx(theirs)
    padded = jraph.pad_with_graphs(graph, n_node=17, n_edge=60)
    mask = jraph.get_node_padding_mask(padded)

    @jax.jit
    def matrices(graph):
        return adjacency_matrix(graph), laplacian(graph), laplacian(graph, "symmetric"), transition_matrix(graph)

    for whole, alone in zip(matrices(padded), matrices(graph), strict=True):
        np.testing.assert_allclose(whole[:12, :12], alone, rtol=1e-14)
        assert not np.any(whole[:12, 12:])
        assert not np.any(whole[12:, :12])
    spectrum = jax.jit(lambda graph, mask: laplacian_spectrum(graph, mask=mask))
    (values, vectors), alone = spectrum(padded, mask), spectrum(graph, jnp.ones(12))
    np.testing.assert_allclose(values[:12], alone.values, atol=1e-13)
    assert np.isinf(values[12:]).all()
    assert not np.any(vectors[12:])
    np.testing.assert_allclose(np.abs(vectors[:12, 5:12]), np.abs(alone.vectors[:, 5:]), atol=1e-10)
    rank = jax.jit(lambda graph, mask: pagerank(graph, personalisation=mask))
    np.testing.assert_allclose(rank(padded, mask)[:12], rank(graph, jnp.ones(12)), rtol=1e-12)


def test_7_1_walk_on_a_connected_undirected_graph_is_at_a_node_by_its_degree():
    graph = graph_from_networkx(networkx.karate_club_graph())
    degree = degrees(graph)
    np.testing.assert_allclose(jax.jit(stationary_distribution)(transition_matrix(graph)), degree / degree.sum(), rtol=1e-12)


def test_7_1_stationary_distribution_of_a_directed_chain_is_its_left_eigenvector():
    theirs = networkx.gn_graph(10, seed=1)
    theirs.add_edges_from([(0, 9), (3, 7), (0, 5)])
    transition = transition_matrix(graph_from_networkx(theirs))
    values, vectors = np.linalg.eig(np.asarray(transition).T)
    nearest = np.argmin(np.abs(values - 1))
    expected = np.real(vectors[:, nearest] / vectors[:, nearest].sum())
    np.testing.assert_allclose(stationary_distribution(transition), expected, atol=1e-12)


def test_stationary_distribution_of_a_slow_chain_of_a_periodic_one_and_of_two_parts():
    slow = jnp.array([[1 - 1e-7, 1e-7], [3e-7, 1 - 3e-7]])
    np.testing.assert_allclose(stationary_distribution(slow), [0.75, 0.25], rtol=1e-6)
    ring = jnp.roll(jnp.eye(3), 1, 1)
    np.testing.assert_allclose(stationary_distribution(ring, jnp.array([1.0, 0, 0])), [1 / 3] * 3, rtol=1e-12)
    # From node 0 the walk ends in node 1 or in 2 and 3, half of the time each.
    parts = jnp.array([[0.0, 0.5, 0.5, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    np.testing.assert_allclose(stationary_distribution(parts, jnp.array([1.0, 0, 0, 0])), [0, 0.5, 0.25, 0.25], atol=1e-12)


def test_matrices_have_gradients_where_nodes_are_isolated():
    graph = graph_from_edges([[0, 1], [1, 2], [2, 0]], 4, weights=[1.0, 2.0, 4.0])

    def total(weights):
        weighted = graph._replace(edges=weights)
        return (laplacian(weighted, "symmetric") ** 2).sum() + (transition_matrix(weighted) ** 2).sum()

    total = jax.jit(total)
    gradient = jax.grad(total)(graph.edges)
    assert np.isfinite(gradient).all()
    step = 1e-6 * jnp.eye(6)[1]
    np.testing.assert_allclose(gradient[1], (total(graph.edges + step) - total(graph.edges - step)) / 2e-6, rtol=1e-6)


def test_matrices_refuse_graphs_and_options_that_make_no_sense():
    graph = graph_from_edges([[0, 1]], weights=[-1.0])
    with pytest.raises(ValueError, match=r"transition_matrix: weights must be in \[0, inf\)"):
        transition_matrix(graph)
    with pytest.raises(ValueError, match=r"laplacian: weights must be in \[0, inf\)"):
        laplacian(graph, "symmetric")
    assert laplacian(graph).tolist() == [[-1, 1], [1, -1]]
    with pytest.raises(ValueError, match="laplacian: kind must be one of 'combinatorial', 'symmetric', 'random-walk', got 'normalised'"):
        laplacian(graph, "normalised")
    with pytest.raises(ValueError, match="degrees: direction must be one of"):
        degrees(graph, direction="both")
    with pytest.raises(ValueError, match="adjacency_matrix: edges must be None or one weight for each of the 2 edges"):
        adjacency_matrix(graph._replace(edges=jnp.ones((2, 3))))
    with pytest.raises(ValueError, match="adjacency_matrix: the graph must have at least one node"):
        adjacency_matrix(graph._replace(nodes=jnp.ones((0, 1))))
    with pytest.raises(ValueError, match="laplacian_spectrum: the graph must be undirected"):
        laplacian_spectrum(graph_from_matrix(np.triu(np.ones((3, 3)), 1)))
    with pytest.raises(ValueError, match=r"pagerank: damping must be in \[0, 1\), got 1"):
        pagerank(graph, damping=1.0)
    ring = single_graph(jnp.ones((2, 1)), [0, 1], [1, 0])
    with pytest.raises(ValueError, match="pagerank: personalisation must have one weight for each of the 2 nodes"):
        pagerank(ring, personalisation=jnp.ones(3))
    with pytest.raises(ValueError, match="the sum of personalisation must be in"):
        pagerank(ring, personalisation=jnp.zeros(2))
    with pytest.raises(ValueError, match="stationary_distribution: transition must be >= 0 and sum to 1 in each row"):
        stationary_distribution(jnp.ones((2, 2)))
