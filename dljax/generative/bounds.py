"""Divergences of variational inference, as functions of the log weights of a few samples of the guide.

With z_1 ... z_K ~ q and w_k = log p(x, z_k) - log q(z_k), each divergence has two equivalent forms of the gradient of what it minimises:

  -∇ = E Σ_k f_k(w) ∇_φ log q(z_k; φ)  =  E Σ_k ∂f_k/∂w_k · ∂w_k/∂z_k · ∂z_k/∂φ

The first takes no derivative of the model, the second no score (Tucker et al., 2019, eq. 5): it vanishes where q is the posterior.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import logsumexp, softmax
from jaxtyping import Array, Float

from dljax.core.checks import check_range

type_aliases = ("Weights",)

Weights = Float[Array, " K"]


class Divergence(NamedTuple):
    """How far a guide is from the posterior, seen through log weights [K].

    Attributes:
      name: for messages.
      value: `w [K] -> []`, nats; what is minimised.
      score: `w -> f [K]`, the weights of ∇ log q(z_k).
      path: `w -> [K]`, ∂f_k/∂w_k, the weights of ∂w_k/∂z_k · ∂z_k/∂φ.
      is_bound: whether the derivative of `value` through reparameterised samples is the gradient as well.

    >>> reverse_kl.path(jnp.array([1.0, 3.0])).tolist()
    [0.5, 0.5]
    """

    name: str
    value: Callable[[Weights], Float[Array, ""]]
    score: Callable[[Weights], Weights]
    path: Callable[[Weights], Weights]
    is_bound: bool = True


reverse_kl = Divergence("reverse_kl", lambda w: -w.mean(), lambda w: jnp.full_like(w, w.mean()), lambda w: jnp.full_like(w, 1 / w.size))
"""KL(q || p), up to the evidence: minus the evidence lower bound (ELBO), -E_q[log p(x, z) - log q(z)]. It seeks a mode."""


def renyi(alpha: float) -> Divergence:
    """The variational Rényi bound of K samples, minus it: from the evidence to the worst case.

      L_α = 1/(1 - α) log 1/K Σ_k exp((1 - α) w_k) <= log p(x) in the mean,   α >= 0

    α = 1 is the ELBO, α = 0 the bound of importance-weighted autoencoders, α = ½ Hellinger's. For many samples L_α falls as α grows.

    Args:
      alpha: α >= 0.
    Raises:
      ValueError: `alpha` < 0, where it is an upper bound: take `chi`.
    Source: Li and Turner (2016), Rényi Divergence Variational Inference, eq. 6 and 8.

    >>> print(-renyi(0.0).value(jnp.log(jnp.array([1.0, 3.0]))))  # log 2
    0.6931472
    """
    check_range("renyi", "alpha", alpha, 0, open_high=True)
    if alpha == 1:
        return reverse_kl
    bound, score, path = _power_bound(alpha)
    return Divergence(f"renyi({alpha:g})", lambda w: -bound(w), score, path)


def chi(order: float = 2.0) -> Divergence:
    """The χ upper bound of the evidence, which covers the posterior rather than seek its mode.

      U_n = 1/n log 1/K Σ_k exp(n w_k) >= log p(x) for many samples

    Args:
      order: n > 1.
    Raises:
      ValueError: `order` <= 1.
    Source: Dieng, Tran, Ranganath, Paisley and Blei (2017), Variational Inference via χ Upper Bound Minimization, eq. 4.

    >>> print(chi(2.0).value(jnp.log(jnp.array([1.0, 7.0]))))  # log 5
    1.609438
    """
    check_range("chi", "order", order, 1, open_low=True, open_high=True)
    bound, score, path = _power_bound(1 - order)
    return Divergence(f"chi({order:g})", bound, lambda w: -score(w), lambda w: -path(w))


def _normalised(w: Weights) -> Float[Array, ""]:
    log_shares = jax.nn.log_softmax(w)
    return (jnp.exp(log_shares) * (log_shares + jnp.log(w.size))).sum()


forward_kl = Divergence("forward_kl", _normalised, softmax, lambda w: softmax(w) * (1 - softmax(w)), is_bound=False)
"""KL(p || q) by self-normalised importance sampling, which covers the posterior: Σ w̄_k log(K w̄_k), w̄ = softmax(w).

Biased for few samples, in value (it is at most log K) and in gradient Σ w̄_k ∇ log q(z_k), as O(1/K) (Bornschein and Bengio, 2015).
"""


def _power_bound(alpha: float) -> tuple[Callable[[Weights], Float[Array, ""]], Callable[[Weights], Weights], Callable[[Weights], Weights]]:
    order = 1 - alpha

    def bound(w: Weights) -> Float[Array, ""]:
        return (logsumexp(order * w) - jnp.log(w.size)) / order

    def path(w: Weights) -> Weights:
        shares = softmax(order * w)
        return alpha * shares + order * jnp.square(shares)

    # The bound is a signal for every sample; its own derivative takes off what z_k does not decide.
    return bound, lambda w: bound(w) - softmax(order * w), path


importance_weighted = renyi(0.0)
"""Minus the importance-weighted bound log 1/K Σ exp(w_k), which rises to the evidence with K (Burda, Grosse and Salakhutdinov, 2016, eq. 8)."""
