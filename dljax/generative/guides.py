"""Guides: families of distributions that variational inference fits to a posterior; here normal ones and normalizing flows.

A guide speaks of one point z, a pytree of real numbers; `jax.vmap` it over keys. Independent factors that are not normal stand in `factors`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric, Params
from dljax.core.tree import named_leaves
from dljax.generative.bijectors import Bijector, exact_inverse

type_aliases = ("Point",)

Point = Any  # a pytree of arrays: one value of all that is unknown


class Guide(NamedTuple):
    """A family of distributions q(z; φ) over a pytree z: pure functions of its parameters φ.

    Attributes:
      init: `key -> params`.
      sample: `(key, params) -> z`.
      log_prob: `(params, z) -> []`, nats.
      sample_and_log_prob: `(key, params) -> (z, [])`, both for the price of the sample; gradients flow through both.
      log_probs: `(params, z) -> [D]`, whose sum is `log_prob`, one for each independent factor; None where they depend on each other.
      moments: `params -> (mean, scale)`, trees like z, in closed form; None where there is none.
      is_reparameterised: whether ∂z/∂φ of a sample is the pathwise derivative; never so for discrete z.

    >>> guide = mean_field_guide({"slope": 2.0}, scale=0.5)
    >>> params = guide.init(jax.random.key(0))
    >>> round(float(guide.log_prob(params, {"slope": jnp.float32(2.0)})), 4)  # -log(0.5 √(2π))
    -0.2258
    """

    init: Callable[[Key], Params]
    sample: Callable[[Key, Params], Point]
    log_prob: Callable[[Params, Point], Float[Array, ""]]
    sample_and_log_prob: Callable[[Key, Params], tuple[Point, Float[Array, ""]]]
    log_probs: Callable[[Params, Point], Float[Array, " D"]] | None = None
    moments: Callable[[Params], tuple[Point, Point]] | None = None
    is_reparameterised: bool = True


def mean_field_guide(like: Point, *, scale: Numeric = 0.1) -> Guide:
    """Independent normal distributions.

      q(z) = Π_i N(z_i; μ_i, σ_i²)

    Args:
      like: a tree of real numbers: the shapes of z, and where the means begin.
      scale: σ at the beginning, > 0; may be traced.
    Raises:
      ValueError: `like` is empty or holds something else; `scale` <= 0.

    >>> guide = mean_field_guide(jnp.zeros(3))
    >>> mean, scale = guide.moments(guide.init(jax.random.key(0)))
    >>> mean.tolist(), round(float(scale[0]), 4)
    ([0.0, 0.0, 0.0], 0.1)
    """
    start, unravel = flat("mean_field_guide", like)
    check_range("mean_field_guide", "scale", scale, 0, open_low=True, open_high=True)

    def init(key: Key) -> Params:
        return {"mean": start, "log_scale": jnp.full_like(start, jnp.log(scale))}

    def sample_and_log_prob(key: Key, params: Params) -> tuple[Point, Float[Array, ""]]:
        noise = jax.random.normal(key, start.shape, start.dtype)
        return unravel(params["mean"] + jnp.exp(params["log_scale"]) * noise), norm.logpdf(noise).sum() - params["log_scale"].sum()

    def log_probs(params: Params, z: Point) -> Float[Array, " D"]:
        noise = (ravel_pytree(z)[0] - params["mean"]) * jnp.exp(-params["log_scale"])
        return norm.logpdf(noise) - params["log_scale"]

    def moments(params: Params) -> tuple[Point, Point]:
        return unravel(params["mean"]), unravel(jnp.exp(params["log_scale"]))

    return complete(init, sample_and_log_prob, lambda params, z: log_probs(params, z).sum(), log_probs=log_probs, moments=moments)


def full_rank_guide(like: Point, *, scale: Numeric = 0.1) -> Guide:
    """A normal distribution with a covariance of its own, by a triangular factor.

      q(z) = N(z; μ, L Lᵀ),   L = diag(σ) (I + A),   A strictly lower triangular

    The numbers of A have no unit, so that one learning rate suits them all; D (D + 3) / 2 of the parameters are in use.

    Args:
      like: a tree of real numbers: the shapes of z, and where the mean begins.
      scale: σ at the beginning, > 0, where A = 0; may be traced.
    Raises:
      ValueError: `like` is empty or holds something else; `scale` <= 0.

    >>> guide = full_rank_guide(jnp.zeros(2), scale=1.0)
    >>> params = guide.init(jax.random.key(0)) | {"lower": jnp.array([[0.0, 0.0], [3.0, 0.0]])}
    >>> jnp.square(guide.moments(params)[1]).round(3).tolist()  # 1 + 3²
    [1.0, 10.0]
    """
    start, unravel = flat("full_rank_guide", like)
    check_range("full_rank_guide", "scale", scale, 0, open_low=True, open_high=True)

    def init(key: Key) -> Params:
        return {"mean": start, "log_scale": jnp.full_like(start, jnp.log(scale)), "lower": jnp.zeros((start.size, start.size), start.dtype)}

    def factor(params: Params) -> Float[Array, "D D"]:
        return jnp.tril(params["lower"], -1) + jnp.eye(start.size, dtype=start.dtype)

    def sample_and_log_prob(key: Key, params: Params) -> tuple[Point, Float[Array, ""]]:
        noise = jax.random.normal(key, start.shape, start.dtype)
        z = params["mean"] + jnp.exp(params["log_scale"]) * (factor(params) @ noise)
        return unravel(z), norm.logpdf(noise).sum() - params["log_scale"].sum()

    def log_prob(params: Params, z: Point) -> Float[Array, ""]:
        scaled = (ravel_pytree(z)[0] - params["mean"]) * jnp.exp(-params["log_scale"])
        noise = solve_triangular(factor(params), scaled, lower=True, unit_diagonal=True)
        return norm.logpdf(noise).sum() - params["log_scale"].sum()

    def moments(params: Params) -> tuple[Point, Point]:
        return unravel(params["mean"]), unravel(jnp.exp(params["log_scale"]) * jnp.linalg.norm(factor(params), axis=1))

    return complete(init, sample_and_log_prob, log_prob, moments=moments)


def low_rank_guide(like: Point, rank: int, *, scale: Numeric = 0.1) -> Guide:
    """A normal distribution whose covariance is a diagonal and a few directions: D (R + 2) parameters.

      q(z) = N(z; μ, diag(σ) (I + V Vᵀ) diag(σ)),   V [D, R]

    Its density takes the determinant and the inverse of I + Vᵀ V alone (Woodbury). V begins at small random numbers: at zero it would stay.

    Args:
      like: a tree of real numbers: the shapes of z, and where the mean begins.
      rank: R >= 1.
      scale: σ at the beginning, > 0; may be traced.
    Raises:
      ValueError: `like` is empty or holds something else; `rank` < 1 or `scale` <= 0.
    Source: Ong, Nott and Smith (2018), Gaussian Variational Approximation with a Factor Covariance Structure.

    >>> guide = low_rank_guide(jnp.zeros(5), 1)
    >>> guide.sample(jax.random.key(1), guide.init(jax.random.key(0))).shape
    (5,)
    """
    start, unravel = flat("low_rank_guide", like)
    check_int("low_rank_guide", "rank", rank, minimum=1)
    check_range("low_rank_guide", "scale", scale, 0, open_low=True, open_high=True)

    def init(key: Key) -> Params:
        directions = 0.1 * jax.random.normal(key, (start.size, rank), start.dtype)
        return {"mean": start, "log_scale": jnp.full_like(start, jnp.log(scale)), "directions": directions}

    def sample_and_log_prob(key: Key, params: Params) -> tuple[Point, Float[Array, ""]]:
        noise = jax.random.normal(key, (start.size + rank,), start.dtype)
        scaled = noise[: start.size] + params["directions"] @ noise[start.size :]
        return unravel(params["mean"] + jnp.exp(params["log_scale"]) * scaled), log_density(params, scaled)

    def log_prob(params: Params, z: Point) -> Float[Array, ""]:
        return log_density(params, (ravel_pytree(z)[0] - params["mean"]) * jnp.exp(-params["log_scale"]))

    def log_density(params: Params, scaled: Float[Array, " D"]) -> Float[Array, ""]:
        directions = params["directions"]
        root = jnp.linalg.cholesky(jnp.eye(rank, dtype=start.dtype) + directions.T @ directions)
        inside = solve_triangular(root, directions.T @ scaled, lower=True)
        log_det = params["log_scale"].sum() + jnp.log(jnp.diagonal(root)).sum()
        return -0.5 * (scaled @ scaled - inside @ inside + start.size * jnp.log(2 * jnp.pi)) - log_det

    def moments(params: Params) -> tuple[Point, Point]:
        widening = jnp.sqrt(1 + jnp.square(params["directions"]).sum(1))
        return unravel(params["mean"]), unravel(jnp.exp(params["log_scale"]) * widening)

    return complete(init, sample_and_log_prob, log_prob, moments=moments)


def flow_guide(bijector: Bijector, like: Point, *, scale: Numeric = 0.1) -> Guide:
    """A standard normal pushed through a bijector.

      z = f(ε; φ),   ε ~ N(0, I),   log q(z) = log N(ε; 0, I) - log|det ∂f/∂ε|

    The bijector is begun on normal points around `like`, so that one with `act_norm` next to the data begins there. Estimators that ask for the
    density of a given z (all but `reparameterised`) run it both ways.

    Args:
      bijector: f, of `dljax.generative`; it sees z as one vector [D].
      like: a tree of real numbers: the shapes of z, and about where it begins.
      scale: of the points it begins with, > 0; may be traced.
    Raises:
      ValueError: `like` is empty or holds something else; `scale` <= 0.
    Source: Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, eq. 5.

    >>> from dljax.generative import act_norm
    >>> guide = flow_guide(act_norm(), jnp.array([5.0, -5.0]))
    >>> z, log_prob = guide.sample_and_log_prob(jax.random.key(1), guide.init(jax.random.key(0)))
    >>> bool(jnp.abs(z - jnp.array([5.0, -5.0])).max() < 0.5)
    True
    """
    start, unravel = flat("flow_guide", like)
    backward = exact_inverse("flow_guide", bijector)
    check_range("flow_guide", "scale", scale, 0, open_low=True, open_high=True)

    def init(key: Key) -> Params:
        layer_key, noise_key = jax.random.split(key)
        return bijector.init(layer_key, start[None] + scale * jax.random.normal(noise_key, (_NUM_POINTS, start.size), start.dtype))

    def sample_and_log_prob(key: Key, params: Params) -> tuple[Point, Float[Array, ""]]:
        noise = jax.random.normal(key, start.shape, start.dtype)
        z, log_det = bijector.forward(params, noise)
        return unravel(z), norm.logpdf(noise).sum() - log_det

    def log_prob(params: Params, z: Point) -> Float[Array, ""]:
        noise, log_det = backward(params, ravel_pytree(z)[0])
        return norm.logpdf(noise).sum() + log_det

    return complete(init, sample_and_log_prob, log_prob)


def complete(
    init: Callable[[Key], Params],
    sample_and_log_prob: Callable[[Key, Params], tuple[Point, Float[Array, ""]]],
    log_prob: Callable[[Params, Point], Float[Array, ""]],
    **rest: Any,
) -> Guide:
    """A guide of which sampling is the first half of sampling with the density; what is not used is not computed under `jit`."""
    return Guide(init, lambda key, params: sample_and_log_prob(key, params)[0], log_prob, sample_and_log_prob, **rest)


def flat(who: str, like: Point) -> tuple[Float[Array, " D"], Callable[[Array], Point]]:
    """A tree of real numbers as one vector, and the way back.

    Raises:
      ValueError: it is empty, or holds something else.
    """
    for name, leaf in named_leaves(like):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(f"{who}: like must hold real numbers, got {jnp.result_type(leaf)} at {name or 'its only leaf'}; write 1.0 for 1")
    start, unravel = ravel_pytree(jax.tree.map(jnp.asarray, like))
    if not start.size:
        raise ValueError(f"{who}: like must hold at least one number, got {like!r}")
    return start, unravel


_NUM_POINTS = 256
