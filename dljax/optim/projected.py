"""Constraints as a projection after each step, and the memory of where one has been."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from dljax.core.checks import check_range
from dljax.core.contract import Numeric, Params


def projected(optimizer: optax.GradientTransformation, projection: Callable[[Params], Params]) -> optax.GradientTransformation:
    """An optimizer whose parameters are put back into a set after each step.

      θ ← P(θ + Δ)

    Args:
      optimizer: gives Δ.
      projection: P, `params -> params`, such as those of `optax.projections`. A Wasserstein critic's weights are clipped by
        `lambda params: jax.tree.map(lambda leaf: jnp.clip(leaf, -0.01, 0.01), params)`.
    Returns:
      A gradient transformation whose `update` needs the parameters.
    Raises:
      ValueError: `update` was not given the parameters.
    Source: Goldstein (1964), Levitin and Polyak (1966); Arjovsky et al. (2017), Wasserstein GAN, algorithm 1.

    >>> optimizer = projected(optax.sgd(1.0), lambda params: jnp.clip(params, -1.0, 1.0))
    >>> params = jnp.array([0.5, 0.0])
    >>> updates, _ = optimizer.update(jnp.array([-9.0, 0.25]), optimizer.init(params), params)
    >>> (params + updates).tolist()
    [1.0, -0.25]
    """

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        if params is None:
            raise ValueError("projected: update must be given the parameters: update(gradients, state, params)")
        updates, state = optimizer.update(updates, state, params)
        return jax.tree.map(lambda new, old: new - old, projection(optax.apply_updates(params, updates)), params), state

    return optax.GradientTransformation(optimizer.init, update)


class HistoricalAverageState(NamedTuple):
    """The mean of all parameters so far, and of how many."""

    mean: Params
    num: Int[Array, ""]


def historical_averaging(weight: Numeric) -> optax.GradientTransformation:
    """A pull towards the mean of all the parameters that there have been: it stops players from going round in circles.

      g + 2λ (θ_t - 1/t Σ_{s<=t} θ_s),   the gradient of λ |θ_t - mean|² with the mean held

    Args:
      weight: λ >= 0; may be traced.
    Returns:
      A gradient transformation, to be chained before an optimizer.
    Raises:
      ValueError: λ < 0, or `update` was not given the parameters.
    Source: Salimans et al. (2016), Improved Techniques for Training GANs, section 3.3.

    >>> pull = historical_averaging(0.5)
    >>> state = pull.init(jnp.zeros(()))
    >>> _, state = pull.update(jnp.zeros(()), state, jnp.float32(0.0))
    >>> float(pull.update(jnp.zeros(()), state, jnp.float32(4.0))[0])  # the mean is 2
    2.0
    """
    check_range("historical_averaging", "weight", weight, 0)

    def init(params: Params) -> HistoricalAverageState:
        return HistoricalAverageState(jax.tree.map(jnp.zeros_like, params), jnp.int32(0))

    def update(updates: Params, state: HistoricalAverageState, params: Params | None = None) -> tuple[Params, HistoricalAverageState]:
        if params is None:
            raise ValueError("historical_averaging: update must be given the parameters: update(gradients, state, params)")
        num = state.num + 1
        mean = jax.tree.map(lambda old, new: (old + (new - old) / num).astype(old.dtype), state.mean, params)
        pulled = jax.tree.map(lambda grad, new, old: (grad + 2 * weight * (new - old)).astype(grad.dtype), updates, params, mean)
        return pulled, HistoricalAverageState(mean, num)

    return optax.GradientTransformation(init, update)
