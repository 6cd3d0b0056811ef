"""LoRA: a trained model adapted by low-rank updates of some of its matrices, the rest frozen (Hu et al., 2022)."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric, Params
from dljax.core.tree import named_leaves, path_mask
from dljax.nn.model import Model, Variables, as_model


def lora_adapters(key: Key, params: Params, pattern: str, *, rank: int = 8) -> dict[str, dict[str, Array]]:
    """Low-rank factors for the matrices whose path a regular expression finds; they begin by changing nothing.

      A ~ N(0, 1/D) [D, r],   B = 0 [r, F]   for every matrix [D, F]

    Args:
      params: of the base model, nested dicts.
      pattern: which leaves, such as `attention/(query|value)/kernel$`; they have two axes at least, of which the last two are adapted: those before,
        such as stacked layers, count on their own.
      rank: r >= 1; at min(D, F) every update can be expressed.
    Returns:
      `path -> {"A": [..., D, r], "B": [..., r, F]}`: r (D + F) numbers a matrix.
    Raises:
      ValueError: the pattern finds nothing, or what is no matrix; a rank < 1 or larger than min(D, F).
    Source: Hu et al. (2022), LoRA: low-rank adaptation of large language models, section 4.1.

    >>> params = {"up": {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}}
    >>> jax.tree.map(jnp.shape, lora_adapters(jax.random.key(0), params, "kernel$", rank=2))
    {'up/kernel': {'A': (6, 2), 'B': (2, 4)}}
    """
    check_int("lora_adapters", "rank", rank, minimum=1)
    is_chosen = dict(named_leaves(path_mask(pattern, "lora_adapters")(params)))
    chosen = {path: leaf for path, leaf in named_leaves(params) if is_chosen[path]}
    adapters = {}
    for (path, leaf), one_key in zip(chosen.items(), jax.random.split(key, len(chosen)), strict=True):
        if leaf.ndim < 2 or rank > min(leaf.shape[-2:]):
            raise ValueError(
                f"lora_adapters: rank must be at most the smaller side of every matrix, got rank={rank} and {path} of shape {leaf.shape}; "
                "lower it, or let the pattern find other leaves"
            )
        *stacked, rows, columns = leaf.shape
        first = jax.random.normal(one_key, (*stacked, rows, rank), leaf.dtype) / math.sqrt(rows)
        adapters[path] = {"A": first, "B": jnp.zeros((*stacked, rank, columns), leaf.dtype)}
    return adapters


def lora_merged(params: Params, adapters: Mapping[str, Mapping[str, Array]], *, alpha: Numeric = 16.0) -> Params:
    """The base model's parameters with the updates in them, W + α/r · A B: a model like any other, at no further cost.

    Args:
      params, adapters: as `lora_adapters` takes and gives them.
      alpha: α > 0; with it the size of an update does not depend on the rank. May be traced.
    Returns:
      A tree like `params`.
    Raises:
      ValueError: adapters of paths that the parameters do not have; α <= 0.

    >>> params = {"up": {"kernel": jnp.zeros((2, 2))}}
    >>> adapters = {"up/kernel": {"A": jnp.array([[1.0], [2.0]]), "B": jnp.array([[3.0, 0.0]])}}
    >>> lora_merged(params, adapters, alpha=1.0)["up"]["kernel"].tolist()
    [[3.0, 0.0], [6.0, 0.0]]
    """
    check_range("lora_merged", "alpha", alpha, 0, open_low=True, open_high=True)
    leaves = dict(named_leaves(params))
    astray = sorted(set(adapters) - set(leaves))
    if astray:
        raise ValueError(f"lora_merged: params has no {', '.join(astray)}; the adapters belong to another model")

    def merged(path: str, leaf: Float[Array, "..."]) -> Float[Array, "..."]:
        if path not in adapters:
            return leaf
        first, second = adapters[path]["A"], adapters[path]["B"]
        return leaf + (alpha / first.shape[-1]) * (first @ second)

    return jax.tree.unflatten(jax.tree.structure(params), [merged(path, leaf) for path, leaf in leaves.items()])


def lora(model: Any, variables: Variables, pattern: str, *, rank: int = 8, alpha: Numeric = 16.0) -> Model:
    """A trained model of which only low-rank updates are trained: `supervised(lora(model, variables, ...), loss, optimizer)` fine-tunes it.

    The adapters are its parameters. The base model's variables are a collection `base` beside them, which gets neither gradients nor a place in the
    optimizer's state.

    Args:
      model: whatever `dljax.nn.as_model` takes.
      variables: its trained variables, `{"params": ...}`.
      pattern, rank: as for `lora_adapters`.
      alpha: as for `lora_merged`, which makes a plain model of the result: `lora_merged(found["base"]["params"], found["params"], alpha=alpha)`.
    Returns:
      A model as `dljax.nn.as_model` returns them.
    Raises:
      ValueError: as for `lora_adapters`.

    >>> from flax import linen
    >>> base = linen.Dense(4)
    >>> x = jnp.ones((2, 6))
    >>> adapted = lora(base, base.init(jax.random.key(0), x), "kernel$", rank=2)
    >>> found = adapted.init(jax.random.key(1), x)
    >>> sorted(found), jax.tree.map(jnp.shape, found["params"])
    (['base', 'params'], {'kernel': {'A': (6, 2), 'B': (2, 4)}})
    """
    check_range("lora", "alpha", alpha, 0, open_low=True, open_high=True)
    net = as_model(model)
    jax.eval_shape(lambda key, params: lora_adapters(key, params, pattern, rank=rank), jax.random.key(0), variables["params"])

    def init(key: Key, x: Any) -> Variables:
        return {"params": lora_adapters(key, variables["params"], pattern, rank=rank), "base": variables}

    def apply(variables: Variables, x: Any, *, key: Key | None = None, train: bool = False) -> tuple[Any, Variables]:
        base = variables["base"]
        params = lora_merged(jax.lax.stop_gradient(base["params"]), variables["params"], alpha=alpha)
        outputs, changed = net.apply({**base, "params": params}, x, key=key, train=train)
        return outputs, {"base": {**base, **changed}}

    return Model(init, apply)
