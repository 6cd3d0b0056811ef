"""Residual networks: the papers' sizes, and torchvision's, timm's and Hugging Face's arithmetic with copied weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_copy import assert_equal_to_torch, roughened

from dljax.core.tree import num_params
from dljax.models import RESNETS, ResNet, conv_norm, export_weights, from_pretrained, import_weights, read_tensors, to_safetensors
from dljax.models.resnet import SqueezeExcitation
from dljax.models.resnet_weights import resnet_weights

# The network whose tensors and outputs tests/golden/make_convolutional.py keeps.
GOLDEN_OPTIONS = {"blocks": (1, 1), "width": 2, "is_bottleneck": True, "groups": 2, "widening": 2}

# Of torchvision, of timm (seresnet50), of the tables of the papers.
COUNTS = {
    ("resnet18", 1000): 11_689_512,
    ("resnet50", 1000): 25_557_032,
    ("resnext50_32x4d", 1000): 25_028_904,
    ("seresnet50", 1000): 28_088_024,
    ("wrn_28_10", 10): 36_479_194,  # 36.5M in table 4 of Zagoruyko and Komodakis
    ("resnet20", 10): 272_474,  # 0.27M in He et al., Deep residual learning, table 6
}
DEEP_COUNTS = {
    ("resnet34", 1000): 21_797_672,
    ("resnet101", 1000): 44_549_160,
    ("wide_resnet50_2", 1000): 68_883_240,
    ("preact_resnet164", 10): 1_703_258,  # 1.7M in He et al., Identity mappings
}


def pictures(num=3, size=32, channels=3):
    return np.random.default_rng(0).normal(size=(num, size, size, channels))


@pytest.mark.parametrize(("name", "num_classes"), [*COUNTS, *(pytest.param(*key, marks=pytest.mark.slow) for key in DEEP_COUNTS)])
def test_5_2_residual_networks_have_the_papers_numbers_of_parameters(name, num_classes):
    variables = jax.eval_shape(ResNet(num_classes, **RESNETS[name]).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert num_params(variables["params"]) == (COUNTS | DEEP_COUNTS)[name, num_classes]


def torchvisions(blocks, width=64, is_bottleneck=False, groups=1, widening=1, squeeze=0, num_classes=10, is_small=False):
    """A network that is built and named as torchvision's (and its squeeze and excitation as timm's)."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Squeeze(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.fc1, self.fc2 = nn.Conv2d(channels, channels // squeeze, 1), nn.Conv2d(channels // squeeze, channels, 1)

        def forward(self, x):
            return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()

    class Block(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            out = 4 * width if is_bottleneck else width
            inner = width * widening
            if is_bottleneck:
                self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
                self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(inner)
                self.conv3, self.bn3 = nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)
            else:
                self.conv1, self.bn1 = nn.Conv2d(inputs, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
                self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
            if squeeze:
                self.se = Squeeze(out)
            self.downsample = None
            if stride != 1 or inputs != out:
                self.downsample = nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))

        def forward(self, x):
            y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
            y = self.bn3(self.conv3(y.relu())) if is_bottleneck else y
            y = self.se(y) if squeeze else y
            return (y + (self.downsample(x) if self.downsample else x)).relu()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, 3 if is_small else 7, 1 if is_small else 2, 1 if is_small else 3, bias=False)
            self.bn1, inputs = nn.BatchNorm2d(width), width
            for stage, number in enumerate(blocks):
                layers = []
                for block in range(number):
                    layers.append(Block(inputs, width * 2**stage, 2 if stage > 0 and block == 0 else 1))
                    inputs = width * 2**stage * (4 if is_bottleneck else 1)
                self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            self.fc = nn.Linear(inputs, num_classes)

        def forward(self, x):
            x = self.bn1(self.conv1(x)).relu()
            x = x if is_small else nn.functional.max_pool2d(x, 3, 2, 1)
            for stage in range(len(blocks)):
                x = getattr(self, f"layer{stage + 1}")(x)
            return self.fc(x.mean((2, 3)))

    return Net()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"blocks": (1, 2), "width": 4, "is_small": True, "squeeze": 2}, marks=pytest.mark.slow),
        {"blocks": (1, 1), "width": 4, "is_bottleneck": True, "groups": 2, "widening": 2},
    ],
    ids=["basic, small, squeeze and excitation", "bottleneck, groups"],
)
def test_5_2_residual_networks_equal_their_torch_modules_with_copied_weights(options):
    model = ResNet(10, **options)
    assert_equal_to_torch(model, torchvisions(**options), pictures(size=24), resnet_weights(model))


def test_5_2_a_residual_network_has_the_outputs_that_torch_gave():
    golden = np.load(Path(__file__).parents[1] / "golden" / "convolutional.npz")
    model, x = ResNet(10, **GOLDEN_OPTIONS), jnp.asarray(golden["resnet/x"])
    tensors = {name.removeprefix("resnet/tensors/"): golden[name] for name in golden if name.startswith("resnet/tensors/")}
    variables = import_weights(tensors, resnet_weights(model), jax.eval_shape(model.init, jax.random.key(0), x))
    outputs = jax.jit(lambda: (model.apply(variables, x), model.apply(variables, x, train=True, mutable=["batch_stats"])[0]))()
    for ours, name in zip(outputs, ("evaluated", "trained"), strict=True):
        np.testing.assert_allclose(ours, golden[f"resnet/{name}"], rtol=1e-3, atol=1e-4)


def test_5_2_resnet_18_equals_the_torch_module_with_copied_weights():
    model = ResNet(10, **RESNETS["resnet18"])
    assert_equal_to_torch(model, torchvisions(**RESNETS["resnet18"]), pictures(2, 40), resnet_weights(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_5_2_resnet_50_equals_the_torch_module_with_copied_weights(name):
    model = ResNet(10, **RESNETS[name])
    assert_equal_to_torch(model, torchvisions(**RESNETS[name]), pictures(2, 40), resnet_weights(model))


@pytest.mark.slow
def test_5_2_the_bottleneck_equals_hugging_faces():
    transformers = pytest.importorskip("transformers")
    options = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 1], "layer_type": "bottleneck", "num_labels": 5}
    theirs = transformers.ResNetForImageClassification(transformers.ResNetConfig(**options))

    def renamed(name):
        # conv1 and bn1 are embedder.embedder's, layer1.0.conv1 is encoder.stages.0.layers.0.layer.0's, and so on.
        part, kind = name.rsplit(".", 1)
        *place, part = part.split(".") if "downsample" not in part else [*part.split(".")[:2], "downsample." + part[-1]]
        if part == "fc":
            return f"classifier.1.{kind}"
        layer = "convolution" if part.startswith("conv") or part == "downsample.0" else "normalization"
        if not place:
            return f"resnet.embedder.embedder.{layer}.{kind}"
        stage, block = int(place[0][-1]) - 1, place[1]
        inside = "shortcut" if part.startswith("downsample") else f"layer.{int(part[-1]) - 1}"
        return f"resnet.encoder.stages.{stage}.layers.{block}.{inside}.{layer}.{kind}"

    # Their stem has a width of its own, half of what ours would be by the first stage's bottleneck.
    model = ResNet(5, (2, 1), width=4, stem_width=8, is_bottleneck=True)
    weights = [weight._replace(name=renamed(weight.name)) for weight in resnet_weights(model)]
    assert_equal_to_torch(model, theirs, pictures(size=24), weights, logits=lambda outputs: outputs.logits)


@pytest.mark.slow
def test_5_2_preactivated_blocks_equal_a_torch_module_with_copied_weights():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, inputs, out, stride):
            super().__init__()
            self.norm_0, self.conv_0 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, out, 3, stride, 1, bias=False)
            self.norm_1, self.conv_1 = nn.BatchNorm2d(out), nn.Conv2d(out, out, 3, 1, 1, bias=False)
            self.shortcut = nn.Conv2d(inputs, out, 1, stride, bias=False) if stride != 1 or inputs != out else None

        def forward(self, x):
            seen = self.norm_0(x).relu()
            y = self.conv_1(self.norm_1(self.conv_0(seen)).relu())
            return y + (self.shortcut(seen) if self.shortcut else x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
            self.stage_0_block_0, self.stage_0_block_1, self.stage_1_block_0 = Block(4, 6, 1), Block(6, 6, 1), Block(6, 12, 2)
            self.norm, self.head = nn.BatchNorm2d(12), nn.Linear(12, 5)

        def forward(self, x):
            x = self.stage_1_block_0(self.stage_0_block_1(self.stage_0_block_0(self.stem(x))))
            return self.head(self.norm(x).relu().mean((2, 3)))

    model = ResNet(5, (2, 1), 6, stem_width=4, is_preactivated=True, is_small=True)
    assert_equal_to_torch(model, Net(), pictures(size=9))


def test_5_2_a_state_dict_of_torchvision_goes_in_and_comes_back_bit_for_bit():
    module = roughened(torchvisions((1, 1), 4, is_bottleneck=True, squeeze=2))
    model = ResNet(10, (1, 1), 4, is_bottleneck=True, squeeze=2)
    weights = resnet_weights(model)
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    assert sorted(weight.name for weight in weights) == sorted(tensors)
    variables = import_weights(tensors, weights, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    back = export_weights(variables, weights)
    assert sorted(back) == sorted(name for name in tensors if not name.endswith("num_batches_tracked"))
    for name, tensor in ((name, tensors[name]) for name in back):
        assert back[name].dtype == tensor.dtype
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_5_2_squeeze_and_excitation_is_its_formula():
    layer, x = SqueezeExcitation(2), jnp.asarray(pictures(size=4, channels=4), jnp.float32)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    down, up = (np.asarray(variables["params"][name]["kernel"])[0, 0] for name in ("down", "up"))
    gates = 1 / (1 + np.exp(-np.maximum(np.asarray(x).mean((1, 2)) @ down, 0) @ up))
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), x * gates[:, None, None], rtol=1e-5, atol=1e-6)


def test_uint8_pictures_of_any_size_are_taken_and_dropout_is_of_training_only():
    model = ResNet(3, (1,), 2, dropout_rate=0.5, is_small=True)
    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 7, 5, 1)), jnp.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), x)

    @jax.jit
    def outputs(key):
        return model.apply(variables, x), model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])[0]

    (evaluated, one), (again, other) = outputs(jax.random.key(0)), outputs(jax.random.key(1))
    assert (evaluated == again).all()
    assert (one != other).any()
    np.testing.assert_allclose(evaluated, jax.jit(model.apply)(variables, x / jnp.float32(255)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"blocks": (2, 0)}, (1, 8, 8, 3), "ResNet: blocks must be >= 1, got 0"),
        ({"squeeze": -1}, (1, 8, 8, 3), "ResNet: squeeze must be >= 0, got -1"),
        ({"groups": 2}, (1, 8, 8, 3), "ResNet: groups and widening are of the bottleneck's .*got 2 and 1 without one; set is_bottleneck"),
        ({"dropout_rate": 1.0}, (1, 8, 8, 3), r"ResNet: dropout_rate must be in \[0, 1\), got 1"),
    ],
)
def test_refusals(options, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(ResNet(10, **options).init, jax.random.key(0), jnp.zeros(shape))


def test_what_is_no_batch_of_pictures_is_refused():
    with pytest.raises(ValueError, match=r"ResNet: x must be pictures \[B, H, W, C\] of at least 1 x 1, got \(8, 8, 3\)"):
        conv_norm.pictures("ResNet", jnp.zeros((8, 8, 3)))


def test_names_of_preactivated_networks_and_an_impossible_ratio_are_refused():
    with pytest.raises(ValueError, match="resnet_weights: torchvision has no pre-activated networks"):
        resnet_weights(ResNet(10, is_preactivated=True))
    with pytest.raises(ValueError, match="SqueezeExcitation: ratio must be >= 1, got 0"):
        SqueezeExcitation(0).init(jax.random.key(0), jnp.zeros((1, 2, 2, 4)))


def test_a_folder_of_timm_comes_in_and_goes_back(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    module = roughened(torchvisions(**RESNETS["resnet18"]))
    (tmp_path / "timm").mkdir()
    save_file({name: tensor.contiguous() for name, tensor in module.float().state_dict().items()}, tmp_path / "timm" / "model.safetensors")
    (tmp_path / "timm" / "config.json").write_text('{"architecture": "resnet18", "num_classes": 10, "num_features": 512, "pretrained_cfg": {}}')
    loaded = from_pretrained(tmp_path / "timm")
    x = pictures(2, 40).astype(np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.tensor(x).permute(0, 3, 1, 2))
    np.testing.assert_allclose(jax.jit(loaded.model.apply)(loaded.variables, x), expected, rtol=1e-3, atol=1e-4)
    back = read_tensors(to_safetensors(tmp_path / "ours", loaded.model, loaded.variables))
    for name, tensor in back.items():
        assert tensor.tobytes() == module.state_dict()[name].numpy().tobytes(), name
    with pytest.raises(ValueError, match="timm has no name for this ResNet"):
        to_safetensors(tmp_path / "small", ResNet(10, (1,), 2), loaded.variables)
