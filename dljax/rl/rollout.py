"""Rollouts: experience of many environments at once, and the returns of whole episodes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from dljax.core import Key, Mean, check_int
from dljax.rl.environment import Action, Environment, EnvState, Observation, auto_reset

type_aliases = ("Policy",)

Policy = Callable[[Key, Observation], Action]  # observations [B, ...] -> actions [B, ...]


class NoisePolicy(NamedTuple):
    """A policy in two parts, so that a rollout can draw the noise of all its steps in one call: in a small environment drawing costs most.

    Attributes:
      noise: `(key, shape) -> noise [*shape, ...]`.
      act: `(noise [B, ...], observation [B, ...]) -> action [B, ...]`.

    >>> wobble = NoisePolicy(jax.random.normal, lambda noise, observation: (observation[:, 2] + 0.01 * noise > 0).astype(jnp.int32))
    >>> wobble(jax.random.key(0), jnp.ones((3, 4))).tolist()
    [1, 1, 1]
    """

    noise: Callable[[Key, tuple[int, ...]], Any]
    act: Callable[[Any, Observation], Action]

    def __call__(self, key: Key, observation: Observation) -> Action:
        """Actions [B, ...] of one step."""
        return self.act(self.noise(key, jax.tree.leaves(observation)[0].shape[:1]), observation)


class Trajectory(NamedTuple):
    """What B environments went through in T steps; every leaf is [T, B, ...].

    Attributes:
      observation: what was acted on.
      action: what was done.
      reward: what it brought.
      terminated, truncated: whether the episode ended with this step, and how.
      final_observation: what the action led to; the next row's `observation`, except where the episode ended.
      extras: what else the policy returned.
    """

    observation: Observation
    action: Action
    reward: Float[Array, "T B"]
    terminated: Bool[Array, "T B"]
    truncated: Bool[Array, "T B"]
    final_observation: Observation
    extras: Any = ()


def rollout(env: Environment, policy: Policy, key: Key, num_envs: int, steps: int) -> Trajectory:
    """Steps of many environments under one policy, from fresh starts; a new episode begins where one ends.

    Under `jit`, what the caller does not use of the trajectory is neither computed nor stored.

    Args:
      env: the environment of one.
      policy: `(key, observation [B, ...]) -> action [B, ...]`; the noise of a `NoisePolicy` is drawn for all steps in one call.
      key: of all that is random.
      num_envs: B, >= 1.
      steps: T, of each environment, >= 1.
    Returns:
      A `Trajectory` [T, B, ...].
    Raises:
      ValueError: `num_envs` or `steps` < 1.

    >>> from dljax.rl.cartpole import cartpole
    >>> env = cartpole()
    >>> trajectory = rollout(env, random_policy(env), jax.random.key(0), num_envs=3, steps=50)
    >>> trajectory.observation.shape, bool(trajectory.terminated.any())
    ((50, 3, 4), True)
    """
    check_int("rollout", "steps", steps, minimum=1)
    envs = auto_reset(env, num_envs)
    reset_key, policy_key, env_key = jax.random.split(key, 3)
    state, observation = envs.reset(reset_key, envs.params)
    if isinstance(policy, NoisePolicy):
        noise, act = policy.noise(policy_key, (steps, num_envs)), policy.act
    else:
        noise, act = jax.random.split(policy_key, steps), policy
    return collect(envs, lambda noise, observation: (act(noise, observation), ()), noise, env_key, state, observation)[2]


def collect(
    envs: Environment, policy: Callable[[Any, Observation], tuple[Action, Any]], noise: Any, key: Key, state: EnvState, observation: Observation
) -> tuple[EnvState, Observation, Trajectory]:
    """Steps of batched environments from where they stand; what a learner calls in each of its steps.

    Args:
      envs: batched, as `auto_reset` returns them.
      policy: `(noise_t, observation [B, ...]) -> (action [B, ...], extras)`.
      noise: [T, ...], what the policy is given step by step: keys, or numbers drawn in one call, which is faster.
      key: for the environments.
      state, observation: of the batch.
    Returns:
      State and observation after the last step, and the `Trajectory` [T, B, ...].

    >>> from dljax.rl.cartpole import cartpole
    >>> envs = auto_reset(cartpole(), num_envs=2)
    >>> state, observation = envs.reset(jax.random.key(0), envs.params)
    >>> lean = lambda noise, observation: ((observation[:, 2] + noise > 0).astype(jnp.int32), observation[:, 2])
    >>> state, observation, trajectory = collect(envs, lean, jnp.zeros(5), jax.random.key(1), state, observation)
    >>> trajectory.action.shape, trajectory.extras.shape
    ((5, 2), (5, 2))
    """
    # Drawn before the loop: a key is a hundred operations on a handful of numbers, and each operation in a loop has its price.
    steps = jax.tree.leaves(noise)[0].shape[0]
    rows = (noise, jax.random.split(key, steps))

    def one(carry: tuple, row: tuple) -> tuple[tuple, Trajectory]:
        state, observation = carry
        noise, key = row
        action, extras = policy(noise, observation)
        after = envs.step(key, state, action, envs.params)
        step = Trajectory(observation, action, after.reward, after.terminated, after.truncated, after.final_observation, extras)
        return (after.state, after.observation), step

    # XLA's CPU backend runs the operations of a loop one after another where all that it touches is small, and hands them to a pool of threads
    # elsewhere, which costs a small environment several times what they do. Blocks of steps keep the inner loop's part of a trajectory small.
    limit = 512 // max(_largest((state, observation)), _largest(rows) // steps, 1)
    block = max((number for number in range(1, limit + 1) if steps % number == 0), default=1)
    rows = jax.tree.map(lambda x: x.reshape(steps // block, block, *x.shape[1:]), rows)
    (state, observation), blocks = lax.scan(lambda carry, rows: lax.scan(one, carry, rows), (state, observation), rows)
    return state, observation, jax.tree.map(lambda x: x.reshape(steps, *x.shape[2:]), blocks)


def _largest(tree: Any) -> int:
    """Bytes of the largest leaf."""
    return max(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Episodes(NamedTuple):
    """Undiscounted returns and lengths (steps) of episodes, [N]; in a running count, of what each of B environments has collected so far, [B]."""

    returns: Float[Array, "N"]
    lengths: Int[Array, "N"]


def evaluate(env: Environment, policy: Policy, key: Key, num_episodes: int) -> Episodes:
    """Whole episodes of a policy, each in an environment of its own from its start to its end.

    Counting the first N episodes that end would favour the short ones; here each of N environments counts once, however long it takes.
    The environment must end every episode under every policy: wrap it in `time_limit` where it might not.

    Args:
      env: the environment of one.
      policy: `(key, observation [N, ...]) -> action [N, ...]`.
      num_episodes: N, >= 1.
    Returns:
      `Episodes` [N].
    Raises:
      ValueError: `num_episodes` < 1.

    >>> from dljax.rl.cartpole import cartpole
    >>> push_right = lambda key, observation: jnp.ones(observation.shape[0], jnp.int32)
    >>> episodes = evaluate(cartpole(), push_right, jax.random.key(0), num_episodes=5)
    >>> episodes.lengths.shape, 8 <= int(episodes.lengths.min()) <= int(episodes.lengths.max()) <= 11
    ((5,), True)
    """
    check_int("evaluate", "num_episodes", num_episodes, minimum=1)
    reset_key, run_key = jax.random.split(key)
    state, observation = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(reset_key, num_episodes), env.params)

    def one(carry: tuple) -> tuple:
        key, state, observation, episodes, is_running = carry
        key, policy_key, env_key = jax.random.split(key, 3)
        action = policy(policy_key, observation)
        after = jax.vmap(env.step, in_axes=(0, 0, 0, None))(jax.random.split(env_key, num_episodes), state, action, env.params)
        episodes = Episodes(episodes.returns + jnp.where(is_running, after.reward, 0), episodes.lengths + is_running)
        return key, after.state, after.observation, episodes, is_running & ~(after.terminated | after.truncated)

    empty = Episodes(jnp.zeros(num_episodes), jnp.zeros(num_episodes, jnp.int32))
    start = (run_key, state, observation, empty, jnp.ones(num_episodes, bool))
    return lax.while_loop(lambda carry: carry[-1].any(), one, start)[3]


def episode_statistics(running: Episodes, reward: Float[Array, "T B"], is_done: Bool[Array, "T B"]) -> tuple[Episodes, dict[str, Mean]]:
    """Return and length of the episodes that ended within T steps, and what the unfinished ones have so far.

    Args:
      running: [B], what each environment had before these steps; `no_episodes(B)` at the start.
      reward, is_done: [T, B], in the order of time.
    Returns:
      `(running, {"return", "length"})`: each a `Mean` over the episodes that ended, of weight 0 where none did: no zero stands for "none yet".

    >>> is_done = jnp.array([[False], [True], [False]])
    >>> running, means = episode_statistics(no_episodes(1), jnp.ones((3, 1)), is_done)
    >>> float(means["return"].value), float(means["return"].weight), running.lengths.tolist()
    (2.0, 1.0, [1])
    """
    steps = jnp.arange(is_done.shape[0])[:, None]
    last_end = jnp.where(is_done, steps, -1).max(0, keepdims=True)
    is_ended = steps <= last_end  # steps of episodes that are over
    has_end = last_end[0] >= 0
    weight = is_done.sum(dtype=running.returns.dtype)

    def count(before: Array, amount: Array) -> tuple[Array, Mean]:
        over = jnp.where(is_ended, amount, 0).sum(0, dtype=before.dtype) + jnp.where(has_end, before, 0)
        going = jnp.where(is_ended, 0, amount).sum(0, dtype=before.dtype) + jnp.where(has_end, 0, before)
        return going, Mean(over.sum().astype(weight.dtype), weight)

    returns, mean_return = count(running.returns, reward)
    lengths, mean_length = count(running.lengths, jnp.ones_like(reward))
    return Episodes(returns, lengths), {"return": mean_return, "length": mean_length}


def no_episodes(num_envs: int) -> Episodes:
    """A running count of nothing, for B environments.

    >>> no_episodes(2).lengths.tolist()
    [0, 0]
    """
    return Episodes(jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32))


def random_policy(env: Environment) -> NoisePolicy:
    """Actions drawn uniformly from the environment's action space.

    >>> from dljax.rl.cartpole import cartpole
    >>> random_policy(cartpole())(jax.random.key(0), jnp.zeros((3, 4))).shape
    (3,)
    """
    return NoisePolicy(env.action_space.sample, lambda action, observation: action)
