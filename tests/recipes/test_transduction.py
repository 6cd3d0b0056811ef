"""What the recipes of chapter 6 hold out is never trained on."""

import jax
import numpy as np
import pytest

from dljax import data
from dljax.recipes import RECIPES


def texts(x, first=0):
    return {tuple(row[:length]) for row, length in zip((np.asarray(x["source"]) - first).tolist(), np.asarray(x["lengths"]).tolist(), strict=True)}


def test_6_2_no_string_that_is_tested_is_ever_drawn():
    experiment = RECIPES["reversal/seq2seq"].build(symbols=3, longest=4, batch_size=500)
    source = experiment.source
    _, batch = jax.jit(source.next)(source.data, source.init(jax.random.key(0)))
    drawn, tested = texts(batch["x"], 2), texts(experiment.evaluation["x"], 2)
    # All strings of 1 to 4 symbols out of 3, a third of them tested.
    assert len(tested) == 1 + 3 + 9 + 27
    assert len(tested) < len(drawn) <= 2 * len(tested)
    assert not drawn & tested
    for text, target in zip(np.asarray(batch["x"]["source"]), np.asarray(batch["y"]), strict=True):
        length = int((target == 1).argmax())
        assert target[:length].tolist() == text[:length][::-1].tolist()


@pytest.mark.slow
def test_6_2_no_word_that_is_tested_is_trained_on_in_any_variant():
    if data.info("cmudict").missing:
        pytest.skip("the dictionary is not at hand")
    experiment = RECIPES["cmudict/seq2seq"].build(width=8)
    letters = ["", *sorted(set("".join(data.load("cmudict")["words"].tolist())))]
    train, test = (
        {"".join(letters[token] for token in text).removesuffix("'s") for text in texts(x)}
        for x in (experiment.source.data["x"], experiment.evaluation["x"])
    )
    assert not train & test
    assert len(test) > 10_000
