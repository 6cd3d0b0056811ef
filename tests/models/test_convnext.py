"""ConvNeXt: the paper's sizes, and Hugging Face's network with copied weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_copy import assert_equal_to_torch

from dljax.core.tree import num_params
from dljax.models import CONVNEXTS, ConvNeXt
from dljax.models.convnext import ConvNeXtBlock

# Of torchvision: 29M, 50M and 89M in table 1 of the paper.
COUNTS = {"convnext_tiny": 28_589_128, "convnext_small": 50_223_688, "convnext_base": 88_591_464}


@pytest.mark.parametrize("name", ["convnext_tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in ("convnext_small", "convnext_base"))])
def test_5_2_convnext_has_the_papers_number_of_parameters(name):
    variables = jax.eval_shape(ConvNeXt(**CONVNEXTS[name]).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert num_params(variables) == COUNTS[name]


@pytest.mark.slow
def test_5_2_convnext_equals_hugging_faces_with_copied_weights():
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(patch_size=2, num_stages=2, hidden_sizes=[4, 6], depths=[1, 2], num_labels=5, layer_norm_eps=1e-6)
    theirs = transformers.ConvNextForImageClassification(config)

    def layer(name, path, kernel=None):
        return [(f"{name}.weight", f"{path}/{'kernel' if kernel else 'scale'}", kernel or "same"), (f"{name}.bias", f"{path}/bias", "same")]

    weights = layer("convnext.embeddings.patch_embeddings", "stem", "convolution") + layer("convnext.embeddings.layernorm", "norm_0")
    weights += layer("convnext.encoder.stages.1.downsampling_layer.0", "norm_1")
    weights += layer("convnext.encoder.stages.1.downsampling_layer.1", "halving_1", "convolution")
    for stage, block in ((0, 0), (1, 0), (1, 1)):
        name, path = f"convnext.encoder.stages.{stage}.layers.{block}", f"stage_{stage}_block_{block}"
        weights += layer(f"{name}.dwconv", f"{path}/depthwise", "convolution") + layer(f"{name}.layernorm", f"{path}/norm")
        weights += layer(f"{name}.pwconv1", f"{path}/up", "transposed") + layer(f"{name}.pwconv2", f"{path}/down", "transposed")
        weights.append((f"{name}.layer_scale_parameter", f"{path}/scale", "same"))
    weights += layer("convnext.layernorm", "norm") + layer("classifier", "head", "transposed")
    x = np.random.default_rng(0).normal(size=(2, 13, 12, 3))
    model = ConvNeXt(5, (1, 2), (4, 6), patch_size=2, drop_rate=0.0)
    assert_equal_to_torch(model, theirs, x, weights, logits=lambda outputs: outputs.logits, has_modes=False)


def test_5_2_stochastic_depth_drops_whole_branches_of_some_examples_in_training_only():
    block, x = ConvNeXtBlock(drop_rate=0.5, layer_scale=1.0), jax.random.normal(jax.random.key(0), (64, 3, 3, 2))
    variables = jax.jit(block.init)(jax.random.key(1), x)
    trained = jax.jit(lambda: block.apply(variables, x, train=True, rngs={"dropout": jax.random.key(2)}))()
    branch = np.asarray(jax.jit(block.apply)(variables, x) - x)
    kept = np.asarray((trained != x).any((1, 2, 3)))
    assert 16 < kept.sum() < 48
    np.testing.assert_allclose(np.asarray(trained - x)[kept], 2 * branch[kept], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"ConvNeXt: x must be pictures \[B, H, W, C\] of at least 32 x 32, got \(1, 31, 40, 3\)"),
        ({"blocks": (1, 1)}, r"ConvNeXt: blocks and widths must have one number for each stage, got \(1, 1\) and"),
        ({"patch_size": 0}, "ConvNeXt: patch_size must be >= 1, got 0"),
        ({"drop_rate": 1.0}, r"ConvNeXt: drop_rate must be in \[0, 1\), got 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(ConvNeXt(**options).init, jax.random.key(0), jnp.zeros((1, 31, 40, 3)))
