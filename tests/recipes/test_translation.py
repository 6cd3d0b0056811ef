"""The recipe that translates the bible: nothing of the held-out chapters is learned from, and grouped batches are batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax import data
from dljax.recipes import RECIPES
from dljax.recipes import translation as parts

TINY = {"vocab_size": 200, "width": 8, "hidden": 8, "num_layers": 1, "num_heads": 2, "groups": 2, "batch_size": 4, "steps": 2}


def test_groups_come_together_each_row_once_an_epoch():
    def rows(first, size):
        ids = jnp.arange(first, first + 6)
        return {"x": {"source": jnp.tile(ids[:, None], (1, size))}, "y": jnp.tile(ids[:, None], (1, size + 1)), "mask": jnp.ones((6, size + 1))}

    source = parts._grouped([rows(0, 2), rows(6, 3)], 3)
    cursor, seen = source.init(jax.random.key(0)), []
    for _ in range(2):
        cursor, batch = source.next(source.data, cursor)
        assert batch["y"].shape == batch["mask"].shape == (3, 3 + 4)
        for part, columns in zip(batch["x"], (batch["y"][:, :3], batch["y"][:, 3:]), strict=True):
            np.testing.assert_array_equal(part["source"][:, 0], columns[:, 0])
            np.testing.assert_array_equal(columns[:, :1] == columns, True)
            seen += part["source"][:, 0].tolist()
    assert sorted(seen) == list(range(12))


@pytest.mark.parametrize(
    "option",
    [
        "vocab_size", "width", "hidden", "num_layers", "num_heads", "groups", "num_beams", "steps", "longest", "batch_size", "learning_rate",
    ],
)  # fmt: skip
def test_options_of_zero_are_refused_by_name(option):
    with pytest.raises(ValueError, match=f"bible/english-to-spanish: {option} must be"):
        RECIPES["bible/english-to-spanish"].build(**{option: 0})


def test_other_options_out_of_range_are_refused():
    for options, message in (
        ({"batch_size": 30}, "batch_size must be a multiple of the 4 groups, got 30"), ({"held_out": 10}, "held_out must be between 0 and 9"),
        ({"embeddings": "none"}, "embeddings must be one of 'latent', 'random'"), ({"label_smoothing": 1.5}, "label_smoothing must be in"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"bible/english-to-spanish: {message}"):
            RECIPES["bible/english-to-spanish"].build(**options)


@pytest.mark.slow
def test_8_3_no_chapter_that_is_tested_is_learned_from_and_the_model_writes_sentences():
    if data.info("bible-es").missing or data.info("bible-kjv").missing:
        pytest.skip("the bibles are not at hand")
    experiment = RECIPES["bible/english-to-spanish"].build(**TINY)
    english, _, is_test = parts._verses(9)
    chapters = data.parallel_verses()["reference"][:, :2]
    assert not {tuple(row) for row in chapters[is_test].tolist()} & {tuple(row) for row in chapters[~is_test].tolist()}
    assert 2500 < is_test.sum() < 3500
    tokeniser = parts._tokens(TINY["vocab_size"], 9)[0]
    tested = {verse for verse, is_held_out in zip(english, is_test, strict=True) if is_held_out}
    learned = {verse for verse, is_held_out in zip(english, is_test, strict=True) if not is_held_out}
    trained = experiment.source.data[0]["x"]
    texts = tokeniser.decode(np.asarray(trained["source"][:200]))
    # A few short verses stand in the bible more than once ("And the LORD spake unto Moses, saying").
    assert len(tested & learned) < 60
    assert {parts._sentence(text.split()) for text in texts} <= {parts._sentence(parts._WORD.findall(text)) for text in learned}
    key = jax.random.key(0)
    _, batch = experiment.source.next(experiment.source.data, experiment.source.init(key))
    state = jax.jit(experiment.learner.init)(key, batch)
    # The loss of a grouped batch is the mean over the tokens of all groups.
    _, metrics = jax.jit(experiment.learner.step)(key, state, batch)
    logits = experiment.learner.functions["predict"](None, experiment.learner.params(state), batch["x"])
    picked = [
        jnp.take_along_axis(jax.nn.log_softmax(part), y[..., None], 2)[..., 0]
        for part, y in zip(logits, jnp.split(batch["y"], [logits[0].shape[1]], 1), strict=True)
    ]
    expected = -(jnp.concatenate(picked, 1) * batch["mask"]).sum() / batch["mask"].sum()
    np.testing.assert_allclose(metrics["nats_per_token"].value, expected, rtol=1e-5)
    written = experiment.learner.functions["write"](None, experiment.learner.params(state), ["In the beginning.", "Amen."])
    assert len(written) == 2
    assert all(isinstance(line, str) for line in written)
