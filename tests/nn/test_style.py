"""Style blocks: a kernel of its own for every example, done one by one, and layers that fade in exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dljax.nn import ModulatedConv, adaptive_instance_norm, doubled, fade_in, modulated_convolution, pixel_norm

X = jax.random.normal(jax.random.key(0), (3, 5, 6, 4))
KERNEL = jax.random.normal(jax.random.key(1), (3, 3, 4, 2))
STYLE = jax.random.normal(jax.random.key(2), (3, 4))


def one_by_one(x, kernel, style, is_demodulated, epsilon):
    outputs = []
    for example, scale in zip(x, style, strict=True):
        own = kernel * scale[None, None, :, None]
        if is_demodulated:
            own = own / jnp.sqrt(jnp.square(own).sum((0, 1, 2), keepdims=True) + epsilon)
        outputs.append(lax.conv_general_dilated(example[None], own, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0])
    return jnp.stack(outputs)


def test_9_3_a_modulated_convolution_is_each_examples_own_convolution_and_so_are_its_gradients():
    with jax.enable_x64(True):
        inputs = tuple(part.astype(jnp.float64) for part in (X, KERNEL, STYLE))
        weights = jax.random.normal(jax.random.key(3), (3, 5, 6, 2))

        @jax.jit
        def compared(inputs):
            ways = []
            for is_demodulated in (True, False):
                for way in (
                    lambda *inputs, is_demodulated=is_demodulated: modulated_convolution(*inputs, is_demodulated=is_demodulated, epsilon=0.1),
                    lambda *inputs, is_demodulated=is_demodulated: one_by_one(*inputs, is_demodulated, 0.1),
                ):
                    ways.append((way(*inputs), jax.grad(lambda inputs, way=way: (weights * way(*inputs)).sum())(inputs)))
            return ways

        fast, slow, plain, slow_plain = compared(inputs)
        for one, other in ((fast, slow), (plain, slow_plain)):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), one, other)


def test_9_3_demodulation_keeps_unit_variance_whatever_the_style():
    x = jax.random.normal(jax.random.key(4), (2, 64, 64, 8))
    style = jnp.stack([jnp.ones(8), 1e4 * jnp.arange(1.0, 9.0)])
    modulated = jax.jit(modulated_convolution)
    y = modulated(x, jax.random.normal(jax.random.key(5), (3, 3, 8, 4)), style)
    np.testing.assert_allclose(y.std((1, 2)), 1, atol=0.08)
    zero = modulated(x, jnp.zeros((3, 3, 8, 4)), style)
    assert not zero.any()


def test_9_3_a_layer_that_begins_without_style_is_a_demodulated_convolution():
    layer, w = ModulatedConv(2), jnp.zeros((3, 7))
    variables, apply = jax.jit(layer.init)(jax.random.key(0), X, w), jax.jit(layer.apply)
    want = jax.jit(modulated_convolution)(X, variables["params"]["kernel"], jnp.ones((3, 4)))
    np.testing.assert_allclose(apply(variables, X, w), want, rtol=1e-5, atol=1e-6)
    styled = apply(variables, X, jax.random.normal(jax.random.key(1), (3, 7)))
    assert float(jnp.abs(styled - want).max()) > 0.1


def test_9_3_norms_give_the_moments_that_they_promise():
    scale, shift = jax.random.normal(jax.random.key(3), (2, 3, 4))
    y = jax.jit(adaptive_instance_norm)(100 + X, scale, shift)
    np.testing.assert_allclose(y.mean((1, 2)), shift, atol=1e-3)
    np.testing.assert_allclose(y.std((1, 2)), jnp.abs(scale), rtol=1e-3)
    np.testing.assert_allclose(jnp.square(pixel_norm(X)).mean(-1), 1, rtol=1e-5)
    assert bool(jnp.isfinite(jax.grad(lambda x: pixel_norm(x).sum())(jnp.zeros((2, 3)))).all())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_9_3_a_layer_fades_in_exactly(share):
    """A generator that grows makes at α = 0 bit for bit the enlarged pictures of the smaller one, and at α = 1 its own."""
    small, large = jax.random.normal(jax.random.key(0), (2, 4, 4, 1)), jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    faded = jax.jit(fade_in)(doubled(small), large, share)
    np.testing.assert_array_equal(faded, large if share else doubled(small))
    # Halved by means, the enlarged pictures are the small ones again.
    np.testing.assert_allclose(doubled(small).reshape(2, 4, 2, 4, 2, 1).mean((2, 4)), small, rtol=1e-6)
    slope = jax.grad(lambda share: fade_in(doubled(small), large, share).sum())(share)
    assert float(slope) == pytest.approx(float((large - doubled(small)).sum()), rel=1e-4)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"fade_in: share must be in \[0, 1\], got 1.5"):
        fade_in(X, X, 1.5)
    with pytest.raises(ValueError, match="modulated_convolution: epsilon must be in"):
        modulated_convolution(X, KERNEL, STYLE, epsilon=-1.0)
    with pytest.raises(ValueError, match="adaptive_instance_norm: epsilon must be in"):
        adaptive_instance_norm(X, STYLE, STYLE, epsilon=0.0)
    with pytest.raises(ValueError, match="pixel_norm: epsilon must be in"):
        pixel_norm(X, epsilon=0.0)
    with pytest.raises(ValueError, match="ModulatedConv: features must be >= 1, got 0"):
        ModulatedConv(0).init(jax.random.key(0), X, STYLE)
