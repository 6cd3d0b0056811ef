"""Divergences: scipy's values, the inequalities between them, and probabilities of zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from scipy.stats import wasserstein_distance as earth_movers_distance

from dljax.objectives import hellinger_distance, js_divergence, kl_divergence, total_variation, wasserstein_distance

rng = np.random.default_rng(0)
P, Q = rng.dirichlet(np.ones(5), size=(2, 7))
P[0, :2], P[0, 2:] = [0.5, 0.5], 0
Q[0, 1:3], Q[0, [0, 3, 4]] = [0.5, 0.5], 0


def test_values_are_those_of_scipy():
    with jax.enable_x64(True):
        p, q = jnp.asarray(P), jnp.asarray(Q)
        np.testing.assert_allclose(js_divergence(p, q), jensenshannon(P, Q, axis=-1) ** 2, rtol=1e-12)
        np.testing.assert_allclose(kl_divergence(jnp.log(q), p)[1:], entropy(P, Q, axis=-1)[1:], rtol=1e-12)
        assert kl_divergence(jnp.log(q), p)[0] == np.inf
        np.testing.assert_allclose(hellinger_distance(p, q), np.linalg.norm(np.sqrt(P) - np.sqrt(Q), axis=-1) / np.sqrt(2), rtol=1e-12)
        np.testing.assert_allclose(total_variation(p, q), np.maximum(P - Q, 0).sum(-1), rtol=1e-12)


CELLS = st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3)
distances = jax.jit(lambda a, b: (
    js_divergence(jax.nn.softmax(a), jax.nn.softmax(b)), total_variation(jax.nn.softmax(a), jax.nn.softmax(b)),
    hellinger_distance(jax.nn.softmax(a), jax.nn.softmax(b)), kl_divergence(jax.nn.log_softmax(a), jax.nn.softmax(b)),
))  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(CELLS, CELLS)
def test_inequalities_between_them_hold(a, b):
    js, tv, hellinger, kl = (float(value) for value in distances(jnp.array(a), jnp.array(b)))
    slack = 1e-5
    assert -slack <= js <= np.log(2) + slack
    assert js <= tv * np.log(2) + slack  # Lin (1991), theorem 3
    assert hellinger**2 <= tv + slack
    assert tv <= np.sqrt(2) * hellinger + slack
    assert tv**2 <= kl / 2 + 1e-6  # Pinsker
    np.testing.assert_allclose(js, distances(jnp.array(b), jnp.array(a))[0], atol=1e-6)


def test_zero_log_zero_is_zero_in_value_and_gradient():
    p, q = jnp.array([0.5, 0.5, 0.0]), jnp.array([1.0, 0.0, 0.0])
    divergences = (js_divergence, total_variation, hellinger_distance, lambda p, q: kl_divergence(jnp.log(p), q))
    pairs = jax.jit(lambda p, q: [jax.value_and_grad(divergence, 1)(p, q) for divergence in divergences])(p, q)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(pairs))
    zero, flat = jax.jit(lambda p: (kl_divergence(jnp.array([0.0, -jnp.inf]), jnp.array([1.0, 0.0])), jax.grad(hellinger_distance)(p, p)))(p)
    assert float(zero) == 0
    assert flat.tolist() == [0, 0, 0]


@pytest.mark.parametrize("divergence", [kl_divergence, js_divergence, total_variation, hellinger_distance])
def test_other_shapes_are_refused(divergence):
    with pytest.raises(ValueError, match=rf"{divergence.__name__}: both distributions must have one shape, got \(2, 3\) and \(3,\)"):
        divergence(jnp.ones((2, 3)), jnp.ones(3))


def test_the_distance_on_a_line_is_that_of_scipy():
    places = np.array([-1.0, 0.0, 0.5, 3.0, 3.5])
    with jax.enable_x64(True):
        found = wasserstein_distance(jnp.asarray(P), jnp.asarray(Q), jnp.asarray(places))
    np.testing.assert_allclose(found, [earth_movers_distance(places, places, p, q) for p, q in zip(P, Q, strict=True)], rtol=1e-12)
    with pytest.raises(ValueError, match=r"wasserstein_distance: each of 5 places must have a position, got \(4,\)"):
        wasserstein_distance(jnp.asarray(P), jnp.asarray(Q), jnp.zeros(4))
