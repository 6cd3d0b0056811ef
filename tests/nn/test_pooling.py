"""Pooling: PyTorch's and Flax's values and gradients, ties included."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from dljax.nn import avg_pool, max_pool

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "vision.npz")


@pytest.mark.parametrize(("name", "window", "stride"), [("halving", 2, 2), ("overlapping", 3, 2)])
@pytest.mark.parametrize(("kind", "pool"), [("max", max_pool), ("avg", avg_pool)])
def test_value_and_gradient_equal_those_of_torch_with_ties(name, window, stride, kind, pool):
    with jax.enable_x64(True):
        x, y, cotangent, dx = (GOLDEN[f"{name}/{kind}/{key}"] for key in ("x", "y", "cotangent", "dx"))
        ours, pull = jax.vjp(lambda x: pool(x, (window,) * 2, (stride,) * 2), jnp.asarray(x))
        np.testing.assert_allclose(ours, y, rtol=1e-12)
        np.testing.assert_allclose(pull(jnp.asarray(cotangent))[0], dx, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "window", "strides", "padding"),
    [
        ((2, 9, 3), (3,), None, "SAME"),
        ((2, 9, 8, 3), (2, 3), (1, 2), "VALID"),
        ((2, 9, 8, 3), (3, 3), (2, 2), ((1, 0), (2, 1))),
        ((9, 8, 3), (3, 3), (2, 2), "SAME"),
        ((2, 5, 6, 7, 1), (2, 2, 2), (2, 2, 2), "SAME"),
        ((1, 20, 20, 1), (12, 12), (4, 4), "SAME"),
    ],
)
@pytest.mark.parametrize("kind", ["max", "avg", "avg of what is inside"])
def test_value_and_gradient_equal_those_of_flax(shape, window, strides, padding, kind):
    if kind != "max" and window == (12, 12):
        pytest.skip("large windows are Flax's own")
    x = jnp.asarray(np.random.default_rng(0).integers(0, 4, shape), jnp.float32)
    options = {} if kind != "avg of what is inside" else {"count_include_pad": False}

    def ours(x):
        return (max_pool if kind == "max" else avg_pool)(x, window, strides, padding, **options)

    def theirs(x):
        return (linen.max_pool if kind == "max" else linen.avg_pool)(x, window, strides, padding, **options)

    with jax.numpy_rank_promotion("allow"):  # Flax divides arrays of unequal rank
        expected, pull_theirs = jax.vjp(theirs, x)
        outputs, pull = jax.vjp(ours, x)
        np.testing.assert_allclose(outputs, expected, rtol=1e-6)
        np.testing.assert_allclose(pull(jnp.sin(outputs))[0], pull_theirs(jnp.sin(outputs))[0], rtol=1e-5, atol=1e-6)


def test_nan_anywhere_in_a_window_gives_nan():
    x = jnp.array([jnp.nan, 1, 2, jnp.nan, 3, 4]).reshape(1, 6, 1)
    assert jnp.isnan(max_pool(x, (2,), (2,))).ravel().tolist() == [True, True, False]


def test_maximum_of_whole_numbers_ignores_padding():
    assert max_pool(jnp.array([[-3], [-5], [-7]]), (3,), (1,), "SAME").ravel().tolist() == [-3, -3, -5]


def test_pooled_gradient_needs_no_windowed_scatter():
    """XLA's select-and-scatter, the gradient of its own maximum, takes a CPU twenty times as long."""
    program = jax.jit(jax.grad(lambda x: max_pool(x, (2, 2), (2, 2)).sum())).lower(jnp.ones((2, 8, 8, 4))).as_text()
    assert "select_and_scatter" not in program


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_shape": (0,)}, "window_shape must be >= 1, got 0"),
        ({"window_shape": (2,), "strides": (0,)}, "strides must be >= 1, got 0"),
        ({"window_shape": (2,), "strides": (1, 1)}, "one size for each spatial axis"),
        ({"window_shape": (2, 2, 2)}, "one size for each spatial axis"),
        ({"window_shape": (2,), "padding": "FULL"}, "padding must be one of 'SAME', 'VALID', got 'FULL'"),
        ({"window_shape": (2,), "padding": (1,)}, r"padding must be 'SAME', 'VALID' or 1 pairs"),
        ({"window_shape": (9,)}, r"window_shape \(9,\) must fit into the padded input \(8,\)"),
    ],
)
def test_refusals(pool, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        pool(jnp.ones((2, 8, 3)), **options)
