"""Augmentation: exact where it can be, random where it must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.data.augmentation import random_affine

X = jnp.asarray(np.random.default_rng(0).uniform(size=(64, 8, 8, 2)), jnp.float32)


def test_nothing_asked_for_changes_nothing():
    np.testing.assert_allclose(random_affine(jax.random.key(0), X), X, atol=1e-6)


def test_a_disc_in_the_middle_survives_any_rotation():
    row, column = np.mgrid[:17, :17] - 8
    disc = jnp.asarray(np.exp(-(row**2 + column**2) / 8), jnp.float32)[None, :, :, None].repeat(16, 0)
    np.testing.assert_allclose(random_affine(jax.random.key(0), disc, rotation=jnp.pi), disc, atol=0.05)


def test_centres_of_mass_move_by_a_uniform_shift():
    spots = jnp.zeros((500, 11, 11, 1)).at[:, 5, 5].set(1)
    moved = random_affine(jax.random.key(0), spots, shift=3.0)[..., 0]
    np.testing.assert_allclose(moved.sum((1, 2)), 1, rtol=1e-4)  # bilinear weights sum to one
    rows = (moved * jnp.arange(11.0)[None, :, None]).sum((1, 2)) - 5
    assert jnp.abs(rows).max() <= 3 + 1e-4
    np.testing.assert_allclose([rows.mean(), rows.std()], [0, 3**0.5], atol=0.2)


def test_examples_differ_and_the_key_decides():
    same = random_affine(jax.random.key(1), X[:1].repeat(2, 0), shift=1.0, rotation=0.5, distortion=0.2)
    assert (same[0] != same[1]).any()
    np.testing.assert_array_equal(same, random_affine(jax.random.key(1), X[:1].repeat(2, 0), shift=1.0, rotation=0.5, distortion=0.2))


def test_refusals():
    for name, value in {"shift": -1.0, "rotation": 4.0, "distortion": 1.0}.items():
        with pytest.raises(ValueError, match=f"random_affine: {name} must be in .* got {value}"):
            random_affine(jax.random.key(0), X, **{name: value})
