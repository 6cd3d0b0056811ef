"""U-Net: its size, pictures of any size, and a torch module with copied weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_copy import assert_equal_to_torch

from dljax.core.tree import num_params
from dljax.models import UNet


def test_5_2_unet_has_as_many_parameters_as_the_papers_figure():
    def count(model, channels):
        return num_params(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, channels)))["params"])

    widths = (64, 128, 256, 512, 1024)
    pairs = [(1, 64), *itertools.pairwise(widths)]
    down = sum(9 * a * b + b + 9 * b * b + b for a, b in pairs)
    up = sum(4 * b * a + a + 9 * 2 * a * a + a + 9 * a * a + a for a, b in pairs[1:])
    assert count(UNet(2), 1) == down + up + 64 * 2 + 2 == 31_030_658
    assert count(UNet(2, is_normalised=True), 3) == 31_037_698  # the common implementation in PyTorch, for colours and with batch norm


@pytest.mark.parametrize("is_normalised", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_5_2_unet_keeps_odd_sizes_and_equals_a_torch_module_with_copied_weights(is_normalised):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def convolved(inputs, out):
        layer = nn.Conv2d(inputs, out, 3, padding=1, bias=not is_normalised)
        return nn.ModuleDict({"conv": layer, "norm": nn.BatchNorm2d(out)}) if is_normalised else layer

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, inputs, out in (("down_0", 2, 3), ("down_1", 3, 4), ("down_2", 4, 5), ("up_1", 8, 4), ("up_0", 6, 3)):
                self.add_module(f"{name}_0", convolved(inputs, out))
                self.add_module(f"{name}_1", convolved(out, out))
            self.doubling_1, self.doubling_0 = nn.ConvTranspose2d(5, 4, 2, 2), nn.ConvTranspose2d(4, 3, 2, 2)
            self.head = nn.Conv2d(3, 2, 1)

        def twice(self, name, x):
            for i in range(2):
                layer = getattr(self, f"{name}_{i}")
                x = (layer["norm"](layer["conv"](x)) if is_normalised else layer(x)).relu()
            return x

        def forward(self, x):
            halved = nn.MaxPool2d(2, ceil_mode=True)
            large = self.twice("down_0", x)
            middle = self.twice("down_1", halved(large))
            small = self.twice("down_2", halved(middle))
            x = self.doubling_1(small)[:, :, : middle.shape[2], : middle.shape[3]]
            x = self.doubling_0(self.twice("up_1", torch.cat([middle, x], 1)))[:, :, : large.shape[2], : large.shape[3]]
            return self.head(self.twice("up_0", torch.cat([large, x], 1)))

    x = np.random.default_rng(0).normal(size=(2, 11, 9, 2))
    assert_equal_to_torch(UNet(2, (3, 4, 5), is_normalised), Net(), x, has_modes=is_normalised)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (13, 10), (16, 16)])
def test_5_2_unet_keeps_the_size_of_any_picture(size):
    outputs, _ = jax.eval_shape(UNet(3, (2, 3, 4)).init_with_output, jax.random.key(0), jnp.zeros((2, *size, 1), jnp.uint8))
    assert outputs.shape == (2, *size, 3)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (UNet(0), (1, 8, 8, 1), "UNet: num_outputs must be >= 1, got 0"),
        (UNet(1, ()), (1, 8, 8, 1), "UNet: the number of widths must be >= 1, got 0"),
        (UNet(1, (4, 0)), (1, 8, 8, 1), "UNet: widths must be >= 1, got 0"),
    ],
)
def test_refusals(model, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
