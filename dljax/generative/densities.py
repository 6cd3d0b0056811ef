"""Densities that can be learned by maximum likelihood: a sampler, a log-density, parameters. Bases of flows, and what flows make of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Num

from dljax.core.axis import local_key, pmean
from dljax.core.checks import check_range
from dljax.core.contract import Batch, Fold, Key, Learner, Mean, Metrics, Params
from dljax.generative.distribution import Distribution


class Density(NamedTuple):
    """A parametrised distribution of one point x, on whatever space; of x given a context, where its functions get one more argument.

    Attributes:
      init: `(key, x [B, ...], *context [B, ...]) -> params`.
      log_prob: `(params, x, *context) -> []`, nats; None where it cannot be had and there are only estimates.
      sample: `(key, params, *context) -> x`.
      estimate: `(key, params, x, *context) -> []`, random, with mean log p(x) or a lower bound of it, to train by. None: train by `log_prob`.

    >>> coin = Density(lambda key, x: jnp.zeros(()), lambda logit, x: -jax.nn.softplus(jnp.where(x == 1, -logit, logit)),
    ...                lambda key, logit: jax.random.bernoulli(key, jax.nn.sigmoid(logit)).astype(jnp.int32))
    >>> round(float(coin.log_prob(jnp.zeros(()), jnp.int32(1))), 4)
    -0.6931
    """

    init: Callable[..., Params]
    log_prob: Callable[..., Float[Array, ""]] | None
    sample: Callable[..., Num[Array, "..."]]
    estimate: Callable[..., Float[Array, ""]] | None = None


class LikelihoodState(NamedTuple):
    """The parameters of the density and the state of their optimiser."""

    params: Params
    opt_state: optax.OptState


def maximum_likelihood(density: Density, optimizer: optax.GradientTransformation) -> Learner:
    """Fit a density by gradients of its mean log-likelihood, or of an estimate of it.

      minimise  - 1/B Σ_b log p(x_b | c_b)

    Returns:
      A learner on batches `{"x": [B, ...]}`, with `"context": [B, ...]` besides for a conditional density; its metric is `nll` [] (nats per
      example) in steps and in evaluation. Its functions are `log_prob(key, params, x, *context) -> [B]` and
      `sample(key, params, num, *context [num, ...]) -> [num, ...]`. Evaluation and `log_prob` are exact where the density is (no key used), else
      one draw of the bound.

    >>> from dljax.generative.distribution import standard_normal
    >>> learner = maximum_likelihood(fixed(standard_normal(2)), optax.sgd(0.1))
    >>> state = learner.init(jax.random.key(0), {"x": jnp.zeros((3, 2))})
    >>> round(float(learner.step(jax.random.key(1), state, {"x": jnp.zeros((3, 2))})[1]["nll"]), 4)  # log 2π
    1.8379
    """

    def init(key: Key, batch: Batch) -> LikelihoodState:
        params = density.init(key, batch["x"], *context_of(batch))
        return LikelihoodState(params, optimizer.init(params))

    def step(key: Key, state: LikelihoodState, batch: Batch) -> tuple[LikelihoodState, Metrics]:
        way = exact if density.estimate is None else estimates
        nll, grads = jax.value_and_grad(lambda params: -way(local_key(key), params, batch["x"], *context_of(batch)).mean())(state.params)
        updates, opt_state = optimizer.update(pmean(grads), state.opt_state, state.params)
        return LikelihoodState(optax.apply_updates(state.params, updates), opt_state), {"nll": nll}

    def exact(key: Key, params: Params, x: Num[Array, "B ..."], *context: Array) -> Float[Array, " B"]:
        assert density.log_prob is not None
        way = density.log_prob
        return jax.vmap(lambda x, *context: way(params, x, *context))(x, *context)

    def estimates(key: Key, params: Params, x: Num[Array, "B ..."], *context: Array) -> Float[Array, " B"]:
        assert density.estimate is not None
        way, keys = density.estimate, jax.random.split(key, len(x))
        return jax.vmap(lambda key, x, *context: way(key, params, x, *context))(keys, x, *context)

    log_prob = estimates if density.log_prob is None else exact

    def sample(key: Key, params: Params, num: int, *context: Array) -> Num[Array, "N ..."]:
        return jax.vmap(lambda key, *context: density.sample(key, params, *context))(jax.random.split(key, num), *context)

    def fold_init(key: Key, state: LikelihoodState) -> tuple[Key, Mean]:
        return key, Mean(jnp.zeros(()), jnp.zeros(()))

    def fold_step(acc: tuple[Key, Mean], state: LikelihoodState, batch: Batch) -> tuple[Key, Mean]:
        (key, noise_key), mean = jax.random.split(acc[0]), acc[1]
        nll = -log_prob(noise_key, state.params, batch["x"], *context_of(batch))
        mask = batch.get("mask", jnp.ones_like(nll))
        return key, Mean(mean.total + (mask * nll).sum(), mean.weight + mask.sum())

    fold = Fold(fold_init, fold_step, lambda acc: {"nll": acc[1]})
    return Learner(init, step, evaluate=fold, functions={"log_prob": log_prob, "sample": sample})


def fixed(distribution: Distribution) -> Density:
    """A distribution as a density that has nothing to learn.

    >>> from dljax.generative.distribution import standard_normal
    >>> density = fixed(standard_normal(3))
    >>> density.sample(jax.random.key(0), ()).shape
    (3,)
    """
    return Density(lambda key, x: (), lambda params, z: distribution.log_prob(z), lambda key, params: distribution.sample(key, 1)[0])


def categorical() -> Density:
    """Independent categorical variables, as one-hot vectors [D, K], with learned logits.

    They begin as small noise: while they are equal, it makes no difference where a flow moves a value, and it has no gradient.

      p(x) = Π_d softmax(θ_d)_{x_d}

    >>> density = categorical()
    >>> params = 0 * density.init(jax.random.key(0), jnp.zeros((5, 2, 4)))
    >>> round(float(jnp.exp(density.log_prob(params, jax.nn.one_hot(jnp.array([0, 3]), 4)))), 4)
    0.0625
    """

    def sample(key: Key, params: Params) -> Float[Array, "D K"]:
        return jax.nn.one_hot(jax.random.categorical(key, params), params.shape[-1], dtype=params.dtype)

    return Density(
        lambda key, x: 0.1 * jax.random.normal(key, x.shape[1:], x.dtype), lambda params, z: (z * jax.nn.log_softmax(params)).sum(), sample
    )


def discretised_logistic(spacing: float = 1.0) -> Density:
    """Independent logistic variables rounded to a grid of all multiples of the spacing, with learned means and scales.

      P(x) = σ((x + h/2 - μ)/s) - σ((x - h/2 - μ)/s),   x ∈ hℤ

    Args:
      spacing: h > 0.
    Raises:
      ValueError: `spacing` <= 0.
    Source: Hoogeboom, Peters, van den Berg and Welling (2019), Integer Discrete Flows, section 4.2.

    >>> density = discretised_logistic()
    >>> params = density.init(jax.random.key(0), jnp.array([[-1.0], [3.0]]))
    >>> grid = jnp.arange(-200.0, 200.0)[:, None]
    >>> round(float(jnp.exp(jax.vmap(density.log_prob, (None, 0))(params, grid)).sum()), 5)
    1.0
    """
    check_range("discretised_logistic", "spacing", spacing, 0, open_low=True)

    def init(key: Key, x: Float[Array, "B ..."]) -> Params:
        # The standard deviation of a logistic variable is πs/√3.
        scale = x.std(0) * jnp.sqrt(3.0) / jnp.pi
        return {"mean": x.mean(0), "log_scale": jnp.log(jnp.maximum(scale, spacing / 4))}

    def log_prob(params: Params, x: Float[Array, "..."]) -> Float[Array, ""]:
        scale = jnp.exp(params["log_scale"])
        high, low = (x + spacing / 2 - params["mean"]) / scale, (x - spacing / 2 - params["mean"]) / scale
        # σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)): no difference of numbers that are nearly equal.
        return (jax.nn.log_sigmoid(high) + jax.nn.log_sigmoid(-low) + jnp.log(-jnp.expm1(-spacing / scale))).sum()

    def sample(key: Key, params: Params) -> Float[Array, "..."]:
        mean = params["mean"]
        noise = jax.random.logistic(key, mean.shape, mean.dtype)
        return spacing * jnp.round((mean + jnp.exp(params["log_scale"]) * noise) / spacing)

    return Density(init, log_prob, sample)


def context_of(batch: Batch) -> tuple[Any, ...]:
    """What a batch says besides its examples: `(context,)`, or nothing.

    >>> context_of({"x": 1.0})
    ()
    """
    return (batch["context"],) if "context" in batch else ()
