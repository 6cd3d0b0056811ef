"""Normalisation: PyTorch's layers, one device against eight, and batches in which there is little to normalise."""

import runpy
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from jax.sharding import Mesh, PartitionSpec

from dljax import nn
from dljax.core import bind_axis
from dljax.objectives import squared_error
from dljax.supervised import supervised

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "foundations.npz")
AFFINE = {"scale": GOLDEN["norm/scale"], "bias": GOLDEN["norm/bias"]}


def golden(name):
    return jnp.asarray(GOLDEN[f"norm/{name}"])


def test_golden_layers_are_those_of_the_installed_torch():
    pytest.importorskip("torch")
    for name, value in runpy.run_path(str(FOLDER / "make_foundations.py"))["normalisation"]().items():
        np.testing.assert_allclose(value, GOLDEN[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("is_fast", [False, True])
def test_2_6_batch_norm_trains_and_evaluates_as_that_of_torch(is_fast):
    with jax.enable_x64(True):
        layer = nn.BatchNorm(momentum=0.9, epsilon=1e-3, use_fast_variance=is_fast)  # PyTorch's momentum of 0.1
        stats = {"mean": jnp.zeros(6), "var": jnp.ones(6)}
        x, cotangent = golden("x"), golden("cotangent")

        @jax.jit
        def step(params, stats, x):
            def forward(params, x):
                y, changed = layer.apply({"params": params, "batch_stats": stats}, x, use_running_average=False, mutable=["batch_stats"])
                return y, changed["batch_stats"]

            y, pull, stats_after = jax.vjp(forward, params, x, has_aux=True)
            return y, stats_after, *pull(cotangent)

        sample_var = stats["var"]
        for number in range(2):
            y, stats, dparams, dx = step(AFFINE, stats, x[number])
            np.testing.assert_allclose(y, golden(f"batch/y{number}"), rtol=1e-11, atol=1e-11)
            # PyTorch keeps the variance of a sample: n / (n - 1) times that of the batch, n = 20.
            sample_var = 0.9 * sample_var + 0.1 * x[number].var((0, 1), ddof=1)
        np.testing.assert_allclose(dx, golden("batch/dx"), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(dparams["scale"], golden("batch/dscale"), rtol=1e-9)
        np.testing.assert_allclose(dparams["bias"], golden("batch/dbias"), rtol=1e-9)
        np.testing.assert_allclose(stats["mean"], golden("batch/mean"), rtol=1e-11)
        np.testing.assert_allclose(stats["var"], 0.81 + 19 / 20 * (golden("batch/var") - 0.81), rtol=1e-11)
        np.testing.assert_allclose(sample_var, golden("batch/var"), rtol=1e-11)
        theirs = {"params": AFFINE, "batch_stats": {"mean": golden("batch/mean"), "var": golden("batch/var")}}
        np.testing.assert_allclose(layer.apply(theirs, x[0], use_running_average=True), golden("batch/eval"), rtol=1e-11, atol=1e-11)


@pytest.mark.rank_promotion
@pytest.mark.parametrize(
    ("name", "layer", "params"),
    [
        ("layer", nn.LayerNorm(epsilon=1e-3), AFFINE),
        ("rms", nn.RMSNorm(epsilon=1e-3), {"scale": AFFINE["scale"]}),
        ("group", nn.GroupNorm(num_groups=3, epsilon=1e-3), AFFINE),
        ("instance", nn.InstanceNorm(epsilon=1e-3), AFFINE),
    ],
)
def test_2_6_layer_group_instance_and_rms_norm_equal_those_of_torch(name, layer, params):
    with jax.enable_x64(True):
        y, dx = jax.jit(lambda x: (lambda y, pull: (y, pull(golden("cotangent"))[0]))(*jax.vjp(partial(layer.apply, {"params": params}), x)))(
            golden("x")[0]
        )
        np.testing.assert_allclose(y, golden(f"{name}/y"), rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(dx, golden(f"{name}/dx"), rtol=1e-9, atol=1e-11)


@pytest.mark.rank_promotion
def test_2_6_weight_norm_and_its_gradients_equal_those_of_torch():
    with jax.enable_x64(True):
        layer = nn.WeightNorm(nn.Dense(4, use_bias=False, name="dense"))
        x = golden("x")[0, 0]
        variables = layer.init(jax.random.key(0), x)["params"]
        flat, tree = jax.tree.flatten(variables)
        kernel_at = next(place for place, leaf in enumerate(flat) if leaf.ndim == 2)
        leaves = [golden("weight/kernel") if place == kernel_at else golden("weight/scale") for place in range(2)]

        def total(params):
            y = layer.apply({"params": params}, x)
            return jnp.square(y).sum(), y

        grads, y = jax.jit(jax.grad(total, has_aux=True))(jax.tree.unflatten(tree, leaves))
        np.testing.assert_allclose(y, golden("weight/y"), rtol=1e-9)
        np.testing.assert_allclose(jax.tree.leaves(grads)[kernel_at], golden("weight/dkernel"), rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(jax.tree.leaves(grads)[1 - kernel_at], golden("weight/dscale"), rtol=1e-8)


@pytest.mark.rank_promotion
def test_2_6_spectral_norm_and_its_gradients_equal_those_of_torch_and_find_the_largest_singular_value():
    with jax.enable_x64(True):
        layer = nn.SpectralNorm(nn.Dense(4, use_bias=False, name="dense"))
        x, kernel = golden("x")[0, 0], golden("weight/kernel")
        variables = layer.init(jax.random.key(0), x, update_stats=False)
        params = jax.tree.map(lambda leaf: kernel, variables["params"])
        stats = jax.tree.map(lambda leaf: golden("spectral/u")[None] if leaf.ndim else leaf, variables["batch_stats"])

        @jax.jit
        def step(stats):
            def total(params):
                y, changed = layer.apply({"params": params, "batch_stats": stats}, x, update_stats=True, mutable=["batch_stats"])
                return jnp.square(y).sum(), (y, changed["batch_stats"])

            return jax.grad(total, has_aux=True)(params)

        for number in range(2):
            grads, (y, stats) = step(stats)
            np.testing.assert_allclose(y, golden(f"spectral/y{number}"), rtol=1e-9)
            np.testing.assert_allclose(jax.tree.leaves(grads)[0], golden(f"spectral/dkernel{number}"), rtol=1e-8, atol=1e-10)
        for _ in range(60):
            _, (y, stats) = step(stats)
        np.testing.assert_allclose(y, x @ kernel / np.linalg.svd(kernel)[1][0], rtol=1e-8)


# On many devices


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2)(nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(4)(x))))


def spread(how, function):
    """`function(replicated, batch)` on a batch cut into eight, run on each device; its results must be the same on all."""

    def bound(replicated, batch):
        with bind_axis("data"):
            return function(replicated, batch)

    if how == "pmap":
        mapped = jax.pmap(bound, "data", in_axes=(None, 0))
        return lambda replicated, batch: jax.tree.map(
            lambda leaf: leaf[0], mapped(replicated, jax.tree.map(lambda leaf: leaf.reshape(8, -1, *leaf.shape[1:]), batch))
        )
    mesh, whole, cut = Mesh(np.array(jax.devices()[:8]), ("data",)), PartitionSpec(), PartitionSpec("data")
    if how == "vma":  # where the types of jax know which values are the same on all devices
        return jax.jit(jax.shard_map(bound, mesh=mesh, in_specs=(whole, cut), out_specs=whole))
    return jax.jit(jax.shard_map(bound, mesh=mesh, in_specs=(whole, cut), out_specs=whole, check_vma=False))


@pytest.mark.parametrize("how", ["shard_map", pytest.param("pmap", marks=pytest.mark.slow)])
def test_2_6_sharded_training_is_that_of_one_device(how):
    if len(jax.devices()) < 8:
        pytest.skip("needs eight devices")
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        # The shards differ: their own statistics would be far from the batch's.
        batch = {
            "x": jnp.asarray(rng.normal(np.arange(16)[:, None], 1 + np.arange(16)[:, None], (16, 3))),
            "y": jnp.asarray(rng.normal(size=(16, 2))),
        }
        learner = supervised(Net(), squared_error, optax.sgd(0.1))
        first = learner.init(jax.random.key(0), batch)
        first = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), first)

        def steps(step):
            state = first
            for _ in range(3):
                state = step(state, batch)
            return state

        alone = steps(jax.jit(lambda state, batch: learner.step(jax.random.key(1), state, batch)[0]))
        together = steps(spread(how, lambda state, batch: learner.step(jax.random.key(1), state, batch)[0]))
        for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_2_6_shards_of_unequal_masks_have_the_statistics_of_one_device():
    if len(jax.devices()) < 8:
        pytest.skip("needs eight devices")
    rng = np.random.default_rng(1)
    batch = {"x": jnp.asarray(rng.normal(5, 2, (16, 3)), jnp.float32), "mask": jnp.asarray([1] * 5 + [0] * 3 + [1] + [0] * 7)[:, None]}
    layer = nn.BatchNorm(use_running_average=False, momentum=0.0)
    variables = layer.init(jax.random.key(0), batch["x"])

    def statistics(variables, batch):
        return layer.apply(variables, batch["x"], mask=batch["mask"], mutable=["batch_stats"])[1]["batch_stats"]

    kept = batch["x"][np.flatnonzero(batch["mask"])]
    for found in (statistics(variables, batch), spread("shard_map", statistics)(variables, batch), spread("vma", statistics)(variables, batch)):
        np.testing.assert_allclose(found["mean"], kept.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found["var"], kept.var(0), rtol=1e-5)


def test_an_axis_of_ones_own_replaces_the_bound_one():
    x = jax.random.normal(jax.random.key(0), (4, 5, 3))
    layer, plain = nn.BatchNorm(use_running_average=False, axis_name="mine"), nn.BatchNorm(use_running_average=False)
    variables = plain.init(jax.random.key(0), x[0])
    apply = lambda layer: lambda x: layer.apply(variables, x, mutable=["batch_stats"])[0]  # noqa: E731
    together, alone = jax.jit(lambda x: (jax.vmap(apply(layer), axis_name="mine")(x), apply(plain)(x.reshape(20, 3)).reshape(x.shape)))(x)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


# Beside linen's


@pytest.mark.rank_promotion
@pytest.mark.parametrize(
    "options",
    [{}, {"axis": (1, -1), "use_scale": False}, {"use_bias": False, "dtype": jnp.bfloat16, "momentum": 0.5, "epsilon": 0.1}],
    ids=str,
)
def test_it_is_linens_layer_with_any_option(options):
    x = jax.random.normal(jax.random.key(0), (6, 4, 3)) * 2 + 1
    ours, theirs = nn.BatchNorm(**options), linen.BatchNorm(**options)
    variables = theirs.init(jax.random.key(1), x, use_running_average=False)
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(1), x, use_running_average=False), variables)

    def outcome(layer):
        def forward(x):
            y, changed = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
            return jnp.sin(y.astype(jnp.float32)).sum(), (y, changed, layer.apply(variables, x, use_running_average=True))

        return jax.grad(forward, has_aux=True)(x)

    pair = jax.jit(lambda: (outcome(ours), outcome(theirs)))()
    for one, other in zip(*map(jax.tree.leaves, pair), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.float32(one), np.float32(other), rtol=2e-4, atol=2e-5)


@pytest.mark.rank_promotion
def test_derivatives_of_every_mode_and_order_are_those_that_jax_derives_from_linens():
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (5, 2), jnp.float64)
        mask = jnp.array([1, 1, 0, 1, 1])[:, None]
        params = {"scale": jnp.array([0.5, 2.0]), "bias": jnp.array([1.0, -1.0])}
        stats = {"mean": jnp.zeros(2), "var": jnp.ones(2)}

        tangents = jax.tree.map(jnp.cos, (params, x))

        def derivatives(layer):
            def forward(params, x):
                y, changed = layer.apply({"params": params, "batch_stats": stats}, x, mask=mask, mutable=["batch_stats"])
                return jnp.sin(y).sum() + jnp.square(changed["batch_stats"]["var"]).sum() + changed["batch_stats"]["mean"].sum()

            slopes = jax.grad(forward, (0, 1))
            return jax.jvp(forward, (params, x), tangents), jax.jvp(slopes, (params, x), tangents)

        ours, theirs = jax.jit(lambda: [derivatives(kind(use_running_average=False)) for kind in (nn.BatchNorm, linen.BatchNorm)])()
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


# Little to normalise


def test_zero_variance_and_a_batch_of_one_give_the_bias_and_finite_gradients():
    layer = nn.BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
    variables["params"]["bias"] = jnp.array([1.0, 2.0, 3.0])

    def forward(x):
        y, _ = layer.apply(variables, x, mutable=["batch_stats"])
        return y[0, 1], y

    for x in (jnp.full((5, 3), 1e4), jnp.array([[1e4, -3.0, 0.0]])):
        grad, y = jax.jit(jax.grad(forward, has_aux=True))(x)
        assert bool(jnp.isfinite(grad).all())
        np.testing.assert_array_equal(y, np.broadcast_to([1.0, 2.0, 3.0], x.shape))


def test_an_empty_mask_leaves_the_running_statistics_alone_and_all_finite():
    layer = nn.BatchNorm(use_running_average=False)
    x = jnp.array([[1.0, jnp.inf], [2.0, 3.0]])
    variables = layer.init(jax.random.key(0), x)
    y, changed = layer.apply(variables, x, mask=jnp.zeros((2, 1), bool), mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])
    assert bool(jnp.isfinite(y[1]).all())
    _, changed = layer.apply(variables, x, mask=jnp.array([[1, 0], [1, 1]]), mutable=["batch_stats"])
    np.testing.assert_allclose(changed["batch_stats"]["mean"], [0.015, 0.03], rtol=1e-5)


def test_a_large_mean_does_not_cost_the_variance_its_digits():
    x = (jax.random.normal(jax.random.key(0), (256, 2)) + 1e4).astype(jnp.float32)
    exact = np.var(np.asarray(x, np.float64), 0)
    layer = nn.BatchNorm(use_running_average=False, momentum=0.0)
    variables = layer.init(jax.random.key(0), x)
    _, changed = layer.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(changed["batch_stats"]["var"], exact, rtol=1e-4)


def test_refusals():
    x = jnp.ones((2, 3))
    for options, message in (({"momentum": 1.5}, r"momentum must be in \[0, 1\], got 1.5"), ({"epsilon": -1.0}, "epsilon must be in")):
        with pytest.raises(ValueError, match=f"BatchNorm: {message}"):
            nn.BatchNorm(use_running_average=False, **options).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"BatchNorm: x must have entries to normalise over, got the shape \(0, 3\)"):
        nn.BatchNorm(use_running_average=False).init(jax.random.key(0), x[:0])
