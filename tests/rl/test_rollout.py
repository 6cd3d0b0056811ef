"""Rollouts, whole episodes, and statistics of those that ended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax import rl

ENV = rl.cartpole()


def balance(key, observation):
    return (observation @ jnp.array([0.1, 0.4, 5.0, 1.0]) > 0).astype(jnp.int32)


def push_right(key, observation):
    return jnp.ones(observation.shape[0], jnp.int32)


def test_rollout_is_the_environment_stepped_by_hand():
    trajectory = jax.jit(lambda key: rl.rollout(ENV, balance, key, num_envs=3, steps=6))(jax.random.key(0))
    raw = rl.cartpole(max_steps=None)
    for b in range(3):
        state = rl.CartPoleState(*trajectory.observation[0, b])
        for t in range(6):
            np.testing.assert_allclose(trajectory.observation[t, b], jnp.stack(state), rtol=1e-5, atol=1e-6)
            assert trajectory.action[t, b] == balance(None, jnp.stack(state)[None])[0]
            after = raw.step(jax.random.key(0), state, trajectory.action[t, b], raw.params)
            np.testing.assert_allclose(trajectory.final_observation[t, b], after.observation, rtol=1e-5, atol=1e-6)
            state = after.state


def test_two_halves_are_the_whole():
    envs = rl.auto_reset(ENV, 4)
    state, observation = envs.reset(jax.random.key(0), envs.params)
    policy = lambda noise, observation: (noise, ())  # noqa: E731
    actions = rl.Discrete(2).sample(jax.random.key(1), (60, 4))
    collect = jax.jit(lambda *args: rl.collect(envs, policy, *args))
    _, _, first = collect(actions[:30], jax.random.key(2), state, observation)
    state, observation, again = collect(actions[:30], jax.random.key(2), state, observation)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    _, _, second = collect(actions[30:], jax.random.key(3), state, observation)
    going = ~np.asarray(first.terminated[-1])
    np.testing.assert_array_equal(np.asarray(first.final_observation[-1])[going], np.asarray(second.observation[0])[going])


def test_noise_drawn_for_all_steps_at_once_is_the_noise_of_each_step():
    seen = rl.NoisePolicy(lambda key, shape: jnp.arange(np.prod(shape)).reshape(shape), lambda noise, observation: noise)
    assert jax.jit(lambda key: rl.rollout(ENV, seen, key, 2, 3))(jax.random.key(0)).action.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert seen(jax.random.key(0), jnp.zeros((4, 4))).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("steps", [7, 30, 64])
def test_a_trajectory_is_in_the_order_of_time_however_long_it_is(steps):
    trajectory = jax.jit(lambda key: rl.rollout(ENV, rl.random_policy(ENV), key, 2, steps))(jax.random.key(3))
    assert trajectory.observation.shape == (steps, 2, 4)
    is_done = np.asarray(trajectory.terminated | trajectory.truncated)[:-1]
    before, after = np.asarray(trajectory.final_observation)[:-1], np.asarray(trajectory.observation)[1:]
    assert ((before == after).all(-1) == ~is_done).all()


def test_same_key_same_rollout():
    run = jax.jit(lambda key: rl.rollout(ENV, rl.random_policy(ENV), key, 4, 50))
    jax.tree.map(np.testing.assert_array_equal, run(jax.random.key(1)), run(jax.random.key(1)))
    assert not np.array_equal(run(jax.random.key(1)).action, run(jax.random.key(2)).action)


def test_evaluation_counts_each_environment_once_however_long_it_takes():
    # Half of the policies' episodes are long: a mean over the first that end would see the short ones only.
    def half(key, observation):
        is_first = jnp.arange(observation.shape[0]) % 2 == 0
        return jnp.where(is_first, balance(key, observation), push_right(key, observation))

    episodes = jax.jit(lambda key: rl.evaluate(ENV, half, key, num_episodes=10))(jax.random.key(0))
    assert (np.asarray(episodes.lengths)[::2] == 500).all()
    assert (np.asarray(episodes.lengths)[1::2] < 12).all()
    np.testing.assert_array_equal(episodes.returns, episodes.lengths)


def test_evaluation_of_one_episode_equals_a_rollout_to_its_end():
    env = rl.cartpole()
    key = jax.random.key(4)
    episodes = rl.evaluate(env, rl.random_policy(env), key, num_episodes=200)
    trajectory = rl.rollout(env, rl.random_policy(env), key, num_envs=200, steps=400)
    firsts = np.asarray(trajectory.terminated).argmax(0) + 1
    # Different keys: equal in distribution. gymnasium's random policy survives 22.2 steps on average.
    assert abs(np.mean(episodes.lengths) - np.mean(firsts)) < 4 * np.std(firsts) * np.sqrt(2 / 200)
    assert abs(np.mean(episodes.lengths) - 22.2) < 4 * np.std(firsts) / np.sqrt(200)


def test_no_statistics_before_the_first_episode_ends():
    running, means = rl.episode_statistics(rl.no_episodes(3), jnp.ones((4, 3)), jnp.zeros((4, 3), bool))
    assert float(means["return"].weight) == 0
    assert np.isnan(means["return"].value)
    assert running.lengths.tolist() == [4, 4, 4]


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([1, 2, 10]), st.sampled_from([1, 3]), st.integers(0, 10**6))
def test_statistics_are_those_of_a_loop_over_steps(steps, num_envs, seed):
    rng = np.random.default_rng(seed)
    before, reward = rng.normal(size=num_envs).astype(np.float32), rng.normal(size=(steps, num_envs)).astype(np.float32)
    lengths, is_done = rng.integers(0, 5, num_envs).astype(np.int32), rng.random((steps, num_envs)) < 0.3
    running, means = rl.episode_statistics(rl.Episodes(jnp.asarray(before), jnp.asarray(lengths)), jnp.asarray(reward), jnp.asarray(is_done))
    totals, counts, ended_returns, ended_lengths = before.copy(), lengths.copy(), [], []
    for t in range(steps):
        totals, counts = totals + reward[t], counts + 1
        ended_returns += totals[is_done[t]].tolist()
        ended_lengths += counts[is_done[t]].tolist()
        totals, counts = np.where(is_done[t], 0, totals), np.where(is_done[t], 0, counts)
    np.testing.assert_allclose(running.returns, totals, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(running.lengths, counts)
    assert float(means["return"].weight) == float(means["length"].weight) == len(ended_returns)
    np.testing.assert_allclose(means["return"].total, sum(ended_returns), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(means["length"].total, sum(ended_lengths), rtol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="rollout: steps must be >= 1, got 0"):
        rl.rollout(ENV, balance, jax.random.key(0), num_envs=1, steps=0)
    with pytest.raises(ValueError, match="auto_reset: num_envs must be >= 1, got 0"):
        rl.rollout(ENV, balance, jax.random.key(0), num_envs=0, steps=1)
    with pytest.raises(ValueError, match="evaluate: num_episodes must be >= 1, got 0"):
        rl.evaluate(ENV, balance, jax.random.key(0), num_episodes=0)
