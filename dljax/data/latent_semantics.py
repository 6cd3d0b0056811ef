"""Latent semantic analysis: words as vectors that are near each other when the words stand in the same texts."""

from typing import Any

import numpy as np
from jaxtyping import Float

from dljax.core.checks import check_int


def latent_vectors(counts: Any, dimension: int) -> Float[np.ndarray, "V D"]:
    """Words as directions, from the texts in which they stand, by a singular value decomposition.

      X_dw = (1 + log #(w in d)) log((N + 1)/(df_w + 1)), rows of length 1,   X ≈ U S Vᵀ of rank D,   E = V S^(1/2)

    with df_w the number of texts that have w. The mean of the vectors is taken away, and each has length 1 after that. Where a text is a sentence
    together with its translation, a word and what it is translated by come to lie close to each other (Dumais et al., 1997).

    Args:
      counts: how often each word stands in each text, [N, V], such as `bag_of_words` gives; any sparse or dense array.
      dimension: D, 1 <= D <= min(N, V).
    Returns:
      float32 [V, D]; the same for the same counts. A word that stands in all texts or in none is zero before the mean is taken away.
    Raises:
      ValueError: `dimension` is outside.
    Source: Deerwester et al. (1990), Indexing by latent semantic analysis; Dumais et al. (1997), Automatic cross-language retrieval using latent
      semantic indexing.

    >>> texts = np.array([[1, 0, 1, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]])  # dog, cat, perro, gato
    >>> vectors = latent_vectors(texts, 2)
    >>> (vectors @ vectors.T).round(2)[0].tolist()
    [1.0, -1.0, 1.0, -1.0]
    """
    from scipy import sparse
    from sklearn.utils.extmath import randomized_svd

    counts = sparse.csr_array(counts, dtype=np.float64, copy=True)
    check_int("latent_vectors", "dimension", dimension, minimum=1, maximum=min(counts.shape))
    counts.sum_duplicates()
    counts.eliminate_zeros()
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    counts.data = (1 + np.log(counts.data)) * np.log((counts.shape[0] + 1) / (frequency + 1))[counts.indices]
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    counts.data /= np.maximum(np.sqrt(np.bincount(rows, counts.data**2, minlength=counts.shape[0])), 1e-12)[rows]
    _, values, directions = randomized_svd(counts, dimension, n_iter=6, random_state=0)
    vectors = _of_length_one(directions.T * np.sqrt(values))
    return _of_length_one(vectors - vectors.mean(0)).astype(np.float32)


def _of_length_one(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > 1e-9, vectors / np.maximum(length, 1e-9), 0.0)
