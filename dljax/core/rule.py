"""What an optimizer that wants more than a gradient sees of a training step: the model and the loss on one batch, as functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array

from dljax.core.axis import psum
from dljax.core.contract import Key, Mean, Params


class Problem(NamedTuple):
    """A model and a loss on one batch.

      L(θ) = Σ_i w_i loss_i(f_θ(x_i)),   Σ_i w_i = 1 over the batches of all devices

    Attributes:
      forward: `params -> (outputs, model_state)`, in training mode and with the same noise at every call; `model_state` are the model's
        other collections, changed, and where the model has some `losses`, numbers to be added to the loss, the same on all devices.
      loss: `outputs -> (L [], Mean)`; L is this device's share, whose `psum` is the whole, and the `Mean` what is reported of it.
      weights: `outputs -> w`, of the loss's shape [B, ...], which is the outputs' or a prefix of it.
      function: the loss of single examples itself, `(outputs, y) -> [B, ...]`, which tells the distribution.
      penalty: `params -> []`, the same on all devices, to be added to the loss; None where there is none.
    """

    forward: Callable[[Params], tuple[Any, Any]]
    loss: Callable[[Any], tuple[Array, Mean]]
    weights: Callable[[Any], Array]
    function: Callable[..., Any]
    penalty: Callable[[Params], Array] | None = None


class Seen(NamedTuple):
    """What a step saw at the parameters it began with: the model's outputs, its changed collections and the loss."""

    outputs: Any
    model_state: Any
    loss: Mean


class UpdateRule(NamedTuple):
    """How parameters change in a step: what learners take where they take an optax transformation.

    Attributes:
      init: `(params, problem) -> state`, from a first batch.
      update: `(key, params, state, problem) -> (params, state, seen, metrics)`; `metrics` are scalars to report besides the loss.
    """

    init: Callable[[Params, Problem], Any]
    update: Callable[[Key, Params, Any, Problem], tuple[Params, Any, Seen, Mapping[str, Any]]]


def first_order(optimizer: optax.GradientTransformation) -> UpdateRule:
    """An optax transformation of the gradient as a rule; the sum of the model's own losses, where it has some, is reported as `added_loss`.

    >>> problem = Problem(lambda w: (w, {}), lambda outputs: (outputs**2, Mean(outputs**2, 1.0)), lambda outputs: 1.0, lambda outputs, y: outputs**2)
    >>> rule = first_order(optax.sgd(0.25))
    >>> params, _, seen, _ = rule.update(jax.random.key(0), 2.0, rule.init(2.0, problem), problem)
    >>> float(params), float(seen.loss.total)
    (1.0, 4.0)
    """

    def update(key: Key, params: Params, state: Any, problem: Problem) -> tuple[Params, Any, Seen, Mapping[str, Any]]:
        def objective(params: Params) -> tuple[Array, tuple[Seen, dict[str, Any]]]:
            outputs, model_state = problem.forward(params)
            share, loss = problem.loss(outputs)
            more, metrics = 0.0 if problem.penalty is None else problem.penalty(params), {}
            if "losses" in model_state:
                added = sum(value.astype(share.dtype).sum() for value in jax.tree.leaves(model_state["losses"]))
                more, metrics = more + added, {"added_loss": added}
                model_state = {name: value for name, value in model_state.items() if name != "losses"}
            share = share + more / psum(1.0)  # the devices' gradients are summed: each has its share
            return share, (Seen(outputs, model_state, loss), metrics)

        (_, (seen, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, state = optimizer.update(psum(grads), state, params)
        return optax.apply_updates(params, updates), state, seen, metrics

    return UpdateRule(lambda params, problem: optimizer.init(params), update)


def refuse_penalty(who: str, params: Params, problem: Problem) -> None:
    """Say so where a rule's curvature knows nothing of a penalty, or of losses of the model's own.

    Raises:
      ValueError: the problem has one.

    >>> refuse_penalty("doc", {}, Problem(None, None, None, None, lambda params: 0.0))
    Traceback (most recent call last):
    ValueError: doc: penalty must be None, for its curvature would be missing; leave it out, or use an optax transformation
    """
    if problem.penalty is not None:
        raise ValueError(f"{who}: penalty must be None, for its curvature would be missing; leave it out, or use an optax transformation")
    if "losses" in jax.eval_shape(problem.forward, params)[1]:
        raise ValueError(f"{who}: the model must have no losses of its own, for their curvature would be missing; use an optax transformation")
