"""Texts as numbers: words, vocabularies, bags of words, TF-IDF, and how often words stand near each other."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dljax.core.checks import check_choice, check_int


class Vocabulary(NamedTuple):
    """Words and their numbers, the most frequent first.

    Attributes:
      words: the word of each id.
      counts: int64 [V], how often each was seen.
      ids: the id of each word.

    >>> vocabulary = Vocabulary.of([["to", "be", "or", "not", "to", "be"]], min_count=2)
    >>> vocabulary.words, vocabulary.counts.tolist(), vocabulary.encode(["be", "that", "to"]).tolist()
    (('be', 'to'), [2, 2], [0, 1])
    """

    words: tuple[str, ...]
    counts: np.ndarray
    ids: dict[str, int]

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]], *, min_count: int = 1, max_size: int | None = None) -> "Vocabulary":
        """The words of some texts.

        Args:
          texts: of each, its words.
          min_count: words seen less often are left out.
          max_size: at most this many, the most frequent; equally frequent ones in alphabetical order.
        Raises:
          ValueError: an option < 1, or no word is left.
        """
        check_int("Vocabulary", "min_count", min_count, minimum=1)
        if max_size is not None:
            check_int("Vocabulary", "max_size", max_size, minimum=1)
        counted = Counter(word for text in texts for word in text)
        kept = sorted(((-count, word) for word, count in counted.items() if count >= min_count))[:max_size]
        if not kept:
            raise ValueError(f"Vocabulary: no word is seen {min_count} times in texts of {len(counted)} different words; lower min_count")
        words = tuple(word for _, word in kept)
        return cls(words, np.array([-count for count, _ in kept], np.int64), {word: place for place, word in enumerate(words)})

    def encode(self, words: Iterable[str]) -> np.ndarray:
        """The ids of the words that it knows, int32; others are left out."""
        return np.array([self.ids[word] for word in words if word in self.ids], np.int32)


def split_words(text: str) -> list[str]:
    """The words of a text in small letters: runs of letters, with apostrophes and hyphens inside.

    >>> split_words("The LORD’s house, Beth-el: 'twas built.")
    ['the', "lord's", 'house', 'beth-el', 'twas', 'built']
    """
    return _WORD.findall(text.lower().replace("’", "'"))


def bag_of_words(texts: Sequence[Sequence[str]], vocabulary: Vocabulary) -> Any:
    """How often each word stands in each text.

      X_dw = #(w in d)

    Args:
      texts: of each, its words; those outside the vocabulary do not count.
    Returns:
      A `scipy.sparse.csr_array` of float64 [N, V], its columns sorted in each row.

    >>> vocabulary = Vocabulary.of([["a", "b", "a"]])
    >>> bag_of_words([["a", "b", "a"], ["c"]], vocabulary).toarray().tolist()
    [[2.0, 1.0], [0.0, 0.0]]
    """
    from scipy import sparse

    encoded = [vocabulary.encode(words) for words in texts]
    rows = np.repeat(np.arange(len(encoded)), [len(ids) for ids in encoded])
    columns = np.concatenate([*encoded, np.zeros(0, np.int32)])
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(encoded), len(vocabulary.words)))


def tf_idf(counts: Any, *, smooth_idf: bool = True, sublinear_tf: bool = False, norm: str | None = "l2") -> Any:
    """Bags of words in which a word counts for less the more texts have it.

      idf_w = log (N + s) / (df_w + s) + 1,   tfidf_dw = tf_dw idf_w, each text divided by its norm

    with df the number of texts that have the word, s = 1 where smooth, as if one more text had every word, or else 0; a word that no text has
    then has idf = log(N) + 1 rather than infinity, for it weighs nothing.

    Args:
      counts: what `bag_of_words` gives, [N, V] with N >= 1.
      smooth_idf: s.
      sublinear_tf: 1 + log(count) in place of the count.
      norm: "l2", "l1" or None.
    Returns:
      A `scipy.sparse.csr_array` of float64 [N, V]; a text without words is zero.
    Raises:
      ValueError: another norm.
    Source: Spärck Jones (1972), J. Documentation 28; the variant of scikit-learn's TfidfTransformer.

    >>> vocabulary = Vocabulary.of([["a", "b"]])
    >>> tf_idf(bag_of_words([["a", "b"], ["a"]], vocabulary), norm=None).toarray().round(3).tolist()
    [[1.0, 1.405], [1.0, 0.0]]
    """
    from scipy import sparse

    check_choice("tf_idf", "norm", norm, ("l2", "l1", None))
    counts = sparse.csr_array(counts, dtype=np.float64, copy=True)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    idf = np.log((counts.shape[0] + smooth_idf) / (np.maximum(frequency, not smooth_idf) + smooth_idf)) + 1
    values = (1 + np.log(counts.data) if sublinear_tf else counts.data) * idf[counts.indices]
    if norm:
        rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        sums = np.bincount(rows, np.square(values) if norm == "l2" else np.abs(values), counts.shape[0])
        values = values / (np.sqrt(sums) if norm == "l2" else sums)[rows]
    return sparse.csr_array((values, counts.indices, counts.indptr), shape=counts.shape)


def cooccurrences(texts: Iterable[np.ndarray], size: int, *, window: int = 5, is_weighted: bool = True) -> dict[str, np.ndarray]:
    """How often words stand near each other in one text, the nearer the more.

      X_ij = Σ over all i and j at most `window` apart of 1 / distance, or of 1

    Args:
      texts: of each, the ids of its words, in [0, size).
      size: V, of the vocabulary, >= 1.
      window: the largest distance, >= 1, on both sides: X is symmetric.
      is_weighted: whether a pair counts 1 / distance, as in GloVe.
    Returns:
      The entries that are not zero, by row and column: `row` and `column` int32 [M], `count` float32 [M].
    Raises:
      ValueError: an option < 1, or an id outside.

    >>> found = cooccurrences([np.array([0, 1, 0])], size=2)
    >>> list(zip(*(found[name].tolist() for name in ("row", "column", "count"))))
    [(0, 0, 1.0), (0, 1, 2.0), (1, 0, 2.0)]
    """
    from scipy import sparse

    check_int("cooccurrences", "size", size, minimum=1)
    check_int("cooccurrences", "window", window, minimum=1)
    tokens, text = joined(texts)
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < size:
        raise ValueError(f"cooccurrences: ids must be in [0, {size - 1}], got {tokens.min()} to {tokens.max()}")
    total = sparse.csr_array((size, size), dtype=np.float64)
    for distance in range(1, window + 1):
        is_one = text[distance:] == text[:-distance]
        left, right = tokens[:-distance][is_one], tokens[distance:][is_one]
        weight = np.full(len(left), 1 / distance if is_weighted else 1.0)
        once = sparse.csr_array((weight, (left, right)), shape=(size, size))
        total = total + once + once.T
    entries = sparse.csr_array(total)
    entries.sum_duplicates()
    row = np.repeat(np.arange(size, dtype=np.int32), np.diff(entries.indptr))
    return {"row": row, "column": entries.indices.astype(np.int32), "count": entries.data.astype(np.float32)}


def joined(texts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All texts behind one another: the ids int32 [N], and the number of its text at each place, int32 [N].

    >>> [part.tolist() for part in joined([np.array([3, 1]), np.array([2])])]
    [[3, 1, 2], [0, 0, 1]]
    """
    parts = [np.asarray(text, np.int32) for text in texts]
    tokens = np.concatenate([*parts, np.zeros(0, np.int32)])
    return tokens, np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])


_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
