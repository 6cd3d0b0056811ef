"""GoogLeNet: the sizes of the paper and of torchvision, and a torch module with copied weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_copy import assert_equal_to_torch

from dljax.core.tree import num_params
from dljax.models import GoogLeNet


def test_5_2_googlenet_has_the_number_of_parameters_of_the_paper_and_of_torchvision():
    def count(**options):
        return num_params(jax.eval_shape(GoogLeNet(**options).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"])

    assert count() == 6_998_552  # Caffe's bvlc_googlenet without its outputs for training
    assert count(is_normalised=True, large_window=3) == 6_624_904  # torchvision's, likewise


@pytest.mark.slow
@pytest.mark.parametrize("is_normalised", [False, True])
def test_5_2_googlenet_equals_a_torch_module_with_copied_weights(is_normalised):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def convolved(inputs, out, window, stride=1):
        layer = nn.Conv2d(inputs, out, window, stride, window // 2, bias=not is_normalised)
        return nn.ModuleDict({"conv": layer, "norm": nn.BatchNorm2d(out)}) if is_normalised else layer

    def through(layer, x):
        return (layer["norm"](layer["conv"](x)) if is_normalised else layer(x)).relu()

    class Inception(nn.Module):
        def __init__(self, inputs, ones, reduce_3, threes, reduce_5, fives, pooled):
            super().__init__()
            self.one_0, self.pool_0 = convolved(inputs, ones, 1), convolved(inputs, pooled, 1)
            self.three_0, self.three_1 = convolved(inputs, reduce_3, 1), convolved(reduce_3, threes, 3)
            self.five_0, self.five_1 = convolved(inputs, reduce_5, 1), convolved(reduce_5, fives, 5)

        def forward(self, x):
            views = [through(self.one_0, x), through(self.three_1, through(self.three_0, x)), through(self.five_1, through(self.five_0, x))]
            return torch.cat([*views, through(self.pool_0, nn.functional.max_pool2d(x, 3, 1, 1))], 1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem_0, self.stem_1, self.stem_2 = convolved(3, 4, 7, 2), convolved(4, 3, 1), convolved(3, 5, 3)
            self.stage_0_module_0, self.stage_1_module_0 = Inception(5, 2, 1, 3, 1, 2, 1), Inception(8, 1, 2, 2, 1, 1, 2)
            self.head = nn.Linear(6, 4)

        def forward(self, x):
            halved = nn.MaxPool2d(3, 2, ceil_mode=True)
            x = halved(through(self.stem_2, through(self.stem_1, halved(through(self.stem_0, x)))))
            return self.head(self.stage_1_module_0(halved(self.stage_0_module_0(x))).mean((2, 3)))

    x = np.random.default_rng(0).normal(size=(2, 46, 36, 3))
    model = GoogLeNet(4, (((2, 1, 3, 1, 2, 1),), ((1, 2, 2, 1, 1, 2),)), (4, 3, 5), 0.0, is_normalised)
    assert_equal_to_torch(model, Net(), x)


@pytest.mark.parametrize("size", [1, 2, 28])
def test_pictures_of_any_size_are_taken(size):
    x = jnp.zeros((2, size, size, 1), jnp.uint8)
    for is_small in (False, True):
        assert jax.eval_shape(GoogLeNet(10, is_small=is_small).init_with_output, jax.random.key(0), x)[0].shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem_widths": (64, 192)}, r"GoogLeNet: stem_widths must have 3 widths, got \(64, 192\)"),
        ({"modules": (((1, 2, 3),),)}, r"GoogLeNet: modules must have 6 widths, got \(1, 2, 3\)"),
        ({"modules": (((1, 2, 3, 4, 5, 0),),)}, "GoogLeNet: modules must be >= 1, got 0"),
        ({"dropout_rate": 1.0}, r"GoogLeNet: dropout_rate must be in \[0, 1\), got 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(GoogLeNet(**options).init, jax.random.key(0), jnp.zeros((1, 31, 40, 3)))
