"""Steps a second of CartPole under random actions, beside gymnax, gymnasium's vector environment and envpool.

Every contestant plays B environments for the same number of steps from fresh starts, with its own resets, and says the mean return of the episodes
that ended, which must agree. In JAX the whole trajectory is computed and kept: observations, actions, rewards and ends. gymnax is given all its keys
and actions ahead of its loop, which makes it faster than the loop of its examples.
"""

from _harness import Contestant, Task, Work, main


def rounds(work: Work, play):
    """`run(steps)` of `play(number) -> (reward of all steps, episodes that ended)`, each a chunk of steps."""
    done = 0

    def run(steps):
        nonlocal done
        returns = []
        for _ in range(steps // work.chunk):
            reward, ended = play(done)
            returns.append(float(reward) / float(ended))
            done += 1
        return returns

    return run


def compiled(work: Work, trajectory):
    """`play` of a function `key -> {"reward": ..., "is_done": ..., ...}`."""
    import jax

    @jax.jit
    def play(key):
        found = trajectory(key)
        return found, found["reward"].sum(), found["is_done"].sum()

    def one(number):
        return jax.block_until_ready(play(jax.random.key(number)))[1:]

    return rounds(work, one)


def ours(work: Work):
    from dljax.rl import cartpole, random_policy, rollout

    env = cartpole()

    def trajectory(key):
        found = rollout(env, random_policy(env), key, num_envs=work.options["num_envs"], steps=work.chunk)
        is_done = found.terminated | found.truncated
        return {"observation": found.observation, "action": found.action, "reward": found.reward, "is_done": is_done}

    return compiled(work, trajectory)


def gymnax(work: Work):
    import gymnax
    import jax

    env, params = gymnax.make("CartPole-v1")
    shape = (work.chunk, work.options["num_envs"])

    def trajectory(key):
        reset_key, action_key, step_key = jax.random.split(key, 3)
        observation, state = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, shape[1]), params)

        def one(carry, row):
            observation, state = carry
            key, action = row
            after, state, reward, terminated, truncated, _ = jax.vmap(env.step, (0, 0, 0, None))(key, state, action, params)
            return (after, state), {"observation": observation, "action": action, "reward": reward, "is_done": terminated | truncated}

        rows = jax.random.split(step_key, shape), jax.random.randint(action_key, shape, 0, env.num_actions)
        return jax.lax.scan(one, (observation, state), rows)[1]

    return compiled(work, trajectory)


def gymnasium(work: Work):
    import gymnasium

    env = gymnasium.make_vec("CartPole-v1", work.options["num_envs"], vectorization_mode="vector_entry_point")
    return stepped(work, lambda number: env.reset(seed=number), env.step)


def envpool(work: Work):
    import envpool

    env = envpool.make("CartPole-v1", env_type="gymnasium", num_envs=work.options["num_envs"], num_threads=work.threads)
    return stepped(work, lambda number: env.reset(), env.step)


def stepped(work: Work, reset, step):
    import numpy as np

    def play(number):
        actions = np.random.default_rng(number).integers(0, 2, (work.chunk, work.options["num_envs"]), np.int64)
        reset(number)
        total, ended = 0.0, 0
        for action in actions:
            _, reward, terminated, truncated, _ = step(action)
            total += reward.sum()
            ended += (terminated | truncated).sum()
        return total, ended

    return rounds(work, play)


def task(num_envs: int, chunk: int) -> Task:
    contestants = {"dljax": ours, "gymnax": gymnax, "gymnasium": gymnasium, "envpool": Contestant(envpool, quick=num_envs == 64)}
    # A mean return of 22 with a deviation of 12, over some thousand episodes; gymnasium and envpool spend a step on each reset.
    return Task(f"{num_envs}", "steps/s", contestants, chunk=chunk, per_step=num_envs, tolerance=0.1, options={"num_envs": num_envs})


TASKS = [task(1, 20_000), task(64, 2_000), task(1_024, 500), task(2_048, 500), task(16_384, 100)]
GPU = [task(2_048, 500), task(65_536, 500)]

if __name__ == "__main__":
    main(TASKS, GPU)
