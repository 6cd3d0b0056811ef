"""Estimators of the gradient of a divergence: pathwise, doubly reparameterised, and of the score function with what lowers its variance."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from dljax.core.axis import pmean
from dljax.core.checks import check_choice, check_range
from dljax.core.contract import Key, Numeric, Params
from dljax.generative.bounds import Divergence, Weights
from dljax.generative.guides import Guide, Point

type_aliases = ("Found",)


class Problem(NamedTuple):
    """What a gradient is wanted of.

    Attributes:
      terms: `z -> []`, the log joint, or `z -> [F]`, terms whose sum it is.
      guide, divergence: q, and how far it is from the posterior.
      num_samples: K >= 1 samples of the guide.
    """

    terms: Callable[[Point], Float[Array, "*F"]]
    guide: Guide
    divergence: Divergence
    num_samples: int


Found = tuple[Params, Weights, Any]  # the gradient, the log weights [K] and the estimator's next state


class Estimator(NamedTuple):
    """A way to the gradient of a divergence with respect to the parameters of a guide.

    Attributes:
      name: for messages.
      check: `problem -> None`; ValueError where it does not fit the guide, the divergence or the number of samples.
      init: `params -> state`, what it carries from step to step; () for nothing.
      gradient: `(key, params, state, problem) -> (gradient, log weights [K], state)`; the gradient goes uphill of what is minimised.

    >>> reparameterised().name
    'reparameterised'
    """

    name: str
    check: Callable[[Problem], None]
    init: Callable[[Params], Any]
    gradient: Callable[[Key, Params, Any, Problem], Found]


def reparameterised() -> Estimator:
    """The derivative of the bound through the samples, z = g(ε; φ): total, score and all.

      ∇ B(w_1 ... w_K),   w_k = log p(x, g(ε_k; φ)) - log q(g(ε_k; φ); φ)

    For normal guides log q(g(ε; φ); φ) does not depend on ε but for a constant: the entropy is exact.
    Unbiased for every bound. Needs a reparameterised guide, and a divergence that is a bound (not `forward_kl`).
    Source: Kingma and Welling (2014); Rezende, Mohamed and Wierstra (2014).

    >>> reparameterised().init({}) == ()  # nothing is carried along
    True
    """

    def check(problem: Problem) -> None:
        _need_path("reparameterised", problem)
        if not problem.divergence.is_bound:
            raise ValueError(
                f"reparameterised: {problem.divergence.name} is no bound whose derivative is its gradient; "
                "take doubly_reparameterised() or score_function()"
            )

    def gradient(key: Key, params: Params, state: Any, problem: Problem) -> Found:
        def loss(params: Params) -> tuple[Float[Array, ""], Weights]:
            z, log_q = jax.vmap(problem.guide.sample_and_log_prob, (0, None))(jax.random.split(key, problem.num_samples), params)
            w = _log_joint(problem, z) - log_q
            return problem.divergence.value(w), w

        return *jax.grad(loss, has_aux=True)(params), state

    return Estimator("reparameterised", check, lambda params: (), gradient)


def doubly_reparameterised() -> Estimator:
    """The derivative through the samples alone: the score, whose mean is known, is reparameterised once more, or left out where that mean is zero.

      -∇ = Σ_k ∂f_k/∂w_k · ∂w_k/∂z_k · ∂z_k/∂φ

    The weights ∂f_k/∂w_k are 1/K for the ELBO (there it is sticking the landing), w̄_k² for the importance-weighted bound (DReG) and
    α s_k + (1 - α) s_k² with s = softmax((1 - α) w) for Rényi's. Its variance vanishes where the guide is the posterior.
    Unbiased for every bound; for `forward_kl` it has the mean of the score function's. Needs a reparameterised guide.
    Source: Tucker, Lawson, Gu and Maddison (2019), Doubly Reparameterized Gradient Estimators, eq. 5-9.

    >>> doubly_reparameterised().name
    'doubly_reparameterised'
    """

    def gradient(key: Key, params: Params, state: Any, problem: Problem) -> Found:
        def loss(varied: Params) -> tuple[Float[Array, ""], Weights]:
            z = jax.vmap(problem.guide.sample, (0, None))(jax.random.split(key, problem.num_samples), varied)
            w = _log_joint(problem, z) - jax.vmap(problem.guide.log_prob, (None, 0))(lax.stop_gradient(params), z)
            return -(lax.stop_gradient(problem.divergence.path(w)) * w).sum(), w

        return *jax.grad(loss, has_aux=True)(params), state

    return Estimator("doubly_reparameterised", lambda problem: _need_path("doubly_reparameterised", problem), lambda params: (), gradient)


def sticking_the_landing() -> Estimator:
    """The pathwise derivative of the ELBO without the score, whose mean is zero: no variance where the guide is the posterior.

      -∇ = 1/K Σ_k ∂w_k/∂z_k · ∂z_k/∂φ

    Unbiased for `reverse_kl`; for other bounds leaving out the score is wrong, and refused. Needs a reparameterised guide.
    Source: Roeder, Wu and Duvenaud (2017), Sticking the Landing, eq. 8.

    >>> from dljax.generative.bounds import renyi
    >>> from dljax.generative.guides import mean_field_guide
    >>> sticking_the_landing().check(Problem(lambda z: -z * z, mean_field_guide(0.0), renyi(0.5), 2))
    Traceback (most recent call last):
    ValueError: sticking_the_landing: biased for ...
    """

    def check(problem: Problem) -> None:
        _need_path("sticking_the_landing", problem)
        if problem.divergence.name != "reverse_kl":
            raise ValueError(f"sticking_the_landing: biased for {problem.divergence.name}; take doubly_reparameterised(), which is not")

    return doubly_reparameterised()._replace(name="sticking_the_landing", check=check)


def score_function(*, baseline: str = "leave-one-out", decay: Numeric = 0.9) -> Estimator:
    """The score function (REINFORCE): no derivative of the model, any guide, discrete ones too.

      -∇ = Σ_k (f_k(w) - f_k(w with w_k replaced by b_k)) ∇ log q(z_k; φ)

    What is subtracted does not depend on z_k, so it has no mean. For the ELBO the bracket is (w_k - b_k)/K. `baseline` says what b is:

    - "none": 0.
    - "moving-average": of the log weights of earlier steps.
    - "leave-one-out": the mean of the other log weights (VIMCO, where the bound is not the ELBO); K >= 2.
    - "optimal": for each parameter the control variate a ∇ log q with a = Cov(f ∇log q, ∇log q) / Var(∇log q), estimated from the other
      samples so that it stays unbiased; K >= 3, `reverse_kl` alone.

    Args:
      baseline: one of these.
      decay: of the moving average, in [0, 1); may be traced.
    Raises:
      ValueError: an option out of its range.
    Source: Williams (1992); Ranganath, Gerrish and Blei (2014), Black Box Variational Inference, eq. 3 and 8; Mnih and Rezende (2016), VIMCO.

    >>> score_function(baseline="mean")
    Traceback (most recent call last):
    ValueError: score_function: baseline must be one of 'none', 'moving-average', 'leave-one-out', 'optimal', got 'mean'
    """
    check_choice("score_function", "baseline", baseline, ("none", "moving-average", "leave-one-out", "optimal"))
    check_range("score_function", "decay", decay, 0, 1, open_high=True)

    def check(problem: Problem) -> None:
        needed = {"leave-one-out": 2, "optimal": 3}.get(baseline, 1)
        if problem.num_samples < needed:
            raise ValueError(f"score_function: baseline {baseline!r} needs num_samples >= {needed}, got {problem.num_samples}")
        if baseline == "optimal" and problem.divergence.name != "reverse_kl":
            raise ValueError(f"score_function: baseline 'optimal' is biased for {problem.divergence.name}; take 'leave-one-out'")

    def init(params: Params) -> Any:
        return (jnp.zeros(()), jnp.zeros(())) if baseline == "moving-average" else ()

    def gradient(key: Key, params: Params, state: Any, problem: Problem) -> Found:
        z, w = _drawn(key, params, problem)

        def log_q(params: Params, z: Point) -> Float[Array, ""]:
            return problem.guide.log_prob(params, z)

        if baseline == "optimal":
            scores = jax.vmap(jax.grad(log_q), (None, 0))(params, z)
            return jax.tree.map(lambda score: -_controlled(w, score), scores), w, state
        if baseline == "moving-average":
            total, weight = state
            replaced = jnp.full_like(w, total / jnp.where(weight > 0, weight, 1))
            state = (decay * total + (1 - decay) * pmean(w.mean()), decay * weight + (1 - decay))
        else:
            replaced = _mean_of_others(w) if baseline == "leave-one-out" else jnp.zeros_like(w)
        own = jax.vmap(lambda k, other: problem.divergence.score(w.at[k].set(other))[k])(jnp.arange(w.size), replaced)
        signal = problem.divergence.score(w) - own
        return jax.grad(lambda params: -(signal * jax.vmap(log_q, (None, 0))(params, z)).sum())(params), w, state

    return Estimator(f"score_function({baseline})", check, init, gradient)


def rao_blackwellised(depends: Any, *, baseline: str = "leave-one-out") -> Estimator:
    """The score function of the ELBO with the terms that do not concern a factor taken out, each an expectation of its own.

      -∇_i = 1/K Σ_k (Σ_{t: depends[t, i]} log p_t(z_k) - log q_i(z_ki) - b_ki) ∇ log q_i(z_ki; φ_i)

    Args:
      depends: [F, D] booleans: does term t of the log joint depend on factor i of the guide? `log_joint` must return its F terms.
      baseline: "none", or "leave-one-out" (K >= 2): the mean of the same bracket over the other samples.
    Raises:
      ValueError: a baseline that is none of these, `depends` of another rank.
    Needs a guide of independent factors, and `reverse_kl`.
    Source: Ranganath, Gerrish and Blei (2014), Black Box Variational Inference, eq. 5-6.

    >>> rao_blackwellised([[True, False], [True, True]]).init({}) == ()  # the second term concerns both factors, the first one of them
    True
    """
    check_choice("rao_blackwellised", "baseline", baseline, ("none", "leave-one-out"))
    mask = np.asarray(depends, bool)
    if mask.ndim != 2:
        raise ValueError(f"rao_blackwellised: depends must be [terms, factors], got shape {mask.shape}")

    def check(problem: Problem) -> None:
        if problem.guide.log_probs is None:
            raise ValueError("rao_blackwellised: needs a guide of independent factors, such as mean_field_guide or bernoulli_guide")
        if problem.divergence.name != "reverse_kl":
            raise ValueError(f"rao_blackwellised: {problem.divergence.name} does not fall into terms; only reverse_kl does")
        if baseline == "leave-one-out" and problem.num_samples < 2:
            raise ValueError(f"rao_blackwellised: baseline 'leave-one-out' needs num_samples >= 2, got {problem.num_samples}")

    def gradient(key: Key, params: Params, state: Any, problem: Problem) -> Found:
        factors = problem.guide.log_probs
        assert factors is not None  # `check` has looked
        z, w = _drawn(key, params, problem)
        terms, log_q = jax.vmap(problem.terms)(z), jax.vmap(factors, (None, 0))(params, z)
        if (terms.shape[1:], log_q.shape[1:]) != (mask.shape[:1], mask.shape[1:]):
            raise ValueError(
                f"rao_blackwellised: depends {mask.shape} must be [terms, factors], got terms {terms.shape[1:]} of the log joint and "
                f"{log_q.shape[1]} factors of the guide"
            )
        signal = terms @ mask.astype(terms.dtype) - log_q  # [K, D]
        if baseline == "leave-one-out":
            signal -= _mean_of_others(signal)
        return jax.grad(lambda params: -(signal * jax.vmap(factors, (None, 0))(params, z)).sum() / len(w))(params), w, state

    return Estimator("rao_blackwellised", check, lambda params: (), gradient)


def _need_path(who: str, problem: Problem) -> None:
    if not problem.guide.is_reparameterised:
        raise ValueError(f"{who}: the guide's samples have no derivative (it is discrete); take score_function()")


def _log_joint(problem: Problem, z: Point) -> Weights:
    return jax.vmap(lambda z: jnp.sum(problem.terms(z)))(z)


def _drawn(key: Key, params: Params, problem: Problem) -> tuple[Point, Weights]:
    z, log_q = jax.vmap(problem.guide.sample_and_log_prob, (0, None))(jax.random.split(key, problem.num_samples), params)
    return lax.stop_gradient((z, _log_joint(problem, z) - log_q))


def _mean_of_others(w: Float[Array, "K *D"]) -> Float[Array, "K *D"]:
    return (w.sum(0, keepdims=True) - w) / (len(w) - 1)


def _controlled(w: Weights, score: Float[Array, "K *P"]) -> Float[Array, "*P"]:
    """The mean of (w_k - a_k) score_k, a_k the best coefficient in the eyes of the other samples."""
    w = w.reshape((-1,) + (1,) * (score.ndim - 1))
    mean = _mean_of_others(score), _mean_of_others(w * score)
    covariance = _mean_of_others(w * jnp.square(score)) - mean[0] * mean[1]
    variance = _mean_of_others(jnp.square(score)) - jnp.square(mean[0])
    # Where the others' scores are all alike their variance is rounding, and rounding knows z_k.
    is_known = variance > 1e4 * jnp.finfo(w.dtype).eps * _mean_of_others(jnp.square(score))
    coefficient = jnp.where(is_known, covariance / jnp.where(is_known, variance, 1), 0)
    return ((w - coefficient) * score).mean(0)
