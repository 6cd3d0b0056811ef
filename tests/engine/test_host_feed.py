"""Batches that cannot be a pure function: taken a chunk ahead, in order, and from the right place after a kill."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import BATCH, HELD_OUT, TRAINING, Lines, X, Y, assert_same_bits, network

from dljax.core import Learner, Source
from dljax.data.host import grain_source
from dljax.engine import FitConfig, Parallel, RunFolderError, fit, load, make_mesh
from dljax.engine.host import Feed

KEY = jax.random.key(4)
CONFIG = FitConfig(every=2, chunk=4, checkpoint_every=4, evaluate_every=8, batch_size=12)


class KilledError(Exception):
    pass


def on_the_device() -> Source:
    """What `Lines` gives, as a pure function."""
    data = {"x": jnp.asarray(X), "y": jnp.asarray(Y)}

    def next_batch(data, cursor):
        row = (jnp.arange(BATCH) * 5 + 7 * cursor) % len(X)
        return cursor + 1, {name: leaf[row] for name, leaf in data.items()}

    return Source(lambda key: jnp.int32(0), next_batch, data)


def go(source, steps=24, **more):
    return fit(network(), source, steps, KEY, evaluation=HELD_OUT, config=more.pop("config", CONFIG), **more)


def feeds():
    return [thread for thread in threading.enumerate() if thread.name == "dljax-feed"]


@pytest.fixture(scope="module")
def whole():
    return go(Lines())


def test_run_fed_by_the_host_equals_the_one_fed_on_the_device(whole):
    device = go(on_the_device())
    np.testing.assert_allclose(whole.history["loss"], device.history["loss"], rtol=1e-5)
    np.testing.assert_allclose(whole.evaluations["error"], device.evaluations["error"], rtol=1e-5)
    assert whole.result["recompilations"] == 0


def test_last_chunk_may_be_shorter():
    run = go(Lines(), steps=10)
    device = go(on_the_device(), steps=10)
    np.testing.assert_allclose(run.history["loss"], device.history["loss"], rtol=1e-5)
    assert run.history["step"].tolist() == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("make", [Lines, lambda: grain_source(TRAINING, BATCH, seed=5)], ids=["lines", "grain"])
def test_run_fed_by_the_host_resumes_with_the_batch_that_would_have_come(make, tmp_path):
    def kill(snapshot):
        if snapshot.step == 16:
            raise KilledError

    whole = go(make(), out=tmp_path / "whole")
    with pytest.raises(KilledError):
        go(make(), out=tmp_path / "part", callbacks=[kill])
    run = go(make(), out=tmp_path / "part", resume=True)
    assert_same_bits(run.state, whole.state)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    longer = go(make(), 32, out=tmp_path / "part", resume=True)
    assert_same_bits(longer.state, go(make(), 32).state)


def test_batches_are_spread_over_devices(whole):
    for mode in ("jit", "shard_map"):
        run = go(Lines(), config=FitConfig(every=2, chunk=4, batch_size=12, parallel=Parallel(make_mesh(data=8), mode)))
        np.testing.assert_allclose(run.history["loss"], whole.history["loss"], rtol=1e-5)


def test_finished_run_needs_no_more_batches(tmp_path):
    first = go(Lines(), out=tmp_path)
    assert_same_bits(go(Lines(), out=tmp_path, resume=True).state, first.state)
    assert_same_bits(load(tmp_path, _experiment()).state, first.state)


def _experiment():
    from dljax.core import Experiment

    return Experiment(network(), Lines(), steps=24)


@pytest.mark.parametrize("fail_at", [2, 14])
def test_what_the_source_raises_comes_out_and_no_thread_stays(fail_at, tmp_path):
    with pytest.raises(RuntimeError, match=f"no batch {fail_at}"):
        go(Lines(fail_at), out=tmp_path)
    assert not feeds()
    assert_same_bits(go(Lines(), out=tmp_path, resume=True).state, go(Lines()).state)


def test_error_in_the_loop_ends_the_feed():
    def fail(snapshot):
        raise KilledError

    with pytest.raises(KilledError):
        go(Lines(), callbacks=[fail])
    assert not feeds()


def test_chunk_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match=r"Lines.take\(4\) must stack 4 batches, got leading sizes \[5\]"):
        go(Lines(wrong=1))


def test_chunk_is_taken_ahead_and_its_position_is_its_own():
    source = Lines()
    feed = Feed(source, [2, 3, 1])
    try:
        chunks = [feed.next() for _ in range(3)]
    finally:
        feed.close()
    assert [chunk.position for chunk in chunks] == [b"2", b"5", b"6"]
    assert [chunk.batches["x"].shape[0] for chunk in chunks] == [2, 3, 1]
    again = Lines()
    again.restore(chunks[0].position)
    np.testing.assert_array_equal(again.take(3)["x"], chunks[1].batches["x"])


def test_feed_that_is_closed_early_stops_taking():
    source = Lines()
    feed = Feed(source, [1] * 1000)
    feed.next()
    feed.close()
    assert source.place < 10
    assert not feeds()


def test_source_that_is_fed_by_the_host_may_be_anything_with_three_methods():
    class Counter:
        def __init__(self):
            self.value = 0

        def take(self, num):
            self.value += num
            return np.arange(self.value - num, self.value, dtype=np.float32)

        def state(self):
            return str(self.value).encode()

        def restore(self, state):
            self.value = int(state)

    learner = Learner(lambda key, batch: {"params": 0.0}, lambda key, state, batch: ({"params": state["params"] + batch}, {"batch": batch}))
    run = fit(learner, Counter(), 6, config=FitConfig(every=1, chunk=3))
    assert run.history["batch"].tolist() == [0, 1, 2, 3, 4, 5]
    assert float(run.params) == 15


def test_grain_source_of_other_data_does_not_resume(tmp_path):
    go(grain_source(TRAINING, BATCH, seed=5), steps=8, out=tmp_path)
    with pytest.raises((ValueError, RunFolderError), match="seed was 5 and is 6"):
        go(grain_source(TRAINING, BATCH, seed=6), steps=16, out=tmp_path, resume=True)
