"""Evolution: strategies as (init, ask, tell), the learner that runs any of them, and the classical ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dljax.core import tree
from dljax.core.axis import bound_axis, psum
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Key, Learner, Metrics, Numeric, Params


class Strategy(NamedTuple):
    """A gradient-free search for the least cost, on flat vectors.

    Attributes:
      init: `(key, x [n]) -> state`, around a start.
      ask: `(key, state) -> (state, population [N, n])`.
      tell: `(state, population [N, n], costs [N]) -> state`, lower is better; a cost that is not finite counts as the worst.
      mean: `state -> x [n]`, the strategy's answer.
    """

    init: Callable[[Key, Array], Any]
    ask: Callable[[Key, Any], tuple[Any, Array]]
    tell: Callable[[Any, Array, Array], Any]
    mean: Callable[[Any], Array]


class EvolutionState(NamedTuple):
    """The strategy's answer as parameters, the best candidate ever seen and its cost, and the strategy's own state."""

    params: Params
    best: Params
    best_cost: Float[Array, ""]
    strategy: Any


def evolve(strategy: Strategy, cost: Callable[[Key, Params], Any], start: Callable[[Key, Batch], Params], *, shares_key: bool = False) -> Learner:
    """Let a population find parameters of least cost; a step is a generation, its candidates are evaluated together.

    Where the engine binds a data-parallel axis, each device evaluates its share of the candidates.

    Args:
      strategy: one of `cma_es`, `openai_es`, `snes`, `xnes`, `evolution_strategy`, `cross_entropy_method`, `genetic_algorithm`, `random_search`.
      cost: `(key, params) -> []` of one candidate, to be minimised (a return is maximised by its negative); it may be random.
      start: `(key, batch) -> params`, where to begin: a model's initialisation.
      shares_key: whether all candidates of a generation are given the same key: with common random numbers what they differ in is their own doing.
    Returns:
      A learner on empty batches with metrics `cost` (mean of the generation), `generation_best` and `best` (of all so far), [] each. Candidates whose
      cost is not finite are left out of the mean. `learner.params(state)` is the strategy's mean; `state.best` the best candidate.

    >>> learner = evolve(random_search(8), lambda key, x: (x**2).sum(), lambda key, batch: jnp.ones(3))
    >>> state = learner.init(jax.random.key(0), ())
    >>> state, metrics = learner.step(jax.random.key(1), state, ())
    >>> sorted(metrics)
    ['best', 'cost', 'generation_best']
    """

    def init(key: Key, batch: Batch = ()) -> EvolutionState:
        start_key, strategy_key = jax.random.split(key)
        params = start(start_key, batch)
        x, unravel = ravel_pytree(params)
        state = strategy.init(strategy_key, x)
        return EvolutionState(unravel(strategy.mean(state)), params, jnp.asarray(jnp.inf, x.dtype), state)

    def step(key: Key, state: EvolutionState, batch: Batch = ()) -> tuple[EvolutionState, Metrics]:
        ask_key, cost_key = jax.random.split(key)
        _, unravel = ravel_pytree(state.params)
        inner, population = strategy.ask(ask_key, state.strategy)
        keys = cost_key if shares_key else jax.random.split(cost_key, len(population))
        costs = _evaluated(lambda key, x: jnp.asarray(cost(key, unravel(x)), population.dtype), keys, population)
        told = strategy.tell(inner, population, costs)
        # A distribution that has shrunk to a point divides by zero: it stays as it was.
        is_sound = tree.is_finite(told)
        inner = jax.tree.map(lambda new, old: jnp.where(is_sound, new, old), told, inner)
        is_finite = jnp.isfinite(costs)
        winner = jnp.argmin(finite(costs))
        is_better = is_finite[winner] & (costs[winner] < state.best_cost)
        best = jax.tree.map(lambda new, old: jnp.where(is_better, new, old), unravel(population[winner]), state.best)
        best_cost = jnp.where(is_better, costs[winner], state.best_cost)
        metrics = {"cost": jnp.mean(costs, where=is_finite), "generation_best": costs[winner], "best": best_cost}
        return EvolutionState(unravel(strategy.mean(inner)), best, best_cost, inner), metrics

    return Learner(init, step)


class RandomSearchState(NamedTuple):
    """The best point so far and its cost."""

    mean: Float[Array, " n"]
    cost: Float[Array, ""]


def random_search(population_size: int, *, step_size: Numeric = 1.0) -> Strategy:
    """Random steps from the best point so far, to the best of them if it is better.

      x_i = x + σ ε_i,   ε_i ~ N(0, I)

    Args:
      population_size: N >= 1.
      step_size: σ > 0; may be traced.
    Raises:
      ValueError: an option out of its range.
    Source: Spall (2003), Introduction to Stochastic Search and Optimization, algorithm B of section 2.2.

    >>> strategy = random_search(4)
    >>> state, population = strategy.ask(jax.random.key(0), strategy.init(jax.random.key(1), jnp.zeros(2)))
    >>> strategy.tell(state, population, jnp.array([3.0, 1.0, 2.0, 4.0])).cost.tolist()
    1.0
    """
    check_int("random_search", "population_size", population_size, minimum=1)
    check_range("random_search", "step_size", step_size, 0, open_low=True)

    def ask(key: Key, state: RandomSearchState) -> tuple[RandomSearchState, Array]:
        noise = jax.random.normal(key, (population_size, state.mean.size), state.mean.dtype)
        return state, state.mean[None] + step_size * noise

    def tell(state: RandomSearchState, population: Array, costs: Array) -> RandomSearchState:
        costs = finite(costs)
        winner = jnp.argmin(costs)
        is_better = costs[winner] < state.cost
        return RandomSearchState(jnp.where(is_better, population[winner], state.mean), jnp.minimum(costs[winner], state.cost))

    return Strategy(lambda key, x: RandomSearchState(x, jnp.asarray(jnp.inf, x.dtype)), ask, tell, lambda state: state.mean)


class EvolutionStrategyState(NamedTuple):
    """The recombined parent, its step size, and the step sizes [N] of the children that are out."""

    mean: Float[Array, " n"]
    step_size: Float[Array, ""]
    children: Float[Array, " N"]


def evolution_strategy(population_size: int, num_parents: int | None = None, *, step_size: Numeric = 1.0) -> Strategy:
    """The (μ/μ, λ) evolution strategy: the best μ of λ children are averaged, and step sizes evolve along with the points.

      σ_i = σ exp(τ ξ_i),   x_i = x + σ_i ε_i,   τ = 1 / √(2n)
      x⁺ = mean of the best x_i,   log σ⁺ = mean of their log σ_i

    Args:
      population_size: λ >= 2.
      num_parents: μ in [1, λ), by default λ/4 rounded up.
      step_size: the first σ > 0; may be traced.
    Raises:
      ValueError: an option out of its range.
    Source: Rechenberg (1973); Schwefel (1977); Beyer and Schwefel (2002), Evolution strategies, a comprehensive introduction.

    >>> strategy = evolution_strategy(8, num_parents=2)
    >>> strategy.ask(jax.random.key(0), strategy.init(jax.random.key(1), jnp.zeros(3)))[1].shape
    (8, 3)
    """
    check_int("evolution_strategy", "population_size", population_size, minimum=2)
    parents = -(-population_size // 4) if num_parents is None else num_parents
    check_int("evolution_strategy", "num_parents", parents, minimum=1, maximum=population_size - 1)
    check_range("evolution_strategy", "step_size", step_size, 0, open_low=True)

    def init(key: Key, x: Array) -> EvolutionStrategyState:
        first = jnp.asarray(step_size, x.dtype)
        return EvolutionStrategyState(x, first, jnp.full(population_size, first))

    def ask(key: Key, state: EvolutionStrategyState) -> tuple[EvolutionStrategyState, Array]:
        size_key, noise_key = jax.random.split(key)
        size, dtype = state.mean.size, state.mean.dtype
        sizes = state.step_size * jnp.exp(jax.random.normal(size_key, (population_size,), dtype) / (2 * size) ** 0.5)
        noise = jax.random.normal(noise_key, (population_size, size), dtype)
        return state._replace(children=sizes), state.mean[None] + sizes[:, None] * noise

    def tell(state: EvolutionStrategyState, population: Array, costs: Array) -> EvolutionStrategyState:
        chosen = jnp.argsort(finite(costs))[:parents]
        return state._replace(mean=population[chosen].mean(0), step_size=jnp.exp(jnp.log(state.children[chosen]).mean()))

    return Strategy(init, ask, tell, lambda state: state.mean)


class CrossEntropyState(NamedTuple):
    """Mean and standard deviation of the distribution that candidates are drawn from."""

    mean: Float[Array, " n"]
    scale: Float[Array, " n"]


def cross_entropy_method(
    population_size: int, elite_fraction: Numeric = 0.2, *, step_size: Numeric = 1.0, smoothing: Numeric = 0.0, least_scale: Numeric = 0.0
) -> Strategy:
    """The cross-entropy method: draw from a normal distribution, fit it to the elite by maximum likelihood, again.

      x_i ~ N(μ, diag σ²),   μ⁺, σ⁺ = mean and standard deviation of the elite

    Args:
      population_size: N >= 2.
      elite_fraction: in (0, 1); at least one candidate is the elite.
      step_size: the first σ > 0.
      smoothing: the share of the old μ and σ that stays, in [0, 1).
      least_scale: below which σ does not fall, >= 0; more than 0 where the cost is random.
    Raises:
      ValueError: an option out of its range.
    Source: Rubinstein (1999); de Boer et al. (2005), A tutorial on the cross-entropy method, algorithm 2.2 with smoothing.

    >>> strategy = cross_entropy_method(4, 0.5)
    >>> state = strategy.init(jax.random.key(0), jnp.zeros(1))
    >>> strategy.tell(state, jnp.array([[1.0], [3.0], [9.0], [9.0]]), jnp.array([0.0, 1.0, 2.0, 3.0]))
    CrossEntropyState(mean=Array([2.], ...), scale=Array([1.], ...))
    """
    check_int("cross_entropy_method", "population_size", population_size, minimum=2)
    check_range("cross_entropy_method", "elite_fraction", elite_fraction, 0, 1, open_low=True, open_high=True)
    check_range("cross_entropy_method", "step_size", step_size, 0, open_low=True)
    check_range("cross_entropy_method", "smoothing", smoothing, 0, 1, open_high=True)
    check_range("cross_entropy_method", "least_scale", least_scale, 0)
    elite_size = max(round(float(elite_fraction) * population_size), 1)

    def ask(key: Key, state: CrossEntropyState) -> tuple[CrossEntropyState, Array]:
        noise = jax.random.normal(key, (population_size, state.mean.size), state.mean.dtype)
        return state, state.mean[None] + state.scale[None] * noise

    def tell(state: CrossEntropyState, population: Array, costs: Array) -> CrossEntropyState:
        elite = population[jnp.argsort(finite(costs))[:elite_size]]
        mean = smoothing * state.mean + (1 - smoothing) * elite.mean(0)
        scale = smoothing * state.scale + (1 - smoothing) * elite.std(0)
        return CrossEntropyState(mean, jnp.maximum(scale, least_scale))

    return Strategy(lambda key, x: CrossEntropyState(x, jnp.full_like(x, step_size)), ask, tell, lambda state: state.mean)


class GeneticState(NamedTuple):
    """The population [N, n] and its costs, best first; infinite costs before the first generation."""

    population: Float[Array, "N n"]
    costs: Float[Array, " N"]


def genetic_algorithm(
    population_size: int, *, num_elite: int = 2, tournament_size: int = 3, crossover_rate: Numeric = 0.5, step_size: Numeric = 0.3
) -> Strategy:
    """A genetic algorithm on real vectors: tournaments, uniform crossover, normal mutation, and an elite that survives.

    Each child has two parents, each the best of a random few. It takes each number from either of them, and noise of scale σ is added to one
    number in n on average, at least. The elite is evaluated again, so that a lucky draw of a random cost does not live for ever.

    Args:
      population_size: N >= 2.
      num_elite: candidates that go on as they are, in [0, N).
      tournament_size: rivals for each parent's place, >= 1; more press harder.
      crossover_rate: the probability that a number comes from the second parent, in [0, 1].
      step_size: σ > 0 of the first population around the start, and of mutations.
    Raises:
      ValueError: an option out of its range.
    Source: Holland (1975); Goldberg and Deb (1991) for tournaments; Eiben and Smith (2015), Introduction to Evolutionary Computing, chapter 4.

    >>> strategy = genetic_algorithm(6)
    >>> strategy.ask(jax.random.key(0), strategy.init(jax.random.key(1), jnp.zeros(3)))[1].shape
    (6, 3)
    """
    check_int("genetic_algorithm", "population_size", population_size, minimum=2)
    check_int("genetic_algorithm", "num_elite", num_elite, maximum=population_size - 1)
    check_int("genetic_algorithm", "tournament_size", tournament_size, minimum=1)
    check_range("genetic_algorithm", "crossover_rate", crossover_rate, 0, 1)
    check_range("genetic_algorithm", "step_size", step_size, 0, open_low=True)

    def init(key: Key, x: Array) -> GeneticState:
        noise = jax.random.normal(key, (population_size, x.size), x.dtype).at[0].set(0)
        return GeneticState(x[None] + step_size * noise, jnp.full(population_size, jnp.inf, x.dtype))

    def ask(key: Key, state: GeneticState) -> tuple[GeneticState, Array]:
        parent_key, cross_key, where_key, noise_key = jax.random.split(key, 4)
        population = state.population
        children, size = population_size - num_elite, population.shape[1]
        # They are sorted: the least index of a tournament has the least cost.
        parents = jax.random.randint(parent_key, (2, children, tournament_size), 0, population_size).min(-1)
        first, second = population[parents]
        mixed = jnp.where(jax.random.bernoulli(cross_key, crossover_rate, first.shape), second, first)
        is_mutated = jax.random.bernoulli(where_key, max(1 / size, 0.1), first.shape)
        mutated = mixed + step_size * jnp.where(is_mutated, jax.random.normal(noise_key, first.shape, first.dtype), 0)
        is_first = jnp.isinf(state.costs[0])
        return state, jnp.where(is_first, population, jnp.concatenate([population[:num_elite], mutated]))

    def tell(state: GeneticState, population: Array, costs: Array) -> GeneticState:
        costs = jnp.where(jnp.isfinite(costs), costs, jnp.finfo(costs.dtype).max)
        order = jnp.argsort(costs)
        return GeneticState(population[order], costs[order])

    return Strategy(init, ask, tell, lambda state: state.population[0])


def finite(costs: Float[Array, " N"]) -> Float[Array, " N"]:
    """Costs with infinity for those that are not finite.

    >>> finite(jnp.array([1.0, jnp.nan])).tolist()
    [1.0, inf]
    """
    return jnp.where(jnp.isfinite(costs), costs, jnp.inf)


def _evaluated(cost: Callable[[Key, Array], Array], keys: Key, population: Float[Array, "N n"]) -> Float[Array, " N"]:
    costs_of, axis = jax.vmap(cost, in_axes=(0 if keys.ndim else None, 0)), bound_axis()
    if axis is None:
        return costs_of(keys, population)
    devices = lax.axis_size(axis)
    if len(population) % devices:
        raise ValueError(f"evolve: population_size must be a multiple of the {devices} devices, got {len(population)}; round it up")
    share = len(population) // devices
    begin = lax.axis_index(axis) * share
    keys, candidates = (lax.dynamic_slice_in_dim(rows, begin, share) if rows.ndim else rows for rows in (keys, population))
    costs = jnp.zeros(len(population), population.dtype)
    return psum(lax.dynamic_update_slice_in_dim(costs, costs_of(keys, candidates), begin, 0))
