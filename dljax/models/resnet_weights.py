"""ResNet as torchvision and timm keep it: the names of its tensors, and timm's config.json."""

from typing import Any

import jax.numpy as jnp

from dljax.models.pretrained import Config, Family
from dljax.models.resnet import RESNETS, ResNet
from dljax.models.weights import Weight

_KEPT = {name: options for name, options in RESNETS.items() if not options.get("is_preactivated") and not options.get("is_small")}


def resnet_weights(model: ResNet) -> list[Weight]:
    """What torchvision calls the tensors of a ResNet (and timm those of squeeze and excitation), and where they stand in ours.

    PyTorch's counters `num_batches_tracked` have no counterpart: a file may have them, and gets none.

    Raises:
      ValueError: pre-activated, of which torchvision has none.

    >>> resnet_weights(ResNet(10))[0]
    Weight(name='conv1.weight', path='stem/conv/kernel', layout='convolution', part=(0, 1))
    """
    if model.is_preactivated:
        raise ValueError("resnet_weights: torchvision has no pre-activated networks, and no names for their tensors; use is_preactivated=False")
    weights = _conv_norm("conv1", "bn1", "stem")
    channels = model.stem_width or model.width
    for stage, number in enumerate(model.blocks):
        features = model.width * 2**stage * (4 if model.is_bottleneck else 1)
        for block in range(number):
            theirs, ours = f"layer{stage + 1}.{block}", f"stage_{stage}_block_{block}"
            for i in range(3 if model.is_bottleneck else 2):
                weights += _conv_norm(f"{theirs}.conv{i + 1}", f"{theirs}.bn{i + 1}", f"{ours}/conv_{i}")
            if model.squeeze:
                for fc, name in (("fc1", "down"), ("fc2", "up")):
                    weights.append(Weight(f"{theirs}.se.{fc}.weight", f"{ours}/squeeze/{name}/kernel", "convolution"))
                    weights.append(Weight(f"{theirs}.se.{fc}.bias", f"{ours}/squeeze/{name}/bias"))
            if block == 0 and (stage > 0 or channels != features):
                weights += _conv_norm(f"{theirs}.downsample.0", f"{theirs}.downsample.1", f"{ours}/shortcut")
            channels = features
    return [*weights, Weight("fc.weight", "head/kernel", "transposed"), Weight("fc.bias", "head/bias")]


def _from_config(config: Config) -> ResNet:
    name = config.choice("architecture", tuple(_KEPT), None)
    for field in ("num_features", "pretrained_cfg"):
        config.get(field)  # of other heads, and where the weights are from
    config.choice("global_pool", ("avg",), "avg")
    return ResNet(config.size("num_classes", 1000), **_KEPT[name])


def _to_config(model: ResNet) -> dict[str, Any]:
    name = next((name for name, options in _KEPT.items() if model == ResNet(model.num_classes, **options)), None)
    if name is None:
        raise ValueError(f"to_safetensors: timm has no name for this ResNet; those with one are {', '.join(_KEPT)}. `export_weights` needs none")
    return {"architecture": name, "num_classes": model.num_classes}


def _conv_norm(conv_name: str, norm_name: str, path: str) -> list[Weight]:
    return [
        Weight(f"{conv_name}.weight", f"{path}/conv/kernel", "convolution"),
        Weight(f"{norm_name}.weight", f"{path}/norm/scale"),
        Weight(f"{norm_name}.bias", f"{path}/norm/bias"),
        Weight(f"{norm_name}.running_mean", f"batch_stats/{path}/norm/mean"),
        Weight(f"{norm_name}.running_var", f"batch_stats/{path}/norm/var"),
        Weight(f"{norm_name}.num_batches_tracked", ""),
    ]


FAMILY = Family((ResNet,), _from_config, _to_config, resnet_weights, lambda model: (jnp.zeros((1, 32, 32, 3)),))
