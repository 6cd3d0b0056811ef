"""Mixtures of experts: those of transformers, one dense layer where there is one expert, balanced by their loss, and the same on eight devices."""

import functools
import runpy
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from dljax import core, data
from dljax.engine import FitConfig, Parallel, by_path, fit, fsdp, make_mesh
from dljax.models.gpt import GPT, SHARDING
from dljax.nn.mixture_of_experts import EXPERT_SHARDING, MixtureOfExperts, balance_loss, route, router_z_loss
from dljax.nn.transformer import FeedForward
from dljax.nn.transformer_config import TransformerConfig
from dljax.objectives import cross_entropy
from dljax.optim import hessian_free, natural_gradient
from dljax.supervised import supervised

GOLDEN = Path(__file__).parents[1] / "golden"
SCRIPT = runpy.run_path(str(GOLDEN / "make_mixture_of_experts.py"))
PLAIN = TransformerConfig(1, hidden=SCRIPT["HIDDEN"], activation=jax.nn.relu, use_bias=False)
GATED = TransformerConfig(1, hidden=SCRIPT["HIDDEN"], activation=jax.nn.silu, use_bias=False, is_gated=True)
LAYERS = {
    "mixtral": MixtureOfExperts(GATED, SCRIPT["EXPERTS"], num_chosen=2, capacity_factor=None),
    # 11 tokens, 4 experts: room for three.
    "switch": MixtureOfExperts(PLAIN, SCRIPT["EXPERTS"], capacity_factor=SCRIPT["CAPACITY"] * 4 / 11 - 1e-9, balance_weight=1.0, z_weight=1.0),
}


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def expected(name, is_live):
    if is_live:
        pytest.importorskip("transformers")
        return SCRIPT["reference"](name)
    golden = np.load(GOLDEN / "mixture_of_experts.npz")
    return {label.removeprefix(f"{name}/"): golden[label] for label in golden.files if label.startswith(f"{name}/")}


def params_of(name, arrays, kind):
    """Weights or gradients of transformers under our names."""
    if name == "mixtral":
        gate, up = np.split(arrays[f"{kind}/experts.gate_up_proj"], 2, 1)
        router, matrices = arrays[f"{kind}/gate.weight"], {"gate": gate, "up": up, "down": arrays[f"{kind}/experts.down_proj"]}
    else:
        router = arrays[f"{kind}/router.classifier.weight"]
        stacked = {part: np.stack([arrays[f"{kind}/experts.expert_{e}.{part}.weight"] for e in range(SCRIPT["EXPERTS"])]) for part in ("wi", "wo")}
        matrices = {"up": stacked["wi"], "down": stacked["wo"]}
    experts = {label: {"kernel": jnp.asarray(matrix.swapaxes(1, 2))} for label, matrix in matrices.items()}
    return {"router": {"kernel": jnp.asarray(router.T)}, "experts": experts}


@pytest.mark.parametrize("is_live", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LAYERS)
def test_8_4_experts_have_the_values_and_gradients_of_transformers(float64, name, is_live):
    arrays = expected(name, is_live)
    x = jnp.asarray(arrays["x"])

    def value(params, x):
        y = LAYERS[name].apply({"params": params}, x)
        return (jnp.asarray(arrays["direction"]) * y).sum(), y

    (_, y), (grads, grad_x) = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(params_of(name, arrays, "weight"), x)
    np.testing.assert_allclose(y, arrays["y"], atol=1e-5)  # Mixtral's router works in float32
    np.testing.assert_allclose(grad_x, arrays["grad/x"], atol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), grads, params_of(name, arrays, "grad"))


def test_8_4_losses_are_those_of_transformers(float64):
    arrays = expected("switch", False)
    variables = {"params": params_of("switch", arrays, "weight")}
    _, sown = LAYERS["switch"].apply(variables, jnp.asarray(arrays["x"]), mutable=["losses", "intermediates"])
    np.testing.assert_allclose(sown["losses"]["balance"][0], arrays["balance"], rtol=1e-6)
    np.testing.assert_allclose(sown["losses"]["z"][0], arrays["z"], rtol=1e-12)
    numbers = np.bincount((arrays["x"][0] @ arrays["weight/router.classifier.weight"].T).argmax(1))
    assert numbers.max() > SCRIPT["CAPACITY"]
    np.testing.assert_allclose(sown["intermediates"]["load"][0], numbers / 11)
    np.testing.assert_allclose(sown["intermediates"]["dropped"][0], np.maximum(numbers - SCRIPT["CAPACITY"], 0).sum() / 11)


def test_8_4_one_expert_with_room_for_all_is_the_dense_layer(float64):
    x = jax.random.normal(jax.random.key(0), (2, 5, 6), jnp.float64)
    layer = MixtureOfExperts(GATED, num_experts=1, capacity_factor=1.0)
    params = layer.init(jax.random.key(1), x)["params"]
    dense = {"params": jax.tree.map(lambda leaf: leaf[0], params["experts"])}
    np.testing.assert_allclose(layer.apply({"params": params}, x), FeedForward(GATED).apply(dense, x), rtol=1e-12)


def seated(logits, num_chosen, capacity):
    """Who sits where, one token after the other: the rule of `route` in plain words."""
    taken, seats = [0] * logits.shape[1], {}
    for choice in range(num_chosen):
        for token, row in enumerate(logits):
            expert = int(np.argsort(-row, kind="stable")[choice])
            if taken[expert] < capacity:
                seats[token, choice] = (expert, taken[expert])
            taken[expert] += 1
    return seats


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), capacity=st.integers(1, 6))
def test_8_4_first_choices_are_seated_first_and_earlier_tokens_before_later(seed, capacity):
    logits = np.random.default_rng(seed).normal(size=(6, 3)).astype(np.float32)
    routes = jax.tree.map(np.asarray, _routed(jnp.asarray(logits), capacity))
    found = {(n, k): (routes.expert[n, k], routes.place[n, k]) for n, k in np.argwhere(routes.place < capacity)}
    assert found == seated(logits, 2, capacity)
    probabilities = np.take_along_axis(np.asarray(jax.nn.softmax(logits)), routes.expert, 1)
    np.testing.assert_allclose(routes.weight, np.where(routes.place < capacity, probabilities / probabilities.sum(1, keepdims=True), 0), rtol=1e-6)


@partial(jax.jit, static_argnums=1)
def _routed(logits, capacity):
    return route(logits, num_chosen=2, capacity=capacity, is_normalised=True)


def test_8_4_padding_goes_nowhere_and_takes_no_room(float64):
    layer = MixtureOfExperts(PLAIN, 3, num_chosen=2, capacity_factor=0.5)
    x = jax.random.normal(jax.random.key(0), (2, 6, 6), jnp.float64)
    variables, mask = layer.init(jax.random.key(1), x), jnp.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]], bool)

    @jax.jit
    def run(x):
        return layer.apply(variables, x, mask=mask, mutable=["losses", "intermediates"])

    (y, sown), (changed, sown_changed) = run(x), run(jnp.where(mask[..., None], x, 7.0))
    np.testing.assert_array_equal(y, changed)
    np.testing.assert_array_equal(y[~mask], 0)
    jax.tree.map(np.testing.assert_array_equal, sown, sown_changed)
    # The losses are those of the real tokens alone.
    logits = x[mask] @ variables["params"]["router"]["kernel"]
    np.testing.assert_allclose(sown["losses"]["balance"][0], 0.01 * balance_loss(logits, 2), rtol=1e-12)
    np.testing.assert_allclose(sown["losses"]["z"][0], 0.001 * router_z_loss(logits), rtol=1e-12)


@pytest.mark.parametrize("num_chosen", [1, 2])
def test_8_4_balance_loss_is_least_where_tokens_are_spread_evenly(float64, num_chosen):
    # As many tokens prefer each expert: L = K, and its gradient, by the probabilities alone, sums to none.
    even = 3.0 * (jnp.eye(4) + 0.5 * jnp.roll(jnp.eye(4), 1, 1))
    assert balance_loss(even, num_chosen) == pytest.approx(num_chosen, rel=1e-12)
    np.testing.assert_allclose(jax.grad(balance_loss)(even, num_chosen), 0, atol=1e-12)
    one = jnp.tile(30.0 * jnp.array([[1.0, 0.5, 0, 0]]), (4, 1))
    assert balance_loss(one, num_chosen) == pytest.approx(4, rel=1e-5)


def test_8_4_the_balance_loss_spreads_the_tokens_of_a_router_that_sends_all_to_one():
    x = jax.random.normal(jax.random.key(0), (256, 6)).at[:, 0].set(3.0)
    kernel = jnp.zeros((6, 4)).at[0, 0].set(1.0) + 0.1 * jax.random.normal(jax.random.key(1), (6, 4))

    def share(kernel):
        return np.bincount(np.argmax(np.asarray(x @ kernel), 1), minlength=4) / 256

    assert share(kernel)[0] == 1

    @jax.jit
    def trained(kernel):
        return jax.lax.fori_loop(0, 300, lambda _, kernel: kernel - 0.3 * jax.grad(lambda kernel: balance_loss(x @ kernel))(kernel), kernel)

    np.testing.assert_allclose(share(trained(kernel)), 0.25, atol=0.05)


class Sequence(linen.Module):
    """Experts with room for all, between two projections."""

    capacity_factor: float | None = None

    @linen.compact
    def __call__(self, x, train=False):
        layer = MixtureOfExperts(GATED, 4, num_chosen=2, capacity_factor=self.capacity_factor, balance_weight=0.5, z_weight=0.5)
        return linen.Dense(3)(layer(linen.Dense(6)(x), train))


def some_batch(num=8):
    return {"x": jax.random.normal(jax.random.key(0), (num, 5, 4)), "y": jnp.arange(num * 5).reshape(num, 5) % 3}


def test_8_4_supervised_adds_the_losses_and_reports_them():
    batch, learner = some_batch(), supervised(Sequence(), cross_entropy, optax.sgd(1.0))
    state = learner.init(jax.random.key(1), batch)
    assert state.model_state == {}
    after, metrics = jax.jit(learner.step)(jax.random.key(2), state, batch)
    assert after.model_state == {}

    def objective(params):
        logits, sown = Sequence().apply({"params": params}, batch["x"], mutable=["losses"])
        added = sum(jax.tree.leaves(sown["losses"]))
        return cross_entropy(logits, batch["y"]).mean() + added, added

    (_, added), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(state.params)
    np.testing.assert_allclose(metrics["added_loss"], added, rtol=1e-6)
    assert added > 0.5
    expected = optax.tree.sub(state.params, grads)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), after.params, expected)


def test_8_4_shards_of_a_batch_take_the_step_of_one_device():
    if len(jax.devices()) < 2:
        pytest.skip("needs two devices")
    batch, learner = some_batch(), supervised(Sequence(), cross_entropy, optax.sgd(1.0))
    state = learner.init(jax.random.key(1), batch)
    expected, metrics = jax.jit(learner.step)(jax.random.key(2), state, batch)

    def step(state, batch):
        with core.bind_axis("data"):
            state, metrics = learner.step(jax.random.key(2), state, batch)
            return state.params, metrics["added_loss"]

    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    specs = (PartitionSpec(), PartitionSpec("data"))
    params, added = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False))(state, batch)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), params, expected.params)
    np.testing.assert_allclose(added, metrics["added_loss"], rtol=1e-6)


def test_8_4_losses_of_experts_spread_over_eight_devices_equal_those_on_one():
    experts = partial(MixtureOfExperts, num_experts=4, num_chosen=2, capacity_factor=1.0)
    learner = supervised(GPT(11, 6, 2, 2, 16, hidden=32, feed_forward=experts, is_unrolled=False), cross_entropy, optax.adam(1e-2))
    source = data.windows(np.arange(200) % 7 + np.arange(200) % 3, 6, 8)

    def run(parallel):
        return fit(learner, source, 4, jax.random.key(0), config=FitConfig(every=1, chunk=4, parallel=parallel))

    alone = run(None)
    found = run(Parallel(make_mesh(data=2, model=4), rules=(by_path(*EXPERT_SHARDING, *SHARDING), fsdp(min_size=64))))
    for name in ("loss", "added_loss"):
        np.testing.assert_allclose(found.history[name], alone.history[name], rtol=1e-5)
    kernel = found.state.params["decoder"]["layers"]["feed_forward"]["experts"]["up"]["kernel"]
    assert kernel.shape == (2, 4, 16, 32)
    assert kernel.addressable_shards[0].data.shape == (2, 1, 16, 32)


@pytest.mark.parametrize("rule", [natural_gradient, hessian_free])
def test_rules_with_a_curvature_refuse_losses_of_the_model(rule):
    learner = supervised(Sequence(), cross_entropy, rule())
    with pytest.raises(ValueError, match=f"{rule.__name__}: the model must have no losses of its own.*use an optax transformation"):
        jax.eval_shape(learner.init, jax.random.key(0), some_batch())


def test_jitter_changes_where_tokens_go_in_training_only():
    layer = MixtureOfExperts(PLAIN, 4, jitter=0.5)
    x = jax.random.normal(jax.random.key(0), (1, 32, 6))
    variables = layer.init(jax.random.key(1), x)
    still = layer.apply(variables, x)
    np.testing.assert_array_equal(layer.apply(variables, x, rngs={"dropout": jax.random.key(2)}), still)
    moved = layer.apply(variables, x, train=True, rngs={"dropout": jax.random.key(2)})
    assert (jnp.abs(moved - still).max(-1) > 0).any()


def test_logits_at_the_extremes_have_finite_losses_and_gradients():
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    for loss in (balance_loss, router_z_loss):
        value, grad = jax.value_and_grad(loss)(logits)
        assert jnp.isfinite(value)
        assert jnp.isfinite(grad).all()
    nothing = jnp.zeros(2, bool)
    assert balance_loss(logits, mask=nothing) == 0
    assert (route(logits, num_chosen=2, capacity=1, mask=nothing).weight == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 0}, "num_experts must be >= 1, got 0"),
        ({"num_chosen": 5}, "num_chosen must be between 1 and 4, got 5"),
        ({"capacity_factor": 0.0}, "capacity_factor must be .*0.* got 0.0"),
        ({"jitter": 1.0}, "jitter must be .* got 1.0"),
        ({"balance_weight": -1.0}, "balance_weight must be .* got -1.0"),
        ({"z_weight": -1.0}, "z_weight must be .* got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"MixtureOfExperts: {message}"):
        jax.eval_shape(MixtureOfExperts(PLAIN, **{"num_experts": 4, **options}).init, jax.random.key(0), jnp.zeros((1, 2, 6)))


def test_more_choices_than_experts_and_no_room_are_refused():
    with pytest.raises(ValueError, match="route: num_chosen must be between 1 and 2, got 3"):
        route(jnp.zeros((1, 2)), num_chosen=3, capacity=1)
    with pytest.raises(ValueError, match="route: capacity must be >= 1, got 0"):
        route(jnp.zeros((1, 2)), num_chosen=1, capacity=0)
    with pytest.raises(ValueError, match="balance_loss: num_chosen must be between 1 and 2, got 0"):
        balance_loss(jnp.zeros((1, 2)), 0)
