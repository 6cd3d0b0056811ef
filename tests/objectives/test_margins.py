"""Margin losses: scikit-learn's mean hinge loss, the two forms of the logistic loss, and wrong labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import hinge_loss as sklearn_hinge

from dljax.objectives import cross_entropy, hinge_loss, logistic_loss, multiclass_hinge_loss, sigmoid_binary_cross_entropy

SCORES = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0])


def test_hinge_losses_are_those_of_scikit_learn():
    signs = np.where(LABELS > 1, 1, -1)
    assert float(hinge_loss(jnp.asarray(SCORES[:, 0]), jnp.asarray(signs)).mean()) == pytest.approx(sklearn_hinge(signs, SCORES[:, 0]), rel=1e-6)
    ours = multiclass_hinge_loss(jnp.asarray(SCORES), jnp.asarray(LABELS)).mean()
    assert float(ours) == pytest.approx(sklearn_hinge(LABELS, SCORES, labels=np.arange(4)), rel=1e-6)


def test_two_classes_are_one_score():
    scores, labels = jnp.asarray(SCORES[:, :2]), jnp.asarray(LABELS % 2)
    difference, signs = scores[:, 1] - scores[:, 0], 2 * labels - 1
    for kind in ("crammer-singer", "weston-watkins"):
        np.testing.assert_allclose(multiclass_hinge_loss(scores, labels, kind=kind), hinge_loss(difference, signs), rtol=1e-6)
    np.testing.assert_allclose(cross_entropy(scores, labels), logistic_loss(difference, signs), rtol=1e-5)
    np.testing.assert_allclose(sigmoid_binary_cross_entropy(difference, labels), logistic_loss(difference, signs), rtol=1e-5)


def test_the_squared_hinge_loss_is_smooth_where_it_sets_in():
    slope = jax.vmap(jax.grad(lambda score: hinge_loss(score, jnp.int32(1), power=2)))(jnp.array([0.0, 0.999, 1.0, 1.001]))
    np.testing.assert_allclose(slope, [-2, -0.002, 0, 0], atol=1e-5)


@pytest.mark.parametrize("label", [-1, 4])
def test_label_out_of_range_gives_nan_and_no_gradient(label):
    value, gradient = jax.value_and_grad(lambda scores: multiclass_hinge_loss(scores, jnp.full(1, label)).sum())(jnp.asarray(SCORES[:1]))
    assert np.isnan(value)
    assert not gradient.any()


def test_refusals():
    scores, labels = jnp.asarray(SCORES), jnp.asarray(LABELS)
    with pytest.raises(ValueError, match=r"hinge_loss: scores and targets must have one shape, got \(9, 4\) and \(9,\)"):
        hinge_loss(scores, labels)
    with pytest.raises(ValueError, match="logistic_loss: scores and targets must have one shape"):
        logistic_loss(scores, labels)
    with pytest.raises(ValueError, match="hinge_loss: power must be one of 1, 2, got 3"):
        hinge_loss(scores, scores, power=3)
    with pytest.raises(ValueError, match="multiclass_hinge_loss: margin must be in"):
        multiclass_hinge_loss(scores, labels, margin=-1.0)
    with pytest.raises(ValueError, match="multiclass_hinge_loss: kind must be one of 'crammer-singer', 'weston-watkins', got 'hinge'"):
        multiclass_hinge_loss(scores, labels, kind="hinge")
    with pytest.raises(ValueError, match="multiclass_hinge_loss: labels must be whole numbers"):
        multiclass_hinge_loss(scores, labels[:3])
