"""ViT: values and gradients are those of transformers with the same weights; patches are a set but for their positions."""

import functools
import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.core.tree import named_leaves
from dljax.models.pretrained import Config, from_pretrained, to_safetensors
from dljax.models.vit import ViT
from dljax.models.vit_weights import FAMILY, vit_weights
from dljax.models.weights import export_weights, import_weights

GOLDEN = Path(__file__).parents[1] / "golden"
SCRIPT = runpy.run_path(str(GOLDEN / "make_vit.py"))
CASES = [*((case, False) for case in SCRIPT["KEPT"]), *(pytest.param(case, True, marks=pytest.mark.slow) for case in SCRIPT["CASES"])]


@functools.cache
def expected(case, is_live):
    if is_live:
        pytest.importorskip("transformers")
        return SCRIPT["reference"](case)
    golden = np.load(GOLDEN / "vit.npz")
    return {name.removeprefix(f"{case}/"): golden[name] for name in golden.files if name.startswith(f"{case}/")}


@functools.cache
def loaded(case, is_live):
    """The model of the reference, rolled: sooner compiled; its variables, and its gradients under our names."""
    arrays = expected(case, is_live)
    config = Config(json.loads(str(arrays["config"])), case)
    model = FAMILY.from_config(config).clone(is_unrolled=False)
    config.finish()
    like = jax.eval_shape(model.init, jax.random.key(0), *FAMILY.example(model))
    trees = []
    for kind in ("weight/", "grad/"):
        tensors = {name.removeprefix(kind): arrays[name] for name in arrays if name.startswith(kind)}
        trees.append(import_weights(tensors, vit_weights(model), like))
    return model, *trees


@pytest.mark.parametrize(("case", "is_live"), CASES)
def test_8_4_vit_has_the_values_and_gradients_of_transformers(case, is_live):
    with jax.enable_x64(True):
        arrays, (model, variables, grads) = expected(case, is_live), loaded(case, is_live)

        def value(variables):
            logits = model.apply(variables, jnp.asarray(arrays["x"]))
            return (arrays["direction"] * logits).sum(), logits

        (_, logits), found = jax.jit(jax.value_and_grad(value, has_aux=True))(variables)
        np.testing.assert_allclose(logits, arrays["logits"], rtol=1e-4, atol=1e-4)
        for (name, ours), (_, theirs) in zip(named_leaves(found), named_leaves(grads), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * max(1, np.abs(theirs).max()), err_msg=name)


@pytest.mark.parametrize("case", SCRIPT["KEPT"])
def test_8_4_vit_weights_come_back_bit_for_bit(case, tmp_path):
    with jax.enable_x64(True):
        arrays, (model, variables, _) = expected(case, False), loaded(case, False)
        tensors = export_weights(variables, vit_weights(model))
        # As in the published files; import takes either.
        theirs = sorted(array.tobytes() for name, array in arrays.items() if name.startswith("weight/"))
        assert sorted(tensor.tobytes() for tensor in tensors.values()) == theirs
        assert "vit.encoder.layer.1.attention.attention.query.weight" in tensors
        found = from_pretrained(to_safetensors(tmp_path, model, variables))
        assert found.model.clone(is_unrolled=False) == model
        jax.tree.map(np.testing.assert_array_equal, found.variables, variables)


@pytest.mark.slow
def test_8_4_transformers_reads_the_vit_that_dljax_writes(tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    with jax.enable_x64(True):
        arrays, (model, variables, _) = expected("vit", False), loaded("vit", False)
        to_safetensors(tmp_path, model, variables)
    theirs = transformers.ViTForImageClassification.from_pretrained(tmp_path, dtype=torch.float64).eval()
    logits = theirs(torch.tensor(arrays["x"]).permute(0, 3, 1, 2)).logits
    np.testing.assert_allclose(logits.detach().numpy(), arrays["logits"], rtol=1e-6, atol=1e-6)


OPTIONS = {"num_classes": 3, "image_size": 8, "patch_size": 4, "num_channels": 2, "width": 8, "num_layers": 2, "num_heads": 2, "is_unrolled": False}


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_8_4_without_positions_vit_sees_a_set_of_patches(pool):
    model = ViT(**OPTIONS, pool=pool)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *FAMILY.example(model))
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.5, leaf.shape), leaf.dtype), shapes)
    assert variables["params"]["positions"].shape == (1, 4 + (pool == "class"), 8)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 2))
    turned = jnp.concatenate([x[:, 4:], x[:, :4]], 1)  # the upper patches change places with the lower ones
    apply = jax.jit(model.apply)
    assert float(jnp.abs(apply(variables, turned) - apply(variables, x)).max()) > 1e-3
    blind = {"params": {**variables["params"], "positions": jnp.zeros_like(variables["params"]["positions"])}}
    np.testing.assert_allclose(apply(blind, turned), apply(blind, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"patch_size": 3}, (8, 8, 2), r"patch_size must divide image_size \(8, 8\), got \(3, 3\)"),
        ({"patch_size": (4, 3)}, (8, 8, 2), r"patch_size must divide image_size"),
        ({}, (8, 7, 2), r"x must be pictures \[B, 8, 8, 2\]"),
        ({}, (8, 8, 1), r"x must be pictures \[B, 8, 8, 2\]"),
        ({"num_heads": 3}, (8, 8, 2), "num_heads must divide the width 8, got 3"),
        ({"num_layers": 0}, (8, 8, 2), "num_layers must be >= 1"),
        ({"dropout_rate": -1.0}, (8, 8, 2), r"dropout_rate must be in \[0, 1\]"),
        ({"pool": "max"}, (8, 8, 2), "pool must be one of 'class', 'mean'"),
    ],
)
def test_pictures_and_options_that_do_not_fit_are_refused(options, shape, message):
    if options.get("pool") == "max":
        pytest.skip("the type checker of the tests refuses it first")
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(ViT(**{**OPTIONS, **options}).init, jax.random.key(0), jnp.zeros((2, *shape)))


def test_pixels_of_another_type_are_refused():
    with pytest.raises(TypeError, match="pictures must be uint8"):
        jax.eval_shape(ViT(**OPTIONS).init, jax.random.key(0), jnp.zeros((2, 8, 8, 2), jnp.int32))


def test_what_transformers_has_not_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="has a class token, got pool='mean'"):
        vit_weights(ViT(**OPTIONS, pool="mean"))
    with pytest.raises(ValueError, match="'qkv_bias' must be one of True for dljax, got False"):
        FAMILY.from_config(Config({"model_type": "vit", "qkv_bias": False}, "config.json"))
    with pytest.raises(ValueError, match="'image_size' must be a whole number"):
        FAMILY.from_config(Config({"model_type": "vit", "image_size": [4]}, "config.json"))


def test_a_missing_tensor_is_named_with_its_shape():
    with jax.enable_x64(True):
        model, variables, _ = loaded("vit", False)
        tensors = export_weights(variables, vit_weights(model))
        del tensors["vit.encoder.layer.1.output.dense.bias"]
        with pytest.raises(ValueError, match=r"missing: vit.encoder.layer.1.output.dense.bias, shape \(12,\)"):
            import_weights(tensors, vit_weights(model), variables)
