"""Trained models from folders and back: the same bytes, read again by transformers; what would change the model is refused by name."""

import json
import runpy
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.models.bert import BERT, MaskedLanguageModel, TextClassifier, TokenClassifier
from dljax.models.mlp import MLP
from dljax.models.pretrained import from_pretrained, to_safetensors
from dljax.models.tensor_files import read_tensors, write_tensors

GOLDEN = Path(__file__).parents[1] / "golden"
SCRIPT = runpy.run_path(str(GOLDEN / "make_bert.py"))
CLASSES = {"Model": BERT, "ForMaskedLM": MaskedLanguageModel, "ForSequenceClassification": TextClassifier, "ForTokenClassification": TokenClassifier}


def saved(folder, case="BertForMaskedLM", changes=None, tensors=None):
    """A folder as transformers writes it, from the golden file."""
    golden = np.load(GOLDEN / "bert.npz")
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(str(golden[f"{case}/config"])) | (changes or {})
    (folder / "config.json").write_text(json.dumps(config))
    found = {name.removeprefix(f"{case}/weight/"): golden[name] for name in golden.files if name.startswith(f"{case}/weight/")}
    write_tensors(folder / "model.safetensors", found | (tensors or {}), metadata={"format": "pt"}, overwrite=True)
    return folder


@pytest.mark.parametrize("case", SCRIPT["CASES"])
def test_a_model_of_transformers_comes_back_with_the_same_bytes_and_the_same_answers(case, tmp_path):
    pytest.importorskip("transformers")
    import torch

    theirs = SCRIPT["model_of"](case)
    theirs.save_pretrained(tmp_path / "theirs", safe_serialization=True)
    found = from_pretrained(tmp_path / "theirs")
    assert type(found.model) is CLASSES[case.removeprefix("Bert").removeprefix("Roberta").removeprefix("Albert")]
    assert found.tokeniser is None
    to_safetensors(tmp_path / "ours", found.model, found.variables)
    assert (tmp_path / "ours" / "model.safetensors").read_bytes() == (tmp_path / "theirs" / "model.safetensors").read_bytes()
    assert from_pretrained(tmp_path / "ours").model == found.model
    back = type(theirs).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    tokens = torch.randint(3, SCRIPT["SIZES"]["vocab_size"], (2, 5))
    with torch.no_grad():
        first, second = theirs(tokens)[0], back(tokens)[0]
    np.testing.assert_array_equal(first.numpy(), second.numpy())


def test_a_type_is_kept_or_changed(tmp_path):
    folder = saved(tmp_path)
    half = {name: array.astype(jnp.bfloat16) for name, array in read_tensors(folder).items()}
    found = from_pretrained(saved(tmp_path, tensors=half))
    assert {leaf.dtype for leaf in jax.tree.leaves(found.variables)} == {jnp.dtype(jnp.bfloat16)}
    to_safetensors(tmp_path / "ours", found.model, found.variables)
    assert (tmp_path / "ours" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert {leaf.dtype for leaf in jax.tree.leaves(from_pretrained(folder, dtype=jnp.float32).variables)} == {jnp.dtype(jnp.float32)}


def test_the_oldest_names_and_the_heads_of_pre_training_are_understood(tmp_path):
    folder = saved(tmp_path / "new")
    tensors = read_tensors(folder)
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array for name, array in tensors.items()}
    old |= {"cls.seq_relationship.weight": np.zeros((2, 12)), "cls.seq_relationship.bias": np.zeros(2), "bert.pooler.dense.bias": np.zeros(12)}
    old |= {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"], "bert.embeddings.position_ids": np.arange(14)[None]}
    shutil.copytree(folder, tmp_path / "old")
    write_tensors(tmp_path / "old" / "model.safetensors", old, overwrite=True)
    expected = from_pretrained(folder)
    for changes in ({}, {"architectures": ["BertForPreTraining"]}):
        found = from_pretrained(tmp_path / "old", changes=changes)
        assert found.model == expected.model
        jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)


def test_a_new_head_is_put_on_a_trained_body(tmp_path):
    folder = saved(tmp_path)
    changes = {"architectures": ["BertForTokenClassification"], "num_labels": 5}
    options = {"changes": changes, "ignore": ("cls.*",), "keep": ("classifier/*",)}
    found = from_pretrained(folder, **options, key=jax.random.key(0))
    assert found.variables["params"]["classifier"]["kernel"].shape == (12, 5)
    assert jnp.abs(found.variables["params"]["classifier"]["kernel"]).sum() > 0
    body = from_pretrained(folder).variables["params"]["bert"]
    jax.tree.map(np.testing.assert_array_equal, found.variables["params"]["bert"], body)
    with pytest.raises(ValueError, match=r"keep=\('classifier/\*',\) needs a key"):
        from_pretrained(folder, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, r"model_type must be one of 'albert', 'bert', .*, got 'mamba' in .*config.json"),
        ({"model_type": ["bert"]}, r"model_type must be one of .*, got \['bert'\]"),
        ({"hidden_act": "quick_gelu"}, "the field 'hidden_act' must be one of 'gelu', 'gelu_new', .* for dljax, got 'quick_gelu'"),
        ({"hidden_act": ["gelu"]}, "the field 'hidden_act' must be one of"),
        ({"position_embedding_type": "relative_key"}, "the field 'position_embedding_type' must be one of 'absolute' for dljax, got 'relative_key'"),
        ({"rope_scaling": {"type": "yarn"}}, r"the field 'rope_scaling' = {'type': 'yarn'} is unknown to dljax, .* changes={'rope_scaling': None}"),
        ({"quantization_config": {"bits": 4}}, "the field 'quantization_config' = .* is unknown"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "the field 'auto_map' = .* is unknown"),
        ({"is_decoder": True}, "the field 'is_decoder' = True is unknown"),
        ({"tie_word_embeddings": False}, "the field 'tie_word_embeddings' must be one of True for dljax, got False"),
        ({"hidden_size": 12.0}, "the field 'hidden_size' must be a whole number >= 1, got 12.0"),
        ({"hidden_size": True}, "the field 'hidden_size' must be a whole number >= 1, got True"),
        ({"num_hidden_layers": -2}, "the field 'num_hidden_layers' must be a whole number >= 1, got -2"),
        ({"layer_norm_eps": "1e-5"}, r"the field 'layer_norm_eps' must be a number in \[0, inf\], got '1e-5'"),
        ({"hidden_dropout_prob": 1.5}, r"the field 'hidden_dropout_prob' must be a number in \[0, 1\], got 1.5"),
        ({"architectures": ["BertForQuestionAnswering"]}, "'architectures' must begin with one of BertModel, BertForMaskedLM, .*QuestionAnswering"),
        ({"num_attention_heads": 5}, "num_heads must divide the width 12, got 5"),
    ],
)
def test_a_config_that_dljax_does_not_know_is_refused_by_the_field(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        from_pretrained(saved(tmp_path, changes=changes))


def test_weights_that_do_not_fit_the_config_are_named_with_both_shapes(tmp_path):
    with pytest.raises(ValueError, match="the tensors do not fit the model") as error:
        from_pretrained(saved(tmp_path, changes={"vocab_size": 20, "num_hidden_layers": 3}))
    message = str(error.value)
    assert "misshapen: bert.embeddings.word_embeddings.weight has shape (19, 12), (20, 12) is expected for params/bert/embed/embedding" in message
    assert "missing: bert.encoder.layer.2.output.dense.weight, shape (12, 20), for params/bert/encoder/layers/feed_forward/down/kernel[2]" in message


def test_folders_that_hold_no_model_or_one_already_are_refused(tmp_path):
    folder = saved(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q")
    with pytest.raises(ValueError, match="holds pickled weights only"):
        from_pretrained(folder)
    (folder / "config.json").write_text("{'no': 'json'}")
    with pytest.raises(ValueError, match=r"config.json is not the JSON it should be"):
        from_pretrained(folder)
    found = from_pretrained(saved(tmp_path / "other"))
    with pytest.raises(FileExistsError, match=r"config.json exists; choose another folder, or give overwrite=True"):
        to_safetensors(tmp_path / "other", found.model, found.variables)
    to_safetensors(tmp_path / "other", found.model, found.variables, overwrite=True)
    with pytest.raises(TypeError, match="model must be of one of the families albert, bert, .*, got MLP"):
        to_safetensors(tmp_path, MLP([3]), {})
    assert not list(tmp_path.glob("**/*partial*"))
