"""Parsers: from the bytes that upstream publishes to arrays. They trust nothing: sizes, ranges and pickled names are checked."""

import csv
import gzip
import importlib.util
import io
import math
import pickle
import struct
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_IDX_DTYPES = {0x08: np.uint8, 0x09: np.int8, 0x0B: np.int16, 0x0C: np.int32, 0x0D: np.float32, 0x0E: np.float64}


def parse_idx(data: bytes, name: str = "idx") -> np.ndarray:
    """An array in the IDX format of MNIST and its kin: two zero bytes, a type, the rank, the sizes (big-endian), the values.

    Args:
      data: the whole (decompressed) file.
      name: what to call it in errors.
    Returns:
      An array of the type and shape in the header, in the machine's byte order.
    Raises:
      ValueError: it is no IDX file, of an unknown type, or its length is not what its header says.

    >>> parse_idx(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]))
    array([[1, 2, 3],
           [4, 5, 6]], dtype=uint8)
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_DTYPES:
        raise ValueError(f"{name}: is no IDX file: it must start with 0, 0 and a type, got {data[:4]!r}")
    dtype, rank = np.dtype(_IDX_DTYPES[data[2]]), data[3]
    header = 4 + 4 * rank
    if len(data) < header:
        raise ValueError(f"{name}: the header of an IDX file of rank {rank} has {header} bytes, got {len(data)}")
    shape = struct.unpack(f">{rank}I", data[4:header])
    expected = header + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ValueError(f"{name}: an IDX file of shape {shape} and type {dtype} has {expected} bytes, got {len(data)}; it is cut short or damaged")
    return np.frombuffer(data, dtype.newbyteorder(">"), offset=header).reshape(shape).astype(dtype)


def parse_mnist(files: Mapping[str, bytes]) -> dict[str, Any]:
    """MNIST's four files as `{"train": {"x", "y"}, "test": {"x", "y"}}`: x uint8 [N, 28, 28, 1], y int32 [N]."""
    result = {}
    for split, prefix in {"train": "train", "test": "t10k"}.items():
        images = parse_idx(files[f"{prefix}-images-idx3-ubyte.gz"], f"{prefix}-images")
        labels = parse_idx(files[f"{prefix}-labels-idx1-ubyte.gz"], f"{prefix}-labels")
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise ValueError(f"{prefix}: pictures [N, H, W] and labels [N] are expected, got shapes {images.shape} and {labels.shape}")
        result[split] = {"x": images[..., None], "y": labels.astype(np.int32)}
    return result


def encode_text(text: str, vocabulary: str | None = None) -> tuple[np.ndarray, str]:
    """Text as character ids.

    Args:
      vocabulary: the characters, id 0 first; None takes those of the text, sorted by code point.
    Returns:
      `(tokens, vocabulary)`, tokens int32 [T].
    Raises:
      ValueError: empty text, or a character that is not in the vocabulary.

    >>> tokens, vocabulary = encode_text("banana")
    >>> tokens.tolist(), vocabulary
    ([1, 0, 2, 0, 2, 0], 'abn')
    """
    if not text:
        raise ValueError("encode_text: text must have at least one character, got ''")
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    if vocabulary is None:
        vocabulary = "".join(map(chr, np.unique(codes)))
    table = np.frombuffer(vocabulary.encode("utf-32-le"), np.uint32)
    order = np.argsort(table)
    place = np.minimum(np.searchsorted(table[order], codes), len(table) - 1)
    unknown = table[order][place] != codes
    if unknown.any():
        raise ValueError(f"encode_text: {chr(codes[unknown.argmax()])!r} is not in the vocabulary {vocabulary!r}")
    return order[place].astype(np.int32), vocabulary


def decode_text(tokens: Any, vocabulary: str) -> str:
    """Character ids as text, the inverse of `encode_text`.

    Raises:
      ValueError: an id outside [0, len(vocabulary)).

    >>> decode_text([1, 0, 2, 0, 2, 0], "abn")
    'banana'
    """
    tokens = np.asarray(tokens)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(vocabulary):
        raise ValueError(f"decode_text: tokens must be in [0, {len(vocabulary) - 1}], got {tokens.min()} to {tokens.max()}")
    return "".join(vocabulary[token] for token in tokens.ravel().tolist())


def parse_text(files: Mapping[str, bytes]) -> dict[str, Any]:
    """One text as `{"train": {"tokens"}, "validation": {"tokens"}, "vocabulary"}`: the first 90 % of the characters train, the rest validate."""
    (data,) = files.values()
    tokens, vocabulary = encode_text(data.decode("utf-8"))
    split = int(0.9 * len(tokens))
    return {"train": {"tokens": tokens[:split]}, "validation": {"tokens": tokens[split:]}, "vocabulary": vocabulary}


def parse_planetoid(files: Mapping[str, bytes]) -> dict[str, Any]:
    """A citation graph in the format of Planetoid, with its public split.

    Upstream keeps the nodes 0 ... n-1 in `allx`, and those of the test set, shuffled, in `tx`: row i of `tx` is node `test.index[i]`.

    Returns:
      x float32 [N, D] as published (binary words, rows not normalised), y int32 [N], `senders` and `receivers` int32 [E] (both directions,
      no duplicates, no self-loops, sorted by receiver, then sender), `train_mask` (20 a class), `val_mask` (the next 500), `test_mask` bool [N].
    Raises:
      ValueError: a pickle that names anything but arrays, sparse matrices and dictionaries of lists, or tables that do not fit together.

    Source: Yang, Cohen & Salakhutdinov (2016), Revisiting semi-supervised learning with graph embeddings, arXiv:1603.08861.
    """
    parts = {name.rpartition(".")[2]: data for name, data in files.items()}
    known_x, known_y, test_x, test_y, train_y = (_table(parts, part) for part in ("allx", "ally", "tx", "ty", "y"))
    graph = restricted_unpickle(parts["graph"], "planetoid graph")
    index = np.array(parts["index"].split(), dtype=np.int64)
    num_train, num_known, num_nodes = len(train_y), len(known_y), len(known_y) + len(index)
    if len(known_x) != num_known or not len(test_x) == len(test_y) == len(index) or num_train + 500 > num_known:
        raise ValueError("planetoid: features, labels and test.index must have the same number of rows")
    if not np.array_equal(np.sort(index), np.arange(num_known, num_nodes)):
        raise ValueError(f"planetoid: test.index must be a permutation of {num_known} ... {num_nodes - 1}")
    if not isinstance(graph, dict) or not all(isinstance(others, list) for others in graph.values()):
        raise ValueError("planetoid: graph must be a dictionary of lists")
    # Rows in the files' order first, then each test row to its node.
    x = np.concatenate([known_x, test_x]).astype(np.float32)
    y = np.concatenate([known_y, test_y]).argmax(1).astype(np.int32)
    x[index], y[index] = x[num_known:].copy(), y[num_known:].copy()
    senders, receivers = _undirected([(node, other) for node, others in graph.items() for other in others], num_nodes)
    nodes = np.arange(num_nodes)
    return {
        "x": x,
        "y": y,
        "senders": senders,
        "receivers": receivers,
        "train_mask": nodes < num_train,
        "val_mask": (nodes >= num_train) & (nodes < num_train + 500),
        "test_mask": nodes >= num_known,
    }


def restricted_unpickle(data: bytes, name: str = "pickle") -> Any:
    """A pickle of arrays, sparse matrices and dictionaries of lists, and nothing else: no other name is ever looked up, so no code can run.

    Args:
      data: the pickle, written by Python 2 or 3.
      name: what to call it in errors.
    Raises:
      ValueError: it names anything else, or is damaged.

    >>> restricted_unpickle(pickle.dumps({0: [1, 2]}))
    {0: [1, 2]}
    >>> restricted_unpickle(b"cos\\nsystem\\n(S'true'\\ntR.")
    Traceback (most recent call last):
    ValueError: pickle: refuses to load os.system, only arrays, sparse matrices and dictionaries of lists are let in; do not trust this file
    """
    try:
        value = _Restricted(data, name).load()
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"{name}: is no readable pickle ({type(error).__name__}: {error})") from None
    return value.dense if isinstance(value, _SparseRows) else value


def parse_esol(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Delaney's table as `{"smiles", "y"}`: SMILES [N] as strings, and the measured log10 solubility in mol/l, float32 [N]."""
    (data,) = files.values()
    rows = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""))
    target = "measured log solubility in mols per litre"
    if not {"smiles", target} <= set(rows.fieldnames or ()):
        raise ValueError(f"esol: the table must have columns 'smiles' and {target!r}, got {rows.fieldnames}")
    table = [(row["smiles"].strip(), float(row[target])) for row in rows]
    smiles, y = zip(*table, strict=True)
    return {"smiles": np.array(smiles), "y": np.array(y, np.float32)}


def parse_digits(files: Mapping[str, bytes]) -> dict[str, Any]:
    """scikit-learn's 1,797 handwritten digits: x uint8 [N, 8, 8, 1] with values 0 ... 16, y int32 [N]; the last 360 are the test set.

    The digits come writer by writer, so the test set is by writers that the training set has hardly seen.
    """
    # Not through sklearn.datasets: importing it takes longer than learning the digits.
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("digits: they come with scikit-learn, which is not installed; `pip install scikit-learn`")
    packed = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), np.uint8, delimiter=",")
    x, y = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int32)
    return {"train": {"x": x[:-360], "y": y[:-360]}, "test": {"x": x[-360:], "y": y[-360:]}}


def parse_karate(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Zachary's karate club: 34 members, 78 friendships, and the two factions it split into (0 with the instructor, 1 with the president).

    Returns:
      x float32 [34, 34] (the identity: a member has no features), y int32 [34], `senders` and `receivers` int32 [156], both directions,
      sorted by receiver.

    Source: Zachary (1977), An information flow model for conflict and fission in small groups, J. Anthropological Research 33.
    """
    senders, receivers = _undirected([(node, other) for node, others in enumerate(_KARATE) for other in others], 34)
    instructor = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 16, 17, 19, 21)
    y = np.ones(34, np.int32)
    y[list(instructor)] = 0
    return {"x": np.eye(34, dtype=np.float32), "y": y, "senders": senders, "receivers": receivers}


# Friends of each member with a larger number, members counted from 0.
_KARATE = (
    (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 17, 19, 21, 31),
    (2, 3, 7, 13, 17, 19, 21, 30),
    (3, 7, 8, 9, 13, 27, 28, 32),
    (7, 12, 13),
    (6, 10),
    (6, 10, 16),
    (16,),
    (),
    (30, 32, 33),
    (33,),
    (),
    (),
    (),
    (33,),
    (32, 33),
    (32, 33),
    (),
    (),
    (32, 33),
    (33,),
    (32, 33),
    (),
    (32, 33),
    (25, 27, 29, 32, 33),
    (25, 27, 31),
    (31,),
    (29, 33),
    (33,),
    (31, 33),
    (32, 33),
    (32, 33),
    (32, 33),
    (33,),
    (),
)


class _SparseRows:
    """What a pickled scipy.sparse.csr_matrix becomes: scipy would trust its indices, and read or write anywhere."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or not {"indptr", "indices", "data"} <= set(state):
            raise ValueError("a sparse matrix must have indptr, indices and data")
        num_rows, num_columns = state.get("_shape") or state["shape"]
        starts, columns, values = (np.asarray(state[name]) for name in ("indptr", "indices", "data"))
        lengths = np.diff(starts)
        is_sound = len(lengths) == num_rows and starts[0] == 0 and starts[-1] == len(columns) == len(values) and np.all(lengths >= 0)
        if not is_sound or (columns.size and not 0 <= columns.min() <= columns.max() < num_columns):
            raise ValueError("a sparse matrix must have row starts and columns that fit its shape")
        self.dense = np.zeros((num_rows, num_columns), values.dtype)
        np.add.at(self.dense, (np.repeat(np.arange(num_rows), lengths), columns), values)


# All that a pickle may name, and what it gets: `find_class` looks nothing up.
_RECONSTRUCT = np.ndarray.__reduce__(np.empty(0))[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("scipy.sparse.csr", "csr_matrix"): _SparseRows,
    ("scipy.sparse._csr", "csr_matrix"): _SparseRows,
    ("collections", "defaultdict"): defaultdict,
    ("__builtin__", "list"): list,
    ("builtins", "list"): list,
}


class _RefusedError(Exception):
    pass


class _Restricted(pickle.Unpickler):
    def __init__(self, data: bytes, name: str):
        # Python 2 pickled the bytes of arrays as text: latin1 gives them back one to one.
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            allowed = "only arrays, sparse matrices and dictionaries of lists are let in"
            raise _RefusedError(f"{self._name}: refuses to load {module}.{name}, {allowed}; do not trust this file")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError(f"{self._name}: refuses to load the external object {pid!r}; do not trust this file")


def _table(parts: Mapping[str, bytes], part: str) -> np.ndarray:
    table = restricted_unpickle(parts[part], f"planetoid {part}")
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.dtype == object:
        raise ValueError(f"planetoid {part}: must be a table of numbers [N, D], got {type(table).__name__} of shape {np.shape(table)}")
    return table


def _undirected(pairs: list[tuple[int, int]], num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.array(pairs, np.int64).reshape(-1, 2)
    if edges.size and not 0 <= edges.min() <= edges.max() < num_nodes:
        raise ValueError(f"graph: edges must join nodes 0 ... {num_nodes - 1}, got {edges.min()} to {edges.max()}")
    edges = edges[edges[:, 0] != edges[:, 1]]
    # One number an edge, receiver first: np.unique removes duplicates and sorts by receiver, then sender.
    codes = np.unique(np.concatenate([edges[:, 0] * num_nodes + edges[:, 1], edges[:, 1] * num_nodes + edges[:, 0]]))
    return (codes % num_nodes).astype(np.int32), (codes // num_nodes).astype(np.int32)
