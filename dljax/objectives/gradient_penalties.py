"""Penalties on the slopes of a discriminator: what keeps it smooth, and the training of a GAN stable."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.core.checks import check_range
from dljax.core.contract import Key, Numeric

type_aliases = ("Critic", "Penalty")

Critic = Callable[[Float[Array, "B ..."]], Float[Array, " B"]]
Penalty = Callable[[Key, Critic, Float[Array, "B ..."], Float[Array, "B ..."]], Float[Array, ""]]


def r1(weight: Numeric) -> Penalty:
    """The zero-centred gradient penalty on real examples, which makes GAN training converge locally.

      γ/2 E |∇_x D(x)|²,  D the logit

    Args:
      weight: γ >= 0; may be traced.
    Returns:
      `penalty(key, critic, real [B, ...], fake [B, ...]) -> []`; the critic maps a batch to its logits, each from its own example alone.
    Raises:
      ValueError: `weight` < 0.
    Source: Mescheder, Geiger and Nowozin (2018), Which Training Methods for GANs do actually Converge?, eq. 9.

    >>> slope_two = lambda x: 2 * x[:, 0]
    >>> float(r1(1.0)(jax.random.key(0), slope_two, jnp.zeros((3, 1)), jnp.zeros((3, 1))))
    2.0
    """
    check_range("r1", "weight", weight, 0)

    def penalty(key: Key, critic: Critic, real: Float[Array, "B ..."], fake: Float[Array, "B ..."]) -> Float[Array, ""]:
        return weight / 2 * _squared_slopes(critic, real).mean()

    return penalty


def r2(weight: Numeric) -> Penalty:
    """The zero-centred gradient penalty on generated examples, the twin of `r1`.

      γ/2 E |∇_x D(G(z))|²,  D the logit

    Args:
      weight: γ >= 0; may be traced.
    Returns:
      `penalty(key, critic, real [B, ...], fake [B, ...]) -> []`, as of `r1`.
    Raises:
      ValueError: `weight` < 0.
    Source: Mescheder, Geiger and Nowozin (2018), Which Training Methods for GANs do actually Converge?, eq. 10.

    >>> parabola = lambda x: x[:, 0] ** 2
    >>> float(r2(1.0)(jax.random.key(0), parabola, jnp.zeros((3, 1)), jnp.ones((3, 1))))
    2.0
    """
    check_range("r2", "weight", weight, 0)

    def penalty(key: Key, critic: Critic, real: Float[Array, "B ..."], fake: Float[Array, "B ..."]) -> Float[Array, ""]:
        return weight / 2 * _squared_slopes(critic, fake).mean()

    return penalty


def gradient_penalty(weight: Numeric = 10.0, *, norm: Numeric = 1.0) -> Penalty:
    """The penalty on slopes other than `norm` between real and generated examples: a soft Lipschitz constraint.

      λ E (|∇_x D(x̂)| - c)²,  x̂ = u x + (1 - u) G(z),  u ~ U(0, 1)

    Args:
      weight: λ >= 0; may be traced.
      norm: c >= 0; may be traced.
    Returns:
      `penalty(key, critic, real [B, ...], fake [B, ...]) -> []`; the critic maps a batch to its logits, each from its own example alone.
    Raises:
      ValueError: `weight` < 0 or `norm` < 0.
    Source: Gulrajani et al. (2017), Improved Training of Wasserstein GANs, eq. 3.

    >>> slope_two = lambda x: 2 * x[:, 0]
    >>> float(gradient_penalty(10.0)(jax.random.key(0), slope_two, jnp.zeros((3, 1)), jnp.ones((3, 1))))
    10.0
    """
    check_range("gradient_penalty", "weight", weight, 0)
    check_range("gradient_penalty", "norm", norm, 0)

    def penalty(key: Key, critic: Critic, real: Float[Array, "B ..."], fake: Float[Array, "B ..."]) -> Float[Array, ""]:
        share = jax.random.uniform(key, (real.shape[0],) + (1,) * (real.ndim - 1))
        squares = _squared_slopes(critic, share * real + (1 - share) * fake)
        # The square root has no derivative at 0, where a fresh ReLU critic may well be.
        lengths = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
        return weight * jnp.square(lengths - norm).mean()

    return penalty


def _squared_slopes(critic: Critic, x: Float[Array, "B ..."]) -> Float[Array, " B"]:
    slopes = jax.grad(lambda x: critic(x).sum())(x)
    return jnp.square(slopes).reshape(x.shape[0], -1).sum(-1)
