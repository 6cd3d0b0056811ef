"""Packed batches of graphs: what jraph's batching and padding make of the same graphs, each graph once an epoch."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from dljax.data import graph_batch, graph_batches
from dljax.nn.graph import single_graph


def some_graphs(num=7, seed=0):
    rng = np.random.default_rng(seed)
    graphs = []
    for place in range(num):
        num_nodes, num_edges = int(rng.integers(1, 6)), int(rng.integers(0, 9)) if place else 0
        ends = rng.integers(0, num_nodes, (2, num_edges))
        nodes = {"place": np.full(num_nodes, place), "x": rng.normal(size=(num_nodes, 2)).astype(np.float32)}
        graphs.append(single_graph(nodes, *ends, edges=rng.normal(size=(num_edges, 3)).astype(np.float32)))
    return graphs


def test_7_2_packed_batches_are_those_of_jraph_and_an_epoch_has_each_graph_once():
    graphs = some_graphs()
    source = graph_batches(graphs, np.arange(1.0, 8.0), batch_size=3)
    advance = jax.jit(source.next)
    cursor, seen = source.init(jax.random.key(0)), []
    sizes = [sorted(int(count[0]) for count in counts)[-3:] for counts in zip(*((g.n_node, g.n_edge) for g in graphs), strict=True)]
    for _ in range(7):
        cursor, batch = advance(source.data, cursor)
        chosen = batch["y"][:3].astype(int) - 1
        expected = jraph.pad_with_graphs(jraph.batch_np([graphs[i] for i in chosen]), sum(sizes[0]) + 1, sum(sizes[1]), 4)
        jax.tree.map(np.testing.assert_array_equal, batch["x"], expected)
        assert (np.diff(batch["x"].receivers) >= 0).all()
        assert batch["y"][3] == 0
        assert batch["mask"].tolist() == [1, 1, 1, 0]
        seen += chosen.tolist()
    assert sorted(seen) == sorted([*range(7)] * 3)
    assert sorted(seen[:7]) == [*range(7)]


def test_graphs_that_find_no_room_are_left_out_and_masked():
    graphs = some_graphs()
    source = graph_batches(graphs, np.arange(1.0, 8.0), batch_size=3, num_nodes=8, num_edges=9)
    advance = jax.jit(source.next)
    cursor, numbers = source.init(jax.random.key(0)), set()
    for _ in range(7):
        cursor, batch = advance(source.data, cursor)
        num = int(batch["mask"].sum())
        chosen = batch["y"][:num].astype(int) - 1
        kept = jraph.pad_with_graphs(jraph.batch_np([graphs[i] for i in chosen]), 9, 9, num + 1)
        jax.tree.map(np.testing.assert_array_equal, batch["x"].nodes, kept.nodes)
        np.testing.assert_array_equal(batch["x"].receivers, kept.receivers)
        assert batch["x"].n_node.tolist() == [*kept.n_node[:num].tolist(), *[0] * (3 - num), int(kept.n_node[-1])]
        numbers.add(num)
    assert len(numbers) > 1
    with pytest.raises(ValueError, match="num_nodes must be >= 5, got 4"):
        graph_batches(graphs, np.arange(7.0), 3, num_nodes=4)


def test_a_batch_of_all_graphs_keeps_their_order():
    graphs = some_graphs()
    batch = graph_batch(graphs, np.arange(14.0).reshape(7, 2))
    assert batch["y"].shape == (8, 2)
    assert batch["mask"].tolist() == [1.0] * 7 + [0.0]
    parts = jraph.unbatch(batch["x"])[:7]
    for part, graph in zip(parts, graphs, strict=True):
        jax.tree.map(np.testing.assert_array_equal, part.nodes, graph.nodes)
        np.testing.assert_array_equal(part.receivers, graph.receivers)


@pytest.mark.parametrize(
    ("graphs", "targets", "message"),
    [
        ([], np.zeros(0), "graphs must be at least one"),
        (some_graphs(2), np.zeros(3), r"one row for each of the 2 graphs, got shape \(3,\)"),
        ([jraph.batch_np(some_graphs(2))], np.zeros(1), "single ones, got a batch of 2 at 0"),
        ([*some_graphs(1), single_graph(np.zeros((1, 2)), [], [])], np.zeros(2), "alike in what their nodes and edges hold, got another kind at 1"),
        ([single_graph(np.zeros((2, 1)), [0, 1], [0, 1])._replace(receivers=jnp.array([1, 0]))], np.zeros(1), "receivers must ascend"),
    ],
)
def test_lists_that_are_no_graphs_are_refused(graphs, targets, message):
    with pytest.raises(ValueError, match=message):
        graph_batches(graphs, targets, 1)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size must be between 1 and 2, got 3"):
        graph_batches(some_graphs(2), np.zeros(2), 3)
