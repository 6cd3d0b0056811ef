"""Grain sources and arrays on disk: the order of `shuffled`, an exact position, nothing unpickled."""

import json

import grain
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax import data
from dljax.core import HostSource


def examples(size):
    return {"x": np.arange(2 * size).reshape(size, 2), "y": np.arange(size)}


@settings(max_examples=10, deadline=None)
@given(st.data(), st.integers(0, 1000), st.booleans())
def test_every_epoch_has_every_example_once(draw, seed, drop_last):
    size = draw.draw(st.integers(1, 700))
    batch_size = draw.draw(st.integers(max(1, size // 20), size))
    end = size - size % batch_size if drop_last else size
    source = data.grain_source(examples(size), batch_size, seed=seed, drop_last=drop_last, prefetch=2)
    batches = source.take(-(-2 * end // batch_size))
    np.testing.assert_array_equal(batches["x"][..., 0], 2 * batches["y"])
    order = batches["y"].ravel()[: 2 * end].reshape(2, end)
    for epoch in order:
        assert len(set(epoch.tolist())) == end


def test_the_order_does_not_depend_on_chunks_threads_or_the_kind_of_data():
    arrays = examples(500)
    listed = [{name: leaf[i] for name, leaf in arrays.items()} for i in range(500)]
    expected = data.grain_source(arrays, 64, seed=3).take(20)
    others = {
        "chunks": [data.grain_source(arrays, 64, seed=3, num_threads=4, prefetch=1)],
        "list": [data.grain_source(listed, 64, seed=3)],
        "transforms": [data.grain_source(arrays, 64, seed=3, transforms=[lambda example: example])],
    }
    for (source,) in others.values():
        parts = [source.take(num) for num in (1, 7, 12)]
        jax.tree.map(np.testing.assert_array_equal, expected, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))
    assert (data.grain_source(arrays, 64, seed=4).take(20)["y"] != expected["y"]).mean() > 0.9


@pytest.mark.parametrize("before", [0, 1, 9])
def test_a_restored_source_goes_on_exactly(before):
    def fresh():
        return data.grain_source(examples(300), 32, seed=1)

    source = fresh()
    for _ in range(before):
        source.take(2)
    state = source.state()
    expected = source.take(15)
    later = fresh()
    later.take(4)
    later.restore(state)
    jax.tree.map(np.testing.assert_array_equal, expected, later.take(15))
    source.restore(state)
    jax.tree.map(np.testing.assert_array_equal, expected, source.take(15))


def test_the_state_is_json_and_a_host_source_is_what_it_is():
    source = data.grain_source(examples(10), 2)
    assert isinstance(source, HostSource)
    source.take(3)
    assert json.loads(source.state())["grain"] == {"next_index": 3}


def test_any_grain_pipeline_can_be_a_source():
    def fresh():
        pipeline = grain.MapDataset.range(20).seed(0).shuffle().repeat().to_iter_dataset().filter(lambda x: x % 2 == 0).map(np.float32).batch(3)
        return data.GrainSource(pipeline)

    source = fresh()
    first = source.take(4)
    assert first.shape == (4, 3)
    assert first.dtype == np.float32
    state, later = source.state(), fresh()
    later.restore(state)
    np.testing.assert_array_equal(source.take(5), later.take(5))


class Noise(grain.transforms.RandomMap):
    def random_map(self, element, rng):
        return element | {"noise": rng.normal()}


class Double(grain.transforms.Map):
    def map(self, element):
        return element | {"x": 2 * element["x"]}


def test_transforms_are_applied_in_turn_and_their_noise_depends_on_the_seed_and_the_place_alone():
    def fresh(num_threads, seed=0):
        transforms = [Double(), lambda example: example | {"x": example["x"] + 1}, Noise(), Noise()]
        return data.grain_source(examples(300), 50, seed=seed, transforms=transforms, num_threads=num_threads)

    batches = fresh(1).take(12)
    np.testing.assert_array_equal(batches["x"][..., 0], 4 * batches["y"] + 1)
    assert len(np.unique(batches["noise"])) == 600
    np.testing.assert_array_equal(batches["noise"], fresh(4).take(12)["noise"])
    assert (batches["noise"] != fresh(1, seed=1).take(12)["noise"]).all()


def test_arrays_on_disk_are_mapped_not_read(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(600).reshape(300, 2))
    disk = np.lib.format.open_memmap(tmp_path / "y.npy", mode="w+", dtype=np.int32, shape=(300,))
    disk[:] = np.arange(300)
    disk.flush()
    (tmp_path / "notes.txt").write_text("not an array")
    arrays = data.open_arrays(tmp_path)
    assert list(arrays) == ["x", "y"]
    assert all(isinstance(leaf, np.memmap) and not leaf.flags.writeable for leaf in arrays.values())
    source = data.grain_source(arrays, 64)
    batches = source.take(5)
    assert not isinstance(batches["x"], np.memmap)
    jax.tree.map(np.testing.assert_array_equal, batches, data.grain_source(examples(300), 64).take(5))


def test_arrays_of_objects_and_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"open_arrays: .* must be a folder with files NAME.npy"):
        data.open_arrays(tmp_path)
    np.save(tmp_path / "x.npy", np.array([{"a": 1}, None], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"x.npy: is no array of numbers"):
        data.open_arrays(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"x.npy: is no array of numbers"):
        data.open_arrays(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros(3))
    np.save(tmp_path / "y.npy", np.zeros(4))
    with pytest.raises(ValueError, match="every array must have the same number of rows"):
        data.open_arrays(tmp_path)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: data.grain_source(examples(5), 6), ValueError, r"batch_size 6 is larger than the data set \(5 examples\); use at most 5"),
        (lambda: data.grain_source(examples(5), 0), ValueError, "grain_source: batch_size must be >= 1, got 0"),
        (lambda: data.grain_source(examples(5), 1, seed=-1), ValueError, "grain_source: seed must be >= 0, got -1"),
        (lambda: data.grain_source(examples(5), 1, num_threads=0), ValueError, "GrainSource: num_threads must be >= 1, got 0"),
        (lambda: data.grain_source(examples(5), 1, prefetch=0), ValueError, "GrainSource: prefetch must be >= 1, got 0"),
        (lambda: data.grain_source([], 1), ValueError, "batch_size 1 is larger than the data set"),
        (lambda: data.grain_source({"x": np.zeros(2), "y": np.zeros(3)}, 1), ValueError, "every array must have the same number of rows"),
        (lambda: data.grain_source(examples(5), 1, transforms=[3]), TypeError, "a transform must be a function of an example, .*, got int"),
        (lambda: data.GrainSource([1, 2]), TypeError, "dataset must be a grain.MapDataset or grain.IterDataset of batches, got list"),
        (lambda: data.grain_source(examples(5), 1).take(0), ValueError, "GrainSource.take: num must be >= 1, got 0"),
        (lambda: data.GrainSource(grain.MapDataset.range(4).batch(2)).take(3), ValueError, r"has come to its end; add .repeat\(\)"),
        (lambda: data.GrainSource(grain.MapDataset.range(5).batch(2)).take(3), ValueError, r"same shapes, got \(1,\) after \(2,\)"),
        (lambda: data.grain_source(examples(5), 1).restore(b"\x80\x04."), ValueError, "is no state of a GrainSource"),
        (lambda: data.grain_source(examples(5), 1).restore(b"[]"), ValueError, "is no state of a GrainSource"),
    ],
)
def test_a_bad_option_is_refused_in_words(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_state_of_another_source_is_refused():
    state = data.grain_source(examples(50), 5).state()
    with pytest.raises(ValueError, match="belongs to another source: batch_size was 5 and is 10, seed was 0 and is 2"):
        data.grain_source(examples(50), 10, seed=2).restore(state)
    old = json.dumps(json.loads(state) | {"format": 99}).encode()
    with pytest.raises(ValueError, match="the state has format 99, this version of dljax reads format 1"):
        data.grain_source(examples(50), 5).restore(old)
