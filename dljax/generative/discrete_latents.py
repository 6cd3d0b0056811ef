"""Discrete codes of an autoencoder, drawn so that they have a derivative: Gumbel-softmax (Jang et al., 2017; Maddison et al., 2017)."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric
from dljax.generative.distribution import Distribution
from dljax.generative.latents import Codes, Latent, Raw

type_aliases = ("Classes",)

Classes = Float[Array, "*B G C"]  # logits, probabilities or one-hot vectors of G variables of C classes each


def gumbel_softmax(key: Key, logits: Float[Array, "*B C"], *, temperature: Numeric = 1.0, is_hard: bool = False) -> Float[Array, "*B C"]:
    """A sample of a categorical variable that is nearly one-hot, and differentiable in the logits.

      y = softmax((a + g)/τ),   g ~ Gumbel(0, 1),   argmax y ~ Categorical(softmax(a)) at every τ

    Args:
      logits: a, of the last axis.
      temperature: τ > 0: near 0 samples are one-hot and gradients vary wildly, at large values they are all alike; may be traced.
      is_hard: one-hot samples, whose derivative is that of the soft ones (straight through: biased).
    Raises:
      ValueError: a concrete `temperature` <= 0.
    Source: Jang, Gu and Poole (2017), Categorical Reparameterization with Gumbel-Softmax, eq. 2 and section 2.2.

    >>> print(gumbel_softmax(jax.random.key(0), jnp.array([0.0, 50.0]), is_hard=True))
    [0. 1.]
    """
    check_range("gumbel_softmax", "temperature", temperature, 0, open_low=True, open_high=True)
    soft = jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape, logits.dtype)) / temperature)
    if not is_hard:
        return soft
    hard = jax.nn.one_hot(soft.argmax(-1), soft.shape[-1], dtype=soft.dtype)
    return hard + (soft - lax.stop_gradient(soft))


def categorical_latent(groups: int, classes: int, *, temperature: Numeric = 0.5, is_relaxed: bool = False) -> Latent:
    """Codes of G independent variables of C classes each, as vectors [G·C]: uniform prior; raw = logits.

    By default codes are one-hot, their divergence is that of the categorical posterior,

      KL = Σ_g Σ_c q_gc log(C q_gc),

    bounds are bounds of a model of discrete codes, and gradients go straight through. Relaxed, they are points inside of the simplex, prior and
    posterior have the density of the Concrete distribution, the divergence is log q - log p at the code, and gradients are unbiased.

    Args:
      groups: G >= 1.
      classes: C >= 2.
      temperature: τ > 0, of the samples or of their derivatives; may be traced.
      is_relaxed: which of the two.
    Returns:
      A latent whose parameters are the probabilities [B, G·C] and the entropies [B, G], nats.
    Raises:
      ValueError: an option out of its range.
    Source: Jang, Gu and Poole (2017), section 3; Maddison, Mnih and Teh (2017), The Concrete Distribution, eq. 10 and section 3.3.

    >>> latent = categorical_latent(2, 3)
    >>> codes = latent.sample(jax.random.key(0), jnp.zeros((5, 6)))
    >>> codes.reshape(5, 2, 3).sum(-1).tolist()[0], round(float(latent.log_prob(jnp.zeros((5, 6)), codes)[0]), 4)  # -2 log 3
    ([1.0, 1.0], -2.1972)
    """
    check_int("categorical_latent", "groups", groups, minimum=1)
    check_int("categorical_latent", "classes", classes, minimum=2)
    check_range("categorical_latent", "temperature", temperature, 0, open_low=True, open_high=True)
    size = groups * classes

    def apart(flat: Float[Array, "*B Z"]) -> Classes:
        return flat.reshape(*flat.shape[:-1], groups, classes)

    def parameters(raw: Raw) -> tuple[Array, Array]:
        log_q = jax.nn.log_softmax(apart(raw))
        return jnp.exp(log_q).reshape(raw.shape), -(jnp.exp(log_q) * log_q).sum(-1)

    def sample(key: Key, raw: Raw) -> Codes:
        return gumbel_softmax(key, apart(raw), temperature=temperature, is_hard=not is_relaxed).reshape(raw.shape)

    def log_density(logits: Classes, codes: Classes) -> Float[Array, "*B"]:
        if not is_relaxed:
            return (codes * jax.nn.log_softmax(logits)).sum((-2, -1))
        # In float32 a class may have exactly nothing, where the density has a pole.
        log_codes = jnp.log(jnp.maximum(codes, jnp.finfo(codes.dtype).tiny))
        powers = logits - temperature * log_codes
        each = (powers - log_codes).sum(-1) - classes * jax.nn.logsumexp(powers, -1)
        return each.sum(-1) + groups * (gammaln(classes) + (classes - 1) * jnp.log(temperature))

    def log_prob(raw: Raw, codes: Codes) -> Float[Array, " B"]:
        return log_density(apart(raw), apart(codes))

    def prior_sample(key: Key, num: int) -> Codes:
        return sample(key, jnp.zeros((num, size)))

    def prior_log_prob(codes: Float[Array, "*N Z"]) -> Float[Array, "*N"]:
        return log_density(jnp.zeros_like(apart(codes)), apart(codes))

    def kl(raw: Raw, codes: Codes) -> Float[Array, " B"]:
        if is_relaxed:
            return log_prob(raw, codes) - prior_log_prob(codes)
        return groups * jnp.log(classes) - parameters(raw)[1].sum(-1)

    return Latent(size, size, Distribution(prior_sample, prior_log_prob), parameters, sample, log_prob, kl)
