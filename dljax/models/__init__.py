"""Architectures made of the layers of `dljax.nn`."""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "CNN", "CONVNEXTS", "DENSENETS", "GCN", "GPT", "MLP", "RESNETS", "VGG", "VGGS", "ConvNeXt", "DenseNet", "GoogLeNet", "Highway", "LeNet",
    "MobileNetV1", "MobileNetV2", "ResNet", "UNet", "attention_maps", "resnet_weights", "sampler",
]  # fmt: skip

_MODULES = {
    "CNN": "cnn", "CONVNEXTS": "convnext", "DENSENETS": "densenet", "GCN": "gcn", "GPT": "gpt", "MLP": "mlp", "RESNETS": "resnet", "VGG": "vgg",
    "VGGS": "vgg", "ConvNeXt": "convnext", "DenseNet": "densenet", "GoogLeNet": "inception", "Highway": "highway", "LeNet": "lenet",
    "MobileNetV1": "mobilenet", "MobileNetV2": "mobilenet", "ResNet": "resnet", "UNet": "unet", "attention_maps": "gpt", "resnet_weights": "resnet",
    "sampler": "gpt",
}  # fmt: skip

if TYPE_CHECKING:
    from dljax.models.cnn import CNN
    from dljax.models.convnext import CONVNEXTS, ConvNeXt
    from dljax.models.densenet import DENSENETS, DenseNet
    from dljax.models.gcn import GCN
    from dljax.models.gpt import GPT, attention_maps, sampler
    from dljax.models.highway import Highway
    from dljax.models.inception import GoogLeNet
    from dljax.models.lenet import LeNet
    from dljax.models.mlp import MLP
    from dljax.models.mobilenet import MobileNetV1, MobileNetV2
    from dljax.models.resnet import RESNETS, ResNet, resnet_weights
    from dljax.models.unet import UNet
    from dljax.models.vgg import VGG, VGGS


def __getattr__(name: str) -> Any:
    # Imported where it is used: a perceptron need not wait for the libraries of graphs.
    if name in _MODULES:
        return getattr(importlib.import_module(f"dljax.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dljax.models' has no attribute {name!r}")
