"""Which word stands for which: IBM model 1 learned from sentences and their translations, and alignments of words (Brown et al., 1993)."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dljax.core.checks import check_int, check_range
from dljax.data.text import Vocabulary

Words = Sequence[str]
Links = frozenset[tuple[int, int]]  # (place in the source, place in the target)


class WordTable(NamedTuple):
    """How probable each target word is as the translation of each source word, where the two met in one pair of sentences.

    Attributes:
      source, target: the words and their ids.
      tension: how strongly words at like places are drawn together.
      has_null: whether words may stand for no word.
      keys: int64 [P], ascending, e V + f of each pair; e is the id of the source word plus 1, 0 for none (NULL), f that of the target word, of V.
      probabilities: float64 [P], t(f | e); they sum to 1 over the target words of each source word.
      log_likelihoods: float64 [iterations], nats, of all target words under the table that each iteration started from; they never fall.
    """

    source: Vocabulary
    target: Vocabulary
    tension: float
    has_null: bool
    keys: np.ndarray
    probabilities: np.ndarray
    log_likelihoods: np.ndarray

    def probability(self, source_word: str | None, target_word: str) -> float:
        """t(f | e), 0 for a pair that was never seen; None for the source word asks what stands for no word."""
        if target_word not in self.target.ids or (source_word is not None and source_word not in self.source.ids):
            return 0.0
        e = 0 if source_word is None else self.source.ids[source_word] + 1
        return float(self._of(np.array([e * len(self.target.words) + self.target.ids[target_word]]))[0])

    def weights(self, source: Words, target: Words) -> np.ndarray:
        """How probable each source word is as the origin of each target word, before they are divided by their sum: float64 [T, 1 + S], none first.

        A word that was never seen stands for nothing.
        """
        e = np.array([0, *(self.source.ids.get(word, -2) + 1 for word in source)], np.int64)
        f = np.array([self.target.ids.get(word, -1) for word in target], np.int64)
        known = (e[None] >= 0) & (f[:, None] >= 0)
        found = self._of(np.where(known, e[None] * len(self.target.words) + f[:, None], 0))
        return known * found * _places(len(source), len(target), self.tension, self.has_null)

    def align(self, source: Words, target: Words) -> Links:
        """For each target word its likeliest source word, unless that is none: pairs of places."""
        weights = self.weights(source, target)
        best, column = weights.max(1, initial=0), weights.argmax(1)
        return frozenset((int(column[j]) - 1, j) for j in range(len(target)) if best[j] > 0 and column[j] > 0)

    def log_prob(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Σ_j log Σ_i t(f_j | e_i) / (S + 1), nats, of N phrases, wherever their words stand: float64 [N].

        Args:
          source, target: ids of words, [N, S] and [N, T]. A word that nothing stands for counts as one of 10⁻⁷.
        """
        e = np.concatenate([np.zeros((len(source), 1), np.int64), source + 1], 1)
        found = self._of(e[:, None] * len(self.target.words) + target[:, :, None])
        return np.log(np.maximum(found.mean(2), 1e-7)).sum(1)

    def _of(self, keys: np.ndarray) -> np.ndarray:
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.probabilities[place], 0.0)


def ibm_model_1(source: Sequence[Words], target: Sequence[Words], *, iterations: int = 5, tension: float = 0.0, has_null: bool = True) -> WordTable:
    """How words are translated, learned from pairs of sentences by expectation maximisation.

      p(f | e) = Π_j Σ_i a(i | j) t(f_j | e_i),   i = 0 for no word
      E: q_j(i) ∝ a(i | j) t(f_j | e_i)     M: t(f | e) ∝ Σ q_j(i) over all places where f_j = f and e_i = e

    Model 1 has a(i | j) = 1/(S + 1): the order of the words says nothing, and the likelihood has no other maxima than global ones. With a tension
    λ > 0 words at like places are likelier, a(i | j) ∝ exp(-λ |i/S - j/T|), as in Dyer et al. (2013), who have λ = 4; the alignments are then far
    better, and no more is learned. The table starts uniform.

    Args:
      source, target: N sentences and their translations, each a sequence of words; pairs with an empty side teach nothing.
      iterations: of EM, >= 1.
      tension: λ >= 0.
      has_null: whether a target word may stand for no word, i = 0; without, a(i | j) = 1/S.
    Raises:
      ValueError: not as many targets as sources, no pair with words, an option out of range.
    Source: Brown et al. (1993), The mathematics of statistical machine translation, section 4.2; Dyer, Chahuneau & Smith (2013), A simple, fast, and
      effective reparameterization of IBM model 2.

    >>> table = ibm_model_1([["the", "house"], ["the", "book"], ["a", "book"]], [["das", "Haus"], ["das", "Buch"], ["ein", "Buch"]], iterations=20)
    >>> round(table.probability("book", "Buch"), 2), sorted(table.align(["a", "house"], ["ein", "Haus"]))
    (1.0, [(0, 0), (1, 1)])
    """
    check_int("ibm_model_1", "iterations", iterations, minimum=1)
    check_range("ibm_model_1", "tension", tension, 0)
    if len(source) != len(target):
        raise ValueError(f"ibm_model_1: source and target must be as many sentences, got {len(source)} and {len(target)}")
    pairs = [(e, f) for e, f in zip(source, target, strict=True) if e and f]
    if not pairs:
        raise ValueError("ibm_model_1: source and target must have a pair of sentences with words, got none")
    from_words, to_words = (Vocabulary.of(side) for side in zip(*pairs, strict=True))
    num = len(to_words.words)
    # Every target word of a sentence against every source word and none, one sentence behind the other.
    blocks = [(np.array([0, *(from_words.encode(e) + 1)], np.int64)[None] * num + to_words.encode(f)[:, None]) for e, f in pairs]
    prior = np.concatenate([_places(block.shape[1] - 1, len(block), tension, has_null).ravel() for block in blocks])
    widths = np.concatenate([np.full(len(block), block.shape[1]) for block in blocks])
    keys, pair = np.unique(np.concatenate([block.ravel() for block in blocks]), return_inverse=True)
    first, row = np.cumsum(widths) - widths, np.repeat(np.arange(len(widths)), widths)
    owner = keys // num
    probabilities = np.full(len(keys), 1 / num)
    log_likelihoods = np.zeros(iterations)
    for iteration in range(iterations):
        joint = prior * probabilities[pair]
        total = np.add.reduceat(joint, first)
        log_likelihoods[iteration] = np.log(total).sum()
        counts = np.bincount(pair, joint / total[row], len(keys))
        probabilities = counts / np.maximum(np.bincount(owner, counts), 1e-300)[owner]
    return WordTable(from_words, to_words, float(tension), has_null, keys, probabilities, log_likelihoods)


def symmetrised(forward: Iterable[tuple[int, int]], backward: Iterable[tuple[int, int]]) -> Links:
    """One alignment out of two, each learned in one direction: what both say, grown by what one says next to it ("grow-diag-final-and").

    Begin with the links in both. Add links in either, as long as there are any, that touch one that is there, also by a corner, and bring in a word
    without a link. At last add links in either of which neither word has one.

    Args:
      forward, backward: links (source place, target place), also those of the backward table, whose places are thus to be swapped.
    Source: Koehn, Och & Marcu (2003), Statistical phrase-based translation, section 4.5; Koehn et al. (2005), Edinburgh system description.

    >>> sorted(symmetrised({(0, 0), (1, 1), (3, 2)}, {(0, 0), (1, 1), (1, 2)}))
    [(0, 0), (1, 1), (1, 2)]
    """
    one, other = frozenset(forward), frozenset(backward)
    links, either = set(one & other), sorted(one | other)
    sources, targets = {i for i, _ in links}, {j for _, j in links}

    def add(link: tuple[int, int]) -> None:
        links.add(link)
        sources.add(link[0])
        targets.add(link[1])

    has_grown = True
    while has_grown:
        has_grown = False
        for i, j in either:
            is_new = (i, j) not in links and (i not in sources or j not in targets)
            if is_new and any((i + di, j + dj) in links for di in (-1, 0, 1) for dj in (-1, 0, 1)):
                add((i, j))
                has_grown = True
    for i, j in either:
        if i not in sources and j not in targets:
            add((i, j))
    return frozenset(links)


def _places(num_source: int, num_target: int, tension: float, has_null: bool) -> np.ndarray:
    """a(i | j), [T, 1 + S], no word first."""
    apart = np.abs((np.arange(num_source) + 0.5) / max(num_source, 1) - (np.arange(num_target)[:, None] + 0.5) / max(num_target, 1))
    near = np.exp(-tension * apart)
    none = np.full((num_target, 1), has_null / (num_source + 1))
    return np.concatenate([none, near / near.sum(1, keepdims=True) * (1 - none)], 1)
