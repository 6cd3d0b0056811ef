"""Sine and cosine at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.rl.angles import sin_cos


@pytest.mark.parametrize("limit", [0.3, np.pi, 10_000.0])
def test_sine_and_cosine_are_numpys(limit):
    angle = np.linspace(-limit, limit, 100_001).astype(np.float32)
    for found, expected in zip(jax.jit(sin_cos)(angle), (np.sin(angle.astype(float)), np.cos(angle.astype(float))), strict=True):
        assert np.abs(np.asarray(found, float) - expected).max() < 1.5e-7


def test_derivatives_are_each_other():
    angle = jnp.linspace(-7, 7, 1001)
    sin, cos = sin_cos(angle)
    d_sin, d_cos = jax.jvp(sin_cos, (angle,), (jnp.ones_like(angle),))[1]
    np.testing.assert_allclose(d_sin, cos, atol=1e-5)
    np.testing.assert_allclose(d_cos, -sin, atol=1e-5)


def test_no_angle_has_no_sine():
    assert np.isnan(sin_cos(jnp.array([np.nan, np.inf], jnp.float32))).all()


def test_in_float64_they_are_exact():
    with jax.enable_x64():
        angle = jnp.linspace(-7, 7, 101)
        np.testing.assert_allclose(sin_cos(angle), (np.sin(angle), np.cos(angle)), rtol=0, atol=1e-15)
