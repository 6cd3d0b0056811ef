"""Sources: every epoch a permutation, the order a pure function of the key, whatever way it is run."""

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from dljax import data
from dljax.core import Source
from dljax.core.tree import num_bytes
from dljax.data import sources


@partial(jax.jit, static_argnums=(0, 3))
def scanned(next, cursor, data, steps):
    return lax.scan(lambda cursor, _: next(data, cursor), cursor, None, steps)[1]


def take(source, key, steps):
    """The first `steps` batches, stacked."""
    return scanned(source.next, source.init(key), source.data, steps)


def rows(size):
    return {"x": np.arange(size)}


@settings(max_examples=30, deadline=None)
@given(size=st.sampled_from([1, 2, 40, 64]) | st.integers(65, 5_000), seed=st.integers(0, 2**32 - 1))
def test_a_permuted_index_is_a_permutation_of_any_size(size, seed):
    index = data.permuted_index(jax.random.key(seed), jnp.arange(5_000) % size, size)
    assert index.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(index[:size]), np.arange(size))


SHUFFLES = [data.shuffled(rows(size), batch) for size, batch in ((7, 3), (64, 64), (331, 64))]


@settings(max_examples=50, deadline=None)
@given(source=st.sampled_from(SHUFFLES), seed=st.integers(0, 2**32 - 1))
def test_every_epoch_has_every_example_once_whatever_the_batch_size(source, seed):
    size = len(source.data["x"])
    (batch_size,) = jax.eval_shape(lambda: source.next(source.data, source.init(jax.random.key(0))))[1]["x"].shape
    order = np.asarray(take(source, jax.random.key(seed), -(-3 * size // batch_size))["x"]).ravel()[: 3 * size].reshape(3, size)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(size), (3, 1)))
    if size > 20:
        assert (order[0] != order[1]).any()
        assert (order[1] != order[2]).any()


@pytest.mark.parametrize(("size", "batch_size"), [(7, 3), (300, 64)])
def test_drop_last_begins_each_epoch_with_a_new_batch(size, batch_size):
    num = size - size % batch_size
    source = data.shuffled(rows(size), batch_size, drop_last=True)
    order = np.asarray(take(source, jax.random.key(5), 2 * size // batch_size)["x"]).ravel()
    for epoch in range(2):
        whole = data.permuted_index(jax.random.fold_in(jax.random.key(5), epoch), jnp.arange(size), size)
        np.testing.assert_array_equal(order[epoch * num : (epoch + 1) * num], whole[:num])


def test_a_batch_that_straddles_epochs_takes_the_rest_and_the_beginning():
    batches = np.asarray(take(data.shuffled(rows(300), 200), jax.random.key(3), 3)["x"])
    assert set(batches[1][:100]) == set(range(300)) - set(batches[0])
    assert set(batches[1][100:]) == set(range(300)) - set(batches[2])


@pytest.mark.parametrize("size", [2708, 1437, 7762])
def test_cycle_walking_agrees_with_the_walk_step_by_step(size):
    key = jax.random.key(size)
    salts = np.asarray(jax.random.bits(key, (sources.ROUNDS,), jnp.uint32)).tolist()
    a, b = sources.factors(size)
    assert a * b > size

    def mix(word):
        word = word * 0x9E3779B1 % 2**32
        word = (word ^ word >> 15) * 0x85EBCA6B % 2**32
        return (word ^ word >> 13) >> 8

    def network(index):
        high, low = divmod(index, b)
        for i in range(0, len(salts), 2):
            high = (high + mix(low ^ salts[i])) % a
            low = (low + mix(high ^ salts[i + 1])) % b
        return high * b + low

    def walk(index):
        index = network(index)
        return index if index < size else walk(index)

    np.testing.assert_array_equal(data.permuted_index(key, jnp.arange(size), size), [walk(index) for index in range(size)])


def test_factors_are_tight_and_balanced():
    for size in [*range(65, 3000), 50_000, 60_000, 1_003_854, 1_281_167, 2**31 - 1]:
        a, b = sources.factors(size)
        assert a * b >= size
        assert a * b - size <= 24
        assert max(a, b) <= 17 * min(a, b)
        assert a * b < 2**32


@pytest.mark.parametrize("size", [65, 300])
def test_the_order_is_random_by_chi_squared(size):
    stats = pytest.importorskip("scipy.stats")
    keys = jax.random.split(jax.random.key(0), 60_000)
    image = np.asarray(jax.jit(jax.vmap(lambda key: data.permuted_index(key, jnp.array([0, 1, size // 2]), size)))(keys))
    for place in image.T:
        assert stats.chisquare(np.bincount(place, minlength=size)).pvalue > 1e-4
    for i, j in ((0, 1), (0, 2), (1, 2)):
        # Two places are never equal, and otherwise independent: their difference is uniform on 1 ... size - 1.
        difference = (image[:, i] - image[:, j]) % size
        assert stats.chisquare(np.bincount(difference, minlength=size)[1:]).pvalue > 1e-4


def test_small_sets_are_permuted_exactly_uniformly():
    stats = pytest.importorskip("scipy.stats")
    image = np.asarray(jax.vmap(lambda key: data.permuted_index(key, jnp.arange(4), 4))(jax.random.split(jax.random.key(0), 24_000)))
    _, counts = np.unique(image, axis=0, return_counts=True)
    assert len(counts) == math.factorial(4)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_sorted_data_come_in_mixed_batches():
    # 60,000 examples sorted by class, 469 batches of 128: the class counts of batches vary as draws without replacement do.
    labels = np.repeat(np.arange(10), 6000)
    batches = np.asarray(take(data.shuffled({"y": labels}, 128), jax.random.key(0), 468)["y"])
    counts = np.stack([np.bincount(batch, minlength=10) for batch in batches])
    expected = 128 * 0.1 * 0.9 * (60_000 - 128) / (60_000 - 1)
    np.testing.assert_allclose(counts.var(0).mean(), expected, rtol=0.05)


def test_the_same_key_gives_the_same_order_and_another_key_another():
    source = data.shuffled(rows(1000), 100)
    first, again, other = (np.asarray(take(source, jax.random.key(seed), 10)["x"]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9


@pytest.mark.parametrize(
    "source",
    [
        data.shuffled(rows(1000), 96),
        data.shuffled(rows(60), 32),
        data.windows(np.arange(200), 5, 8),
        data.repeat(rows(3)),
        data.from_sampler(lambda key: jax.random.normal(key, (4, 2))),
    ],
    ids=["shuffled", "shuffled small", "windows", "repeat", "sampler"],
)
class TestEverySource:
    def test_chunks_and_single_steps_give_the_same_stream(self, source):
        whole = take(source, jax.random.key(0), 12)
        cursor, parts, following = source.init(jax.random.key(0)), [], jax.jit(source.next)
        for _ in range(12):
            cursor, batch = following(source.data, cursor)
            parts.append(batch)
        chex.assert_trees_all_equal(whole, jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts))

    def test_many_cursors_at_once_are_many_one_by_one(self, source):
        keys = jax.random.split(jax.random.key(1), 3)
        together = jax.vmap(lambda key: take(source, key, 12))(keys)
        alone = [take(source, key, 12) for key in keys]
        chex.assert_trees_all_equal(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone))

    def test_the_cursor_is_small_and_keeps_its_types_and_the_data_stay_outside(self, source):
        cursor = source.init(jax.random.key(0))
        later, _ = source.next(source.data, cursor)
        chex.assert_trees_all_equal_shapes_and_dtypes(cursor, later)
        assert num_bytes(cursor) <= 16
        jaxpr = jax.make_jaxpr(source.next)(source.data, cursor)
        assert sum(np.size(const) for const in jaxpr.consts) < 20

    def test_it_runs_under_strict_promotion_and_in_float64(self, source):
        expected = take(source, jax.random.key(0), 3)
        with jax.numpy_rank_promotion("raise"):
            jax.eval_shape(source.next, source.data, source.init(jax.random.key(0)))
        with jax.enable_x64(True):
            cursor = source.init(jax.random.key(0))
            later, batch = jax.jit(source.next)(source.data, cursor)
            chex.assert_trees_all_equal_shapes_and_dtypes(cursor, later)
        for name in batch:
            if jnp.issubdtype(expected[name].dtype, jnp.integer):
                np.testing.assert_array_equal(batch[name], expected[name][0])

    def test_it_is_a_source(self, source):
        assert isinstance(source, Source)


def test_shuffled_keeps_types_and_shapes_and_rows_together():
    pictures = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 1)).astype(np.uint8)
    arrays = {"x": pictures, "y": np.arange(300, dtype=np.int32), "mask": np.ones(300, bool)}
    batch = take(data.shuffled(arrays, 128), jax.random.key(0), 3)
    assert {name: (leaf.shape, str(leaf.dtype)) for name, leaf in batch.items()} == {
        "x": ((3, 128, 4, 4, 1), "uint8"),
        "y": ((3, 128), "int32"),
        "mask": ((3, 128), "bool"),
    }
    np.testing.assert_array_equal(batch["x"], arrays["x"][batch["y"]])


def test_windows_are_contiguous_and_begin_everywhere():
    batch = take(data.windows(np.arange(10, 22, dtype=np.uint8), 8, 64), jax.random.key(0), 20)
    assert batch["x"].shape == (20, 64, 8)
    assert batch["x"].dtype == batch["y"].dtype == jnp.int32
    np.testing.assert_array_equal(batch["y"], batch["x"] + 1)
    np.testing.assert_array_equal(np.diff(batch["x"], axis=-1), 1)
    _, counts = np.unique(batch["x"][..., 0], return_counts=True)
    assert len(counts) == 4
    assert counts.min() > 250


@settings(max_examples=50, deadline=None)
@given(num=st.integers(2, 50), length=st.integers(1, 20))
def test_segments_predict_every_next_token_exactly_once(num, length):
    if num < length + 1:
        return
    tokens = np.arange(100, 100 + num)
    parts = data.segments(tokens, length)
    real = parts["mask"].astype(bool)
    assert parts["x"].shape == parts["y"].shape == parts["mask"].shape == (-(-(num - 1) // length), length)
    np.testing.assert_array_equal(parts["x"][real], tokens[:-1])
    np.testing.assert_array_equal(parts["y"][real], tokens[1:])


def test_a_sampler_gives_fresh_samples():
    batch = take(data.from_sampler(lambda key: jax.random.normal(key, (64, 2))), jax.random.key(0), 10)
    assert len(np.unique(batch["x"])) == 10 * 64 * 2
    pairs = data.from_sampler(lambda key: {"x": jax.random.normal(key), "y": jnp.int32(1)})
    assert pairs.next(pairs.data, pairs.init(jax.random.key(0)))[1].keys() == {"x", "y"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.shuffled(rows(150), 512), r"shuffled: batch_size 512 is larger than the data set \(150 examples\); use at most 150"),
        (lambda: data.shuffled(rows(150), 0), "shuffled: batch_size must be >= 1, got 0"),
        (lambda: data.shuffled(rows(0), 1), "data: must have at least one row"),
        (lambda: data.shuffled({}, 1), "data: every array must have the same number of rows"),
        (lambda: data.shuffled({"x": np.zeros(3), "y": np.zeros(4)}, 1), "every array must have the same number of rows"),
        (lambda: data.shuffled(np.zeros(3), 1), "must be a dict of arrays"),
        (lambda: data.permuted_index(jax.random.key(0), jnp.arange(1), 0), "permuted_index: size must be between 1 and 2147483647, got 0"),
        (lambda: data.permuted_index(jax.random.key(0), jnp.arange(1), 2**31), "permuted_index: size must be between"),
        (lambda: data.windows(np.arange(8), 8, 1), "windows: length 8 needs at least 9 tokens, got 8; use at most 7"),
        (lambda: data.windows(np.arange(8), 0, 1), "windows: length must be >= 1, got 0"),
        (lambda: data.windows(np.arange(8), 2, 0), "windows: batch_size must be >= 1, got 0"),
        (lambda: data.windows(np.zeros(8), 2, 1), r"windows: tokens must be one sequence \[N\] of whole numbers, got shape \(8,\) of float64"),
        (lambda: data.segments(np.zeros((2, 4), int), 2), r"segments: tokens must be one sequence \[N\] of whole numbers, got shape \(2, 4\)"),
        (lambda: data.segments(np.arange(2), 2), "segments: length 2 needs at least 3 tokens, got 2"),
        (lambda: data.check_labels([0, -1, 2], 3), r"labels: must be in \[0, 2\] for 3 classes, got -1 at row 1"),
        (lambda: data.check_labels(np.array([[0, 1], [2, 3]]), 3), r"got 3 at row \(1, 1\); count the classes anew"),
        (lambda: data.check_labels([0.5], 3), "labels: must be whole numbers in .*, got float64; convert them"),
        (lambda: data.check_labels([0], 0), "check_labels: num_classes must be >= 1, got 0"),
    ],
)
def test_a_bad_option_is_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_good_labels_pass():
    data.check_labels(jnp.array([0, 1, 2]), 3)
    data.check_labels([], 3)
