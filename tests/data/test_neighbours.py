"""Sampled neighbourhoods: only edges that exist, means without bias, and the whole graph's outputs where the fanout is large enough."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
import pytest
from flax import linen
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax import core
from dljax.data.neighbours import neighbour_lists, neighbourhoods, sample_neighbourhood
from dljax.nn.graph import single_graph, sparse_rows
from dljax.objectives import cross_entropy
from dljax.supervised import supervised


def some_graph(seed=0, num_nodes=12, num_edges=40):
    """Directed, with repeated edges and self-loops; the last two nodes are isolated."""
    rng = np.random.default_rng(seed)
    senders, receivers = rng.integers(num_nodes - 2, size=(2, num_edges))
    nodes, edges = (rng.normal(size=shape).astype(np.float32) for shape in ((num_nodes, 3), num_edges))
    return single_graph(nodes, senders, receivers, edges)


class MeanNetwork(linen.Module):
    """Two layers of h' = tanh(h W + mean over senders of h U); the number of layers is that of the hops."""

    @linen.compact
    def __call__(self, graph, train=False):
        hidden = graph.nodes
        for size in (5, 2):
            mean = jraph.segment_mean(hidden[graph.senders], graph.receivers, len(hidden))
            hidden = jnp.tanh(linen.Dense(size)(hidden) + linen.Dense(size, use_bias=False)(mean))
        return hidden


def test_lists_hold_every_edge_once_sorted_by_node_and_neighbour():
    graph = some_graph()
    for direction, (here, there) in {"out": (graph.senders, graph.receivers), "in": (graph.receivers, graph.senders)}.items():
        lists = neighbour_lists(graph, direction=direction)
        rows = np.repeat(np.arange(12), lists.degrees)
        assert sorted(lists.edge.tolist()) == list(range(40))
        np.testing.assert_array_equal(here[lists.edge], rows)
        np.testing.assert_array_equal(there[lists.edge], lists.neighbour)
        assert all((np.diff(lists.neighbour[rows == node]) >= 0).all() for node in range(12))
    assert lists.num_nodes == 12


def test_weights_of_a_node_become_its_cumulative_distribution_and_zeros_leave():
    graph = single_graph(np.ones((3, 1)), [0, 0, 0, 1], [1, 2, 0, 2], np.float32([1, 3, 0, 2]))
    lists = neighbour_lists(graph, weights=graph.edges)
    assert lists.start.tolist() == [0, 2, 3, 3]
    assert lists.neighbour.tolist() == [1, 2, 2]
    np.testing.assert_allclose(lists.cumulative, [0.25, 1, 1])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_7_2_every_sampled_edge_exists_and_comes_once_and_the_result_is_a_padded_graph(seed):
    graph = some_graph(seed % 50)
    lists = neighbour_lists(graph, direction="in")
    seeds = np.random.default_rng(seed).permutation(12)[:4].astype(np.int32)
    found = jax.tree.map(np.asarray, SAMPLE(jax.random.key(seed), lists, seeds))
    num_nodes, num_edges = int(found.num_nodes), int(found.num_edges)
    senders, receivers, edge = (values[:num_edges] for values in (found.senders, found.receivers, found.edge))
    # Each edge is one of the graph's, between the nodes that stand at its places; a place draws an edge once.
    np.testing.assert_array_equal(found.node[senders], np.asarray(graph.senders)[edge])
    np.testing.assert_array_equal(found.node[receivers], np.asarray(graph.receivers)[edge])
    assert len({*zip(receivers.tolist(), edge.tolist(), strict=True)}) == num_edges
    assert found.node[:4].tolist() == seeds.tolist()
    # A tree: every place but the seeds sends once, and reads min(fanout, degree) neighbours at its hop.
    assert sorted(senders.tolist()) == list(range(4, num_nodes))
    degree = np.bincount(graph.receivers, minlength=12)
    read = np.bincount(receivers, minlength=num_nodes)
    np.testing.assert_array_equal(read[:4], np.minimum(3, degree[seeds]))
    first = read[:4].sum()
    np.testing.assert_array_equal(read[4 : 4 + first], np.minimum(2, degree[found.node[4 : 4 + first]]))
    assert not read[4 + first :].any()
    # Padded as jraph pads.
    assert (np.diff(found.receivers) >= 0).all()
    assert num_nodes < len(found.node) == 4 * (1 + 3 + 6) + 1
    assert (found.senders[num_edges:] == num_nodes).all()
    assert (found.receivers[num_edges:] == num_nodes).all()


SAMPLE = jax.jit(lambda key, lists, seeds: sample_neighbourhood(key, lists, seeds, (3, 2)))


def test_7_2_every_subset_of_the_neighbours_is_equally_likely_and_its_mean_without_bias():
    lists = neighbour_lists(single_graph(np.ones((6, 1)), [1, 2, 3, 4, 5], [0] * 5), direction="in")
    num = 20_000
    drawn = jax.jit(lambda key: sample_neighbourhood(key, lists, jnp.zeros(num, jnp.int32), (2,)))(jax.random.key(0))
    subsets = np.asarray(drawn.node[num : 3 * num]).reshape(num, 2)
    pairs, counts = np.unique(subsets, axis=0, return_counts=True)
    assert len(pairs) == 10
    # Chi-square with 9 degrees of freedom: above 33.7 with probability 1e-4.
    assert ((counts - num / 10) ** 2 / (num / 10)).sum() < 33.7
    values = np.array([0, 1, -2, 4, 8, -5.0])
    means = values[subsets].mean(1)
    assert abs(means.mean() - values[1:].mean()) < 5 * means.std() / num**0.5


def test_7_2_with_fanouts_of_the_largest_degree_seeds_get_the_outputs_of_the_whole_graph():
    graph = some_graph()
    largest = int(np.bincount(graph.receivers).max())
    model = MeanNetwork()
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    expected = jax.jit(model.apply)(variables, graph)
    both = graph._replace(nodes={"dense": graph.nodes, "sparse": sparse_rows(graph.nodes)})
    source = neighbourhoods(both, np.arange(12), fanouts=[largest, largest + 1], batch_size=4)

    @jax.jit
    def three_batches(key):
        def one(cursor, _):
            cursor, batch = source.next(source.data, cursor)
            dense, sparse = batch["x"].nodes["dense"], batch["x"].nodes["sparse"]
            unpacked = jnp.zeros(dense.shape).at[jnp.arange(len(dense))[:, None], sparse.index].add(sparse.value)
            outputs = model.apply(variables, batch["x"]._replace(nodes=dense))[:4]
            return cursor, (batch["node"][:4], outputs, batch["y"][:4], jnp.abs(dense - unpacked).max())

        return jax.lax.scan(one, source.init(key), None, length=3)[1]

    *seen, difference = three_batches(jax.random.key(1))
    nodes, outputs, targets = (np.asarray(value).reshape(12, -1) for value in seen)
    assert sorted(nodes[:, 0]) == list(range(12))
    np.testing.assert_array_equal(targets, nodes)
    np.testing.assert_allclose(outputs, expected[nodes[:, 0]], rtol=1e-6, atol=1e-7)
    assert not difference.any()


def test_batches_are_what_a_learner_takes_and_a_run_is_one_scan():
    graph = some_graph()
    source = neighbourhoods(graph, np.arange(12) % 2, fanouts=[3, 2], batch_size=4, seeds=np.arange(12) < 6)
    learner = supervised(MeanNetwork(), cross_entropy, optax.adam(0.01))

    @jax.jit
    def train(key):
        cursor = source.init(key)
        _, batch = source.next(source.data, cursor)
        return batch, core.unroll(learner, source, 6, 3)(key, 0, learner.init(key, batch), cursor)[2]

    batch, history = train(jax.random.key(0))
    assert batch["mask"].sum() == 4
    assert batch["x"].n_node.sum() == len(batch["y"])
    assert batch["x"].n_edge.sum() == len(batch["x"].senders)
    mask = np.asarray(jraph.get_node_padding_mask(batch["x"]))
    np.testing.assert_array_equal(batch["x"].nodes, np.where(mask[:, None], graph.nodes[batch["node"]], 0))
    assert set(np.asarray(batch["node"][:4]).tolist()) <= set(range(6))
    assert history.metrics["loss"].weight.tolist() == [12, 12]
    assert np.isfinite(history["loss"]).all()


def test_a_graph_without_edges_gives_the_seeds_alone():
    graph = single_graph(jnp.eye(3), [], [])
    source = neighbourhoods(graph, jnp.arange(3), fanouts=[2], batch_size=2)
    _, batch = jax.jit(lambda key: source.next(source.data, source.init(key)))(jax.random.key(0))
    assert batch["x"].n_node.tolist() == [2, 5]
    assert batch["x"].n_edge.tolist() == [0, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fanouts": []}, "neighbourhoods: fanouts must be at least one number, got none"),
        ({"fanouts": [2, -1]}, "neighbourhoods: fanouts must be >= 1, got -1"),
        ({"fanouts": [0]}, "neighbourhoods: fanouts must be >= 1, got 0"),
        ({"batch_size": 13}, "batch_size 13 is larger"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"seeds": [0, 12]}, r"seeds must be distinct nodes in \[0, 11\] or a mask \[12\], one at least"),
        ({"seeds": [1, 1]}, "seeds must be distinct nodes"),
        ({"seeds": np.zeros(12, bool)}, "one at least"),
        ({"y": np.zeros(3)}, r"y must have one row for each of the 12 nodes, got shapes \[\(3,\)\]"),
    ],
)
def test_options_out_of_range_are_refused(change, message):
    arguments = {"graph": some_graph(), "y": np.zeros(12), "fanouts": [2], "batch_size": 2} | change
    with pytest.raises(ValueError, match=message):
        neighbourhoods(**arguments)


def test_lists_refuse_edges_to_nowhere_and_bad_weights():
    graph = some_graph()
    with pytest.raises(ValueError, match=r"neighbour_lists: receivers must be nodes in \[0, 11\], got 12 to 12"):
        neighbour_lists(graph._replace(receivers=jnp.full(40, 12)))
    with pytest.raises(ValueError, match=r"direction must be one of 'out', 'in', got 'both'"):
        neighbour_lists(graph, direction="both")
    for weights in (-np.ones(40), np.full(40, np.inf), np.ones(3)):
        with pytest.raises(ValueError, match="weights must be None or one finite number >= 0 for each of the 40 edges"):
            neighbour_lists(graph, weights=weights)
    with pytest.raises(TypeError, match="neighbour_lists: the graph must be concrete"):
        jax.eval_shape(neighbour_lists, graph)
