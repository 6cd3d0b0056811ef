"""Adversarial losses and penalties: what the two players of a GAN minimise, as pairs of pure functions of logits."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus
from jaxtyping import Array, Float

from dljax.core.checks import check_range
from dljax.core.contract import Key, Numeric

type_aliases = ("Logits", "Critic", "Penalty")

Logits = Float[Array, " B"]
Critic = Callable[[Float[Array, "B ..."]], Logits]
Penalty = Callable[[Key, Critic, Float[Array, "B ..."], Float[Array, "B ..."]], Float[Array, ""]]


class AdversarialLoss(NamedTuple):
    """What each player minimises, given the discriminator's logits of real and of generated examples.

    Attributes:
      discriminator: `(real [B], fake [B]) -> []`.
      generator: `(real [B], fake [B]) -> []`; most losses look at `fake` alone.

    >>> shifted = AdversarialLoss(hinge.discriminator, lambda real, fake: (real - fake).mean())
    >>> float(shifted.generator(jnp.ones(2), jnp.zeros(2)))
    1.0
    """

    discriminator: Callable[[Logits, Logits], Float[Array, ""]]
    generator: Callable[[Logits, Logits], Float[Array, ""]]


def _logistic(real: Logits, fake: Logits) -> Float[Array, ""]:
    return softplus(-real).mean() + softplus(fake).mean()


minimax = AdversarialLoss(_logistic, lambda real, fake: -softplus(fake).mean())
"""The zero-sum game: max_D min_G E log D(x) + E log(1 - D(G(z))), D = sigmoid(logit) (Goodfellow et al., 2014, eq. 1)."""

non_saturating = AdversarialLoss(_logistic, lambda real, fake: softplus(-fake).mean())
"""Minimax with the generator's -E log D(G(z)), whose gradient lives where the discriminator wins (Goodfellow et al., 2014, section 3)."""

least_squares = AdversarialLoss(
    lambda real, fake: 0.5 * (jnp.square(real - 1).mean() + jnp.square(fake).mean()),
    lambda real, fake: 0.5 * jnp.square(fake - 1).mean(),
)
"""Real examples to 1, generated ones to 0, the generator to 1 (Mao et al., 2017, eq. 9)."""

hinge = AdversarialLoss(lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(), lambda real, fake: -fake.mean())
"""Margins of one (Lim and Ye, 2017; Miyato et al., 2018, eq. 16-17)."""

wasserstein = AdversarialLoss(lambda real, fake: fake.mean() - real.mean(), lambda real, fake: -fake.mean())
"""The Wasserstein-1 distance where the critic is 1-Lipschitz: give it `gradient_penalty` (Arjovsky et al., 2017, eq. 2)."""


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
