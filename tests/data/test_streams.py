"""Streams of one text: every segment goes on where the last one ended, and each next token is a target once."""

import jax
import numpy as np
import pytest

from dljax import data


def test_6_1_segments_of_every_stream_follow_each_other_and_begin_again():
    source = data.streams(np.arange(100), length=7, batch_size=3)
    cursor, batches = source.init(jax.random.key(0)), []
    step = jax.jit(source.next)
    for _ in range(6):
        cursor, batch = step(source.data, cursor)
        batches.append(batch)
    x = np.concatenate([batch["x"] for batch in batches[:4]], 1)  # 4 whole segments in 33 tokens a stream
    np.testing.assert_array_equal(x, 33 * np.arange(3)[:, None] + np.arange(28))
    for batch in batches:
        np.testing.assert_array_equal(batch["y"], batch["x"] + 1)
    assert [bool(batch["reset"].all()) for batch in batches] == [True, False, False, False, True, False]
    np.testing.assert_array_equal(batches[4]["x"], batches[0]["x"])


@pytest.mark.parametrize(("num", "length", "streams"), [(100, 7, 3), (8, 7, 1), (9, 2, 4), (12, 3, 5)])
def test_6_1_stream_segments_hold_each_next_token_once(num, length, streams):
    tokens = np.arange(num) + 5
    parts = data.stream_segments(tokens, length, streams)
    is_real = parts["mask"] > 0
    assert sorted(parts["y"][is_real].tolist()) == tokens[1:].tolist()
    np.testing.assert_array_equal(parts["y"][is_real], parts["x"][is_real] + 1)
    rows = parts["x"].reshape(-1, streams, length)
    real = is_real.reshape(-1, streams, length)
    for stream in range(streams):
        joined = rows[:, stream].ravel()[real[:, stream].ravel()]
        np.testing.assert_array_equal(np.diff(joined), 1)


def test_streams_refuse_too_few_tokens():
    with pytest.raises(ValueError, match="streams: 3 streams of segments of 4 need at least 13 tokens, got 12"):
        data.streams(np.arange(12), 4, 3)
    with pytest.raises(ValueError, match="streams: batch_size must be >= 1, got 0"):
        data.streams(np.arange(12), 4, 0)
    with pytest.raises(ValueError, match="stream_segments: num_streams must be >= 1, got 0"):
        data.stream_segments(np.arange(12), 4, 0)
    with pytest.raises(ValueError, match="stream_segments: tokens must be one sequence"):
        data.stream_segments(np.zeros(12), 4, 1)
