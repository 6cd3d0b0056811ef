"""Highway networks: their formula, dense and convolutional, and layers that only carry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.core.tree import num_params
from dljax.models import Highway
from dljax.models.highway import HighwayLayer


def formula(x, params):
    """H·T + x·(1 - T) in NumPy."""
    made = np.maximum(x @ params["transform"]["kernel"] + params["transform"]["bias"], 0)
    gate = 1 / (1 + np.exp(-(x @ params["gate"]["kernel"] + params["gate"]["bias"])))
    return made * gate + x * (1 - gate)


def test_5_2_a_highway_network_equals_its_formula():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(3, 2, 4))
        model = Highway(5, num_layers=3, width=6)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), jax.jit(model.init)(jax.random.key(0), x))
        params = jax.tree.map(np.asarray, variables["params"])
        h = np.maximum(x.reshape(3, -1) @ params["first"]["kernel"] + params["first"]["bias"], 0)
        for layer in range(3):
            h = formula(h, jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["layers"]))
        np.testing.assert_allclose(jax.jit(model.apply)(variables, x), h @ params["head"]["kernel"] + params["head"]["bias"], rtol=1e-12)


def test_5_2_a_convolutional_highway_layer_is_the_dense_one_at_every_pixel_where_its_window_is_one():
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 5))
    layer = HighwayLayer(window=(1, 1))
    variables = jax.jit(layer.init)(jax.random.key(1), x)
    params = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(leaf.shape[-2:] if leaf.ndim == 4 else leaf.shape), variables["params"])
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), formula(np.asarray(x), params), rtol=1e-4, atol=1e-5)
    shapes = jax.eval_shape(HighwayLayer(window=(3, 3)).init, jax.random.key(0), x)["params"]
    assert shapes["gate"]["kernel"].shape == (3, 3, 5, 5)


def test_5_2_a_closed_gate_carries_inputs_and_gradients_through_a_hundred_layers_as_they_are():
    x = jnp.abs(jax.random.normal(jax.random.key(0), (2, 50)))
    deep = Highway(10, num_layers=100, gate_bias=-100.0)
    variables = jax.jit(deep.init)(jax.random.key(1), x)
    first, head = variables["params"]["first"], variables["params"]["head"]

    @jax.jit
    def both(x):
        def shallow(x):
            return jax.nn.relu(x @ first["kernel"]) @ head["kernel"]

        gradients = [jax.grad(lambda x, f=f: jnp.sin(f(x)).sum())(x) for f in (lambda x: deep.apply(variables, x), shallow)]
        return deep.apply(variables, x), shallow(x), *gradients

    outputs, expected, gradient, expected_gradient = both(x)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_number_of_parameters_is_the_one_counted_by_hand():
    variables = jax.eval_shape(Highway(10, num_layers=7).init, jax.random.key(0), jnp.zeros((1, 28, 28, 1), jnp.uint8))
    assert num_params(variables) == (784 * 50 + 50) + 7 * 2 * (50 * 50 + 50) + (50 * 10 + 10)


@pytest.mark.parametrize(
    ("model", "message"),
    [(Highway(0), "Highway: num_classes must be >= 1, got 0"), (Highway(2, num_layers=0), "Highway: num_layers must be >= 1, got 0")],
)
def test_refusals(model, message):
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), jnp.zeros((1, 4)))
