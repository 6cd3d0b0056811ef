"""chrF beside sacrebleu."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljax.objectives import chrf

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "chrf.json").read_text(encoding="utf-8"))
PAIRS = st.lists(st.tuples(*[st.text("ab cé,.¿ '", max_size=12)] * 2), min_size=1, max_size=4)


def test_8_3_chrf_is_that_of_sacrebleu():
    for case in GOLDEN:
        found = chrf(case["predictions"], case["references"], **case["options"])
        assert found == pytest.approx(case["chrf"], abs=1e-9), case


@given(PAIRS, st.integers(0, 2), st.sampled_from([1, 2]))
def test_8_3_chrf_is_that_of_the_installed_sacrebleu(pairs, word_order, beta):
    metrics = pytest.importorskip("sacrebleu.metrics")
    predictions, references = map(list, zip(*pairs, strict=True))
    theirs = metrics.CHRF(word_order=word_order, beta=beta).corpus_score(predictions, [references]).score
    assert chrf(predictions, references, word_order=word_order, beta=beta) == pytest.approx(theirs, abs=1e-9)


@given(st.lists(st.text(string.ascii_letters + " é", min_size=1).filter(str.strip), min_size=1, max_size=3))
def test_chrf_of_the_references_is_100_and_of_other_letters_0(texts):
    assert chrf(texts, texts) == pytest.approx(100)
    assert chrf(["1" for _ in texts], texts) == 0


def test_chrf_is_an_f_score_in_which_recall_counts_for_more():
    # Of single letters: precision 1, recall 1/2, and the other way round; (1 + β²) P R / (β² P + R) with β = 2.
    assert chrf(["ab"], ["abcd"], char_order=1) == pytest.approx(100 * 5 * 0.5 / 4.5)
    assert chrf(["abcd"], ["ab"], char_order=1) == pytest.approx(100 * 5 * 0.5 / 3)


def test_chrf_refuses_what_it_cannot_compare():
    with pytest.raises(TypeError, match="chrf: predictions must be a sequence of strings"):
        chrf("a", ["a"])
    for predictions, references in ((["a"], []), ([], [])):
        with pytest.raises(ValueError, match="chrf: predictions and references must be as many"):
            chrf(predictions, references)
    for options in ({"char_order": 0}, {"word_order": -1}, {"beta": 0}):
        with pytest.raises(ValueError, match=f"chrf: {next(iter(options))} must be"):
            chrf(["a"], ["a"], **options)
