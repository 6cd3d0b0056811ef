"""Proximal policy optimisation with a clipped objective (Schulman et al., 2017)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core import Fold, Key, Learner, Mean, Metrics, Numeric, Params, check_int, check_range, local_key, pmean
from dljax.core.precision import wrap
from dljax.rl.environment import AutoResetState, Environment, Observation, auto_reset
from dljax.rl.returns import gae
from dljax.rl.rollout import Episodes, collect, episode_statistics, evaluate, no_episodes
from dljax.rl.spaces import Discrete


class PPOState(NamedTuple):
    """All that the next step of PPO needs.

    Attributes:
      params: of the network.
      opt_state: of the optimizer.
      env: B environments, each where it stands.
      observation: [B, ...], what they show.
      episodes: [B], return and length so far of the episodes that are not over.
    """

    params: Params
    opt_state: optax.OptState
    env: AutoResetState
    observation: Observation
    episodes: Episodes


@dataclass(frozen=True)
class PPOConfig:
    """Options of PPO. Numbers marked (traced) may be tracers, so that a sweep over them is one program.

    Attributes:
      num_envs: B, environments stepped at once, on each device where a data axis is bound; >= 1.
      horizon: T, steps of each environment per update, >= 1; an episode cut by it goes on in the next update.
      epochs: passes over the B T steps, >= 1.
      minibatches: parts of a pass, >= 1; must divide B T.
      discount: γ in [0, 1] (traced).
      gae_lambda: λ in [0, 1] (traced).
      clip: ε > 0, how far the ratio of probabilities may pay off (traced).
      value_clip: how far a value may move from the one that the steps were made with, > 0 (traced); None does not clip.
      value_coefficient, entropy_coefficient: weights of the value's loss and of the entropy's bonus, >= 0 (traced).
      max_grad_norm: gradients are scaled down to this global norm, > 0 (traced); None leaves them.
      normalize_advantages: to mean 0 and deviation 1 within each minibatch.
      eval_episodes: episodes of an evaluation, >= 1.

    >>> PPOConfig(num_envs=16).horizon
    128
    """

    num_envs: int = 8
    horizon: int = 128
    epochs: int = 4
    minibatches: int = 4
    discount: Numeric = 0.99
    gae_lambda: Numeric = 0.95
    clip: Numeric = 0.2
    value_clip: Numeric | None = None
    value_coefficient: Numeric = 0.5
    entropy_coefficient: Numeric = 0.0
    max_grad_norm: Numeric | None = 0.5
    normalize_advantages: bool = True
    eval_episodes: int = 32

    def __post_init__(self) -> None:
        for name in ("num_envs", "horizon", "epochs", "minibatches", "eval_episodes"):
            check_int("ppo", name, getattr(self, name), minimum=1)
        check_range("ppo", "discount", self.discount, 0, 1)
        check_range("ppo", "gae_lambda", self.gae_lambda, 0, 1)
        check_range("ppo", "value_coefficient", self.value_coefficient, 0)
        check_range("ppo", "entropy_coefficient", self.entropy_coefficient, 0)
        for name in ("clip", "value_clip", "max_grad_norm"):
            if getattr(self, name) is not None:
                check_range("ppo", name, getattr(self, name), 0, open_low=True)
        size = self.num_envs * self.horizon
        if size % self.minibatches:
            raise ValueError(
                f"ppo: minibatches must divide num_envs x horizon = {size}, got {self.minibatches}; use {_divisor(size, self.minibatches)}"
            )


class _Batch(NamedTuple):
    """What an update learns from, [N, ...] with N = B T."""

    observation: Observation
    action: Int[Array, "N"]
    log_prob: Float[Array, "N"]  # of the action, under the policy that took it
    value: Float[Array, "N"]  # as that policy's network estimated it
    advantage: Float[Array, "N"]


def ppo(env: Environment, network: Any, optimizer: optax.GradientTransformation, config: PPOConfig = PPOConfig()) -> Learner:
    """PPO for discrete actions: a rollout, then a few epochs of clipped updates on it.

      L = -E[ min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) ] + c_v E[ (V(s) - G)² ] / 2 - c_e E[ H(π(·|s)) ],   ρ = π(a|s) / π_old(a|s)

    Advantages A are `gae` and G = A + V_old(s). Where an episode is truncated, it is worth the value of its last observation.

    Under a bound data axis each device rolls out `num_envs` environments of its own and gradients are averaged over the devices.

    Args:
      env: the environment of one, with a discrete action space.
      network: a flax module, or an `(init, apply)` pair, with `apply(params, observation [B, ...]) -> (logits [B, A], value [B])`.
      optimizer: of all parameters; it makes `epochs * minibatches` updates per step.
    Returns:
      A learner whose batches are `()` and whose step consumes `num_envs * horizon` steps of the environment. Metrics: `loss`, `policy_loss`,
      `value_loss`, `entropy` (nats), `approx_kl` (nats, E[ρ - 1 - ln ρ]), `clip_fraction`, all means over the updates; `explained_variance` of the
      returns G by V_old, of weight 0 where G does not vary; `return` (undiscounted) and `length` (steps), `Mean` over the episodes that ended.
      `evaluate` runs fresh environments with the greedy policy for `eval_episodes` whole episodes: `return` and `length`.
      Functions: `act(key, params, observation [B, ...])`, the most probable actions [B]; `sample`, actions drawn from the policy;
      `value`, [B].
    Raises:
      ValueError: the action space is not discrete, the network's outputs do not fit it, or an option of `config` is out of range.
    Source: Schulman et al. (2017), "Proximal policy optimization algorithms", eq. 7, 9 and 11; Huang et al. (2022), "The 37 implementation
      details of proximal policy optimization".

    >>> from dljax.rl import ActorCritic, cartpole
    >>> learner = ppo(cartpole(), ActorCritic(2), optax.adam(3e-4), PPOConfig(num_envs=4, horizon=16))
    >>> state = learner.init(jax.random.key(0), ())
    >>> state, metrics = jax.jit(learner.step)(jax.random.key(1), state, ())
    >>> bool(metrics["entropy"] > 0.69), float(metrics["return"].weight) >= 0
    (True, True)
    """
    init_network, apply = network if isinstance(network, tuple) else (network.init, network.apply)
    _check_spaces(env, init_network, apply)
    forward = wrap(apply)
    envs = auto_reset(env, config.num_envs)
    size = config.num_envs * config.horizon
    assert isinstance(env.action_space, Discrete)
    num_actions = env.action_space.num

    def init(key: Key, batch: tuple = ()) -> PPOState:
        network_key, env_key = jax.random.split(key)
        env_state, observation = envs.reset(env_key, envs.params)
        params = init_network(network_key, observation)
        return PPOState(params, optimizer.init(params), env_state, observation, no_episodes(config.num_envs))

    def step(key: Key, state: PPOState, batch: tuple = ()) -> tuple[PPOState, Metrics]:
        noise_key, env_key, shuffle_key = jax.random.split(local_key(key), 3)
        # All noise in one call: argmax(logits + Gumbel) is a draw from softmax(logits).
        noise = jax.random.gumbel(noise_key, (config.horizon, config.num_envs, num_actions))

        def policy(noise: Array, observation: Observation) -> tuple[Int[Array, "B"], Float[Array, "B A"]]:
            logits, _ = forward(state.params, observation)
            return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32), logits

        env_state, observation, trajectory = collect(envs, policy, noise, env_key, state.env, state.observation)
        is_done = trajectory.terminated | trajectory.truncated
        episodes, metrics = episode_statistics(state.episodes, trajectory.reward, is_done)
        data, variance = _learning_data(forward, config, state.params, trajectory)
        params, opt_state, losses = _updates(forward, optimizer, config, shuffle_key, state.params, state.opt_state, data, size)
        return PPOState(params, opt_state, env_state, observation, episodes), {**losses, "explained_variance": variance, **metrics}

    def act(key: Key, params: Params, observation: Observation) -> Int[Array, "B"]:
        return jnp.argmax(forward(params, observation)[0], axis=-1).astype(jnp.int32)

    def sample(key: Key, params: Params, observation: Observation) -> Int[Array, "B"]:
        return jax.random.categorical(key, forward(params, observation)[0]).astype(jnp.int32)

    def value(key: Key, params: Params, observation: Observation) -> Float[Array, "B"]:
        return forward(params, observation)[1]

    def evaluate_step(acc: tuple, state: PPOState, batch: tuple) -> tuple:
        key, episodes_key = jax.random.split(acc[0])
        episodes = evaluate(env, lambda key, observation: act(key, state.params, observation), episodes_key, config.eval_episodes)
        totals = [mean.total + x.sum() for mean, x in zip(acc[1:], episodes, strict=True)]
        return key, *(Mean(total, mean.weight + config.eval_episodes) for total, mean in zip(totals, acc[1:], strict=True))

    fold = Fold(
        init=lambda key, state: (key, Mean(jnp.zeros(()), jnp.zeros(())), Mean(jnp.zeros(()), jnp.zeros(()))),
        step=evaluate_step,
        finish=lambda acc: {"return": acc[1], "length": acc[2]},
    )
    return Learner(init, step, evaluate=fold, functions={"act": act, "sample": sample, "value": value})


def _learning_data(forward: Any, config: PPOConfig, params: Params, trajectory: Any) -> tuple[_Batch, Mean]:
    """Log-probabilities, values and advantages of a rollout; the values in one pass of the network instead of one a step."""
    shape = trajectory.reward.shape
    merge = lambda x: x.reshape((-1, *x.shape[2:]))  # noqa: E731
    observation, action, logits = jax.tree.map(merge, (trajectory.observation, trajectory.action, trajectory.extras))
    value = forward(params, observation)[1]
    last = forward(params, jax.tree.map(lambda x: x[-1], trajectory.final_observation))[1]
    values = value.reshape(shape)
    following = jnp.concatenate([values[1:], last[None]])
    # Only a truncated episode needs the value of an observation that was never acted on.
    next_values = lax.cond(
        trajectory.truncated[:-1].any(),
        lambda: jnp.where(trajectory.truncated, forward(params, jax.tree.map(merge, trajectory.final_observation))[1].reshape(shape), following),
        lambda: following,
    )
    columns = jax.vmap(gae, in_axes=(1, 1, 1, 1, 1, None, None), out_axes=1)
    advantages = columns(trajectory.reward, values, next_values, trajectory.terminated, trajectory.truncated, config.discount, config.gae_lambda)
    total = jnp.var(advantages + values)
    explained = 1 - jnp.var(advantages) / jnp.where(total > 0, total, 1)
    weight = (total > 0).astype(explained.dtype)
    log_prob = _log_prob(jax.nn.log_softmax(logits), action)
    return _Batch(observation, action, log_prob, value, merge(advantages)), Mean(weight * explained, weight)


def _updates(
    forward: Any, optimizer: optax.GradientTransformation, config: PPOConfig, key: Key, params: Params, opt_state: Any, data: _Batch, size: int
) -> tuple[Params, Any, Metrics]:
    """Epochs of minibatch updates; returns parameters, optimizer state and the means of the metrics."""

    def loss(params: Params, batch: _Batch) -> tuple[Array, Metrics]:
        logits, value = forward(params, batch.observation)
        log_probs = jax.nn.log_softmax(logits)
        log_ratio = _log_prob(log_probs, batch.action) - batch.log_prob
        ratio = jnp.exp(log_ratio)
        advantage = batch.advantage
        if config.normalize_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy_loss = -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - config.clip, 1 + config.clip) * advantage).mean()
        target = batch.value + batch.advantage
        errors = jnp.square(value - target)
        if config.value_clip is not None:
            near = batch.value + jnp.clip(value - batch.value, -config.value_clip, config.value_clip)
            errors = jnp.maximum(errors, jnp.square(near - target))
        value_loss = 0.5 * errors.mean()
        entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
        total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
        return total, {
            "loss": total,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": (ratio - 1 - log_ratio).mean(),
            "clip_fraction": (jnp.abs(ratio - 1) > config.clip).mean(dtype=ratio.dtype),
        }

    def update(carry: tuple, rows: Int[Array, "M"]) -> tuple[tuple, Metrics]:
        params, opt_state = carry
        batch = jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), data)
        grads, metrics = jax.grad(loss, has_aux=True)(params, batch)
        grads = pmean(grads)
        if config.max_grad_norm is not None:
            norm = optax.tree.norm(grads)
            scale = config.max_grad_norm / jnp.maximum(norm, config.max_grad_norm)
            grads = jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)
        changes, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, changes), opt_state), metrics

    orders = _orders(key, config.epochs, size).reshape(config.epochs * config.minibatches, -1)
    (params, opt_state), metrics = lax.scan(update, (params, opt_state), orders)
    return params, opt_state, jax.tree.map(jnp.mean, metrics)


def _orders(key: Key, epochs: int, size: int) -> Int[Array, "E N"]:
    """A random order of 0 ... size - 1 for each epoch."""
    if size > 1 << 16:
        return jax.vmap(lambda key: jax.random.permutation(key, size))(jax.random.split(key, epochs))
    # A random number with the index in its low bits: sorting one word is five times faster than sorting pairs, which costs as much as an epoch.
    low = jnp.uint32((1 << (size - 1).bit_length()) - 1)
    words = jax.random.bits(key, (epochs, size), jnp.uint32) & ~low | jnp.arange(size, dtype=jnp.uint32)[None]
    return (jnp.sort(words, axis=-1) & low).astype(jnp.int32)


def _log_prob(log_probs: Float[Array, "N A"], action: Int[Array, "N"]) -> Float[Array, "N"]:
    # A sum with a one-hot row is fused with what surrounds it; a gather, and the scatter of its gradient, are loops of their own.
    return jnp.sum(jnp.where(jax.nn.one_hot(action, log_probs.shape[-1], dtype=bool), log_probs, 0), axis=-1)


def _check_spaces(env: Environment, init_network: Any, apply: Any) -> None:
    if not isinstance(env.action_space, Discrete):
        raise ValueError(f"ppo: env must have a Discrete action space, got {env.action_space} from {env.name!r}")
    _, observation = jax.eval_shape(lambda key: auto_reset(env, 3).reset(key, env.params), jax.random.key(0))
    params = jax.eval_shape(init_network, jax.random.key(0), observation)
    outputs = jax.eval_shape(apply, params, observation)
    shapes = [leaf.shape for leaf in jax.tree.leaves(outputs)]
    wanted = [(3, env.action_space.num), (3,)]
    if shapes != wanted:
        raise ValueError(
            f"ppo: network must return (logits, value) of shapes {wanted} for 3 observations of {env.name!r}, got {shapes}; "
            f"its last layer must have one output for each of the {env.action_space.num} actions and one for the value"
        )


def _divisor(size: int, near: int) -> int:
    """The divisor of `size` nearest to a number."""
    return min((number for number in range(1, size + 1) if size % number == 0), key=lambda number: abs(number - near))
