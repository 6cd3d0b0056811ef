"""MobileNets: the papers' sizes, and torch modules with copied weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_copy import assert_equal_to_torch

from dljax.core.tree import num_params
from dljax.models import MobileNetV1, MobileNetV2

# Of Keras and torchvision; "4.2 million" and "3.4M" in the papers.
COUNTS = {MobileNetV1(): 4_231_976, MobileNetV2(): 3_504_872}


@pytest.mark.parametrize("model", COUNTS, ids=lambda model: type(model).__name__)
def test_5_2_mobilenets_have_the_papers_numbers_of_parameters(model):
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert num_params(variables["params"]) == COUNTS[model]


def conv_norm(nn, inputs, out, window=3, stride=1, groups=1, activation=None):
    class ConvNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(inputs, out, window, stride, window // 2, groups=groups, bias=False)
            self.norm = nn.BatchNorm2d(out)

        def forward(self, x):
            x = self.norm(self.conv(x))
            return x if activation is None else activation(x)

    return ConvNorm()


@pytest.mark.slow
def test_5_2_mobilenet_v1_equals_a_torch_module_with_copied_weights():
    torch = pytest.importorskip("torch")
    nn, relu = torch.nn, torch.relu

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = conv_norm(nn, 3, 4, 3, 2, activation=relu)
            self.depthwise_0, self.pointwise_0 = conv_norm(nn, 4, 4, groups=4, activation=relu), conv_norm(nn, 4, 6, 1, activation=relu)
            self.depthwise_1, self.pointwise_1 = conv_norm(nn, 6, 6, 3, 2, 6, relu), conv_norm(nn, 6, 8, 1, activation=relu)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            x = self.pointwise_1(self.depthwise_1(self.pointwise_0(self.depthwise_0(self.stem(x)))))
            return self.head(x.mean((2, 3)))

    x = np.random.default_rng(0).normal(size=(2, 11, 12, 3))
    assert_equal_to_torch(MobileNetV1(5, ((12, 1), (16, 2)), 8, width_multiplier=0.5), Net(), x)


def test_5_2_mobilenet_v2_equals_a_torch_module_with_copied_weights():
    torch = pytest.importorskip("torch")
    nn, relu6 = torch.nn, torch.nn.functional.relu6

    class Block(nn.Module):
        def __init__(self, inputs, out, expansion, stride):
            super().__init__()
            inner = inputs * expansion
            self.expand = conv_norm(nn, inputs, inner, 1, activation=relu6) if expansion > 1 else nn.Identity()
            self.depthwise = conv_norm(nn, inner, inner, 3, stride, inner, relu6)
            self.project = conv_norm(nn, inner, out, 1)
            self.is_residual = stride == 1 and inputs == out

        def forward(self, x):
            y = self.project(self.depthwise(self.expand(x)))
            return x + y if self.is_residual else y

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = conv_norm(nn, 3, 8, 3, 2, activation=relu6)
            self.stage_0_block_0 = Block(8, 8, 1, 1)
            self.stage_1_block_0 = Block(8, 16, 3, 2)
            self.last, self.head = conv_norm(nn, 16, 24, 1, activation=relu6), nn.Linear(24, 5)

        def forward(self, x):
            return self.head(self.last(self.stage_1_block_0(self.stage_0_block_0(self.stem(x)))).mean((2, 3)))

    x = np.random.default_rng(0).normal(size=(2, 11, 12, 3))
    assert_equal_to_torch(MobileNetV2(5, ((1, 8, 1, 1), (3, 16, 1, 2)), 8, 24, dropout_rate=0.0), Net(), x)


def test_small_pictures_are_not_halved_the_first_two_times():
    def last_map(model):
        _, state = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), capture_intermediates=True))
        return state["intermediates"]["last"]["__call__"][0].shape[1]

    assert last_map(MobileNetV2()) == 1
    assert last_map(MobileNetV2(is_small=True)) == 4


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (MobileNetV1(width_multiplier=0.0), r"MobileNetV1: width_multiplier must be in \(0, inf\), got 0"),
        (MobileNetV1(layers=((8, 1, 1),)), r"MobileNetV1: layers must have 2 numbers each, got \(8, 1, 1\)"),
        (MobileNetV2(stages=((1, 8, 0, 1),)), "MobileNetV2: stages must be >= 1, got 0"),
        (MobileNetV2(dropout_rate=1.0), r"MobileNetV2: dropout_rate must be in \[0, 1\), got 1"),
        (MobileNetV2(last_width=0), "MobileNetV2: last_width must be >= 1, got 0"),
    ],
)
def test_refusals(model, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
