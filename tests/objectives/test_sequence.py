"""CTC against the enumeration of all paths, padding that holds anything, and labels that do not fit."""

from itertools import groupby, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.objectives import ctc_loss

loss = jax.jit(ctc_loss, static_argnames="blank")


def enumerated(logits, labels, blank):
    probs = np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True))
    spelled = lambda path: [symbol for symbol, _ in groupby(path) if symbol != blank]  # noqa: E731
    paths = product(range(logits.shape[-1]), repeat=len(logits))
    return -np.log(sum(probs[np.arange(len(path)), path].prod() for path in paths if spelled(path) == list(labels)))


@pytest.mark.parametrize("blank", [0, 2])
def test_2_4_ctc_is_the_sum_over_all_paths(blank):
    logits = np.random.default_rng(0).normal(size=(5, 3)) * 2
    one, two = [label for label in range(3) if label != blank]
    spellings = [(one, two), (one, one), (two, two), (two, one)]
    with jax.enable_x64(True):
        losses = loss(jnp.broadcast_to(jnp.asarray(logits), (4, 5, 3)), jnp.asarray(spellings), blank=blank)
    np.testing.assert_allclose(losses, [enumerated(logits, labels, blank) for labels in spellings], rtol=1e-12)


def test_probabilities_of_all_spellings_add_up_to_one():
    logits = jax.random.normal(jax.random.key(0), (1, 3, 3))
    spellings = [labels for size in range(4) for labels in product((1, 2), repeat=size)]
    labels = jnp.asarray([labels + (0,) * (3 - len(labels)) for labels in spellings])
    losses = loss(jnp.broadcast_to(logits, (len(labels), 3, 3)), labels, label_mask=labels > 0)
    np.testing.assert_allclose(jnp.exp(-losses).sum(), 1, rtol=1e-5)


def test_padding_may_hold_anything_and_counts_for_nothing():
    logits, labels = jax.random.normal(jax.random.key(0), (1, 4, 3)), jnp.array([[1, 2]])
    padded = jnp.concatenate([logits, jnp.full((1, 2, 3), jnp.nan)], 1)
    options = {"logit_mask": jnp.array([[1, 1, 1, 1, 0, 0]]), "label_mask": jnp.array([[1, 1, 0]])}
    value, gradient = jax.jit(jax.value_and_grad(lambda logits: ctc_loss(logits, jnp.array([[1, 2, -7]]), **options)[0]))(padded)
    wanted, wanted_gradient = jax.jit(jax.value_and_grad(lambda logits: ctc_loss(logits, labels)[0]))(logits)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, :4], wanted_gradient, rtol=1e-5, atol=1e-7)
    assert not gradient[:, 4:].any()


def test_labels_that_do_not_fit_have_infinite_loss_and_no_gradient_and_wrong_ones_nan():
    logits = jnp.zeros((4, 2, 3))
    labels = jnp.array([[1, 1], [1, 2], [0, 1], [1, 3]])  # a repetition needs a blank between
    gradient, losses = jax.jit(jax.grad(lambda logits: (lambda losses: (losses.sum(), losses))(ctc_loss(logits, labels)), has_aux=True))(logits)
    np.testing.assert_allclose(losses, [np.inf, 2 * np.log(3), np.nan, np.nan], rtol=1e-6)
    assert not gradient[0].any()
    assert bool(jnp.isfinite(gradient).all())


def test_empty_sequences_are_certain_and_huge_logits_stay_exact():
    nothing = {"logit_mask": jnp.zeros((1, 2)), "label_mask": jnp.zeros((1, 2))}
    value, gradient = jax.jit(jax.value_and_grad(lambda logits: ctc_loss(logits, jnp.array([[1, 1]]), **nothing)[0]))(jnp.zeros((1, 2, 3)))
    assert float(value) == 0
    assert not gradient.any()
    # Every one of twelve labels costs 1e4: more than the 1e5 at which optax takes a path for impossible.
    logits = jnp.zeros((1, 12, 3)).at[:, :, 0].set(1e4)
    np.testing.assert_allclose(loss(logits, jnp.array([[1, 2] * 6])), [1.2e5], rtol=1e-6)


def test_refusals():
    logits, labels = jnp.zeros((1, 4, 3)), jnp.array([[1, 2]])
    with pytest.raises(
        ValueError, match=r"ctc_loss: logits must be \[B, T, C\] and labels whole numbers \[B, N\], got \(1, 4, 3\) and float32\[1, 2\]"
    ):
        ctc_loss(logits, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match=r"logits must be \[B, T, C\]"):
        ctc_loss(jnp.zeros((2, 4, 3)), labels)
    with pytest.raises(ValueError, match=r"ctc_loss: logit_mask must have the shape \(1, 4\), got \(1, 3\)"):
        ctc_loss(logits, labels, logit_mask=jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=r"ctc_loss: label_mask must have the shape \(1, 2\), got \(1, 3\)"):
        ctc_loss(logits, labels, label_mask=jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="ctc_loss: blank must be between 0 and 2, got 3"):
        ctc_loss(logits, labels, blank=3)
