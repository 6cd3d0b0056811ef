"""Generations a second of evolution beside evosax: CMA-ES in Rosenbrock's valley, and three strategies that balance a pole with 4,096 policies.

A step is a generation: candidates are drawn, evaluated and told. Each chunk starts afresh from the same mean and step size, and says what its best
candidate came to, which chance decides but not by much: the magnitude of the cost in the valley, the return of an episode of CartPole. A policy has
16 hidden units, and all of a generation balance from the same start. Both run in one compiled scan, as evosax's own examples do. An episode of evosax
takes 500 steps however early the pole falls; a generation of ours ends when all have fallen, so that its lead is large while they learn.
"""

import math

from _harness import Task, Work, main


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def chunks(work: Work, best):
    """`run` of `best(key) -> cost`, a chunk of generations."""
    import jax

    best, done = jax.jit(best), 0

    def said(cost):
        return -cost if work.options["problem"] == "cartpole" else math.log10(max(cost, 1e-9))

    def run(steps):
        nonlocal done
        found = []
        for _ in range(steps // work.chunk):
            found.append(said(float(best(jax.random.key(done)))))
            done += 1
        return found

    return run


def ours(work: Work):
    import jax.numpy as jnp
    import optax

    from dljax import optim
    from dljax.core import EMPTY, start, unroll
    from dljax.models import MLP
    from dljax.rl import cartpole, evaluate

    size, step_size, network, env = work.options["population_size"], work.options["step_size"], MLP(2, (16,)), cartpole()
    strategy = {
        "cma-es": lambda: optim.cma_es(size, step_size=step_size),
        "openai-es": lambda: optim.openai_es(size, optax.adam(0.05), step_size=step_size),
        "genetic": lambda: optim.genetic_algorithm(size, step_size=step_size),
    }[work.options["strategy"]]()

    def fallen(key, params):
        episodes = evaluate(env, lambda key, x: jnp.argmax(network.apply(params, x), axis=-1).astype(jnp.int32), key, 1)
        return -episodes.returns.mean()

    if work.options["problem"] == "cartpole":
        learner = optim.evolve(strategy, fallen, lambda key, batch: network.init(key, jnp.zeros((1, 4))), shares_key=True)
    else:
        learner = optim.evolve(strategy, lambda key, x: rosenbrock(x), lambda key, batch: jnp.zeros(work.options["problem"]))

    def best(key):
        key, state, cursor = start(learner, EMPTY, key)
        return unroll(learner, EMPTY, work.chunk, work.chunk)(key, 0, state, cursor)[0].best_cost

    return chunks(work, best)


def evosax(work: Work):
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax
    from evosax.algorithms import CMA_ES, Open_ES, SimpleGA
    from evosax.problems import GymnaxProblem

    class Policy(nn.Module):
        @nn.compact
        def __call__(self, x, key):
            return jnp.argmax(nn.Dense(2)(nn.relu(nn.Dense(16)(x))), axis=-1)

    size, step_size = work.options["population_size"], work.options["step_size"]
    if work.options["problem"] == "cartpole":
        problem = GymnaxProblem("CartPole-v1", Policy(), use_normalize_obs=False)
        solution, standing = problem.sample(jax.random.key(0)), problem.init(jax.random.key(0))
    else:
        problem, solution = None, jnp.zeros(work.options["problem"])
    strategy = {
        "cma-es": lambda: CMA_ES(size, solution),
        "openai-es": lambda: Open_ES(size, solution, optimizer=optax.adam(0.05), std_schedule=optax.constant_schedule(step_size)),
        "genetic": lambda: SimpleGA(size, solution, std_schedule=optax.constant_schedule(step_size)),
    }[work.options["strategy"]]()
    params = strategy.default_params
    if hasattr(params, "std_init"):
        params = params.replace(std_init=step_size)

    def costs(key, population):
        return jax.vmap(rosenbrock)(population) if problem is None else -problem.eval(key, population, standing)[0]

    def first(key):
        init_key, cost_key, noise_key = jax.random.split(key, 3)
        mean = solution if problem is None else problem.sample(init_key)
        if work.options["strategy"] != "genetic":
            return strategy.init(init_key, mean, params)
        leaves, structure = jax.tree.flatten(mean)
        keys = jax.random.split(noise_key, len(leaves))
        noisy = [leaf + step_size * jax.random.normal(one, (size, *leaf.shape)) for one, leaf in zip(keys, leaves, strict=True)]
        population = jax.tree.unflatten(structure, noisy)
        return strategy.init(init_key, population, costs(cost_key, population), params)

    def best(key):
        first_key, key = jax.random.split(key)

        def one(state, key):
            ask_key, cost_key, tell_key = jax.random.split(key, 3)
            population, state = strategy.ask(ask_key, state, params)
            return strategy.tell(tell_key, population, costs(cost_key, population), state, params)[0], None

        return jax.lax.scan(one, first(first_key), jax.random.split(key, work.chunk))[0].best_fitness

    return chunks(work, best)


def task(name: str, problem: int | str, strategy: str, population_size: int, chunk: int, step_size: float = 0.5) -> Task:
    options = {"problem": problem, "strategy": strategy, "population_size": population_size, "step_size": step_size}
    quick = problem != "cartpole" or strategy == "openai-es"
    return Task(name, "generations/s", {"dljax": ours, "evosax": evosax}, chunk=chunk, tolerance=0.15, options=options, quick=quick)


if __name__ == "__main__":
    main(
        [
            task("5-16", 5, "cma-es", 16, 300),
            task("50-64", 50, "cma-es", 64, 300),
            task("200-4096", 200, "cma-es", 4096, 20),
            task("cartpole-cma-es", "cartpole", "cma-es", 4096, 20, 0.3),
            task("cartpole-genetic", "cartpole", "genetic", 4096, 20, 0.3),
            task("cartpole-openai-es", "cartpole", "openai-es", 4096, 20, 0.1),
        ]
    )
