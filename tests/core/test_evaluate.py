"""`evaluate`: a fold over a data set counts every example once, wherever the batches are cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.core import Fold, Mean, evaluate
from dljax.core.unroll import num_rows

KEY = jax.random.key(0)
X = np.random.default_rng(1).normal(size=(13, 2)).astype(np.float32)
Y = np.arange(13)

MEAN = Fold(
    lambda key, state: {"x": jnp.zeros(2), "y": 0.0, "n": 0.0},
    lambda acc, state, batch: {
        "x": acc["x"] + state * (batch["mask"][:, None] * batch["x"]).sum(0),
        "y": acc["y"] + (batch["mask"] * batch["y"]).sum(),
        "n": acc["n"] + batch["mask"].sum(),
    },
    lambda acc: {"x": Mean(acc["x"].sum(), acc["n"]), "y": Mean(acc["y"], acc["n"]), "examples": acc["n"]},
)


@pytest.mark.parametrize("batch_size", [1, 4, 13, 100])
def test_every_example_counts_once_whatever_the_batch_size(batch_size):
    metrics = jax.jit(evaluate(MEAN, batch_size))(KEY, 2.0, {"x": X, "y": Y})
    assert float(metrics["x"].value) == pytest.approx(2 * X.sum() / 13, rel=1e-5)
    assert float(metrics["y"].value) == 6.0
    assert float(metrics["examples"].value) == 13.0


def test_mask_that_is_given_is_kept_and_the_padding_added():
    weights = np.asarray([0, 1, 2, 0.5, 0], np.float32)
    metrics = evaluate(MEAN, 2)(KEY, 1.0, {"x": X[:5], "y": Y[:5], "mask": weights})
    assert float(metrics["examples"].value) == pytest.approx(weights.sum())
    assert float(metrics["y"].value) == pytest.approx((weights * Y[:5]).sum() / weights.sum())


def test_mask_over_time_is_padded_along_the_examples():
    tokens = Fold(lambda key, state: 0.0, lambda acc, state, batch: acc + batch["mask"].sum(), lambda acc: {"tokens": acc})
    given = np.ones((5, 3), np.float32)
    given[1] = 0
    assert float(evaluate(tokens, 2)(KEY, (), {"mask": given})["tokens"].value) == 12.0


def test_boolean_mask_counts_as_ones_and_zeros():
    metrics = evaluate(MEAN, 3)(KEY, 1.0, {"x": X[:4], "y": Y[:4], "mask": np.asarray([True, False, True, True])})
    assert float(metrics["examples"].value) == 3.0


def test_batches_keep_the_order_and_the_types_of_the_data():
    taken = Fold(
        lambda key, state: (jnp.zeros(6, jnp.uint8), 0),
        lambda acc, state, batch: (jax.lax.dynamic_update_slice(acc[0], batch["x"], (acc[1],)), acc[1] + 3),
        lambda acc: {f"x{index}": value for index, value in enumerate(acc[0])},
    )
    metrics = evaluate(taken, 3)(KEY, (), {"x": np.asarray([5, 6, 7, 8, 9, 250], np.uint8)})
    assert [int(metrics[f"x{index}"].value) for index in range(6)] == [5, 6, 7, 8, 9, 250]


def test_without_a_batch_size_the_data_are_one_batch_as_they_are():
    graph = Fold(lambda key, state: 0.0, lambda acc, state, batch: acc + batch[0].sum() * batch[1], lambda acc: {"sum": acc})
    assert float(evaluate(graph)(KEY, (), (jnp.arange(4.0), 2.0))["sum"].value) == 12.0


def test_learner_that_makes_its_own_data_gets_the_key():
    games = Fold(lambda key, state: jax.random.uniform(key), lambda acc, state, batch: acc, lambda acc: {"x": acc})
    values = {float(evaluate(games)(jax.random.key(seed), (), ())["x"].value) for seed in range(3)}
    assert len(values) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((3, 2)), r"must be a dict of arrays \[N, ...\], got ndarray; use batch_size=None"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, "every array must have the same number of rows"),
        ({"x": np.float32(1.0)}, "every array must have the same number of rows"),
        ({}, "every array must have the same number of rows"),
        ({"x": np.zeros((0, 2))}, r"must have at least one row, got none in \[\"\['x'\]\"\]"),
    ],
)
def test_data_that_are_no_table_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        num_rows(data)
    with pytest.raises(ValueError, match=message):
        evaluate(MEAN, 2)(KEY, 1.0, data)


def test_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="evaluate: batch_size must be >= 1, got 0"):
        evaluate(MEAN, 0)
