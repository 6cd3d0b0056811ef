"""First-order methods that optax lacks or has in another form: AMSGrad and Nadam as PyTorch has them, and learning rates by hypergradient."""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_range
from dljax.core.contract import Numeric


@functools.cache
def checked(name: str) -> Any:
    """What optax has of that name; where it takes a learning rate, one that is negative or NaN is refused, for it would climb without a word.

    Raises:
      AttributeError: optax has none.

    >>> checked("sgd")(-0.1)
    Traceback (most recent call last):
    ValueError: sgd: learning_rate must be in [0, inf), got -0.1
    """
    build = getattr(optax, name)
    if not inspect.isfunction(build) or "learning_rate" not in inspect.signature(build).parameters:
        return build

    @functools.wraps(build)
    def refusing(*args: Any, **options: Any) -> Any:
        _check_rate(name, inspect.signature(build).bind_partial(*args, **options).arguments.get("learning_rate"))
        return build(*args, **options)

    return refusing


class AMSGradState(NamedTuple):
    """Step [], means of the gradient and of its square, and the largest mean of the square so far, like the parameters."""

    step: Int[Array, ""]
    mean: Any
    square: Any
    largest: Any


def amsgrad(learning_rate: optax.ScalarOrSchedule, b1: Numeric = 0.9, b2: Numeric = 0.999, eps: Numeric = 1e-8) -> optax.GradientTransformation:
    """Adam whose step sizes never grow, which mends Adam's proof of convergence.

      m = β₁ m + (1-β₁) g,   v = β₂ v + (1-β₂) g²,   v̂ = max(v̂, v)
      Δ = -α m / (1-β₁ᵗ) / (√(v̂ / (1-β₂ᵗ)) + ε)

    optax.amsgrad takes the maximum after the correction of the bias; this is PyTorch's, nearer to the paper, which corrects nothing.

    Args:
      learning_rate: α >= 0 or a schedule.
      b1, b2: in [0, 1).
      eps: ε >= 0.
    Raises:
      ValueError: an option out of its range.
    Source: Reddi, Kale and Kumar (2018), On the Convergence of Adam and Beyond, algorithm 2.

    >>> solver = amsgrad(0.1)
    >>> updates, _ = solver.update(jnp.array([3.0]), solver.init(jnp.zeros(1)))
    >>> updates.round(3).tolist() == jnp.array([-0.1]).tolist()
    True
    """
    _check_rate("amsgrad", learning_rate)
    check_range("amsgrad", "b1", b1, 0, 1, open_high=True)
    check_range("amsgrad", "b2", b2, 0, 1, open_high=True)
    check_range("amsgrad", "eps", eps, 0)

    def init(params: Any) -> AMSGradState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AMSGradState(jnp.int32(0), zeros, zeros, zeros)

    def update(grads: Any, state: AMSGradState, params: Any = None) -> tuple[Any, AMSGradState]:
        step = state.step + 1
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, grads)
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.square, grads)
        largest = jax.tree.map(jnp.maximum, state.largest, square)
        first, second = 1 - b1**step, 1 - b2**step
        updates = jax.tree.map(lambda m, v: (m / first / (jnp.sqrt(v / second) + eps)).astype(m.dtype), mean, largest)
        return updates, AMSGradState(step, mean, square, largest)

    return optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(learning_rate))


class NadamState(NamedTuple):
    """Step [], the product of the momenta so far [], means of the gradient and of its square, like the parameters."""

    step: Int[Array, ""]
    product: Float[Array, ""]
    mean: Any
    square: Any


def nadam(
    learning_rate: optax.ScalarOrSchedule, b1: Numeric = 0.9, b2: Numeric = 0.999, eps: Numeric = 1e-8, momentum_decay: Numeric = 4e-3
) -> optax.GradientTransformation:
    """Adam with Nesterov's momentum, which is warmed up.

      μ_t = β₁ (1 - ½ 0.96^(ψt)),   m = β₁ m + (1-β₁) g,   v = β₂ v + (1-β₂) g²
      Δ = -α (μ_{t+1} m / (1 - Π_{i<=t+1} μ_i) + (1-μ_t) g / (1 - Π_{i<=t} μ_i)) / (√(v / (1-β₂ᵗ)) + ε)

    optax.nadam keeps μ constant.

    Args:
      learning_rate: α >= 0 or a schedule.
      b1, b2: in [0, 1).
      eps: ε >= 0.
      momentum_decay: ψ >= 0.
    Raises:
      ValueError: an option out of its range.
    Source: Dozat (2016), Incorporating Nesterov Momentum into Adam, algorithm 2.

    >>> solver = nadam(0.1)
    >>> updates, _ = solver.update(jnp.array([3.0]), solver.init(jnp.zeros(1)))
    >>> bool(updates[0] < 0)
    True
    """
    _check_rate("nadam", learning_rate)
    check_range("nadam", "b1", b1, 0, 1, open_high=True)
    check_range("nadam", "b2", b2, 0, 1, open_high=True)
    check_range("nadam", "eps", eps, 0)
    check_range("nadam", "momentum_decay", momentum_decay, 0)

    def init(params: Any) -> NadamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return NadamState(jnp.int32(0), jnp.ones((), jnp.result_type(float)), zeros, zeros)

    def update(grads: Any, state: NadamState, params: Any = None) -> tuple[Any, NadamState]:
        step = state.step + 1
        now, following = (b1 * (1 - 0.5 * 0.96 ** (number * momentum_decay)) for number in (step, step + 1))
        product = state.product * now
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, grads)
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.square, grads)
        ahead, here, second = following / (1 - product * following), (1 - now) / (1 - product), 1 - b2**step

        def direction(m: Array, g: Array, v: Array) -> Array:
            return ((ahead * m + here * g) / (jnp.sqrt(v / second) + eps)).astype(m.dtype)

        return jax.tree.map(direction, mean, grads, square), NadamState(step, product, mean, square)

    return optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(learning_rate))


class HypergradientState(NamedTuple):
    """The learning rate [], the last direction, like the parameters, and the state of what makes directions."""

    learning_rate: Float[Array, ""]
    direction: Any
    inner: Any


def hypergradient(learning_rate: Numeric, hyper_rate: Numeric, inner: optax.GradientTransformation | None = None) -> optax.GradientTransformation:
    """A learning rate that descends its own gradient.

      ∂f(x_t)/∂α = -∇f(x_t)ᵀ u_{t-1},   α_t = α_{t-1} + β ∇f(x_t)ᵀ u_{t-1},   x_{t+1} = x_t - α_t u_t

    Args:
      learning_rate: the first α >= 0; may be traced.
      hyper_rate: β >= 0; may be traced.
      inner: makes directions u of gradients, `optax.scale_by_adam()` for Adam; by default u is the gradient itself.
    Returns:
      A transformation; the α of its state is `state.learning_rate`.
    Raises:
      ValueError: an option out of its range.
    Source: Baydin et al. (2018), Online Learning Rate Adaptation with Hypergradient Descent, algorithms 4 and 5.

    >>> solver = hypergradient(0.1, 0.01)
    >>> state = solver.init(jnp.zeros(1))
    >>> for _ in range(2):
    ...     updates, state = solver.update(jnp.array([2.0]), state)
    >>> print(state.learning_rate)  # 0.1 + 0.01 · 2 · 2
    0.14
    """
    check_range("hypergradient", "learning_rate", learning_rate, 0)
    check_range("hypergradient", "hyper_rate", hyper_rate, 0)
    directions = optax.identity() if inner is None else inner

    def init(params: Any) -> HypergradientState:
        return HypergradientState(jnp.asarray(learning_rate, jnp.result_type(float)), jax.tree.map(jnp.zeros_like, params), directions.init(params))

    def update(grads: Any, state: HypergradientState, params: Any = None) -> tuple[Any, HypergradientState]:
        rate = state.learning_rate + hyper_rate * optax.tree.vdot(grads, state.direction)
        direction, inner_state = directions.update(grads, state.inner, params)
        rate = rate.astype(state.learning_rate.dtype)
        return jax.tree.map(lambda u: (-rate * u).astype(u.dtype), direction), HypergradientState(rate, direction, inner_state)

    return optax.GradientTransformation(init, update)


def _check_rate(who: str, learning_rate: Any) -> None:
    if learning_rate is not None and not callable(learning_rate):
        check_range(who, "learning_rate", learning_rate, 0)
