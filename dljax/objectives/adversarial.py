"""Adversarial losses: what the two players of a GAN minimise, as pairs of pure functions of logits.

In the docstrings p is the density of the real examples, q that of the generated ones, D* the discriminator that is best against q.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid, softplus
from jaxtyping import Array, Float

from dljax.core.checks import check_range
from dljax.core.contract import Numeric
from dljax.objectives.f_gan import F_DIVERGENCES, FDivergence

type_aliases = ("Logits",)

Logits = Float[Array, " B"]


class AdversarialLoss(NamedTuple):
    """What each player minimises, given the discriminator's logits of real and of generated examples.

    Attributes:
      discriminator: `(real [B], fake [B]) -> []`.
      generator: `(real [B], fake [B]) -> []`; most losses look at `fake` alone.
      optimal: log p/q, of any shape, to the logit of the best discriminator; None where the best logit is no function of p/q alone.

    >>> shifted = AdversarialLoss(hinge.discriminator, lambda real, fake: (real - fake).mean())
    >>> float(shifted.generator(jnp.ones(2), jnp.zeros(2)))
    1.0
    >>> round(float(least_squares.optimal(jnp.log(3.0))), 4)  # p / (p + q) where real examples are three times as likely
    0.75
    """

    discriminator: Callable[[Logits, Logits], Float[Array, ""]]
    generator: Callable[[Logits, Logits], Float[Array, ""]]
    optimal: Callable[[Float[Array, "*B"]], Float[Array, "*B"]] | None = None


def _logistic(real: Logits, fake: Logits) -> Float[Array, ""]:
    return softplus(-real).mean() + softplus(fake).mean()


def _log_ratio(log_ratio: Float[Array, "*B"]) -> Float[Array, "*B"]:
    return log_ratio


minimax = AdversarialLoss(_logistic, lambda real, fake: -softplus(fake).mean(), _log_ratio)
"""The zero-sum game: max_D min_G E log D(x) + E log(1 - D(G(z))), D = sigmoid(logit) (Goodfellow et al., 2014, eq. 1).

D* = p/(p+q), the logit log p/q; against it the game is worth 2 JS(p, q) - log 4, and that is what the generator minimises (theorem 1)."""

non_saturating = AdversarialLoss(_logistic, lambda real, fake: softplus(-fake).mean(), _log_ratio)
"""Minimax with the generator's -E log D(G(z)), whose gradient lives where the discriminator wins (Goodfellow et al., 2014, section 3).

D* = p/(p+q); against it the generator's gradient is that of KL(q ‖ p) - 2 JS(p, q) (Arjovsky and Bottou, 2017, theorem 2.5)."""


def least_squares_loss(*, fake: Numeric = 0.0, real: Numeric = 1.0, wanted: Numeric = 1.0) -> AdversarialLoss:
    """Regression of labels: real examples to b, generated ones to a, and the generator wants them to be c.

      L_D = ½ E (D(x) - b)² + ½ E (D(G(z)) - a)²,   L_G = ½ E (D(G(z)) - c)²

    D* = (b p + a q)/(p + q). With b - c = 1 and b - a = 2, E (D*(x) - c)² + E (D*(G(z)) - c)² is twice Pearson's χ²(q ‖ (p+q)/2), which is
    Σ (p - q)²/(p + q).

    Args:
      fake, real, wanted: a, b and c; may be traced. A `real` below 1 is one-sided label smoothing.
    Raises:
      ValueError: a label is not finite.
    Source: Mao et al. (2017), Least Squares Generative Adversarial Networks, eq. 2 and 8.

    >>> smoothed = least_squares_loss(real=0.9)
    >>> round(float(smoothed.discriminator(jnp.ones(2), jnp.zeros(2))), 4)
    0.005
    """
    for name, label in (("fake", fake), ("real", real), ("wanted", wanted)):
        check_range("least_squares_loss", name, label, open_low=True, open_high=True)
    return AdversarialLoss(
        lambda of_real, of_fake: 0.5 * (jnp.square(of_real - real).mean() + jnp.square(of_fake - fake).mean()),
        lambda of_real, of_fake: 0.5 * jnp.square(of_fake - wanted).mean(),
        lambda log_ratio: fake + (real - fake) * sigmoid(log_ratio),
    )


least_squares = least_squares_loss()
"""Real examples to 1, generated ones to 0, the generator to 1 (Mao et al., 2017, eq. 9). D* = p/(p+q), without a sigmoid."""

pearson = least_squares_loss(fake=-1.0, real=1.0, wanted=0.0)
"""Least squares with the labels under which Pearson's χ² is minimised (Mao et al., 2017, eq. 8). D* = (p-q)/(p+q)."""

hinge = AdversarialLoss(lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(), lambda real, fake: -fake.mean(), jnp.sign)
"""Margins of one (Lim and Ye, 2017; Miyato et al., 2018, eq. 16-17).

D* = sign(p - q), the loss then 2 - 2 TV(p, q); against it the generator's gradient is that of 2 TV(p, q), the total variation."""

wasserstein = AdversarialLoss(lambda real, fake: fake.mean() - real.mean(), lambda real, fake: -fake.mean())
"""The Wasserstein-1 distance where the critic is 1-Lipschitz (Arjovsky et al., 2017, eq. 2): W₁(p, q) = max E D(x) - E D(G(z)).

What keeps it so: `gradient_penalty`, `dljax.nn.spectral_norm`, or weights cut to a box by `dljax.optim.projected`. Without any there is no best
critic: the loss has no lower bound."""


def f_gan(divergence: str | FDivergence, *, is_saturating: bool = True) -> AdversarialLoss:
    """Any f-divergence as a game, through its variational bound.

      D_f(p ‖ q) = max_T E T(x) - E f*(T(G(z))),   T = g_f(logit),   T* = f'(p/q)

    Args:
      divergence: a name out of `F_DIVERGENCES` or an `FDivergence`.
      is_saturating: whether the generator minimises -E f*(T(G(z))), the same bound as the discriminator maximises, and with it D_f(p ‖ q); else
        -E T(G(z)), whose gradient does not die where the discriminator wins.
    Raises:
      ValueError: an unknown name.
    Source: Nowozin, Cseke and Tomioka (2016), f-GAN, eq. 4 to 7 and section 3.2.

    >>> real, fake = jnp.array([2.0]), jnp.array([-1.0])
    >>> float(f_gan("pearson").discriminator(real, fake))  # -(2 - (1/4 - 1))
    -2.75
    """
    if isinstance(divergence, str):
        if divergence not in F_DIVERGENCES:
            raise ValueError(f"f_gan: divergence must be one of {', '.join(map(repr, F_DIVERGENCES))}, or an FDivergence, got {divergence!r}")
        divergence = F_DIVERGENCES[divergence]
    activation, conjugate = divergence.activation, divergence.conjugate
    return AdversarialLoss(
        lambda real, fake: conjugate(fake).mean() - activation(real).mean(),
        lambda real, fake: -(conjugate if is_saturating else activation)(fake).mean(),
        divergence.optimal,
    )


def relativistic(loss: AdversarialLoss = non_saturating) -> AdversarialLoss:
    """Each real example against a generated one: the discriminator says by how much it is the more real of the two.

      L_D = E φ(D(x) - D(G(z))),   L_G = E φ(D(G(z)) - D(x)),   φ(t) = L(t, -t)/2, L the discriminator's loss

    Of the logistic loss φ is softplus(-t) and the pair RSGAN, of `hinge` relu(1 - t), of `pearson` (t - 1)²/2. Where φ is convex with φ'(0) != 0,
    φ(0) - min L_D is zero for p = q alone (Jolicoeur-Martineau, 2020, theorem 3.1).

    Args:
      loss: one that treats real and generated examples alike but for the sign: `non_saturating`, `hinge`, `pearson`.
    Source: Jolicoeur-Martineau (2019), The Relativistic Discriminator, eq. 11-12.

    >>> pair = relativistic()
    >>> float(pair.generator(jnp.zeros(1), jnp.full(1, 3.0))) == float(jax.nn.softplus(-3.0))
    True
    """

    def phi(margin: Logits) -> Float[Array, ""]:
        return loss.discriminator(margin, -margin) / 2

    return AdversarialLoss(lambda real, fake: phi(real - fake), lambda real, fake: phi(fake - real))


def relativistic_average(loss: AdversarialLoss = non_saturating) -> AdversarialLoss:
    """Each example against the mean of the other side.

      L_D = L(D(x) - E D(G(z)), D(G(z)) - E D(x)),   L_G = L(D(G(z)) - E D(x), D(x) - E D(G(z))),   L the discriminator's loss

    The means are those of the batch (of a device's share of it). Of the logistic loss it is RaGAN, of `hinge` and `pearson` RaHinge and RaLSGAN.

    Source: Jolicoeur-Martineau (2019), The Relativistic Discriminator, eq. 15-16.

    >>> pair = relativistic_average(hinge)
    >>> float(pair.discriminator(jnp.full(2, 9.0), jnp.full(2, 7.0)))  # 2 apart: beyond both margins
    0.0
    """

    def against_means(first: Logits, second: Logits) -> Float[Array, ""]:
        return loss.discriminator(first - second.mean(), second - first.mean())

    return AdversarialLoss(against_means, lambda real, fake: against_means(fake, real))


def label_smoothing(loss: AdversarialLoss, amount: Numeric = 0.1) -> AdversarialLoss:
    """One-sided: the discriminator is to say 1 - ε of real examples, so that it never grows too sure.

      L_D = -E[(1-ε) log D(x) + ε log(1 - D(x))] - E log(1 - D(G(z))),   D* = (1-ε) p/(p+q)

    Args:
      loss: `minimax` or `non_saturating`. Least squares have labels of their own: `least_squares_loss(real=1 - ε)`.
      amount: ε in [0, 1); may be traced.
    Raises:
      ValueError: ε outside [0, 1), or a loss without a probability.
    Source: Salimans et al. (2016), Improved Techniques for Training GANs, section 3.4.

    >>> loss = label_smoothing(minimax, 0.1)
    >>> round(float(jax.nn.sigmoid(loss.optimal(jnp.zeros(())))), 4)
    0.45
    """
    check_range("label_smoothing", "amount", amount, 0, 1, open_high=True)
    if loss.discriminator is not _logistic:
        raise ValueError("label_smoothing: loss must be minimax or non_saturating; of least squares say least_squares_loss(real=1 - amount)")
    return loss._replace(
        discriminator=lambda real, fake: _logistic(real, fake) + amount * real.mean(),
        optimal=lambda log_ratio: jnp.log1p(-amount) - jnp.logaddexp(-log_ratio, jnp.log(amount)),
    )


ADVERSARIAL_LOSSES: Mapping[str, AdversarialLoss] = MappingProxyType(
    {
        "minimax": minimax,
        "non_saturating": non_saturating,
        "least_squares": least_squares,
        "pearson": pearson,
        "hinge": hinge,
        "wasserstein": wasserstein,
        "relativistic": relativistic(),
        "relativistic_average": relativistic_average(),
        "relativistic_average_hinge": relativistic_average(hinge),
        "relativistic_average_pearson": relativistic_average(pearson),
        **{f"f_gan_{name}": f_gan(name) for name in F_DIVERGENCES},
    }
)
"""Every loss by its name; the f-GANs in their zero-sum form."""


def expected_losses(
    loss: AdversarialLoss, logits: Float[Array, " K"], p: Float[Array, " K"], q: Float[Array, " K"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What the players lose on average on a finite space, by enumeration: the exact game that batches estimate.

      Σ_ij p_i q_j L(D_i, D_j)

    Args:
      loss: any whose values are means over pairs of a real and a generated example: all but `relativistic_average`.
      logits: of each of the K places.
      p, q: how likely real and generated examples are there, each adding up to one.
    Returns:
      The expected loss of the discriminator and that of the generator.

    >>> p, q = jnp.array([0.75, 0.25]), jnp.array([0.25, 0.75])
    >>> lost, _ = expected_losses(hinge, hinge.optimal(jnp.log(p / q)), p, q)
    >>> float(lost)  # 2 - 2 TV
    1.0
    """
    pairs = jnp.meshgrid(logits, logits, indexing="ij")
    weights = p[:, None] * q[None]
    discriminator, generator = (
        jnp.sum(weights * jax.vmap(jax.vmap(lambda real, fake, player=player: player(real[None], fake[None])))(*pairs))
        for player in (loss.discriminator, loss.generator)
    )
    return discriminator, generator
