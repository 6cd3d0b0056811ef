"""Graph layers: PyTorch Geometric's values and gradients with the same weights, the dense formulas of the papers, and the ends of their ranges."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from dljax import nn
from dljax.nn.message_passing import REDUCTIONS

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "graphs.npz")
KEY = jax.random.key(0)
# Programs that run once: most of their time would go into making them fast.
QUICK = {"compiler_options": {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}}
# name -> layer, what its edges carry
LAYERS = {
    "gat_True": (nn.GraphAttention(3, num_heads=2), None),
    "gat_False": (nn.GraphAttention(3, num_heads=2, is_averaged=True), None),
    "gatv2": (nn.GraphAttentionV2(3, num_heads=2), None),
    "transformer": (nn.GraphDotProductAttention(3, num_heads=2), "edges"),
    **{f"sage_{kind}": (nn.SAGEConvolution(3, kind), None) for kind in (*REDUCTIONS, "pool")},
    "gin": (nn.GINConvolution((6, 3)), None),
    "gin_edges": (nn.GINConvolution((6, 3)), "edges"),
    **{f"chebyshev_{order}": (nn.ChebyshevConvolution(3, order, max_eigenvalue=1.7), "weights") for order in (1, 2, 4)},
    "gated": (nn.GatedGraphConvolution(7, num_steps=3, use_bias=False), None),
    "edge_network": (nn.EdgeNetworkConvolution(5, num_steps=2, edge_sizes=(6,)), "edges"),
    "set2set": (nn.Set2Set(), "pool"),
    "attention_pooling": (nn.AttentionPooling(3), "pool"),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def golden_graph(kind):
    senders, receivers = GOLDEN["both"] if kind == "weights" else (GOLDEN["senders"], GOLDEN["receivers"])
    graph = nn.single_graph(GOLDEN["x"], senders, receivers, GOLDEN[kind] if kind in ("edges", "weights") else None)
    return graph._replace(n_node=jnp.array([5, 3])) if kind == "pool" else graph


@pytest.fixture(scope="module")
def values():
    """Of every layer: outputs and the gradient in the nodes' features, from one program."""

    def one(name, layer, graph):
        names = [key for key in GOLDEN.files if key.startswith(f"{name}/") and key[len(name) + 1 :] not in ("y", "dx")]
        params = unflatten_dict({tuple(key.split("/")[1:]): GOLDEN[key] for key in names})

        def outputs(x):
            out = layer.apply({"params": params}, graph._replace(nodes=x))
            return out.nodes if isinstance(out, jraph.GraphsTuple) else out

        y, pull = jax.vjp(outputs, graph.nodes)
        return y, pull(jnp.asarray(GOLDEN["cotangent"])[: y.shape[0], : y.shape[1]])[0]

    with jax.enable_x64(True):
        graphs = {name: golden_graph(kind) for name, (_, kind) in LAYERS.items()}
        return jax.jit(lambda graphs: {name: one(name, layer, graphs[name]) for name, (layer, _) in LAYERS.items()}, **QUICK)(graphs)


@pytest.mark.parametrize("name", LAYERS)
def test_7_2_layers_and_their_gradients_are_those_of_pytorch_geometric(values, name):
    y, gradient = values[name]
    np.testing.assert_allclose(y, GOLDEN[f"{name}/y"], rtol=1e-9, atol=1e-11)
    if name not in ("sage_max", "sage_pool"):  # ties of a maximum: the gradient is anybody's choice
        np.testing.assert_allclose(gradient, GOLDEN[f"{name}/dx"], rtol=1e-9, atol=1e-11)


def random_graph(seed=0, num_nodes=7, edge_size=None):
    """An undirected graph with an isolated node, and its adjacency matrix: A_rs = 1 for the edge from s to r."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((num_nodes, num_nodes)) < 0.5, 1)
    upper[:, -1] = False
    adjacency = (upper | upper.T).astype(float)
    receivers, senders = np.nonzero(adjacency)
    edges = None if edge_size is None else rng.normal(size=(len(senders), edge_size))
    return nn.single_graph(rng.normal(size=(num_nodes, 4)), senders, receivers, edges), adjacency


def with_weights(layer, graph, seed=1):
    """The layer's outputs for random weights, and the weights."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(layer.init, KEY, graph)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)
    out = jax.jit(lambda params: layer.apply({"params": params}, graph), **QUICK)(params)
    return np.asarray(out.nodes if isinstance(out, jraph.GraphsTuple) else out), jax.tree.map(np.asarray, params)


def softmax(logits, allowed):
    weights = np.where(allowed, np.exp(np.where(allowed, logits, 0)), 0)
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def test_7_2_graph_attention_is_a_softmax_over_the_rows_of_the_adjacency_matrix_and_the_diagonal():
    graph, adjacency = random_graph()
    x = np.asarray(graph.nodes)
    allowed = adjacency + np.eye(7) > 0
    y, params = with_weights(nn.GraphAttention(3, num_heads=2, is_sorted=True), graph)
    for head in range(2):
        values = x @ params["kernel"][:, 3 * head : 3 * head + 3]
        sender, receiver = params["attention"][:, head]
        weights = softmax(leaky((values @ sender)[None] + (values @ receiver)[:, None]), allowed)
        np.testing.assert_allclose(y[:, 3 * head : 3 * head + 3], weights @ values + params["bias"][3 * head : 3 * head + 3], rtol=1e-10)
    y, params = with_weights(nn.GraphAttentionV2(3, is_sorted=True), graph)
    sent, received = (x @ params[end]["kernel"] + params[end]["bias"] for end in ("sender", "receiver"))
    weights = softmax(leaky(sent[None] + received[:, None]) @ params["attention"][0, 0], allowed)
    np.testing.assert_allclose(y, weights @ sent + params["bias"], rtol=1e-10)


def test_7_2_attention_of_a_transformer_is_masked_by_the_adjacency_matrix():
    graph, adjacency = random_graph()
    x = np.asarray(graph.nodes)
    y, params = with_weights(nn.GraphDotProductAttention(3, is_sorted=True), graph)
    query, key, value = (x @ params[name]["kernel"] + params[name]["bias"] for name in ("query", "key", "value"))
    np.testing.assert_allclose(y, softmax(query @ key.T / 3**0.5, adjacency > 0) @ value, rtol=1e-10, atol=1e-12)
    assert not y[-1].any()


def test_7_2_a_chebyshev_layer_is_a_polynomial_of_the_eigenvalues():
    graph, adjacency = random_graph()
    x = np.asarray(graph.nodes)
    degrees = adjacency.sum(1)
    scale = np.where(degrees > 0, degrees, np.inf) ** -0.5
    laplacian = np.eye(7) - scale[:, None] * adjacency * scale[None]
    eigenvalues, vectors = np.linalg.eigh(laplacian)
    largest = float(eigenvalues.max())
    y, params = with_weights(nn.ChebyshevConvolution(3, 5, max_eigenvalue=largest, is_sorted=True), graph)
    # T_k(cos t) = cos k t.
    angles = np.arccos(np.clip(2 * eigenvalues / largest - 1, -1, 1))
    filtered = sum(vectors @ (np.cos(k * angles)[:, None] * (vectors.T @ x)) @ params["kernel"][k] for k in range(5))
    np.testing.assert_allclose(y, filtered + params["bias"], rtol=1e-9, atol=1e-9)


def test_7_2_sums_means_and_maxima_over_neighbours_are_those_of_the_dense_matrices():
    graph, adjacency = random_graph()
    x = np.asarray(graph.nodes)
    neighbours = {
        "sum": adjacency @ x,
        "mean": adjacency @ x / np.maximum(adjacency.sum(1, keepdims=True), 1),
        "max": np.where(adjacency.sum(1, keepdims=True) > 0, np.where(adjacency[:, :, None] > 0, x[None], -np.inf).max(1), 0),
    }
    for kind, read in neighbours.items():
        y, params = with_weights(nn.SAGEConvolution(3, kind, is_sorted=True), graph)
        own = x @ params["own"]["kernel"] + params["own"]["bias"]
        np.testing.assert_allclose(y, own + read @ params["neighbours"]["kernel"], rtol=1e-10, err_msg=kind)
    y, params = with_weights(nn.GINConvolution((5, 3), is_sorted=True), graph)
    hidden = ((1 + params["epsilon"]) * x + neighbours["sum"]) @ params["layers_0"]["kernel"] + params["bias"]
    np.testing.assert_allclose(y, np.maximum(hidden, 0) @ params["layers_1"]["kernel"] + params["layers_1"]["bias"], rtol=1e-10)


def test_7_2_gated_networks_have_a_matrix_for_each_type_of_edges():
    graph, _ = random_graph()
    types = np.random.default_rng(3).integers(0, 2, len(graph.senders))
    y, params = with_weights(nn.GatedGraphConvolution(5, num_steps=2, num_edge_types=2, is_sorted=True), graph._replace(edges=jnp.asarray(types)))
    state = np.pad(graph.nodes, ((0, 0), (0, 1)))
    gru = {name[4:]: value for name, value in params.items() if name.startswith("gru_")}
    for _ in range(2):
        read = np.zeros_like(state)
        for sender, receiver, kind in zip(graph.senders, graph.receivers, types, strict=True):
            read[receiver] += state[sender] @ params["kernel"][kind] + params["bias"][kind]
        state = np.asarray(nn.gated_update(jnp.asarray(state), jnp.asarray(read), gru))
    np.testing.assert_allclose(y, state, rtol=1e-10)
    unknown, _ = with_weights(nn.GatedGraphConvolution(5, num_edge_types=2), graph._replace(edges=jnp.full(len(types), 2)))
    alone = graph._replace(edges=jnp.zeros(0, int), senders=jnp.zeros(0, int), receivers=jnp.zeros(0, int))
    np.testing.assert_allclose(unknown, with_weights(nn.GatedGraphConvolution(5, num_edge_types=2), alone)[0], rtol=1e-10)


def test_segment_softmax_sums_to_one_at_any_size_and_leaves_out_what_is_masked():
    logits = jnp.array([1e4, 1e4 - 1, -1e4, -jnp.inf, 3.0, -jnp.inf], jnp.float32)
    segments = jnp.array([0, 0, 0, 0, 1, 2])

    def weights(logits, own=None):
        return nn.segment_softmax(logits, segments, 4, own, is_sorted=True)

    expected = np.exp([0, -1, -np.inf, -np.inf]) / (1 + np.exp(-1))
    np.testing.assert_allclose(weights(logits)[0], [*expected, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(weights(logits, jnp.array([-1e4, 3.0, 0.0, 7.0], jnp.float32))[1], [0, 0.5, 1, 1], rtol=1e-6)
    gradient = jax.grad(lambda logits: (weights(logits)[0] * jnp.arange(6.0, dtype=jnp.float32)).sum())(logits)
    assert jnp.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[:2], [-expected[0] * expected[1], expected[0] * expected[1]], rtol=1e-5)


def test_7_2_pooling_of_a_padded_batch_is_the_pooling_of_each_graph_alone():
    graphs = [random_graph(seed, size)[0] for seed, size in ((0, 7), (1, 3), (2, 5))]
    padded = jraph.pad_with_graphs(jraph.batch(graphs), n_node=20, n_edge=80, n_graph=6)
    pooled = jax.jit(lambda graph: [nn.pool_nodes(graph, graph.nodes, kind) for kind in REDUCTIONS])(padded)
    for values, reduce in zip(pooled, (np.sum, np.mean, np.max), strict=True):
        np.testing.assert_allclose(values[:3], [reduce(graph.nodes, axis=0) for graph in graphs], rtol=1e-12)
        assert not values[3:].any()  # a graph of zeros, and two without nodes
    y, params = with_weights(nn.AttentionPooling(3), padded)
    nodes = np.asarray(padded.nodes)
    logits = nodes @ params["gate"]["kernel"]
    values = nodes @ params["value"]["kernel"] + params["value"]["bias"]
    for row, rows in zip(y, np.split(np.arange(15), [7, 10]), strict=False):
        np.testing.assert_allclose(row, softmax(logits[rows].T, True)[0] @ values[rows], rtol=1e-10)


LARGE = {
    "attention": nn.GraphAttention(2), "attention v2": nn.GraphAttentionV2(2), "transformer": nn.GraphDotProductAttention(2),
    "sage": nn.SAGEConvolution(2, "max"), "gin": nn.GINConvolution((2, 2)), "chebyshev": nn.ChebyshevConvolution(2, 4),
    "gated": nn.GatedGraphConvolution(4), "edges": nn.EdgeNetworkConvolution(4, edge_sizes=(3,)), "set2set": nn.Set2Set(),
}  # fmt: skip


def edges_of(name, graph):
    return graph.edges if name in ("attention v2", "transformer", "gin", "edges") else None


@partial(jax.jit, **QUICK)
@partial(jax.grad, argnums=(0, 1), has_aux=True)
def gradients_and_sums(params, x, graph):
    sums = {}
    for name, layer in LARGE.items():
        out = layer.apply({"params": params[name]}, graph._replace(nodes=x, edges=edges_of(name, graph)))
        sums[name] = (out.nodes if isinstance(out, jraph.GraphsTuple) else out).sum()
    return sum(sums.values()), sums


@pytest.mark.parametrize("kind", ["no edges", "features of ten thousand", "zeros"])
def test_7_2_isolated_nodes_and_empty_graphs_and_large_numbers_give_no_nan(kind):
    graph, _ = random_graph(edge_size=3)
    graph = jraph.pad_with_graphs(graph, n_node=10, n_edge=40, n_graph=4)
    if kind == "no edges":
        none = np.zeros(0, np.int32)
        graph = graph._replace(senders=none, receivers=none, edges=graph.edges[:0], n_edge=np.zeros(4, np.int32))
    scale = {"no edges": 1.0, "features of ten thousand": 1e4, "zeros": 0.0}[kind]
    graph = jax.tree.map(
        lambda leaf: jnp.asarray(scale * leaf if leaf.dtype == np.float64 else leaf, leaf.dtype.name.replace("float64", "float32")), graph
    )
    rng = np.random.default_rng(0)
    shapes = {name: jax.eval_shape(layer.init, KEY, graph._replace(edges=edges_of(name, graph)))["params"] for name, layer in LARGE.items()}
    params = jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), shapes)
    gradients, sums = gradients_and_sums(params, graph.nodes, graph)
    assert all(jnp.isfinite(value) for value in sums.values()), sums
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_dropout_of_attention_keeps_the_mean():
    graph, _ = random_graph()
    layer = nn.GraphAttention(3, num_heads=2, dropout_rate=0.4)
    variables = {"params": jax.tree.map(lambda leaf: 0.1 + jnp.zeros(leaf.shape), jax.eval_shape(layer.init, KEY, graph)["params"])}

    @partial(jax.jit, **QUICK)
    def run(keys):
        each = jax.vmap(lambda key: layer.apply(variables, graph, True, rngs={"dropout": key}).nodes)(keys)
        return each.mean(0), each.std(0), layer.apply(variables, graph).nodes

    mean, deviation, expected = run(jax.random.split(jax.random.key(1), 2000))
    np.testing.assert_allclose(mean, expected, atol=5 * float(deviation.max()) / 2000**0.5)
    assert deviation.min() > 0


def test_unit_rows_have_length_one_and_zero_rows_no_gradient_of_nan():
    rows = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(nn.unit_rows(rows), [[0.6, 0.8], [0, 0]])
    assert jnp.isfinite(jax.grad(lambda rows: nn.unit_rows(rows).sum())(rows)).all()


@pytest.mark.parametrize(
    ("layer", "edges", "message"),
    [
        (nn.GraphAttention(0), None, "GraphAttention: features must be >= 1, got 0"),
        (nn.GraphAttention(2, num_heads=0), None, "GraphAttention: num_heads must be >= 1"),
        (nn.GraphAttention(2, dropout_rate=1.0), None, r"GraphAttention: dropout_rate must be in \[0, 1\)"),
        (nn.GraphAttention(2, slope=2.0), None, r"GraphAttention: slope must be in \[0, 1\]"),
        (nn.GraphAttentionV2(2), np.ones(2), r"GraphAttentionV2: edges must be None or features \[E, D\] .* 2 edges, got \(2,\)"),
        (nn.GraphDotProductAttention(2), np.ones((2, 1, 1)), r"edges must be None or features .* got \(2, 1, 1\)"),
        (nn.SAGEConvolution(2, "median"), None, "aggregation must be one of 'sum', 'mean', 'max', 'pool', got 'median'"),
        (nn.GINConvolution(()), None, "GINConvolution: sizes must have at least one layer, got none"),
        (nn.GINConvolution((3, 0)), None, "GINConvolution: sizes must be >= 1, got 0"),
        (nn.ChebyshevConvolution(2, 0), None, "ChebyshevConvolution: order must be >= 1, got 0"),
        (nn.ChebyshevConvolution(2, max_eigenvalue=0.0), None, r"max_eigenvalue must be in \(0, inf\)"),
        (nn.ChebyshevConvolution(2), np.ones((2, 1)), "edges must be None or one weight for each of the 2 edges"),
        (nn.GatedGraphConvolution(2), None, "features must be at least the 3 numbers of a node, got 2; project the nodes first"),
        (nn.GatedGraphConvolution(3, num_edge_types=2), None, r"edges must be 2 whole numbers in \[0, 1\], got nothing"),
        (nn.GatedGraphConvolution(3), np.ones(2), r"edges must be 2 whole numbers in \[0, 0\], got \(2,\)"),
        (nn.EdgeNetworkConvolution(3), None, r"edges must be features \[E, D\], got nothing; use GatedGraphConvolution"),
        (nn.GraphHead(2, "hypergraph"), None, "level must be one of 'node', 'edge', 'graph', got 'hypergraph'"),
        (nn.GraphHead(2, "graph", "median"), None, "pooling must be one of 'sum', 'mean', 'max', 'attention', 'set2set', got 'median'"),
        (nn.Set2Set(0), None, "Set2Set: num_steps must be >= 1"),
    ],
)
def test_7_2_options_and_edges_that_a_layer_cannot_read_are_refused(layer, edges, message):
    graph = nn.single_graph(jnp.eye(3), [0, 1], [1, 0], edges)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, KEY, graph)


def test_messages_with_another_reduction_are_refused():
    with pytest.raises(ValueError, match="reduction must be one of 'sum', 'mean', 'max', got 'median'"):
        nn.pass_messages(nn.single_graph(jnp.eye(2), [0], [1]), jnp.eye(2), reduction="median")
    with pytest.raises(ValueError, match="pooling must be one of 'sum', 'mean', 'max', got 'set2set'"):
        nn.pool_nodes(nn.single_graph(jnp.eye(2), [0], [1]), jnp.eye(2), "set2set")
