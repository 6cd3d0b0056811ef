"""The Transformer that looks words up: its probabilities are the mixture by hand, and what it writes is what it would write without a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.models import EncoderDecoder, LexicalTranslator, generate_target, ibm_model_1, lexicon
from dljax.nn import Rotary

SIZES = {"vocab_size": 10, "width": 8, "num_layers": 2, "num_heads": 2}
X = {"source": jnp.array([[3, 4, 0, 0], [5, 6, 7, 3]]), "inputs": jnp.array([[1, 3, 4, 5, 6], [1, 2, 2, 8, 9]])}


def looking(**options):
    """A model whose table says something of every token, and whose gate and pointer are not at their beginning."""
    model = LexicalTranslator(**SIZES, **options)
    variables = jax.jit(model.init)(jax.random.key(0), X)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), variables["params"])
    tokens = jax.random.randint(jax.random.key(1), (10, 8), 0, 10)
    return model, {"params": params, "lexicon": {"tokens": tokens, "probabilities": jax.nn.softmax(jax.random.normal(jax.random.key(2), (10, 8)))}}


def test_8_3_a_lexical_translator_mixes_its_own_words_with_the_translations_of_what_it_attends_to():
    with jax.enable_x64(True):
        model, variables = looking()
        log_probs, sown = jax.jit(lambda variables: model.apply(variables, X, mutable=["intermediates"]))(variables)
        np.testing.assert_allclose(jnp.exp(log_probs).sum(-1), 1, atol=1e-6)
        params, table = variables["params"], variables["lexicon"]
        inner = {name: params[name] for name in ("embed", "encoder", "decoder")}
        plain = EncoderDecoder(**SIZES)

        @jax.jit
        def read(params):
            memory = plain.apply(params, X["source"], method="encode")
            h = plain.apply(params, X["inputs"], memory, X["source"] != 0, method="states")
            return memory, h, jax.nn.softmax(plain.apply(params, X))

        memory, h, own = map(np.asarray, read({"params": inner}))
        through = lambda name, x: np.asarray(x) @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])  # noqa: E731
        gate = 1 / (1 + np.exp(-through("gate", h)))
        scores = np.einsum("btd,bsd->bts", through("pointer_query", h), through("pointer_key", memory)) / np.sqrt(8)
        scores[np.broadcast_to(np.asarray(X["source"] == 0)[:, None], scores.shape)] = -np.inf
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        np.testing.assert_allclose(sown["intermediates"]["pointer"][0], weights, atol=1e-6)
        dense = np.zeros((10, 10))
        np.add.at(dense, (np.arange(10)[:, None], np.asarray(table["tokens"])), np.asarray(table["probabilities"]))
        want = (1 - gate) * own + gate * np.einsum("bts,bsv->btv", weights, dense[np.asarray(X["source"])])
        np.testing.assert_allclose(jnp.exp(log_probs), want, atol=1e-6)
        # A table that knows nothing is no way to any word: nothing is NaN, and what is left of the network's own words has no gradient through it.
        empty = {"params": params, "lexicon": jax.tree.map(jnp.zeros_like, table)}
        loss = lambda params: -model.apply(empty | {"params": params}, X)[..., 3].mean()  # noqa: E731
        np.testing.assert_allclose(jnp.exp(jax.jit(model.apply)(empty, X)), (1 - gate) * own, atol=1e-6)
        slopes = jax.jit(jax.grad(loss))(params)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slopes))
        np.testing.assert_array_equal(slopes["pointer_key"]["kernel"], 0)


@pytest.mark.parametrize("options", [{}, {"rotary": Rotary(), "norm_first": True, "is_unrolled": False}], ids=["waves", "rotary"])
def test_8_3_a_lexical_translator_writes_with_its_cache_what_it_writes_without(options):
    model, variables = looking(**options)
    source, steps = X["source"], 6
    written = jnp.full((2, 1), 1)
    forward = jax.jit(model.apply)
    for _ in range(steps):
        # One shape for all: what comes behind a place does not change its logits.
        inputs = jnp.pad(written, ((0, 0), (0, steps - written.shape[1])))
        following = forward(variables, {"source": source, "inputs": inputs})[:, written.shape[1] - 1].argmax(-1)
        written = jnp.concatenate([written, following[:, None]], 1)
    greedy = generate_target(model, variables, source, max_tokens=steps, start_token=1, stop_tokens=())
    np.testing.assert_array_equal(greedy.tokens, written[:, 1:])
    beams = generate_target(model, variables, source, max_tokens=steps, start_token=1, method="beam_search", num_beams=3, length_penalty=0.0)
    text = beams.tokens[:, 0]
    inputs = jnp.concatenate([jnp.full((2, 1), 1), text[:, :-1]], 1)
    scores = jnp.take_along_axis(forward(variables, {"source": source, "inputs": inputs}), text[..., None], -1).sum((1, 2))
    np.testing.assert_allclose(beams.scores[:, 0], scores, rtol=1e-4)
    likeliest = jnp.take_along_axis(forward(variables, {"source": source, "inputs": written[:, :-1]}), written[:, 1:, None], -1).sum((1, 2))
    assert bool((beams.scores[:, 0] >= likeliest - 1e-4).all())


def test_what_is_no_lexicon_is_refused():
    table = ibm_model_1([["3"], ["3", "1"]], [["2"], ["2", "0"]])
    with pytest.raises(ValueError, match="lexicon: num must be between 1 and 4, got 5"):
        lexicon(table, 4, num=5)
    with pytest.raises(ValueError, match="lexicon: the words of the table must be tokens, digits below 3, got '3'"):
        lexicon(table, 3, num=1)
    with pytest.raises(ValueError, match="LexicalTranslator: num_translations must be >= 1, got 0"):
        LexicalTranslator(**SIZES, num_translations=0).init(jax.random.key(0), X)
    model = LexicalTranslator(**SIZES)
    variables = jax.eval_shape(model.init, jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"decode needs the collection `read`; call encode with mutable=\['read'\]"):
        jax.eval_shape(lambda variables: model.apply(variables, X["inputs"], jnp.zeros((2, 4, 8)), method="decode"), variables)
