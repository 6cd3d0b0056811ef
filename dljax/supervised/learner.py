"""Supervised learning: a model, a loss of single examples and an optimizer become a learner."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dljax.core.axis import local_key, pmean, psum
from dljax.core.contract import Batch, Fold, Key, Learner, Mean, Metrics, Params
from dljax.nn.model import Variables, as_model

type_aliases = ("PerExample",)

PerExample = Callable[[Any, Any], Array]  # (outputs, targets) -> one value an example, [B], [B, T] or [N]


class SupervisedState(NamedTuple):
    """What training needs: trained parameters, the model's other collections, and the optimizer's state."""

    params: Params
    model_state: Variables  # {"batch_stats": ...}, {} for most models
    opt_state: optax.OptState


def supervised(
    model: Any,
    loss: PerExample,
    optimizer: optax.GradientTransformation,
    *,
    metrics: Mapping[str, PerExample] | None = None,
    augment: Callable[[Key, Batch], Batch] | None = None,
) -> Learner:
    """Fit a model to targets by gradient descent on the weighted mean of a loss.

      L(θ) = Σ_i w_i loss(f_θ(x_i), y_i) / Σ_i w_i

    Batches are dicts: `x` (an array or any pytree that the model takes), `y` (targets) and optionally `mask`, the weights w >= 0. The mask's
    shape is a prefix of the loss's: `[B]` also weighs a loss `[B, T]`. Examples of weight 0 may have any finite target (-1 for "no label").

    Where the engine binds a data-parallel axis, totals and weights are summed over it before they are divided, so that shards of unequal
    weight give the same loss and gradient as one device, with `dljax.nn.BatchNorm` too; the statistics of a layer that does not know the axis,
    such as linen's, are each shard's own, averaged.

    Args:
      model: whatever `dljax.nn.as_model` takes: a linen module, an `(init, apply)` pair, an NNX module.
      loss: `(outputs, y) -> [B, ...]`, not averaged: `dljax.objectives.cross_entropy`.
      optimizer: any optax transformation; its hyper-parameters may be traced.
      metrics: further `name -> (outputs, y) -> [B, ...]`, averaged as the loss is, in training and in evaluation.
      augment: `(key, batch) -> batch`, a random change of every training batch.
    Returns:
      A learner. `step` and `evaluate` report `loss` and every metric, each a `Mean` over the examples. `params(state)` are the model's
      *variables*: `{"params": ...}` with further collections (batch norm's statistics) where the model has them, so that they are enough to
      predict and are what linen's `apply` takes. The function `predict(key, params, x)` gives the outputs in evaluation mode.
    Raises:
      ValueError: a metric is called "loss"; when traced: a batch without x or y, a loss that is already averaged, a mask of another shape.
      TypeError: the loss or a metric is not callable; the optimizer is no optax transformation; the model is none that `as_model` knows.

    >>> from dljax.objectives import accuracy, cross_entropy
    >>> from flax import linen
    >>> learner = supervised(linen.Dense(2), cross_entropy, optax.sgd(0.1), metrics={"accuracy": accuracy})
    >>> batch = {"x": jnp.eye(3), "y": jnp.array([0, 1, 1])}
    >>> state = learner.init(jax.random.key(0), batch)
    >>> state, metrics = learner.step(jax.random.key(1), state, batch)
    >>> sorted(metrics), float(metrics["loss"].weight)
    (['accuracy', 'loss'], 3.0)
    >>> learner.functions["predict"](jax.random.key(2), learner.params(state), batch["x"]).shape
    (3, 2)
    """
    metrics = dict(metrics or {})
    if "loss" in metrics:
        raise ValueError('supervised: metrics must not be called "loss", which is reported anyway; choose another name')
    for name, function in {"loss": loss, **metrics}.items():
        if not callable(function):
            raise TypeError(f"supervised: {name} must be a function (outputs, y) -> [B, ...], got {function!r}")
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise TypeError(f"supervised: optimizer must be an optax transformation, got {optimizer!r}")
    net = as_model(model)

    def init(key: Key, batch: Batch) -> SupervisedState:
        x, _, _ = _parts(batch)
        variables = dict(net.init(key, x))
        params = variables.pop("params", {})
        return SupervisedState(params, variables, optimizer.init(params))

    def step(key: Key, state: SupervisedState, batch: Batch) -> tuple[SupervisedState, Metrics]:
        augment_key, model_key = jax.random.split(local_key(key))
        x, y, mask = _parts(batch if augment is None else augment(augment_key, batch))

        def objective(params: Params) -> tuple[Float[Array, ""], tuple]:
            outputs, model_state = net.apply({"params": params, **state.model_state}, x, key=model_key, train=True)
            total, weight = _weighted("loss", loss(outputs, y), mask)
            weights = psum(weight)
            return total / jnp.where(weights > 0, weights, 1), (outputs, model_state, Mean(total, weight))

        (_, (outputs, model_state, mean_loss)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        # Each shard's gradient is already divided by the weight of all shards: the sum is the gradient of the mean.
        grads = psum(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return SupervisedState(params, jax.tree.map(_synchronised, model_state), opt_state), {"loss": mean_loss, **measured(outputs, y, mask)}

    def measured(outputs: Any, y: Any, mask: Array | None) -> dict[str, Mean]:
        return {name: Mean(*_weighted(name, metric(outputs, y), mask)) for name, metric in metrics.items()}

    def evaluate_init(key: Key, state: SupervisedState) -> dict[str, Mean]:
        return {name: Mean(jnp.zeros(()), jnp.zeros(())) for name in ["loss", *metrics]}

    def evaluate_step(acc: dict[str, Mean], state: SupervisedState, batch: Batch) -> dict[str, Mean]:
        x, y, mask = _parts(batch)
        outputs, _ = net.apply(variables_of(state), x)
        new = {"loss": Mean(*_weighted("loss", loss(outputs, y), mask)), **measured(outputs, y, mask)}
        return jax.tree.map(lambda total, more: total + more.astype(total.dtype), acc, new)

    def predict(key: Key, params: Variables, x: Any) -> Any:
        return net.apply(params, x)[0]

    return Learner(init, step, variables_of, Fold(evaluate_init, evaluate_step, lambda acc: acc), {"predict": predict})


def variables_of(state: SupervisedState) -> Variables:
    """The model's variables: trained parameters and every other collection, enough to predict.

    >>> variables_of(SupervisedState({"w": 1.0}, {"batch_stats": {"mean": 0.0}}, ()))
    {'params': {'w': 1.0}, 'batch_stats': {'mean': 0.0}}
    """
    return {"params": state.params, **state.model_state}


def _parts(batch: Batch) -> tuple[Any, Any, Array | None]:
    if not isinstance(batch, Mapping) or "x" not in batch or "y" not in batch:
        got = f"the keys {sorted(batch)}" if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(f'supervised: a batch must be a dict with "x" and "y" (and optionally "mask"), got {got}')
    return batch["x"], batch["y"], batch.get("mask")


def _weighted(name: str, values: Array, mask: Array | None) -> tuple[Float[Array, ""], Float[Array, ""]]:
    if jnp.ndim(values) == 0:
        raise ValueError(f"supervised: {name} must return one value an example, [B, ...], got a scalar; leave the averaging to the learner")
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    if mask is None:
        return values.sum(), jnp.asarray(values.size, values.dtype)
    if values.shape[: mask.ndim] != mask.shape:
        raise ValueError(f"supervised: the mask must have the shape of the {name} {values.shape} or a prefix of it, got {mask.shape}")
    weights = jnp.broadcast_to(mask.astype(values.dtype).reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values.shape)
    # Not a product alone: padding may have a loss that is not finite.
    return jnp.where(weights > 0, weights * values, 0).sum(), weights.sum()


def _synchronised(leaf: Array) -> Array:
    return pmean(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf
