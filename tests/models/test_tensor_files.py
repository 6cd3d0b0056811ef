"""Files of tensors: every type bit for bit, equal to the library's reading; and what is damaged, malicious or pickled is refused in words."""

import json
import re

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.models.tensor_files import DTYPES, read_tensors, write_tensors

RNG = np.random.default_rng(0)
EVERY_TYPE = {
    **{f"of.{dtype}": RNG.integers(0, 2, (3, 2)).astype(dtype) for dtype in DTYPES.values()},
    "nan": np.array([0x7FC00001, 0xFF800000, 0x80000000], np.uint32).view(np.float32),  # a NaN with a message, -inf, -0
    "scalar": np.float64(2.5),
    "empty": np.zeros((0, 4), np.float16),
    "odd": np.ones(3, np.int8),
}


def bits(tensors):
    return {name: (np.shape(array), str(np.asarray(array).dtype), np.asarray(array).tobytes()) for name, array in tensors.items()}


def crafted(path, header, numbers=b"", length=None):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(data) if length is None else length).to_bytes(8, "little") + data + numbers)
    return path


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_every_type_comes_back_bit_for_bit_and_as_the_library_reads_it(tmp_path):
    from safetensors.numpy import load_file, save_file

    path = write_tensors(tmp_path / "deep" / "all.safetensors", EVERY_TYPE, metadata={"format": "pt"})
    assert bits(read_tensors(path)) == bits(EVERY_TYPE)
    assert bits(load_file(path)) == bits(EVERY_TYPE)
    save_file({name: np.asarray(array) for name, array in EVERY_TYPE.items()}, tmp_path / "theirs.safetensors")
    assert bits(read_tensors(tmp_path / "theirs.safetensors")) == bits(EVERY_TYPE)
    assert [file.name for file in path.parent.iterdir()] == ["all.safetensors"]  # nothing half written is left


def test_a_transposed_view_is_written_as_the_matrix_it_shows(tmp_path):
    matrix = np.arange(6.0).reshape(2, 3)
    path = write_tensors(tmp_path / "x.safetensors", {"x": matrix.T, "sliced": matrix[:, ::2]})
    np.testing.assert_array_equal(read_tensors(path)["x"], matrix.T)
    np.testing.assert_array_equal(read_tensors(path)["sliced"], matrix[:, ::2])


def test_a_file_is_replaced_only_when_asked(tmp_path):
    path = write_tensors(tmp_path / "x.safetensors", {"x": np.zeros(2)})
    with pytest.raises(FileExistsError, match="exists; choose another path, or give overwrite=True"):
        write_tensors(path, {"x": np.ones(2)})
    np.testing.assert_array_equal(read_tensors(path)["x"], 0.0)
    write_tensors(path, {"x": np.ones(2)}, overwrite=True)
    np.testing.assert_array_equal(read_tensors(path)["x"], 1.0)
    with pytest.raises(ValueError, match=r"float8 is of type float8_e4m3fn; a safetensors file takes bfloat16, float16"):
        write_tensors(tmp_path / "y.safetensors", {"float8": np.ones(2, ml_dtypes.float8_e4m3fn)})
    assert len(list(tmp_path.iterdir())) == 1


BAD_HEADERS = {
    "not JSON": (b"{not json", b"", "is not the JSON it should be"),
    "not UTF-8": (b"{\xff}", b"", "is not the JSON it should be"),
    "nested without end": (b"[" * 100_000, b"", "is not the JSON it should be"),
    "a number of 5,000 digits": (b'{"x": {"shape": [' + b"9" * 5000 + b"]}}", b"", "is not the JSON it should be"),
    "a list": (b"[]", b"", "must be a JSON object, got []"),
    "a name twice": (b'{"x": 1, "x": 2}', b"", "'x' stands there twice"),
    "metadata of numbers": ({"__metadata__": {"format": 1}}, b"", "__metadata__ in the header of PATH must hold strings"),
    "no entry": ({"x": 3}, b"", "x in PATH must have dtype, shape and data_offsets, got 3"),
    "a field too many": ({"x": {**entry(), "code": "import os"}}, b"\0" * 8, "must have dtype, shape and data_offsets, got"),
    "an unknown type": ({"x": entry(dtype="F8_E4M3")}, b"\0" * 8, "x in PATH is of type 'F8_E4M3'; known are BF16, F16, F32"),
    "a type that is no string": ({"x": entry(dtype=["F32"])}, b"\0" * 8, "x in PATH is of type ['F32']; known are"),
    "a negative size": ({"x": entry(shape=(-1, -2))}, b"\0" * 8, "x in PATH must have at most 32 sizes >= 0, got shape [-1, -2]"),
    "a size that is a truth value": ({"x": entry(shape=(True, 2))}, b"\0" * 8, "sizes >= 0, got shape [True, 2]"),
    "a shape that is a number": ({"x": {**entry(), "shape": 2}}, b"\0" * 8, "sizes >= 0, got shape 2"),
    "a rank of 33": ({"x": entry(shape=(1,) * 33, end=4)}, b"\0" * 4, "at most 32 sizes"),
    "sizes that overflow": ({"x": entry(shape=(2**62, 2**62, 2**62))}, b"\0" * 8, "bytes, but its data_offsets are [0, 8]"),
    "offsets of another length": ({"x": entry(end=12)}, b"\0" * 12, "has shape [2] of F32, 8 bytes, but its data_offsets are [0, 12]"),
    "offsets the wrong way round": ({"x": entry(8, 0)}, b"\0" * 8, "8 bytes, but its data_offsets are [8, 0]"),
    "three offsets": ({"x": {**entry(), "data_offsets": [0, 4, 8]}}, b"\0" * 8, "must have two data_offsets >= 0, got [0, 4, 8]"),
    "beyond the file": ({"x": entry()}, b"\0" * 7, "take 8 bytes by its header, but 7 follow it"),
    "more than the tensors": ({"x": entry()}, b"\0" * 9, "take 8 bytes by its header, but 9 follow it"),
    "overlap": ({"x": entry(), "y": entry(4, 12)}, b"\0" * 12, "y in PATH starts at byte 4 and overlaps x, which ends at 8"),
    "one inside another": ({"x": entry(0, 16, (4,)), "y": entry(4, 12)}, b"\0" * 16, "y in PATH starts at byte 4 and overlaps x"),
    "a hole": ({"x": entry(), "y": entry(12, 20)}, b"\0" * 20, "y in PATH starts at byte 12 and leaves a hole behind x"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_damaged_or_malicious_header_is_refused_in_words(tmp_path, case):
    header, numbers, message = BAD_HEADERS[case]
    path = crafted(tmp_path / "x.safetensors", header, numbers)
    with pytest.raises(ValueError, match=re.escape(message.replace("PATH", str(path)))) as error:
        read_tensors(path)
    assert len(str(error.value)) < 1000  # however long the header is


@pytest.mark.parametrize(("data", "message"), [(b"", "cut short"), (b"\1\0\0", "cut short"), (b"\xff" * 8 + b"{}", "header of 18446744073709551615")])
def test_a_file_without_a_header_is_refused(tmp_path, data, message):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_tensors(tmp_path / "x.safetensors")


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 400), byte=st.integers(0, 255), length=st.integers(0, 400))
def test_a_flipped_byte_or_a_cut_gives_tensors_or_one_clear_error(tmp_path_factory, place, byte, length):
    path = tmp_path_factory.mktemp("flipped") / "x.safetensors"
    write_tensors(path, {"first.kernel": np.ones((2, 3), np.float32), "second": np.arange(4, dtype=np.int16)})
    data = bytearray(path.read_bytes())
    data[place % len(data)] = byte
    path.write_bytes(data[: length or None])
    try:
        assert len(read_tensors(path)) == 2
    except ValueError as error:
        assert str(path) in str(error) or "read_tensors" in str(error)  # noqa: PT017 (what it holds if it comes)


def test_pickled_weights_are_refused_with_what_to_do(tmp_path):
    for name, data in {"pytorch_model.bin": b"whatever", "named.safetensors": b"\x80\x04\x95\x10", "zipped.safetensors": b"PK\3\4"}.items():
        (tmp_path / name).write_bytes(data + b"\1" * 20)
        with pytest.raises(ValueError, match=r"pickled weights by its .*; a pickle can run any code, and dljax never opens one: .*save_pretrained"):
            read_tensors(tmp_path / name)
    with pytest.raises(ValueError, match=r"holds pickled weights only \(pytorch_model.bin\); a pickle can run any code"):
        read_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds neither model.safetensors nor model.safetensors.index.json"):
        read_tensors(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_tensors(tmp_path / "nowhere.safetensors")


def test_a_folder_of_several_files_is_read_by_its_index(tmp_path):
    write_tensors(tmp_path / "model-00001-of-00002.safetensors", {"a": np.zeros(2), "b": np.ones(3)})
    write_tensors(tmp_path / "model-00002-of-00002.safetensors", {"c": np.full(4, 2.0)})
    weight_map = {name: f"model-0000{number}-of-00002.safetensors" for name, number in (("a", 1), ("b", 1), ("c", 2))}
    index = tmp_path / "model.safetensors.index.json"

    def read(weight_map):
        index.write_text(json.dumps({"metadata": {"total_size": 72}, "weight_map": weight_map}))
        return read_tensors(tmp_path)

    assert {name: array.sum() for name, array in read(weight_map).items()} == {"a": 0.0, "b": 3.0, "c": 8.0}
    with pytest.raises(ValueError, match=r"model-00001-of-00002.safetensors should hold d by model.safetensors.index.json"):
        read(weight_map | {"d": weight_map["a"]})
    with pytest.raises(ValueError, match="should not hold b by"):
        read({name: weight_map[name] for name in "ac"})
    with pytest.raises(FileNotFoundError, match="model-3.safetensors"):
        read(weight_map | {"c": "model-3.safetensors"})
    for outside in ("../secret.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", "model.bin", ".safetensors"):
        with pytest.raises(ValueError, match="only a .safetensors file in the same folder is read"):
            read(weight_map | {"c": outside})
    with pytest.raises(ValueError, match="must have a weight_map from names to files"):
        read({"a": 3})
    index.write_text("{")
    with pytest.raises(ValueError, match="is not the JSON it should be"):
        read_tensors(tmp_path)
