"""Penalties by path: against NumPy, against torch's gradients, at the extremes, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax import core
from dljax.objectives import elastic_net, group_lasso, l1, l2, max_norm, nuclear, orthogonal, squared_error
from dljax.supervised import supervised

RNG = np.random.default_rng(0)
PARAMS = {"Conv_0": {"kernel": RNG.normal(size=(3, 3, 2, 4))}, "Dense_0": {"kernel": RNG.normal(size=(5, 3)), "bias": RNG.normal(size=3)}}
KERNELS = [PARAMS["Conv_0"]["kernel"].reshape(-1, 4), PARAMS["Dense_0"]["kernel"]]
LINE = (lambda key, x: {"kernel": jnp.ones(x.shape[-1]), "bias": jnp.zeros(())}, lambda params, x: x @ params["kernel"] + params["bias"])
ALL = {
    "l1": l1,
    "l2": l2,
    "elastic_net": elastic_net,
    "group_lasso": group_lasso,
    "nuclear": nuclear,
    "orthogonal": orthogonal,
    "max_norm": lambda *args, **options: max_norm(*args, limit=1.0, **options),
}


def written_out(w):
    """Each penalty of one matrix by NumPy."""
    columns = np.linalg.norm(w, axis=0)
    return {
        "l1": np.abs(w).sum(),
        "l2": (w**2).sum() / 2,
        "elastic_net": np.abs(w).sum() / 2 + (w**2).sum() / 4,
        "group_lasso": np.sqrt(len(w)) * columns.sum(),
        "nuclear": np.linalg.norm(w, "nuc"),
        "orthogonal": np.linalg.norm(w.T @ w - np.eye(w.shape[1])) ** 2,
        "max_norm": (np.maximum(columns - 1, 0) ** 2).sum() / 2,
    }


def test_4_1_penalties_equal_their_formulas_on_the_leaves_of_a_path():
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, PARAMS)
        values = jax.jit(lambda params, strength: {name: penalty(params, "kernel$", strength=strength) for name, penalty in ALL.items()})(params, 0.3)
        dense = jax.jit(lambda params: {name: penalty(params, "Dense_0/kernel") for name, penalty in ALL.items()})(params)
    for name in ALL:
        np.testing.assert_allclose(values[name], 0.3 * sum(written_out(w)[name] for w in KERNELS), rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(dense[name], written_out(KERNELS[1])[name], rtol=1e-12, err_msg=name)


def test_4_1_gradients_of_penalties_equal_those_of_torch():
    torch = pytest.importorskip("torch")
    w = torch.tensor(KERNELS[1], requires_grad=True)
    columns = torch.linalg.vector_norm(w, dim=0)
    values = {
        "group_lasso": len(w) ** 0.5 * columns.sum(),
        "nuclear": torch.linalg.matrix_norm(w, "nuc"),
        "orthogonal": (w.T @ w - torch.eye(3)).pow(2).sum(),
        "max_norm": torch.relu(columns - 1).pow(2).sum() / 2,
    }
    with jax.enable_x64(True):
        grads = jax.jit(lambda w: {name: jax.grad(ALL[name])(w) for name in values})(jnp.asarray(KERNELS[1]))
    for name, value in values.items():
        np.testing.assert_allclose(grads[name], torch.autograd.grad(value, w, retain_graph=True)[0], rtol=1e-9, atol=1e-12, err_msg=name)


def test_gradients_are_finite_at_the_origin_and_lengths_do_not_overflow():
    zero, huge = jnp.zeros((3, 2)), jnp.full((3, 2), 1e25)
    grads = jax.jit(lambda w: {name: jax.grad(penalty)(w) for name, penalty in ALL.items()})(zero)
    assert all(np.isfinite(grad).all() for grad in grads.values())
    np.testing.assert_allclose(group_lasso(huge), 2 * 3 * 1e25, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(group_lasso)(huge), 1, rtol=1e-6)


def test_orthogonal_columns_of_a_tall_matrix_and_rows_of_a_wide_one_cost_nothing():
    q = jnp.asarray(np.linalg.qr(KERNELS[1])[0], jnp.float32)
    assert float(orthogonal(q)) < 1e-10
    assert float(orthogonal(q.T)) < 1e-10


def batch_of_lines(num=6):
    x = RNG.normal(size=(num, 3)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(x @ [1, -2, 3], jnp.float32)}


def test_4_1_penalty_of_a_learner_is_added_to_what_it_minimises_and_reported():
    batch = batch_of_lines()
    learner = supervised(LINE, squared_error, optax.sgd(0.1), penalty=lambda params: l2(params, "kernel", strength=0.5))
    plain = supervised(LINE, squared_error, optax.sgd(0.1))
    state = learner.init(jax.random.key(0), batch)
    after, metrics = learner.step(jax.random.key(1), state, batch)
    without, _ = plain.step(jax.random.key(1), state, batch)
    np.testing.assert_allclose(after.params["kernel"], without.params["kernel"] - 0.1 * 0.5 * 1, rtol=1e-6)
    np.testing.assert_array_equal(after.params["bias"], without.params["bias"])
    assert float(metrics["penalty"]) == 0.75


def test_penalty_counts_once_whatever_the_number_of_shards():
    batch = batch_of_lines()
    learner = supervised(LINE, squared_error, optax.sgd(0.1), penalty=lambda params: l2(params, strength=0.5))
    state = learner.init(jax.random.key(0), batch)
    with core.bind_axis("data"):
        shards = jax.tree.map(lambda leaf: leaf.reshape(3, 2, *leaf.shape[1:]), batch)
        sharded, _ = jax.jit(jax.vmap(lambda batch: learner.step(jax.random.key(1), state, batch), axis_name="data"))(shards)
    alone, _ = jax.jit(learner.step)(jax.random.key(1), state, batch)
    np.testing.assert_allclose(sharded.params["kernel"][2], alone.params["kernel"], rtol=1e-6)


def first_step(penalty):
    learner, batch = supervised(LINE, squared_error, optax.sgd(0.1), penalty=penalty), batch_of_lines()
    return jax.eval_shape(learner.step, jax.random.key(0), learner.init(jax.random.key(0), batch), batch)


def test_penalty_that_was_called_already_is_refused():
    with pytest.raises(TypeError, match="supervised: penalty must be a function params"):
        supervised(LINE, squared_error, optax.sgd(0.1), penalty=l2(PARAMS))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: l1(PARAMS, strength=-1.0), r"l1: strength must be in \[0, inf\)"),
        (lambda: l2(PARAMS, "kernels$"), "l2: pattern 'kernels.' finds none of the 3 paths; the nearest are 'Conv_0/kernel', 'Dense_0/kernel'"),
        (lambda: l2(PARAMS, "**/kernel"), r"l2: pattern must be a regular expression such as 'kernel\$', got '\*\*/kernel'"),
        (lambda: l2({}), "finds none of the 0 paths; the nearest are none: the tree is empty"),
        (lambda: elastic_net(PARAMS, l1_ratio=2.0), r"elastic_net: l1_ratio must be in \[0, 1\]"),
        (lambda: nuclear(PARAMS), r"nuclear: 'Dense_0/bias' must be a matrix or have more axes, got shape \(3,\)"),
        (lambda: orthogonal(PARAMS, "bias"), "orthogonal: 'Dense_0/bias' must be a matrix"),
        (lambda: group_lasso(PARAMS, axis=1), r"group_lasso: 'Dense_0/bias' must have the axis 1, got shape \(3,\)"),
        (lambda: max_norm(PARAMS, limit=-1.0), r"max_norm: limit must be in \[0, inf\)"),
        (lambda: l1({"step": jnp.int32(3)}), "l1: 'step' must hold floating-point numbers, got int32"),
        (lambda: supervised(LINE, squared_error, optax.sgd(0.1), metrics={"penalty": squared_error}, penalty=l2), 'must not be called "penalty"'),
        (lambda: first_step(lambda params: params["kernel"]), r"supervised: penalty must return one number, got shape \(3,\); sum it"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
