"""One small interface to a model: a linen module, an NNX module or an `(init, apply)` pair as two pure functions."""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import linen

from dljax.core import precision
from dljax.core.contract import Key

type_aliases = ("Variables",)

Variables = Mapping[str, Any]  # {"params": what is trained, and further collections such as "batch_stats"}


class Model(NamedTuple):
    """A model as a pair of pure functions on its variables.

    Attributes:
      init: `(key, *inputs) -> variables`, a dict with `params` (what is trained) and whatever other collections the model keeps, such as
        `batch_stats`. Most models have one input; a conditional one takes what it depends on besides as a second.
      apply: `(variables, *inputs, key=None, train=False) -> (outputs, model_state)`; `model_state` is the dict of all collections but `params`,
        changed where `train` says that the model may learn statistics. Dropout draws from `key`; without one the model must be deterministic.
        In training a linen module may sow numbers into a collection `losses`, to be added to the loss: then `model_state` has it besides, and it is
        not to be kept.

    >>> model = as_model(linen.Dense(2))
    >>> variables = model.init(jax.random.key(0), jax.numpy.ones((4, 3)))
    >>> outputs, model_state = model.apply(variables, jax.numpy.ones((4, 3)))
    >>> outputs.shape, model_state
    ((4, 2), {})
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Any, Variables]]


def as_model(model: Any) -> Model:
    """Any kind of model as a `Model`, computed in the precision that the engine asks for.

    Args:
      model: one of
        - a linen module. If its `__call__` has an argument `train`, or `deterministic`, it is told which mode it is in. All its random streams
          come from the key.
        - an `(init, apply)` pair, `init(key, *inputs) -> params` (any pytree) and `apply(params, *inputs) -> outputs`; `apply` may ask for
          `key` and `train` by name. Its variables are `{"params": params}`.
        - a function `rngs -> NNX module`, called once per `init` with `nnx.Rngs` made of the key, or a ready NNX module, whose parameters are
          then the same for every key. `train()` and `eval()` set its mode, and the key reseeds its random streams.
        - a `Model`, returned as it is.
    Returns:
      The pair of functions. Under the policy "bfloat16" parameters and inputs are cast at the door and outputs cast back;
      statistics stay in float32.
    Raises:
      TypeError: `model` is none of these.

    >>> line = as_model((lambda key, x: {"slope": jax.random.normal(key)}, lambda params, x: params["slope"] * x))
    >>> sorted(line.init(jax.random.key(0), None)["params"])
    ['slope']
    >>> as_model(3)
    Traceback (most recent call last):
    TypeError: as_model: model must be a linen module, an (init, apply) pair, an NNX module or a function rngs -> NNX module, got int
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, linen.Module):
        return _from_linen(model)
    # Importing NNX takes a fifth of a second: whoever has one of its modules has paid already.
    if "flax.nnx" in sys.modules and isinstance(model, (nnx := sys.modules["flax.nnx"]).Module):
        return _from_nnx(lambda rngs: nnx.clone(model))
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        return _from_pair(*model)
    if callable(model):
        return _from_nnx(model)
    raise TypeError(
        "as_model: model must be a linen module, an (init, apply) pair, an NNX module or a function rngs -> NNX module, "
        f"got {type(model).__name__}"
    )  # fmt: skip


def stateless_params(who: str, name: str, model: Model, key: Key, *inputs: Any, shape: tuple[int, ...] | None = None) -> Any:
    """The parameters of a model for a learner that keeps no running statistics, made for its first inputs.

    Args:
      who, name: the factory and what the model is to it, for the message: "the encoder".
      shape: what the outputs must have; None for any.
    Raises:
      ValueError: the model has collections besides its parameters, or outputs of another shape.

    >>> model = as_model(linen.Dense(2))
    >>> stateless_params("vae", "the encoder", model, jax.random.key(0), jax.numpy.ones((4, 3)), shape=(4, 6))
    Traceback (most recent call last):
    ValueError: vae: the encoder must map (4, 3) to (4, 6), got (4, 2)
    """
    variables = model.init(key, *inputs)
    if set(variables) - {"params"}:
        raise ValueError(f"{who}: {name} must have no running statistics, got {sorted(variables)}; use layer instead of batch normalisation")
    made = jax.eval_shape(lambda: model.apply(variables, *inputs)[0])
    if shape is not None and made.shape != shape:
        raise ValueError(f"{who}: {name} must map {inputs[0].shape} to {shape}, got {made.shape}")
    return variables.get("params", {})


def _from_linen(module: linen.Module) -> Model:
    mode = _mode(type(module).__call__)

    def init(key: Key, *inputs: Any) -> Variables:
        options: dict[str, Any] = mode(train=False)
        variables: Variables = module.init(_streams(key), *inputs, **options)
        return {name: value for name, value in variables.items() if name != "losses"}

    def apply(variables: Variables, *inputs: Any, key: Key | None = None, train: bool = False) -> tuple[Any, Variables]:
        model_state = _without_params(variables)

        def forward(params: Any, *inputs: Any) -> Any:
            rngs = None if key is None else _streams(key)
            options: dict[str, Any] = mode(train=train)
            mutable = [*model_state, "losses"] if train else False
            return module.apply({"params": params, **model_state}, *inputs, rngs=rngs, mutable=mutable, **options)

        # The state is closed over, not an argument: running statistics must not be rounded to the compute dtype.
        outputs = precision.wrap(forward)(variables.get("params", {}), *inputs)
        if not train:
            return outputs, model_state
        outputs, changed = outputs
        kept = {name: _like(changed[name], value) if name in changed else value for name, value in model_state.items()}
        return outputs, ({**kept, "losses": changed["losses"]} if "losses" in changed else kept)

    return Model(init, apply)


def _from_pair(init_params: Callable[..., Any], apply_params: Callable[..., Any]) -> Model:
    names = inspect.signature(apply_params).parameters

    def init(key: Key, *inputs: Any) -> Variables:
        return {"params": init_params(key, *inputs)}

    def apply(variables: Variables, *inputs: Any, key: Key | None = None, train: bool = False) -> tuple[Any, Variables]:
        asked = {name: value for name, value in {"key": key, "train": train}.items() if name in names}
        return precision.wrap(lambda params, *inputs: apply_params(params, *inputs, **asked))(variables["params"], *inputs), {}

    return Model(init, apply)


def _from_nnx(build: Callable[..., Any]) -> Model:
    from flax import nnx

    def parts(key: Key) -> tuple:
        module = build(nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise TypeError(f"as_model: the function of rngs must return an NNX module, got {type(module).__name__}")
        return nnx.split(module, nnx.Param, nnx.RngState, ...)

    def init(key: Key, *inputs: Any) -> Variables:
        _, params, _, rest = parts(key)
        rest = nnx.to_pure_dict(rest)
        return {"params": nnx.to_pure_dict(params)} | ({"state": rest} if rest else {})

    def apply(variables: Variables, *inputs: Any, key: Key | None = None, train: bool = False) -> tuple[Any, Variables]:
        # Only the structure and the random streams of this module are used: XLA removes its parameters.
        graph, old_params, streams, old_rest = parts(jax.random.key(0) if key is None else key)

        def forward(params: Any, *inputs: Any) -> Any:
            nnx.replace_by_pure_dict(old_params, params)
            nnx.replace_by_pure_dict(old_rest, variables.get("state", {}))
            module = nnx.merge(graph, old_params, streams, old_rest)
            module.train() if train else module.eval()
            if key is not None:
                nnx.reseed(module, default=key)
            outputs = module(*inputs)
            split: Any = nnx.split(module, nnx.Param, nnx.RngState, ...)
            return outputs, nnx.to_pure_dict(split[3])

        outputs, rest = precision.wrap(forward)(variables["params"], *inputs)
        model_state = _without_params(variables)
        return outputs, ({"state": _like(rest, model_state["state"])} if train and model_state else model_state)

    return Model(init, apply)


def _mode(call: Callable[..., Any]) -> Callable[..., dict[str, bool]]:
    names = inspect.signature(call).parameters
    if "train" in names:
        return lambda train: {"train": train}
    if "deterministic" in names:
        return lambda train: {"deterministic": not train}
    return lambda train: {}


def _streams(key: Key) -> dict[str, Key]:
    # Linen takes any stream that has no key of its own from "params".
    params_key, dropout_key = jax.random.split(key)
    return {"params": params_key, "dropout": dropout_key}


def _without_params(variables: Variables) -> dict[str, Any]:
    return {name: value for name, value in variables.items() if name != "params"}


def _like(tree: Any, reference: Any) -> Any:
    return jax.tree.map(lambda new, old: new.astype(old.dtype) if hasattr(old, "dtype") else new, tree, reference)
