"""Losses and metrics of single examples: PyTorch's values, and what a wrong label does."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.objectives import accuracy, cross_entropy, squared_error, top_k

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
