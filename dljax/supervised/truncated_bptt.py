"""Truncated backpropagation through time: long sequences in segments, the state carried on, the gradient cut at their edges."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen
from jaxtyping import Array

from dljax.core import precision
from dljax.core.axis import bound_axis
from dljax.core.checks import check_int
from dljax.core.contract import Batch, Fold, Key, Learner, Mean, Metrics, Params
from dljax.nn.model import Model, Variables
from dljax.supervised.learner import PerExample, SupervisedState, supervised


def truncated_bptt(
    model: Any,
    loss: PerExample,
    optimizer: optax.GradientTransformation,
    *,
    metrics: Mapping[str, PerExample] | None = None,
    penalty: Callable[[Params], Any] | None = None,
    num_evaluated: int | None = None,
) -> Learner:
    """Fit a recurrent model to sequences that come in consecutive segments.

      (outputs_s, h_s) = f_θ(x_s, h_{s-1}),   ∇ ≈ Σ_s ∂ loss(outputs_s, y_s) / ∂θ with h_{s-1} held fixed

    Where one segment is the whole sequence this is backpropagation through time. The state holds h, so that batch after batch goes on where the
    last one ended, across checkpoints too. Batches are dicts: `x` [B, T, ...] and `y` [B, T, ...] as for `supervised`, row b the next segment of
    stream b (`dljax.data.streams`); optionally `mask`, a prefix of the loss's shape, and `reset` [B], 1 where a new document or episode begins
    with this segment, whose state is zero. Padding may stand at the end of a document.

    Args:
      model: a linen module called as `(x, carry, train=...) -> (outputs, carry)`, the argument `train` optional, or a pair of functions
        `init(key, x) -> params` and `apply(params, x, carry) -> (outputs, carry)`. The carry is a pytree of arrays [B, ...]; None stands for zeros.
      loss, optimizer, metrics, penalty: as for `supervised`.
      num_evaluated: how many streams `evaluate` reads side by side, the engine's `batch_size`; None for as many as are trained on.
    Returns:
      A learner as `supervised` gives, whose state holds `model_state["carry"]`. `evaluate` carries the state from batch to batch: rows 0 ... B-1
      are the first segments of the B streams, rows B ... 2B-1 the second, as `dljax.data.stream_segments` lays them out. The function
      `predict(key, params, x)` reads sequences from their beginning.
    Raises:
      ValueError, TypeError: as `supervised`; `num_evaluated` < 1; when traced: a batch of another number of streams than the first; under `pmap` or
        `shard_map`, which copy the state where each device needs its own rows of it.

    Source: Williams & Peng (1990), Neural Computation 2.

    >>> from dljax.models import RecurrentLanguageModel
    >>> from dljax.objectives import cross_entropy
    >>> learner = truncated_bptt(RecurrentLanguageModel(5, width=4, cell="elman"), cross_entropy, optax.sgd(0.1))
    >>> batch = {"x": jnp.array([[0, 1, 2], [3, 4, 0]]), "y": jnp.array([[1, 2, 3], [4, 0, 1]])}
    >>> state = jax.jit(learner.init)(jax.random.key(0), batch)
    >>> state, metrics = jax.jit(learner.step)(jax.random.key(1), state, batch)
    >>> float(metrics["loss"].weight), state.model_state["carry"][0].shape
    (6.0, (2, 4))
    """
    if num_evaluated is not None:
        check_int("truncated_bptt", "num_evaluated", num_evaluated, minimum=1)
    init_model, forward = _carried(model)

    def init(key: Key, given: tuple) -> Variables:
        x, _ = given
        variables = init_model(key, x)
        _, carry = jax.eval_shape(lambda variables: forward(variables, x, None), variables)
        return {**variables, "carry": jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry)}

    def apply(variables: Variables, given: tuple, *, key: Key | None = None, train: bool = False) -> tuple[Any, Variables]:
        x, reset = given
        rest = {name: value for name, value in variables.items() if name != "carry"}
        before = _reset(variables["carry"], reset, x)
        outputs, carry = precision.wrap(lambda variables, x, carry: forward(variables, x, carry, key, train))(rest, x, before)
        model_state = {name: value for name, value in rest.items() if name != "params"}
        return outputs, {**model_state, "carry": jax.tree.map(lambda new, old: new.astype(old.dtype), carry, before)}

    net = Model(init, apply)
    inner = supervised(net, loss, optimizer, metrics=metrics, penalty=penalty)
    # The fold that measures: of outputs that are there already, for the model must run once only and give its carry too.
    given = Model(lambda key, x: {}, lambda variables, x, **options: (x, {}))
    measured = supervised(given, loss, optimizer, metrics=metrics).evaluate
    assert measured is not None

    def evaluate_init(key: Key, state: SupervisedState) -> tuple[Any, dict[str, Mean]]:
        def fresh(leaf: Array) -> Array:
            return jnp.zeros((num_evaluated or leaf.shape[0], *leaf.shape[1:]), leaf.dtype)

        return jax.tree.map(fresh, state.model_state["carry"]), measured.init(key, state)

    def evaluate_step(acc: tuple[Any, dict[str, Mean]], state: SupervisedState, batch: Batch) -> tuple[Any, dict[str, Mean]]:
        carry, means = acc
        outputs, model_state = net.apply({**_without_carry(state), "carry": carry}, _segments(batch)["x"])
        return model_state["carry"], measured.step(means, SupervisedState({}, {}, ()), {**batch, "x": outputs})

    def step(key: Key, state: SupervisedState, batch: Batch) -> tuple[SupervisedState, Metrics]:
        if bound_axis() is not None:
            raise ValueError("truncated_bptt: the carried state belongs to the rows of a batch, and pmap or shard_map would copy it; shard by jit")
        return inner.step(key, state, _segments(batch))

    def predict(key: Key, params: Variables, x: Any) -> Any:
        return precision.wrap(lambda variables, x: forward(variables, x, None)[0])(params, x)

    fold = Fold(evaluate_init, evaluate_step, lambda acc: acc[1])
    return Learner(lambda key, batch: inner.init(key, _segments(batch)), step, _without_carry, fold, {"predict": predict})


def _without_carry(state: SupervisedState) -> Variables:
    return {"params": state.params, **{name: value for name, value in state.model_state.items() if name != "carry"}}


def _segments(batch: Batch) -> Batch:
    if not isinstance(batch, Mapping) or "x" not in batch or "y" not in batch:
        got = f"the keys {sorted(batch)}" if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(f'truncated_bptt: a batch must be a dict with "x" and "y" (and optionally "mask" and "reset"), got {got}')
    return {**batch, "x": (batch["x"], batch.get("reset"))}


def _reset(carry: Any, reset: Array | None, x: Any) -> Any:
    num = jax.tree.leaves(x)[0].shape[0]

    def one(leaf: Array) -> Array:
        if leaf.shape[0] != num:
            remedy = "keep their number, and say num_evaluated=... where it differs in evaluation"
            raise ValueError(f"truncated_bptt: the carried state is of {leaf.shape[0]} streams, got a batch of {num}; {remedy}")
        if reset is None:
            return leaf
        return jnp.where(reset.astype(bool).reshape((num,) + (1,) * (leaf.ndim - 1)), 0, leaf)

    return jax.tree.map(one, carry)


def _carried(model: Any) -> tuple[Callable[..., Variables], Callable[..., tuple[Any, Any]]]:
    """`init(key, x) -> variables` and `forward(variables, x, carry, key, train) -> (outputs, carry)` of any kind of model."""
    if isinstance(model, linen.Module):
        takes_train = "train" in inspect.signature(type(model).__call__).parameters

        def forward(variables: Variables, x: Any, carry: Any, key: Key | None = None, train: bool = False) -> tuple[Any, Any]:
            options: dict[str, Any] = {"train": train} if takes_train else {}
            return model.apply(variables, x, carry, rngs=None if key is None else {"dropout": key}, **options)

        return lambda key, x: model.init(key, x), forward
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        init_params, apply_params = model

        def forward_pair(variables: Variables, x: Any, carry: Any, key: Key | None = None, train: bool = False) -> tuple[Any, Any]:
            return apply_params(variables["params"], x, carry)

        return lambda key, x: {"params": init_params(key, x)}, forward_pair
    raise TypeError(f"truncated_bptt: model must be a linen module or an (init, apply) pair that hands on a carry, got {type(model).__name__}")
