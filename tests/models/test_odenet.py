"""ODENet: the paper's program in PyTorch with the same weights, a residual network by one Euler step, and the contract of a learner."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from dljax.core.tree import num_params
from dljax.models.odenet import ODENet
from dljax.nn.ode import ODEConfig
from dljax.objectives import cross_entropy
from dljax.supervised import supervised

WIDTH, GROUPS = 6, 3


def pictures(num=3):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (num, 12, 12, 1)), jnp.uint8)


def some_variables(net, x):
    # Biases and scales other than zero and one.
    variables = jax.jit(net.init)(jax.random.key(0), x)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), variables)


def test_5_2_odenet_has_the_papers_number_of_parameters():
    """208,266: what the authors' `odenet_mnist.py` prints; 0.22 million in table 1."""
    variables = jax.eval_shape(ODENet(10).init, jax.random.key(0), jnp.zeros((1, 28, 28, 1), jnp.uint8))
    assert num_params(variables) == 208_266


@pytest.mark.rank_promotion
def test_5_2_odenet_of_two_euler_steps_equals_the_authors_network_in_pytorch():
    torch = pytest.importorskip("torch")
    x = pictures()
    net = ODENet(5, WIDTH, num_groups=GROUPS, config=ODEConfig("euler", num_steps=2))
    params = some_variables(net, x)["params"]
    f = torch.nn.functional

    def tensor(leaf):
        return torch.tensor(np.asarray(leaf))

    def norm(h, weights):
        return f.group_norm(h, GROUPS, tensor(weights["scale"]), tensor(weights["bias"]), 1e-5)

    def conv(h, weights, **options):
        return f.conv2d(h, tensor(weights["kernel"]).permute(3, 2, 0, 1), tensor(weights["bias"]), **options)

    def field(t, h):
        weights = params["block"]["field"]
        for number in range(2):
            h = f.relu(norm(h, weights[f"norm_{number}"]))
            h = conv(torch.cat([torch.full_like(h[:, :1], t), h], 1), weights[f"conv_{number}"], padding=1)
        return norm(h, weights["norm_2"])

    h = conv(tensor(x).permute(0, 3, 1, 2).float() / 255, params["stem_convs_0"])
    for number in range(2):
        h = f.relu(norm(h, params[f"stem_norms_{number}"]))
        h = conv(h, params[f"stem_convs_{number + 1}"], stride=2, padding=1)
    for t in (0.0, 0.5):
        h = h + 0.5 * field(t, h)
    h = f.relu(norm(h, params["head_norm"])).mean((2, 3))
    expected = h @ tensor(params["head"]["kernel"]) + tensor(params["head"]["bias"])
    np.testing.assert_allclose(net.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


def test_5_2_one_euler_step_is_a_residual_block_and_its_trajectory_ends_where_the_head_reads():
    x = pictures()
    net = ODENet(5, WIDTH, strides=(2, 2), num_groups=GROUPS, config=ODEConfig("euler", num_steps=1))
    variables = some_variables(net, x)

    class Residual(linen.Module):
        """The same layers, with h + f(h, 0) in the place of the solver."""

        def __call__(self, net, x):
            h = net.stem(x)
            h = h + net.block.field(h, jnp.float32(0))
            return net.head(linen.relu(net.head_norm(h)).mean((1, 2))), h

    logits, h = net.apply(variables, x, method=lambda net, x: Residual()(net, x))
    found, sown = net.apply(variables, x, mutable=["intermediates"])
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-6)
    assert [int(value) for value in sown["intermediates"]["block"]["num_evaluations"]] == [1]
    way = net.apply(variables, x, [0.0, 1.0], method="trajectory")
    np.testing.assert_allclose(way.states[1], h, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(way.states[0], net.apply(variables, x, method="stem"))


@pytest.mark.slow
def test_5_2_step_runs_under_scan_and_vmap_and_reports_its_evaluations():
    """Members of a sweep take their own steps: vmapped they are what they are alone."""
    x, y = pictures(2), jnp.array([0, 4])
    net = ODENet(5, 4, strides=(2, 2), num_groups=2, num_extra=2, config=ODEConfig("bosh3", rtol=0.1, atol=0.1, adjoint="continuous", max_steps=50))
    learner = supervised(net, cross_entropy, optax.sgd(0.1))
    batch = {"x": x, "y": y}

    def train(key):
        def step(state, key):
            return learner.step(key, state, batch)

        state, metrics = jax.lax.scan(step, learner.init(key, batch), jax.random.split(key, 2))
        return metrics["loss"].value, net.apply(learner.params(state), x, mutable=["intermediates"])

    keys = jax.random.split(jax.random.key(0), 2)
    losses, (logits, sown) = jax.jit(jax.vmap(train))(keys)
    alone, (other, _) = jax.jit(train)(keys[1])
    np.testing.assert_allclose(losses[1], alone, rtol=1e-4)
    np.testing.assert_allclose(logits[1], other, rtol=1e-3, atol=1e-4)
    assert np.all(losses[:, 1] < losses[:, 0])
    evaluations = sown["intermediates"]["block"]["num_evaluations"][0]
    assert evaluations.shape == (2,)
    assert np.all(evaluations >= 4)


def test_bad_sizes_are_refused():
    for options, message in [
        ({"num_classes": 0}, "ODENet: num_classes must be >= 1"),
        ({"width": 0}, "ODENet: width must be >= 1"),
        ({"num_groups": 0}, "ODENet: num_groups must be >= 1"),
        ({"strides": (3,)}, "ODENet: strides must be one or more numbers, each 1 or 2, got \\(3,\\)"),
        ({"num_extra": -1}, "num_extra"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(ODENet(**({"num_classes": 2, "width": 2} | options)).init, jax.random.key(0), pictures())
    for size, net in ((5, ODENet(2)), (3, ODENet(2, strides=(2, 2)))):
        with pytest.raises(ValueError, match=f"pictures .B, H, W, C. of at least {size + 1} x {size + 1}"):
            jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, size, size, 1)))
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, size + 1, size + 1, 1)))
