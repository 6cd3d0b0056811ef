"""`as_model`: one interface to linen modules, NNX modules and pairs of functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from dljax.core import precision
from dljax.nn import Dense, as_model

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)

pytestmark = pytest.mark.rank_promotion  # Flax's layers promote


class Trained(linen.Module):
    """Told by `train` which mode it is in."""

    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train, momentum=0.5)(linen.Dense(4)(x))
        return linen.Dropout(0.5, deterministic=not train)(x)


class Deterministic(linen.Module):
    """Told by `deterministic`, and with a random stream of its own."""

    @linen.compact
    def __call__(self, x, deterministic):
        return x if deterministic else x + jax.random.normal(self.make_rng("noise"), x.shape)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.dense(x)))


BATCH_NORMED = {"linen": Trained(), "nnx": Nnx}


@pytest.mark.parametrize("name", BATCH_NORMED)
def test_running_statistics_change_in_training_only(name):
    model = as_model(BATCH_NORMED[name])
    variables = model.init(jax.random.key(0), X)
    assert len(variables) == 2
    _, same = model.apply(variables, X)
    _, changed = model.apply(variables, X, key=jax.random.key(1), train=True)
    model_state = {name: value for name, value in variables.items() if name != "params"}
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), same, model_state))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), changed) == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), model_state)
    # momentum 1/2: half way from 0 to the mean of the batch.
    dense = variables["params"].get("Dense_0", variables["params"].get("dense"))
    mean = next(leaf for path, leaf in jax.tree_util.tree_leaves_with_path(changed) if "mean" in jax.tree_util.keystr(path))
    np.testing.assert_allclose(mean, (X @ dense["kernel"]).mean(0) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", BATCH_NORMED)
def test_key_alone_decides_parameters_and_noise(name):
    model = as_model(BATCH_NORMED[name])
    variables = [model.init(jax.random.key(seed), X) for seed in (0, 0, 1)]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), variables[0], variables[1]))
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), variables[0], variables[2]))
    outputs = [model.apply(variables[0], X, key=jax.random.key(seed), train=True)[0] for seed in (0, 0, 1)]
    assert (outputs[0] == outputs[1]).all()
    assert (outputs[0] != outputs[2]).any()


@pytest.mark.parametrize("name", BATCH_NORMED)
def test_statistics_are_not_rounded_by_mixed_precision(name):
    model = as_model(BATCH_NORMED[name])
    variables = jax.tree.map(lambda leaf: leaf + 1 / 3, model.init(jax.random.key(0), X))
    with precision.use("bfloat16"):
        outputs, kept = model.apply(variables, X)
        assert outputs.dtype == jnp.float32
        _, changed = model.apply(variables, X, key=jax.random.key(0), train=True)
    model_state = {name: value for name, value in variables.items() if name != "params"}
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), kept, model_state))
    assert all((leaf != leaf.astype(jnp.bfloat16)).any() for leaf in jax.tree.leaves(changed))


def test_any_random_stream_comes_from_the_key():
    model = as_model(Deterministic())
    variables = model.init(jax.random.key(0), X)
    outputs = [model.apply(variables, X, key=jax.random.key(seed), train=True)[0] for seed in (1, 2)]
    assert (outputs[0] != outputs[1]).any()
    np.testing.assert_array_equal(model.apply(variables, X, key=jax.random.key(1))[0], X)


def test_ready_nnx_module_keeps_its_own_parameters():
    module = Nnx(nnx.Rngs(7))
    model = as_model(module)
    variables = model.init(jax.random.key(0), X)
    np.testing.assert_array_equal(variables["params"]["dense"]["kernel"], module.dense.kernel[...])
    np.testing.assert_allclose(model.apply(variables, X)[0], X @ module.dense.kernel[...], rtol=1e-4, atol=1e-5)


def test_pair_gets_what_it_asks_for_by_name():
    def apply(params, x, train, key):
        return params * x + (jax.random.normal(key) if train else 0)

    model = as_model((lambda key, x: jnp.ones(()), apply))
    variables = model.init(jax.random.key(0), X)
    np.testing.assert_array_equal(model.apply(variables, X)[0], X)
    np.testing.assert_allclose(model.apply(variables, X, key=jax.random.key(3), train=True)[0], X + jax.random.normal(jax.random.key(3)))


def test_functions_are_pure_under_jit_and_vmap():
    for model in (as_model(Nnx), as_model(Trained())):
        keys = jax.random.split(jax.random.key(0), 2)
        variables = jax.jit(jax.vmap(model.init, (0, None)))(keys, X)
        outputs, _ = jax.jit(jax.vmap(model.apply, (0, None)))(variables, X)
        assert outputs.shape == (2, 8, 4)
        assert (outputs[0] != outputs[1]).any()


def test_dense_is_flax_dense():
    variables = linen.Dense(4).init(jax.random.key(0), X)
    stacked = jnp.stack([X, 2 * X])
    np.testing.assert_allclose(Dense(4).apply(variables, stacked), linen.Dense(4).apply(variables, stacked), rtol=1e-6, atol=1e-6)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), variables, Dense(4).init(jax.random.key(0), X)))


@pytest.mark.parametrize("wrong", [3, (1, 2), (jnp.sin,), None])
def test_refusals(wrong):
    with pytest.raises(TypeError, match=r"as_model: model must be a linen module.*got"):
        as_model(wrong)


def test_function_that_makes_no_module_is_refused():
    with pytest.raises(TypeError, match="must return an NNX module, got int"):
        as_model(lambda rngs: 3).init(jax.random.key(0), X)
