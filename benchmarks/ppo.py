"""PPO on CartPole beside Stable-Baselines3 and rejax: environment steps a second, and how long from the shell to a trained agent.

A chunk is a whole training from fresh weights, each with a seed of its own. In place of its loss stands the mean return of the greedy policy in a
hundred episodes of gymnasium's CartPole-v1, the same judge for everybody, off the clock. After half a million steps the returns must agree; after
fewer a seed in five is still anywhere below 500, whoever trains. Two networks of two layers of 64, tanh, Adam. "100k" and "500k" have the options of
the recipe cartpole/ppo: 16 environments, 64 steps a rollout, 4 epochs of 4 minibatches of 256, a rate that falls linearly from 2.5e-3 to zero.
"Baselines' defaults" has what Stable-Baselines3 does where nothing is said: one environment, 2,048 steps a rollout, 10 epochs of minibatches of 64,
a rate of 3e-4.

Everybody computes on one thread, where each is fastest; ours is `NPROC=1 dljax train cartpole/ppo --cores 1`. rejax clips each number of a gradient
where the others clip its norm, clips the value's steps too, takes a truncation for a termination, and was written for an older gymnax, whose shorter
tuples are handed to it.
"""

import math

from _harness import Contestant, Task, Work, main

WIDTHS = (64, 64)


def trainings(work: Work, train):
    """`run(steps)` of `train(seed) -> act`, a whole training, with `act` from observations [B, 4] to actions [B]."""
    done = 0

    def run(steps):
        nonlocal done
        trained = []
        for _ in range(steps // work.chunk):
            trained.append(train(done))
            done += 1
        return lambda: [greedy_return(act) for act in trained]

    return run


def greedy_return(act, num_episodes=100):
    """The mean return of whole episodes."""
    import gymnasium
    import numpy as np

    env = gymnasium.make_vec("CartPole-v1", num_episodes, vectorization_mode="vector_entry_point")
    observation, _ = env.reset(seed=0)
    total, is_running = 0.0, np.ones(num_episodes, bool)
    while is_running.any():
        observation, reward, terminated, truncated, _ = env.step(np.asarray(act(observation)))
        total += float(reward[is_running].sum())
        is_running &= ~(terminated | truncated)
    return total / num_episodes


def learning_rate(work: Work):
    """For optax: what it is at each update."""
    import optax

    rate, updates = work.options["learning_rate"], work.chunk * work.options["epochs"] * work.options["minibatches"]
    return optax.linear_schedule(rate, 0.0, updates) if work.options["is_annealed"] else optax.constant_schedule(rate)


def ours(work: Work):
    """The engine's program."""
    import jax
    import optax

    from dljax.cli.launch import Launch
    from dljax.core import EMPTY, start
    from dljax.core.contract import run_key
    from dljax.engine.program import Loop, Program
    from dljax.rl import ActorCritic, PPOConfig, cartpole, ppo

    Launch(cores=1).start()
    config = PPOConfig(**{name: work.options[name] for name in ("num_envs", "horizon", "epochs", "minibatches")})
    learner = ppo(cartpole(), ActorCritic(2, WIDTHS), optax.adam(learning_rate(work), eps=1e-5), config)
    program = Program(learner, EMPTY, every=work.chunk)
    begin, act = jax.jit(lambda key: start(learner, EMPTY, key)[1:]), jax.jit(learner.functions["act"])

    def train(seed):
        key = jax.random.key(seed)
        loop, _, _ = program.chunk(run_key(key), 0, work.chunk, Loop(*begin(key)))
        params = learner.params(loop.state)
        return lambda observation: act(key, params, observation)

    return trainings(work, train)


def baselines(work: Work):
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    options, rate = work.options, work.options["learning_rate"]
    per_step = options["num_envs"] * options["horizon"]

    def train(seed):
        envs = make_vec_env("CartPole-v1", options["num_envs"], seed=seed)
        annealed = (lambda left: rate * left) if options["is_annealed"] else rate
        size = per_step // options["minibatches"]
        model = PPO("MlpPolicy", envs, annealed, options["horizon"], size, options["epochs"], device="cpu", seed=seed)
        model.learn(work.chunk * per_step)
        return lambda observation: model.predict(observation, deterministic=True)[0]

    return trainings(work, train)


def rejax(work: Work):
    import gymnax
    import jax
    from rejax import PPO

    env, params = gymnax.make("CartPole-v1")

    class Older:
        """gymnax's CartPole with the five results of older versions."""

        def __getattr__(self, name):
            return getattr(env, name)

        def step(self, key, state, action, params):
            observation, state, reward, terminated, truncated, info = env.step(key, state, action, params)
            return observation, state, reward, terminated | truncated, info

    options = work.options
    frames = work.chunk * options["num_envs"] * options["horizon"]
    algorithm = PPO.create(
        env=Older(), env_params=params, num_envs=options["num_envs"], num_steps=options["horizon"], num_epochs=options["epochs"],
        num_minibatches=options["minibatches"], learning_rate=learning_rate(work), max_grad_norm=0.5, ent_coef=0.0,
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": WIDTHS}, total_timesteps=frames, eval_freq=frames, skip_initial_evaluation=True,
    ).replace(eval_callback=lambda *_: ())  # fmt: skip
    whole = jax.jit(lambda key: algorithm.train(key)[0].actor_ts.params)
    act = jax.jit(lambda params, observation: algorithm.actor.apply(params, observation, method="_action_dist").logits.argmax(-1))

    def train(seed):
        params = jax.block_until_ready(whole(jax.random.key(seed)))
        return lambda observation: act(params, observation)

    return trainings(work, train)


def one_thread(folder):
    return {"NPROC": "1"}


def task(name: str, frames: int, *, tolerance: float = math.inf, first: bool = False, is_quick: bool = True, **options) -> Task:
    contestants = {
        "dljax": Contestant(ours, one_thread, first=first),
        "Stable-Baselines3": Contestant(baselines, quick=is_quick, first=first),
        "rejax": Contestant(rejax, one_thread, first=first),
    }
    per_step = options["num_envs"] * options["horizon"]
    return Task(name, "steps/s", contestants, chunk=-(-frames // per_step), per_step=per_step, tolerance=tolerance, options=options)


RECIPE = {"num_envs": 16, "horizon": 64, "epochs": 4, "minibatches": 4, "learning_rate": 2.5e-3, "is_annealed": True}
DEFAULTS = {"num_envs": 1, "horizon": 2048, "epochs": 10, "minibatches": 32, "learning_rate": 3e-4, "is_annealed": False}
TASKS = [
    task("100k", 100_000, **RECIPE),
    task("500k", 500_000, tolerance=0.05, first=True, is_quick=False, **RECIPE),
    task("Baselines' defaults", 50_000, is_quick=False, **DEFAULTS),
]

if __name__ == "__main__":
    main(TASKS)
