"""Word embeddings: PyTorch's gradient, the optimum that Levy and Goldberg derived, log counts where the rank allows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax import core
from dljax.core.check_learner import check_learner
from dljax.data import repeat, shuffled
from dljax.supervised import glove, nearest, negative_sampling

V, D, K = 6, 6, 5


def minimised(learner, batch, steps=3000):
    source = repeat(batch)
    key, state, cursor = core.start(learner, source, jax.random.key(0))
    state, _, history = jax.jit(core.unroll(learner, source, steps, every=steps // 10))(key, 0, state, cursor)
    return learner.params(state), history["loss"]


def test_6_3_gradient_of_cbow_equals_that_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    tables = {name: rng.normal(size=(V, D)).astype(np.float32) for name in ("input", "output")}
    batch = {
        "x": rng.integers(0, V, (4, 3)), "x_mask": np.array([[1, 0, 1], [0, 0, 0.5], [1, 1, 1], [0.2, 1, 0]], np.float32), "y": rng.integers(0, V, 4),
        "mask": np.array([1, 0.5, 0, 2], np.float32), "noise": rng.integers(0, V, 7), "noise_weight": rng.uniform(size=7).astype(np.float32),
    }  # fmt: skip
    learner = negative_sampling(V, D, optax.sgd(1.0))
    state = learner.init(jax.random.key(0), batch)._replace(params=jax.tree.map(jnp.asarray, tables))
    after, metrics = jax.jit(learner.step)(jax.random.key(0), state, jax.tree.map(jnp.asarray, batch))

    theirs = {name: torch.tensor(table, requires_grad=True) for name, table in tables.items()}
    given = {name: torch.tensor(value) for name, value in batch.items()}
    weight = given["x_mask"] / given["x_mask"].sum(1, keepdim=True)
    vectors = (weight[..., None] * theirs["input"][given["x"]]).sum(1)
    own, noise = (vectors * theirs["output"][given["y"]]).sum(1), vectors @ theirs["output"][given["noise"]].T
    each = -torch.nn.functional.logsigmoid(own) - (torch.nn.functional.logsigmoid(-noise) * given["noise_weight"]).sum(1)
    loss = (each * given["mask"]).sum() / given["mask"].sum()
    loss.backward()
    np.testing.assert_allclose(metrics["loss"].value, loss.item(), rtol=1e-5)
    for name, table in tables.items():
        np.testing.assert_allclose(table - np.asarray(after.params[name]), theirs[name].grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("power", [1.0, 0.75])
def test_6_3_optimum_of_skip_gram_is_shifted_pointwise_mutual_information(power):
    counts = np.random.default_rng(0).integers(1, 30, (V, V)).astype(np.float64)
    words, contexts = counts.sum(1), counts.sum(0)
    noise = contexts**power / (contexts**power).sum()
    rows, columns = np.divmod(np.arange(V * V), V)
    batch = {
        "x": rows[:, None], "x_mask": np.ones((V * V, 1), np.float32), "y": columns, "mask": np.float32(counts.ravel()),
        "noise": np.arange(V), "noise_weight": np.float32(K * noise),
    }  # fmt: skip
    learner = negative_sampling(V, D, optax.adam(optax.cosine_decay_schedule(0.05, 3000)), scale=1.0)
    params, _ = minimised(learner, batch)
    # log P(w, c) / (P(w) P_noise(c)) - log k: PMI where the noise is the words' own frequency.
    expected = np.log(counts / (words[:, None] * noise)) - np.log(K)
    np.testing.assert_allclose(params["input"] @ params["output"].T, expected, atol=2e-3)


def test_6_3_glove_reproduces_the_log_counts_where_the_rank_allows():
    counts = np.random.default_rng(1).integers(1, 200, (V, V)).astype(np.float32)
    rows, columns = np.divmod(np.arange(V * V), V)
    learner = glove(V, D, optax.adam(optax.cosine_decay_schedule(0.05, 3000)), scale=1.0)
    params, loss = minimised(learner, {"row": rows, "column": columns, "count": counts.ravel()})
    fitted = params["input"] @ params["output"].T + params["input_bias"][:, None] + params["output_bias"][None]
    np.testing.assert_allclose(fitted, np.log(counts), atol=2e-3)
    # Rank 1 with biases cannot, and the weight of rare pairs is what the paper says.
    one = glove(V, 1, optax.sgd(0.0), saturation=100.0, power=0.75)
    batch = {"row": jnp.array([0, 1]), "column": jnp.array([2, 3]), "count": jnp.array([16.0, 400.0])}
    state = one.init(jax.random.key(0), batch)
    state = state._replace(params=jax.tree.map(jnp.zeros_like, state.params))
    _, metrics = one.step(jax.random.key(0), state, batch)
    expected = 0.16**0.75 * np.log(16) ** 2 + np.log(400) ** 2
    np.testing.assert_allclose(metrics["loss"].total, expected, rtol=1e-6)


def test_6_3_neighbours_are_those_of_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    table = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    _, expected = NearestNeighbors(n_neighbors=6, metric="cosine").fit(table).kneighbors(table[:7])
    np.testing.assert_array_equal(nearest(jnp.asarray(table), jnp.arange(7), 5), expected[:, 1:])
    learner = negative_sampling(40, 5, optax.sgd(0.1))
    params = {"input": jnp.asarray(table), "output": jnp.zeros((40, 5))}
    np.testing.assert_array_equal(learner.functions["neighbours"](jax.random.key(0), params, jnp.arange(7), num=5), expected[:, 1:])
    np.testing.assert_array_equal(learner.functions["embed"](jax.random.key(0), params, jnp.arange(2)), table[:2])


def test_6_3_glove_keeps_the_contract():
    data = {"row": np.arange(4), "column": np.arange(4), "count": np.ones(4, np.float32)}
    check_learner(glove(V, 2, optax.adam(0.1)), shuffled(data, 2), steps=2)


def test_a_batch_of_padding_changes_nothing_and_a_word_outside_is_nan():
    learner = negative_sampling(V, 2, optax.sgd(0.1))
    batch = {
        "x": jnp.zeros((2, 1), jnp.int32), "x_mask": jnp.zeros((2, 1)), "y": jnp.zeros(2, jnp.int32), "mask": jnp.zeros(2),
        "noise": jnp.zeros(1, jnp.int32), "noise_weight": jnp.ones(1),
    }  # fmt: skip
    state, step = learner.init(jax.random.key(0), batch), jax.jit(learner.step)
    after, _ = step(jax.random.key(0), state, batch)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    _, metrics = step(jax.random.key(0), state, batch | {"y": jnp.array([0, V]), "mask": jnp.ones(2), "x_mask": jnp.ones((2, 1))})
    assert np.isnan(metrics["loss"].total)


def test_embeddings_refuse_options_out_of_range():
    for function, options, message in (
        (negative_sampling, {"size": 0}, "negative_sampling: size must be >= 1, got 0"),
        (negative_sampling, {"scale": 0.0}, "negative_sampling: scale must be in"),
        (glove, {"dimension": 0}, "glove: dimension must be >= 1, got 0"),
        (glove, {"saturation": 0}, "glove: saturation must be in"),
        (glove, {"power": -1}, "glove: power must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            function(**{"size": 2, "dimension": 2, "optimizer": optax.sgd(0.1)} | options)
    with pytest.raises(ValueError, match="nearest: num must be between 1 and 1, got 2"):
        nearest(jnp.ones((2, 2)), jnp.array([0]), 2)
