"""The phrase table: phrases against all that there are, scores by hand, and the search against every way to translate."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljax.models.phrases import EDGE, UNKNOWN, Bigrams, PhraseTable, PhraseWeights, consistent_phrases, phrase_table

PLACES = st.frozensets(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=9)
PAIRS = ["the red house = la casa roja", "the house = la casa", "a red book = un libro rojo", "house = casa", "book = libro", "the = la", "a = un"]
BITEXT = [[pair.split(" = ")[side].split() for pair in PAIRS] for side in (0, 1)]


@given(PLACES, st.integers(1, 5))
def test_8_3_phrases_are_all_that_the_alignment_allows(links, max_length):
    spans = [(first, last) for first in range(5) for last in range(first + 1, min(first + max_length, 5) + 1)]
    expected = []
    for (first, last), (begin, end) in product(spans, spans):
        inside = [first <= i < last and begin <= j < end for i, j in links]
        touching = [first <= i < last or begin <= j < end for i, j in links]
        if any(inside) and inside == touching:
            expected.append((first, last, begin, end))
    assert sorted(consistent_phrases(links, 5, 5, max_length=max_length)) == sorted(expected)


def test_8_3_a_phrase_is_scored_by_how_often_it_was_seen_each_way():
    table = phrase_table(*BITEXT, tension=0.0, iterations=20, weights=PhraseWeights(phrases=1.0, words=0.0, language=0.0, length=0.0))
    # "red" was seen as "roja" and as "rojo", each of which was seen for nothing else; "the" as "la" only.
    assert dict(table.phrases["red",]) == pytest.approx({("roja",): math.log(1 / 2), ("rojo",): math.log(1 / 2)})
    assert dict(table.phrases["the",]) == pytest.approx({("la",): 0.0})
    assert ("casa", "roja") in dict(table.phrases["red", "house"])


def test_8_3_words_change_places_within_phrases_and_others_are_kept():
    table = phrase_table(*BITEXT)
    assert table.translate(["a", "red", "book"]) == ["un", "libro", "rojo"]
    assert table.translate(["the", "Pharaoh", "house"]) == ["la", "Pharaoh", "casa"]
    assert table.translate([]) == []


def test_8_3_the_search_finds_the_best_of_all_ways_to_translate():
    def ways(words):
        if not words:
            yield 0.0, ()
        for size in range(1, min(table.max_length, len(words)) + 1):
            for phrase, score in table.phrases.get(tuple(words[:size]), ()):
                yield from ((score + rest, phrase + found) for rest, found in ways(words[size:]))

    phrases = {
        ("a",): [(("x",), -0.5), (("y",), -0.7), (("x", "y"), -1.0)], ("b",): [(("y",), -0.3), (("z",), -0.4)],
        ("a", "b"): [(("z", "x"), -1.1)], ("b", "a"): [(("y", "z"), -0.6)],
    }  # fmt: skip
    language = Bigrams.of([["x", "z", "y"], ["y", "y", "x"], ["z"]])
    for weight, words in product((0.0, 0.5, 2.0), ("a", "ab", "aba", "bbab", "abaab")):
        table = PhraseTable(phrases, language, PhraseWeights(language=weight), 2)

        def total(score, found, weight=weight):
            return score + weight * sum(map(language.log_prob, (EDGE, *found), (*found, EDGE)))

        best = max(total(*way) for way in ways(words))
        found = tuple(table.translate(words))
        assert max(total(score, way) for score, way in ways(words) if way == found) == pytest.approx(best)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=4), min_size=1, max_size=4), st.sampled_from([0.1, 0.75]))
def test_8_3_the_language_model_sums_to_one(texts, discount):
    bigrams = Bigrams.of(texts, discount=discount)
    for before in {EDGE, *(word for text in texts for word in text)}:
        total = sum(math.exp(bigrams.log_prob(before, word)) for word in {EDGE, *(word for text in texts for word in text)})
        assert total == pytest.approx(1)


def test_the_language_model_by_hand():
    bigrams = Bigrams.of([["a", "b"], ["a"]], discount=0.5)
    # Four kinds of bigrams: </s> a (2), a b, b </s>, a </s>. Behind a: two kinds, each seen once.
    assert math.exp(bigrams.log_prob("a", "b")) == pytest.approx((1 - 0.5) / 2 + 0.5 * 2 / 2 * (1 / 4))
    assert math.exp(bigrams.log_prob("b", "a")) == pytest.approx(0.5 * 1 / 1 * (1 / 4))
    assert math.exp(bigrams.log_prob("c", "d")) == pytest.approx(1 / 8)


def test_phrase_tables_refuse_options_out_of_range():
    assert UNKNOWN < 0
    for options in ({"max_length": 0}, {"num_translations": 0}):
        with pytest.raises(ValueError, match=f"phrase_table: {next(iter(options))} must be"):
            phrase_table(*BITEXT, **options)
    with pytest.raises(ValueError, match="translate: num_beams must be"):
        phrase_table(*BITEXT).translate(["a"], num_beams=0)
    with pytest.raises(ValueError, match="Bigrams: discount must be"):
        Bigrams.of([["a"]], discount=1.0)
