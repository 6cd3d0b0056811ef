"""Latent semantics beside the definition, term by term."""

import math

import numpy as np
import pytest

from dljax.data import latent_vectors


def test_8_3_latent_vectors_are_the_singular_directions_of_the_weighted_counts():
    counts = np.random.default_rng(0).poisson(0.4, (30, 12))
    weighted = np.zeros(counts.shape)
    for (text, word), count in np.ndenumerate(counts):
        if count:
            weighted[text, word] = (1 + math.log(count)) * math.log(31 / (1 + (counts[:, word] > 0).sum()))
    weighted /= np.maximum(np.sqrt((weighted**2).sum(1, keepdims=True)), 1e-12)
    _, values, directions = np.linalg.svd(weighted)
    expected = directions[:5].T * np.sqrt(values[:5])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    expected -= expected.mean(0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = latent_vectors(counts, 5)
    # Directions have a sign that means nothing; angles do not.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)
    np.testing.assert_array_equal(found, latent_vectors(counts, 5))


def test_8_3_words_lie_near_their_translations():
    rng = np.random.default_rng(1)
    words = rng.random((400, 20)) < 0.15
    # Each text and its translation, in which the word w is called 20 + (7 w mod 20).
    texts = np.concatenate([words, words[:, np.argsort(7 * np.arange(20) % 20)]], 1)
    vectors = latent_vectors(texts, 20)
    assert (vectors[:20] @ vectors[20:].T).argmax(1).tolist() == (7 * np.arange(20) % 20).tolist()


def test_latent_vectors_refuse_more_dimensions_than_there_are():
    for dimension in (0, 4):
        with pytest.raises(ValueError, match="latent_vectors: dimension must be between 1 and 3"):
            latent_vectors(np.eye(3), dimension)
