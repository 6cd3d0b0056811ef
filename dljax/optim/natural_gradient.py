"""The natural gradient: steepest descent in the distance between distributions, by conjugate gradients (Amari, 1998)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Int

from dljax.core.axis import psum
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric, Params
from dljax.core.rule import Problem, Seen, UpdateRule, refuse_penalty
from dljax.optim.fisher import Likelihood, likelihood_of, weighted


class NaturalGradientState(NamedTuple):
    """Step [], which a learning-rate schedule is asked with."""

    step: Int[Array, ""]


def natural_gradient(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    damping: Numeric = 1e-3,
    max_divergence: Numeric = 0.1,
    max_iterations: int = 20,
    likelihood: str | Likelihood | None = None,
) -> UpdateRule:
    """The gradient times the inverse of the Fisher information: as a rule for `supervised`.

      (F + λ I) d = ∇L,   θ⁺ = θ - α d,   α = min(learning rate, √(2 ε / dᵀF d))

    ½ α² dᵀF d is the divergence KL(p_θ | p_θ⁺) to second order: ε bounds how far the model's predictions may move in a step. With λ = 0 the step
    is the same whatever linear coordinates the parameters are written in.

    Args:
      learning_rate: a number > 0 or a schedule; 1 is a Gauss-Newton step.
      damping: λ >= 0; may be traced.
      max_divergence: ε > 0, in nats, infinity for none; may be traced.
      max_iterations: of conjugate gradients, >= 1, each a pass forward and one back; they end where the residual has fallen to 1e-5 of the gradient.
      likelihood: of the targets, a name in `dljax.optim.fisher.LIKELIHOODS` or a `Likelihood`; None for that behind the loss: categorical for
        `cross_entropy`, Bernoulli for `sigmoid_binary_cross_entropy`, Gaussian for `squared_error`.
    Returns:
      An `UpdateRule` that reports `divergence` [], ½ α² dᵀF d in nats.
    Raises:
      ValueError: an option out of its range; a loss whose distribution is not known.
    Source: Amari (1998), Natural gradient works efficiently in learning; Martens (2020), New insights and perspectives, JMLR 21; Schulman et al.
      (2015) for the step in terms of a divergence.

    >>> from flax import linen
    >>> from dljax.objectives import cross_entropy
    >>> from dljax.supervised import supervised
    >>> learner = supervised(linen.Dense(2), cross_entropy, natural_gradient())
    >>> batch = {"x": jnp.eye(3), "y": jnp.array([0, 1, 1])}
    >>> state, metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
    >>> sorted(metrics)
    ['divergence', 'loss']
    """
    if not callable(learning_rate):
        check_range("natural_gradient", "learning_rate", learning_rate, 0, open_low=True)
    check_range("natural_gradient", "damping", damping, 0)
    check_range("natural_gradient", "max_divergence", max_divergence, 0, open_low=True)
    check_int("natural_gradient", "max_iterations", max_iterations, minimum=1)
    if likelihood is not None:
        likelihood = likelihood_of("natural_gradient", likelihood)

    def init(params: Params, problem: Problem) -> NaturalGradientState:
        refuse_penalty("natural_gradient", params, problem)
        likelihood_of("natural_gradient", likelihood, problem.function)
        return NaturalGradientState(jnp.int32(0))

    def update(
        key: Key, params: Params, state: NaturalGradientState, problem: Problem
    ) -> tuple[Params, NaturalGradientState, Seen, Mapping[str, Any]]:
        chosen = likelihood_of("natural_gradient", likelihood, problem.function)
        outputs, push, model_state = jax.linearize(problem.forward, params, has_aux=True)
        pull = jax.linear_transpose(push, params)
        slope, loss = jax.grad(problem.loss, has_aux=True)(outputs)
        gradient = psum(pull(slope)[0])
        weights = problem.weights(outputs)

        def times(v: Params) -> Params:
            return psum(pull(weighted(weights, chosen.product, outputs, push(v)))[0])

        def damped(v: Params) -> Params:
            return jax.tree.map(lambda a, b: a + jnp.asarray(damping, a.dtype) * b, times(v), v)

        direction, _ = cg(damped, gradient, tol=1e-5, maxiter=max_iterations)
        curvature = optax.tree.vdot(direction, times(direction))
        rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
        rate = jnp.minimum(rate, jnp.sqrt(2 * max_divergence / jnp.maximum(curvature, jnp.finfo(curvature.dtype).tiny)))
        params = jax.tree.map(lambda leaf, d: leaf - (rate * d).astype(leaf.dtype), params, direction)
        return params, NaturalGradientState(state.step + 1), Seen(outputs, model_state, loss), {"divergence": 0.5 * rate**2 * curvature}

    return UpdateRule(init, update)
