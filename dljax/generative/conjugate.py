"""Exponential families by their log-normalisers: all that conjugate models and coordinate ascent need, the rest is their derivatives.

  q(z; η) = exp(⟨η, u(z)⟩ - A(η)),   E[u(z)] = ∇A(η),   entropy = A(η) - ⟨η, ∇A(η)⟩

Natural parameters η and expected statistics E[u] are dicts with the same entries, named after the statistic; leading axes are independent copies.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, multigammaln
from jaxtyping import Array, ArrayLike, Float

from dljax.core.contract import Numeric

type_aliases = ("Natural", "Statistics")

Natural = Mapping[str, Array]
Statistics = Mapping[str, Array]


class Family(NamedTuple):
    """An exponential family.

    Attributes:
      natural: usual parameters to natural ones, a dict η.
      log_normaliser: `η -> A` [], summed over independent copies.
      usual: η to a dict of usual parameters.

    >>> eta = normal.natural(2.0, 4.0)
    >>> {name: float(value) for name, value in normal.usual(eta).items()}
    {'mean': 2.0, 'precision': 4.0}
    """

    natural: Callable[..., dict[str, Array]]
    log_normaliser: Callable[[Natural], Float[Array, ""]]
    usual: Callable[[Natural], dict[str, Array]]


def expected_statistics(family: Family, natural: Natural) -> dict[str, Array]:
    """E[u(z)] = ∇A(η).

    >>> float(expected_statistics(normal, normal.natural(2.0, 4.0))["square"])  # 2² + 1/4
    4.25
    """
    return jax.grad(family.log_normaliser)(dict(natural))


def inner(natural: Natural, statistics: Statistics) -> Float[Array, ""]:
    """⟨η, u⟩, over all entries and copies.

    >>> float(inner({"x": jnp.ones(2)}, {"x": jnp.array([1.0, 2.0])}))
    3.0
    """
    return sum(((natural[name] * statistics[name]).sum() for name in sorted(natural)), jnp.zeros(()))


def log_density(family: Family, natural: Natural, statistics: Statistics) -> Float[Array, ""]:
    """⟨η, u⟩ - A(η): log q of a point with these statistics; its expectation for expected ones. Nats.

    >>> round(float(log_density(gamma, gamma.natural(1.0, 2.0), {"log": jnp.log(0.5), "value": jnp.float32(0.5)})), 4)  # log 2 - 2 · 0.5
    -0.3069
    """
    return inner(natural, statistics) - family.log_normaliser(natural)


def divergence(family: Family, natural: Natural, prior: Natural) -> Float[Array, ""]:
    """KL(q(·; η) || q(·; η₀)) = ⟨η - η₀, ∇A(η)⟩ - A(η) + A(η₀), nats.

    >>> float(divergence(normal, normal.natural(1.0, 1.0), normal.natural(0.0, 1.0)))
    0.5
    """
    statistics = expected_statistics(family, natural)
    return log_density(family, natural, statistics) - log_density(family, prior, statistics)


def _normal_natural(mean: Numeric, precision: Numeric) -> dict[str, Array]:
    mean, precision = jnp.broadcast_arrays(*map(_real, (mean, precision)))
    return {"value": mean * precision, "square": -precision / 2}


def _normal_log_normaliser(natural: Natural) -> Float[Array, ""]:
    value, square = natural["value"], natural["square"]
    return (-jnp.square(value) / (4 * square) + 0.5 * jnp.log(jnp.pi / -square)).sum()


normal = Family(
    _normal_natural,
    _normal_log_normaliser,
    lambda natural: {"mean": -natural["value"] / (2 * natural["square"]), "precision": -2 * natural["square"]},
)
"""N(z; mean, 1 / precision), statistics `value` z and `square` z²."""

gamma = Family(
    lambda concentration, rate: {"log": _real(concentration) - 1, "value": -_real(rate)},
    lambda natural: (gammaln(natural["log"] + 1) - (natural["log"] + 1) * jnp.log(-natural["value"])).sum(),
    lambda natural: {"concentration": natural["log"] + 1, "rate": -natural["value"]},
)
"""Gamma(z; concentration, rate), statistics `log` log z and `value` z."""

dirichlet = Family(
    lambda concentration: {"log": _real(concentration) - 1},
    lambda natural: gammaln(natural["log"] + 1).sum() - gammaln((natural["log"] + 1).sum(-1)).sum(),
    lambda natural: {"concentration": natural["log"] + 1},
)
"""Dirichlet over the last axis, statistic `log` log z; with two classes it is the beta distribution."""

categorical = Family(
    lambda probabilities: {"one_hot": jnp.log(_real(probabilities))},
    lambda natural: jax.nn.logsumexp(natural["one_hot"], axis=-1).sum(),
    lambda natural: {"probabilities": jax.nn.softmax(natural["one_hot"], axis=-1)},
)
"""One of C classes over the last axis, statistic `one_hot`; natural parameters are log probabilities, up to a constant."""


def _normal_wishart_natural(mean: ArrayLike, mean_precision: Numeric, degrees: Numeric, inverse_scale: ArrayLike) -> dict[str, Array]:
    mean, inverse_scale = map(_real, (mean, inverse_scale))
    size, copies = mean.shape[-1], mean.shape[:-1]
    strength, degrees = (jnp.broadcast_to(_real(value), copies) for value in (mean_precision, degrees))
    outer = mean[..., :, None] * mean[..., None, :]
    return {
        "log_det": (degrees - size) / 2,
        "precision": -0.5 * (jnp.broadcast_to(inverse_scale, (*copies, size, size)) + strength[..., None, None] * outer),
        "precision_mean": strength[..., None] * mean,
        "mean_precision_mean": -strength / 2,
    }


def _normal_wishart_usual(natural: Natural) -> dict[str, Array]:
    strength = -2 * natural["mean_precision_mean"]
    mean = natural["precision_mean"] / strength[..., None]
    outer = natural["precision_mean"][..., :, None] * mean[..., None, :]
    return {
        "mean": mean,
        "mean_precision": strength,
        "degrees": 2 * natural["log_det"] + mean.shape[-1],
        "inverse_scale": -2 * natural["precision"] - outer,
    }


def _normal_wishart_log_normaliser(natural: Natural) -> Float[Array, ""]:
    usual = _normal_wishart_usual(natural)
    size, degrees = usual["mean"].shape[-1], usual["degrees"]
    log_det = jnp.linalg.slogdet(usual["inverse_scale"])[1]
    wishart = degrees / 2 * (size * jnp.log(2.0) - log_det) + multigammaln(degrees / 2, size)
    return (wishart + size / 2 * (jnp.log(2 * jnp.pi) - jnp.log(usual["mean_precision"]))).sum()


normal_wishart = Family(_normal_wishart_natural, _normal_wishart_log_normaliser, _normal_wishart_usual)
"""N(μ; mean, (mean_precision Λ)⁻¹) Wishart(Λ; degrees, inverse_scale⁻¹), of a mean μ [D] and a precision matrix Λ [D, D].

Statistics: `log_det` log|Λ|, `precision` Λ, `precision_mean` Λμ, `mean_precision_mean` μᵀΛμ. For D = 1 it is the normal-gamma distribution.
"""


def _real(value: Any) -> Array:
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(float)
