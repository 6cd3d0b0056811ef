"""Environments: one protocol of pure functions, and wrappers that make an environment out of an environment."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from dljax.core import Key, Numeric, check_int, check_range
from dljax.rl.spaces import Space

type_aliases = ("EnvState", "EnvParams", "Observation", "Action")

EnvState = Any  # a pytree of arrays
EnvParams = Any  # a pytree of numbers, which may be traced
Observation = Any  # an array or a pytree of arrays
Action = Any  # an array


class Transition(NamedTuple):
    """What one step of an environment leads to.

    `terminated` says that nothing comes after: the value of what follows is zero. `truncated` says that the episode was cut: what would
    have followed has a value, the one of `final_observation`. Both may hold at once; then the episode is over, as if terminated only.

    Attributes:
      state: of the environment, to step on from.
      observation: what the next action is chosen from.
      reward: [].
      terminated, truncated: [] bool.
      final_observation: what this action led to. Where a wrapper has begun a new episode, `observation` belongs to that one and this is the
        last one of the old episode; elsewhere they are equal. None in an environment that does not begin episodes by itself.

    >>> Transition(state=(), observation=jnp.zeros(4), reward=1.0, terminated=False, truncated=True).final_observation is None
    True
    """

    state: EnvState
    observation: Observation
    reward: Float[Array, "*B"]
    terminated: Bool[Array, "*B"]
    truncated: Bool[Array, "*B"]
    final_observation: Observation = None


class Environment(NamedTuple):
    """A decision process as a pair of pure functions.

    Attributes:
      reset: `(key, params) -> (state, observation)`, the start of an episode.
      step: `(key, state, action, params) -> Transition`. After the end of an episode it is undefined, unless a wrapper begins the next.
      observation_space, action_space: of one environment, without the batch that a wrapper adds.
      params: constants of the dynamics, a pytree that is handed to `reset` and `step` and may be traced, so that a population can differ in them.
      name: for messages.

    >>> walk = Environment(reset=lambda key, params: (jnp.int32(0), jnp.int32(0)),
    ...                    step=lambda key, state, action, params: Transition(state + action, state + action, 1.0, state + action > params, False),
    ...                    observation_space=None, action_space=None, params=3, name="walk")
    >>> walk.step(jax.random.key(0), 3, 1, walk.params).terminated
    True
    """

    reset: Callable[[Key, EnvParams], tuple[EnvState, Observation]]
    step: Callable[[Key, EnvState, Action, EnvParams], Transition]
    observation_space: Space
    action_space: Space
    params: EnvParams = ()
    name: str = "environment"


class TimeLimitState(NamedTuple):
    """The state of an environment and how many steps the episode has taken, [] int32."""

    env: EnvState
    time: Int[Array, "*B"]


def time_limit(env: Environment, max_steps: Numeric) -> Environment:
    """The same environment, with episodes truncated after a number of steps.

    Args:
      env: an environment that does not begin episodes by itself: wrap it before `auto_reset`.
      max_steps: steps of an episode, >= 1; may be traced.
    Returns:
      An environment whose state is a `TimeLimitState`. An episode that terminates in its last step is both terminated and truncated.
    Raises:
      ValueError: `max_steps` < 1.

    >>> from dljax.rl.cartpole import cartpole
    >>> env = time_limit(cartpole(max_steps=None), 1)
    >>> state, _ = env.reset(jax.random.key(0), env.params)
    >>> bool(env.step(jax.random.key(1), state, 0, env.params).truncated)
    True
    """
    check_range("time_limit", "max_steps", max_steps, 1)

    def reset(key: Key, params: EnvParams) -> tuple[TimeLimitState, Observation]:
        state, observation = env.reset(key, params)
        return TimeLimitState(state, jnp.int32(0)), observation

    def step(key: Key, state: TimeLimitState, action: Action, params: EnvParams) -> Transition:
        transition = env.step(key, state.env, action, params)
        time = state.time + 1
        return transition._replace(state=TimeLimitState(transition.state, time), truncated=transition.truncated | (time >= max_steps))

    return env._replace(reset=reset, step=step)


class AutoResetState(NamedTuple):
    """The state of B environments that begin their next episode by themselves.

    Attributes:
      env: [B, ...], the states of the environments.
      spare: `(state, observation)` [B, ...], the starts of the next episodes, drawn ahead.
      is_used: [B], whether an environment has taken its spare since they were drawn.
    """

    env: EnvState
    spare: tuple[EnvState, Observation]
    is_used: Bool[Array, "B"]


def auto_reset(env: Environment, num_envs: int) -> Environment:
    """B copies of an environment stepped as one, each beginning a new episode where one has ended.

    Starts are drawn ahead, one for each environment, and drawn again (all at once) only when an environment needs its second. Each start is
    used at most once, so episodes are as independent as with a reset drawn at each end; but drawing, which costs as much as the dynamics of
    a small environment, happens once per episode instead of once per step.

    Args:
      env: the environment of one.
      num_envs: B, >= 1.
    Returns:
      An environment whose `reset(key, params)` gives states and observations [B, ...] and whose `step` takes actions [B, ...] and gives a
      `Transition` [B, ...]: `observation` is what to act on next, `final_observation` what the action led to.
    Raises:
      ValueError: `num_envs` < 1.

    >>> from dljax.rl.cartpole import cartpole
    >>> envs = auto_reset(cartpole(max_steps=1), num_envs=3)
    >>> state, observation = envs.reset(jax.random.key(0), envs.params)
    >>> transition = envs.step(jax.random.key(1), state, jnp.zeros(3, jnp.int32), envs.params)
    >>> observation.shape, transition.truncated.tolist(), bool((transition.observation != transition.final_observation).all())
    ((3, 4), [True, True, True], True)
    """
    check_int("auto_reset", "num_envs", num_envs, minimum=1)

    def draw(key: Key, params: EnvParams) -> tuple[EnvState, Observation]:
        return jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(key, num_envs), params)

    def reset(key: Key, params: EnvParams) -> tuple[AutoResetState, Observation]:
        first_key, spare_key = jax.random.split(key)
        state, observation = draw(first_key, params)
        return AutoResetState(state, draw(spare_key, params), jnp.zeros(num_envs, bool)), observation

    def step(key: Key, state: AutoResetState, action: Action, params: EnvParams) -> Transition:
        keys = jax.random.split(jax.random.fold_in(key, 0), num_envs)
        transition = jax.vmap(env.step, in_axes=(0, 0, 0, None))(keys, state.env, action, params)
        is_done = transition.terminated | transition.truncated
        spare, is_used = lax.cond(
            (is_done & state.is_used).any(),
            lambda: (draw(jax.random.fold_in(key, 1), params), jnp.zeros(num_envs, bool)),
            lambda: (state.spare, state.is_used),
        )
        env_state, observation = jax.tree.map(
            lambda new, old: jnp.where(is_done.reshape(is_done.shape + (1,) * (old.ndim - 1)), new, old),
            spare,
            (transition.state, transition.observation),
        )
        return transition._replace(
            state=AutoResetState(env_state, spare, is_used | is_done),
            observation=observation,
            final_observation=transition.observation,
        )

    return env._replace(reset=reset, step=step)
