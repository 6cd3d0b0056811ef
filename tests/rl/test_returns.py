"""Returns and advantages against numbers worked by hand and sums written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax import rl

NO = False


def array(*values):
    return jnp.array(values, jnp.float32)


def flags(*values):
    return jnp.array(values, bool)


def test_truncation_bootstraps_from_the_final_observation_and_not_from_the_reset():
    # Reward 1, V(s) = 0, V(final) = 10; the next episode starts in a state worth 3. Masking by "done" gives 1, bootstrapping from the reset 3.7.
    advantages = rl.gae(array(1, 0), array(0, 3), array(10, 0), flags(0, 1), flags(1, 0), discount=0.9, lambda_=0.95)
    assert float(advantages[0]) == 10


def test_both_flags_do_not_bootstrap():
    assert float(rl.gae(array(1), array(0), array(10), flags(1), flags(1), 0.9, 0.95)[0]) == 1
    assert float(rl.discounted_returns(array(1), array(10), flags(1), flags(1), 0.9)[0]) == 1


def test_worked_example_with_a_truncation_in_the_middle():
    rewards, values, next_values = array(1, 2, 3, 4), array(1, 1, 2, 2), array(1, 5, 2, 7)
    truncated, terminated = flags(0, 1, 0, 0), flags(0, 0, 0, 0)
    # γ = λ = 1/2.  δ = (1 + .5 - 1, 2 + 2.5 - 1, 3 + 1 - 2, 4 + 3.5 - 2) = (.5, 3.5, 2, 5.5); A_1 is cut off from A_2.
    np.testing.assert_allclose(rl.gae(rewards, values, next_values, terminated, truncated, 0.5, 0.5), [0.5 + 3.5 / 4, 3.5, 2 + 5.5 / 4, 5.5])
    # G_3 = 4 + 3.5, G_2 = 3 + G_3 / 2; G_1 = 2 + 2.5, G_0 = 1 + G_1 / 2.
    np.testing.assert_allclose(rl.discounted_returns(rewards, next_values, terminated, truncated, 0.5), [3.25, 4.5, 6.75, 7.5])
    np.testing.assert_allclose(rl.lambda_returns(rewards, next_values, terminated, truncated, 0.5, 0.0), [1.5, 4.5, 4, 7.5])


def test_the_next_episode_never_moves_an_earlier_advantage():
    for ends in (dict(terminated=flags(0, 1, 0, 0), truncated=flags(0, 0, 0, 0)), dict(terminated=flags(0, 0, 0, 0), truncated=flags(0, 1, 0, 0))):
        one = rl.gae(array(1, 1, 1, 1), array(1, 2, 3, 4), array(2, 9, 4, 5), **ends)
        other = rl.gae(array(1, 1, 50, -7), array(1, 2, -8, 6), array(2, 9, 0, 3), **ends)
        np.testing.assert_array_equal(one[:2], other[:2])


@st.composite
def trajectories(draw):
    steps = draw(st.sampled_from([1, 2, 9]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    rewards, values = rng.normal(size=(2, steps)).astype(np.float32)
    terminated, truncated = rng.random((2, steps)) < 0.2
    following = np.append(values[1:], rng.normal()).astype(np.float32)
    next_values = np.where(truncated | terminated, rng.normal(size=steps), following).astype(np.float32)
    return rewards, values, next_values, terminated, truncated


def monte_carlo(rewards, next_values, terminated, truncated, discount):
    """The sum of each step's discounted rewards, written out."""
    totals = []
    for first in range(len(rewards)):
        total, weight = 0.0, 1.0
        for t in range(first, len(rewards)):
            total += weight * rewards[t]
            weight *= discount
            if terminated[t]:
                break
            if truncated[t] or t == len(rewards) - 1:
                total += weight * next_values[t]
                break
        totals.append(total)
    return totals


@settings(deadline=None, max_examples=50)
@given(trajectories())
def test_gae_with_lambda_one_is_the_monte_carlo_return_less_the_value(trajectory):
    rewards, values, next_values, terminated, truncated = trajectory
    expected = monte_carlo(rewards, next_values, terminated, truncated, 0.9)
    np.testing.assert_allclose(rl.gae(*trajectory, 0.9, 1.0) + values, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rl.discounted_returns(rewards, next_values, terminated, truncated, 0.9), expected, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(trajectories())
def test_gae_with_lambda_zero_is_the_one_step_error(trajectory):
    rewards, values, next_values, terminated, _ = trajectory
    np.testing.assert_allclose(rl.gae(*trajectory, 0.9, 0.0), rewards + 0.9 * (1 - terminated) * next_values - values, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(trajectories(), st.floats(0, 1), st.floats(0, 1))
def test_lambda_returns_are_advantages_plus_values(trajectory, discount, lambda_):
    rewards, values, next_values, terminated, truncated = trajectory
    targets = rl.lambda_returns(rewards, next_values, terminated, truncated, discount, lambda_)
    np.testing.assert_allclose(targets, rl.gae(*trajectory, discount, lambda_) + values, rtol=1e-4, atol=1e-4)


def test_vmap_is_a_loop_and_options_may_be_traced():
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.normal(size=(3, 6, 4)).astype(np.float32)
    terminated, truncated = rng.random((2, 6, 4)) < 0.2
    columns = jax.jit(jax.vmap(rl.gae, in_axes=(1, 1, 1, 1, 1, None, None), out_axes=1))
    mapped = columns(rewards, values, next_values, terminated, truncated, 0.9, 0.8)
    for b in range(4):
        alone = rl.gae(rewards[:, b], values[:, b], next_values[:, b], terminated[:, b], truncated[:, b], 0.9, 0.8)
        np.testing.assert_allclose(mapped[:, b], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_a_cut_chain_is_worth_what_the_unlimited_one_is(lambda_):
    # One state, reward 1, discount 0.9, cut every 5 steps: V = 10 is the fixed point of learning from these targets, with 1 - 0.9^5 of 10 after a
    # termination in place of the cut.
    value, limited = 0.0, np.zeros(5, np.float32)
    end = flags(0, 0, 0, 0, 1)
    for _ in range(200):
        same = jnp.full(5, value)
        value = float(rl.lambda_returns(jnp.ones(5), same, ~end & NO, end, 0.9, lambda_).mean())
        limited = rl.lambda_returns(jnp.ones(5), jnp.append(limited[1:], 0.0), end, ~end & NO, 0.9, lambda_)
    np.testing.assert_allclose(value, 10, rtol=1e-4)
    np.testing.assert_allclose(limited[0], 10 * (1 - 0.9**5), rtol=1e-5)
