"""LoRA: nothing at the start, merged what it was apart, able to express any update at full rank, and nothing else is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from dljax import core, data
from dljax.core.tree import num_params
from dljax.models.gpt import GPT
from dljax.models.low_rank import lora, lora_adapters, lora_merged
from dljax.objectives import cross_entropy, squared_error
from dljax.supervised import supervised

PATTERN = r"attention/(query|value)/kernel$"
GPT_SIZES = {"vocab_size": 7, "context": 6, "num_layers": 2, "num_heads": 2, "width": 8, "is_unrolled": False}


def test_8_2_low_rank_updates_begin_as_the_base_and_train_alone():
    model, tokens = GPT(**GPT_SIZES), jnp.arange(12).reshape(2, 6) % 7
    base = jax.jit(model.init)(jax.random.key(0), tokens)
    adapted = lora(model, base, PATTERN, rank=3, alpha=6.0)
    learner = supervised(adapted, cross_entropy, optax.adam(1e-2))
    source = data.windows(np.arange(200) % 7, 6, 8)
    run_key, state, cursor = jax.jit(lambda key: core.start(learner, source, key))(jax.random.key(1))
    predict = jax.jit(learner.functions["predict"])
    np.testing.assert_array_equal(predict(run_key, learner.params(state), tokens), jax.jit(model.apply)(base, tokens))
    # Two matrices in each of two layers, r (D + F) numbers each; so are Adam's moments, and its one count.
    assert num_params(state.params) == 2 * 2 * 3 * (8 + 8)
    assert num_params(state.opt_state) == 2 * num_params(state.params) + 1

    after, _, history = jax.jit(core.unroll(learner, source, 30, 30))(run_key, 0, state, cursor)
    jax.tree.map(np.testing.assert_array_equal, after.model_state["base"], base)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(after.params))
    merged = lora_merged(base["params"], after.params, alpha=6.0)
    found = jax.jit(model.apply)({"params": merged}, tokens)
    np.testing.assert_allclose(predict(run_key, learner.params(after), tokens), found, atol=1e-5)
    changed = {name for name, is_changed in _changes(base["params"], merged).items() if is_changed}
    assert changed == {"decoder/layers/attention/query/kernel", "decoder/layers/attention/value/kernel"}


def _changes(one, other):
    pairs = zip(core.tree.named_leaves(one), core.tree.named_leaves(other), strict=True)
    return {name: not np.array_equal(leaf, after) for (name, leaf), (_, after) in pairs}


def test_8_2_at_full_rank_a_linear_map_reaches_the_least_squares_optimum_and_at_rank_one_its_best_direction():
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 3)
        x, y = jax.random.normal(keys[0], (40, 4), jnp.float64), jax.random.normal(keys[1], (40, 3), jnp.float64)
        x, _ = jnp.linalg.qr(x)  # so that the best update of rank r is the singular value decomposition's
        model = linen.Dense(3, use_bias=False, param_dtype=jnp.float64)
        base = model.init(keys[2], x)
        exact = jnp.linalg.lstsq(x, y)[0]
        missing = jnp.linalg.svd(exact - base["params"]["kernel"], compute_uv=False)
        least = jnp.square(x @ exact - y).sum()
        for rank in (1, 2, 3):
            adapted = lora(model, base, "kernel$", rank=rank, alpha=1.0)
            variables = adapted.init(jax.random.key(1), x)

            def loss(params, adapted=adapted, variables=variables):
                return jnp.square(adapted.apply({**variables, "params": params}, x)[0] - y).sum()

            found = _minimised(loss, variables["params"])
            np.testing.assert_allclose(loss(found), least + jnp.square(missing[rank:]).sum(), rtol=1e-8)


def _minimised(loss, params):
    """By L-BFGS."""
    solver = optax.lbfgs()

    def body(_, carry):
        params, state = carry
        value, grad = optax.value_and_grad_from_state(loss)(params, state=state)
        updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(params, updates), state

    return jax.jit(lambda params: jax.lax.fori_loop(0, 300, body, (params, solver.init(params))))(params)[0]


def test_statistics_of_the_base_are_kept_beside_the_adapters():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x, train=False):
            return linen.BatchNorm(use_running_average=not train)(linen.Dense(4)(x))

    x = jax.random.normal(jax.random.key(0), (8, 3))
    learner = supervised(lora(Net(), Net().init(jax.random.key(1), x), "kernel$", rank=1), squared_error, optax.sgd(0.1))
    batch = {"x": x, "y": jnp.ones((8, 4))}
    state = learner.init(jax.random.key(2), batch)
    after, _ = learner.step(jax.random.key(3), state, batch)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert np.abs(after.model_state["base"]["batch_stats"]["BatchNorm_0"]["mean"]).max() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda params: lora_adapters(jax.random.key(0), params, "nothing"), "lora_adapters: pattern 'nothing' finds none of the 2 paths"),
        (lambda params: lora_adapters(jax.random.key(0), params, "bias", rank=1), "got rank=1 and bias of shape"),
        (lambda params: lora_adapters(jax.random.key(0), params, "kernel", rank=5), "got rank=5 and kernel of shape"),
        (lambda params: lora_adapters(jax.random.key(0), params, "kernel", rank=0), "rank must be >= 1"),
        (lambda params: lora_merged(params, {"up/kernel": {}}), "params has no up/kernel; the adapters belong to another model"),
        (lambda params: lora_merged(params, {}, alpha=0.0), r"alpha must be in \(0, inf\), got 0.0"),
        (lambda params: lora(linen.Dense(4), {"params": params}, "kernel", rank=9), "got rank=9"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call({"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)})
