"""How near translations come to their references, counted on the host: strings are no arrays."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from string import punctuation

import numpy as np

from dljax.core.checks import check_int, check_range


def chrf(
    predictions: Sequence[str], references: Sequence[str], *, char_order: int = 6, word_order: int = 0, beta: float = 2.0, lowercase: bool = False
) -> float:
    """chrF: the F-score of the character n-grams of all translations against those of their references, between 0 and 100.

      chrF = 100 (1 + β²) P R / (β² P + R),   P = mean_n matches_n / predicted_n,   R = mean_n matches_n / given_n,   n = 1 ... N

    The counts are summed over the whole corpus before they are divided; an n-gram matches as often as it stands in both. White space does not count.
    Orders without n-grams, in texts shorter than they are, are left out of the means. With `word_order=2` it is chrF++.

    Args:
      predictions, references: strings, one reference each.
      char_order: N, the longest n-grams of characters, >= 1.
      word_order: the longest n-grams of words, 0 for none; punctuation marks at the end or the beginning of a word are words of their own.
      beta: β > 0, how many times as important recall is as precision.
      lowercase: whether capital letters count as small ones.
    Raises:
      ValueError: not as many references as predictions, none at all, an option out of range. TypeError: one string instead of a sequence of them.
    Source: Popović (2015), chrF: character n-gram F-score for automatic MT evaluation; Popović (2017), chrF++: words helping character n-grams. The
      numbers are those of the library sacrebleu (Post, 2018).

    >>> round(chrf(["En el principio creó Dios los cielos"], ["En el principio crió Dios los cielos y la tierra"]), 2)
    69.3
    """
    for name, texts in (("predictions", predictions), ("references", references)):
        if isinstance(texts, str):
            raise TypeError(f"chrf: {name} must be a sequence of strings, got one string; give [text]")
    if len(predictions) != len(references) or not len(references):
        raise ValueError(f"chrf: predictions and references must be as many, at least one, got {len(predictions)} and {len(references)}")
    check_int("chrf", "char_order", char_order, minimum=1)
    check_int("chrf", "word_order", word_order)
    check_range("chrf", "beta", beta, 0, open_low=True)
    counts = np.zeros((char_order + word_order, 3))  # of each order: predicted, given, matches
    for texts in zip(predictions, references, strict=True):
        predicted, given = (_ngrams(text.lower() if lowercase else text, char_order, word_order) for text in texts)
        for row, (ours, theirs) in enumerate(zip(predicted, given, strict=True)):
            # Nothing can match where the reference is shorter than the n-grams: such orders say nothing of the prediction.
            counts[row] += (sum(ours.values()) if theirs else 0, sum(theirs.values()), sum(min(num, theirs[gram]) for gram, num in ours.items()))
    counts = counts[(counts[:, :2] > 0).all(1)]
    if not counts[:, 2].any():
        return 0.0
    precision, recall = (counts[:, 2] / counts[:, 0]).mean(), (counts[:, 2] / counts[:, 1]).mean()
    return float(100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall))


def _ngrams(text: str, char_order: int, word_order: int) -> Iterator[Counter]:
    letters = "".join(text.split())
    yield from (Counter(letters[start : start + n] for start in range(len(letters) - n + 1)) for n in range(1, char_order + 1))
    words = list(_without_punctuation(text.split())) if word_order else []
    yield from (Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1)) for n in range(1, word_order + 1))


def _without_punctuation(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        if len(word) > 1 and word[-1] in punctuation:
            yield from (word[:-1], word[-1])
        elif len(word) > 1 and word[0] in punctuation:
            yield from (word[0], word[1:])
        else:
            yield word
