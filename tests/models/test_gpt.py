"""GPT: equal to transformers' GPT-2 with the same weights, causal, sampled as its probabilities say."""

import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax import core, data
from dljax.core import precision
from dljax.core.tree import named_leaves
from dljax.models.gpt import GPT, attention_maps, sampler
from dljax.objectives import cross_entropy
from dljax.recipes.language import _windows_of
from dljax.supervised import supervised

GOLDEN = Path(__file__).parents[1] / "golden"
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


def from_gpt2(arrays, num_layers, kind):
    """GPT-2's parameters, or their gradients, under our names: its layers are stacked."""

    def stacked(name):
        return jnp.stack([arrays[f"{kind}/transformer.h.{layer}.{name}"] for layer in range(num_layers)])

    def dense(name):
        return {"kernel": stacked(f"{name}.weight"), "bias": stacked(f"{name}.bias")}

    def norm(name):
        return {"scale": stacked(f"{name}.weight"), "bias": stacked(f"{name}.bias")}

    top = {name: jnp.asarray(arrays[f"{kind}/transformer.{name}"]) for name in ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias")}
    return {
        "embed": {"embedding": top["wte.weight"]},
        "positions": top["wpe.weight"],
        "blocks": {
            "attention_norm": norm("ln_1"),
            "attention": {"qkv": dense("attn.c_attn"), "out": dense("attn.c_proj")},
            "mlp_norm": norm("ln_2"),
            "up": dense("mlp.c_fc"),
            "down": dense("mlp.c_proj"),
        },
        "norm": {"scale": top["ln_f.weight"], "bias": top["ln_f.bias"]},
    }


@pytest.mark.parametrize("is_live", [False, True])
def test_values_and_gradients_equal_gpt2s_with_the_same_weights(is_live):
    script = runpy.run_path(str(GOLDEN / "make_gpt2.py"))
    if is_live:
        pytest.importorskip("transformers")
        arrays = script["reference"]()
    else:
        arrays = np.load(GOLDEN / "gpt2.npz")
    with jax.enable_x64(True):
        model, tokens = GPT(**script["SIZES"]), jnp.asarray(arrays["tokens"])
        params = from_gpt2(arrays, script["SIZES"]["num_layers"], "weight")

        def loss(params):
            logits = model.apply({"params": params}, tokens)
            return cross_entropy(logits[:, :-1], tokens[:, 1:]).mean(), logits

        (value, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        np.testing.assert_allclose(logits, arrays["logits"], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(value, arrays["loss"], rtol=1e-6)  # transformers computes its loss in float32
        expected = dict(named_leaves(from_gpt2(arrays, script["SIZES"]["num_layers"], "grad")))
        for name, grad in named_leaves(grads):
            np.testing.assert_allclose(grad, expected[name], rtol=1e-4, atol=1e-7, err_msg=name)


def test_logits_depend_on_no_later_token():
    _, variables, apply = small()
    tokens = some_tokens(2, 6)
    logits = apply(variables, tokens)
    for place in range(6):
        changed = apply(variables, tokens.at[:, place].add(1) % SMALL["vocab_size"])
        moved = np.abs(changed - logits).max((0, 2)) > 0
        assert moved.tolist() == [False] * place + [True] * (6 - place)


def test_rolled_and_unrolled_layers_give_the_same():
    _, variables, _ = small()
    tokens = some_tokens(2, 6)

    def value_and_grad(is_unrolled):
        model = GPT(**SMALL | {"is_unrolled": is_unrolled})
        return jax.jit(jax.value_and_grad(lambda variables: jnp.square(model.apply(variables, tokens)).mean()))(variables)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), value_and_grad(True), value_and_grad(False))


def test_layers_start_with_weights_of_their_own_and_gpt2s_deviations():
    params = jax.jit(GPT(vocab_size=65, is_unrolled=False).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    deviations = {name: float(leaf.std()) for name, leaf in named_leaves(params) if leaf.std() > 0}
    back = 0.02 / 8**0.5
    expected = {"blocks/attention/qkv/kernel": 0.02, "blocks/attention/out/kernel": back, "blocks/up/kernel": 0.02, "blocks/down/kernel": back}
    expected |= {"embed/embedding": 0.02, "positions": 0.02}
    assert deviations == pytest.approx(expected, rel=0.05)
    kernels = params["blocks"]["up"]["kernel"]
    assert all(not np.array_equal(kernels[0], kernel) for kernel in kernels[1:])


def test_an_untied_head_is_a_matrix_of_its_own():
    _, variables, apply = small(is_tied=False)
    assert variables["params"]["head"]["kernel"].shape == (8, 11)
    zeroed = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * (path[1].key != "head"), variables)
    np.testing.assert_array_equal(apply(zeroed, some_tokens(2, 6)), 0)


def test_dropout_differs_by_key_and_is_off_in_evaluation():
    model, variables, apply = small(dropout_rate=0.3)
    tokens = some_tokens(2, 6)
    train = jax.jit(lambda key: model.apply(variables, tokens, True, rngs={"dropout": key}))
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


def greedy(apply, variables, prompt, num):
    """The likeliest token after token, the model called on all it may see of the text."""
    tokens = np.asarray(prompt)
    for _ in range(num):
        seen = tokens[:, -SMALL["context"] :]
        logits = apply(variables, np.pad(seen, ((0, 0), (0, SMALL["context"] - seen.shape[1]))))
        tokens = np.append(tokens, np.argmax(logits[:, seen.shape[1] - 1], -1)[:, None], 1)
    return tokens[:, prompt.shape[1] :]


@pytest.mark.parametrize("given", [1, 9])
def test_sampling_at_temperature_zero_takes_the_likeliest_token(given):
    model, variables, apply = small()
    prompt = some_tokens(2, given)
    sample = jax.jit(sampler(model), static_argnames="num")
    np.testing.assert_array_equal(sample(jax.random.key(0), variables, prompt, num=8, temperature=0.0), greedy(apply, variables, prompt, 8))


def test_samples_come_as_often_as_the_softmax_says():
    model, variables, apply = small(seed=3)
    prompt, temperature = jnp.tile(some_tokens(1, 3), (20_000, 1)), 1.7
    drawn = jax.jit(sampler(model), static_argnames="num")(jax.random.key(0), variables, prompt, num=2, temperature=temperature)

    def probabilities(text):
        return jax.nn.softmax(apply(variables, jnp.resize(text, (2, 6)))[0, len(text) - 1] / temperature)

    expected = probabilities(prompt[0])
    counts = np.bincount(drawn[:, 0], minlength=11)
    # χ² with 10 degrees of freedom is above 30 once in a thousand keys.
    assert ((counts - 20_000 * expected) ** 2 / (20_000 * expected)).sum() < 30
    # The second token follows the first that was drawn.
    first = int(counts.argmax())
    after = probabilities(jnp.append(prompt[0], first))
    seen = np.bincount(drawn[drawn[:, 0] == first, 1], minlength=11)
    assert ((seen - seen.sum() * after) ** 2 / (seen.sum() * after)).sum() < 30


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


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (jnp.zeros((1, 0), jnp.int32), {}, "P >= 1"),
        (jnp.zeros(3, jnp.int32), {}, r"tokens \[B, P\]"),
        (jnp.zeros((1, 3), jnp.int32), {"num": 0}, "num must be >= 1"),
        (jnp.zeros((1, 3), jnp.int32), {"temperature": -1.0}, "temperature must be in"),
    ],
)
def test_sampling_refuses_what_it_cannot_continue(prompt, options, message):
    model, variables, _ = small()
    with pytest.raises(ValueError, match=message):
        sampler(model)(jax.random.key(0), variables, prompt, **options)
