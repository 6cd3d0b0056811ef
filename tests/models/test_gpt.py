"""GPT: causal, started as GPT-2 is, and the same on one device and on eight; what it has in common with transformers' is in test_causal.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax import core, data
from dljax.core import precision
from dljax.core.tree import named_leaves
from dljax.engine import FitConfig, Parallel, by_path, fit, fsdp, make_mesh
from dljax.models.gpt import GPT, SHARDING, attention_maps
from dljax.objectives import cross_entropy
from dljax.recipes.language import _windows_of
from dljax.supervised import supervised

SMALL = {"vocab_size": 11, "context": 6, "num_layers": 3, "num_heads": 2, "width": 8, "is_unrolled": False}  # rolled: sooner compiled


@functools.cache
def small(seed=0, **options):
    """A model, variables large enough that everything in it matters, and its compiled `apply`: a shape of tokens is compiled once for all tests."""
    model = GPT(**{**SMALL, **options})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.2, 0.4, leaf.shape), leaf.dtype), shapes)
    return model, variables, jax.jit(model.apply)


def some_tokens(*shape, seed=0):
    return jax.random.randint(jax.random.key(seed), shape, 0, SMALL["vocab_size"])


def test_logits_depend_on_no_later_token():
    _, variables, apply = small()
    tokens = some_tokens(2, 6)
    logits = apply(variables, tokens)
    for place in range(6):
        changed = apply(variables, tokens.at[:, place].add(1) % SMALL["vocab_size"])
        moved = np.abs(changed - logits).max((0, 2)) > 0
        assert moved.tolist() == [False] * place + [True] * (6 - place)


def test_layers_start_with_weights_of_their_own_and_gpt2s_deviations():
    params = jax.jit(GPT(vocab_size=65, is_unrolled=False).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    deviations = {name: float(leaf.std()) for name, leaf in named_leaves(params) if leaf.std() > 0}
    back = 0.02 / 8**0.5
    layers = "decoder/layers"
    expected = {f"{layers}/attention/{name}/kernel": 0.02 for name in ("query", "key", "value")}
    expected |= {f"{layers}/feed_forward/up/kernel": 0.02, "embed/embedding": 0.02, "positions": 0.02}
    expected |= {f"{layers}/attention/out/kernel": back, f"{layers}/feed_forward/down/kernel": back}
    assert deviations == pytest.approx(expected, rel=0.05)
    kernels = params["decoder"]["layers"]["feed_forward"]["up"]["kernel"]
    assert all(not np.array_equal(kernels[0], kernel) for kernel in kernels[1:])


def test_an_untied_head_is_a_matrix_of_its_own():
    _, variables, apply = small(is_tied=False)
    assert variables["params"]["head"]["kernel"].shape == (8, 11)
    zeroed = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * (path[1].key != "head"), variables)
    np.testing.assert_array_equal(apply(zeroed, some_tokens(2, 6)), 0)


def test_dropout_differs_by_key_and_is_off_in_evaluation():
    model, variables, apply = small(dropout_rate=0.3)
    tokens = some_tokens(2, 6)
    train = jax.jit(lambda key: model.apply(variables, tokens, train=True, rngs={"dropout": key}))
    assert not np.allclose(train(jax.random.key(0)), train(jax.random.key(1)))
    np.testing.assert_array_equal(apply(variables, tokens), small()[2](variables, tokens))


def test_bfloat16_follows_float32():
    model, variables, apply = small()
    learner = supervised(model, cross_entropy, optax.sgd(0.1))
    tokens = some_tokens(2, 6)
    arguments = jax.random.key(0), variables, tokens
    expected = apply(variables, tokens)
    with precision.use("bfloat16"):
        program = jax.jit(learner.functions["predict"]).lower(*arguments)
    logits, lowered = program.compile()(*arguments), program.as_text()
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, atol=0.05 * float(jnp.abs(expected).max()))
    products = [line for line in lowered.splitlines() if "dot_general" in line]
    assert products
    assert all("bf16" in line for line in products)


def test_attention_maps_are_causal_distributions():
    model, variables, _ = small()
    maps = jax.jit(functools.partial(attention_maps, model))(variables, some_tokens(2, 5))
    assert maps.shape == (3, 2, 2, 5, 5)
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(np.triu(maps, 1), 0)


@pytest.mark.parametrize("length", [1, 4, 9, 10, 11])
def test_windows_of_a_text_make_every_character_but_the_first_a_target_once(length):
    tokens = np.arange(1, 12)
    windows = _windows_of(tokens, length)
    is_real = windows["mask"] == 1
    assert windows["y"][is_real].tolist() == tokens[1:].tolist()
    assert windows["x"][is_real].tolist() == tokens[:-1].tolist()
    assert windows["mask"].sum() == 10


def test_it_learns_a_text_that_repeats_itself():
    tokens = np.tile(np.array([0, 1, 2, 1, 0, 3], np.int32), 50)  # the second token back decides
    learner = supervised(GPT(4, 8, 2, 2, 16, is_unrolled=False), cross_entropy, optax.adam(1e-2))
    source = data.windows(tokens, 8, 16)
    run_key, state, cursor = jax.jit(lambda key: core.start(learner, source, key))(jax.random.key(0))
    state, *_ = jax.jit(core.unroll(learner, source, 150, 150))(run_key, 0, state, cursor)
    windows = _windows_of(tokens, 8)
    # The first token of a window is predicted from too little: it does not count.
    windows["mask"][:, 0] = 0
    loss = jax.jit(core.evaluate(learner.evaluate, 16))(jax.random.key(1), state, windows)["loss"].value
    assert loss < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide the width"),
        ({"num_layers": 0}, "num_layers must be >= 1, got 0"),
        ({"dropout_rate": 1.5}, r"dropout_rate must be in \[0, 1\]"),
        ({"context": 3}, "tokens must be at most context=3 long, got 4"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(GPT(**{**SMALL, **options}).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))


def test_tokens_must_be_whole_numbers_and_of_the_vocabulary():
    model, variables, apply = small()
    with pytest.raises(TypeError, match="tokens must be whole numbers, got float32"):
        model.apply(variables, jnp.zeros((1, 4)))
    assert np.isnan(apply(variables, some_tokens(2, 6).at[0, 1].set(11))[0, 1]).all()


def test_8_2_losses_sharded_by_rows_and_heads_over_eight_devices_equal_those_on_one():
    learner = supervised(GPT(11, 6, 2, 2, 16, is_unrolled=False), cross_entropy, optax.adam(1e-2))
    source = data.windows(np.arange(200) % 7 + np.arange(200) % 3, 6, 8)

    def run(parallel):
        return fit(learner, source, 12, jax.random.key(0), config=FitConfig(every=1, chunk=12, parallel=parallel))

    alone = run(None)
    assert alone.history["loss"][-1] < alone.history["loss"][0]
    for num in (2, 4):
        found = run(Parallel(make_mesh(data=num, model=2), rules=(by_path(*SHARDING), fsdp(min_size=64))))
        np.testing.assert_allclose(found.history["loss"], alone.history["loss"], rtol=1e-5)
        layers = found.state.params["decoder"]["layers"]
        assert layers["attention"]["query"]["kernel"].addressable_shards[0].data.shape == (2, 16 // num, 8)
        assert layers["feed_forward"]["down"]["kernel"].addressable_shards[0].data.shape == (2, 32, 16 // num)
        assert not found.state.params["positions"].sharding.is_fully_replicated
