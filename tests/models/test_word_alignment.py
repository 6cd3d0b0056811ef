"""IBM model 1: the textbook's figures, expectation maximisation written out, and alignments joined."""

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.models.word_alignment import ibm_model_1, symmetrised

SENTENCE = st.lists(st.sampled_from("abcd"), min_size=1, max_size=4)
BITEXT = st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=5)
HOUSE = [["das", "Haus"], ["das", "Buch"], ["ein", "Buch"]], [["the", "house"], ["the", "book"], ["a", "book"]]


def by_the_letter(source, target, iterations, tension):
    """Model 1 word by word, as its paper tells it."""
    words = {f for sentence in target for f in sentence}
    table = defaultdict(lambda: 1 / len(words))
    for _ in range(iterations):
        counts, totals, log_likelihood = defaultdict(float), defaultdict(float), 0.0
        for e, f in zip(source, target, strict=True):
            for j, word in enumerate(f):
                near = [math.exp(-tension * abs((i + 0.5) / len(e) - (j + 0.5) / len(f))) for i in range(len(e))]
                prior = [1 / (len(e) + 1)] + [one / sum(near) * len(e) / (len(e) + 1) for one in near]
                joint = [share * table[origin, word] for share, origin in zip(prior, [None, *e], strict=True)]
                log_likelihood += math.log(sum(joint))
                for origin, one in zip([None, *e], joint, strict=True):
                    counts[origin, word] += one / sum(joint)
                    totals[origin] += one / sum(joint)
        table = {pair: count / totals[pair[0]] for pair, count in counts.items()}
    return table, log_likelihood


def test_8_3_ibm_model_1_has_the_figures_of_the_textbook():
    # Koehn (2010), Statistical machine translation, figure 4.4, without the empty word.
    published = {
        ("das", "the"): (0.5, 0.6364, 0.7479, 1.0), ("das", "book"): (0.25, 0.1818, 0.1208, 0.0), ("das", "house"): (0.25, 0.1818, 0.1313, 0.0),
        ("Buch", "book"): (0.5, 0.6364, 0.7479, 1.0), ("Buch", "a"): (0.25, 0.1818, 0.1313, 0.0), ("ein", "book"): (0.5, 0.4286, 0.3466, 0.0),
        ("ein", "a"): (0.5, 0.5714, 0.6534, 1.0), ("Haus", "house"): (0.5, 0.5714, 0.6534, 1.0),
    }  # fmt: skip
    for column, iterations in enumerate((1, 2, 3, 3000)):
        table = ibm_model_1(*HOUSE, iterations=iterations, has_null=False)
        for pair, figures in published.items():
            assert table.probability(*pair) == pytest.approx(figures[column], abs=6e-5 if iterations <= 3 else 1e-3), pair


@settings(max_examples=25)
@given(BITEXT, st.sampled_from([0.0, 4.0]))
def test_8_3_ibm_model_1_is_em_by_the_letter(bitext, tension):
    source, target = map(list, zip(*bitext, strict=True))
    table = ibm_model_1(source, target, iterations=3, tension=tension)
    expected, log_likelihood = by_the_letter(source, target, 3, tension)
    for (e, f), probability in expected.items():
        assert table.probability(e, f) == pytest.approx(probability, abs=1e-12)
    assert table.log_likelihoods[-1] == pytest.approx(log_likelihood)


@given(BITEXT, st.sampled_from([0.0, 4.0]), st.booleans())
def test_8_3_the_likelihood_never_falls_and_probabilities_sum_to_one(bitext, tension, has_null):
    source, target = map(list, zip(*bitext, strict=True))
    table = ibm_model_1(source, target, iterations=8, tension=tension, has_null=has_null)
    assert (np.diff(table.log_likelihoods) >= -1e-9).all()
    for word in {word for sentence in source for word in sentence}:
        assert sum(table.probability(word, f) for f in "abcd") == pytest.approx(1)


def test_a_phrase_is_as_probable_as_its_words_wherever_they_stand():
    table = ibm_model_1(*HOUSE)
    ids = [[table.source.ids[word] for word in ("das", "Buch")]], [[table.target.ids["book"]]]
    mean = (table.probability(None, "book") + table.probability("das", "book") + table.probability("Buch", "book")) / 3
    assert table.log_prob(*map(np.array, ids)) == pytest.approx([math.log(mean)])


def test_words_that_were_never_seen_have_no_translation_and_no_links():
    table = ibm_model_1(*HOUSE)
    assert table.probability("das", "car") == table.probability("Auto", "the") == table.probability("Haus", "book") == 0
    assert table.align(["ein", "Auto"], ["a", "car"]) == {(0, 0)}
    assert table.align([], ["a"]) == table.align(["ein"], []) == frozenset()


def test_symmetrised_grows_from_what_both_say():
    both = {(0, 0), (4, 4)}
    # (1, 1) touches, (2, 2) touches that; (7, 7) touches nothing but is of two free words; (4, 5) touches; (6, 4) does not, and 4 is taken.
    assert symmetrised(both | {(1, 1), (4, 5), (7, 7)}, both | {(2, 2), (6, 4)}) == both | {(1, 1), (2, 2), (4, 5), (7, 7)}
    assert symmetrised(both, both) == both


@given(*[st.frozensets(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8)] * 2)
def test_symmetrised_has_what_both_say_and_nothing_else_than_what_one_says(forward, backward):
    joined = symmetrised(forward, backward)
    assert forward & backward <= joined <= forward | backward
    # No link between two free words is left out.
    assert not [(i, j) for i, j in (forward | backward) - joined if i not in {a for a, _ in joined} and j not in {b for _, b in joined}]


def test_ibm_model_1_refuses_what_it_cannot_learn_from():
    with pytest.raises(ValueError, match="ibm_model_1: source and target must be as many sentences, got 1 and 2"):
        ibm_model_1([["a"]], [["b"], ["c"]])
    with pytest.raises(ValueError, match="ibm_model_1: source and target must have a pair of sentences with words"):
        ibm_model_1([["a"], []], [[], ["b"]])
    for options in ({"iterations": 0}, {"tension": -1.0}):
        with pytest.raises(ValueError, match=f"ibm_model_1: {next(iter(options))} must be"):
            ibm_model_1(*HOUSE, **options)
