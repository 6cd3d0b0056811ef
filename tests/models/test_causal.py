"""GPT-2 and Llama: values, gradients and texts are those of transformers with the same weights."""

import functools
import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.core.tree import named_leaves
from dljax.models.generation import generate
from dljax.models.gpt import GPT
from dljax.models.llama import Llama
from dljax.models.pretrained import FAMILIES, Config, _family, from_pretrained, to_safetensors
from dljax.models.weights import export_weights, import_weights
from dljax.nn.linear_attention_layer import LinearAttention

GOLDEN = Path(__file__).parents[1] / "golden"
SCRIPT = runpy.run_path(str(GOLDEN / "make_causal.py"))
CASES = [*((case, False) for case in SCRIPT["KEPT"]), *(pytest.param(case, True, marks=pytest.mark.slow) for case in SCRIPT["CASES"])]


@functools.cache
def expected(case, is_live):
    if is_live:
        pytest.importorskip("transformers")
        return SCRIPT["reference"](case)
    golden = np.load(GOLDEN / "causal.npz")
    return {name.removeprefix(f"{case}/"): golden[name] for name in golden.files if name.startswith(f"{case}/")}


@functools.cache
def loaded(case, is_live):
    """The model of the reference, rolled: sooner compiled; its variables, and its gradients under our names."""
    arrays = expected(case, is_live)
    config = Config(json.loads(str(arrays["config"])), case)
    family = _family(FAMILIES[config.get("model_type")])
    model = family.from_config(config).clone(is_unrolled=False)
    like = jax.eval_shape(model.init, jax.random.key(0), *family.example(model))
    trees = []
    for kind in ("weight/", "grad/"):
        tensors = {name.removeprefix(kind): arrays[name] for name in arrays if name.startswith(kind)}
        trees.append(import_weights(tensors, family.weights(model), like, prefixes=family.prefixes))
    return model, *trees


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(("case", "is_live"), CASES)
def test_8_2_values_and_gradients_equal_transformers_with_padding_on_the_right(case, is_live):
    arrays, (model, variables, grads) = expected(case, is_live), loaded(case, is_live)
    mask, direction = jnp.asarray(arrays["mask"]), jnp.asarray(arrays["direction"])

    def value(variables):
        logits = model.apply(variables, jnp.asarray(arrays["tokens"]), mask)
        return (direction * logits * mask[..., None]).sum(), logits

    (_, logits), found = jax.jit(jax.value_and_grad(value, has_aux=True))(variables)
    # Rotary angles are computed in float32 there and here.
    np.testing.assert_allclose(logits[mask], arrays["logits"][arrays["mask"]], rtol=1e-5, atol=1e-5)
    for (name, ours), (_, theirs) in zip(named_leaves(found), named_leaves(grads), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("case", "is_live"), CASES)
def test_8_2_texts_equal_transformers_token_for_token_greedy_and_by_beam_search(case, is_live):
    arrays, (model, variables, _) = expected(case, is_live), loaded(case, is_live)
    model = model.clone(is_unrolled=None if case == "gpt2" else False)  # both ways of the loop
    options = {"max_tokens": SCRIPT["MAX_TOKENS"], "stop_tokens": (SCRIPT["STOP"],), "lengths": jnp.array(SCRIPT["LENGTHS"])}

    @jax.jit
    def run(variables, prompt):
        one = generate(model, variables, prompt, **options)
        return one, generate(model, variables, prompt, method="beam_search", num_beams=4, **options)

    one, beams = run(variables, jnp.asarray(arrays["tokens"]))
    np.testing.assert_array_equal(one.tokens, arrays["greedy"])
    np.testing.assert_array_equal(beams.tokens, arrays["beam"])
    np.testing.assert_allclose(beams.scores, arrays["scores"], rtol=1e-5)


@pytest.mark.parametrize("case", SCRIPT["KEPT"])
def test_8_2_weights_come_back_bit_for_bit(case, tmp_path):
    arrays, (model, variables, _) = expected(case, False), loaded(case, False)
    family = _family(FAMILIES[json.loads(str(arrays["config"]))["model_type"]])
    tensors = export_weights(variables, family.weights(model))
    assert {f"weight/{name}" for name in tensors} == {name for name in arrays if name.startswith("weight/")}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, arrays[f"weight/{name}"])
    found = from_pretrained(to_safetensors(tmp_path, model, variables))
    assert found.model.clone(is_unrolled=False) == model.clone(hidden=found.model.hidden)
    jax.tree.map(np.testing.assert_array_equal, found.variables, variables)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True},
            "'scale_attn_by_inverse_layer_idx' must be one of False for dljax, got True",
        ),
        ({"model_type": "gpt2", "activation_function": "quick"}, "'activation_function' must be one of"),
        (
            {"model_type": "llama", "rope_parameters": {"rope_type": "yarn"}},
            "'rope_type' must be one of 'default', 'linear', 'llama3' for dljax, got 'yarn'",
        ),
        ({"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'rope_type' must be one of"),
        ({"model_type": "llama", "rope_parameters": {"rope_type": "linear", "beta": 1}}, "the field 'beta' = 1 is unknown to dljax"),
        (
            {"model_type": "llama", "rope_parameters": {"rope_type": "llama3", "factor": 2.0}},
            "'original_max_position_embeddings' must be a whole number",
        ),
        ({"model_type": "llama", "hidden_act": "gelu"}, "'hidden_act' must be one of 'silu', 'swish'"),
    ],
)
def test_what_a_config_has_and_dljax_has_not_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        _family(FAMILIES[fields["model_type"]]).from_config(Config(fields, "config.json"))


@pytest.mark.parametrize("model", [GPT(11, attention=LinearAttention), Llama(11, attention=LinearAttention)])
def test_an_attention_that_transformers_has_not_is_not_written(model, tmp_path):
    with pytest.raises(ValueError, match="has softmax attention only, got attention=<class"):
        to_safetensors(tmp_path, model, {})


def test_the_older_fields_of_rotary_positions_are_read():
    old = {"model_type": "llama", "rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"model_type": "llama", "rope_parameters": {"rope_theta": 500.0, "rope_type": "linear", "factor": 2.0}}
    one, other = (_family("llama_weights").from_config(Config(fields, "config.json")) for fields in (old, new))
    assert one == other
    assert (one.rotary.base, one.rotary.factor) == (500.0, 2.0)
