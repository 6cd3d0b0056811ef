"""Control: balancing a pole, by evolution (chapter 3) and by policy gradients (chapter 12)."""

from typing import Any

from dljax.core.experiment import AtLeast, Experiment, recipe

SOLVED = AtLeast("return", 475.0, source="gymnasium's CartPole-v1 counts as solved at a mean return of 475 of 500")


@recipe("cartpole/openai-es", chapter=3, rows=("3.4",), target=SOLVED, minutes=0.2, seeds=5)
def cartpole_openai_es(
    population_size: int = 256, generations: int = 80, episodes: int = 1, step_size: float = 0.1, learning_rate: float = 0.05, width: int = 16
) -> Experiment:
    """OpenAI's evolution strategy on CartPole-v1: mirrored noise on a policy's weights, ranks of returns, Adam; scored in 100 fresh environments.

    A population of 4,096 reaches the target in 20 generations.
    """
    import optax

    from dljax.core.checks import check_range
    from dljax.optim import openai_es

    check_range("cartpole/openai-es", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    strategy = openai_es(population_size, optax.adam(learning_rate), step_size=step_size)
    return _evolved("cartpole/openai-es", strategy, population_size, generations, episodes, width)


@recipe("cartpole/genetic", chapter=3, rows=("3.4",), target=SOLVED, minutes=0.2, seeds=5)
def cartpole_genetic(population_size: int = 128, generations: int = 40, episodes: int = 4, step_size: float = 0.3, width: int = 16) -> Experiment:
    """A genetic algorithm on the weights of a policy for CartPole-v1, scored in 100 fresh environments."""
    from dljax.optim import genetic_algorithm

    strategy = genetic_algorithm(population_size, step_size=step_size)
    return _evolved("cartpole/genetic", strategy, population_size, generations, episodes, width)


def _evolved(who: str, strategy: Any, population_size: int, generations: int, episodes: int, width: int) -> Experiment:
    """A strategy that finds the weights of a policy; all candidates of a generation balance from the same starts."""
    import jax.numpy as jnp
    import numpy as np

    from dljax.core import Fold
    from dljax.core.checks import check_int
    from dljax.models import MLP
    from dljax.optim import evolve
    from dljax.rl import cartpole, evaluate

    check_int(who, "generations", generations, minimum=1)
    check_int(who, "episodes", episodes, minimum=1)
    check_int(who, "width", width, minimum=1)
    env, network = cartpole(), MLP(2, (width,))

    def act(key, params, observation):
        logits: Any = network.apply(params, observation)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def played(key, params, num_episodes):
        return evaluate(env, lambda key, observation: act(key, params, observation), key, num_episodes)

    learner = evolve(
        strategy,
        lambda key, params: -played(key, params, episodes).returns.mean(),
        lambda key, batch: network.init(key, jnp.zeros((1, 4))),
        shares_key=True,
    )

    def measured(key, state, batch):
        found = played(key, state.params, 100)
        return {"return": found.returns.mean(), "length": found.lengths.mean()}

    def figures(params, key):
        return {"episode": _film(env, _greedy_episode(env, act, params, key))}

    return Experiment(
        learner._replace(evaluate=Fold(lambda key, state: key, measured, lambda acc: acc), functions={"act": act}),
        steps=generations,
        evaluation=(),
        figures=figures,
        per_step=population_size * episodes,
        unit="episodes",
        exports=lambda key: {"act": (np.zeros((1, 4), np.float32),)},
    )


@recipe(
    "cartpole/ppo",
    chapter=12,
    rows=("12.3",),
    target=SOLVED,
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
    import numpy as np
    import optax

    from dljax.core.checks import check_int, check_range
    from dljax.rl import ActorCritic, PPOConfig, cartpole, ppo

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

        observation = _greedy_episode(env, learner.functions["act"], params, key)
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
            "episode": _film(env, observation),
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


def _greedy_episode(env: Any, act: Any, params: Any, key: Any) -> Any:
    """What a policy sees in one episode, [T, 4]."""
    import jax
    import numpy as np

    from dljax.rl import rollout

    episode = jax.jit(lambda key: rollout(env, lambda key, observation: act(key, params, observation), key, num_envs=1, steps=500))(key)
    ends = np.asarray(episode.terminated | episode.truncated)[:, 0]
    return np.asarray(episode.observation)[: int(ends.argmax()) + 1 if ends.any() else len(ends), 0]


def _film(env: Any, observation: Any) -> Any:
    from dljax import report
    from dljax.rl import draw_cartpole

    pictures = draw_cartpole(observation[::2], env.params)
    return report.animation(pictures, f"An episode of the greedy policy, {len(observation)} steps long", fps=25)
