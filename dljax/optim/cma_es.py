"""CMA-ES: an evolution strategy that learns the covariance of good steps (Hansen, 2016)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric
from dljax.optim.evolution import Strategy, finite


class CMAState(NamedTuple):
    """The normal distribution that candidates are drawn from, and the paths that its mean has taken.

    Attributes:
      mean, step_size: m [n] and σ [].
      axes, scales: B and the square roots of D of the last decomposition C = B D Bᵀ.
      covariance: C [n, n].
      path, step_path: p_c and p_σ [n], smoothed steps of the mean, as they were and with C taken out.
      generation: [] int32.
    """

    mean: Float[Array, " n"]
    step_size: Float[Array, ""]
    axes: Float[Array, "n n"]
    scales: Float[Array, " n"]
    covariance: Float[Array, "n n"]
    path: Float[Array, " n"]
    step_path: Float[Array, " n"]
    generation: Int[Array, ""]


def cma_es(population_size: int | None = None, *, size: int | None = None, step_size: Numeric = 1.0) -> Strategy:
    """Covariance matrix adaptation: candidates from a normal distribution that is moved, scaled and turned towards the best of them.

      x_i = m + σ y_i,   y_i ~ N(0, C)
      m⁺ = m + σ y_w,    y_w = Σ w_i y_i over the better half, best first
      p_σ⁺ = (1-c_σ) p_σ + √(c_σ(2-c_σ)μ) C^-½ y_w,   σ⁺ = σ exp(c_σ/d_σ (|p_σ⁺| / E|N(0, I)| - 1))
      p_c⁺ = (1-c_c) p_c + h √(c_c(2-c_c)μ) y_w
      C⁺ = (1 - c_1 - c_μ + (1-h) c_1 c_c (2-c_c)) C + c_1 p_c⁺p_c⁺ᵀ + c_μ Σ w_i y_i y_iᵀ

    All constants are the tutorial's. It does not change under monotone transformations of the cost or rotations of space. C is decomposed when
    it has changed by about a tenth: each generation where n is small.

    Args:
      population_size: λ >= 4; by default 4 + 3 log n rounded down, for which `size` must be given.
      size: n, only for the default of λ.
      step_size: the first σ > 0, a third of the distance to the minimum or so; may be traced.
    Raises:
      ValueError: an option out of its range, or neither λ nor n.
    Source: Hansen (2016), The CMA Evolution Strategy: A Tutorial, with positive weights only.

    >>> from dljax.optim.evolution import evolve
    >>> learner = evolve(cma_es(8, step_size=0.5), lambda key, x: (x**2).sum(), lambda key, batch: jnp.ones(2))
    >>> state, step = learner.init(jax.random.key(0), ()), jax.jit(learner.step)
    >>> for number in range(40):
    ...     state, metrics = step(jax.random.key(number), state, ())
    >>> bool(metrics["best"] < 1e-4)
    True
    """
    if population_size is None:
        if size is None:
            raise ValueError("cma_es: population_size must be given, or size for its default, got neither; write cma_es(16)")
        population_size = 4 + int(3 * math.log(check_int("cma_es", "size", size, minimum=1)))
    check_int("cma_es", "population_size", population_size, minimum=4)
    check_range("cma_es", "step_size", step_size, 0, open_low=True)
    raw = math.log((population_size + 1) / 2) - np.log(np.arange(1, population_size // 2 + 1))
    shares = raw / raw.sum()
    mass = 1 / float((shares**2).sum())

    def init(key: Key, x: Array) -> CMAState:
        one, zero = jnp.eye(x.size, dtype=x.dtype), jnp.zeros_like(x)
        return CMAState(x, jnp.asarray(step_size, x.dtype), one, jnp.ones_like(x), one, zero, zero, jnp.int32(0))

    def ask(key: Key, state: CMAState) -> tuple[CMAState, Array]:
        noise = jax.random.normal(key, (population_size, state.mean.size), state.mean.dtype)
        return state, state.mean[None] + state.step_size * (noise * state.scales[None]) @ state.axes.T

    def tell(state: CMAState, population: Array, costs: Array) -> CMAState:
        mean, sigma, axes, scales, C, path, step_path, generation = state
        n, weights = mean.size, jnp.asarray(shares, mean.dtype)
        c_sigma = (mass + 2) / (n + mass + 5)
        d_sigma = 1 + 2 * max(0, math.sqrt((mass - 1) / (n + 1)) - 1) + c_sigma
        c_c = (4 + mass / n) / (n + 4 + 2 * mass / n)
        c_1 = 2 / ((n + 1.3) ** 2 + mass)
        c_mu = min(1 - c_1, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
        length = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))  # E|N(0, I)|

        best = jnp.argsort(finite(costs))[: len(shares)]
        y = (population[best] - mean[None]) / sigma
        y_w = weights @ y
        step_path = (1 - c_sigma) * step_path + math.sqrt(c_sigma * (2 - c_sigma) * mass) * axes @ ((y_w @ axes) / scales)
        norm = jnp.linalg.norm(step_path)
        # A long p_σ means that σ lags behind: until it has caught up C must not grow with it.
        expected = jnp.sqrt(1 - (1 - c_sigma) ** (2 * (generation.astype(mean.dtype) + 1)))
        h = (norm / expected < (1.4 + 2 / (n + 1)) * length).astype(mean.dtype)
        path = (1 - c_c) * path + h * math.sqrt(c_c * (2 - c_c) * mass) * y_w
        kept = 1 - c_1 - c_mu + (1 - h) * c_1 * c_c * (2 - c_c)
        C = kept * C + c_1 * jnp.outer(path, path) + c_mu * (weights[:, None] * y).T @ y
        # The exponent is bounded, so that one outlier cannot end the run.
        sigma_new = sigma * jnp.exp(jnp.minimum(1, c_sigma / d_sigma * (norm / length - 1)))
        every = max(int(1 / (10 * n * (c_1 + c_mu))), 1)
        if every == 1:
            axes, scales = _decomposed(C)
        else:
            axes, scales = lax.cond(generation % every == 0, _decomposed, lambda C: (axes, scales), C)
        return CMAState(mean + sigma * y_w, sigma_new, axes, scales, C, path, step_path, generation + 1)

    return Strategy(init, ask, tell, lambda state: state.mean)


def _decomposed(C: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, " n"]]:
    values, axes = jnp.linalg.eigh(C)
    # Rounding may make the smallest ones negative.
    return axes, jnp.sqrt(jnp.maximum(values, jnp.finfo(C.dtype).eps * jnp.max(values)))
