"""Convolution: JAX's value and PyTorch's gradients, derivatives of every mode, and the layout that is fast inside a scan."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from dljax.nn import Conv, ConvTranspose, conv_transpose, convolution, patches

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "vision.npz")
# name -> strides, padding, dilation, groups: the geometries of tests/golden/make_vision.py
GEOMETRIES = {
    "line": (2, 1, 1, 1),
    "plane": (1, 1, 1, 1),
    "plane_of_one_channel": (1, 2, 1, 1),
    "strided": (2, 1, 1, 1),
    "dilated": (1, 0, 2, 1),
    "grouped": (1, 1, 1, 2),
    "solid": (2, 1, 1, 1),
}


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def native(x, kernel, strides=1, padding="SAME", dilation=1, input_dilation=1):
    rank = kernel.ndim - 2
    letters = "DHW"[-rank:]
    sizes = [(size,) * rank for size in (strides, input_dilation, dilation)]
    if isinstance(padding, int):
        padding = [(padding, padding)] * rank
    return lax.conv_general_dilated(x, kernel, sizes[0], padding, *sizes[1:], (f"N{letters}C", f"{letters}IO", f"N{letters}C"))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_value_and_gradients_equal_those_of_torch(name):
    strides, padding, dilation, groups = GEOMETRIES[name]
    x, kernel, y, cotangent, dx, dkernel = (GOLDEN[f"{name}/{key}"] for key in ("x", "kernel", "y", "cotangent", "dx", "dkernel"))
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    ours, pull = jax.vjp(lambda x, kernel: convolution(x, kernel, **options), jnp.asarray(x), jnp.asarray(kernel))
    np.testing.assert_allclose(ours, y, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(pull(jnp.asarray(cotangent)), (dx, dkernel), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


geometries = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(5, 9), st.integers(5, 9)),
        "channels": st.integers(1, 3),
        "window": st.integers(1, 3),
        "strides": st.integers(1, 3),
        "padding": st.integers(0, 2),
        "dilation": st.integers(1, 2),
    }
)


@settings(max_examples=5, deadline=None)
@given(geometry=geometries)
def test_any_geometry_equals_that_of_torch(geometry):
    torch = pytest.importorskip("torch")
    x, kernel = arrays((2, *geometry["size"], geometry["channels"]), (geometry["window"],) * 2 + (geometry["channels"], 3))
    options = {name: geometry[name] for name in ("strides", "padding", "dilation")}
    ours, pull = jax.vjp(lambda x, kernel: convolution(x, kernel, **options), x, kernel)
    inputs = [torch.tensor(np.transpose(a, order), requires_grad=True) for a, order in ((x, (0, 3, 1, 2)), (kernel, (3, 2, 0, 1)))]
    theirs = torch.nn.functional.conv2d(*inputs, stride=options["strides"], padding=options["padding"], dilation=options["dilation"])
    np.testing.assert_allclose(ours, theirs.detach().permute(0, 2, 3, 1), rtol=1e-11, atol=1e-11)
    gradients = torch.autograd.grad(theirs.cos().sum(), inputs)
    for gradient, expected, order in zip(pull(-jnp.sin(ours)), gradients, ((0, 2, 3, 1), (2, 3, 1, 0)), strict=True):
        np.testing.assert_allclose(gradient, expected.permute(order), rtol=1e-10, atol=1e-10)


@settings(max_examples=5, deadline=None)
@given(geometry=geometries, spacing=st.sampled_from([("SAME", 1), ("VALID", 1), (((2, -1), (0, 3)), 1), (((2, 1), (1, 1)), 2)]))
def test_any_geometry_equals_that_of_jax(geometry, spacing):
    padding, input_dilation = spacing
    x, kernel = arrays((2, *geometry["size"], geometry["channels"]), (geometry["window"],) * 2 + (geometry["channels"], 3))
    options = {name: geometry[name] for name in ("strides", "dilation")} | {"padding": padding, "input_dilation": input_dilation}
    outputs = native(x, kernel, **options)

    def gradients(convolve):
        return jax.grad(lambda x, kernel: jnp.sin(convolve(x, kernel, **options)).sum(), (0, 1))(x, kernel)

    np.testing.assert_allclose(convolution(x, kernel, **options), outputs, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(convolution), gradients(native), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("channels", "strides"), [(1, 1), (2, 2)])
def test_every_mode_of_differentiation_works_to_second_order(channels, strides):
    x, kernel, dx, dkernel = arrays((2, 6, 5, channels), (3, 3, channels, 2), (2, 6, 5, channels), (3, 3, channels, 2))

    def derivatives(convolve):
        def gradient(x, kernel):
            return jax.grad(lambda x, kernel: jnp.sin(convolve(x, kernel, strides=strides)).sum(), (0, 1))(x, kernel)

        def length(x, kernel):
            return sum(jnp.sum(part**2) for part in gradient(x, kernel))

        forward = jax.jvp(lambda x, kernel: convolve(x, kernel, strides=strides), (x, kernel), (dx, dkernel))
        return forward, jax.jvp(gradient, (x, kernel), (dx, dkernel)), jax.grad(length, (0, 1))(x, kernel)

    for ours, theirs in zip(jax.tree.leaves(derivatives(convolution)), jax.tree.leaves(derivatives(native)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)


def test_vmap_over_kernels_equals_a_loop():
    x, kernels = arrays((2, 6, 5, 2), (3, 3, 3, 2, 4))

    def gradient(kernel):
        return jax.grad(lambda kernel: jnp.sin(convolution(x, kernel)).sum())(kernel)

    np.testing.assert_allclose(jax.vmap(gradient)(kernels), [gradient(kernel) for kernel in kernels], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_inside_a_scan_are_convolutions_in_the_layout_that_the_cpu_is_fast_at(channels):
    """What XLA hands to its fast routine: channels last, HWIO kernels, no transposed operand folded into the convolution."""
    if jax.default_backend() != "cpu":
        pytest.skip("other devices use JAX's own gradients")
    x, kernel = arrays((8, 14, 14, channels), (3, 3, channels, 16))

    def loss(x, kernel):
        return jnp.sin(convolution(x, kernel)).sum()

    def step(carry, _):
        return jax.tree.map(lambda leaf, gradient: leaf - gradient, carry, jax.grad(loss, (0, 1))(*carry)), None

    program = jax.jit(lambda x, kernel: lax.scan(step, (x, kernel), None, length=4)[0]).lower(x, kernel).compile().as_text()
    convolutions = [line for line in program.splitlines() if " convolution(" in line]
    assert len(convolutions) == (2 if channels == 1 else 3)
    for line in convolutions:
        assert "dim_labels=b01f_01io->b01f" in line
        assert "rhs_reversal" not in line
        assert "{3,2,1,0} convolution" in line


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strides": (2, 1), "padding": "VALID"},
        {"padding": "CIRCULAR", "kernel_dilation": 2, "use_bias": False},
        {"feature_group_count": 2},
        {"padding": 1, "input_dilation": 2},
    ],
)
def test_conv_is_flax_conv(options):
    (x,) = arrays((2, 7, 6, 4))
    variables = linen.Conv(6, (3, 2), **options).init(jax.random.key(0), x)
    ours = Conv(6, (3, 2), **options)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), ours.init(jax.random.key(0), x), variables))
    np.testing.assert_allclose(ours.apply(variables, x), linen.Conv(6, (3, 2), **options).apply(variables, x), rtol=1e-12, atol=1e-12)


def test_half_precision_parameters_decide_the_dtype():
    x = jnp.ones((1, 4, 4, 1), jnp.float32)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), Conv(2, (3, 3)).init(jax.random.key(0), x))
    assert Conv(2, (3, 3)).apply(variables, x).dtype == jnp.bfloat16
    assert Conv(2, (3, 3), dtype=jnp.float32).apply(variables, x).dtype == jnp.float32


@pytest.mark.parametrize(
    ("x", "kernel", "options", "message"),
    [
        ((8, 3), (3, 3, 4), {}, r"x must be \[B, \*spatial, C\].*got \(8, 3\) and \(3, 3, 4\)"),
        ((1, 8, 3), (3, 2, 4), {}, "must have 3 / 1 input channels.*got 2 and 4"),
        ((1, 8, 4), (3, 2, 3), {"groups": 2}, "a multiple of 2 outputs.*got 2 and 3"),
        ((1, 8, 3), (3, 3, 4), {"groups": 0}, "groups must be >= 1, got 0"),
        ((1, 8, 3), (3, 3, 4), {"strides": 0}, "strides must be >= 1, got 0"),
        ((1, 8, 3), (3, 3, 4), {"dilation": (1, 1)}, r"dilation must be one number or 1.*got \(1, 1\)"),
        ((1, 8, 3), (3, 3, 4), {"padding": "same?"}, "padding must be 'SAME', 'VALID'.*got 'same\\?'"),
        ((1, 8, 3), (3, 3, 4), {"input_dilation": 2}, "padding must be given in numbers where input_dilation is above 1, got 'SAME'"),
        ((1, 8, 3), (3, 3, 4), {"padding": ((1, 1), (1, 1))}, "padding must be 'SAME', 'VALID'"),
    ],
)
def test_refusals(x, kernel, options, message):
    with pytest.raises(ValueError, match=message):
        convolution(jnp.ones(x), jnp.ones(kernel), **options)


# Transposed


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize(
    ("window", "strides", "padding", "dilation"),
    [
        ((3,), 2, "SAME", 1),
        ((4, 4), 2, "SAME", 1),
        ((3, 2), (2, 3), "VALID", 1),
        ((3, 3), 1, "SAME", 2),
        ((2, 3), 3, [(1, 2), (0, 1)], 1),
        ((2, 2, 2), 2, "SAME", 1),
    ],
    ids=str,
)
def test_transposed_values_and_gradients_equal_those_of_lax(window, strides, padding, dilation, transpose_kernel):
    rank = len(window)
    channels = (4, 3) if transpose_kernel else (3, 4)
    x, kernel = arrays((2, *(5, 6, 3)[:rank], 3), (*window, *channels))
    letters = "DHW"[-rank:]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    sizes = [(size,) * rank if isinstance(size, int) else size for size in (strides, dilation)]

    def theirs(x, kernel):
        return lax.conv_transpose(x, kernel, sizes[0], padding, rhs_dilation=sizes[1], dimension_numbers=numbers, transpose_kernel=transpose_kernel)

    def ours(x, kernel):
        return conv_transpose(x, kernel, strides=strides, padding=padding, dilation=dilation, transpose_kernel=transpose_kernel)

    expected, pull = jax.vjp(theirs, x, kernel)
    found, our_pull = jax.vjp(ours, x, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    for one, other in zip(our_pull(expected), pull(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.rank_promotion
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
def test_transposed_layer_has_linens_parameters_and_values(padding):
    (x,) = arrays((2, 5, 6, 3))
    options = {"strides": (2, 2), "padding": padding, "param_dtype": jnp.float64}
    theirs, ours = (layer(4, (3, 3), **options) for layer in (linen.ConvTranspose, ConvTranspose))
    variables = theirs.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(0), x), variables)
    np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(variables, x), rtol=1e-10, atol=1e-10)


def test_transposed_with_the_kernel_of_a_convolution_is_its_gradient():
    x, kernel = arrays((2, 8, 8, 3), (3, 3, 3, 4))
    y, pull = jax.vjp(lambda x: convolution(x, kernel, strides=2), x)
    np.testing.assert_allclose(conv_transpose(y, kernel, strides=2, transpose_kernel=True), pull(y)[0], rtol=1e-10, atol=1e-10)


def test_transposed_refuses_channels_that_do_not_fit():
    with pytest.raises(ValueError, match="conv_transpose: kernel must have 3 input channels, got 2"):
        conv_transpose(jnp.ones((1, 4, 3)), jnp.ones((2, 2, 5)))


def test_convolution_is_the_product_of_patches_and_kernel():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 7, 6, 3)), rng.normal(size=(3, 2, 3, 4))
    for options in ({"strides": (2, 1), "dilation": (1, 2)}, {"padding": "VALID"}, {"padding": (1, (0, 2)), "strides": 2}):
        seen = patches(jnp.asarray(x), (3, 2), **options)
        np.testing.assert_allclose(seen @ kernel.reshape(-1, 4), convolution(x, kernel, **options), atol=1e-12)
    with pytest.raises(ValueError, match=r"patches: x must be \[B, \*spatial, C\]"):
        patches(jnp.ones((2, 3)), (2,))
    with pytest.raises(ValueError, match=r"patches: padding must be 'SAME', 'VALID', a number"):
        patches(jnp.ones((2, 3, 1)), (2,), padding="HALF")
