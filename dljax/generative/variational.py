"""Variational inference of any model with a log joint: guide, divergence and gradient estimator are interchangeable parts of one learner."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dljax.core.axis import local_key, pmean
from dljax.core.checks import check_int
from dljax.core.contract import Batch, Key, Learner, Metrics, Params
from dljax.generative.bounds import Divergence, Weights, reverse_kl
from dljax.generative.estimators import Estimator, Problem, reparameterised
from dljax.generative.guides import Guide, Point
from dljax.generative.importance import effective_sample_size

type_aliases = ("LogJoint",)

LogJoint = Callable[..., Array]  # `z -> []`, or `(z, batch) -> []`; nats


class VIState(NamedTuple):
    """The guide's parameters, their optimiser's state and what the gradient estimator carries along."""

    params: Params
    opt_state: optax.OptState
    estimator: Any


class GradientVariance(NamedTuple):
    """What `gradient_variance` found of an estimator.

    Attributes:
      mean: of the gradients, a tree like the parameters.
      variance: of one gradient, a tree like the parameters.
      total: [] the sum of the variances of all parameters.
    """

    mean: Params
    variance: Params
    total: Float[Array, ""]


def vi(
    log_joint: LogJoint,
    guide: Guide,
    optimizer: optax.GradientTransformation,
    *,
    divergence: Divergence = reverse_kl,
    estimator: Estimator | None = None,
    num_samples: int = 1,
) -> Learner:
    """Fit a guide to the posterior of a model that is known by its log joint.

      min_φ D(q(z; φ), p(z | x)),   log p(x) >= E_q[log p(x, z) - log q(z; φ)] = ELBO, equal where q is the posterior

    Args:
      log_joint: `z -> log p(x, z)` [], nats; or `(z, batch) -> []` where the learner is given batches, likelihood scaled up to all data
        (`minibatched`). z is a tree as the guide draws it: unbounded real numbers for normal guides (`constrain` makes them so). It must be
        finite wherever the guide draws: an ELBO that is not finite is reported in the metrics, and the engine stops there, naming the step.
      guide: q.
      optimizer: of φ.
      divergence: D; what is minimised.
      estimator: of its gradient; None for `reparameterised()`.
      num_samples: K >= 1 samples of the guide for each gradient.
    Returns:
      A learner on empty batches, or on those that `log_joint` takes. Metrics are `elbo` [] (nats; the mean of K log weights), `loss` [] (the
      divergence's value) and `effective_sample_size` [] (of the K samples as importance samples). Its functions are
      `sample(key, params, num) -> z [num, ...]`, `log_prob(key, params, z [N, ...]) -> [N]` and
      `log_weights(key, params, num, *batch) -> [num]`, of which `pareto_smoothed` makes the diagnostic.
    Raises:
      ValueError: `num_samples` < 1; an estimator that does not fit the guide, the divergence or the number of samples; at `init`: a log joint
        that does not give one real number (or terms [F], whose sum it is).
    Source: Jordan et al. (1999); Ranganath et al. (2014); Kucukelbir et al. (2017), Automatic Differentiation Variational Inference.

    >>> from dljax.generative.guides import mean_field_guide
    >>> learner = vi(lambda z: -0.5 * (z - 3.0) ** 2, mean_field_guide(0.0), optax.sgd(0.1), num_samples=4)
    >>> state = learner.init(jax.random.key(0), ())
    >>> for key in jax.random.split(jax.random.key(1), 50):
    ...     state, metrics = learner.step(key, state, ())
    >>> abs(float(state.params["mean"][0]) - 3) < 0.1
    True
    """
    check_int("vi", "num_samples", num_samples, minimum=1)
    estimator = reparameterised() if estimator is None else estimator
    estimator.check(_problem(log_joint, (), guide, divergence, num_samples))

    def init(key: Key, batch: Batch) -> VIState:
        params = guide.init(key)
        made = jax.eval_shape(lambda: log_joint(guide.sample(jax.random.key(0), params), *_given(batch)))
        if not isinstance(made, jax.ShapeDtypeStruct) or len(made.shape) > 1 or not jnp.issubdtype(made.dtype, jnp.floating):
            found = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(made)) or repr(made)
            raise ValueError(f"vi: log_joint must return one real number [], or its terms [F], got {found}; sum it over what it is independent in")
        return VIState(params, optimizer.init(params), estimator.init(params))

    def step(key: Key, state: VIState, batch: Batch) -> tuple[VIState, Metrics]:
        problem = _problem(log_joint, batch, guide, divergence, num_samples)
        grads, w, carried = estimator.gradient(local_key(key), state.params, state.estimator, problem)
        updates, opt_state = optimizer.update(pmean(grads), state.opt_state, state.params)
        metrics = {"elbo": w.mean(), "loss": divergence.value(w), "effective_sample_size": effective_sample_size(w)}
        return VIState(optax.apply_updates(state.params, updates), opt_state, carried), metrics

    def sample(key: Key, params: Params, num: int) -> Point:
        return jax.vmap(guide.sample, (0, None))(jax.random.split(key, num), params)

    def log_prob(key: Key, params: Params, z: Point) -> Float[Array, " N"]:
        return jax.vmap(guide.log_prob, (None, 0))(params, z)

    def log_weights(key: Key, params: Params, num: int, *batch: Batch) -> Weights:
        z, log_q = jax.vmap(guide.sample_and_log_prob, (0, None))(jax.random.split(key, num), params)
        return jax.vmap(lambda z: jnp.sum(log_joint(z, *batch)))(z) - log_q

    return Learner(init, step, functions={"sample": sample, "log_prob": log_prob, "log_weights": log_weights})


def minibatched(log_prior: Callable[[Point], Array], log_likelihood: Callable[[Point, Batch], Array], num_examples: int) -> LogJoint:
    """A log joint for stochastic variational inference: an unbiased estimate from a batch of independent examples.

      log p(z) + N / (Σ_b m_b) Σ_b m_b log p(x_b | z)

    Args:
      log_prior: `z -> []`.
      log_likelihood: `(z, batch) -> [B]`, of each example.
      num_examples: N >= 1, of the whole data set. A batch may have `mask` m [B], 0 where a row is padding.
    Returns:
      `(z, batch) -> []`, whose mean over equally likely batches is the log joint of all data.
    Raises:
      ValueError: `num_examples` < 1.
    Source: Hoffman, Blei, Wang and Paisley (2013), Stochastic Variational Inference.

    >>> log_joint = minibatched(lambda z: 0.0 * z, lambda z, batch: z * batch["x"], 10)
    >>> float(log_joint(jnp.float32(1.0), {"x": jnp.array([1.0, 3.0])}))
    20.0
    """
    check_int("minibatched", "num_examples", num_examples, minimum=1)

    def log_joint(z: Point, batch: Batch) -> Array:
        each = log_likelihood(z, batch)
        mask = batch.get("mask") if isinstance(batch, Mapping) else None
        if mask is None:
            return log_prior(z) + num_examples * each.mean()
        return log_prior(z) + num_examples * jnp.where(mask > 0, each, 0).sum() / jnp.maximum(mask.sum(), 1)

    return log_joint


def gradient_variance(
    key: Key,
    params: Params,
    log_joint: LogJoint,
    guide: Guide,
    estimators: Mapping[str, Estimator],
    *,
    divergence: Divergence = reverse_kl,
    num_samples: int = 1,
    repeats: int = 1000,
    batch: Batch = (),
) -> dict[str, GradientVariance]:
    """The mean and the variance of each estimator's gradient at the same parameters: a table of estimators.

    What an estimator carries (a moving average) is settled beforehand by 100 gradients, then held.

    Args:
      key, params: where the gradients are taken.
      estimators: by the name that the table shall call them.
      divergence, num_samples: as `vi`.
      repeats: R >= 2 gradients of each; the standard error of a mean is √(variance / R).
      batch: what the log joint takes besides z; () for nothing.
    Raises:
      ValueError: a number out of its range, an estimator that does not fit.

    >>> from dljax.generative.estimators import score_function, sticking_the_landing
    >>> from dljax.generative.guides import mean_field_guide
    >>> guide = mean_field_guide(0.0, scale=1.0)  # the posterior itself
    >>> table = gradient_variance(jax.random.key(0), guide.init(jax.random.key(1)), lambda z: -0.5 * z**2, guide,
    ...                           {"path": sticking_the_landing(), "score": score_function(baseline="none")}, repeats=10)
    >>> float(table["path"].total), float(table["score"].total) > 0.1
    (0.0, True)
    """
    check_int("gradient_variance", "num_samples", num_samples, minimum=1)
    check_int("gradient_variance", "repeats", repeats, minimum=2)
    problem, table = _problem(log_joint, batch, guide, divergence, num_samples), {}
    warm_key, key = jax.random.split(key)
    for name, estimator in estimators.items():
        estimator.check(problem)

        def gradient(key: Key, state: Any, estimator: Estimator = estimator) -> tuple[Params, Any]:
            found, _, state = estimator.gradient(key, params, state, problem)
            return found, state

        state = estimator.init(params)
        if jax.tree.leaves(state):
            state = jax.lax.scan(lambda state, key: (gradient(key, state)[1], ()), state, jax.random.split(warm_key, 100))[0]
        grads = jax.vmap(lambda key: gradient(key, state)[0])(jax.random.split(key, repeats))  # noqa: B023
        variance = jax.tree.map(lambda g: g.var(0, ddof=1), grads)
        total = jax.tree.reduce(lambda total, v: total + v.sum(), variance, jnp.zeros(()))
        table[name] = GradientVariance(jax.tree.map(lambda g: g.mean(0), grads), variance, total)
    return table


def _given(batch: Batch) -> tuple:
    return () if isinstance(batch, tuple) and not batch else (batch,)


def _problem(log_joint: LogJoint, batch: Batch, guide: Guide, divergence: Divergence, num_samples: int) -> Problem:
    return Problem(lambda z: log_joint(z, *_given(batch)), guide, divergence, num_samples)
