"""The data-parallel axis: nothing on one device, a collective where an axis is bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from dljax.core import bind_axis, bound_axis, local_key, pmean, psum

TREE = {"a": jnp.arange(4.0), "b": jnp.arange(8.0).reshape(4, 2)}


def bound(function, name="data"):
    def call(*args):
        with bind_axis(name):
            return function(*args)

    return call


def test_without_an_axis_all_is_the_identity():
    assert pmean(TREE) is TREE
    assert psum(TREE) is TREE
    key = jax.random.key(0)
    assert local_key(key) is key
    assert bound_axis() is None


def test_averages_and_sums_over_a_vmapped_axis():
    mean = jax.vmap(bound(pmean), axis_name="data")(TREE)
    total = jax.vmap(bound(psum), axis_name="data")(TREE)
    for name, leaf in TREE.items():
        np.testing.assert_allclose(mean[name], jnp.broadcast_to(leaf.mean(0), leaf.shape))
        np.testing.assert_allclose(total[name], jnp.broadcast_to(leaf.sum(0), leaf.shape))


def test_averages_over_the_devices_of_a_mesh():
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    mean = jax.jit(jax.shard_map(bound(pmean), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))(TREE)
    np.testing.assert_allclose(mean["a"], 1.5 * np.ones(4))


def test_local_keys_differ_between_devices_and_are_those_of_their_index():
    key = jax.random.key(3)
    keys = jax.vmap(bound(lambda _: local_key(key)), axis_name="data")(jnp.arange(4))
    expected = [jax.random.fold_in(key, index) for index in range(4)]
    assert [int(jax.random.bits(each)) for each in keys] == [int(jax.random.bits(each)) for each in expected]


def test_axis_ends_with_its_block_also_after_an_error():
    def fail():
        assert bound_axis() == "data"
        with bind_axis(None):
            assert bound_axis() is None
        raise RuntimeError

    with pytest.raises(RuntimeError):
        bound(fail)()
    assert bound_axis() is None


def test_function_jitted_inside_a_step_is_traced_again_where_an_axis_is_bound():
    average = jax.jit(pmean)
    alone = jax.vmap(average, axis_name="data")(jnp.arange(4.0))
    together = jax.vmap(bound(average), axis_name="data")(jnp.arange(4.0))
    assert alone.tolist() == [0, 1, 2, 3]
    assert together.tolist() == [1.5] * 4
