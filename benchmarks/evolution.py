"""Generations a second of CMA-ES beside evosax: Rosenbrock's valley, by variables and population.

A step is a generation: candidates are drawn, evaluated and told. Each chunk starts afresh from the same mean and step size, and says the magnitude
of the best cost that it came to, which chance decides but not by much. Both run in one compiled scan, as evosax's own examples do.
"""

import math

from _harness import Task, Work, main


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def chunks(work: Work, best):
    """`run` of `best(key) -> cost`, a chunk of generations."""
    import jax

    best, done = jax.jit(best), 0

    def run(steps):
        nonlocal done
        magnitudes = []
        for _ in range(steps // work.chunk):
            magnitudes.append(math.log10(max(float(best(jax.random.key(done))), 1e-9)))
            done += 1
        return magnitudes

    return run


def ours(work: Work):
    import jax.numpy as jnp

    from dljax.core import EMPTY, start, unroll
    from dljax.optim import cma_es, evolve

    size = work.options["size"]
    strategy = cma_es(work.options["population_size"], step_size=0.5)
    learner = evolve(strategy, lambda key, x: rosenbrock(x), lambda key, batch: jnp.zeros(size))

    def best(key):
        key, state, cursor = start(learner, EMPTY, key)
        return unroll(learner, EMPTY, work.chunk, work.chunk)(key, 0, state, cursor)[0].best_cost

    return chunks(work, best)


def evosax(work: Work):
    import jax
    import jax.numpy as jnp
    from evosax.algorithms import CMA_ES

    size = work.options["size"]
    strategy = CMA_ES(population_size=work.options["population_size"], solution=jnp.zeros(size))
    params = strategy.default_params.replace(std_init=0.5)

    def best(key):
        init_key, key = jax.random.split(key)

        def one(state, key):
            ask_key, tell_key = jax.random.split(key)
            population, state = strategy.ask(ask_key, state, params)
            return strategy.tell(tell_key, population, jax.vmap(rosenbrock)(population), state, params)[0], None

        state = strategy.init(init_key, jnp.zeros(size), params)
        return jax.lax.scan(one, state, jax.random.split(key, work.chunk))[0].best_fitness

    return chunks(work, best)


def task(size: int, population_size: int, chunk: int) -> Task:
    options = {"size": size, "population_size": population_size}
    return Task(f"{size}-{population_size}", "generations/s", {"dljax": ours, "evosax": evosax}, chunk=chunk, tolerance=0.15, options=options)


if __name__ == "__main__":
    main([task(5, 16, 300), task(50, 64, 300), task(200, 4096, 20)])
