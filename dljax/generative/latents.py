"""Spaces for the codes of an autoencoder: a prior and a family of posteriors around it, flat, spherical or hyperbolic."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric, Params
from dljax.generative.distribution import Distribution, standard_normal
from dljax.generative.hyperbolic import hyperbolic_normal, hyperboloid_point, origin_exp
from dljax.generative.power_spherical import power_spherical, power_spherical_kl_uniform
from dljax.generative.sphere import uniform_sphere, unit
from dljax.generative.von_mises_fisher import von_mises_fisher, von_mises_fisher_kl_uniform

type_aliases = ("Raw", "Codes")

Raw = Float[Array, "B R"]
Codes = Float[Array, "B Z"]


class Latent(NamedTuple):
    """What an encoder's raw outputs mean: a posterior of codes for each of a batch of examples, and the prior of codes.

    Attributes:
      size: Z, the length of a code, which the decoder takes.
      raw_size: R, how many numbers the encoder gives for an example; any numbers.
      prior: of a code.
      parameters: `raw [B, R] -> (location [B, ...], spread [B, ...])`, what the raw numbers stand for.
      sample: `(key, raw) -> codes [B, Z]`, one for each example, reparameterised.
      log_prob: `(raw, codes [B, Z]) -> [B]`, nats, with respect to the same measure as the prior's.
      kl: `(raw, codes) -> [B]`, the divergence of the posterior from the prior, nats: in closed form, or estimated at codes drawn from it.

    >>> latent = normal_latent(2)
    >>> codes = latent.sample(jax.random.key(0), jnp.zeros((3, 4)))
    >>> codes.shape, latent.kl(jnp.zeros((3, 4)), codes).tolist()
    ((3, 2), [0.0, 0.0, 0.0])
    """

    size: int
    raw_size: int
    prior: Distribution
    parameters: Callable[[Raw], tuple[Array, Array]]
    sample: Callable[[Key, Raw], Codes]
    log_prob: Callable[[Raw, Codes], Float[Array, " B"]]
    kl: Callable[[Raw, Codes], Float[Array, " B"]]


class LearnedLatent(NamedTuple):
    """A space of codes with parameters of its own, such as a learned prior, which are trained with those of the autoencoder.

    Attributes:
      size, raw_size: Z and R, as of a `Latent`.
      init: `key -> params`.
      at: `params -> Latent`.

    >>> prior = lambda scale: Distribution(lambda key, num: scale * jax.random.normal(key, (num, 1)), lambda z: norm.logpdf(z, 0, scale).sum(-1))
    >>> learned = LearnedLatent(1, 2, lambda key: jnp.ones(()), lambda scale: normal_latent(1)._replace(prior=prior(scale)))
    >>> learned.at(2.0).prior.sample(jax.random.key(0), 5).shape
    (5, 1)
    """

    size: int
    raw_size: int
    init: Callable[[Key], Params]
    at: Callable[[Params], Latent]


def normal_latent(size: int) -> Latent:
    """Flat space: p = N(0, I), q = N(μ, diag σ²), raw = (μ, log σ).

    Args:
      size: Z >= 1.
    Raises:
      ValueError: `size` < 1.
    Source: Kingma and Welling (2014), Auto-Encoding Variational Bayes, eq. 9-10.

    >>> normal_latent(3).raw_size
    6
    """
    check_int("normal_latent", "size", size, minimum=1)

    def parameters(raw: Raw) -> tuple[Array, Array]:
        mean, log_scale = jnp.split(raw, 2, axis=-1)
        return mean, log_scale

    def sample(key: Key, raw: Raw) -> Codes:
        mean, log_scale = parameters(raw)
        return mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)

    def log_prob(raw: Raw, codes: Codes) -> Float[Array, " B"]:
        mean, log_scale = parameters(raw)
        return norm.logpdf(codes, mean, jnp.exp(log_scale)).sum(-1)

    def kl(raw: Raw, codes: Codes) -> Float[Array, " B"]:
        return standard_normal_kl(*parameters(raw))

    return Latent(size, 2 * size, standard_normal(size), parameters, sample, log_prob, kl)


def von_mises_fisher_latent(size: int) -> Latent:
    """The unit sphere in R^d: a uniform prior, von Mises-Fisher posteriors; raw = (μ before its length is divided out, κ - 1 before softplus).

    Args:
      size: d >= 2, of the codes; the sphere has d - 1 dimensions.
    Raises:
      ValueError: `size` < 2.
    Source: Davidson, Falorsi, De Cao, Kipf and Tomczak (2018), Hyperspherical Variational Auto-Encoders, section 3.

    >>> latent = von_mises_fisher_latent(3)
    >>> codes = latent.sample(jax.random.key(0), jnp.ones((5, 4)))
    >>> jnp.linalg.norm(codes, axis=-1).round(4).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    check_int("von_mises_fisher_latent", "size", size, minimum=2)
    return _spherical(size, von_mises_fisher, von_mises_fisher_kl_uniform)


def power_spherical_latent(size: int) -> Latent:
    """The unit sphere in R^d: a uniform prior, power spherical posteriors; raw = (μ before its length is divided out, κ - 1 before softplus).

    Args:
      size: d >= 2, of the codes.
    Raises:
      ValueError: `size` < 2.
    Source: De Cao and Aziz (2020), The Power Spherical Distribution, section 4.2.

    >>> power_spherical_latent(3).raw_size
    4
    """
    check_int("power_spherical_latent", "size", size, minimum=2)
    return _spherical(size, power_spherical, power_spherical_kl_uniform)


def hyperbolic_latent(size: int, *, curvature: Numeric = -1.0) -> Latent:
    """Hyperbolic space of n dimensions: wrapped normals on the hyperboloid; raw = (log of μ at the origin, σ before softplus).

    Codes are points of the hyperboloid, n + 1 numbers. The prior has σ = 1 around the origin. The divergence has no closed form: it is
    log q - log p at the code.

    Args:
      size: n >= 1.
      curvature: K < 0; may be traced.
    Raises:
      ValueError: `size` < 1; a concrete `curvature` >= 0.
    Source: Nagano, Yamaguchi, Fujita and Koyama (2019), A Wrapped Normal Distribution on Hyperbolic Space, section 4.1.

    >>> latent = hyperbolic_latent(2)
    >>> latent.size, latent.raw_size
    (3, 4)
    """
    check_int("hyperbolic_latent", "size", size, minimum=1)
    check_range("hyperbolic_latent", "curvature", curvature, high=0, open_high=True)
    prior = hyperbolic_normal(hyperboloid_point(jnp.zeros(size), curvature=curvature), jnp.ones(size), curvature=curvature)

    def parameters(raw: Raw) -> tuple[Array, Array]:
        location, spread = jnp.split(raw, 2, axis=-1)
        return origin_exp(location, curvature=curvature), jax.nn.softplus(spread)

    def make(mean: Float[Array, " E"], scale: Float[Array, " n"]) -> Distribution:
        return hyperbolic_normal(mean, scale, curvature=curvature)

    sample, log_prob = _one_each(parameters, make)
    return Latent(size + 1, 2 * size, prior, parameters, sample, log_prob, lambda raw, codes: log_prob(raw, codes) - prior.log_prob(codes))


def standard_normal_kl(mean: Float[Array, "*B Z"], log_scale: Float[Array, "*B Z"]) -> Float[Array, "*B"]:
    """The divergence of a diagonal normal from the standard one, nats.

      KL(N(μ, diag σ²) || N(0, I)) = ½ Σ_i (μ_i² + σ_i² - 1 - log σ_i²)

    >>> print(standard_normal_kl(jnp.array([[3.0, 0.0]]), jnp.zeros((1, 2))))
    [4.5]
    """
    return 0.5 * (jnp.square(mean) + jnp.exp(2 * log_scale) - 1 - 2 * log_scale).sum(-1)


def _spherical(size: int, make: Callable[..., Distribution], kl_uniform: Callable[..., Array]) -> Latent:
    def parameters(raw: Raw) -> tuple[Array, Array]:
        # Less than 1 would let the posterior fall onto the prior early in training, and a decoder that is told nothing never asks again.
        return unit(raw[..., :-1]), 1 + jax.nn.softplus(raw[..., -1])

    sample, log_prob = _one_each(parameters, make)
    return Latent(size, size + 1, uniform_sphere(size), parameters, sample, log_prob, lambda raw, codes: kl_uniform(parameters(raw)[1], size=size))


def _one_each(parameters: Callable[[Raw], tuple[Array, Array]], make: Callable[..., Distribution]) -> tuple[Callable, Callable]:
    """Sample and log-density of a batch of distributions, each built where it is used."""

    def sample(key: Key, raw: Raw) -> Codes:
        return jax.vmap(lambda key, *one: make(*one).sample(key, 1)[0])(jax.random.split(key, len(raw)), *parameters(raw))

    def log_prob(raw: Raw, codes: Codes) -> Float[Array, " B"]:
        return jax.vmap(lambda code, *one: make(*one).log_prob(code))(codes, *parameters(raw))

    return sample, log_prob
