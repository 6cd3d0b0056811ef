"""Generation: with a cache as without, each row for itself, drawn as the softmax says, over the context's end through a window."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.core import precision
from dljax.models.decoding import beam_search
from dljax.models.generation import _window_step, empty_cache, generate, read_prompts
from dljax.models.gpt import GPT
from dljax.models.llama import Llama
from dljax.nn.linear_attention_layer import LinearAttention
from dljax.nn.relative_attention import RelativeAttention

MODELS = {
    "gpt": GPT(11, 16, 2, 2, 8),
    "llama": Llama(11, 16, 2, 4, 8, num_groups=2, hidden=12, window=5, is_unrolled=False),
    "linear gpt": GPT(11, 16, 2, 2, 8, attention=LinearAttention),
    "linear llama": Llama(11, 16, 2, 4, 8, num_groups=2, hidden=12, is_unrolled=False, attention=LinearAttention),
}
PROMPT, LENGTHS = jax.random.randint(jax.random.key(5), (3, 6), 0, 11), (6, 1, 4)


@functools.cache
def small(name, context=16):
    """A model, variables large enough that everything in it matters, and its compiled `apply`."""
    model = MODELS[name].clone(context=context)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.5, leaf.shape), leaf.dtype), shapes)
    return model, variables, jax.jit(model.apply)


def by_hand(name, prompt, num, context=16):
    """The likeliest token after token, the model called on all it may see of the text."""
    _, variables, apply = small(name, context)
    tokens = list(map(int, prompt))
    for _ in range(num):
        seen = tokens[-context:]
        logits = apply(variables, jnp.array([seen + [0] * (context - len(seen))]))
        tokens.append(int(jnp.argmax(logits[0, len(seen) - 1])))
    return tokens[len(prompt) :]


@pytest.mark.parametrize(("name", "context"), [("gpt", 16), ("llama", 16), ("gpt", 5)])
def test_8_2_texts_with_a_cache_equal_those_without_whatever_the_padding(name, context):
    """Where the context is shorter than prompt and text, the window of its last tokens is all that the model sees."""
    model, variables, _ = small(name, context)
    found = jax.jit(functools.partial(generate, model, max_tokens=8))(variables, PROMPT, lengths=jnp.array(LENGTHS))
    for row, length in enumerate(LENGTHS):
        assert found.tokens[row].tolist() == by_hand(name, PROMPT[row, :length], 8, context)


@pytest.mark.parametrize("name", ["linear gpt", pytest.param("linear llama", marks=pytest.mark.slow)])
def test_8_4_texts_of_linear_attention_with_states_equal_those_without_greedy_and_by_beam_search(name):
    model, variables, _ = small(name)
    options = {"max_tokens": 8, "stop_tokens": (3,)}

    @jax.jit
    def run(variables, lengths):
        first = jnp.zeros((3, 16), jnp.int32), jnp.zeros(3, jnp.int32)
        anew = beam_search(_window_step(model), variables, first, PROMPT, lengths=lengths, **options)
        return (
            generate(model, variables, PROMPT, lengths=lengths, max_tokens=8),
            generate(model, variables, PROMPT, lengths=lengths, method="beam_search", **options),
            anew,
        )

    found, beams, anew = run(variables, jnp.array(LENGTHS))
    for row, length in enumerate(LENGTHS):
        assert found.tokens[row].tolist() == by_hand(name, PROMPT[row, :length], 8)
    np.testing.assert_array_equal(beams.tokens, anew.tokens)
    np.testing.assert_allclose(beams.scores, anew.scores, rtol=1e-4)


def test_8_2_samples_come_as_often_as_the_softmax_says():
    model, variables, apply = small("gpt")
    temperature = 1.7
    run = jax.jit(lambda key, prompt: generate(model, variables, prompt, max_tokens=2, method="sample", key=key, temperature=temperature).tokens)
    drawn = np.asarray(run(jax.random.key(0), jnp.tile(PROMPT[:1, :3], (10_000, 1))))

    def probabilities(text):
        return np.asarray(jax.nn.softmax(apply(variables, jnp.resize(text, (1, 16)))[0, len(text) - 1] / temperature))

    expected = probabilities(PROMPT[0, :3])
    counts = np.bincount(drawn[:, 0], minlength=11)
    # χ² with 10 degrees of freedom is above 30 once in a thousand keys.
    assert ((counts - 10_000 * expected) ** 2 / (10_000 * expected)).sum() < 30
    # The second token follows the first that was drawn.
    first = int(counts.argmax())
    after = probabilities(jnp.append(PROMPT[0, :3], first))
    seen = np.bincount(drawn[drawn[:, 0] == first, 1], minlength=11)
    assert ((seen - seen.sum() * after) ** 2 / (seen.sum() * after)).sum() < 30


def test_8_2_the_loop_copies_no_weights_and_writes_the_cache_in_place():
    model, variables, _ = small("gpt")
    run = jax.jit(functools.partial(generate, model, max_tokens=8))
    program = run.lower(variables, PROMPT, lengths=jnp.array(LENGTHS)).compile().as_text()
    (body,) = {line.split("body=")[1].split(",")[0].strip("%") for line in program.splitlines() if " while(" in line and "f32[3,13,2,4]" in line}
    lines = program.split(f"%{body} (")[1].split("\n}")[0].splitlines()
    shapes = {"f32[8,8]": 0, "f32[8,24]": 0, "f32[8,32]": 0, "f32[32,8]": 0, "f32[3,13,2,4]": 2 * model.num_layers}
    for shape, num in shapes.items():
        made = [line for line in lines if f" = {shape}" in line and " get-tuple-element(" not in line and " parameter(" not in line]
        # A view costs nothing.
        made = [line for line in made if " bitcast(" not in line]
        assert len(made) == num, made
        assert all("dynamic-update-slice" in line for line in made)


def test_half_precision_follows_and_keeps_its_cache_in_half():
    model, variables, _ = small("gpt")
    with precision.use("bfloat16"):
        jaxpr = str(jax.make_jaxpr(functools.partial(generate, model, max_tokens=8))(variables, PROMPT))
    assert "bf16[3,13,2,4]" in jaxpr
    assert " f32[3,13,2,4]" not in jaxpr
    assert ":f32[3,13,2,4]" not in jaxpr


def test_a_prompt_of_one_token_leaves_nothing_to_read_ahead():
    model, variables, _ = small("gpt")
    start = read_prompts(model, variables, PROMPT[:, :1], max_tokens=3)
    assert int(start.cache.length) == 0
    assert start.cache.key[0].shape == (3, 3, 2, 4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"prompt": jnp.zeros((1, 0), jnp.int32)}, ValueError, "P >= 1"),
        ({"prompt": jnp.zeros(3, jnp.int32)}, ValueError, r"tokens \[B, P\]"),
        ({"prompt": jnp.zeros((1, 3))}, TypeError, "prompt must be whole numbers, got float32"),
        ({"max_tokens": 0}, ValueError, "max_tokens must be >= 1"),
        ({"lengths": jnp.array([0, 1, 2])}, ValueError, r"lengths must be in \[1, 6\]"),
        ({"method": "best"}, ValueError, "method must be one of 'greedy', 'sample', 'beam_search'"),
        ({"method": "sample"}, ValueError, "draws at random: give a key"),
        ({"key": jax.random.key(0)}, ValueError, "does not draw: leave the key out"),
        ({"temperature": 1.0}, TypeError, "temperature"),
        ({"method": "sample", "key": jax.random.key(0), "temperature": -1.0}, ValueError, "temperature must be"),
    ],
)
def test_what_cannot_be_continued_is_refused(changes, error, message):
    model, variables, _ = small("gpt")
    options = {"prompt": PROMPT, "max_tokens": 2, **changes}
    with pytest.raises(error, match=message):
        generate(model, variables, options.pop("prompt"), **options)


def test_an_attention_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match="RelativeAttention has no method empty_cache"):
        empty_cache(GPT(11, attention=RelativeAttention), 1, 4)
