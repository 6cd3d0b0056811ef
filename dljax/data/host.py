"""Sources for data larger than memory: Grain pipelines whose position is part of the checkpoint, over memory-mapped arrays or anything indexed."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dljax.core.checks import check_int
from dljax.core.contract import Batch
from dljax.core.unroll import num_rows
from dljax.data.sources import ROUNDS, SMALL, factors, feistel

_FORMAT = 1


class GrainSource:
    """Any Grain pipeline whose elements are batches, as a `HostSource`: taken in chunks, its position saved and restored exactly.

    Args:
      dataset: a `grain.MapDataset` or `grain.IterDataset` without end (`.repeat()`), of pytrees of arrays [B, ...] of fixed shapes.
      signature: what the order depends on, as JSON values; a state of another signature is refused.
      num_threads: threads that read ahead, for a `MapDataset`; >= 1.
      prefetch: how many batches they are ahead, >= 1.
    Raises:
      TypeError: `dataset` is no Grain pipeline.

    >>> import grain
    >>> source = GrainSource(grain.MapDataset.range(10).repeat().batch(4))
    >>> source.take(2).tolist()
    [[0, 1, 2, 3], [4, 5, 6, 7]]
    >>> later = GrainSource(grain.MapDataset.range(10).repeat().batch(4))
    >>> later.restore(source.state())
    >>> later.take(1).tolist()
    [[8, 9, 0, 1]]
    """

    def __init__(self, dataset: Any, signature: Mapping[str, Any] | None = None, *, num_threads: int = 2, prefetch: int = 8):
        import grain

        check_int("GrainSource", "num_threads", num_threads, minimum=1)
        check_int("GrainSource", "prefetch", prefetch, minimum=1)
        if isinstance(dataset, grain.MapDataset):
            dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch))
        if not isinstance(dataset, grain.IterDataset):
            raise TypeError(f"GrainSource: dataset must be a grain.MapDataset or grain.IterDataset of batches, got {type(dataset).__name__}")
        self._iterator = iter(dataset)
        self._signature = dict(signature or {})

    def take(self, num: int) -> Batch:
        """The next `num` batches, stacked: arrays [num, B, ...].

        Raises:
          ValueError: the pipeline ends, or its batches have different shapes.
        """
        check_int("GrainSource.take", "num", num, minimum=1)
        stack = None
        for i in range(num):
            try:
                batch = next(self._iterator)
            except StopIteration:
                raise ValueError("GrainSource: the pipeline has come to its end; add .repeat() before .batch()") from None
            if stack is None:
                stack = jax.tree.map(lambda leaf: np.empty((num, *np.shape(leaf)), np.asarray(leaf).dtype), batch)
            for rows, leaf in zip(jax.tree.leaves(stack), jax.tree.leaves(batch), strict=True):
                if rows.shape[1:] != np.shape(leaf):
                    raise ValueError(f"GrainSource: every batch must have the same shapes, got {np.shape(leaf)} after {rows.shape[1:]}")
                rows[i] = leaf
        return stack

    def state(self) -> bytes:
        """The position behind what was taken, as JSON."""
        return json.dumps({"format": _FORMAT, "signature": self._signature, "grain": self._iterator.get_state()}).encode()

    def restore(self, state: bytes) -> None:
        """Go to a position that `state` returned.

        Raises:
          ValueError: it is no such state, or one of a source with other data, batch size or seed.
        """
        try:
            content = json.loads(state)
            known, signature, position = content["format"], content["signature"], content["grain"]
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"GrainSource: is no state of a GrainSource: {state[:60]!r}") from None
        if known != _FORMAT:
            raise ValueError(f"GrainSource: the state has format {known}, this version of dljax reads format {_FORMAT}")
        if signature != self._signature:
            pairs = {name: (signature.get(name), self._signature.get(name)) for name in sorted({*signature, *self._signature})}
            changed = ", ".join(f"{name} was {old!r} and is {new!r}" for name, (old, new) in pairs.items() if old != new)
            raise ValueError(f"GrainSource: the state belongs to another source: {changed}")
        self._iterator.set_state(position)


def grain_source(
    dataset: Any,
    batch_size: int,
    *,
    seed: int = 0,
    transforms: Sequence[Any] = (),
    drop_last: bool = False,
    num_threads: int = 2,
    prefetch: int = 8,
) -> GrainSource:
    """Shuffled batches of data that need not fit into memory, read ahead by Grain.

    The order is that of `shuffled`, without replacement and epoch after epoch, a pure function of the seed; nothing of the size of the data
    is kept in memory.

    Args:
      dataset: a dict of arrays [N, ...], such as `open_arrays` gives, or anything with a length and `dataset[i]` -> example (a pytree of arrays).
      batch_size: B, 1 <= B <= N.
      seed: of the order and of random transforms, >= 0.
      transforms: applied to each example in turn: functions `example -> example`, `grain.transforms.Map` or `grain.transforms.RandomMap`, whose
        generator depends on the seed and the example's place in the order alone.
      drop_last: as in `shuffled`.
      num_threads, prefetch: as in `GrainSource`.
    Raises:
      ValueError: empty data, B not in [1, N], a negative option. TypeError: a transform of another kind.

    >>> source = grain_source({"x": np.arange(6)}, batch_size=2)
    >>> sorted(source.take(3)["x"].ravel().tolist())
    [0, 1, 2, 3, 4, 5]
    """
    size = num_rows(dataset) if isinstance(dataset, Mapping) else len(dataset)
    check_int("grain_source", "batch_size", batch_size, minimum=1)
    check_int("grain_source", "seed", seed, minimum=0)
    if batch_size > size:
        raise ValueError(f"grain_source: batch_size {batch_size} is larger than the data set ({size} examples); use at most {size}")
    steps = [_transform(transform) for transform in transforms]
    end = size - size % batch_size if drop_last else size

    def batch(step: int) -> Batch:
        position = step * batch_size + np.arange(batch_size)
        epoch, row = np.divmod(position, end)
        index = np.empty(batch_size, np.int64)
        for each in np.unique(epoch):
            index[epoch == each] = _permuted(seed, int(each), row[epoch == each], size)
        rows = None
        if isinstance(dataset, Mapping):
            rows = jax.tree.map(lambda leaf: np.asarray(leaf[index]), dict(dataset))
            if not steps:
                return rows
        examples = []
        for i, (place, which) in enumerate(zip(position.tolist(), index.tolist(), strict=True)):
            example = dataset[which] if rows is None else jax.tree.map(lambda leaf, i=i: leaf[i], rows)
            for number, apply in enumerate(steps):
                example = apply(example, (seed, place, number))
            examples.append(example)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)

    import grain

    # Practically without end: Grain numbers the batches, and each is a function of its number.
    pipeline = grain.MapDataset.range(2**62).map(batch)
    signature = {"examples": size, "batch_size": batch_size, "seed": seed, "drop_last": drop_last, "transforms": len(steps)}
    return GrainSource(pipeline, signature, num_threads=num_threads, prefetch=prefetch)


def open_arrays(folder: str | Path) -> dict[str, np.ndarray]:
    """The `.npy` files of a folder as memory-mapped arrays: rows are read from disk when they are used.

    Args:
      folder: with files such as `x.npy` [N, ...] and `y.npy` [N], written by `numpy.save`, or piece by piece by `numpy.lib.format.open_memmap`.
    Returns:
      `{"x": ..., "y": ...}`, read-only.
    Raises:
      FileNotFoundError: no such folder, or no `.npy` file in it.
      ValueError: arrays of unequal length, a damaged file, or one of Python objects (their pickles are never loaded).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", np.zeros((5, 2)))
    ...     open_arrays(folder)["x"].shape
    (5, 2)
    """
    paths = sorted(Path(folder).glob("*.npy"))
    if not paths:
        raise FileNotFoundError(f"open_arrays: {folder} must be a folder with files NAME.npy; write them with numpy.save")
    arrays = {}
    for path in paths:
        try:
            arrays[path.stem] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"open_arrays: {path}: is no array of numbers that numpy.save wrote ({error})") from None
    num_rows(arrays)
    return arrays


def _permuted(seed: int, epoch: int, row: np.ndarray, size: int) -> np.ndarray:
    """`permuted_index` in NumPy, for one epoch."""
    if size <= SMALL:
        return np.random.default_rng((seed, epoch)).permutation(size)[row]
    a, b = factors(size)
    salts = np.random.SeedSequence((seed, epoch)).generate_state(ROUNDS)
    place = feistel(row.astype(np.uint32), salts, a, b)
    while (outside := place >= size).any():
        place[outside] = feistel(place[outside], salts, a, b)
    return place.astype(np.int64)


def _transform(transform: Any) -> Callable[[Any, tuple[int, ...]], Any]:
    import grain

    if isinstance(transform, grain.transforms.RandomMap):
        return lambda example, seed: transform.random_map(example, np.random.default_rng(seed))
    if isinstance(transform, grain.transforms.Map):
        return lambda example, seed: transform.map(example)
    if callable(transform):
        return lambda example, seed: transform(example)
    kinds = "a function of an example, a grain.transforms.Map or a grain.transforms.RandomMap"
    raise TypeError(f"grain_source: a transform must be {kinds}, got {type(transform).__name__}")
