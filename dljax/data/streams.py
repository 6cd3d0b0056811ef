"""One long sequence read as several streams side by side, segment after segment: for models that carry their state from batch to batch."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from dljax.core.checks import check_int
from dljax.core.contract import Batch, Data, Key, Source
from dljax.data.sources import _token_array


def streams(tokens: Any, length: int, batch_size: int) -> Source:
    """Consecutive segments of one long sequence, cut into streams that are read side by side, with the next token at each place.

    Stream b begins at token b ⌊(N - 1) / B⌋; batch s holds the tokens sT ... sT + T - 1 of each. At their end all begin again, and say so by
    `reset`. Nothing is random; the few tokens that do not fill a segment of all streams are left out.

    Args:
      tokens: ids [N], N >= B·T + 1.
      length: T >= 1, tokens of a segment.
      batch_size: B >= 1, streams.
    Returns:
      A source of `{"x": int32 [B, T], "y": int32 [B, T], "reset": bool [B]}`, what `dljax.supervised.truncated_bptt` takes; its cursor counts the
      segments given.
    Raises:
      ValueError: `tokens` are no sequence of whole numbers or too few, or an option < 1.

    >>> import jax
    >>> source = streams(np.arange(13), length=3, batch_size=2)
    >>> cursor, first = source.next(source.data, source.init(jax.random.key(0)))
    >>> _, second = source.next(source.data, cursor)
    >>> first["x"].tolist(), second["x"].tolist(), first["reset"].tolist(), second["reset"].tolist()
    ([[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10, 11]], [True, True], [False, False])
    """
    check_int("streams", "batch_size", batch_size, minimum=1)
    tokens = _token_array("streams", tokens, length)
    span = (len(tokens) - 1) // batch_size
    num_segments = span // length
    if not num_segments:
        needed = batch_size * length + 1
        raise ValueError(f"streams: {batch_size} streams of segments of {length} need at least {needed} tokens, got {len(tokens)}")

    def init(key: Key) -> Int[Array, ""]:
        return jnp.int32(0)

    def next(data: Data, cursor: Int[Array, ""]) -> tuple[Int[Array, ""], Batch]:
        segment = cursor % num_segments
        starts = span * jnp.arange(batch_size, dtype=jnp.int32) + segment * length
        window = jnp.take(data["tokens"], starts[:, None] + jnp.arange(length + 1, dtype=jnp.int32)[None], axis=0, mode="clip").astype(jnp.int32)
        return cursor + 1, {"x": window[:, :-1], "y": window[:, 1:], "reset": jnp.broadcast_to(segment == 0, (batch_size,))}

    return Source(init, next, {"tokens": jnp.asarray(tokens)})


def stream_segments(tokens: Any, length: int, num_streams: int) -> dict[str, np.ndarray]:
    """One long sequence cut into streams and these into segments, each of its N - 1 next tokens a target exactly once: what to evaluate on.

    Args:
      tokens: ids [N], N >= length + 1.
      length: T >= 1.
      num_streams: B >= 1.
    Returns:
      `{"x": int32 [S·B, T], "y": int32 [S·B, T], "mask": float32 [S·B, T]}`: B rows, one of each stream, for the first segment, B for the second
      ..., so that with B rows a batch each batch goes on where the last one ended. The mask is 0 behind the end of a stream.
    Raises:
      ValueError: as `segments`.

    >>> parts = stream_segments([5, 6, 7, 8, 9, 10], length=2, num_streams=2)
    >>> parts["x"].tolist(), parts["mask"].tolist()
    ([[5, 6], [8, 9], [7, 8], [10, 10]], [[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    """
    check_int("stream_segments", "num_streams", num_streams, minimum=1)
    tokens = _token_array("stream_segments", tokens, length).astype(np.int32)
    num = len(tokens) - 1
    span = -(-num // num_streams)
    place = np.arange(-(-span // length) * length).reshape(-1, 1, length)  # in its stream, [S, 1, T]
    index = span * np.arange(num_streams)[:, None] + place  # [S, B, T]
    is_real = (place < span) & (index < num)
    x, y = tokens[np.minimum(index, num)], tokens[np.minimum(index + 1, num)]
    return {name: values.reshape(-1, length) for name, values in {"x": x, "y": y, "mask": is_real.astype(np.float32)}.items()}
