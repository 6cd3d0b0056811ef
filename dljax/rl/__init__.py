"""Reinforcement learning: environments, rollouts, returns and learners."""

from dljax.rl.cartpole import CartPoleParams, CartPoleState, cartpole, draw_cartpole
from dljax.rl.environment import AutoResetState, Environment, TimeLimitState, Transition, auto_reset, time_limit
from dljax.rl.networks import ActorCritic
from dljax.rl.ppo import PPOConfig, PPOState, ppo
from dljax.rl.returns import discounted_returns, gae, lambda_returns
from dljax.rl.rollout import Episodes, NoisePolicy, Trajectory, collect, episode_statistics, evaluate, no_episodes, random_policy, rollout
from dljax.rl.spaces import Box, Discrete, Space

__all__ = [
    "ActorCritic", "AutoResetState", "Box", "CartPoleParams", "CartPoleState", "Discrete", "Environment", "Episodes", "NoisePolicy", "PPOConfig",
    "PPOState", "Space", "TimeLimitState", "Trajectory", "Transition", "auto_reset", "cartpole", "collect", "discounted_returns", "draw_cartpole",
    "episode_statistics", "evaluate", "gae", "lambda_returns", "no_episodes", "ppo", "random_policy", "rollout", "time_limit",
]  # fmt: skip
