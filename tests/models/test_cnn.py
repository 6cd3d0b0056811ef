"""The small networks: their sizes, their Flax twins, and a training step that XLA can shard and scan without loss."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dljax import core
from dljax.core import precision
from dljax.core.tree import num_params
from dljax.data import shuffled
from dljax.models.cnn import CNN
from dljax.models.mlp import MLP
from dljax.objectives import cross_entropy
from dljax.supervised import supervised


class Twin(linen.Module):
    """CNN(10, (3, 4), 5) in plain Flax, ReLU before the pooling as textbooks draw it."""

    @linen.compact
    def __call__(self, x):
        x = x / 255
        for width in (3, 4):
            x = linen.max_pool(linen.relu(linen.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
        x = linen.relu(linen.Dense(5)(x.reshape(len(x), -1)))
        return linen.Dense(10)(x)


def pictures(num=6, size=12):
    rng = np.random.default_rng(0)
    return {"x": jnp.asarray(rng.integers(0, 256, (num, size, size, 1)), jnp.uint8), "y": jnp.asarray(rng.integers(0, 10, num), jnp.int32)}


@pytest.mark.rank_promotion
def test_cnn_and_its_gradients_equal_the_flax_twin():
    batch = pictures()
    ours, twin = CNN(10, (3, 4), 5), Twin()
    params = ours.init(jax.random.key(0), batch["x"])["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, twin.init(jax.random.key(0), batch["x"])["params"])

    def loss(params, module):
        return cross_entropy(module.apply({"params": params}, batch["x"]), batch["y"]).mean()

    gradients = [jax.grad(loss)(params, module) for module in (ours, twin)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *gradients)


def test_number_of_parameters_is_the_one_counted_by_hand():
    variables = jax.eval_shape(CNN(10).init, jax.random.key(0), jnp.zeros((1, 28, 28, 1), jnp.uint8))
    assert num_params(variables) == (9 * 32 + 32) + (9 * 32 * 64 + 64) + (7 * 7 * 64 * 128 + 128) + (128 * 10 + 10)
    variables = jax.eval_shape(MLP(10, (512,)).init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    assert num_params(variables) == (64 * 512 + 512) + (512 * 10 + 10)


def test_uint8_pictures_equal_the_same_pictures_as_floats():
    x = pictures()["x"]
    for model in (CNN(10, (3, 4), 5, dropout_rate=0.5), MLP(10, (5,), dropout_rate=0.5)):
        variables = model.init(jax.random.key(0), x)
        np.testing.assert_allclose(model.apply(variables, x), model.apply(variables, x / jnp.float32(255)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", [CNN(10, (3, 4), 5), MLP(10, (5,))], ids=["cnn", "mlp"])
def test_mixed_precision_computes_in_bfloat16_though_pixels_are_scaled_in_float32(model):
    x = pictures()["x"]
    params = model.init(jax.random.key(0), x)
    with precision.use("bfloat16"):
        program = jax.jit(precision.wrap(model.apply)).lower(params, x).as_text()
    products = re.findall(r"stablehlo\.(?:convolution|dot_general).*-> tensor<[^>]*x(\w+)>", program)
    assert products
    assert set(products) == {"bf16"}


def test_step_sharded_over_the_batch_moves_no_activations():
    """Two devices, half of the batch each: the only collectives are sums of gradients and metrics."""
    if len(jax.devices()) < 2:
        pytest.skip("needs two devices")
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    learner = supervised(CNN(10, (3, 4), 5, dropout_rate=0.1), cross_entropy, optax.sgd(0.1))
    source = shuffled(pictures(num=32), 8)
    source = source._replace(next=lambda data, cursor, take=source.next: _spread(take(data, cursor), mesh))
    key, state, cursor = jax.jit(lambda key: core.start(learner, source, key))(jax.random.key(0))
    arguments = jax.device_put((key, 0, state, cursor, source.data), NamedSharding(mesh, PartitionSpec()))
    compiled = jax.jit(core.unroll(learner, source, 2)).lower(*arguments).compile()
    program = compiled.as_text()
    assert not re.findall(r" (all-gather|all-to-all|collective-permute)\(", program)
    sharded, _, history = compiled(*arguments)
    alone, _, expected = jax.jit(core.unroll(learner, shuffled(pictures(num=32), 8), 2))(key, 0, state, cursor)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), sharded.params, alone.params)


def _spread(result, mesh):
    cursor, batch = result
    return cursor, jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec("data")))


def test_dropout_changes_training_only():
    x = pictures()["x"]
    for model in (CNN(10, (3, 4), 5, dropout_rate=0.5), MLP(10, (5,), dropout_rate=0.5)):
        variables = model.init(jax.random.key(0), x)

        def outputs(seed, model=model, variables=variables, train=True):
            return model.apply(variables, x, train=train, rngs={"dropout": jax.random.key(seed)})

        assert (outputs(0) != outputs(1)).any()
        assert (outputs(0, train=False) == outputs(1, train=False)).all()


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (CNN(10), jnp.zeros((1, 3, 8, 1)), r"at least 4 x 4 \(widths=\(32, 64\)\), got \(1, 3, 8, 1\)"),
        (CNN(10, hidden=0), jnp.zeros((1, 8, 8, 1)), "CNN: hidden must be >= 1, got 0"),
        (CNN(10, (3, 0)), jnp.zeros((1, 8, 8, 1)), "CNN: widths must be >= 1, got 0"),
        (CNN(10, dropout_rate=1.0), jnp.zeros((1, 8, 8, 1)), r"CNN: dropout_rate must be in \[0, 1\), got 1"),
        (MLP(0), jnp.zeros((1, 8)), "MLP: num_outputs must be >= 1, got 0"),
        (MLP(2, dropout_rate=-0.1), jnp.zeros((1, 8)), r"MLP: dropout_rate must be in \[0, 1\), got -0.1"),
    ],
)
def test_refusals(model, x, message):
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), x)


def test_pictures_of_another_dtype_are_refused():
    with pytest.raises(TypeError, match=r"pictures must be uint8 in 0 \.\.\. 255 or floats, got int32"):
        MLP(2).init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))
