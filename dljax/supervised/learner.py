"""Supervised learning: a model, a loss of single examples and an optimizer become a learner."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dljax.core.axis import local_key, pmean, psum
from dljax.core.contract import Batch, Fold, Key, Learner, Mean, Metrics, Params
from dljax.core.rule import Problem, UpdateRule, first_order
from dljax.nn.model import Variables, as_model

type_aliases = ("PerExample",)

PerExample = Callable[[Any, Any], Array]  # (outputs, targets) -> one value an example, [B], [B, T] or [N]


class SupervisedState(NamedTuple):
    """What training needs: trained parameters, the model's other collections, and the state of the optimizer or rule."""

    params: Params
    model_state: Variables  # {"batch_stats": ...}, {} for most models
    opt_state: Any


def supervised(
    model: Any,
    loss: PerExample,
    optimizer: optax.GradientTransformation | UpdateRule,
    *,
    metrics: Mapping[str, PerExample] | None = None,
    augment: Callable[[Key, Batch], Batch] | None = None,
    penalty: Callable[[Params], Any] | None = None,
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
      optimizer: any optax transformation, its hyper-parameters may be traced; or a rule that asks for more than the gradient, such as
        `dljax.optim.kfac()`, whose own metrics are reported too.
      metrics: further `name -> (outputs, y) -> [B, ...]`, averaged as the loss is, in training and in evaluation.
      augment: `(key, batch) -> batch`, a random change of every training batch.
      penalty: `params -> []`, added to the loss that is minimised and reported on its own as `penalty`:
        `lambda params: l2(params, "kernel$", strength=1e-4)` of `dljax.objectives`.
    Returns:
      A learner. `step` and `evaluate` report `loss` and every metric, each a `Mean` over the examples. `params(state)` are the model's
      *variables*: `{"params": ...}` with further collections (batch norm's statistics) where the model has them, so that they are enough to
      predict and are what linen's `apply` takes. The function `predict(key, params, x)` gives the outputs in evaluation mode.
      What a linen module sows into the collection `losses`, such as the balance of a mixture of experts, is added to what is minimised; `step`
      reports its sum as `added_loss`.
    Raises:
      ValueError: a metric is called "loss", or "penalty" where there is one; when traced: a batch without x or y, a loss that is already averaged,
        a mask of another shape, a penalty that is no scalar or belongs to a rule whose curvature would miss it.
      TypeError: the loss, a metric or the penalty is not callable; the optimizer is no optax transformation; the model is none that `as_model` knows.

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
    if penalty is not None and "penalty" in metrics:
        raise ValueError('supervised: metrics must not be called "penalty", which is reported anyway; choose another name')
    if penalty is not None and not callable(penalty):
        raise TypeError(f"supervised: penalty must be a function params -> [], such as lambda params: l2(params), got {penalty!r}")
    for name, function in {"loss": loss, **metrics}.items():
        if not callable(function):
            raise TypeError(f"supervised: {name} must be a function (outputs, y) -> [B, ...], got {function!r}")
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise TypeError(f"supervised: optimizer must be an optax transformation, got {optimizer!r}; or a rule such as dljax.optim.kfac()")
    rule = optimizer if isinstance(optimizer, UpdateRule) else first_order(optimizer)
    net = as_model(model)

    def init(key: Key, batch: Batch) -> SupervisedState:
        x, _, _ = _parts(batch)
        variables = dict(net.init(key, x))
        params = variables.pop("params", {})
        return SupervisedState(params, variables, rule.init(params, problem_of(jax.random.fold_in(key, 2), variables, batch)))

    def step(key: Key, state: SupervisedState, batch: Batch) -> tuple[SupervisedState, Metrics]:
        key = local_key(key)
        augment_key, model_key = jax.random.split(key)
        batch = batch if augment is None else augment(augment_key, batch)
        problem = problem_of(model_key, state.model_state, batch)
        params, opt_state, seen, further = rule.update(jax.random.fold_in(key, 2), state.params, state.opt_state, problem)
        model_state = jax.tree.map(_synchronised, seen.model_state)
        _, y, mask = _parts(batch)
        reported = {**further, "loss": seen.loss, **measured(seen.outputs, y, mask)}
        return SupervisedState(params, model_state, opt_state), reported if penalty is None else {**reported, "penalty": cost(state.params)}

    def problem_of(key: Key, model_state: Variables, batch: Batch) -> Problem:
        x, y, mask = _parts(batch)

        def forward(params: Params) -> tuple[Any, Variables]:
            # A rule may ask again, and must meet the same noise.
            return net.apply({"params": params, **model_state}, x, key=jax.random.clone(key), train=True)

        def share(outputs: Any) -> tuple[Float[Array, ""], Mean]:
            total, weight = _weighted("loss", loss(outputs, y), mask)
            # Divided by the weight of all shards, so that sums over the shards are the mean loss and its derivatives.
            return total / _positive(psum(weight)), Mean(total, weight)

        def weights(outputs: Any) -> Array:
            each = _weights("loss", jax.eval_shape(loss, outputs, y), mask)
            return each / _positive(psum(each.sum()))

        return Problem(forward, share, weights, loss, None if penalty is None else cost)

    def cost(params: Params) -> Array:
        assert penalty is not None
        value = penalty(params)
        if jnp.ndim(value):
            raise ValueError(f"supervised: penalty must return one number, got shape {jnp.shape(value)}; sum it")
        return value

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
    weights = _weights(name, values, mask)
    # Not a product alone: padding may have a loss that is not finite.
    return jnp.where(weights > 0, weights * values, 0).sum(), weights.sum()


def _weights(name: str, values: Any, mask: Array | None) -> Array:
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    if mask is None:
        return jnp.ones(values.shape, dtype)
    if values.shape[: mask.ndim] != mask.shape:
        raise ValueError(f"supervised: the mask must have the shape of the {name} {values.shape} or a prefix of it, got {mask.shape}")
    return jnp.broadcast_to(mask.astype(dtype).reshape(mask.shape + (1,) * (len(values.shape) - mask.ndim)), values.shape)


def _positive(weight: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(weight > 0, weight, 1)


def _synchronised(leaf: Array) -> Array:
    return pmean(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf
