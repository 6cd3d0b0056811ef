"""VGG: the paper's sizes, and a torch module with copied weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_copy import assert_equal_to_torch

from dljax.core.tree import num_params
from dljax.models import VGG, VGGS

# Of torchvision: 133M, 138M and 144M in table 2 of the paper.
COUNTS = {"vgg11": 132_863_336, "vgg16": 138_357_544, "vgg19": 143_667_240}


@pytest.mark.parametrize("name", COUNTS)
def test_5_2_vgg_has_the_papers_number_of_parameters(name):
    variables = jax.eval_shape(VGG(**VGGS[name]).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert num_params(variables) == COUNTS[name]


def test_5_2_vgg_equals_a_torch_module_with_copied_weights():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, inputs, out in (("stage_0_block_0", 3, 2), ("stage_1_block_0", 2, 4), ("stage_1_block_1", 4, 4)):
                self.add_module(name, nn.ModuleDict({"conv": nn.Conv2d(inputs, out, 3, padding=1, bias=False), "norm": nn.BatchNorm2d(out)}))
            self.hidden_0, self.head = nn.Linear(4 * 2 * 2, 6), nn.Linear(6, 5)

        def forward(self, x):
            for name in ("stage_0_block_0", "stage_1_block_0", "stage_1_block_1"):
                layer = getattr(self, name)
                x = layer["norm"](layer["conv"](x)).relu()
                x = x if name == "stage_1_block_0" else nn.functional.max_pool2d(x, 2)
            # Ours flattens channels last, theirs channels first.
            x = nn.functional.adaptive_avg_pool2d(x, 2).movedim(1, -1).flatten(1)
            return self.head(self.hidden_0(x).relu())

    x = np.random.default_rng(0).normal(size=(3, 14, 13, 3))
    model = VGG(5, (1, 2), 2, hidden=(6,), pool_size=2, dropout_rate=0.0, is_normalised=True)
    assert_equal_to_torch(model, Net(), x)


def test_classifier_for_small_pictures_takes_them_with_biases_or_batch_norm():
    for is_normalised in (False, True):
        model = VGG(10, width=2, hidden=(4,), pool_size=1, is_normalised=is_normalised)
        outputs, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((2, 32, 32, 3), jnp.uint8))
        assert outputs.shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"VGG: x must be pictures \[B, H, W, C\] of at least 32 x 32, got \(1, 31, 40, 3\)"),
        ({"hidden": (0,)}, "VGG: hidden must be >= 1, got 0"),
        ({"dropout_rate": 1.0}, r"VGG: dropout_rate must be in \[0, 1\), got 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(VGG(**options).init, jax.random.key(0), jnp.zeros((1, 31, 40, 3)))
