"""Seeing inside: linear models whose answer is known, completeness, and class activation maps in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from dljax.nn import Conv, Dense, as_model
from dljax.nn.attribution import grad_cam, integrated_gradients, layer_output, layer_shapes, occlusion, overlay, saliency, smooth_grad


class Line(linen.Module):
    """Logits that are linear in the pixels."""

    @linen.compact
    def __call__(self, x):
        return Dense(3)(x.reshape(len(x), -1))


class Pooled(linen.Module):
    """Two convolutions, global average pooling and a linear head: the network of class activation maps."""

    @linen.compact
    def __call__(self, x, train: bool = False):
        x = linen.relu(Conv(4, (3, 3))(x))
        x = linen.relu(Conv(5, (3, 3), name="last")(x))
        return Dense(3)(x.mean((1, 2)))


def pictures(num=2, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(0).random((num, 6, 5, 2)), dtype)


def built(model, x):
    return jax.jit(model.init)(jax.random.key(0), x)


def test_5_3_saliency_of_a_linear_model_is_its_weights():
    x = pictures()
    variables = built(Line(), x)
    weights = variables["params"]["Dense_0"]["kernel"].T.reshape(3, 6, 5, 2)
    np.testing.assert_allclose(saliency(Line(), variables, x, jnp.array([2, 0])), weights[jnp.array([2, 0])], rtol=1e-6)
    traced = jax.jit(lambda target: saliency(as_model(Line()), variables, x, target))(1)
    np.testing.assert_allclose(traced, weights[jnp.array([1, 1])], rtol=1e-6)
    bytes_ = (255 * x).astype(jnp.uint8)
    np.testing.assert_allclose(saliency(Line(), variables, bytes_, 1), weights[jnp.array([1, 1])], rtol=1e-6)


def test_5_3_integrated_gradients_are_complete():
    """They sum to f(x) - f(x₀): within 1e-9 on a smooth network, and exactly, with two points, on a cubic."""
    with jax.enable_x64(True):
        model = linen.Sequential([lambda x: x.reshape(len(x), -1), Dense(8, param_dtype=jnp.float64), jnp.tanh, Dense(3, param_dtype=jnp.float64)])
        x = 3 * pictures(dtype=np.float64)
        variables = built(model, x)
        target = jnp.array([1, 2])
        for baseline in (0.0, 0.5, x[::-1]):
            parts = jax.jit(lambda x, base: integrated_gradients(model, variables, x, target, baseline=base))(x, baseline)
            base = jnp.broadcast_to(jnp.asarray(baseline), x.shape)
            whole = (model.apply(variables, x) - model.apply(variables, base))[jnp.arange(2), target]
            np.testing.assert_allclose(parts.sum((1, 2, 3)), whole, rtol=1e-9)
        cubic = (lambda key, x: {}, lambda params, x: (x**3).sum((1, 2)))
        parts = integrated_gradients(cubic, {"params": {}}, x, 0, num=2)
        np.testing.assert_allclose(parts[..., 0], x[..., 0] ** 3, rtol=1e-12)


def test_5_3_grad_cam_before_global_average_pooling_is_the_class_activation_map():
    """relu(Σ_k w_k A_k) / (h w), with the weights of the class (Zhou et al., 2016, eq. 2); by layer names of any as_model-model too."""
    x = pictures(3)
    variables = built(Pooled(), x)
    target = jnp.array([0, 2, 1])

    @jax.jit
    def both(variables, x):
        return grad_cam(Pooled(), variables, x, target, "last"), linen.relu(layer_output(as_model(Pooled()), variables, x, "last"))

    found, after = both(variables, x)
    weights = variables["params"]["Dense_0"]["kernel"][:, target].T
    # The layer is the convolution, whose output is negative where the ReLU stops it: no gradient comes from there, but the weights count it.
    before = jax.jit(lambda variables, x: layer_output(Pooled(), variables, x, "last"))(variables, x)
    alphas = weights * (before > 0).mean((1, 2)) / 30
    np.testing.assert_allclose(found, linen.relu(jnp.einsum("bhwk,bk->bhw", before, alphas)), rtol=1e-4, atol=1e-6)

    class After(linen.Module):
        """A layer of its own for what the pooling sees."""

        @linen.compact
        def __call__(self, x):
            return linen.relu(x)

    class Named(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = Conv(4, (3, 3), name="Conv_0")(x)
            x = After(name="seen")(Conv(5, (3, 3), name="last")(linen.relu(x)))
            return Dense(3, name="Dense_0")(x.mean((1, 2)))

    maps = jax.jit(lambda variables, x: grad_cam(Named(), variables, x, target, "seen"))(variables, x)
    np.testing.assert_allclose(maps, linen.relu(jnp.einsum("bhwk,bk->bhw", after, weights)) / 30, rtol=1e-4, atol=1e-6)


def test_5_3_occlusion_of_a_linear_model_is_exact():
    """What a cover takes away: the sum of w (x - v) under it."""
    x = pictures()
    variables = built(Line(), x)
    maps = jax.jit(lambda x: occlusion(Line(), variables, x, 1, window=3, stride=2, value=0.5))(x)
    lost = np.asarray(variables["params"]["Dense_0"]["kernel"][:, 1]).reshape(6, 5, 2) * (np.asarray(x) - 0.5)
    expected = [[lost[:, i : i + 3, j : j + 3].sum((1, 2, 3)) for j in (0, 2)] for i in (0, 2)]
    np.testing.assert_allclose(maps, np.moveaxis(expected, -1, 0), rtol=1e-4, atol=1e-5)


def test_5_3_smooth_grad_is_the_gradient_of_the_smoothed_function():
    """Of x³ smoothed by N(0, σ²) it is 3 x² + 3 σ², within four standard errors; without noise it is the saliency."""
    cubic = (lambda key, x: {}, lambda params, x: (x**3).sum(1, keepdims=True))
    x = jnp.array([[0.0, 1.0, 2.0]])
    found = jax.jit(lambda key: smooth_grad(key, cubic, {"params": {}}, x, 0, noise=0.25, num=4000))(jax.random.key(0))
    deviation = 0.5
    spread = np.sqrt(36 * x**2 * deviation**2 + 18 * deviation**4) / np.sqrt(4000)
    assert np.all(np.abs(found - (3 * x**2 + 3 * deviation**2)) < 4 * spread)
    np.testing.assert_allclose(smooth_grad(jax.random.key(0), cubic, {"params": {}}, x, 0, noise=0.0, num=2), 3 * x**2, rtol=1e-6)


def test_layers_of_nested_and_repeated_modules_have_names_and_shapes():
    class Twice(linen.Module):
        @linen.compact
        def __call__(self, x):
            again = Dense(5, name="again")
            return Pooled(name="inner")(again(again(x).reshape(len(x), 6, 5, 5)))

    x = jnp.ones((2, 6, 5, 5))
    variables = built(Twice(), x)
    shapes = {
        "again": (2, 6, 5, 5), "again#2": (2, 6, 5, 5), "inner/Conv_0": (2, 6, 5, 4), "inner/last": (2, 6, 5, 5), "inner/Dense_0": (2, 3),
        "inner": (2, 3),
    }  # fmt: skip
    assert layer_shapes(Twice(), variables, x) == shapes
    first, second = (layer_output(Twice(), variables, x, name) for name in ("again", "again#2"))
    weights = variables["params"]["again"]
    np.testing.assert_allclose(second, first @ weights["kernel"] + weights["bias"].reshape(1, 1, 1, 5), rtol=1e-5, atol=1e-6)


def test_overlay_is_the_picture_where_a_map_is_zero_and_heat_where_it_is_largest():
    x = jnp.full((1, 2, 2, 1), 0.5)
    shown = overlay(x, jnp.array([[[0.0, 4.0], [-4.0, 0.0]]]), opacity=1.0)
    np.testing.assert_allclose(shown[0], [[[0.5] * 3, [0.8, 0.1, 0.0]], [[0.0, 0.2, 0.8], [0.5] * 3]], rtol=1e-6)
    np.testing.assert_array_equal(overlay(x, jnp.zeros((1, 1, 1))), jnp.full((1, 2, 2, 3), 0.5))


def test_bad_targets_layers_and_options_are_refused():
    x = pictures()
    variables = built(Pooled(), x)
    for target in (3, -1, jnp.array([0, 3])):
        with pytest.raises(ValueError, match="saliency: target must be between 0 and 2, got"):
            saliency(Pooled(), variables, x, target)
    with pytest.raises(ValueError, match=r"target must be a whole number or 2 of them, got int32 of shape \(3,\)"):
        saliency(Pooled(), variables, x, jnp.array([0, 1, 2]))
    with pytest.raises(ValueError, match="target must be a whole number"):
        integrated_gradients(Pooled(), variables, x, 0.5)
    with pytest.raises(ValueError, match="grad_cam: no layer 'Conv_1'; there are 'Conv_0', 'last', 'Dense_0'"):
        grad_cam(Pooled(), variables, x, 0, "Conv_1")
    with pytest.raises(ValueError, match=r"grad_cam: layer 'Dense_0' must have outputs \[B, h, w, D\], got \(2, 3\)"):
        grad_cam(Pooled(), variables, x, 0, "Dense_0")
    with pytest.raises(ValueError, match="layer_output: no layer 'x'; the model, tuple, has none that linen knows"):
        layer_output((lambda key, x: {}, lambda params, x: x), {"params": {}}, x, "x")
    with pytest.raises(ValueError, match=r"the model's outputs must be \[B, K\], got \(2, 6, 5, 2\)"):
        saliency((lambda key, x: {}, lambda params, x: x), {"params": {}}, x, 0)
    with pytest.raises(TypeError, match="pictures must be uint8 in 0 ... 255 or floats, got int32"):
        saliency(Pooled(), variables, jnp.ones((1, 6, 5, 2), jnp.int32), 0)
    with pytest.raises(ValueError, match="occlusion: window must be between 1 and 5, got 6"):
        occlusion(Pooled(), variables, x, 0, window=6)
    with pytest.raises(ValueError, match="occlusion: stride must be >= 1"):
        occlusion(Pooled(), variables, x, 0, stride=0)
    with pytest.raises(ValueError, match=r"occlusion: x must be pictures \[B, H, W, C\], got \(2, 6, 5\)"):
        occlusion(Pooled(), variables, x[..., 0], 0)
    with pytest.raises(ValueError, match="smooth_grad: noise must be in"):
        smooth_grad(jax.random.key(0), Pooled(), variables, x, 0, noise=-1.0)
    with pytest.raises(ValueError, match="smooth_grad: num must be >= 1"):
        smooth_grad(jax.random.key(0), Pooled(), variables, x, 0, num=0)
    with pytest.raises(ValueError, match="integrated_gradients: num must be >= 1"):
        integrated_gradients(Pooled(), variables, x, 0, num=0)
    with pytest.raises(ValueError, match="overlay: opacity must be in"):
        overlay(x[..., :1], jnp.ones((2, 1, 1)), opacity=2.0)
    with pytest.raises(ValueError, match="overlay: x must be pictures of one or three channels"):
        overlay(x, jnp.ones((2, 1, 1)))
