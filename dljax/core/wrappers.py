"""Wrappers that turn any learner into a learner: averages of its parameters over time, and ensembles.

They know only the contract. Gradient accumulation is none of them, for a learner does not say what its gradient is:
`optax.MultiSteps(optimizer, num)` in place of the optimizer accumulates for every learner that takes one.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Fold, Key, Learner, Mean, Metrics, Numeric, Params, State


class AverageState(NamedTuple):
    """The learner's own state, the average of its parameters, how many were averaged and how many steps were made."""

    inner: State
    average: Params
    num: Int[Array, ""]
    steps: Int[Array, ""]


def ema(learner: Learner, decay: Numeric = 0.999) -> Learner:
    """An exponential moving average of the parameters, used in their place for evaluation, export and `functions`.

      θ̄_t = (1-β) Σ_{s<=t} β^(t-s) θ_s / (1 - β^t)

    Training itself goes on as without it. The bias of a start at zero is corrected, as Adam's is: after one step the average is that step's.
    Leaves that are no floating-point numbers are the newest; running statistics of batch norm that are part of `params(state)` are averaged too.

    Args:
      decay: β in [0, 1); may be traced.
    Returns:
      A learner with the same metrics; `state.inner` is the learner's own state.
    Raises:
      ValueError: β outside [0, 1); at `init`: `params(state)` does not merely select leaves of the state.
    Source: Polyak and Juditsky (1992); Kingma and Ba (2015), section 7.2.

    >>> count = Learner(lambda key, batch: {"params": jnp.zeros(())}, lambda key, state, batch: ({"params": state["params"] + 1}, {}))
    >>> learner = ema(count, 0.5)
    >>> state = learner.init(jax.random.key(0), ())
    >>> for _ in range(2):
    ...     state, _ = learner.step(jax.random.key(0), state, ())
    >>> round(float(learner.params(state)), 4)  # (0.5 · 1 + 2) / 1.5
    1.6667
    """
    check_range("ema", "decay", decay, 0, 1, open_high=True)

    def weight(num: Array) -> Array:
        rest = jnp.asarray(1 - decay)  # exact, as 1 - β^t is then up to its last digits, however near β is to 1
        return rest / -jnp.expm1(num * jnp.log1p(-rest))

    return _averaged("ema", learner, weight, lambda steps: jnp.bool_(True))


def swa(learner: Learner, start: int, every: int = 1) -> Learner:
    """Stochastic weight averaging: the mean of the parameters after steps `start`, `start + every`, ...

      θ̄ = 1/n Σ_i θ_i

    Before the first of them the newest parameters stand for it. It wants a learning rate that stays high, or goes in cycles of `every` steps.

    Running statistics of batch norm that are part of `params(state)` are averaged like parameters, which is not what the averaged network would
    measure: `dljax.supervised.refreshed` measures them anew. Leaves that are no floating-point numbers are the newest.

    Args:
      start: the first step that counts, >= 1.
      every: steps from one to the next, >= 1.
    Returns:
      A learner with the same metrics; `state.inner` is the learner's own state.
    Raises:
      ValueError: `start` or `every` < 1; at `init` as for `ema`.
    Source: Izmailov et al. (2018), Averaging weights leads to wider optima, algorithm 1.

    >>> count = Learner(lambda key, batch: {"params": jnp.zeros(())}, lambda key, state, batch: ({"params": state["params"] + 1}, {}))
    >>> learner = swa(count, start=2, every=2)
    >>> state = learner.init(jax.random.key(0), ())
    >>> for _ in range(5):
    ...     state, _ = learner.step(jax.random.key(0), state, ())
    >>> float(learner.params(state))  # of 2 and 4
    3.0
    """
    check_int("swa", "start", start, minimum=1)
    check_int("swa", "every", every, minimum=1)
    return _averaged("swa", learner, lambda num: 1 / num, lambda steps: (steps >= start) & ((steps - start) % every == 0))


def ensemble(learner: Learner, num: int, *, combine: Mapping[str, Callable[[Array], Any]] | None = None) -> Learner:
    """Several members trained side by side as one vmapped program, each with keys of its own: deep ensembles.

      p(y | x) = 1/M Σ_m p(y | x, θ_m)

    Member m of M gets the key `split(key, M)[m]` of `init`, of every step and of every function: it is the learner alone with these keys. All see
    the same batches; their initialisation, noise and augmentation differ.

    Args:
      num: M >= 1.
      combine: how the members' outputs [M, ...] become one, by the function's name; the mean where a name is not given. The mean of logits is not
        the mean of probabilities: for a classifier say `{"predict": mixture_logits}`.
    Returns:
      A learner whose state and parameters have a leading axis M. Metrics, in training and in evaluation, are means over members: the loss is a
      member's, and that of the ensemble, by Jensen's inequality no higher for a log-likelihood, is to be had from `functions["predict"]`.
    Raises:
      ValueError: M < 1; `combine` names a function that the learner does not have.
      TypeError: when a function is called whose outputs are not floating-point (actions, keys) and which `combine` does not name.
    Source: Lakshminarayanan, Pritzel and Blundell (2017), Simple and scalable predictive uncertainty estimation using deep ensembles.

    >>> noise = Learner(lambda key, batch: {"params": jax.random.normal(key)}, lambda key, state, batch: (state, {"x": state["params"]}))
    >>> learner = ensemble(noise, 3)
    >>> state, metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), ()), ())
    >>> state["params"].shape, bool(metrics["x"] == state["params"].mean())
    ((3,), True)
    """
    check_int("ensemble", "num", num, minimum=1)
    combine = dict(combine or {})
    unknown = sorted(set(combine) - set(learner.functions))
    if unknown:
        raise ValueError(f"ensemble: combine names {', '.join(map(repr, unknown))}, but the learner has the functions {sorted(learner.functions)}")

    def init(key: Key, batch: Batch) -> State:
        return jax.vmap(learner.init, (0, None))(jax.random.split(key, num), batch)

    def step(key: Key, state: State, batch: Batch) -> tuple[State, Metrics]:
        state, metrics = jax.vmap(learner.step, (0, 0, None))(jax.random.split(key, num), state, batch)
        return state, _over_members(metrics)

    def params(state: State) -> Params:
        # A selection is the same with the leading axis; only what computes something needs to see one member at a time.
        return learner.params(state) if _selection(learner, state) is not None else jax.vmap(learner.params)(state)

    def function(name: str) -> Callable[..., Any]:
        def combined(key: Key, params: Params, *args: Any) -> Any:
            call = jax.vmap(learner.functions[name], (0, 0, *(None for _ in args)))
            return jax.tree.map(combine.get(name, lambda out: _mean_output(name, out)), call(jax.random.split(key, num), params, *args))

        return combined

    evaluate = None if learner.evaluate is None else _evaluated_members(learner.evaluate, num)
    return Learner(init, step, params, evaluate, {name: function(name) for name in learner.functions})


def mixture_logits(logits: Float[Array, "M *B C"]) -> Float[Array, "*B C"]:
    """Logits of the mean of the members' probabilities, normalised: their softmax is that mean.

      log 1/M Σ_m softmax(z_m)

    >>> jax.nn.softmax(mixture_logits(jnp.array([[[50.0, 0.0]], [[0.0, 50.0]]]))).tolist()
    [[0.5, 0.5]]
    """
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(jnp.asarray(logits.shape[0], logits.dtype))


def _averaged(who: str, learner: Learner, weight: Callable[[Array], Array], counts: Callable[[Array], Array]) -> Learner:
    """A running mean θ̄ += w(n) (θ - θ̄) of the parameters after the steps that count, n = 1, 2, ..."""

    def init(key: Key, batch: Batch) -> AverageState:
        inner = learner.init(key, batch)
        if _selection(learner, inner) is None:
            raise ValueError(
                f"{who}: the learner's params(state) must select leaves of the state, or nothing can be put in their place; "
                "average a learner whose parameters are a part of its state"
            )
        # A leaf of its own, or the engine would donate one buffer twice.
        return AverageState(inner, jax.tree.map(jnp.array, learner.params(inner)), jnp.int32(0), jnp.int32(0))

    def step(key: Key, state: AverageState, batch: Batch) -> tuple[AverageState, Metrics]:
        inner, metrics = learner.step(key, state.inner, batch)
        is_counted = counts(state.steps + 1)
        num = state.num + is_counted
        # Before the first the newest parameters stand for the average.
        w = jnp.where(is_counted, weight(jnp.maximum(num, 1)), jnp.where(num > 0, 0.0, 1.0))

        def moved(old: Array, new: Array) -> Array:
            is_number = jnp.issubdtype(old.dtype, jnp.floating)
            return jnp.where(w == 1, new, old + w.astype(old.dtype) * (new - old)) if is_number else new

        average = jax.tree.map(moved, state.average, learner.params(inner))
        return AverageState(inner, average, num, state.steps + 1), metrics

    def evaluated(state: AverageState) -> State:
        """The learner's state with the average in the place of its parameters."""
        leaves, structure = jax.tree.flatten(state.inner)
        for place, leaf in zip(_selection(learner, state.inner) or [], jax.tree.leaves(state.average), strict=True):
            leaves[place] = leaf
        return jax.tree.unflatten(structure, leaves)

    fold = learner.evaluate
    if fold is not None:
        inner_fold = fold
        fold = Fold(
            lambda key, state: inner_fold.init(key, evaluated(state)),
            lambda acc, state, batch: inner_fold.step(acc, evaluated(state), batch),
            inner_fold.finish,
        )
    return Learner(init, step, lambda state: state.average, fold, learner.functions)


class _Mark:
    """Stands for a leaf of the state, to be found again among the parameters."""


def _selection(learner: Learner, state: State) -> list[int] | None:
    """Which leaf of the state each leaf of its parameters is; None where `params` does more than to select them."""
    leaves, structure = jax.tree.flatten(state)
    marks = [_Mark() for _ in leaves]
    places = {mark: place for place, mark in enumerate(marks)}
    try:
        return [places[mark] for mark in jax.tree.leaves(learner.params(jax.tree.unflatten(structure, marks)))]
    except Exception:  # whatever computing with something that is no array may raise
        return None


def _over_members(metrics: Any) -> dict[str, Any]:
    return {name: Mean(*(jnp.mean(part, 0) for part in value)) if isinstance(value, Mean) else jnp.mean(value, 0) for name, value in metrics.items()}


def _mean_output(name: str, out: Array) -> Array:
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"ensemble: the mean of {name!r} means nothing for {out.dtype}; say how members become one with combine={{{name!r}: ...}}")
    return out.mean(0)


def _evaluated_members(fold: Fold, num: int) -> Fold:
    return Fold(
        lambda key, state: jax.vmap(fold.init)(jax.random.split(key, num), state),
        lambda acc, state, batch: jax.vmap(fold.step, (0, 0, None))(acc, state, batch),
        lambda acc: _over_members(jax.vmap(fold.finish)(acc)),
    )
