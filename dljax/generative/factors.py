"""Guides of independent factors that are not normal: gamma, beta and von Mises by implicit reparameterisation; Bernoulli and categorical ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.nn import log_sigmoid
from jax.scipy.special import i0e
from jax.scipy.stats import beta, gamma
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric, Params
from dljax.generative.guides import Guide, Point, flat


def implicitly_reparameterised(cdf: Callable[[Params, Array], Array], params: Params, z: Float[Array, ""]) -> Float[Array, ""]:
    """A sample that was drawn in any way, rejection too, with its pathwise derivative with respect to the parameters.

      ∂z/∂φ = -(∂F(z; φ)/∂φ) / p(z; φ),   because F(z(φ); φ) stays what it was

    Args:
      cdf: `(params, z) -> F` [], up to a constant; differentiable in both. Its derivative in z is the density.
      params: φ.
      z: the sample; its own derivative is cut off.
    Returns:
      z itself, with first derivatives only.
    Source: Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients, eq. 5.

    >>> cdf = lambda rate, z: 1 - jnp.exp(-rate * z)  # z = ε / rate
    >>> float(jax.grad(lambda rate: implicitly_reparameterised(cdf, rate, jnp.float32(3.0)))(2.0))  # -z / rate
    -1.5
    """
    z = lax.stop_gradient(z)
    density = lax.stop_gradient(jax.grad(cdf, 1)(params, z))
    probability = cdf(params, z)
    return z - (probability - lax.stop_gradient(probability)) / density


def gamma_guide(like: Point, *, scale: Numeric = 0.1) -> Guide:
    """Independent gamma distributions of positive numbers, whose samples JAX differentiates implicitly.

      q(z) = Π_i Gamma(z_i; a_i, rate b_i)

    Args:
      like: a tree of positive numbers: the shapes of z, and where the means begin.
      scale: deviation over mean at the beginning, > 0: a = 1 / scale²; may be traced.
    Raises:
      ValueError: `like` is empty or not positive; `scale` <= 0.

    >>> guide = gamma_guide(jnp.array([2.0]), scale=0.5)
    >>> [moment.tolist() for moment in guide.moments(guide.init(jax.random.key(0)))]
    [[2.0], [1.0]]
    """
    start = _inside("gamma_guide", like, 0, np.inf)
    check_range("gamma_guide", "scale", scale, 0, open_low=True, open_high=True)

    def init(key: Key) -> Params:
        concentration = jnp.full_like(start, 1 / scale**2)
        return {"log_concentration": jnp.log(concentration), "log_rate": jnp.log(concentration / start)}

    def sample(key: Key, params: Params) -> Float[Array, " D"]:
        # In logarithms: a small concentration puts samples below the smallest float.
        return jnp.exp(jax.random.loggamma(key, jnp.exp(params["log_concentration"])) - params["log_rate"])

    def log_probs(params: Params, z: Float[Array, " D"]) -> Float[Array, " D"]:
        rate = jnp.exp(params["log_rate"])
        return gamma.logpdf(z * rate, jnp.exp(params["log_concentration"])) + params["log_rate"]

    def moments(params: Params) -> tuple[Array, Array]:
        mean = jnp.exp(params["log_concentration"] - params["log_rate"])
        return mean, mean * jnp.exp(-0.5 * params["log_concentration"])

    return _independent(like, init, sample, log_probs, moments)


def beta_guide(like: Point, *, concentration: Numeric = 100.0) -> Guide:
    """Independent beta distributions of numbers in (0, 1), by two gamma distributions.

      q(z) = Π_i Beta(z_i; a_i, b_i)

    Args:
      like: a tree of numbers in (0, 1): the shapes of z, and where the means begin.
      concentration: a + b at the beginning, > 0; may be traced.
    Raises:
      ValueError: `like` is empty or outside (0, 1); `concentration` <= 0.

    >>> guide = beta_guide(jnp.array([0.25]), concentration=4.0)
    >>> guide.moments(guide.init(jax.random.key(0)))[0].tolist()
    [0.25]
    """
    start = _inside("beta_guide", like, 0, 1)
    check_range("beta_guide", "concentration", concentration, 0, open_low=True, open_high=True)

    def init(key: Key) -> Params:
        return {"log_a": jnp.log(concentration * start), "log_b": jnp.log(concentration * (1 - start))}

    def sample(key: Key, params: Params) -> Float[Array, " D"]:
        one, other = jax.random.split(key)
        return jax.nn.sigmoid(jax.random.loggamma(one, jnp.exp(params["log_a"])) - jax.random.loggamma(other, jnp.exp(params["log_b"])))

    def log_probs(params: Params, z: Float[Array, " D"]) -> Float[Array, " D"]:
        return beta.logpdf(z, jnp.exp(params["log_a"]), jnp.exp(params["log_b"]))

    def moments(params: Params) -> tuple[Array, Array]:
        a, b = jnp.exp(params["log_a"]), jnp.exp(params["log_b"])
        return a / (a + b), jnp.sqrt(a * b / (a + b + 1)) / (a + b)

    return _independent(like, init, sample, log_probs, moments)


def von_mises_guide(like: Point, *, concentration: Numeric = 10.0) -> Guide:
    """Independent von Mises distributions of angles, radians.

      q(z) = Π_i exp(κ_i cos(z_i - μ_i)) / (2π I_0(κ_i))

    A sample is within π of its μ, not folded back. Its derivative is implicit, through a quadrature of the distribution function.

    Args:
      like: a tree of angles: the shapes of z, and where the means begin.
      concentration: κ at the beginning, > 0; may be traced.
    Raises:
      ValueError: `like` is empty; `concentration` <= 0.
    Source: Ulrich (1984), Wood (1994): the rejection sampler, in its form for two dimensions; Figurnov et al. (2018) for the derivative.

    >>> guide = von_mises_guide(0.5)
    >>> -jnp.pi < float(guide.sample(jax.random.key(1), guide.init(jax.random.key(0)))) - 0.5 < jnp.pi
    True
    """
    start, _ = flat("von_mises_guide", like)
    check_range("von_mises_guide", "concentration", concentration, 0, open_low=True, open_high=True)

    def init(key: Key) -> Params:
        return {"mean": start, "log_concentration": jnp.full_like(start, jnp.log(concentration))}

    def angle(key: Key, concentration: Float[Array, ""]) -> Float[Array, ""]:
        drawn = _von_mises(key, lax.stop_gradient(concentration))
        return implicitly_reparameterised(_von_mises_cdf, concentration, drawn)

    def sample(key: Key, params: Params) -> Float[Array, " D"]:
        return params["mean"] + jax.vmap(angle)(jax.random.split(key, start.size), jnp.exp(params["log_concentration"]))

    def log_probs(params: Params, z: Float[Array, " D"]) -> Float[Array, " D"]:
        concentration = jnp.exp(params["log_concentration"])
        # cos - 1 by the half angle, and the scaled Bessel function: κ may be large.
        return -2 * concentration * jnp.square(jnp.sin((z - params["mean"]) / 2)) - jnp.log(2 * jnp.pi * i0e(concentration))

    return _independent(like, init, sample, log_probs, None)


def bernoulli_guide(like: Point) -> Guide:
    """Independent Bernoulli distributions of 0.0 and 1.0; for score functions.

    Args:
      like: a tree of real numbers: the shapes of z, and the log odds of 1 at the beginning.
    Raises:
      ValueError: `like` is empty or holds something else.

    >>> guide = bernoulli_guide(jnp.zeros(2))
    >>> guide.moments(guide.init(jax.random.key(0)))[0].tolist()
    [0.5, 0.5]
    """
    start, _ = flat("bernoulli_guide", like)

    def sample(key: Key, params: Params) -> Float[Array, " D"]:
        return jax.random.bernoulli(key, jax.nn.sigmoid(params["logits"])).astype(start.dtype)

    def log_probs(params: Params, z: Float[Array, " D"]) -> Float[Array, " D"]:
        return jnp.where(z > 0.5, log_sigmoid(params["logits"]), log_sigmoid(-params["logits"]))

    def moments(params: Params) -> tuple[Array, Array]:
        mean = jax.nn.sigmoid(params["logits"])
        return mean, jnp.exp(0.5 * (log_sigmoid(params["logits"]) + log_sigmoid(-params["logits"])))

    return _independent(like, lambda key: {"logits": start}, sample, log_probs, moments)._replace(is_reparameterised=False)


def categorical_guide(num_sites: int, num_classes: int) -> Guide:
    """Independent categorical distributions, z int32 [num_sites] of classes 0 ... num_classes - 1; for score functions.

    Raises:
      ValueError: `num_sites` < 1 or `num_classes` < 2.

    >>> guide = categorical_guide(5, 3)
    >>> guide.sample(jax.random.key(1), guide.init(jax.random.key(0))).shape
    (5,)
    """
    check_int("categorical_guide", "num_sites", num_sites, minimum=1)
    check_int("categorical_guide", "num_classes", num_classes, minimum=2)

    def sample(key: Key, params: Params) -> Int[Array, " D"]:
        return jax.random.categorical(key, params["logits"]).astype(jnp.int32)

    def log_probs(params: Params, z: Int[Array, " D"]) -> Float[Array, " D"]:
        return jnp.take_along_axis(jax.nn.log_softmax(params["logits"]), z[:, None], 1)[:, 0]

    def sample_and_log_prob(key: Key, params: Params) -> tuple[Point, Float[Array, ""]]:
        z = sample(key, params)
        return z, log_probs(params, z).sum()

    def init(key: Key) -> Params:
        return {"logits": jnp.zeros((num_sites, num_classes))}

    return Guide(init, sample, lambda params, z: log_probs(params, z).sum(), sample_and_log_prob, log_probs, is_reparameterised=False)


def _independent(like: Point, init: Callable, sample: Callable, log_probs: Callable, moments: Callable | None) -> Guide:
    """A guide on a tree from functions on its vector."""
    _, unravel = flat("guide", like)

    def of_tree(params: Params, z: Point) -> Float[Array, " D"]:
        return log_probs(params, ravel_pytree(z)[0])

    def sample_and_log_prob(key: Key, params: Params) -> tuple[Point, Float[Array, ""]]:
        z = sample(key, params)
        return unravel(z), log_probs(params, z).sum()

    def moments_of_tree(params: Params) -> tuple[Any, Any]:
        mean, scale = moments(params)  # type: ignore[misc]
        return unravel(mean), unravel(scale)

    return Guide(
        init,
        lambda key, params: unravel(sample(key, params)),
        lambda params, z: of_tree(params, z).sum(),
        sample_and_log_prob,
        of_tree,
        None if moments is None else moments_of_tree,
    )


def _inside(who: str, like: Point, low: float, high: float) -> Float[Array, " D"]:
    start, _ = flat(who, like)
    check_range(who, "like", start, low, high, open_low=True, open_high=True)
    return start


def _von_mises(key: Key, concentration: Float[Array, ""]) -> Float[Array, ""]:
    """An angle around 0. Everything is in terms of 1 - cos, which keeps its digits where the angle is small."""
    b = 1 / (2 * concentration + jnp.sqrt(4 * jnp.square(concentration) + 1))

    def draw(carry: tuple) -> tuple:
        key, _, _ = carry
        key, shape_key, accept_key = jax.random.split(key, 3)
        share = jnp.square(jnp.sin(0.5 * jnp.pi * jax.random.uniform(shape_key, dtype=b.dtype)))  # Beta(½, ½)
        height = 2 * b * share / (1 - (1 - b) * share)  # 1 - cos
        center = 2 * b / (1 + b)
        log_ratio = concentration * (center - height) + jnp.log((center + (1 - center) * height) * jnp.square(1 + b) / (4 * b))
        return key, height, jnp.log(jax.random.uniform(accept_key, dtype=b.dtype)) <= log_ratio

    sign_key, key = jax.random.split(key)
    _, height, _ = lax.while_loop(lambda carry: ~carry[2], draw, (key, jnp.zeros_like(b), jnp.bool_(False)))
    return jnp.where(jax.random.bernoulli(sign_key), 1, -1) * 2 * jnp.arcsin(jnp.sqrt(jnp.clip(height / 2, 0, 1)))


def _von_mises_cdf(concentration: Float[Array, ""], z: Float[Array, ""]) -> Float[Array, ""]:
    """F(z) - ½, by Gauss's rule on [0, z]."""
    nodes, weights = (jnp.asarray(part, z.dtype) for part in np.polynomial.legendre.leggauss(48))
    heights = 2 * jnp.square(jnp.sin(z * (nodes + 1) / 4))
    return z / 2 * (weights * jnp.exp(-concentration * heights)).sum() / (2 * jnp.pi * i0e(concentration))
