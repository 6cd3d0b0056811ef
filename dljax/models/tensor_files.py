"""Tensors in files: safetensors read with suspicion and written whole or not at all; pickled weights are never opened.

A file is 8 bytes with the length n of the header, n bytes of JSON `{name: {"dtype", "shape", "data_offsets"}}`, and the numbers one after another.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32), "F64": np.dtype(np.float64),
    "I8": np.dtype(np.int8), "I16": np.dtype(np.int16), "I32": np.dtype(np.int32), "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8), "U16": np.dtype(np.uint16), "U32": np.dtype(np.uint32), "U64": np.dtype(np.uint64), "BOOL": np.dtype(np.bool_),
}  # fmt: skip
_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_LONGEST_HEADER = 100_000_000  # bytes, the library's own limit
_HIGHEST_RANK = 32


def read_tensors(path: Path | str) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file, or of a folder as the libraries of Hugging Face write it.

    Nothing that the file says is believed before it is checked, and nothing in it is run.

    Args:
      path: a `.safetensors` file; or a folder with `model.safetensors`, or with `model.safetensors.index.json` and the files that it names.
    Returns:
      `name -> array` in the file's own types (bfloat16, float16 ... float64, whole numbers, booleans), bit for bit.
    Raises:
      FileNotFoundError: there is no such file, or no weights in the folder. ValueError: pickled weights; a damaged or malicious header (too long, no
        JSON, an unknown type, a negative size, tensors that overlap, leave holes or reach beyond the file); an index that names a path outside the
        folder or tensors that its files do not hold.
    Source: the format of safetensors, https://huggingface.co/docs/safetensors.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_tensors(Path(folder) / "two.safetensors", {"kernel": np.ones((2, 3)), "step": np.int32(7)})
    ...     {name: (array.shape, str(array.dtype)) for name, array in sorted(read_tensors(path).items())}
    {'kernel': ((2, 3), 'float64'), 'step': ((), 'int32')}
    """
    path = Path(path)
    if not path.is_dir():
        return _read_file(path)
    if (path / _FILE).is_file():
        return _read_file(path / _FILE)
    if (path / _INDEX).is_file():
        return _read_shards(path)
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLES)
    if pickled:
        raise ValueError(f"read_tensors: {path} holds pickled weights only ({', '.join(pickled)}); {_CONVERT}")
    raise FileNotFoundError(f"read_tensors: {path} holds neither {_FILE} nor {_INDEX}")


def write_tensors(path: Path | str, tensors: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None, overwrite: bool = False) -> Path:
    """Write a safetensors file, whole or not at all.

    Args:
      tensors: `name -> array`; types are kept.
      metadata: strings to keep with them, such as `{"format": "pt"}`, which transformers asks for.
      overwrite: whether a file that is there already is replaced.
    Returns:
      The path.
    Raises:
      FileExistsError: the file exists, without `overwrite`. ValueError: an array of a type that the format, or this library, does not have.

    >>> write_tensors("weights.safetensors", {"x": np.zeros(2, complex)})
    Traceback (most recent call last):
    ValueError: write_tensors: x is of type complex128; a safetensors file takes bfloat16, float16, ...
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"write_tensors: {path} exists; choose another path, or give overwrite=True to replace it")
    # The library writes the memory as it lies: a transposed view would come back as another matrix.
    arrays = {name: np.array(array, order="C") for name, array in tensors.items()}
    for name, array in arrays.items():
        if array.dtype not in DTYPES.values():
            raise ValueError(f"write_tensors: {name} is of type {array.dtype}; a safetensors file takes {', '.join(map(str, DTYPES.values()))}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        save_file(arrays, partial, metadata=None if metadata is None else dict(metadata))
        place_file(partial, path, overwrite=overwrite)
    finally:
        partial.unlink(missing_ok=True)
    return path


def place_file(partial: Path, path: Path, *, overwrite: bool) -> None:
    """Give a finished file its name in one move; without `overwrite` only where nothing bears it yet.

    Raises:
      FileExistsError: the name was taken meanwhile.
    """
    if not overwrite:
        with suppress(OSError):
            os.link(partial, path)
            return
        if path.exists():
            raise FileExistsError(f"write_tensors: {path} exists; choose another path, or give overwrite=True to replace it")
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that is not trusted: of bounded size, every key once.

    Raises:
      FileNotFoundError: it is not there. ValueError: it is too long, no JSON, or no object.
    """
    if path.stat().st_size > _LONGEST_HEADER:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; at most {_LONGEST_HEADER} are read")
    return _json_object(path.read_bytes(), str(path))


_CONVERT = (
    "a pickle can run any code, and dljax never opens one: take the model's safetensors file, or convert the weights where you trust them, "
    "with transformers `model.save_pretrained(folder, safe_serialization=True)` or with `safetensors.torch.save_file(state_dict, path)`"
)


class _Entry(NamedTuple):
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"read_tensors: there is no file {path}")
    if path.suffix in _PICKLES:
        raise ValueError(f"read_tensors: {path} is no safetensors file but pickled weights by its name; {_CONVERT}")
    with path.open("rb") as file:
        entries, begin = _header(file, path)
        file.seek(begin)
        numbers = np.frombuffer(file.read(), np.uint8)
    if entries and len(numbers) < entries[-1].end:
        raise ValueError(f"read_tensors: {path} was cut short while it was read")
    # One block, of which the tensors are views: NumPy reads them unaligned as well.
    return {entry.name: numbers[entry.begin : entry.end].view(entry.dtype).reshape(entry.shape) for entry in entries}


def _header(file: Any, path: Path) -> tuple[list[_Entry], int]:
    """The entries by their place in the file, and where the numbers begin."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(size - 8, _LONGEST_HEADER):
        if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise ValueError(f"read_tensors: {path} is no safetensors file but pickled weights by its first bytes; {_CONVERT}")
        raise ValueError(
            f"read_tensors: {path} has a header of {length} bytes by its own account, but {max(size - 8, 0)} bytes follow "
            f"(and at most {_LONGEST_HEADER} are read); it is no safetensors file, or it is cut short"
        )
    header = _json_object(file.read(length), f"the header of {path}")
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        raise ValueError(f"read_tensors: __metadata__ in the header of {path} must hold strings, got {_short(metadata)}")
    entries = sorted((_entry(name, value, path) for name, value in header.items()), key=lambda entry: (entry.begin, entry.end))
    place, before = 0, "the header"
    for entry in entries:
        if entry.begin != place:
            what = "overlaps" if entry.begin < place else "leaves a hole behind"
            raise ValueError(f"read_tensors: {entry.name} in {path} starts at byte {entry.begin} and {what} {before}, which ends at {place}")
        place, before = entry.end, entry.name
    if place != size - 8 - length:
        raise ValueError(f"read_tensors: the tensors of {path} take {place} bytes by its header, but {size - 8 - length} follow it; it is damaged")
    return entries, 8 + length


def _entry(name: str, value: Any, path: Path) -> _Entry:
    who = f"read_tensors: {name[:200]} in {path}"
    if not (isinstance(value, dict) and set(value) == {"dtype", "shape", "data_offsets"}):
        raise ValueError(f"{who} must have dtype, shape and data_offsets, got {_short(value)}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not (isinstance(dtype, str) and dtype in DTYPES):
        raise ValueError(f"{who} is of type {_short(dtype)}; known are {', '.join(DTYPES)}")
    if not (_are_sizes(shape) and len(shape) <= _HIGHEST_RANK):
        raise ValueError(f"{who} must have at most {_HIGHEST_RANK} sizes >= 0, got shape {_short(shape)}")
    if not (_are_sizes(offsets) and len(offsets) == 2):
        raise ValueError(f"{who} must have two data_offsets >= 0, got {_short(offsets)}")
    num_bytes = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != num_bytes:
        raise ValueError(f"{who} has shape {_short(shape)} of {dtype}, {_short(num_bytes)} bytes, but its data_offsets are {_short(offsets)}")
    return _Entry(name, DTYPES[dtype], tuple(shape), *offsets)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)


def _json_object(data: bytes, who: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
        return result

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{who} is not the JSON it should be ({_short(str(error))}); it is damaged") from None
    if not isinstance(value, dict):
        raise ValueError(f"{who} must be a JSON object, got {_short(value)}")
    return value


def _read_shards(folder: Path) -> dict[str, np.ndarray]:
    index = folder / _INDEX
    weight_map = read_json(index).get("weight_map")
    if not (isinstance(weight_map, dict) and all(isinstance(file, str) for file in weight_map.values())):
        raise ValueError(f"read_tensors: {index} must have a weight_map from names to files, got {_short(weight_map)}")
    for name, file in weight_map.items():
        if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", file, re.ASCII):
            raise ValueError(f"read_tensors: {index} puts {name} into {_short(file)}; only a .safetensors file in the same folder is read")
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(weight_map.values())):
        shard = _read_file(folder / file)
        promised = {name for name, place in weight_map.items() if place == file}
        if set(shard) != promised:
            raise ValueError(f"read_tensors: {folder / file} {'; '.join(_differences(set(shard), promised))} by {index.name}")
        tensors |= shard
    return tensors


def _differences(held: set[str], promised: set[str]) -> Iterator[str]:
    for verb, names in (("should hold", promised - held), ("should not hold", held - promised)):
        if names:
            yield f"{verb} {', '.join(sorted(names))}"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= 200 else f"{text[:200]}..."
