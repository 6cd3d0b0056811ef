"""Problems that the tests of natural gradient, K-FAC and Hessian-free share."""

import jax
import jax.numpy as jnp
import numpy as np

from dljax.core import bind_axis
from dljax.objectives import squared_error
from dljax.supervised import supervised

LINE = (lambda key, x: {"w": jnp.zeros((x.shape[-1], 2))}, lambda params, x: x @ params["w"])


def regression(num=12):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, 3))
    return {"x": jnp.asarray(x), "y": jnp.asarray(x @ rng.normal(size=(3, 2)) + rng.normal(size=(num, 2)))}


def classes(num=12, shape=(3,)):
    rng = np.random.default_rng(0)
    return {"x": jnp.asarray(rng.normal(size=(num, *shape))), "y": jnp.asarray(rng.integers(0, 3, num), jnp.int32)}


def first_steps(learner, batch, steps=1, start=None):
    """States and metrics after steps on one batch, the state that init made first; compiled as one."""

    def one(state, key):
        state, metrics = learner.step(key, state, batch)
        return state, (state, metrics)

    @jax.jit
    def run(key):
        state = learner.init(key, batch)
        state = state if start is None else start(state)
        return state, jax.lax.scan(one, state, jax.random.split(jax.random.key(1), steps))[1]

    first, (states, said) = run(jax.random.key(0))
    return [first, *_rows(states, steps)], _rows(said, steps)


def _rows(tree, num):
    return [jax.tree.map(lambda leaf, row=row: leaf[row], tree) for row in range(num)]


def check_shards(rule, model, loss, batch):
    """Two shards of unequal weight take the step of one device."""
    learner = supervised(model, loss, rule)

    @jax.jit
    def both(batch):
        state = learner.init(jax.random.key(0), batch)

        def step(batch):
            with bind_axis("data"):
                return learner.step(jax.random.key(1), state, batch)[0].params

        halves = jax.tree.map(lambda leaf: leaf.reshape(2, -1, *leaf.shape[1:]), batch)
        return jax.vmap(step, axis_name="data")(halves), learner.step(jax.random.key(1), state, batch)[0].params, state.params

    shards, whole, before = both(batch)
    for ours, expected, start in zip(*map(jax.tree.leaves, (shards, whole, before)), strict=True):
        assert float(jnp.abs(expected - start).max()) > 1e-4
        np.testing.assert_allclose(ours, jnp.stack([expected, expected]), rtol=1e-6, atol=1e-9)


def check_empty_batch(rule, batch):
    """A batch of weight zero changes nothing, and nothing becomes NaN."""
    (before, after), _ = first_steps(supervised(LINE, squared_error, rule), batch | {"mask": jnp.zeros(len(batch["y"]))})
    np.testing.assert_array_equal(after.params["w"], before.params["w"])
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(after))


def least_squares_solution(batch):
    return np.linalg.lstsq(batch["x"], batch["y"])[0]
