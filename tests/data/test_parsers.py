"""The parsers: real formats made by hand, known facts of the real data sets, hostile and damaged files."""

import gzip
import io
import os
import pickle
import struct

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dljax import data
from dljax.data import fetch, parsers


def at_hand(name):
    missing = data.info(name).missing
    return pytest.mark.skipif(bool(missing), reason=f"{name} is not on this machine: {missing}; set DLJAX_DATA, or run dljax data get {name}")


def idx(array, code=0x08, size=None):
    shape = array.shape if size is None else size
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(("code", "dtype"), [(8, "uint8"), (9, "int8"), (11, "int16"), (12, "int32"), (13, "float32"), (14, "float64")])
def test_idx_files_of_every_type_come_back(code, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    parsed = parsers.parse_idx(idx(array, code))
    assert parsed.dtype == dtype
    assert parsed.dtype.isnative
    np.testing.assert_array_equal(parsed, array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file"),
        (b"\x1f\x8b\x08\x00", "is no IDX file"),
        (bytes([0, 0, 7, 1, 0, 0, 0, 0]), "is no IDX file"),
        (bytes([0, 0, 8, 3, 0, 0]), "header of an IDX file of rank 3 has 16 bytes, got 6"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 9, 1, 2]), r"shape \(9,\) and type uint8 has 17 bytes, got 10; it is cut short"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 1, 2]), "has 9 bytes, got 10"),
        (idx(np.zeros(1, np.uint8), size=(2**31, 2**31, 2**31)), "it is cut short or damaged"),
    ],
)
def test_a_damaged_idx_file_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        parsers.parse_idx(content)


def test_mnist_files_need_as_many_labels_as_pictures():
    files = {f"{split}-images-idx3-ubyte.gz": idx(np.zeros((3, 2, 2), np.uint8)) for split in ("train", "t10k")}
    files |= {f"{split}-labels-idx1-ubyte.gz": idx(np.arange(3, dtype=np.uint8)) for split in ("train", "t10k")}
    parsed = parsers.parse_mnist(files)
    assert parsed["train"]["x"].shape == (3, 2, 2, 1)
    assert parsed["test"]["y"].tolist() == [0, 1, 2]
    assert parsed["test"]["y"].dtype == np.int32
    with pytest.raises(ValueError, match=r"got shapes \(3, 2, 2\) and \(2,\)"):
        parsers.parse_mnist(files | {"t10k-labels-idx1-ubyte.gz": idx(np.zeros(2, np.uint8))})


@at_hand("fashion-mnist")
def test_fashion_mnist_is_the_published_one():
    fashion = data.load("fashion-mnist")
    train, test = fashion["train"], fashion["test"]
    assert train["x"].shape == (60_000, 28, 28, 1)
    assert test["x"].shape == (10_000, 28, 28, 1)
    assert train["x"].dtype == np.uint8
    assert np.bincount(train["y"]).tolist() == [6000] * 10
    assert np.bincount(test["y"]).tolist() == [1000] * 10
    assert train["y"][:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert test["y"][:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    # The mean and deviation that the field normalises with.
    np.testing.assert_allclose(train["x"].mean() / 255, 0.2860, atol=5e-5)
    np.testing.assert_allclose(train["x"].std() / 255, 0.3530, atol=5e-5)


def test_digits_are_the_published_ones_with_the_last_360_for_the_test():
    digits = data.load("digits")
    x, labels = load_digits(return_X_y=True)
    for part, rows in {"train": slice(None, -360), "test": slice(-360, None)}.items():
        np.testing.assert_array_equal(digits[part]["x"].reshape(-1, 64), x[rows])
        np.testing.assert_array_equal(digits[part]["y"], labels[rows])
    y = np.concatenate([digits["train"]["y"], digits["test"]["y"]])
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert len(digits["test"]["y"]) == 360
    assert digits["train"]["x"].max() == 16
    assert digits["train"]["x"][0, :, :, 0].tolist()[0] == [0, 0, 5, 13, 9, 1, 0, 0]


@at_hand("tinyshakespeare")
def test_tiny_shakespeare_has_the_fields_vocabulary_and_split():
    shakespeare = data.load("tinyshakespeare")
    assert len(shakespeare["vocabulary"]) == 65
    assert shakespeare["vocabulary"][:3] == "\n !"
    assert len(shakespeare["train"]["tokens"]) == 1_003_854
    assert len(shakespeare["validation"]["tokens"]) == 111_540
    assert data.decode_text(shakespeare["train"]["tokens"][:30], shakespeare["vocabulary"]) == "First Citizen:\nBefore we proce"


def test_text_of_any_script_is_encoded_and_decoded():
    text = "naïve Ωμέγα 🦜\n"
    tokens, vocabulary = data.encode_text(text)
    assert tokens.dtype == np.int32
    assert vocabulary == "".join(sorted(set(text)))
    assert data.decode_text(tokens, vocabulary) == text
    assert data.encode_text("aa", vocabulary="ba")[0].tolist() == [1, 1]


def test_what_the_vocabulary_does_not_know_is_refused():
    with pytest.raises(ValueError, match="'z' is not in the vocabulary 'ab'"):
        data.encode_text("az", vocabulary="ab")
    with pytest.raises(ValueError, match="at least one character"):
        data.encode_text("")
    with pytest.raises(ValueError, match=r"tokens must be in \[0, 1\], got -1 to 2"):
        data.decode_text([2, -1], "ab")


@at_hand("cora")
def test_cora_has_the_known_size_classes_and_split():
    cora = data.load("cora")
    assert cora["x"].shape == (2708, 1433)
    assert set(np.unique(cora["x"])) == {0.0, 1.0}
    assert np.bincount(cora["y"]).tolist() == [351, 217, 418, 818, 426, 298, 180]
    assert [int(cora[mask].sum()) for mask in ("train_mask", "val_mask", "test_mask")] == [140, 500, 1000]
    assert np.bincount(cora["y"][cora["train_mask"]]).tolist() == [20] * 7
    assert not (cora["train_mask"] & cora["val_mask"] | cora["val_mask"] & cora["test_mask"]).any()
    senders, receivers = cora["senders"], cora["receivers"]
    assert len(senders) == len(receivers) == 2 * 5278
    edges = set(zip(senders.tolist(), receivers.tolist(), strict=True))
    assert len(edges) == 10_556
    assert all((receiver, sender) in edges and sender != receiver for sender, receiver in edges)
    assert (np.diff(receivers.astype(np.int64) * 2708 + senders) > 0).all()


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # the pickles name the module of scipy's past
@at_hand("cora")
def test_cora_equals_what_scipy_and_networkx_read_from_the_same_files():
    networkx = pytest.importorskip("networkx")
    pytest.importorskip("scipy")
    paths = data.where("cora")
    raw = {name.rpartition(".")[2]: pickle.loads(path.read_bytes(), encoding="latin1") for name, path in paths.items() if not name.endswith("index")}
    order = np.loadtxt(paths["ind.cora.test.index"], dtype=int)
    x = np.vstack([raw["allx"].toarray(), raw["tx"].toarray()])
    y = np.vstack([raw["ally"], raw["ty"]])
    x[order], y[order] = x[np.sort(order)], y[np.sort(order)]
    cora = data.load("cora")
    np.testing.assert_array_equal(cora["x"], x)
    np.testing.assert_array_equal(cora["y"], y.argmax(1))
    adjacency = networkx.to_numpy_array(networkx.from_dict_of_lists(raw["graph"]), nodelist=range(2708))
    np.fill_diagonal(adjacency, 0)
    mine = np.zeros_like(adjacency)
    mine[cora["senders"], cora["receivers"]] = 1
    np.testing.assert_array_equal(mine, adjacency)


def csr(dense):
    sparse = pytest.importorskip("scipy.sparse")
    return pickle.dumps(sparse.csr_matrix(dense), 3)


def planetoid(**changes):
    """Seven hundred nodes on a ring: two known training nodes, 698 known ones, and two test nodes in swapped order."""
    x = np.arange(1400, dtype=np.float32).reshape(700, 2)
    y = np.eye(2, dtype=np.int32)[np.arange(700) % 2]
    graph = {node: [(node + 1) % 700, (node + 1) % 700, node] for node in range(700)}
    known, swapped = slice(698), [699, 698]
    files = {"x": csr(x[:2]), "y": pickle.dumps(y[:2], 3), "allx": csr(x[known]), "ally": pickle.dumps(y[known], 3)}
    files |= {"tx": csr(x[swapped]), "ty": pickle.dumps(y[swapped], 3), "graph": pickle.dumps(graph, 2), "test.index": b"699\n698\n"}
    return {f"ind.ring.{name}": content for name, content in (files | changes).items()}


def test_planetoid_puts_the_test_nodes_where_the_index_says():
    ring = parsers.parse_planetoid(planetoid())
    np.testing.assert_array_equal(ring["x"], np.arange(1400).reshape(700, 2))
    np.testing.assert_array_equal(ring["y"], np.arange(700) % 2)
    assert len(ring["senders"]) == 1400
    assert sorted(ring["senders"][ring["receivers"] == 0].tolist()) == [1, 699]
    assert ring["train_mask"].nonzero()[0].tolist() == [0, 1]
    assert ring["test_mask"].nonzero()[0].tolist() == [698, 699]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test.index": b"698\n698\n"}, "test.index must be a permutation of 698 ... 699"),
        ({"test.index": b"699\n"}, "same number of rows"),
        ({"graph": pickle.dumps([1, 2], 2)}, "graph must be a dictionary of lists"),
        ({"graph": pickle.dumps({0: [700]}, 2)}, "edges must join nodes 0 ... 699, got 0 to 700"),
        ({"ally": pickle.dumps({0: [1]}, 2)}, "planetoid ally: must be a table of numbers"),
        ({"ally": pickle.dumps(np.array([[None]]), 3)}, "planetoid ally: must be a table of numbers"),
    ],
)
def test_planetoid_tables_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        parsers.parse_planetoid(planetoid(**changes))


class Hostile:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("call", [(os.system, "touch {path}"), (eval, "open('{path}', 'w')"), (io.open, "{path}", "w"), (np.load, "{path}")])
def test_a_pickle_that_calls_anything_is_refused_before_it_runs(tmp_path, call, protocol):
    path = tmp_path / "ran"
    function, *args = call
    bomb = pickle.dumps({"x": [Hostile(function, *(arg.format(path=path) for arg in args))]}, protocol)
    with pytest.raises(ValueError, match=r"cora.x: refuses to load \S+, only arrays, sparse matrices and dictionaries of lists are let in"):
        parsers.restricted_unpickle(bomb, "cora.x")
    assert not path.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.",  # an attribute of an allowed class
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",  # a dotted name
        b"cnumpy\nload\n.",
        b"ccopyreg\n_reconstructor\n.",
        b"Psomewhere\n.",
        b"\x82\x01.",  # the extension registry
    ],
)
def test_ways_round_the_list_of_names_are_refused(content):
    with pytest.raises(ValueError, match=r"refuses to load|is no readable pickle"):
        parsers.restricted_unpickle(content)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(np.arange(100), 3)[:-50], b"\x80\x02(lp0\n"])
def test_a_damaged_pickle_is_refused(content):
    with pytest.raises(ValueError, match=r"is no readable pickle|refuses to load"):
        parsers.restricted_unpickle(content, "graph")


@pytest.mark.parametrize("indices", [[0, 5], [0, -1], [0, 2**40], [0]])
def test_a_sparse_matrix_that_points_outside_itself_is_refused(indices):
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(np.eye(2, dtype=np.float32))
    matrix.indices = np.array(indices)
    with pytest.raises(ValueError, match="row starts and columns that fit its shape"):
        parsers.restricted_unpickle(pickle.dumps(matrix, 3))


def test_esol_is_read_by_its_header():
    table = b'a,smiles,measured log solubility in mols per litre,b\n1,C1CC1 ,-0.5,x\n"2,3",CC(=O)O,1.25,y\n'
    parsed = parsers.parse_esol({"delaney-processed.csv": table})
    assert parsed["smiles"].tolist() == ["C1CC1", "CC(=O)O"]
    assert parsed["y"].tolist() == [-0.5, 1.25]
    with pytest.raises(ValueError, match="must have columns 'smiles'"):
        parsers.parse_esol({"delaney-processed.csv": b"SMILES,y\nC,1\n"})


@at_hand("esol")
def test_esol_is_the_published_one():
    esol = data.load("esol")
    assert len(esol["smiles"]) == len(esol["y"]) == 1128
    assert esol["smiles"][0] == "OCC3OC(OCC2OC(OC(C#N)c1ccccc1)C(O)C(O)C2O)C(O)C(O)C3O"
    np.testing.assert_allclose([esol["y"][0], esol["y"].mean(), esol["y"].std(ddof=1)], [-0.77, -3.0501, 2.0964], atol=5e-5)


def test_the_karate_club_is_networkx_one():
    networkx = pytest.importorskip("networkx")
    club, karate = networkx.karate_club_graph(), data.load("karate")
    edges = {frozenset(edge) for edge in zip(karate["senders"].tolist(), karate["receivers"].tolist(), strict=True)}
    assert edges == {frozenset(edge) for edge in club.edges}
    assert len(edges) == 78
    assert len(karate["senders"]) == 156
    assert (np.diff(karate["receivers"]) >= 0).all()
    assert karate["y"].tolist() == [int(club.nodes[node]["club"] != "Mr. Hi") for node in range(34)]


def test_a_gzip_bomb_is_never_unpacked(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(10_000_000)))
    with pytest.raises(fetch.DamagedError, match="1000 bytes are expected when unpacked, got more than 1000"):
        fetch.content(path, data.File("bomb.gz", 1000, "0" * 64))
