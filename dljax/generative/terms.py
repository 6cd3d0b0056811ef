"""Terms: what the players of a GAN minimise besides the adversarial loss. Each makes another GAN of the same two networks.

A discriminator may return a pair: its logits, and further outputs that only terms look at, such as the logits of classes. What a generator does with
its latents is its own: a code is a part of them that it is given in another form, and that the further outputs must find again.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric
from dljax.nn.model import Model, Variables, as_model
from dljax.objectives.losses import cross_entropy


class Round(NamedTuple):
    """One round of a game, as terms see it.

    Attributes:
      latents: z [B, Z].
      context: what both players were given besides, or None.
      real, fake: examples [B, ...] and G(z), before any remedy's view.
      of_real, of_fake: the discriminator's further outputs.
    """

    latents: Float[Array, "B Z"]
    context: Any
    real: Float[Array, "B ..."]
    fake: Float[Array, "B ..."]
    of_real: Any
    of_fake: Any


class Term(NamedTuple):
    """Something that one or both players minimise besides the adversarial loss.

    Attributes:
      name: its metrics are `generator_<name>` and `discriminator_<name>`.
      generator, discriminator: `Round -> []`, added to that player's objective; None where the player does not care.

    >>> dark = Term("brightness", generator=lambda round: round.fake.mean())
    >>> float(dark.generator(Round(None, None, None, jnp.array([1.0, 3.0]), None, None)))
    2.0
    """

    name: str
    generator: Callable[[Round], Float[Array, ""]] | None = None
    discriminator: Callable[[Round], Float[Array, ""]] | None = None


def auxiliary_classification(weight: Numeric = 1.0) -> Term:
    """Both players want the class to be seen in the picture: the discriminator's further outputs are logits of the classes (AC-GAN).

      D: λ (-E log C(y|x) - E log C(y|G(z, y))),   G: -λ E log C(y|G(z, y))

    The context is the label, y [B]; a discriminator that is to be told nothing of it leaves its own copy alone.

    Args:
      weight: λ >= 0; may be traced.
    Raises:
      ValueError: λ < 0; when traced: a discriminator without further outputs.
    Source: Odena, Olah and Shlens (2017), Conditional Image Synthesis with Auxiliary Classifier GANs, eq. 3.

    >>> undecided = Round(None, jnp.array([0, 1]), None, None, jnp.zeros((2, 2)), jnp.zeros((2, 2)))
    >>> term = auxiliary_classification()
    >>> round(float(term.generator(undecided)), 4), round(float(term.discriminator(undecided)), 4)  # log 2, twice
    (0.6931, 1.3863)
    """
    check_range("auxiliary_classification", "weight", weight, 0)

    def of(outputs: Float[Array, "B K"], round: Round) -> Float[Array, ""]:
        return weight * cross_entropy(_further("auxiliary_classification", outputs), round.context).mean()

    return Term("classification", lambda round: of(round.of_fake, round), lambda round: of(round.of_real, round) + of(round.of_fake, round))


def reconstruction(weight: Numeric = 100.0) -> Term:
    """The generator also wants to hit the example itself, which a rich context such as a picture determines (pix2pix).

      G: λ E |x - G(z, c)|₁,   a mean over pixels

    Args:
      weight: λ >= 0; may be traced.
    Raises:
      ValueError: λ < 0.
    Source: Isola et al. (2017), Image-to-Image Translation with Conditional Adversarial Networks, eq. 3 and 4.

    >>> float(reconstruction(10.0).generator(Round(None, None, jnp.zeros((1, 2)), jnp.array([[0.5, 0.0]]), None, None)))
    2.5
    """
    check_range("reconstruction", "weight", weight, 0)
    return Term("reconstruction", lambda round: weight * jnp.abs(round.real - round.fake).mean())


def feature_matching(weight: Numeric = 1.0) -> Term:
    """The generator also wants the mean of the discriminator's further outputs to be that of real examples.

      G: λ |E f(x) - E f(G(z))|²

    Args:
      weight: λ >= 0; may be traced.
    Raises:
      ValueError: λ < 0; when traced: a discriminator without further outputs.
    Source: Salimans et al. (2016), Improved Techniques for Training GANs, section 3.1.

    >>> round = Round(None, None, None, None, jnp.array([[0.0], [2.0]]), jnp.array([[4.0], [4.0]]))
    >>> float(feature_matching().generator(round))
    9.0
    """
    check_range("feature_matching", "weight", weight, 0)

    def apart(round: Round) -> Float[Array, ""]:
        real, fake = (_further("feature_matching", outputs).mean(0) for outputs in (round.of_real, round.of_fake))
        return weight * jnp.square(real - fake).sum()

    return Term("features", apart)


class Code(NamedTuple):
    """A part of the latents that is meant to be found again in what is made of them.

    Attributes:
      read: z [B, Z] to c [B, ...].
      write: z [B, Z] to what the generator is given instead [B, Z].
      log_posterior: `(outputs, c) -> [B]`, log Q(c|x) by the further outputs of the discriminator.
      entropy: H(c), nats.
    """

    read: Callable[[Float[Array, "B Z"]], Array]
    write: Callable[[Float[Array, "B Z"]], Float[Array, "B Z"]]
    log_posterior: Callable[[Any, Array], Float[Array, " B"]]
    entropy: float


def categorical_code(num: int) -> Code:
    """One of K values, each as likely: which of the first K latents is the largest. The generator is given it as 0 and 1 in their places.

    Args:
      num: K >= 2, not above the size of the latents. The further outputs are K logits.
    Raises:
      ValueError: K < 2.

    >>> code, z = categorical_code(2), jnp.array([[0.1, 0.5, 9.0]])
    >>> code.read(z).tolist(), code.write(z).tolist()
    ([1], [[0.0, 1.0, 9.0]])
    """
    check_int("categorical_code", "num", num, minimum=2)

    def read(z: Float[Array, "B Z"]) -> Array:
        return z[:, :num].argmax(1)

    def write(z: Float[Array, "B Z"]) -> Float[Array, "B Z"]:
        return jnp.concatenate([jax.nn.one_hot(read(z), num, dtype=z.dtype), z[:, num:]], 1)

    return Code(read, write, lambda outputs, c: -cross_entropy(outputs, c), math.log(num))


def normal_code(num: int) -> Code:
    """The first K latents themselves, standard normal.

    Args:
      num: K >= 1. The further outputs are 2 K numbers, μ and then log σ of each.
    Raises:
      ValueError: K < 1.

    >>> round(float(normal_code(1).log_posterior(jnp.zeros((1, 2)), jnp.zeros((1, 1)))[0]), 4)  # -½ log 2π
    -0.9189
    """
    check_int("normal_code", "num", num, minimum=1)

    def log_posterior(outputs: Float[Array, "B R"], c: Float[Array, "B K"]) -> Float[Array, " B"]:
        mean, log_scale = jnp.split(outputs, 2, -1)
        return jax.scipy.stats.norm.logpdf((c - mean) * jnp.exp(-log_scale)).sum(1) - log_scale.sum(1)

    return Code(lambda z: z[:, :num], lambda z: z, log_posterior, num * 0.5 * math.log(2 * math.pi * math.e))


def coded(generator: Any, code: Code) -> Model:
    """A generator that is given the code in the form that `code.write` gives it.

    Args:
      generator: whatever `dljax.nn.as_model` takes, of latents [B, Z], and of a context where there is one.

    >>> same = (lambda key, z: {}, lambda params, z: z)
    >>> coded(same, categorical_code(2)).apply({"params": {}}, jnp.array([[0.5, 0.1]]))[0].tolist()
    [[1.0, 0.0]]
    """
    inner = as_model(generator)

    def apply(variables: Variables, z: Array, *context: Any, key: Key | None = None, train: bool = False) -> tuple[Any, Variables]:
        return inner.apply(variables, code.write(z), *context, key=key, train=train)

    return Model(lambda key, z, *context: inner.init(key, code.write(z), *context), apply)


def mutual_information(code: Code, weight: Numeric = 1.0) -> Term:
    """Both players want the code to be found again in the example: a bound of their mutual information grows (InfoGAN).

      I(c; G(z)) >= H(c) + E log Q(c|G(z)),   equal where Q is the posterior;   D and G minimise -λ E log Q

    The generator is `coded(generator, code)`, and Q the further outputs of the discriminator. The metrics, divided by λ and taken from
    `code.entropy`, are the bound.

    Args:
      code: `categorical_code(K)`, `normal_code(K)` or your own.
      weight: λ >= 0; may be traced.
    Raises:
      ValueError: λ < 0; when traced: a discriminator without further outputs.
    Source: Chen et al. (2016), InfoGAN, eq. 4 to 6.

    >>> round = Round(jnp.array([[1.0, 0.0]]), None, None, None, None, jnp.array([[50.0, 0.0]]))
    >>> float(mutual_information(categorical_code(2)).generator(round))  # nothing is left to say
    0.0
    """
    check_range("mutual_information", "weight", weight, 0)

    def missing(round: Round) -> Float[Array, ""]:
        return -weight * code.log_posterior(_further("mutual_information", round.of_fake), code.read(round.latents)).mean()

    return Term("information", missing, missing)


def _further(who: str, outputs: Any) -> Any:
    if outputs is None:
        raise ValueError(f"{who}: the discriminator must return a pair, logits and further outputs, got logits alone")
    return outputs
