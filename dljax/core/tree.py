"""Helpers on pytrees: paths, sizes, finiteness, and keys as plain numbers."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def named_leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Each leaf with its path, parts joined by `/`: what sharding rules, messages and safetensors name a parameter by.

    >>> [name for name, _ in named_leaves({"dense": {"kernel": 1, "bias": 2}})]
    ['dense/bias', 'dense/kernel']
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield path_name(path), leaf


def path_name(path: tuple) -> str:
    """A key path of jax as one string, `dense/kernel`.

    >>> path_name((jax.tree_util.DictKey("dense"), jax.tree_util.SequenceKey(0)))
    'dense/0'
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def num_params(tree: Any) -> int:
    """The number of elements of all leaves.

    >>> num_params({"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)})
    16
    """
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
    """The bytes of all leaves, of arrays or of their shapes.

    >>> num_bytes({"kernel": jnp.zeros((3, 4)), "step": jax.ShapeDtypeStruct((), jnp.int32)})
    52
    """
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def is_finite(tree: Any) -> Bool[Array, ""]:
    """True where every floating-point leaf is finite everywhere.

    >>> bool(is_finite({"a": jnp.ones(2), "b": jnp.array(jnp.inf)}))
    False
    """
    checks = [jnp.isfinite(leaf).all() for leaf in map(jnp.asarray, jax.tree.leaves(tree)) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack(checks)) if checks else jnp.bool_(True)


def without_keys(tree: Any) -> Any:
    """Typed random keys replaced by their raw data, so that a tree can be written to disk.

    >>> without_keys({"key": jax.random.key(3)})["key"].tolist()
    [0, 3]
    """
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def with_keys(tree: Any, like: Any) -> Any:
    """The inverse of `without_keys`: raw data become typed keys where `like` has them.

    >>> key = jax.random.key(3)
    >>> bool(with_keys(without_keys([key]), [key])[0] == key)
    True
    """
    return jax.tree.map(lambda model, leaf: jax.random.wrap_key_data(leaf, impl=_impl(model)) if is_key(model) else leaf, like, tree)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed random key (array).

    >>> is_key(jax.random.key(0)), is_key(jnp.zeros(2))
    (True, False)
    """
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _impl(model: Any) -> Any:
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), model)  # `model` may be a mere shape, which key_impl does not take
    return found[0]
