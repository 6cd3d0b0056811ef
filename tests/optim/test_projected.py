"""Projections after steps, and the pull towards the mean of the past."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.optim import historical_averaging, projected


def box(params):
    return jax.tree.map(lambda leaf: jnp.clip(leaf, -1.0, 1.0), params)


def test_9_1_projected_steps_reach_the_constrained_minimum_and_never_leave_the_box():
    target = {"a": jnp.array([3.0, -0.25]), "b": jnp.array(-7.0)}
    optimizer = projected(optax.adam(0.1), box)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.tree.map(lambda x, t: x - t, params, target), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.max(jnp.abs(jnp.append(params["a"], params["b"])))

    params = jax.tree.map(jnp.zeros_like, target)
    (params, _), largest = jax.lax.scan(step, (params, optimizer.init(params)), length=300)
    np.testing.assert_allclose(params["a"], [1, -0.25], atol=1e-4)
    np.testing.assert_allclose(params["b"], -1, atol=1e-6)
    assert float(largest.max()) <= 1 + 1e-6


def test_9_2_historical_averaging_pulls_towards_the_mean_of_all_parameters_so_far():
    pull, path = historical_averaging(0.25), np.array([4.0, 1.0, -2.0, 6.0])
    state = pull.init(jnp.zeros(()))
    for time, place in enumerate(path):
        update, state = pull.update(jnp.float32(0.5), state, jnp.float32(place))
        assert float(update) == pytest.approx(0.5 + 2 * 0.25 * (place - path[: time + 1].mean()), rel=1e-6)


def test_9_2_historical_averaging_turns_the_circles_of_the_bilinear_game_into_a_spiral_inwards():
    def last(weight):
        optimizer = optax.chain(historical_averaging(weight), optax.sgd(0.1))

        def step(carry, _):
            point, state = carry
            updates, state = optimizer.update(jnp.stack([point[1], -point[0]]), state, point)
            return (point + updates, state), None

        point = jnp.ones(2)
        (point, _), _ = jax.lax.scan(step, (point, optimizer.init(point)), length=300)
        return jnp.linalg.norm(point)

    away, inwards = jax.jit(jax.vmap(last))(jnp.array([0.0, 0.5]))
    assert float(away) == pytest.approx(np.sqrt(2) * 1.01**150, rel=1e-3)
    assert float(inwards) < 0.5


def test_missing_parameters_and_bad_options_are_refused():
    with pytest.raises(ValueError, match="projected: update must be given the parameters"):
        projected(optax.sgd(0.1), box).update(jnp.ones(2), optax.sgd(0.1).init(jnp.ones(2)))
    pull = historical_averaging(1.0)
    with pytest.raises(ValueError, match="historical_averaging: update must be given the parameters"):
        pull.update(jnp.ones(2), pull.init(jnp.ones(2)))
    with pytest.raises(ValueError, match=r"historical_averaging: weight must be in \[0, inf\), got -1.0"):
        historical_averaging(-1.0)
