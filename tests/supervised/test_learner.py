"""`supervised`: gradient descent on a weighted mean, the same on any number of shards."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from jax.sharding import Mesh, PartitionSpec

from dljax import core
from dljax.core.check_learner import check_learner
from dljax.data import shuffled
from dljax.objectives import accuracy, cross_entropy, squared_error
from dljax.optim import natural_gradient
from dljax.supervised import supervised

LINE = (lambda key, x: {"w": jnp.zeros(x.shape[-1])}, lambda params, x: x @ params["w"])


class Normed(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(linen.Dense(4, use_bias=False)(x))
        return linen.Dense(2)(x)


def line_batch(num=6):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, 3))
    return {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(x @ [1, -2, 3] + rng.normal(size=num), jnp.float32)}


def classes(num=40):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, num)
    return {"x": jnp.asarray(rng.normal(size=(num, 3)) + 2 * y[:, None], jnp.float32), "y": jnp.asarray(y, jnp.int32)}


def fit(learner, data, steps, batch_size, seed=0):
    source = shuffled(data, batch_size)
    key, state, cursor = core.start(learner, source, jax.random.key(seed))
    state, _, history = jax.jit(core.unroll(learner, source, steps))(key, 0, state, cursor)
    return state, history


def test_one_step_on_a_line_is_the_gradient_written_by_hand():
    batch = line_batch()
    learner = supervised(LINE, squared_error, optax.sgd(0.1))
    state, metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
    np.testing.assert_allclose(state.params["w"], 0.1 * 2 * (batch["x"] * batch["y"][:, None]).mean(0), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"].value, (batch["y"] ** 2).mean(), rtol=1e-6)


def test_gradient_descent_converges_to_least_squares():
    batch = line_batch()
    state, _ = fit(supervised(LINE, squared_error, optax.sgd(0.1)), batch, steps=2000, batch_size=6)
    np.testing.assert_allclose(state.params["w"], np.linalg.lstsq(batch["x"], batch["y"])[0], rtol=1e-3)


@pytest.mark.rank_promotion
def test_training_separates_two_clouds_and_reports_it():
    data = classes()
    learner = supervised(Normed(), cross_entropy, optax.adam(1e-2), metrics={"accuracy": accuracy})
    state, history = fit(learner, data, steps=200, batch_size=20)
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    result = core.evaluate(learner.evaluate, batch_size=16)(jax.random.key(0), state, data)
    assert set(result) == {"loss", "accuracy"} == set(history.metrics)
    logits = learner.functions["predict"](jax.random.key(0), learner.params(state), data["x"])
    np.testing.assert_allclose(result["accuracy"].value, accuracy(logits, data["y"]).mean(), rtol=1e-6)
    np.testing.assert_allclose(result["loss"].value, cross_entropy(logits, data["y"]).mean(), rtol=1e-5)
    assert result["accuracy"].value >= 0.95


@pytest.mark.rank_promotion
def test_params_are_enough_to_predict_with_flax_itself():
    batch = classes()
    learner = supervised(Normed(), cross_entropy, optax.adam(1e-2))
    state, _ = learner.step(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
    variables = learner.params(state)
    assert set(variables) == {"params", "batch_stats"}
    expected = Normed().apply(variables, batch["x"], train=False)
    np.testing.assert_allclose(learner.functions["predict"](jax.random.key(2), variables, batch["x"]), expected, rtol=1e-6)


def test_weights_count_as_repetitions_and_weight_zero_as_absence():
    batch = line_batch()
    learner = supervised(LINE, squared_error, optax.sgd(0.1))

    def after(batch):
        state, metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
        return state.params["w"], metrics["loss"].value

    weighted = batch | {"y": batch["y"].at[3].set(1e6), "mask": jnp.array([2.0, 1, 1, 0, 1, 1])}
    repeated = jax.tree.map(lambda leaf: leaf[jnp.array([0, 0, 1, 2, 4, 5])], batch)
    for ours, expected in zip(after(weighted), after(repeated), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_batch_of_weight_zero_changes_nothing():
    batch = line_batch() | {"mask": jnp.zeros(6)}
    learner = supervised(LINE, squared_error, optax.sgd(0.1))
    state, metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
    assert state.params["w"].tolist() == [0, 0, 0]
    assert np.isnan(metrics["loss"].value)


def test_mask_of_examples_weighs_the_loss_of_every_time():
    def model(params, x):
        return params["w"] * x

    learner = supervised((lambda key, x: {"w": jnp.ones(())}, model), squared_error, optax.sgd(0.1))
    batch = {"x": jnp.arange(6.0).reshape(2, 3), "y": jnp.zeros((2, 3)), "mask": jnp.array([1.0, 0.0])}
    _, metrics = learner.step(jax.random.key(0), learner.init(jax.random.key(0), batch), batch)
    np.testing.assert_allclose([metrics["loss"].total, metrics["loss"].weight], [0 + 1 + 4, 3])


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_shards_of_unequal_weight_take_the_step_of_one_device(how):
    if len(jax.devices()) < 2:
        pytest.skip("needs two devices")
    batch = line_batch(8) | {"mask": jnp.array([1.0, 1, 1, 1, 0, 0, 0, 1])}
    learner = supervised(LINE, squared_error, optax.sgd(0.1))
    state = learner.init(jax.random.key(0), batch)
    expected, _ = learner.step(jax.random.key(1), state, batch)

    def step(key, state, batch):
        with core.bind_axis("data"):
            return learner.step(key, state, batch)[0].params

    if how == "pmap":
        halves = jax.tree.map(lambda leaf: leaf.reshape(2, 4, *leaf.shape[1:]), batch)
        params = jax.tree.map(lambda leaf: leaf[0], jax.pmap(step, "data", in_axes=(None, None, 0))(jax.random.key(1), state, halves))
    else:
        mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
        specs = (PartitionSpec(), PartitionSpec(), PartitionSpec("data"))
        params = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)(jax.random.key(1), state, batch)
    np.testing.assert_allclose(params["w"], expected.params["w"], rtol=1e-5)


def test_augmentation_sees_training_batches_only():
    def augment(key, batch):
        return batch | {"x": batch["x"] + jax.random.normal(key, batch["x"].shape)}

    batch = line_batch()
    learner = supervised(LINE, squared_error, optax.sgd(0.1), augment=augment)
    state = learner.init(jax.random.key(0), batch)
    steps = [learner.step(jax.random.key(seed), state, batch)[0].params["w"] for seed in (0, 0, 1)]
    assert (steps[0] == steps[1]).all()
    assert (steps[0] != steps[2]).any()
    plain = supervised(LINE, squared_error, optax.sgd(0.1))
    results = [core.evaluate(one.evaluate, 4)(jax.random.key(0), state, batch)["loss"].value for one in (learner, plain)]
    assert results[0] == results[1]


@pytest.mark.rank_promotion
@pytest.mark.parametrize("model", [LINE, Normed()], ids=["pair", "linen"])
def test_contract(model):
    loss = squared_error if model is LINE else cross_entropy
    check_learner(supervised(model, loss, optax.adam(1e-2)), shuffled(line_batch() if model is LINE else classes(), 4), steps=3)


def test_label_out_of_range_is_named_by_its_step():
    data = classes()
    _, history = fit(supervised(linen.Dense(2), cross_entropy, optax.sgd(0.1)), data | {"y": data["y"].at[0].set(2)}, steps=20, batch_size=4)
    step = int(history.bad_step)
    assert 0 <= step < 10
    assert np.isnan(history["loss"][step])


def test_refusals():
    with pytest.raises(TypeError, match=r"supervised: loss must be a function \(outputs, y\) -> \[B, ...\], got 'mse'"):
        supervised(LINE, "mse", optax.sgd(0.1))
    with pytest.raises(TypeError, match="supervised: accuracy must be a function"):
        supervised(LINE, squared_error, optax.sgd(0.1), metrics={"accuracy": 0.5})
    with pytest.raises(TypeError, match=r"supervised: optimizer must be an optax transformation, got 0\.1"):
        supervised(LINE, squared_error, 0.1)
    with pytest.raises(ValueError, match='metrics must not be called "loss"'):
        supervised(LINE, squared_error, optax.sgd(0.1), metrics={"loss": squared_error})
    learner = supervised(LINE, squared_error, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"a batch must be a dict with \"x\" and \"y\".*got the keys \['x'\]"):
        learner.init(jax.random.key(0), {"x": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match="got tuple"):
        learner.init(jax.random.key(0), (jnp.ones((2, 3)), jnp.ones(2)))
    batch = line_batch()
    state = learner.init(jax.random.key(0), batch)
    with pytest.raises(ValueError, match=r"the mask must have the shape of the loss \(6,\) or a prefix of it, got \(5,\)"):
        learner.step(jax.random.key(0), state, batch | {"mask": jnp.ones(5)})
    with pytest.raises(ValueError, match='metrics must not be called "penalty"'):
        supervised(LINE, squared_error, optax.sgd(0.1), metrics={"penalty": squared_error}, penalty=jnp.sum)
    with pytest.raises(ValueError, match="natural_gradient: penalty must be None"):
        supervised(LINE, squared_error, natural_gradient(), penalty=jnp.sum).init(jax.random.key(0), batch)
    averaged = supervised(LINE, lambda outputs, y: squared_error(outputs, y).mean(), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"loss must return one value an example.*got a scalar; leave the averaging to the learner"):
        averaged.step(jax.random.key(0), state, batch)
