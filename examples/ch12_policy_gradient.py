"""Chapter 12: an agent that learns to balance a pole, thousands of rollouts of the result, and an animation.

PPO on CartPole, 100,000 steps of the environment; about 455 of 500 after ten seconds of training on two cores.
"""

# %% The recipe gives the experiment; any of its options can be changed.
import os

import jax

import dljax
from dljax import engine, recipes

STEPS = int(os.environ.get("STEPS", "100_000"))
experiment = recipes.get("cartpole/ppo").build(frames=STEPS)
print(f"{experiment.steps} updates of {experiment.per_step} frames")

# %% Train: one compiled program, no Python per step.
run = engine.train(experiment, jax.random.key(0))
print(f"{run.result['units_per_second']:,.0f} frames a second; return while learning {run.history['return'][-1]:.0f}")

# %% The greedy policy on fresh environments.
print(f"return of the greedy policy: {run.evaluations['return'][-1]:.1f} of 500")

# %% A thousand environments at once under the learned policy.
env = dljax.rl.cartpole()
trajectory = jax.jit(lambda key: dljax.rl.rollout(env, run.functions["act"], key, num_envs=1000, steps=200))(jax.random.key(1))
print(f"{trajectory.reward.size:,} steps, {int(trajectory.terminated.sum())} falls")

# %% A figure.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    axes.plot(run.history["step"] * experiment.per_step, run.history["return"], label="while learning")
    axes.plot(run.evaluations["step"] * experiment.per_step, run.evaluations["return"], "o", label="greedy, fresh environments")
    axes.set(xlabel="frames", ylabel="return")
    axes.legend()
    figure.savefig("ch12_policy_gradient.png", dpi=150)
