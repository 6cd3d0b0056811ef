"""LeNet: its size by hand, and a torch module with copied weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_copy import assert_equal_to_torch

from dljax.core.tree import num_params
from dljax.models import LeNet


def test_5_2_lenet_has_as_many_parameters_as_counted_by_hand():
    dense = (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
    variables = jax.eval_shape(LeNet().init, jax.random.key(0), jnp.zeros((1, 28, 28, 1), jnp.uint8))
    assert num_params(variables) == (25 * 6 + 6) + (25 * 6 * 16 + 16) + dense == 61_706
    # The layers that the paper has in full have its numbers: C1, C5 and F6 of section II.B.
    counts = {name: num_params(layer) for name, layer in variables["params"].items()}
    assert (counts["Conv_0"], counts["Dense_0"], counts["Dense_1"]) == (156, 48_120, 10_164)


def test_5_2_lenet_equals_a_torch_module_with_copied_weights():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.Conv_0, self.Conv_1 = nn.Conv2d(1, 2, 5, padding=2), nn.Conv2d(2, 3, 5)
            self.Dense_0, self.Dense_1 = nn.Linear(3 * 2 * 2, 4), nn.Linear(4, 5)

        def forward(self, x):
            for layer in (self.Conv_0, self.Conv_1):
                x = nn.functional.avg_pool2d(layer(x).tanh(), 2)
            # Ours flattens channels last, theirs channels first.
            return self.Dense_1(self.Dense_0(x.movedim(1, -1).flatten(1)).tanh())

    x = np.random.default_rng(0).normal(size=(2, 17, 16, 1))
    assert_equal_to_torch(LeNet(5, (2, 3), (4,)), Net(), x, has_modes=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"LeNet: x must be pictures \[B, H, W, C\] of at least 12 x 12, got \(1, 11, 40, 1\)"),
        ({"padding": 0}, "LeNet: x must be pictures .* of at least 16 x 16"),
        ({"padding": -1}, "LeNet: padding must be >= 0, got -1"),
        ({"widths": (6, 0)}, "LeNet: widths must be >= 1, got 0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(LeNet(**options).init, jax.random.key(0), jnp.zeros((1, 11, 40, 1)))
    jax.eval_shape(LeNet().init, jax.random.key(0), jnp.zeros((1, 12, 12, 1)))
