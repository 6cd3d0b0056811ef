"""Coordinate-ascent variational inference (CAVI) of conjugate models: one mechanism, and the models of the textbook made with it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Key, Learner, Metrics, Numeric
from dljax.generative.conjugate import (
    Family,
    Natural,
    Statistics,
    categorical,
    dirichlet,
    expected_statistics,
    gamma,
    log_density,
    normal,
    normal_wishart,
)


class CoordinateAscentState(NamedTuple):
    """The natural parameters of each factor, by its name."""

    params: dict[str, Natural]


def coordinate_ascent(
    expected_log_joint: Callable[[Mapping[str, Statistics], Batch], Float[Array, ""]],
    families: Mapping[str, Family],
    start: Callable[[Key, Batch], Mapping[str, Natural]],
) -> Learner:
    """Mean-field variational inference where every factor has its best value in closed form.

      q(z) = Π_i q_i(z_i; η_i),   η_i ← ∂ E_q[log p(x, z)] / ∂E[u_i],   E[u_i] = ∇A_i(η_i)

    In a conjugate-exponential model the log joint is linear in the statistics u_i of each factor, so its expectation is the same function of their
    expectations, and its gradient is the natural parameter of the best factor. The model is written once; derivatives do the algebra.
    A step sweeps over all factors; the ELBO never falls.

    Args:
      expected_log_joint: `({name: E[u]}, batch) -> E_q[log p(x, z)]` [], nats, linear in each factor's statistics (not checked).
      families: each factor's; they are updated in this order.
      start: `(key, batch) -> {name: η}`. Let factors of equal role differ, or they will stay equal.
    Returns:
      A learner on batches of all data, with metric `elbo` [] (nats) after the step. Its params are the natural parameters;
      `families[name].usual` makes mean and precision of them. Its function `elbo(key, params, batch) -> []`.
    Raises:
      ValueError: no factor; at `init`: a start for others than these factors.
    Source: Winn and Bishop (2005), Variational Message Passing; Hoffman, Johnson and Tran (2018), Autoconj; Bishop (2006), section 10.1-10.4.

    >>> from dljax.generative.conjugate import normal
    >>> def energy(stats, x):  # x_n ~ N(z, 1), z ~ N(0, 1)
    ...     square = (x**2).sum() - 2 * x.sum() * stats["z"]["value"] + (len(x) + 1) * stats["z"]["square"]
    ...     return -0.5 * square - (len(x) + 1) / 2 * jnp.log(2 * jnp.pi)
    >>> learner = coordinate_ascent(energy, {"z": normal}, lambda key, x: {"z": normal.natural(0.0, 1.0)})
    >>> x = jnp.array([1.0, 3.0])
    >>> state, metrics = learner.step(jax.random.key(0), learner.init(jax.random.key(1), x), x)
    >>> {name: round(float(value), 4) for name, value in normal.usual(state.params["z"]).items()}
    {'mean': 1.3333, 'precision': 3.0}
    """
    if not families:
        raise ValueError("coordinate_ascent: families must name at least one factor, got none")

    def statistics(params: Mapping[str, Natural]) -> dict[str, Statistics]:
        return {name: expected_statistics(family, params[name]) for name, family in families.items()}

    def best(name: str, known: Mapping[str, Statistics], batch: Batch) -> Natural:
        return jax.grad(lambda own: expected_log_joint({**known, name: own}, batch))(known[name])

    def init(key: Key, batch: Batch) -> CoordinateAscentState:
        params = dict(start(key, batch))
        if set(params) != set(families):
            raise ValueError(f"coordinate_ascent: start must give natural parameters for {sorted(families)}, got {sorted(params)}")
        return CoordinateAscentState({name: dict(params[name]) for name in families})

    def elbo(key: Key, params: Mapping[str, Natural], batch: Batch) -> Float[Array, ""]:
        return bound(params, statistics(params), batch)

    def bound(params: Mapping[str, Natural], known: Mapping[str, Statistics], batch: Batch) -> Float[Array, ""]:
        return expected_log_joint(known, batch) - sum(log_density(families[name], params[name], known[name]) for name in families)

    def step(key: Key, state: CoordinateAscentState, batch: Batch) -> tuple[CoordinateAscentState, Metrics]:
        del key  # nothing is drawn
        params, known = dict(state.params), statistics(state.params)
        for name, family in families.items():
            params[name] = best(name, known, batch)
            known[name] = expected_statistics(family, params[name])
        return CoordinateAscentState(params), {"elbo": bound(params, known, batch)}

    return Learner(init, step, functions={"elbo": elbo})


def normal_sample(
    *, mean: Numeric = 0.0, mean_precision: Numeric = 1.0, concentration: Numeric = 1.0, rate: Numeric = 1.0, is_factorised: bool = True
) -> Learner:
    """A normal sample whose mean μ and precision τ are unknown.

      x_n ~ N(μ, 1/τ),   μ | τ ~ N(μ₀, 1/(λ₀ τ)),   τ ~ Gamma(a₀, b₀)

    Args:
      mean, mean_precision, concentration, rate: μ₀, λ₀ > 0, a₀ > 0, b₀ > 0; may be traced.
      is_factorised: q(μ) q(τ), whose ELBO stays below the evidence; else q(μ, τ) normal-gamma, which is the posterior after one step.
    Returns:
      A learner on batches `{"x": [N]}`, its factors `mean` (normal) and `precision` (gamma), or `both` (normal_wishart of one dimension).
    Raises:
      ValueError: a prior out of its range.
    Source: Bishop (2006), Pattern Recognition and Machine Learning, section 10.1.3.

    >>> learner, batch = normal_sample(is_factorised=False), {"x": jnp.array([1.0, 2.0, 3.0])}
    >>> state, metrics = learner.step(jax.random.key(0), learner.init(jax.random.key(1), batch), batch)
    >>> float(normal_wishart.usual(state.params["both"])["mean"][0])  # (λ₀ μ₀ + Σ x) / (λ₀ + N)
    1.5
    """
    for name, value in (("mean_precision", mean_precision), ("concentration", concentration), ("rate", rate)):
        check_range("normal_sample", name, value, 0, open_low=True, open_high=True)
    # In one dimension Gamma(a, b) is Wishart(2 a, 1 / (2 b)).
    prior = normal_wishart.natural(jnp.reshape(jnp.asarray(mean, float), 1), mean_precision, 2 * concentration, jnp.reshape(2.0 * rate, (1, 1)))

    def energy(joint: Statistics, x: Float[Array, " N"]) -> Float[Array, ""]:
        return log_density(normal_wishart, prior, joint) + _normal_log_likelihoods(joint, x[:, None]).sum()

    def together(stats: Mapping[str, Statistics], batch: Batch) -> Float[Array, ""]:
        return energy(stats["both"], batch["x"])

    def apart(stats: Mapping[str, Statistics], batch: Batch) -> Float[Array, ""]:
        # The expectation of a product is that of its factors: q makes them independent.
        mean, tau = stats["mean"], stats["precision"]
        products = {"precision_mean": (tau["value"] * mean["value"])[None], "mean_precision_mean": tau["value"] * mean["square"]}
        return energy({"log_det": tau["log"], "precision": tau["value"][None, None], **products}, batch["x"])

    if is_factorised:
        begin = {"mean": normal.natural(mean, 1.0), "precision": gamma.natural(concentration, rate)}
        return coordinate_ascent(apart, {"mean": normal, "precision": gamma}, lambda key, batch: begin)
    return coordinate_ascent(together, {"both": normal_wishart}, lambda key, batch: {"both": prior})


def normal_mixture(
    num_components: int,
    *,
    concentration: Numeric = 1.0,
    mean: Any = None,
    mean_precision: Numeric = 1.0,
    degrees: Numeric | None = None,
    inverse_scale: Any = None,
    responsibilities: Callable[[Key, Array], Float[Array, "N K"]] | None = None,
) -> Learner:
    """A Bayesian mixture of normal distributions: shares, means and precision matrices are unknown, and which component made which point.

      x_n ~ N(μ_c, Λ_c⁻¹),  c = c_n ~ π,   π ~ Dirichlet(α₀),   μ_k | Λ_k ~ N(m₀, (β₀ Λ_k)⁻¹),   Λ_k ~ Wishart(W₀, ν₀)

    Components that the data do not need are left with the prior: their `concentration` returns to α₀.

    Args:
      num_components: K >= 1.
      concentration: α₀ > 0; well below 1 empties what is not needed.
      mean: m₀ [D]; None for the mean of the first batch.
      mean_precision: β₀ > 0.
      degrees: ν₀ > D - 1; None for D.
      inverse_scale: W₀⁻¹ [D, D], positive definite; None for the covariance of the first batch.
      responsibilities: `(key, x [N, D]) -> [N, K]`, which component each point begins with; None for the nearest of K random points.
    Returns:
      A learner on batches `{"x": [N, D]}` of all data, its factors `shares` (dirichlet), `components` (normal_wishart, K copies) and
      `assignments` (categorical, N copies).
    Raises:
      ValueError: an option out of its range; `degrees`, when the first batch comes.
    Source: Bishop (2006), Pattern Recognition and Machine Learning, section 10.2.

    >>> batch = {"x": jnp.array([[-3.0], [-2.9], [3.0], [3.1]])}
    >>> learner = normal_mixture(2, responsibilities=lambda key, x: jnp.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]))
    >>> state = learner.init(jax.random.key(0), batch)
    >>> for _ in range(20):
    ...     state, metrics = learner.step(jax.random.key(0), state, batch)
    >>> dirichlet.usual(state.params["shares"])["concentration"].round(1).tolist()
    [3.0, 3.0]
    """
    check_int("normal_mixture", "num_components", num_components, minimum=1)
    check_range("normal_mixture", "concentration", concentration, 0, open_low=True, open_high=True)
    check_range("normal_mixture", "mean_precision", mean_precision, 0, open_low=True, open_high=True)
    num, given = num_components, (mean, inverse_scale)
    families = {"shares": dirichlet, "components": normal_wishart, "assignments": categorical}

    def priors(x: Float[Array, "N D"]) -> dict[str, Natural]:
        size = x.shape[1]
        center = x.mean(0) if given[0] is None else jnp.asarray(given[0], x.dtype)
        spread = jnp.cov(x.T).reshape(size, size) if given[1] is None else jnp.asarray(given[1], x.dtype)
        freedom = size if degrees is None else degrees
        check_range("normal_mixture", "degrees", freedom, size - 1, open_low=True, open_high=True)
        return {
            "shares": dirichlet.natural(jnp.full(num, concentration, x.dtype)),
            "components": normal_wishart.natural(jnp.broadcast_to(center, (num, size)), mean_precision, freedom, spread),
        }

    def log_likelihoods(stats: Mapping[str, Statistics], x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        return stats["shares"]["log"][None] + _normal_log_likelihoods(stats["components"], x)

    def energy(stats: Mapping[str, Statistics], batch: Batch) -> Float[Array, ""]:
        prior = sum(log_density(families[name], natural, stats[name]) for name, natural in priors(batch["x"]).items())
        return prior + (stats["assignments"]["one_hot"] * log_likelihoods(stats, batch["x"])).sum()

    def nearest(key: Key, x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        centers = jax.random.choice(key, x, (num,), replace=False)
        return jax.nn.one_hot(jnp.square(x[:, None] - centers[None]).sum(-1).argmin(1), num, dtype=x.dtype)

    def start(key: Key, batch: Batch) -> dict[str, Natural]:
        made = (nearest if responsibilities is None else responsibilities)(key, batch["x"])
        return priors(batch["x"]) | {"assignments": categorical.natural(jnp.maximum(made, jnp.finfo(made.dtype).tiny))}

    def predict(key: Key, params: Mapping[str, Natural], x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        known = {name: expected_statistics(families[name], params[name]) for name in ("shares", "components")}
        return jax.nn.softmax(log_likelihoods(known, x), axis=1)

    learner = coordinate_ascent(energy, families, start)
    return learner._replace(functions={**learner.functions, "predict": predict})


def _normal_log_likelihoods(stats: Statistics, x: Float[Array, "N D"]) -> Float[Array, "N *K"]:
    """E log N(x_n; μ, Λ⁻¹) of each point and each copy of a normal_wishart."""
    squares = jnp.einsum("...de,nd,ne->n...", stats["precision"], x, x) - 2 * jnp.einsum("...d,nd->n...", stats["precision_mean"], x)
    constant = stats["log_det"] - stats["mean_precision_mean"] - x.shape[1] * jnp.log(2 * jnp.pi)
    return 0.5 * (constant[None] - squares)
