"""Feeding a compiled chunk from a `HostSource`: a thread takes the next chunk while the device works on this one."""

import queue
import threading
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dljax.core.contract import Batch, Cursor, Data, HostSource, Key, Source


class Chunk(NamedTuple):
    """The batches of a chunk, leaves [num, B, ...], and the source's position behind them."""

    batches: Batch
    position: bytes


class Feed:
    """Takes chunks of the given lengths, one ahead.

    Args:
      source: used by no one else from now on.
      lengths: steps of each chunk, in order.
    """

    def __init__(self, source: HostSource, lengths: Iterable[int]) -> None:
        self._source, self._lengths = source, list(lengths)
        self._queue: queue.Queue[Chunk | BaseException] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dljax-feed", daemon=True)
        self._thread.start()

    def next(self) -> Chunk:
        """The next chunk; waits for it.

        Raises:
          whatever the source raised.
        """
        chunk = self._queue.get()
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk

    def close(self) -> None:
        """Stop taking; the chunk under way is finished first."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _work(self) -> None:
        try:
            for length in self._lengths:
                if self._closed.is_set():
                    return
                batches = self._source.take(length)
                sizes = {leaf.shape[0] for leaf in jax.tree.leaves(batches)}
                if sizes != {length}:
                    raise ValueError(f"{type(self._source).__name__}.take({length}) must stack {length} batches, got leading sizes {sorted(sizes)}")
                self._queue.put(Chunk(batches, self._source.state()))
        except BaseException as error:  # raised where the chunk is wanted
            self._queue.put(error)


def stacked(batches: Batch) -> Source:
    """A chunk's batches as a source that hands out one after another."""

    def init(key: Key) -> Cursor:
        return jnp.int32(0)

    def next_batch(data: Data, cursor: Cursor) -> tuple[Cursor, Batch]:
        return cursor + 1, jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, cursor, keepdims=False), data)

    return Source(init, next_batch, batches)
