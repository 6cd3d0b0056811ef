"""Helpers on pytrees: names, sizes, finiteness, and keys as numbers and back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.core.tree import is_finite, is_key, named_leaves, num_bytes, num_params, with_keys, without_keys


class State(NamedTuple):
    params: dict
    moments: tuple


STATE = State({"dense": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3, jnp.bfloat16)}}, (jnp.zeros((), jnp.int32), None))


def test_names_are_paths_of_fields_keys_and_places():
    assert [name for name, _ in named_leaves(STATE)] == ["params/dense/bias", "params/dense/kernel", "moments/0"]


def test_sizes_count_elements_and_bytes():
    assert num_params(STATE) == 6 + 3 + 1
    assert num_bytes(STATE) == 24 + 6 + 4
    assert num_bytes(jax.eval_shape(lambda: STATE)) == 34
    assert num_params(3.0) == 1


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ((), True),
        ({"n": 3, "key": jax.random.key(0)}, True),
        ({"a": jnp.ones(2), "b": np.asarray([1.0, np.nan])}, False),
        ([jnp.asarray(jnp.inf, jnp.bfloat16)], False),
        ([jnp.complex64(complex(0, np.inf))], False),
    ],
)
def test_finite_looks_at_every_number_that_can_be_infinite(tree, expected):
    assert bool(is_finite(tree)) is expected


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_survive_as_numbers_whatever_their_kind(impl):
    tree = {"key": jax.random.key(5, impl=impl), "many": jax.random.split(jax.random.key(6, impl=impl), 3), "x": jnp.ones(2)}
    raw = without_keys(tree)
    assert not any(is_key(leaf) for leaf in jax.tree.leaves(raw))
    again = with_keys(jax.tree.map(np.asarray, raw), jax.eval_shape(lambda: tree))
    assert bool((again["key"] == tree["key"]).all())
    assert bool((again["many"] == tree["many"]).all())
    assert again["many"].dtype == tree["many"].dtype
