"""AUC and average precision are scikit-learn's, ties, weights and padding included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from dljax.objectives import area_under_roc, average_precision

RANKINGS = jax.jit(lambda *arguments: (area_under_roc(*arguments), average_precision(*arguments)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), levels=st.sampled_from([1, 2, 4, 1000]), share=st.floats(0.05, 0.95))
def test_7_2_auc_and_average_precision_equal_scikit_learn_with_ties_and_weights(seed, levels, share):
    rng = np.random.default_rng(seed)
    scores, labels, weights = rng.integers(levels, size=40).astype(float), rng.random(40) < share, rng.integers(0, 4, 40).astype(float)
    labels[:2], weights[:2] = [0, 1], 1
    with jax.enable_x64(True):
        found = RANKINGS(jnp.asarray(scores), jnp.asarray(labels), jnp.asarray(weights))
    counts = weights > 0
    expected = [function(labels[counts], scores[counts], sample_weight=weights[counts]) for function in (roc_auc_score, average_precision_score)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def padded(scores, labels):
    """To the length of the other test, with scores that would be seen."""
    num = 40 - len(scores)
    rest = np.resize([np.nan, np.inf, -np.inf, 0.2], num)
    return np.float32([*scores, *rest]), np.array([*labels, *np.resize([1, 0], num)]), np.arange(40) < len(scores)


def test_padding_does_not_count_whatever_its_score():
    scores, labels = [0.3, 0.2, 0.2, 0.9], [1, 0, 1, 0]
    expected = [function(labels, scores) for function in (roc_auc_score, average_precision_score)]
    np.testing.assert_allclose(RANKINGS(*padded(scores, labels)), expected, rtol=1e-6)


def test_extreme_scores_keep_their_order():
    scores, labels = np.array([-np.inf, -1e30, 1e-30, 1e4, np.inf]), np.array([0, 0, 1, 1, 1])
    assert [float(value) for value in RANKINGS(*padded(scores, labels))] == [1, 1]
    assert [float(value) for value in RANKINGS(*padded(-scores, 1 - labels))] == [1, 1]


def test_200_thousand_float32_scores_are_counted_exactly():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=200_000).astype(np.float32).round(3), rng.random(200_000) < 0.01
    expected = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    np.testing.assert_allclose(RANKINGS(jnp.asarray(scores), jnp.asarray(labels), jnp.ones(200_000)), expected, rtol=1e-5)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_what_is_not_defined_is_nan(labels):
    area, precision = RANKINGS(*padded([0.1, 0.2], labels))
    assert np.isnan(area)
    assert np.isnan(precision) == (labels == [0, 0])
