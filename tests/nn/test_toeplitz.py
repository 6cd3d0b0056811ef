"""Convolution as a matrix: equal to the convolution, to SciPy's Toeplitz matrix, and transposed to the transposed convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.nn import conv_transpose, convolution, toeplitz


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def agrees(x, kernel, **options):
    """The matrix times the picture is the convolution, and its transpose takes a cotangent back."""

    @jax.jit
    def both(x, kernel):
        y, pull = jax.vjp(lambda x: convolution(x, kernel, **options), x)
        return toeplitz(kernel, x.shape[1:], **options), y, pull(y)

    matrix, y, pulled = both(x, kernel)
    np.testing.assert_allclose(x.reshape(len(x), -1) @ matrix.T, y.reshape(len(x), -1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(y.reshape(len(x), -1) @ matrix, pulled[0].reshape(len(x), -1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("size", "window", "options"),
    [
        ((9,), (4,), {"strides": 2, "padding": "VALID", "dilation": 2}),
        ((6, 5), (3, 2), {"strides": (2, 1), "padding": ((2, 0), (1, 3)), "groups": 4}),
        ((5, 4), (2, 3), {"padding": 2, "input_dilation": (2, 3), "dilation": (1, 2)}),
        ((4, 3, 5), (2, 3, 2), {"strides": (1, 2, 2), "padding": "SAME"}),
        ((3, 3, 3), (2, 2, 2), {"groups": 2, "padding": "VALID"}),
    ],
    ids=str,
)
def test_5_1_convolution_is_the_toeplitz_matrix_times_the_picture_in_one_to_three_dimensions(size, window, options):
    x, kernel = arrays((2, *size, 4), (*window, 4 // options.get("groups", 1), 8))
    agrees(x, kernel, **options)


@settings(max_examples=4, deadline=None)
@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)), window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.integers(1, 3), dilation=st.integers(1, 2), spacing=st.integers(1, 2), pads=st.tuples(st.integers(4, 5), st.integers(3, 4)),
)  # fmt: skip
def test_5_1_any_convolution_is_its_toeplitz_matrix(size, window, strides, dilation, spacing, pads):
    x, kernel = arrays((1, *size, 1), (*window, 1, 2))
    agrees(x, kernel, strides=strides, dilation=dilation, input_dilation=spacing, padding=(pads, pads))


def test_5_1_on_a_line_it_is_scipys_toeplitz_matrix():
    linalg = pytest.importorskip("scipy.linalg")
    kernel = np.array([5.0, 6.0, 7.0])
    matrix = toeplitz(jnp.asarray(kernel).reshape(3, 1, 1), (6, 1), padding=1)
    np.testing.assert_array_equal(matrix, linalg.toeplitz([6.0, 5.0, 0, 0, 0, 0], [6.0, 7.0, 0, 0, 0, 0]))


def test_5_1_in_a_plane_it_is_block_toeplitz_with_toeplitz_blocks():
    (kernel,) = arrays((3, 3, 1, 1))
    blocks = np.asarray(toeplitz(kernel, (5, 4, 1))).reshape(5, 4, 5, 4)
    np.testing.assert_array_equal(blocks[1:, :, 1:], blocks[:-1, :, :-1])
    np.testing.assert_array_equal(blocks[:, 1:, :, 1:], blocks[:, :-1, :, :-1])


def test_5_1_its_transpose_is_the_transposed_convolution():
    y, kernel = arrays((1, 4, 4, 4), (3, 3, 3, 4))
    matrix = toeplitz(kernel, (8, 8, 3), strides=2)
    np.testing.assert_allclose(conv_transpose(y, kernel, strides=2, transpose_kernel=True).ravel(), matrix.T @ y.ravel(), rtol=1e-11, atol=1e-11)


def test_5_1_it_is_linear_in_the_kernel_with_the_convolutions_gradient():
    x, kernel, cotangent = arrays((1, 5, 4, 2), (3, 2, 2, 3), (1, 5, 4, 3))

    @jax.jit
    @jax.grad
    def through_matrix(kernel):
        return toeplitz(kernel, (5, 4, 2)) @ x.ravel() @ cotangent.ravel()

    directly = jax.jit(jax.grad(lambda kernel: jnp.vdot(convolution(x, kernel), cotangent)))
    np.testing.assert_allclose(through_matrix(kernel), directly(kernel), rtol=1e-11, atol=1e-11)


def test_a_weight_that_is_not_finite_stays_where_it_is():
    matrix = toeplitz(jnp.array([jnp.nan, 1.0]).reshape(2, 1, 1), (3, 1), padding="VALID")
    assert jnp.isnan(matrix).sum(1).tolist() == [1, 1]
    assert jnp.nan_to_num(matrix).tolist() == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((8, 3), {}, r"x must be \[B, \*spatial, C\]"),
        ((8, 8, 4), {}, "must have 4 / 1 input channels"),
        ((8, 0, 3), {}, "toeplitz: input_shape must be >= 1, got 0"),
        ((8, 8, 3), {"padding": "same?"}, "padding must be 'SAME', 'VALID'"),
        ((8, 8, 3), {"strides": 0}, "strides must be >= 1, got 0"),
    ],
)
def test_refusals(shape, options, message):
    with pytest.raises(ValueError, match=message):
        toeplitz(jnp.ones((3, 3, 3, 2)), shape, **options)
