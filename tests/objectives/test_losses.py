"""Losses and metrics of single examples: PyTorch's values, and what a wrong label does."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.objectives import (
    absolute_error,
    accuracy,
    cosine_distance,
    cross_entropy,
    focal_loss,
    huber_loss,
    log_cosh,
    quantile_loss,
    sigmoid_focal_loss,
    softmax_cross_entropy,
    squared_error,
    top_k,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "vision.npz")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_4_2_label_smoothing_and_its_gradient_equal_those_of_torch(smoothing):
    with jax.enable_x64(True):
        logits, labels, loss, dlogits = (jnp.asarray(GOLDEN[f"cross_entropy/{smoothing}/{key}"]) for key in ("logits", "labels", "loss", "dlogits"))
        ours, pull = jax.vjp(lambda logits: cross_entropy(logits, labels, label_smoothing=smoothing), logits)
        np.testing.assert_allclose(ours, loss, rtol=1e-12)
        np.testing.assert_allclose(pull(jnp.ones(6))[0], dlogits, rtol=1e-11, atol=1e-12)


def test_traced_smoothing_equals_a_number():
    logits, labels = jax.random.normal(jax.random.key(0), (4, 3)), jnp.array([0, 1, 2, 1])
    for smoothing in (0.0, 0.3):
        traced = jax.jit(lambda smoothing: cross_entropy(logits, labels, label_smoothing=smoothing))(smoothing)
        np.testing.assert_allclose(traced, cross_entropy(logits, labels, label_smoothing=smoothing), rtol=1e-6)


def test_huge_logits_stay_finite():
    losses = cross_entropy(jnp.array([[1e4, 0.0], [0.0, 1e4]]), jnp.array([0, 0]), label_smoothing=0.1)
    np.testing.assert_allclose(losses, [500, 9500], rtol=1e-5)


@pytest.mark.parametrize("label", [-1, 3])
def test_label_out_of_range_gives_nan_and_no_gradient(label):
    loss, gradient = jax.value_and_grad(lambda logits: cross_entropy(logits, jnp.array([label])).sum())(jnp.ones((1, 3)))
    assert np.isnan(loss)
    assert gradient.tolist() == [[0, 0, 0]]


def test_metrics_count_the_first_of_equal_logits():
    logits = jnp.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    assert accuracy(logits, jnp.array([0, 1])).tolist() == [1, 1]
    assert accuracy(logits, jnp.array([1, 2])).tolist() == [0, 0]
    assert top_k(2)(logits, jnp.array([1, 2])).tolist() == [1, 1]
    assert top_k(2)(logits, jnp.array([2, 0])).tolist() == [0, 0]


def test_refusals():
    logits = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got 2"):
        cross_entropy(logits, jnp.array([0, 1]), label_smoothing=2)
    with pytest.raises(ValueError, match=r"labels must be whole numbers of shape \(2,\).*got int32\[3\]"):
        cross_entropy(logits, jnp.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"got float32\[2\]"):
        cross_entropy(logits, jnp.array([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(2, 1\)"):
        squared_error(jnp.ones(2), jnp.ones((2, 1)))
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        top_k(0)
    with pytest.raises(ValueError, match="k must be between 1 and 3, got 4"):
        top_k(4)(logits, jnp.array([0, 1]))


def test_classes_left_out_are_as_if_they_did_not_exist_and_an_empty_mask_gives_zero():
    logits = jnp.array([[1.0, jnp.inf, 0.5, -2.0], [1.0, 2.0, 3.0, 4.0], [jnp.nan] * 4])
    where = jnp.array([[True, False, True, True], [False, True, True, False], [False] * 4])
    labels = jnp.array([2, 0, 1])
    for smoothing in (0.0, 0.2):

        @jax.jit
        def both(logits, smoothing=smoothing):
            losses, pull = jax.vjp(lambda logits: cross_entropy(logits, labels, label_smoothing=smoothing, where=where), logits)
            alone = cross_entropy(logits[:1, jnp.array([0, 2, 3])], jnp.array([1]), label_smoothing=smoothing)[0]
            return losses, pull(jnp.ones(3))[0], alone

        losses, dlogits, expected = both(logits)
        np.testing.assert_allclose(losses[0], expected, rtol=1e-6)
        assert np.isnan(losses[1])  # its label is left out
        assert losses[2] == 0
        assert bool(jnp.isfinite(dlogits).all())
        assert dlogits[0, 1] == 0
        np.testing.assert_array_equal(dlogits[2], 0)
    np.testing.assert_allclose(
        cross_entropy(jnp.eye(3), jnp.arange(3), where=jnp.ones(3, bool)[None]), cross_entropy(jnp.eye(3), jnp.arange(3)), rtol=1e-6
    )


def test_minus_infinity_has_probability_zero_and_no_gradient():
    logits, targets = jnp.array([[0.0, -jnp.inf, 1.0]]), jnp.array([[0.25, 0.0, 0.75]])
    loss, gradient = jax.value_and_grad(lambda logits: softmax_cross_entropy(logits, targets)[0])(logits)
    np.testing.assert_allclose(loss, softmax_cross_entropy(logits[:, ::2], targets[:, ::2])[0], rtol=1e-6)
    assert bool(jnp.isfinite(gradient).all())


def test_the_best_constants_are_quantiles_the_mean_and_the_median():
    targets = jnp.sort(jax.random.normal(jax.random.key(0), (101,)))
    grid = jnp.linspace(-2, 2, 1601)

    def best(loss):
        return float(jax.jit(lambda: grid[jax.vmap(lambda constant: loss(jnp.full(101, constant), targets).mean())(grid).argmin()])())

    for quantile in (0.1, 0.8):
        assert best(partial(quantile_loss, quantile=quantile)) == pytest.approx(float(jnp.quantile(targets, quantile)), abs=0.003)
    assert best(absolute_error) == pytest.approx(float(jnp.median(targets)), abs=0.003)
    assert best(squared_error) == pytest.approx(float(targets.mean()), abs=0.003)


def test_focal_loss_without_focus_is_cross_entropy_and_two_classes_are_one_logit():
    logits, labels = jax.random.normal(jax.random.key(0), (5, 2)), jnp.array([0, 1, 1, 0, 1])
    focal = jax.jit(lambda gamma: focal_loss(logits, labels, gamma=gamma))
    np.testing.assert_allclose(focal(0.0), cross_entropy(logits, labels), rtol=1e-6)
    one_logit = jax.jit(lambda gamma: sigmoid_focal_loss(logits[:, 1] - logits[:, 0], labels, gamma=gamma))
    np.testing.assert_allclose(focal(1.5), one_logit(1.5), rtol=1e-5)


def test_cosine_distance_of_zeros_is_one_with_a_finite_gradient_and_does_not_depend_on_length():
    x, y = jax.random.normal(jax.random.key(0), (2, 4, 3))
    distance = jax.jit(cosine_distance)
    np.testing.assert_allclose(distance(1e4 * x, 1e-3 * y), distance(x, y), rtol=1e-5)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: cosine_distance(x, y).sum()))(jnp.zeros((4, 3)))
    assert float(value) == 4
    assert bool(jnp.isfinite(gradient).all())


ONE, TWO = jnp.ones(2), jnp.ones((2, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: absolute_error(ONE, TWO), "absolute_error: predictions and targets must have one shape"),
        (lambda: huber_loss(ONE, TWO), "huber_loss: predictions and targets must have one shape"),
        (lambda: huber_loss(ONE, ONE, delta=0.0), "huber_loss: delta must be in"),
        (lambda: log_cosh(ONE, TWO), "log_cosh: predictions and targets must have one shape"),
        (lambda: quantile_loss(ONE, TWO, quantile=0.5), "quantile_loss: predictions and targets must have one shape"),
        (lambda: quantile_loss(ONE, ONE, quantile=1.5), "quantile_loss: quantile must be in"),
        (lambda: cosine_distance(TWO, TWO, epsilon=-1.0), "cosine_distance: epsilon must be in"),
        (lambda: cosine_distance(TWO, ONE), "cosine_distance: predictions and targets must have one shape"),
        (lambda: softmax_cross_entropy(TWO, ONE), "softmax_cross_entropy: predictions and targets must have one shape"),
        (lambda: focal_loss(TWO, ONE), "cross_entropy: labels must be whole numbers"),
        (lambda: focal_loss(TWO, jnp.array([0, 0]), gamma=-1.0), "focal_loss: gamma must be in"),
        (lambda: sigmoid_focal_loss(ONE, TWO), "sigmoid_focal_loss: predictions and targets must have one shape"),
        (lambda: sigmoid_focal_loss(ONE, ONE, gamma=-1.0), "sigmoid_focal_loss: gamma must be in"),
        (lambda: sigmoid_focal_loss(ONE, ONE, alpha=2.0), "sigmoid_focal_loss: alpha must be in"),
    ],
)
def test_refusals_of_the_other_losses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
