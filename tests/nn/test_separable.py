"""Depthwise and separable convolution: PyTorch's values and gradients, and the full kernel that a separable one stands for."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.core.tree import num_params
from dljax.nn import Conv, DepthwiseConv, SeparableConv, convolution

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "convolutional.npz")


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_5_1_separable_and_depthwise_values_and_gradients_equal_those_of_torch(rank):
    saved = {key: jnp.asarray(GOLDEN[f"separable/{rank}/{key}"], jnp.float64) for key in ("x", "y", "cotangent", "dx", "bias", "dbias")}
    params, gradients = (
        {
            "depthwise": {"kernel": GOLDEN[f"separable/{rank}/{prefix}depthwise"]},
            "pointwise": {"kernel": GOLDEN[f"separable/{rank}/{prefix}pointwise"], "bias": GOLDEN[f"separable/{rank}/{prefix}bias"]},
        }
        for prefix in ("", "d")
    )
    layer = SeparableConv(4, (3,) * rank, strides=2, padding=1, multiplier=2)

    @jax.jit
    def value_and_gradients(params, x, cotangent):
        y, pull = jax.vjp(lambda params, x: layer.apply({"params": params}, x), params, x)
        return y, pull(cotangent)

    y, found = value_and_gradients(jax.tree.map(jnp.asarray, params), saved["x"], saved["cotangent"])
    np.testing.assert_allclose(y, saved["y"], rtol=1e-11, atol=1e-11)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves((gradients, saved["dx"])), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_5_1_separable_is_the_full_convolution_with_the_product_of_its_kernels():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 7, 6, 3)))
    layer = SeparableConv(5, (3, 2), padding="VALID", multiplier=2, use_bias=False, param_dtype=jnp.float64)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    depthwise, pointwise = (variables["params"][name]["kernel"] for name in ("depthwise", "pointwise"))
    full = jnp.einsum("hwcj,cjo->hwco", depthwise.reshape(3, 2, 3, 2), pointwise.reshape(3, 2, 5))
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), convolution(x, full, padding="VALID"), rtol=1e-11, atol=1e-11)
    assert num_params(variables) == 2 * 3 * (3 * 2 + 5)


def test_5_1_a_kernel_of_rank_one_is_two_convolutions_along_one_axis_each():
    rng = np.random.default_rng(0)
    x, column, row = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 7, 6, 1), (3, 1, 1, 1), (1, 3, 1, 1)))
    np.testing.assert_allclose(convolution(convolution(x, column), row), convolution(x, column * row), rtol=1e-11, atol=1e-11)


def test_5_1_depthwise_is_a_convolution_with_as_many_groups_as_channels():
    ours, grouped = DepthwiseConv((2, 3), 2, 1, multiplier=3), Conv(12, (2, 3), 2, padding=1, feature_group_count=4)
    rng = np.random.default_rng(0)
    x, kernel, bias = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 6, 5, 4), (2, 3, 1, 12), (12,)))
    variables = {"params": {"kernel": kernel, "bias": bias}}
    y, expected = jax.jit(lambda x: (ours.apply(variables, x), grouped.apply(variables, x)))(x)
    np.testing.assert_array_equal(y, expected)


def test_half_precision_parameters_decide_the_dtype():
    x = jnp.ones((1, 4, 4, 2), jnp.float32)
    shapes = jax.eval_shape(SeparableConv(3, (3, 3)).init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), shapes)
    assert jax.eval_shape(SeparableConv(3, (3, 3)).apply, variables, x).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (DepthwiseConv((3, 3), multiplier=0), "DepthwiseConv: multiplier must be >= 1, got 0"),
        (SeparableConv(0, (3, 3)), "SeparableConv: features must be >= 1, got 0"),
        (DepthwiseConv((3,)), r"x must be \[B, \*spatial, C\] and kernel"),
    ],
)
def test_refusals(layer, message):
    with pytest.raises(ValueError, match=message):
        layer.init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield
