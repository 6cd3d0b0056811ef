"""What ends an episode, and what begins the next."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax import rl
from dljax.rl import Environment, Transition


def counter(limit):
    """Counts its steps; an episode starts at a random number that is its identity, and terminates at `limit` steps."""

    def reset(key, params):
        start = jax.random.uniform(key, dtype=jnp.float32)
        return (start, jnp.int32(0)), jnp.stack([start, jnp.float32(0)])

    def step(key, state, action, params):
        start, count = state[0], state[1] + 1
        return Transition((start, count), jnp.stack([start, count.astype(jnp.float32)]), jnp.float32(1), count >= limit, jnp.bool_(False))

    return Environment(reset, step, rl.Box(0.0, jnp.inf, (2,)), rl.Discrete(2), name="counter")


def steps_of(env, num_envs, steps, seed=0):
    trajectory = jax.jit(lambda key: rl.rollout(env, rl.random_policy(env), key, num_envs, steps))(jax.random.key(seed))
    return jax.tree.map(np.asarray, trajectory)


def test_next_episode_begins_where_one_ends_and_the_last_observation_is_kept():
    trajectory = steps_of(counter(3), num_envs=4, steps=10)
    np.testing.assert_array_equal(trajectory.terminated[:, 0], np.arange(1, 11) % 3 == 0)
    np.testing.assert_array_equal(trajectory.observation[:, 0, 1], np.arange(10) % 3)
    np.testing.assert_array_equal(trajectory.final_observation[:, 0, 1], np.arange(10) % 3 + 1)
    same = ~trajectory.terminated[:-1]
    np.testing.assert_array_equal(trajectory.final_observation[:-1][same], trajectory.observation[1:][same])
    assert (trajectory.final_observation[:-1] != trajectory.observation[1:])[~same].any(-1).all()


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_every_episode_has_a_start_of_its_own(limit):
    trajectory = steps_of(counter(limit), num_envs=5, steps=6 * limit)
    starts = trajectory.observation[::limit, :, 0]
    assert len(np.unique(starts)) == starts.size
    # Within an episode the start stays what it was.
    np.testing.assert_array_equal(trajectory.observation[:, :, 0], np.repeat(starts, limit, 0))


def test_starts_are_as_uniform_as_if_drawn_at_each_end():
    trajectory = steps_of(counter(2), num_envs=64, steps=64)
    starts = np.sort(trajectory.observation[::2, :, 0].ravel())
    distance = np.abs(starts - (np.arange(starts.size) + 0.5) / starts.size).max()
    assert distance < 1.63 / np.sqrt(starts.size)  # Kolmogorov-Smirnov at 1 %
    assert abs(np.corrcoef(trajectory.observation[0, :, 0], trajectory.observation[2, :, 0])[0, 1]) < 0.4


def test_unequal_episodes_do_not_disturb_each_other():
    # Environments of different limits in one batch: those that end early take their second start while others have not taken their first.
    def reset(key, params):
        state, observation = counter(1).reset(key, params)
        return (*state, jax.random.randint(key, (), 2, 9)), observation

    def step(key, state, action, params):
        inner = counter(1).step(key, state[:2], action, params)
        return inner._replace(state=(*inner.state, state[2]), terminated=inner.state[1] >= state[2])

    trajectory = steps_of(counter(1)._replace(reset=reset, step=step), num_envs=8, steps=100)
    counts, ended = trajectory.observation[:, :, 1], trajectory.terminated
    np.testing.assert_array_equal(counts[1:], np.where(ended[:-1], 0, counts[:-1] + 1))
    starts = trajectory.observation[1:, :, 0][ended[:-1]]
    assert len(np.unique(starts)) == len(starts)
    lengths = trajectory.final_observation[:, :, 1][ended]
    assert set(np.unique(lengths)) == set(range(2, 9))


def test_vmap_over_seeds_is_a_loop():
    env = counter(3)
    run = lambda key: rl.rollout(env, rl.random_policy(env), key, 4, 12)  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 3)
    mapped = jax.jit(jax.vmap(run))(keys)
    for index, key in enumerate(keys):
        alone = jax.jit(run)(key)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, index=index: x[index], mapped), alone)


def test_time_limit_truncates_and_does_not_terminate():
    env = rl.time_limit(counter(100), 5)
    trajectory = steps_of(env, num_envs=2, steps=12)
    np.testing.assert_array_equal(np.nonzero(trajectory.truncated[:, 0])[0], [4, 9])
    assert not trajectory.terminated.any()


def test_an_end_in_the_last_step_is_both():
    trajectory = steps_of(rl.time_limit(counter(5), 5), num_envs=2, steps=5)
    assert trajectory.terminated[-1].all()
    assert trajectory.truncated[-1].all()


def test_time_limit_may_be_traced():
    def truncations(limit):
        env = rl.time_limit(counter(100), limit)
        return rl.rollout(env, rl.random_policy(env), jax.random.key(0), 1, 12).truncated.sum()

    assert jax.jit(jax.vmap(truncations))(jnp.array([2, 5])).tolist() == [6, 2]


def test_refusals():
    with pytest.raises(ValueError, match="auto_reset: num_envs must be >= 1, got 0"):
        rl.auto_reset(counter(1), 0)
    with pytest.raises(ValueError, match="time_limit: max_steps must be in .* got 0"):
        rl.time_limit(counter(1), 0)


@pytest.mark.parametrize("num", [1, 2, 3, 4, 100, 2**20])
def test_discrete_samples_are_uniform(num):
    space = rl.Discrete(num)
    sample = np.asarray(jax.jit(lambda key: space.sample(key, (30, 100)))(jax.random.key(0)))
    assert sample.shape == (30, 100)
    assert sample.dtype == np.int32
    assert space.contains(sample)
    cells = min(num, 16)
    counts = np.bincount(sample.ravel().astype(np.int64) * cells // num, minlength=cells)
    expected = 3000 / num * np.diff(np.ceil(np.arange(cells + 1) * num / cells))
    assert ((counts - expected) ** 2 / expected).sum() <= cells + 4 * np.sqrt(2 * cells)


def test_box_samples_lie_within_their_bounds():
    space = rl.Box((-1.0, -jnp.inf), (3.0, jnp.inf), (2,))
    sample = np.asarray(space.sample(jax.random.key(0), (4000,)))
    assert space.contains(sample)
    assert abs(sample[:, 0].mean() - 1) < 0.1
    assert abs(sample[:, 1].std() - 1) < 0.1
    assert not space.contains(sample[:, :1])
    with pytest.raises(ValueError, match="Box: sample needs both bounds or none"):
        rl.Box(0.0, jnp.inf, (2,)).sample(jax.random.key(0))
