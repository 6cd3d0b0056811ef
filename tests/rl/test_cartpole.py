"""CartPole is gymnasium's."""

from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax import rl
from dljax.rl.cartpole import CartPoleState
from dljax.rl.environment import TimeLimitState


def episodes(num, seed=0):
    """Whole episodes of gymnasium: states before each step [T, 4], actions, observations after it [T, 4], terminated and truncated [T, 2]."""
    env = gymnasium.make("CartPole-v1")
    rng = np.random.default_rng(seed)
    for index in range(num):
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        states, actions, rows, ends = [], [], [], [(False, False)]
        while not any(ends[-1]):
            states.append(env.unwrapped.state)
            # Half of the episodes by chance, half by a controller that survives to the time limit.
            lean = observation @ np.array([0.1, 0.4, 5.0, 1.0])
            actions.append(int(rng.integers(2)) if index % 2 == 0 else int(lean > 0))
            observation, reward, terminated, truncated, _ = env.step(actions[-1])
            assert reward == 1
            rows.append(observation)
            ends.append((terminated, truncated))
        yield np.array(states), np.array(actions), np.array(rows), np.array(ends[1:])


@partial(jax.jit, static_argnums=2)
def replay(states, actions, every):
    env = rl.cartpole()

    def step(carry, row):
        state, time = carry
        given, action = row
        state = jax.tree.map(lambda ours, theirs: jnp.where(time % every == 0, theirs, ours), state, CartPoleState(*given))
        after = env.step(jax.random.key(0), TimeLimitState(state, time), action, env.params)
        return tuple(after.state), (after.observation, after.reward, after.terminated, after.truncated)

    return jax.lax.scan(step, (CartPoleState(*states[0]), jnp.int32(0)), (states, actions))[1]


# An unstable pole multiplies an error by e^4 in a second: without taking gymnasium's state now and then, rounding alone would show.
@pytest.mark.parametrize(("is_double", "every", "tolerance"), [(True, 100, 2e-7), (False, 20, 2e-5)])
def test_whole_episodes_equal_gymnasiums_step_for_step(is_double, every, tolerance):
    lengths = []
    with jax.enable_x64(is_double):
        for states, actions, rows, ends in episodes(20):
            steps = len(actions)
            pad = [(0, 500 - steps), (0, 0)]
            dtype = np.float64 if is_double else np.float32
            observation, reward, terminated, truncated = replay(np.pad(states, pad).astype(dtype), np.pad(actions, pad[0]), every)
            np.testing.assert_allclose(observation[:steps], rows, rtol=tolerance, atol=tolerance)
            np.testing.assert_array_equal(np.stack([terminated, truncated], 1)[:steps], ends)
            assert (np.asarray(reward) == 1).all()
            lengths.append(steps)
    assert min(lengths) < 30
    assert max(lengths) == 500


def test_ten_thousand_transitions_equal_gymnasiums_resynchronised_at_each():
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (10_000, 4)) * np.array([2.4, 3.0, 0.21, 3.0])
    actions = rng.integers(0, 2, 10_000)
    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    expected = []
    for state, action in zip(states, actions, strict=True):
        env.state, env.steps_beyond_terminated = state, None
        observation, _, terminated, _, _ = env.step(int(action))
        expected.append((*observation, terminated))
    expected = np.array(expected)
    ours = rl.cartpole(max_steps=None)
    step = jax.jit(jax.vmap(lambda state, action: ours.step(jax.random.key(0), CartPoleState(*state), action, ours.params)))
    transition = step(jnp.asarray(states, jnp.float32), actions)
    np.testing.assert_allclose(transition.observation, expected[:, :4], rtol=1e-5, atol=1e-5)
    # A state within rounding of a limit may fall on either side.
    margin = np.minimum(abs(abs(expected[:, 0]) - 2.4), abs(abs(expected[:, 2]) - np.radians(12)))
    is_clear = margin > 1e-5
    assert is_clear.mean() > 0.999
    np.testing.assert_array_equal(np.asarray(transition.terminated)[is_clear], expected[is_clear, 4])


def test_spaces_and_starts_are_gymnasiums():
    ours, theirs = rl.cartpole(), gymnasium.make("CartPole-v1")
    assert ours.action_space.num == theirs.action_space.n
    assert ours.observation_space.shape == theirs.observation_space.shape
    np.testing.assert_allclose(np.array(ours.observation_space.high), theirs.observation_space.high, rtol=1e-6)
    starts = np.asarray(jax.vmap(lambda key: ours.reset(key, ours.params)[1])(jax.random.split(jax.random.key(0), 2000)))
    assert -0.05 <= starts.min() < -0.0499
    assert 0.0499 < starts.max() <= 0.05
    assert abs(starts.mean()) < 0.002
    assert ours.observation_space.contains(starts)


def test_constants_may_be_traced_and_derived_ones_follow():
    env = rl.cartpole(max_steps=None)
    state = CartPoleState(*jnp.array([0.0, 0.0, 0.1, 0.0]))

    def speed(mass):
        return env.step(jax.random.key(0), state, 1, env.params._replace(mass_pole=mass)).state.theta_dot

    heavy = float(jax.jit(speed)(0.5))
    theirs = gymnasium.make("CartPole-v1").unwrapped
    theirs.reset(seed=0)
    theirs.masspole, theirs.total_mass, theirs.polemass_length, theirs.state = 0.5, 1.5, 0.25, np.array([0.0, 0.0, 0.1, 0.0])
    np.testing.assert_allclose(heavy, theirs.step(1)[0][3], rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(speed)(jnp.array([0.1, 0.5]))[1], heavy, rtol=1e-6)


def test_picture_shows_where_the_pole_is():
    frames = rl.draw_cartpole(np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.2, 0.0]]))
    assert frames.shape == (3, 200, 300, 3)
    assert frames.dtype == np.uint8
    is_pole = (frames == (202, 152, 101)).all(-1)
    columns = [np.nonzero(mask)[1].mean() for mask in is_pole]
    assert abs(columns[0] - 149.5) < 1
    assert columns[1] > columns[0] + 40
    assert columns[2] > columns[0] + 3  # positive angles lean to the right


def test_refuses_a_time_limit_below_one():
    with pytest.raises(ValueError, match="time_limit: max_steps must be in .* got 0"):
        rl.cartpole(max_steps=0)
