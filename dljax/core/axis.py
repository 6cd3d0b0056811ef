"""The data-parallel axis: averages that are the identity on one device and a collective where the engine binds an axis.

A learner that averages its gradients with `pmean` and folds the axis index into its noise with `local_key` runs unchanged
on one device, under `jax.pmap` and under `jax.shard_map`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax import lax

from dljax.core.contract import Key

# Part of the key of jax's caches: a function jitted inside a step is traced again where another axis is bound.
_axis = jax.make_user_context(None)


@contextmanager
def bind_axis(name: str | None) -> Iterator[None]:
    """While a step is traced inside, `pmean`, `psum` and `local_key` use this mapped axis.

    >>> with bind_axis("data"):
    ...     jax.vmap(pmean, axis_name="data")(jax.numpy.arange(3.0)).tolist()
    [1.0, 1.0, 1.0]
    """
    with _axis(name):
        yield


def bound_axis() -> str | None:
    """The name of the bound axis, None on one device.

    >>> bound_axis() is None
    True
    """
    return _axis.value


def pmean(tree: Any) -> Any:
    """The mean of each leaf over the devices of the bound axis; the identity where none is bound.

    >>> pmean({"gradient": 3.0})
    {'gradient': 3.0}
    """
    axis = _axis.value
    return tree if axis is None else lax.pmean(tree, axis)


def psum(tree: Any) -> Any:
    """The sum of each leaf over the devices of the bound axis; the identity where none is bound.

    >>> psum({"count": 3.0})
    {'count': 3.0}
    """
    axis = _axis.value
    return tree if axis is None else lax.psum(tree, axis)


def local_key(key: Key) -> Key:
    """A key of this device alone, for noise that must differ between the shards of a batch; the same key where no axis is bound.

    >>> key = jax.random.key(0)
    >>> bool((local_key(key) == key).all())
    True
    """
    axis = _axis.value
    return key if axis is None else jax.random.fold_in(key, lax.axis_index(axis))
