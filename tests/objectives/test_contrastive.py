"""Losses of embeddings: one device against eight, the values of embeddings that know nothing or all, and equal points."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.core import bind_axis
from dljax.objectives import contrastive_loss, info_nce, nt_xent, triplet_loss

U, V = jax.random.normal(jax.random.key(0), (2, 8, 3))


@pytest.mark.parametrize("loss", [info_nce, nt_xent])
def test_2_4_shards_have_the_loss_and_gradients_of_one_device(loss):
    def total(u, v):
        return loss(u, v).sum()

    def bound(u, v):
        with bind_axis("data"):
            return jax.value_and_grad(total, (0, 1))(u, v)

    value, grads = jax.jit(jax.value_and_grad(total, (0, 1)))(U, V)
    cut = [x.reshape(4, 2, 3) for x in (U, V)]
    values, shards = jax.jit(jax.vmap(bound, axis_name="data"))(*cut)
    np.testing.assert_allclose(values.sum(), value, rtol=1e-5)
    for shard, grad in zip(shards, grads, strict=True):
        np.testing.assert_allclose(shard.reshape(8, 3), grad, rtol=1e-4, atol=1e-5)


def test_nt_xent_is_the_mean_that_optax_takes():
    both, labels = jnp.concatenate([U, V]), jnp.tile(jnp.arange(8), 2)
    with jax.numpy_rank_promotion("allow"):
        theirs = jax.jit(optax.losses.ntxent)(both, labels, 0.3)
    np.testing.assert_allclose(nt_xent(U, V, temperature=0.3).mean(), theirs, rtol=1e-5)


def test_info_nce_is_zero_for_perfect_cold_embeddings_and_log_b_for_equal_ones():
    ones = jnp.ones((5, 2))
    perfect, blind, scaled, plain = jax.jit(lambda: (
        info_nce(jnp.eye(5), 3 * jnp.eye(5), temperature=0.01), info_nce(ones, ones, negatives=ones[:3]), info_nce(1e4 * U, 1e-4 * V), info_nce(U, V)
    ))()  # fmt: skip
    np.testing.assert_allclose(perfect, 0, atol=1e-6)
    np.testing.assert_allclose(blind, np.log(8), rtol=1e-6)
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)


def test_temperatures_and_margins_may_be_traced():
    options = lambda t: (info_nce(U, V, temperature=t), nt_xent(U, V, temperature=t), triplet_loss(U, V, -V, margin=t))  # noqa: E731
    for traced, number in zip(*jax.jit(lambda t: (options(t), options(0.2)))(0.2), strict=True):
        np.testing.assert_allclose(traced, number, rtol=1e-5)


def test_equal_points_have_finite_gradients_and_a_pair_beyond_the_margin_has_none():
    losses = (
        lambda u: contrastive_loss(u, U, jnp.zeros(8)),
        lambda u: contrastive_loss(u, U, jnp.ones(8)),
        lambda u: triplet_loss(u, U, U),
        lambda u: contrastive_loss(u, U + 10, jnp.zeros(8)),
    )
    *gradients, far = jax.jit(lambda u: [jax.grad(lambda u, loss=loss: loss(u).sum())(u) for loss in losses])(U)
    assert all(bool(jnp.isfinite(gradient).all()) for gradient in gradients)
    assert not far.any()


def test_squared_triplets_are_those_of_the_paper():
    u, v = map(np.asarray, (U, V))
    want = np.maximum(np.square(u - v).sum(-1) - np.square(u + v).sum(-1) + 0.2, 0)
    np.testing.assert_allclose(triplet_loss(U, V, -V, margin=0.2, is_squared=True), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contrastive_loss(U, V, jnp.ones(8), margin=0.0), "contrastive_loss: margin must be in"),
        (lambda: contrastive_loss(U, V[:3], jnp.ones(8)), r"contrastive_loss: left and right must have one shape, got left \(8, 3\), right \(3, 3\)"),
        (lambda: triplet_loss(U, V, V, margin=-1.0), "triplet_loss: margin must be in"),
        (lambda: triplet_loss(U, V, V[:2]), "triplet_loss: anchors and positives and negatives must have one shape"),
        (lambda: info_nce(U, V, temperature=0.0), "info_nce: temperature must be in"),
        (lambda: info_nce(U, V[:2]), "info_nce: queries and keys must have one shape"),
        (lambda: nt_xent(U, V, temperature=-1.0), "nt_xent: temperature must be in"),
        (lambda: nt_xent(U, V[:2]), "nt_xent: left and right must have one shape"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
