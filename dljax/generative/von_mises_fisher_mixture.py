"""Mixtures of von Mises-Fisher distributions, fitted by expectation maximisation (Banerjee et al., 2005)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from dljax.core.axis import psum
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Fold, Key, Learner, Mean, Metrics
from dljax.generative.bessel import bessel_terms
from dljax.generative.sphere import unit
from dljax.generative.von_mises_fisher import von_mises_fisher


class MixtureParams(NamedTuple):
    """Of a mixture with K components on the sphere in R^d."""

    weights: Float[Array, " K"]
    means: Float[Array, "K D"]
    concentrations: Float[Array, " K"]


class MixtureState(NamedTuple):
    """The parameters are all that expectation maximisation needs."""

    params: MixtureParams


def von_mises_fisher_mixture(num_components: int, *, size: int, max_concentration: float = 1e4) -> Learner:
    """A mixture of von Mises-Fisher distributions; a step is one round of expectation maximisation over its batch, which should be all data.

      p(x) = Σ_k π_k vMF(x; μ_k, κ_k),   r_nk ∝ π_k vMF(x_n; μ_k, κ_k)
      π_k = Σ_n r_nk / N,   s_k = Σ_n r_nk x_n,   μ_k = s_k / |s_k|,   A(κ_k) = |s_k| / Σ_n r_nk

    It begins at random points of the first batch, with κ = 10.

    Args:
      num_components: K >= 1, at most the number of examples.
      size: d >= 2.
      max_concentration: > 0, the bound of κ that keeps a component from falling onto one example.
    Returns:
      A learner on batches `{"x": [B, D]}` of unit vectors with metric `nll` [] (nats per example, before the step), which never rises as long as the
      bound of κ is not met; the same in evaluation. Its functions are `log_prob(key, params, x [B, D]) -> [B]` and
      `sample(key, params, num) -> [num, D]`.
    Raises:
      ValueError: an option out of its range; when the first batch comes: another size, fewer examples than components.
    Source: Banerjee, Dhillon, Ghosh and Sra (2005), Clustering on the Unit Hypersphere using von Mises-Fisher Distributions, section 4.

    >>> learner = von_mises_fisher_mixture(2, size=3)
    >>> batch = {"x": jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.8, 0.6]])}
    >>> state, metrics = learner.step(jax.random.key(0), learner.init(jax.random.key(1), batch), batch)
    >>> learner.functions["sample"](jax.random.key(2), learner.params(state), 4).shape
    (4, 3)
    """
    check_int("von_mises_fisher_mixture", "num_components", num_components, minimum=1)
    check_int("von_mises_fisher_mixture", "size", size, minimum=2)
    check_range("von_mises_fisher_mixture", "max_concentration", max_concentration, 0, open_low=True, open_high=True)

    def init(key: Key, batch: Batch) -> MixtureState:
        x = batch["x"]
        if x.ndim != 2 or x.shape[1] != size or len(x) < num_components:
            raise ValueError(
                f"von_mises_fisher_mixture: batch['x'] must be [B, {size}] with B >= {num_components} (num_components), got {list(x.shape)}"
            )
        chosen = jax.random.choice(key, len(x), (num_components,), replace=False)
        weights = jnp.full(num_components, 1 / num_components, x.dtype)
        return MixtureState(MixtureParams(weights, x[chosen], jnp.full(num_components, min(10.0, max_concentration), x.dtype)))

    def log_joint(params: MixtureParams, x: Float[Array, "B D"]) -> Float[Array, "B K"]:
        densities = jax.vmap(lambda mean, concentration: von_mises_fisher(mean, concentration).log_prob(x), out_axes=1)
        return densities(params.means, params.concentrations) + jnp.log(params.weights)[None]

    def log_prob(key: Key, params: MixtureParams, x: Float[Array, "B D"]) -> Float[Array, " B"]:
        return jax.nn.logsumexp(log_joint(params, x), axis=1)

    def step(key: Key, state: MixtureState, batch: Batch) -> tuple[MixtureState, Metrics]:
        joint, x = log_joint(state.params, batch["x"]), batch["x"]
        shares = jax.nn.softmax(joint, axis=1)
        nll, counts, sums, num = psum((-jax.nn.logsumexp(joint, axis=1).sum(), shares.sum(0), shares.T @ x, jnp.asarray(len(x), x.dtype)))
        is_alive = counts > 1e-6  # a component that nothing belongs to stays where it is, without weight
        length = jnp.sqrt(jnp.square(sums).sum(1)) / jnp.where(is_alive, counts, 1)
        concentrations = jnp.minimum(fitted_concentration(length, size=size), max_concentration)
        params = MixtureParams(
            counts / num,
            jnp.where(is_alive[:, None], unit(sums), state.params.means),
            jnp.where(is_alive, concentrations, state.params.concentrations),
        )
        return MixtureState(params), {"nll": nll / num}

    def sample(key: Key, params: MixtureParams, num: int) -> Float[Array, "N D"]:
        component_key, point_key = jax.random.split(key)
        chosen = jax.random.categorical(component_key, jnp.log(params.weights), shape=(num,))

        def one(key: Key, index: Array) -> Float[Array, " D"]:
            return von_mises_fisher(params.means[index], params.concentrations[index]).sample(key, 1)[0]

        return jax.vmap(one)(jax.random.split(point_key, num), chosen)

    def fold_step(acc: Mean, state: MixtureState, batch: Batch) -> Mean:
        nll = -jax.nn.logsumexp(log_joint(state.params, batch["x"]), axis=1)
        mask = batch.get("mask", jnp.ones_like(nll))
        return Mean(acc.total + (mask * nll).sum(), acc.weight + mask.sum())

    return Learner(
        init,
        step,
        evaluate=Fold(lambda key, state: Mean(jnp.zeros(()), jnp.zeros(())), fold_step, lambda acc: {"nll": acc}),
        functions={"log_prob": log_prob, "sample": sample},
    )


def fitted_concentration(resultant_length: Float[ArrayLike, "*N"], *, size: int) -> Float[Array, "*N"]:
    """The maximum-likelihood κ of a von Mises-Fisher distribution: A(κ) = R, by eight Newton steps from Banerjee's approximation.

      κ_0 = R (d - R²) / (1 - R²),   κ <- κ - (A(κ) - R) / A'(κ)

    Args:
      resultant_length: R = |mean of the points|, in [0, 1); 1 gives inf.
      size: d >= 2.
    Raises:
      ValueError: `size` < 2; a concrete `resultant_length` outside [0, 1 + 1e-5].
    Source: Sra (2012), A Short Note on Parameter Approximation for von Mises-Fisher Distributions, eq. 4.

    >>> round(float(fitted_concentration(0.361106657, size=5)), 4)
    2.0
    """
    check_int("fitted_concentration", "size", size, minimum=2)
    check_range("fitted_concentration", "resultant_length", resultant_length, 0, 1 + 1e-5)
    length = jnp.asarray(resultant_length, jnp.result_type(resultant_length, float))
    rest = 1 - length
    is_point = rest <= jnp.finfo(length.dtype).eps
    rest = jnp.where(is_point, 0.5, rest)
    kappa = jnp.where(is_point, 1, length) * (size - jnp.square(length)) / (rest * (1 + length))
    for _ in range(8):
        terms = bessel_terms(size / 2 - 1, kappa)
        # Where R is near one, both are known by what is missing.
        kappa = jnp.clip(kappa - (rest - terms.complement) / terms.slope, kappa / 2, 2 * kappa)
    return jnp.where(is_point, jnp.inf, kappa)
