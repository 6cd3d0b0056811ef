"""Control (chapter 12): balancing a pole."""

from dljax.core.experiment import AtLeast, Experiment, recipe


@recipe(
    "cartpole/ppo",
    chapter=12,
    rows=("12.3",),
    target=AtLeast("return", 475.0, source="gymnasium's CartPole-v1 counts as solved at a mean return of 475 of 500"),
    minutes=0.3,
    seeds=5,
    cores=1,
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
    learner = ppo(env, ActorCritic(2, (width, width)), optimizer, config)

    def figures(params, key):
        from dljax import report

        def greedy(key, observation):
            return learner.functions["act"](key, params, observation)

        episode = jax.jit(lambda key: rollout(env, greedy, key, num_envs=1, steps=500))(key)
        ends = np.asarray(episode.terminated | episode.truncated)[:, 0]
        length = int(ends.argmax()) + 1 if ends.any() else len(ends)
        observation = np.asarray(episode.observation)[:length, 0]
        angle, speed = np.meshgrid(np.linspace(-12, 12, 49), np.linspace(-120, 120, 49))
        upright = np.zeros((angle.size, 4), np.float32)
        upright[:, 2], upright[:, 3] = np.radians(angle).ravel(), np.radians(speed).ravel()
        values = np.asarray(learner.functions["value"](key, params, upright)).reshape(angle.shape)

        def draw(axes):
            picture = axes.contourf(angle, speed, values, levels=20, cmap="viridis")
            axes.figure.colorbar(picture, ax=axes, label="value: expected discounted return")
            axes.plot(np.degrees(observation[:, 2]), np.degrees(observation[:, 3]), color="white", linewidth=0.7)
            axes.set(xlabel="angle of the pole (degrees)", ylabel="angular speed (degrees/s)")

        return {
            "episode": report.animation(draw_cartpole(observation[::2], env.params), f"An episode of the greedy policy, {length} steps long", fps=25),
            "values": report.plot(
                draw,
                f"The value of the pole's angle and speed, the cart at rest in the middle; never to fall is worth {1 / (1 - discount):.0f}. "
                "White: where that episode went",
            ),
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
