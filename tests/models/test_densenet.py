"""DenseNet: the paper's sizes, and a torch module with copied weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_copy import assert_equal_to_torch

from dljax.core.tree import num_params
from dljax.models import DENSENETS, DenseNet

# Of torchvision, and 1.0M and 0.8M in table 2 of the paper.
COUNTS = {
    ("densenet121", 1000): 7_978_856,
    ("densenet161", 1000): 28_681_000,
    ("densenet_40_12", 10): 1_019_722,
    ("densenet_bc_100_12", 10): 769_162,
}


@pytest.mark.parametrize(("name", "num_classes"), [pytest.param(*key, marks=[pytest.mark.slow] if "161" in key[0] else []) for key in COUNTS])
def test_5_2_densenet_has_the_papers_number_of_parameters(name, num_classes):
    variables = jax.eval_shape(DenseNet(num_classes, **DENSENETS[name]).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert num_params(variables["params"]) == COUNTS[name, num_classes]


def test_5_2_densenet_equals_a_torch_module_with_copied_weights():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class NormConv(nn.Module):
        def __init__(self, inputs, out, window):
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, out, window, padding=window // 2, bias=False)

        def forward(self, x):
            return self.conv(self.norm(x).relu())

    class Net(nn.Module):
        """Two blocks of 2 and 1 layers, growth 3, behind the stem for large pictures."""

        def __init__(self):
            super().__init__()
            self.stem = nn.ModuleDict({"conv": nn.Conv2d(3, 5, 7, 2, 3, bias=False), "norm": nn.BatchNorm2d(5)})
            self.block_0_layer_0_reduce, self.block_0_layer_0_grow = NormConv(5, 12, 1), NormConv(12, 3, 3)
            self.block_0_layer_1_reduce, self.block_0_layer_1_grow = NormConv(8, 12, 1), NormConv(12, 3, 3)
            self.transition_1 = NormConv(11, 5, 1)
            self.block_1_layer_0_reduce, self.block_1_layer_0_grow = NormConv(5, 12, 1), NormConv(12, 3, 3)
            self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 4)

        def forward(self, x):
            x = nn.functional.max_pool2d(self.stem["norm"](self.stem["conv"](x)).relu(), 3, 2, 1)
            for layer in ("block_0_layer_0", "block_0_layer_1"):
                x = torch.cat([x, getattr(self, f"{layer}_grow")(getattr(self, f"{layer}_reduce")(x))], 1)
            x = nn.functional.avg_pool2d(self.transition_1(x), 2)
            x = torch.cat([x, self.block_1_layer_0_grow(self.block_1_layer_0_reduce(x))], 1)
            return self.head(self.norm(x).relu().mean((2, 3)))

    x = np.random.default_rng(0).normal(size=(3, 21, 20, 3))
    assert_equal_to_torch(DenseNet(4, (2, 1), growth=3, width=5), Net(), x)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"is_small": True, "blocks": (1, 1, 1)}, (1, 3, 8, 3), r"DenseNet: x must be pictures \[B, H, W, C\] of at least 4 x 4"),
        ({"blocks": (1, 1, 1)}, (1, 12, 12, 3), "DenseNet: x must be pictures .* of at least 13 x 13"),
        ({"growth": 0}, (1, 32, 32, 3), "DenseNet: growth must be >= 1, got 0"),
        ({"compression": 0.0}, (1, 32, 32, 3), r"DenseNet: compression must be in \(0, 1\], got 0"),
        ({"dropout_rate": 1.0}, (1, 32, 32, 3), r"DenseNet: dropout_rate must be in \[0, 1\), got 1"),
    ],
)
def test_refusals(options, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(DenseNet(10, **options).init, jax.random.key(0), jnp.zeros(shape))


def test_the_smallest_pictures_that_are_taken_leave_one_place():
    jax.eval_shape(DenseNet(10, (1, 1, 1), 2, 2).init, jax.random.key(0), jnp.zeros((1, 13, 13, 3)))
    jax.eval_shape(DenseNet(10, (1, 1, 1), 2, 2, is_small=True).init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
