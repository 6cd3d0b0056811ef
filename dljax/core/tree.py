"""Helpers on pytrees: paths, sizes, finiteness, and keys as plain numbers."""

import math
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
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


def path_mask(pattern: str, who: str = "path_mask") -> Callable[[Any], Any]:
    """Which leaves a regular expression finds by their path, such as `kernel$`: the language of sharding rules.

    Args:
      pattern: searched for anywhere in the path; `.*` finds every leaf.
      who: who asks, for the message.
    Returns:
      `tree -> tree of booleans`, what optax takes for a `mask`.
    Raises:
      ValueError: no regular expression; when applied: it finds no leaf, and which paths are nearest.

    >>> path_mask("kernel$")({"dense": {"kernel": 1, "bias": 2}})
    {'dense': {'bias': False, 'kernel': True}}
    >>> path_mask("kernels$")({"dense": {"kernel": 1, "bias": 2}})
    Traceback (most recent call last):
    ValueError: path_mask: pattern 'kernels$' finds none of the 2 paths; the nearest are 'dense/kernel', 'dense/bias'
    """
    try:
        expression = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{who}: pattern must be a regular expression such as 'kernel$', got {pattern!r}: {error}") from None

    def mask(tree: Any) -> Any:
        names = [name for name, _ in named_leaves(tree)]
        found = [expression.search(name) is not None for name in names]
        if not any(found):
            nearest = ", ".join(map(repr, get_close_matches(pattern, names, n=3, cutoff=0.0))) or "none: the tree is empty"
            raise ValueError(f"{who}: pattern {pattern!r} finds none of the {len(names)} paths; the nearest are {nearest}")
        return jax.tree.unflatten(jax.tree.structure(tree), found)

    return mask


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
