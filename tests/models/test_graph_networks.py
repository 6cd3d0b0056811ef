"""Graph networks: blind to the order of nodes, to padding, to company in a batch and to how features are stored; and what GIN can tell apart."""

from functools import partial

import jax
import jax.numpy as jnp
import jraph
import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax import models
from dljax.nn import single_graph, sparse_rows

KEY = jax.random.key(0)
NUM_NODES, NUM_EDGES, SIZE, EDGE_SIZE = 6, 10, 4, 3
# name -> (level -> network), what its edges carry
NETWORKS = {
    "GCN": (lambda level: models.GCN(3, 5, is_sorted=True), None),
    "GAT": (lambda level: models.GAT(3, 2, 2, level=level, is_sorted=True), None),
    "GATv2": (lambda level: models.GAT(3, 2, 2, level=level, is_dynamic=True, is_sorted=True), "features"),
    "GraphSAGE": (lambda level: models.GraphSAGE(3, 5, level=level, is_sorted=True), None),
    "GraphSAGE pool": (lambda level: models.GraphSAGE(3, 5, aggregation="pool", level=level, is_sorted=True), None),
    "GIN": (lambda level: models.GIN(3, 5, 2, level=level, is_sorted=True), "features"),
    "ChebNet": (lambda level: models.ChebNet(3, 5, level=level, is_sorted=True), "weights"),
    "GatedGNN": (lambda level: models.GatedGNN(3, 5, 2, num_edge_types=2, level=level, is_sorted=True), "types"),
    "MPNN": (lambda level: models.MPNN(3, 5, 2, edge_sizes=(4,), level=level, is_sorted=True), "features"),
    "GraphTransformer": (lambda level: models.GraphTransformer(3, 4, 2, 2, level=level, is_sorted=True), "features"),
}
# Every network at the levels of nodes and graphs, two at that of edges.
LEVELS = [(name, level) for name in NETWORKS for level in ("node", "graph") if (name, level) not in (("GCN", "graph"), ("GraphSAGE pool", "graph"))]
LEVELS += [("GAT", "edge"), ("MPNN", "edge")]
# Programs that run a few times: most of their time would go into making them fast.
QUICK = {"compiler_options": {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}}


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_graph(rng, num_nodes=NUM_NODES, num_edges=NUM_EDGES):
    """A directed graph; some nodes have no edges, some pairs several."""
    edges = {
        "features": rng.normal(size=(num_edges, EDGE_SIZE)), "weights": rng.uniform(0.1, 2, num_edges), "types": rng.integers(0, 2, num_edges),
    }  # fmt: skip
    return single_graph(rng.normal(size=(num_nodes, SIZE)), *rng.integers(0, num_nodes, (2, num_edges)), edges=edges)


def chosen_edges(graph, kind):
    return graph._replace(edges=None if kind is None else graph.edges[kind])


def random_like(shapes, rng):
    def draw(path, leaf):
        values = rng.normal(size=leaf.shape) / max(leaf.shape[-2] if leaf.ndim > 1 else 1, 1) ** 0.5
        return jnp.asarray(np.abs(values) + 0.5 if path[-1].key == "var" else values)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def outputs(float64):
    """graph -> what every network says of it, in one program for each shape."""
    rng = np.random.default_rng(0)
    example = random_graph(rng)

    def variables_of(name, level):
        return random_like(jax.eval_shape(NETWORKS[name][0](level).init, KEY, chosen_edges(example, NETWORKS[name][1])), rng)

    variables = {key: variables_of(*key) for key in LEVELS}

    @partial(jax.jit, **QUICK)
    def run(graph):
        return {
            (name, level): NETWORKS[name][0](level).apply(variables[name, level], chosen_edges(graph, NETWORKS[name][1])) for name, level in LEVELS
        }

    return run


def assert_same(found, expected, places):
    for (name, level), value in expected.items():
        rows = places[level]
        np.testing.assert_allclose(found[name, level][rows], value, rtol=1e-8, atol=1e-9, err_msg=f"{name}, {level}")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_7_2_permuting_nodes_permutes_what_is_said_of_nodes_and_leaves_what_is_said_of_graphs(outputs, seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    order, edge_order = rng.permutation(NUM_NODES), rng.permutation(NUM_EDGES)
    place = np.argsort(order)
    edges = {**jax.tree.map(lambda leaf: leaf[edge_order], graph.edges), "number": edge_order}
    permuted = single_graph(graph.nodes[order], place[graph.senders][edge_order], place[graph.receivers][edge_order], edges)
    number = np.asarray(permuted.edges.pop("number"))
    places = {"node": place, "edge": np.argsort(number), "graph": slice(None)}
    assert_same(outputs(permuted), outputs(graph), places)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), company=st.integers(1, 9), num_edges=st.integers(0, 20))
def test_7_2_padding_and_company_in_a_batch_change_nothing(outputs, seed, company, num_edges):
    rng = np.random.default_rng(seed)
    graphs = [random_graph(rng, company, num_edges), random_graph(rng), random_graph(rng)]
    padded = jraph.pad_with_graphs(jraph.batch_np(graphs), n_node=24, n_edge=48, n_graph=6)
    together = outputs(jax.tree.map(jnp.asarray, padded))
    assert all(np.isfinite(value).all() for value in together.values())
    for i, graph in enumerate(graphs[1:]):
        node, edge = company + i * NUM_NODES, num_edges + i * NUM_EDGES
        assert_same(together, outputs(graph), {"node": slice(node, node + 6), "edge": slice(edge, edge + 10), "graph": slice(1 + i, 2 + i)})


def test_7_2_features_that_are_mostly_zero_may_be_stored_as_sparse_rows(float64):
    rng = np.random.default_rng(1)
    graph = random_graph(rng)
    dense = np.where(np.abs(graph.nodes) > 0.8, graph.nodes, 0)
    kinds = graph._replace(nodes=jnp.asarray(dense)), graph._replace(nodes=sparse_rows(dense))
    networks = {name: (build("node"), kind) for name, (build, kind) in NETWORKS.items() if name not in ("GCN", "GATv2", "GraphSAGE")}
    variables = {name: random_like(jax.eval_shape(network.init, KEY, chosen_edges(graph, kind)), rng) for name, (network, kind) in networks.items()}

    @partial(jax.jit, **QUICK)
    def both(kinds):
        return [{name: net.apply(variables[name], chosen_edges(graph, kind)) for name, (net, kind) in networks.items()} for graph in kinds]

    for name, value in (results := both(kinds))[0].items():
        np.testing.assert_allclose(results[1][name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_batch_norm_of_a_padded_batch_sees_the_real_nodes_only(float64):
    graph = chosen_edges(random_graph(np.random.default_rng(2)), None)
    padded = jax.tree.map(jnp.asarray, jraph.pad_with_graphs(graph, n_node=9, n_edge=12))
    network = models.GIN(3, 5, 2, dropout_rate=0.0, is_sorted=True)
    variables = random_like(jax.eval_shape(network.init, KEY, graph), np.random.default_rng(3))

    def trained(network, graph):
        return jax.jit(lambda graph: network.apply(variables, graph, True, mutable=["batch_stats"]), **QUICK)(graph)

    (alone, stats), (found, found_stats) = trained(network, graph), trained(network.clone(is_padded=True), padded)
    np.testing.assert_allclose(found[0], alone[0], rtol=1e-8)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-8), found_stats, stats)


def small_graphs():
    """All 208 graphs of up to six nodes, and all nodes alike."""
    graphs = networkx.graph_atlas_g()[1:209]
    ends = [np.array([*graph.edges, *((v, u) for u, v in graph.edges)], int).reshape(-1, 2).T for graph in graphs]
    return graphs, jraph.batch_np([single_graph(np.ones((len(graph), 1)), *pair) for graph, pair in zip(graphs, ends, strict=True)])


def says(network, batch):
    variables = random_like(jax.eval_shape(network.init, KEY, batch), np.random.default_rng(5))
    return np.asarray(jax.jit(lambda batch: network.apply(variables, batch), **QUICK)(batch))


def is_same(outputs):
    """[G, G]: whether two graphs get the same outputs."""
    return (np.abs(outputs[:, None] - outputs[None]) <= 1e-10 * np.abs(outputs).max(0)[None, None]).all(-1)


@pytest.mark.filterwarnings("ignore:The hashes produced")
def test_7_2_gin_with_random_weights_separates_what_colour_refinement_separates_and_no_more(float64):
    graphs, batch = small_graphs()
    colours = np.array([networkx.weisfeiler_lehman_graph_hash(graph, iterations=6) for graph in graphs])
    found = is_same(says(models.GIN(4, 16, 6, use_batch_norm=False, is_sorted=True), batch))
    np.testing.assert_array_equal(found, colours[:, None] == colours[None])
    # A ring of six, and two triangles: not the same, but every node has two neighbours.
    ring, triangles = networkx.cycle_graph(6), networkx.disjoint_union(networkx.cycle_graph(3), networkx.cycle_graph(3))
    place, other = (next(i for i, graph in enumerate(graphs) if networkx.is_isomorphic(graph, one)) for one in (ring, triangles))
    assert place != other
    assert found[place, other]


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_7_2_means_and_maxima_take_all_graphs_of_like_nodes_for_one(float64, aggregation):
    graphs, batch = small_graphs()
    is_connected = np.array([len(graph) > 1 and networkx.is_connected(graph) for graph in graphs])
    found = is_same(says(models.GraphSAGE(4, 16, 3, aggregation, level="graph", is_sorted=True), batch))
    assert is_connected.sum() == 142
    assert found[is_connected][:, is_connected].all()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (models.GAT(0), "GAT: num_outputs must be >= 1, got 0"),
        (models.GAT(2, num_output_heads=0), "GAT: num_output_heads must be >= 1"),
        (models.GAT(2, dropout_rate=1.0), r"GAT: dropout_rate must be in \[0, 1\)"),
        (models.GraphSAGE(2, level="nodes"), "GraphSAGE: level must be one of 'node', 'edge', 'graph', got 'nodes'"),
        (models.GIN(2, num_layers=0), "GIN: num_layers must be >= 1"),
        (models.ChebNet(2, order=0), "ChebNet: order must be >= 1"),
        (models.GatedGNN(2, width=0), "GatedGNN: width must be >= 1"),
        (models.MPNN(2), r"edges must be features \[E, D\], got nothing"),
        (models.GraphTransformer(2, width=10, num_heads=4), "num_heads must divide width, got 4 heads and width 10"),
    ],
)
def test_options_out_of_range_are_refused(network, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, KEY, single_graph(jnp.eye(3), [0, 1], [1, 0]))
