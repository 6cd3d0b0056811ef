"""U-Net: its size, pictures of any size, and a torch module with copied weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from torch_copy import assert_equal_to_torch

from dljax.core.tree import num_params
from dljax.models import TimeUNet, UNet
from dljax.nn import sinusoidal_positions


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


@pytest.mark.slow
def test_10_2_time_unet_equals_a_torch_module_with_copied_weights_on_odd_sizes():
    torch = pytest.importorskip("torch")
    nn, act = torch.nn, torch.nn.functional.silu
    time, context = jnp.array([0.3, 1.0]), jnp.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
    waves = torch.tensor(np.asarray(sinusoidal_positions(1000 * time, 6)), dtype=torch.float64)
    expected = 1000 * np.asarray(time)[:, None] * 10000 ** (-np.arange(0, 6, 2) / 6)
    np.testing.assert_allclose(waves, np.concatenate([np.sin(expected), np.cos(expected)], 1), atol=1e-3)

    class Ours(linen.Module):
        @linen.compact
        def __call__(self, x):
            return TimeUNet(2, (4, 6), embedding_size=6, num_groups=2, name="net")(x, time.astype(x.dtype), context.astype(x.dtype))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.time_in, self.time_out, self.context = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(3, 6, bias=False)
            self.first, self.head, self.head_norm = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1), nn.GroupNorm(2, 4, 1e-6)
            for name, inputs, out in (("down_0", 4, 4), ("down_1", 4, 6), ("middle", 6, 6), ("up_0", 10, 4)):
                self.add_module(f"{name}_norm_0", nn.GroupNorm(2, inputs, 1e-6))
                self.add_module(f"{name}_conv_0", nn.Conv2d(inputs, out, 3, padding=1))
                self.add_module(f"{name}_time", nn.Linear(6, out))
                self.add_module(f"{name}_norm_1", nn.GroupNorm(2, out, 1e-6))
                self.add_module(f"{name}_conv_1", nn.Conv2d(out, out, 3, padding=1))
                if inputs != out:
                    self.add_module(f"{name}_skip", nn.Conv2d(inputs, out, 1))

        def block(self, name, x, e):
            part = lambda kind: getattr(self, f"{name}_{kind}")  # noqa: E731
            inside = part("conv_0")(act(part("norm_0")(x))) + part("time")(e)[:, :, None, None]
            return part("conv_1")(act(part("norm_1")(inside))) + (part("skip")(x) if hasattr(self, f"{name}_skip") else x)

        def forward(self, x):
            given = torch.tensor(np.asarray(context), dtype=torch.float64)
            e = act(self.time_out(act(self.time_in(waves))) + self.context(given))
            large = self.block("down_0", self.first(x), e)
            small = self.block("down_1", nn.functional.avg_pool2d(large, 2, ceil_mode=True, count_include_pad=False), e)
            small = self.block("middle", small, e)
            doubled = small.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, : x.shape[2], : x.shape[3]]
            return self.head(act(self.head_norm(self.block("up_0", torch.cat([large, doubled], 1), e))))

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x):
            return self.net(x)

    assert_equal_to_torch(Ours(), Whole(), np.random.default_rng(0).normal(size=(2, 5, 4, 1)), has_modes=False)


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


def test_refusals_of_a_unet_that_knows_the_time():
    for model, message in (
        (TimeUNet(0), "TimeUNet: num_outputs must be >= 1, got 0"),
        (TimeUNet(1, ()), "TimeUNet: the number of widths must be >= 1, got 0"),
        (TimeUNet(1, (8, 12)), r"TimeUNet: widths must be multiples of num_groups 8, got \(8, 12\)"),
        (TimeUNet(1, embedding_size=3), "sinusoidal_positions: width must be even, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.ones(1))
