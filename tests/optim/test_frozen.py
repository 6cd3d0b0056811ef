"""Frozen parameters: they do not move, not even by decay, and the others move as if they were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.core.tree import num_params
from dljax.optim import frozen

PARAMS = {"body": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "head": {"kernel": jnp.arange(4.0).reshape(2, 2)}}


def test_8_2_frozen_parameters_stay_and_the_others_move_as_if_alone():
    def moved(optimizer, params):
        def step(carry, key):
            params, state = carry
            grads = jax.tree.map(lambda leaf: leaf + jax.random.normal(key, leaf.shape), params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(jax.random.key(0), 5))[0]

    optimizer = optax.adamw(0.1, weight_decay=0.5)
    (after, state), (alone, alone_state) = moved(frozen(optimizer, "^body/"), PARAMS), moved(optimizer, {"head": PARAMS["head"]})
    jax.tree.map(np.testing.assert_array_equal, after["body"], PARAMS["body"])
    np.testing.assert_allclose(after["head"]["kernel"], alone["head"]["kernel"], rtol=1e-6)
    assert num_params(state) == num_params(alone_state)


def test_patterns_that_find_nothing_are_refused():
    with pytest.raises(ValueError, match="frozen: pattern 'tail' finds none of the 3 paths"):
        frozen(optax.sgd(0.1), "tail").init(PARAMS)
    with pytest.raises(ValueError, match="frozen: pattern must be a regular expression"):
        frozen(optax.sgd(0.1), "(")
