"""Pooling: PyTorch's and Flax's values and gradients, ties included."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.nn import adaptive_avg_pool, adaptive_max_pool, avg_pool, global_avg_pool, global_max_pool, max_pool

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "vision.npz")
ADAPTIVE = np.load(Path(__file__).parents[1] / "golden" / "convolutional.npz")


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


# Global and adaptive


def _with_gradient(function, x, cotangent=None):
    """The value, and the gradient of Σ cos(value) where no cotangent is given."""
    y, pull = jax.vjp(function, x)
    return y, pull(-jnp.sin(y) if cotangent is None else cotangent)[0]


@pytest.mark.parametrize("name", ["line", "plane", "more", "solid"])
@pytest.mark.parametrize(("kind", "pool"), [("max", adaptive_max_pool), ("avg", adaptive_avg_pool)])
def test_5_1_adaptive_pooling_has_torchs_values_and_gradients_with_ties(name, kind, pool):
    with jax.enable_x64(True):
        x, y, cotangent, dx = (ADAPTIVE[f"adaptive/{name}/{kind}/{key}"] for key in ("x", "y", "cotangent", "dx"))
        ours, found = jax.jit(lambda x, cotangent: _with_gradient(lambda x: pool(x, y.shape[1:-1]), x, cotangent))(x, cotangent)
        np.testing.assert_allclose(ours, y, rtol=1e-12)
        np.testing.assert_allclose(found, dx, rtol=1e-12, atol=1e-12)


@settings(max_examples=3, deadline=None)
@given(size=st.tuples(st.integers(1, 9), st.integers(1, 9)), out=st.tuples(st.integers(1, 6), st.none() | st.integers(1, 6)), seed=st.integers(0, 9))
def test_5_1_adaptive_pooling_of_any_size_is_torchs(size, out, seed):
    functional = pytest.importorskip("torch").nn.functional
    import torch

    x = np.random.default_rng(seed).integers(0, 5, (2, *size, 3)).astype(float)
    theirs = torch.tensor(x, requires_grad=True)
    with jax.enable_x64(True):
        for kind, pool in (("max", adaptive_max_pool), ("avg", adaptive_avg_pool)):
            expected = getattr(functional, f"adaptive_{kind}_pool2d")(theirs.movedim(-1, 1), out).movedim(1, -1)
            ours, found = jax.jit(lambda x, pool=pool: _with_gradient(lambda x: pool(x, out), x))(x)
            np.testing.assert_allclose(ours, expected.detach(), rtol=1e-12)
            (gradient,) = torch.autograd.grad(expected.cos().sum(), theirs)
            np.testing.assert_allclose(found, gradient, rtol=1e-11, atol=1e-12)


def test_5_1_global_pooling_is_adaptive_pooling_to_one_place_and_the_mean_and_maximum_of_numpy():
    x = np.random.default_rng(0).integers(0, 4, (2, 5, 6, 3)).astype(np.float32)
    for whole, adaptive, expected in ((global_max_pool, adaptive_max_pool, np.max), (global_avg_pool, adaptive_avg_pool, np.mean)):
        y, gradient = jax.jit(lambda x, whole=whole: _with_gradient(whole, x))(x)
        z, other_gradient = jax.jit(lambda x, adaptive=adaptive: _with_gradient(lambda x: adaptive(x, 1)[:, 0, 0], x))(x)
        np.testing.assert_allclose(y, expected(x, (1, 2)), rtol=1e-6)
        np.testing.assert_allclose(z, y, rtol=1e-6)
        np.testing.assert_allclose(gradient, other_gradient, rtol=1e-6, atol=1e-7)
    # Of equal maxima the first gets the gradient.
    assert jax.grad(lambda x: global_max_pool(x).sum())(jnp.ones((1, 2, 2, 1))).ravel().tolist() == [1, 0, 0, 0]
    assert jnp.isnan(global_max_pool(jnp.array([1, jnp.nan, 2]).reshape(1, 3, 1))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: global_avg_pool(jnp.ones((2, 3))), r"global_avg_pool: x must be \[B, \*spatial, C\] with at least one spatial axis.*got \(2, 3\)"),
        (lambda: global_max_pool(jnp.ones((2, 0, 3))), r"global_max_pool: x must be .*no empty one, got \(2, 0, 3\)"),
        (lambda: adaptive_max_pool(jnp.ones((2, 4, 4, 3)), 0), "adaptive_max_pool: output_size must be >= 1, got 0"),
        (lambda: adaptive_avg_pool(jnp.ones((2, 4, 4, 3)), (2,)), r"adaptive_avg_pool: output_size must be one number or 2.*got \(2,\)"),
    ],
)
def test_global_and_adaptive_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
