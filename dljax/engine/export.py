"""Export: what a learner has learned as StableHLO and safetensors, to be run without dljax."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dljax.core.contract import Params
from dljax.core.tree import named_leaves

SUFFIX = ".stablehlo"
WEIGHTS = "params.safetensors"


def export(
    function: Callable[..., Any],
    params: Params,
    args: Sequence[Any],
    path: Path | str,
    *,
    name: str = "predict",
    platforms: Sequence[str] | None = None,
) -> Path:
    """Write `<path>/<name>.stablehlo` and `<path>/params.safetensors`.

    The exported program takes `(key_data, weights, *args)`: the raw data of a key (uint32 [2]), the weights as the flat dict of the
    safetensors file, and arguments whose leading dimension may be of any size (the same for all).

    Args:
      function: `(key, params, *args) -> arrays`, one of a learner's functions.
      args: examples of the arguments after the parameters, arrays [B, ...]; their leading dimension becomes symbolic.
      platforms: such as `("cpu", "cuda", "tpu")`; the present one by default.
    Returns:
      The path of the program.
    Raises:
      ValueError: the program exists already, an argument has no leading dimension, or the function depends on the batch size.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export(lambda key, params, x: x @ params["w"], {"w": jnp.eye(2)}, (jnp.ones((1, 2)),), folder)
    ...     load_exported(path)(jax.random.key(0), jnp.ones((3, 2))).shape
    (3, 2)
    """
    from safetensors.flax import save_file

    folder = Path(path)
    target = folder / f"{name}{SUFFIX}"
    if target.exists():
        raise ValueError(f"export: {target} exists; choose another folder")
    weights = {leaf_name: jnp.asarray(leaf) for leaf_name, leaf in named_leaves(params)}
    structure = jax.tree.structure(params)

    def program(key_data: Any, weights: Mapping[str, Any], *args: Any) -> Any:
        # `named_leaves` walks in the tree's own order, a dict that went through a file is sorted by name.
        leaves = [weights[leaf_name] for leaf_name in order]
        return function(jax.random.wrap_key_data(key_data), jax.tree.unflatten(structure, leaves), *args)

    order = list(weights)
    scope = jax.export.SymbolicScope()
    (batch,) = jax.export.symbolic_shape("b", scope=scope)

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        if jnp.ndim(leaf) == 0:
            raise ValueError(f"export: {name}: every argument needs a leading batch dimension, got a scalar {leaf!r}")
        return jax.ShapeDtypeStruct((batch, *jnp.shape(leaf)[1:]), jnp.result_type(leaf))

    shapes = [
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree) for tree in (jax.random.key_data(jax.random.key(0)), weights)
    ]
    exporter = jax.export.export(jax.jit(program), platforms=platforms)
    try:
        exported = exporter(*shapes, *(jax.tree.map(shape, arg) for arg in args))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"export: {name} cannot be compiled for any batch size ({reason})") from error
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS)
    target.write_bytes(exported.serialize())
    return target


def load_exported(path: Path | str) -> Callable[..., Any]:
    """An exported program with its weights: `(key, *args) -> arrays`.

    Raises:
      FileNotFoundError: the program or its weights are missing.
    """
    from safetensors.flax import load_file

    path = Path(path)
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    weights = load_file(path.parent / WEIGHTS)
    return lambda key, *args: exported.call(jax.random.key_data(key), weights, *args)
