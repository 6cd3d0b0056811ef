"""Evolution by gradients of the distribution that candidates are drawn from: OpenAI-ES, separable and exponential natural evolution strategies."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric
from dljax.optim.evolution import Strategy, finite


class OpenAIState(NamedTuple):
    """The mean of the population, and its optimiser's state."""

    mean: Float[Array, " n"]
    opt_state: optax.OptState


def openai_es(
    population_size: int, optimizer: optax.GradientTransformation | None = None, *, step_size: Numeric = 0.1, is_ranked: bool = True
) -> Strategy:
    """The evolution strategy of OpenAI: stochastic gradients of the smoothed cost, from mirrored noise, to any optimiser.

      ∇ E f(x + σε) = E[f(x + σε) ε] / σ ≈ 1/(Nσ) Σ f(x + σε_i) ε_i

    Args:
      population_size: N, even and >= 2: ε and -ε in pairs.
      optimizer: of the mean; Adam with a learning rate of 0.05 by default.
      step_size: σ > 0, which stays; may be traced.
      is_ranked: whether costs are replaced by their centred ranks, -½ for the best and ½ for the worst, which takes out their scale.
    Raises:
      ValueError: an option out of its range.
    Source: Salimans et al. (2017), Evolution Strategies as a Scalable Alternative to Reinforcement Learning, algorithm 1 and section 2.1.

    >>> strategy = openai_es(4)
    >>> _, population = strategy.ask(jax.random.key(0), strategy.init(jax.random.key(1), jnp.zeros(3)))
    >>> bool((population[:2] == -population[2:]).all())
    True
    """
    check_int("openai_es", "population_size", population_size, minimum=2)
    if population_size % 2:
        raise ValueError(f"openai_es: population_size must be even, for noise comes in pairs, got {population_size}; use {population_size + 1}")
    check_range("openai_es", "step_size", step_size, 0, open_low=True)
    solver = optax.adam(0.05) if optimizer is None else optimizer

    def ask(key: Key, state: OpenAIState) -> tuple[OpenAIState, Array]:
        half = jax.random.normal(key, (population_size // 2, state.mean.size), state.mean.dtype)
        return state, state.mean[None] + step_size * jnp.concatenate([half, -half])

    def tell(state: OpenAIState, population: Array, costs: Array) -> OpenAIState:
        values = centred_ranks(costs) if is_ranked else jnp.where(jnp.isfinite(costs), costs, jnp.mean(costs, where=jnp.isfinite(costs)))
        gradient = smoothed_gradient((population - state.mean[None]) / step_size, values, step_size)
        updates, opt_state = solver.update(gradient, state.opt_state, state.mean)
        return OpenAIState(optax.apply_updates(state.mean, updates), opt_state)

    return Strategy(lambda key, x: OpenAIState(x, solver.init(x)), ask, tell, lambda state: state.mean)


class SNESState(NamedTuple):
    """Mean and standard deviations of the population."""

    mean: Float[Array, " n"]
    scale: Float[Array, " n"]


def snes(population_size: int, *, step_size: Numeric = 1.0) -> Strategy:
    """Separable natural evolution: natural gradients of the mean and the logarithms of the standard deviations.

      x_i = μ + σ ε_i,   μ⁺ = μ + σ Σ u_i ε_i,   σ⁺ = σ exp(η/2 Σ u_i (ε_i² - 1)),   η = (3 + log n) / (5 √n)

    Args:
      population_size: N >= 2; 4 + 3 log n is usual.
      step_size: the first σ > 0; may be traced.
    Raises:
      ValueError: an option out of its range.
    Source: Wierstra et al. (2014), Natural Evolution Strategies, JMLR 15, algorithm 6; u of section 3.1.

    >>> strategy = snes(4)
    >>> strategy.ask(jax.random.key(0), strategy.init(jax.random.key(1), jnp.zeros(3)))[1].shape
    (4, 3)
    """
    check_int("snes", "population_size", population_size, minimum=2)
    check_range("snes", "step_size", step_size, 0, open_low=True)
    utilities = _utilities(population_size)

    def ask(key: Key, state: SNESState) -> tuple[SNESState, Array]:
        noise = jax.random.normal(key, (population_size, state.mean.size), state.mean.dtype)
        return state, state.mean[None] + state.scale[None] * noise

    def tell(state: SNESState, population: Array, costs: Array) -> SNESState:
        noise = (population - state.mean[None]) / state.scale[None]
        u = _by_rank(utilities, costs)
        rate = (3 + math.log(state.mean.size)) / (5 * math.sqrt(state.mean.size))
        return SNESState(state.mean + state.scale * (u @ noise), state.scale * jnp.exp(rate / 2 * (u @ (noise**2 - 1))))

    return Strategy(lambda key, x: SNESState(x, jnp.full_like(x, step_size)), ask, tell, lambda state: state.mean)


class XNESState(NamedTuple):
    """The mean of the population and the root A of its covariance A Aᵀ."""

    mean: Float[Array, " n"]
    root: Float[Array, "n n"]


def xnes(population_size: int, *, step_size: Numeric = 1.0) -> Strategy:
    """Exponential natural evolution: natural gradients of the mean and the whole covariance, in coordinates that keep it positive.

      x_i = μ + A ε_i,   μ⁺ = μ + A Σ u_i ε_i,   A⁺ = A exp(η/2 Σ u_i (ε_i ε_iᵀ - I)),   η = (9 + 3 log n) / (5 n √n)

    Args:
      population_size: N >= 2; 4 + 3 log n is usual.
      step_size: A = σ I at first, σ > 0; may be traced.
    Raises:
      ValueError: an option out of its range.
    Source: Wierstra et al. (2014), Natural Evolution Strategies, JMLR 15, algorithm 5 with η_σ = η_B.

    >>> strategy = xnes(4)
    >>> strategy.ask(jax.random.key(0), strategy.init(jax.random.key(1), jnp.zeros(3)))[1].shape
    (4, 3)
    """
    check_int("xnes", "population_size", population_size, minimum=2)
    check_range("xnes", "step_size", step_size, 0, open_low=True)
    utilities = _utilities(population_size)

    def ask(key: Key, state: XNESState) -> tuple[XNESState, Array]:
        noise = jax.random.normal(key, (population_size, state.mean.size), state.mean.dtype)
        return state, state.mean[None] + noise @ state.root.T

    def tell(state: XNESState, population: Array, costs: Array) -> XNESState:
        size, u = state.mean.size, _by_rank(utilities, costs)
        noise = jnp.linalg.solve(state.root, (population - state.mean[None]).T).T
        rate = (9 + 3 * math.log(size)) / (5 * size * math.sqrt(size))
        shape = (u[:, None] * noise).T @ noise - u.sum() * jnp.eye(size, dtype=u.dtype)
        return XNESState(state.mean + state.root @ (u @ noise), state.root @ jax.scipy.linalg.expm(rate / 2 * shape))

    def init(key: Key, x: Array) -> XNESState:
        return XNESState(x, step_size * jnp.eye(x.size, dtype=x.dtype))

    return Strategy(init, ask, tell, lambda state: state.mean)


def smoothed_gradient(noise: Float[Array, "N n"], costs: Float[Array, " N"], step_size: Numeric) -> Float[Array, " n"]:
    """The gradient of E f(x + σε), estimated by the score function.

      1/(Nσ) Σ f(x + σε_i) ε_i

    Args:
      noise, costs: ε_i and f(x + σε_i).
      step_size: σ > 0.

    >>> noise = jnp.array([[1.0], [-1.0]])
    >>> smoothed_gradient(noise, jnp.square(3 + 0.5 * noise[:, 0]), 0.5).tolist()  # of x² at 3
    [6.0]
    """
    return costs @ noise / (len(costs) * step_size)


def centred_ranks(costs: Float[Array, " N"]) -> Float[Array, " N"]:
    """Ranks of costs, from -½ for the least to ½ for the largest; NaN counts as the largest.

    >>> centred_ranks(jnp.array([10.0, -3.0, jnp.nan])).tolist()
    [0.0, -0.5, 0.5]
    """
    ranks = jnp.argsort(jnp.argsort(finite(costs)))
    return ranks.astype(costs.dtype) / max(len(costs) - 1, 1) - 0.5


def _utilities(population_size: int) -> np.ndarray:
    raw = np.maximum(0, math.log(population_size / 2 + 1) - np.log(np.arange(1, population_size + 1)))
    return raw / raw.sum() - 1 / population_size


def _by_rank(utilities: np.ndarray, costs: Float[Array, " N"]) -> Float[Array, " N"]:
    return jnp.asarray(utilities, costs.dtype)[jnp.argsort(jnp.argsort(finite(costs)))]
