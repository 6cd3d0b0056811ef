"""Scheduled sampling (Bengio et al., 2015): a decoder learns to go on from what it said itself, more and more often."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from dljax.core.checks import check_range
from dljax.core.contract import Batch, Fold, Key, Learner, Metrics, Numeric, Params


class ScheduledState(NamedTuple):
    """The learner's own state, and how many steps it took."""

    inner: Any
    count: Int[Array, ""]


def scheduled_sampling(learner: Learner, probability: Numeric | Callable[[Any], Any]) -> Learner:
    """Tell the model of a `supervised` learner how often it reads its own draws instead of the true tokens.

      ε_t = probability(t),   given to the model as x["sampling"]

    Args:
      learner: whose batches have a dict for `x`, and whose model knows `sampling`, as `dljax.models.Seq2Seq` does.
      probability: in [0, 1], a number, which may be traced, or a function of the step, such as `optax.linear_schedule(0.0, 0.25, 10_000)`.
    Returns:
      A learner with the same parameters, metrics, evaluation (which is by teacher forcing) and functions; the metric `sampling` [] is added.
    Raises:
      ValueError: `probability` is a number outside [0, 1]; a batch whose `x` is no dict.
    Source: Bengio et al. (2015), Scheduled sampling for sequence prediction with recurrent neural networks, section 2.4; their ε is 1 - ours.

    >>> import jax, optax
    >>> from dljax.models import Seq2Seq
    >>> from dljax.objectives import cross_entropy
    >>> from dljax.supervised import supervised
    >>> plain = supervised(Seq2Seq(3, 3, width=4, embed_size=2), cross_entropy, optax.sgd(0.1))
    >>> learner = scheduled_sampling(plain, optax.linear_schedule(0.0, 0.5, 2))
    >>> tokens = jnp.array([[1, 2]])
    >>> batch = {"x": {"source": tokens, "inputs": tokens}, "y": tokens}
    >>> state = jax.jit(learner.init)(jax.random.key(0), batch)
    >>> state, metrics = jax.jit(learner.step)(jax.random.key(1), state, batch)
    >>> float(metrics["sampling"]), float(learner.step(jax.random.key(2), state, batch)[1]["sampling"])
    (0.0, 0.25)
    """
    if not callable(probability):
        check_range("scheduled_sampling", "probability", probability, 0, 1)

    def with_sampling(batch: Batch, value: Any) -> Batch:
        if not isinstance(batch.get("x"), dict):
            raise ValueError(f"scheduled_sampling: the batch's x must be a dict, got {type(batch.get('x')).__name__}; see dljax.models.Seq2Seq")
        return {**batch, "x": {**batch["x"], "sampling": value}}

    def init(key: Key, batch: Batch) -> ScheduledState:
        return ScheduledState(learner.init(key, batch), jnp.int32(0))

    def step(key: Key, state: ScheduledState, batch: Batch) -> tuple[ScheduledState, Metrics]:
        value = jnp.asarray(probability(state.count) if callable(probability) else probability, jnp.float32)
        inner, metrics = learner.step(key, state.inner, with_sampling(batch, value))
        return ScheduledState(inner, state.count + 1), {**metrics, "sampling": value}

    def params(state: ScheduledState) -> Params:
        return learner.params(state.inner)

    fold = learner.evaluate
    evaluate = fold and Fold(
        lambda key, state: fold.init(key, state.inner), lambda acc, state, batch: fold.step(acc, state.inner, batch), fold.finish
    )
    return Learner(init, step, params, evaluate, learner.functions, learner.done and (lambda state: learner.done(state.inner)))
