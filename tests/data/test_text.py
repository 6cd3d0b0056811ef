"""Texts as numbers: scikit-learn's TF-IDF, co-occurrences counted by hand, windows with the probabilities that word2vec states."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax import data
from dljax.data.word_windows import keep_probability

TEXTS = [
    "In the beginning God created the heaven and the earth.",
    "And the earth was without form, and void; and darkness was upon the face of the deep.",
    "",
    "the the the LORD’s",
]


@pytest.mark.parametrize("options", [{}, {"smooth_idf": False}, {"norm": "l1"}, {"norm": None, "sublinear_tf": True}], ids=str)
def test_6_3_tf_idf_equals_scikit_learns(options):
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    texts = [data.split_words(text) for text in TEXTS]
    vocabulary = data.Vocabulary.of(texts)
    kwargs = {"tokenizer": data.split_words, "token_pattern": None, "lowercase": False, "vocabulary": vocabulary.ids}
    counts = data.bag_of_words(texts, vocabulary)
    np.testing.assert_array_equal(counts.toarray(), CountVectorizer(**kwargs).fit_transform(TEXTS).toarray())
    expected = TfidfVectorizer(**kwargs, **options).fit_transform(TEXTS).toarray()
    np.testing.assert_allclose(data.tf_idf(counts, **options).toarray(), expected, rtol=1e-13)


def test_6_3_vocabulary_keeps_the_most_frequent_words():
    texts = [list("abracadabra")]
    vocabulary = data.Vocabulary.of(texts, min_count=2)
    assert vocabulary.words == ("a", "b", "r")
    assert vocabulary.counts.tolist() == [5, 2, 2]
    assert data.Vocabulary.of(texts, max_size=2).words == ("a", "b")
    assert vocabulary.encode("cab").tolist() == [0, 1]
    with pytest.raises(ValueError, match="Vocabulary: no word is seen 6 times in texts of 5 different words; lower min_count"):
        data.Vocabulary.of(texts, min_count=6)
    with pytest.raises(ValueError, match="Vocabulary: max_size must be >= 1, got 0"):
        data.Vocabulary.of(texts, max_size=0)
    with pytest.raises(ValueError, match="tf_idf: norm must be one of 'l2', 'l1', None, got 'max'"):
        data.tf_idf(data.bag_of_words(texts, vocabulary), norm="max")


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 4), max_size=8), max_size=4), st.integers(1, 4), st.booleans())
def test_6_3_cooccurrences_are_those_counted_by_hand(texts, window, is_weighted):
    expected = np.zeros((5, 5))
    for text in texts:
        for i, one in enumerate(text):
            for j, other in enumerate(text):
                if 0 < abs(i - j) <= window:
                    expected[one, other] += 1 / abs(i - j) if is_weighted else 1
    found = data.cooccurrences([np.array(text, np.int32) for text in texts], 5, window=window, is_weighted=is_weighted)
    dense = np.zeros((5, 5))
    dense[found["row"], found["column"]] = found["count"]
    np.testing.assert_allclose(dense, expected, rtol=1e-6)
    assert (found["count"] > 0).all()


def counted(source, steps=40):
    """How often each pair of words was drawn, by weight."""
    step, cursor, batches = jax.jit(source.next), source.init(jax.random.key(0)), []
    for _ in range(steps):
        cursor, batch = step(source.data, cursor)
        batches.append(batch)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)


def test_6_3_skip_gram_pairs_come_as_often_as_windows_hold_them():
    text = [np.array([0, 1, 2, 3, 0, 4]), np.array([2, 4])]
    counts = np.bincount(np.concatenate(text))
    kept = keep_probability(counts, 0.1)
    np.testing.assert_allclose(kept, np.minimum(1, np.sqrt(0.1 / (counts / 8)) + 0.1 / (counts / 8)))
    drawn = counted(data.word_windows(text, 5, 4000, window=2, subsampling=0.1, num_noise=4000))
    found, expected = np.zeros((5, 5)), np.zeros((5, 5))
    np.add.at(found, (drawn["x"][:, 0], drawn["y"]), drawn["mask"])
    for part in text:
        for i, one in enumerate(part):
            for j, other in enumerate(part):
                if 0 < abs(i - j) <= 2:
                    expected[one, other] += kept[one] * kept[other] * (3 - abs(i - j)) / 2
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), atol=0.004)
    noise = np.bincount(drawn["noise"], minlength=5) / len(drawn["noise"])
    np.testing.assert_allclose(noise, counts**0.75 / (counts**0.75).sum(), atol=0.005)
    np.testing.assert_allclose(drawn["noise_weight"], 5 / 4000, rtol=1e-6)


def test_6_3_cbow_sees_the_words_around_and_no_other_text():
    drawn = counted(data.word_windows([np.array([0, 1, 2, 3]), np.array([4, 5])], 6, 2000, kind="cbow", window=2, subsampling=None), steps=4)
    for x, mask, y in zip(drawn["x"], drawn["x_mask"], drawn["y"], strict=True):
        around = set(x[mask > 0].tolist())
        near, far = {0: ({1}, {2}), 1: ({0, 2}, {3}), 2: ({1, 3}, {0}), 3: ({2}, {1}), 4: ({5}, set()), 5: ({4}, set())}[int(y)]
        assert around in (near, near | far)
    assert (drawn["mask"] == 1).all()
    reach = [(mask > 0).sum() for mask, y in zip(drawn["x_mask"], drawn["y"], strict=True) if y == 0]
    np.testing.assert_allclose(np.mean(reach), 1.5, atol=0.06)


def test_text_options_out_of_range_are_refused():
    text = [np.array([0, 1])]
    for options, message in (
        ({"kind": "glove"}, "word_windows: kind must be one of 'skip-gram', 'cbow', got 'glove'"),
        ({"window": 0}, "word_windows: window must be >= 1, got 0"),
        ({"subsampling": 0.0}, "word_windows: subsampling must be in"),
        ({"noise_power": 2}, "word_windows: noise_power must be in"),
        ({"size": 1}, r"word_windows: texts must hold at least two ids in \[0, 0\], got 2 ids from 0 to 1"),
        ({"texts": []}, "got 0 ids"),
    ):
        with pytest.raises(ValueError, match=message):
            data.word_windows(**{"texts": text, "size": 2, "batch_size": 1} | options)
    with pytest.raises(ValueError, match=r"cooccurrences: ids must be in \[0, 0\], got 0 to 1"):
        data.cooccurrences(text, 1)
    with pytest.raises(ValueError, match="cooccurrences: window must be >= 1, got 0"):
        data.cooccurrences(text, 2, window=0)
    with pytest.raises(ValueError, match="adding_problem: length must be >= 2, got 1"):
        data.adding_problem(jax.random.key(0), 1, length=1)
    with pytest.raises(ValueError, match="adding_problem: num must be >= 1, got 0"):
        data.adding_problem(jax.random.key(0), 0)


def test_6_1_the_adding_problem_has_the_variance_of_two_uniform_numbers():
    batch = jax.jit(lambda key: data.adding_problem(key, 20_000, length=9))(jax.random.key(0))
    marks = np.asarray(batch["x"][..., 1])
    assert (marks[:, :4].sum(1) == 1).all()
    assert (marks[:, 4:].sum(1) == 1).all()
    np.testing.assert_allclose([batch["y"].mean(), batch["y"].var()], [1, 1 / 6], atol=0.01)
