"""Hebbian learning: connections that grow where input and output fire together (Oja, 1982; Sanger, 1989)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.core.axis import pmean
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Key, Learner, Metrics, Numeric


class HebbianState(NamedTuple):
    """The weights [K, D], a neuron in each row."""

    params: Float[Array, "K D"]


def oja(*, num_components: int = 1, learning_rate: Numeric = 0.01) -> Learner:
    """Linear neurons that find the principal components of centred inputs, without a gradient.

      y = W x,   ΔW = α (y xᵀ - lower(y yᵀ) W)

    For one neuron this is Oja's rule, Δw = α y (x - y w), whose weights tend to the first principal component, of length one. For more it is
    Sanger's: each neuron sees what those before it have left.

    Args:
      num_components: K >= 1 neurons.
      learning_rate: α > 0, well below 1 / E|x|²; may be traced.
    Returns:
      A learner on batches `{"x": [B, D]}`, updates averaged over B, with metrics `reconstruction_error` [], mean of |x - Wᵀy|², and
      `length` [], mean |w|. Its function is `encode(key, params, x) -> y [B, K]`.
    Raises:
      ValueError: an option out of its range.
    Source: Oja (1982), J. Math. Biology 15; Sanger (1989), Neural Networks 2.

    >>> learner = oja(num_components=2)
    >>> batch = {"x": jnp.ones((4, 3))}
    >>> state, metrics = learner.step(jax.random.key(0), learner.init(jax.random.key(1), batch), batch)
    >>> state.params.shape
    (2, 3)
    """
    check_int("oja", "num_components", num_components, minimum=1)
    check_range("oja", "learning_rate", learning_rate, 0, open_low=True)

    def init(key: Key, batch: Batch) -> HebbianState:
        weights = jax.random.normal(key, (num_components, batch["x"].shape[-1]))
        return HebbianState(weights / jnp.linalg.norm(weights, axis=1, keepdims=True))

    def step(key: Key, state: HebbianState, batch: Batch) -> tuple[HebbianState, Metrics]:
        x, weights = batch["x"], state.params
        y = x @ weights.T
        growth = pmean(y.T @ x / len(x) - jnp.tril(y.T @ y / len(x)) @ weights)
        error = jnp.square(x - y @ weights).sum(-1).mean()
        metrics = {"reconstruction_error": error, "length": jnp.linalg.norm(weights, axis=1).mean()}
        return HebbianState(weights + learning_rate * growth), metrics

    return Learner(init, step, functions={"encode": lambda key, params, x: x @ params.T})
