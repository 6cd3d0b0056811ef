"""Phrase-based translation: a table of word-aligned phrases and a bigram model of the target language (Koehn, Och & Marcu, 2003)."""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dljax.core.checks import check_int, check_range
from dljax.models.word_alignment import Words, ibm_model_1, symmetrised

Phrase = tuple[str, ...]

EDGE = "</s>"
UNKNOWN = -10.0  # of a word that is kept as it is; any number does, for there is no other way


class PhraseWeights(NamedTuple):
    """What each part of a translation's score counts for; the defaults are those that the toolkit Moses starts from.

    Attributes:
      phrases: of log φ(t | s) and of log φ(s | t), how often a phrase pair was seen among those with its source, and with its target.
      words: of the two lexical weights, log Π over the words of the mean of t(f | e) over their links, each way.
      language: of the bigram model's log-probability.
      length: added for every word that is written.
    """

    phrases: float = 0.2
    words: float = 0.2
    language: float = 0.5
    length: float = 1.0


class PhraseTable(NamedTuple):
    """Phrases with their translations, and a language model.

    Attributes:
      phrases: source phrase -> the best of its translations with their scores, the language model not counted.
      language: the bigram model of the target language.
      weights: of the score's parts.
      max_length: the most words of a source phrase.
    """

    phrases: dict[Phrase, list[tuple[Phrase, float]]]
    language: "Bigrams"
    weights: PhraseWeights
    max_length: int

    def translate(self, words: Words, *, num_beams: int = 10) -> list[str]:
        """The best translation found, phrase by phrase from left to right; a word that no phrase has is kept as it is.

        Args:
          num_beams: how many beginnings are kept for each place in the source, the last words of which differ, >= 1.
        Raises:
          ValueError: `num_beams` < 1.
        """
        check_int("translate", "num_beams", num_beams, minimum=1)
        language, weights = self.language, self.weights
        # For each place in the source the best beginning that ends with each word: score, the phrase, and the beginning before it.
        beams: list[dict[str, tuple]] = [{} for _ in range(len(words) + 1)]
        beams[0][EDGE] = (0.0, (), None)
        for start in range(len(words)):
            kept = sorted(beams[start].items(), key=lambda item: -item[1][0])[:num_beams]
            for end in range(start + 1, min(start + self.max_length, len(words)) + 1):
                source = tuple(words[start:end])
                unknown = [(source, weights.length + UNKNOWN)] if end == start + 1 else []
                options = self.phrases.get(source, unknown)
                for target, score in options:
                    inside = score + weights.language * sum(map(language.log_prob, target, target[1:]))
                    there, last, first = beams[end], target[-1], target[0]
                    for before, beginning in kept:
                        total = beginning[0] + inside + weights.language * language.log_prob(before, first)
                        if last not in there or total > there[last][0]:
                            there[last] = (total, target, beginning)
        ends = beams[-1].items()
        best: tuple | None = max(ends, key=lambda item: item[1][0] + weights.language * language.log_prob(item[0], EDGE))[1]
        found: list[str] = []
        while best is not None:
            found[:0] = best[1]
            best = best[2]
        return found


def phrase_table(
    source: Sequence[Words],
    target: Sequence[Words],
    *,
    max_length: int = 5,
    num_translations: int = 20,
    iterations: int = 5,
    tension: float = 4.0,
    weights: PhraseWeights = PhraseWeights(),
) -> PhraseTable:
    """Learn a phrase table from pairs of sentences: the statistical translation that networks came to replace, here without reordering.

    Words are aligned by `ibm_model_1` in both directions, `symmetrised`; all phrase pairs that the alignments allow (`consistent_phrases`) are
    counted. A translation t of s, phrase by phrase, has the score

      Σ_phrases [w_p (log φ(t̄ | s̄) + log φ(s̄ | t̄)) + w_l (log lex(t̄ | s̄) + log lex(s̄ | t̄))] + w_b Σ_j log p(t_j | t_{j-1}) + w_n |t|

    and `PhraseTable.translate` looks for the best one that keeps the phrases' order: words change places within phrases only.

    Args:
      source, target: N sentences and their translations, each a sequence of words.
      max_length: the most words of a phrase on either side, >= 1.
      num_translations: how many of each phrase are kept, the best, >= 1.
      iterations, tension: as for `ibm_model_1`.
      weights: of the score's parts.
    Raises:
      ValueError: an option out of range, and as for `ibm_model_1`.
    Source: Koehn, Och & Marcu (2003), Statistical phrase-based translation.

    >>> table = phrase_table([["the", "red", "house"], ["the", "house"]], [["la", "casa", "roja"], ["la", "casa"]])
    >>> table.translate(["the", "red", "house", "Amen"])
    ['la', 'casa', 'roja', 'Amen']
    """
    check_int("phrase_table", "max_length", max_length, minimum=1)
    check_int("phrase_table", "num_translations", num_translations, minimum=1)
    forward = ibm_model_1(source, target, iterations=iterations, tension=tension)
    backward = ibm_model_1(target, source, iterations=iterations, tension=tension)
    ids: tuple[dict[tuple[int, ...], int], dict[tuple[int, ...], int]] = ({}, {})
    seen = array("q")
    for e, f in zip(source, target, strict=True):
        alignment = symmetrised(forward.align(e, f), ((i, j) for j, i in backward.align(f, e)))
        numbers = [forward.source.ids[word] for word in e], [forward.target.ids[word] for word in f]
        for first, last, begin, end in consistent_phrases(alignment, len(e), len(f), max_length=max_length):
            for side, words in zip(ids, (tuple(numbers[0][first:last]), tuple(numbers[1][begin:end])), strict=True):
                seen.append(side.setdefault(words, len(side)))
    pairs, counts = np.unique(np.array(seen).reshape(-1, 2), axis=0, return_counts=True)
    forth, back = (np.log(counts / np.bincount(pairs[:, side], counts)[pairs[:, side]]) for side in (0, 1))
    # Many are seen once, beside some that are seen often: it is enough to look at the commonest.
    kept = _best(pairs[:, 0], forth, 2 * num_translations)
    pairs, phrases = pairs[kept], [list(side) for side in ids]
    lexical, lengths = np.zeros(len(pairs)), np.array([len(words) for words in phrases[1]])[pairs[:, 1]]
    sizes = np.array([len(words) for words in phrases[0]])[pairs[:, 0]]
    for size, length in sorted(set(zip(sizes.tolist(), lengths.tolist(), strict=True))):
        rows = np.flatnonzero((sizes == size) & (lengths == length))
        ours, theirs = (np.array([side[row] for row in column.tolist()]) for side, column in zip(phrases, pairs[rows].T, strict=True))
        lexical[rows] = forward.log_prob(ours, theirs) + backward.log_prob(theirs, ours)
    scores = weights.phrases * (forth + back)[kept] + weights.words * lexical + weights.length * lengths
    vocabularies = forward.source.words, forward.target.words
    names = [[tuple(words[number] for number in phrase) for phrase in side] for words, side in zip(vocabularies, phrases, strict=True)]
    table: dict[Phrase, list[tuple[Phrase, float]]] = {}
    for row in _best(pairs[:, 0], scores, num_translations).tolist():
        table.setdefault(names[0][pairs[row, 0]], []).append((names[1][pairs[row, 1]], float(scores[row])))
    return PhraseTable(table, Bigrams.of(target), weights, max_length)


def _best(owner: np.ndarray, scores: np.ndarray, num: int) -> np.ndarray:
    """The rows of each owner with the highest scores, at most `num`, the highest first."""
    order = np.lexsort((-scores, owner))
    first = np.searchsorted(owner[order], owner[order])
    return order[np.arange(len(order)) - first < num]


def consistent_phrases(links: Iterable[tuple[int, int]], num_source: int, num_target: int, *, max_length: int) -> Iterator[tuple[int, int, int, int]]:
    """All phrase pairs that an alignment allows: some word of one is linked to one of the other, and none to a word outside.

    Args:
      links: places (i, j) that stand for each other.
      num_source, num_target: words of the sentences.
      max_length: the most words of a phrase on either side.
    Returns:
      `(first, last, begin, end)`: the source words first ... last - 1 with the target words begin ... end - 1.
    Source: Och & Ney (2004), The alignment template approach to statistical machine translation, section 3.1.

    >>> sorted(consistent_phrases([(0, 0), (1, 2), (2, 1)], 3, 3, max_length=3))  # the red house, la casa roja
    [(0, 1, 0, 1), (0, 3, 0, 3), (1, 2, 2, 3), (1, 3, 1, 3), (2, 3, 1, 2)]
    """
    targets: list[list[int]] = [[] for _ in range(num_source)]
    sources: list[list[int]] = [[] for _ in range(num_target)]
    for i, j in links:
        targets[i].append(j)
        sources[j].append(i)
    for first in range(num_source):
        low, high = num_target, -1
        for last in range(first + 1, min(first + max_length, num_source) + 1):
            low, high = min([low, *targets[last - 1]]), max([high, *targets[last - 1]])
            if high < 0 or high - low >= max_length:
                continue
            if any(not first <= i < last for j in range(low, high + 1) for i in sources[j]):
                continue
            begin = low
            while begin >= 0 and high - begin < max_length and (begin == low or not sources[begin]):
                end = high + 1
                while end <= num_target and end - begin <= max_length and (end == high + 1 or not sources[end - 1]):
                    yield first, last, begin, end
                    end += 1
                begin -= 1


class Bigrams(NamedTuple):
    """How probable each word is behind another: interpolated Kneser-Ney smoothing of bigrams.

      p(w | v) = max(c(v w) - d, 0) / c(v) + d |{w: v w seen}| / c(v) p(w),   p(w) = |{v: v w seen}| / |{bigrams seen}|

    A word that was never seen has p(w) of half a bigram; behind a word never seen p(w) counts alone.

    Attributes:
      seen: (v, w) -> log p(w | v).
      behind: v -> log of the share that p(w) has behind v.
      single: w -> log p(w).

    Source: Kneser & Ney (1995), Improved backing-off for m-gram language modeling.

    >>> bigrams = Bigrams.of([["la", "casa"], ["la", "casa", "roja"]])
    >>> sum(math.exp(bigrams.log_prob("casa", word)) for word in ("la", "casa", "roja", "</s>"))
    1.0
    """

    seen: dict[tuple[str, str], float]
    behind: dict[str, float]
    single: dict[str, float]

    @classmethod
    def of(cls, texts: Iterable[Words], *, discount: float = 0.75) -> "Bigrams":
        """Count texts, each of which begins and ends with the edge `</s>`.

        Args:
          discount: d in (0, 1).
        """
        check_range("Bigrams", "discount", discount, 0, 1, open_low=True, open_high=True)
        pairs = Counter(pair for text in texts for pair in zip([EDGE, *text], [*text, EDGE], strict=True))
        num, kinds, befores = Counter[str](), Counter[str](), Counter[str]()
        for (before, word), count in pairs.items():
            num[before] += count
            kinds[before] += 1
            befores[word] += 1
        single = {word: count / len(pairs) for word, count in befores.items()}
        rest = {word: discount * kinds[word] / num[word] for word in num}
        seen = {(v, w): math.log((count - discount) / num[v] + rest[v] * single[w]) for (v, w), count in pairs.items()}
        behind = {word: math.log(share) for word, share in rest.items()}
        return cls(seen, behind, {word: math.log(share) for word, share in single.items()} | {"": -math.log(2 * len(pairs))})

    def log_prob(self, before: str, word: str) -> float:
        """log p(word | before), nats."""
        found = self.seen.get((before, word))
        if found is not None:
            return found
        return self.behind.get(before, 0.0) + self.single.get(word, self.single[""])
