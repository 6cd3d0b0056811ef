"""Control (chapter 12): balancing a pole."""

from dljax.core.experiment import AtLeast, Experiment, recipe


@recipe(
    "cartpole/ppo",
    chapter=12,
    rows=("12.3",),
    target=AtLeast("return", 475.0, source="gymnasium's CartPole-v1 counts as solved at a mean return of 475 of 500"),
    minutes=0.3,
    seeds=5,
)
def cartpole_ppo(
    num_envs: int = 16,
    horizon: int = 64,
    epochs: int = 4,
    minibatches: int = 4,
    learning_rate: float = 2.5e-3,
    discount: float = 0.99,
    gae_lambda: float = 0.95,
    clip: float = 0.2,
    entropy_coefficient: float = 0.0,
    width: int = 64,
    frames: int = 500_000,
) -> Experiment:
    """PPO on CartPole-v1, scored by whole episodes of the greedy policy in 100 fresh environments.

    The learning rate falls linearly to zero. 100,000 frames are enough for the target too.
    """
    import jax
    import numpy as np
    import optax

    from dljax.core.checks import check_int, check_range
    from dljax.rl import ActorCritic, PPOConfig, cartpole, draw_cartpole, ppo, rollout

    check_int("cartpole/ppo", "frames", frames, minimum=1)
    check_int("cartpole/ppo", "width", width, minimum=1)
    check_range("cartpole/ppo", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    env = cartpole()
    config = PPOConfig(num_envs, horizon, epochs, minibatches, discount, gae_lambda, clip, entropy_coefficient=entropy_coefficient, eval_episodes=100)
    per_step = num_envs * horizon
    steps = -(-frames // per_step)
    decay = optax.linear_schedule(1.0, 0.0, steps * epochs * minibatches)
    # The rate multiplies the schedule's shape, so that it may be traced.
    optimizer = optax.adam(lambda step: learning_rate * decay(step), eps=1e-5)
    learner = ppo(env, ActorCritic(env.action_space.num, (width, width)), optimizer, config)

    def figures(params, key):
        from dljax import report

        def greedy(key, observation):
            return learner.functions["act"](key, params, observation)

        episode = jax.jit(lambda key: rollout(env, greedy, key, num_envs=1, steps=500))(key)
        ends = np.asarray(episode.terminated | episode.truncated)[:, 0]
        length = int(ends.argmax()) + 1 if ends.any() else len(ends)
        observation = np.asarray(episode.observation)[:length, 0]
        values = np.asarray(learner.functions["value"](key, params, observation))
        seconds = np.arange(length) * float(env.params.time_step)

        def draw(axes):
            axes.plot(seconds, values, color="black", label="value")
            axes.set(xlabel="time (s)", ylabel="value (expected discounted return)")
            other = axes.twinx()
            other.plot(seconds, np.degrees(observation[:, 2]), alpha=0.6, label="angle of the pole (degrees)")
            other.plot(seconds, observation[:, 0] * 10, alpha=0.6, label="position of the cart (dm)")
            other.set(ylabel="degrees, decimetres")
            lines = [*axes.get_lines(), *other.get_lines()]
            axes.legend(lines, [line.get_label() for line in lines], fontsize=8)

        return {
            "episode": report.animation(draw_cartpole(observation[::2], env.params), f"An episode of the greedy policy, {length} steps long", fps=25),
            "values": report.plot(draw, "The value along that episode, with what it is a function of"),
        }

    return Experiment(
        learner,
        steps=steps,
        evaluation=(),
        figures=figures,
        per_step=per_step,
        unit="frames",
        exports=lambda key: {name: (np.zeros((1, 4), np.float32),) for name in ("act", "value")},
    )
