"""Pronunciations of words: the dictionary's format, words and phonemes as padded ids, and a split in which no word is in both halves."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dljax.core.checks import check_int, check_range

_VARIANT = re.compile(r"\(\d+\)$")


def parse_cmudict(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The CMU pronouncing dictionary: one pronunciation a line, `hello(2) HH EH0 L OW1 # comment`, the variants of a word numbered.

    Returns:
      `words`, strings [N] in the dictionary's order, each once; `pronunciations`, for each word a tuple of its variants, each a tuple of phonemes,
      vowels with their stress (0 none, 1 primary, 2 secondary); `phonemes`, all of them without stress, sorted.
    Raises:
      ValueError: a line without phonemes, or with something else than capital letters and a digit for one.

    >>> parsed = parse_cmudict({"cmudict.dict": b"aalto AA1 L T OW2 # name, finnish\\nhello HH AH0 L OW1\\nhello(2) HH EH0 L OW1\\n"})
    >>> parsed["words"].tolist(), parsed["pronunciations"][1][1], parsed["phonemes"]
    (['aalto', 'hello'], ('HH', 'EH0', 'L', 'OW1'), ('AA', 'AH', 'EH', 'HH', 'L', 'OW', 'T'))
    """
    (data,) = files.values()
    found: dict[str, list[tuple[str, ...]]] = {}
    for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
        word, *phonemes = line.partition("#")[0].split() or [""]
        if not word:
            continue
        if not phonemes or not all(re.fullmatch("[A-Z]+[012]?", phoneme) for phoneme in phonemes):
            raise ValueError(f"cmudict: line {number} must be a word and its phonemes, got {line!r}")
        found.setdefault(_VARIANT.sub("", word), []).append(tuple(phonemes))
    bare = {without_stress(phoneme) for variants in found.values() for variant in variants for phoneme in variant}
    return {"words": np.array(list(found)), "pronunciations": [tuple(variants) for variants in found.values()], "phonemes": tuple(sorted(bare))}


def without_stress(phoneme: str) -> str:
    """A phoneme without its digit.

    >>> without_stress("OW1"), without_stress("HH")
    ('OW', 'HH')
    """
    return phoneme.rstrip("012")


def split_words(words: Sequence[str], fraction: float = 0.1) -> np.ndarray:
    """Which words are held out: a hash decides word by word, so that the answer depends neither on the order nor on the other words.

    Args:
      fraction: about how many are held out, in [0, 1].
    Returns:
      bool [N].
    Raises:
      ValueError: `fraction` is outside.

    >>> split_words(["hello", "world"], 0.0).tolist()
    [False, False]
    """
    check_range("split_words", "fraction", fraction, 0, 1)
    parts = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") for word in words]
    return np.array([part < fraction * 2**64 for part in parts], bool)


def encode_tokens(sequences: Sequence[Sequence[str]], vocabulary: Sequence[str], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of tokens as ids, padded to one length with id 0.

    Args:
      sequences: words as strings of letters, or tuples of phonemes.
      vocabulary: the tokens, id 0 first; what stands for padding should be the first.
      length: of the rows; None for the longest sequence's, and at least 1.
    Returns:
      ids int32 [N, length] and lengths int32 [N].
    Raises:
      ValueError: a token that is not in the vocabulary, or a sequence that is longer than `length`.

    >>> ids, lengths = encode_tokens(["ba", "c"], "-abc")
    >>> ids.tolist(), lengths.tolist()
    ([[2, 1], [3, 0]], [2, 1])
    """
    place = {token: number for number, token in enumerate(vocabulary)}
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    longest = int(lengths.max(initial=1))
    length = longest if length is None else check_int("encode_tokens", "length", length, minimum=1)
    if longest > length:
        raise ValueError(f"encode_tokens: length {length} is too short for {sequences[int(lengths.argmax())]!r}, which has {longest} tokens")
    ids = np.zeros((len(sequences), length), np.int32)
    for row, sequence in zip(ids, sequences, strict=True):
        try:
            row[: len(sequence)] = [place[token] for token in sequence]
        except KeyError as error:
            raise ValueError(f"encode_tokens: {error.args[0]!r} of {sequence!r} is not in the vocabulary") from None
    return ids, lengths
