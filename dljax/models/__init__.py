"""Architectures made of the layers of `dljax.nn`."""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "BERT", "CNN", "CONVNEXTS", "DENSENETS", "GCN", "GPT", "MLP", "RESNETS", "VGG", "VGGS", "ConvNeXt", "DenseNet", "GoogLeNet",
    "GraphAutoencoder", "Highway", "LeNet", "MaskedLanguageModel", "MobileNetV1", "MobileNetV2", "Pretrained", "RecurrentLanguageModel",
    "RecurrentNet", "RecurrentReadout", "ResNet", "TextClassifier", "TokenClassifier", "UNet", "Weight", "attention_maps", "export_weights",
    "from_pretrained", "import_weights", "read_tensors", "recurrent_sampler", "recurrent_weights", "resnet_weights", "sampler",
    "sentence_embedding", "to_safetensors", "write_tensors",
]  # fmt: skip

_MODULES = {
    "BERT": "bert", "CNN": "cnn", "CONVNEXTS": "convnext", "ConvNeXt": "convnext", "DENSENETS": "densenet", "DenseNet": "densenet", "GCN": "gcn",
    "GPT": "gpt", "GoogLeNet": "inception", "GraphAutoencoder": "graph_autoencoder", "Highway": "highway", "LeNet": "lenet", "MLP": "mlp",
    "MaskedLanguageModel": "bert", "MobileNetV1": "mobilenet", "MobileNetV2": "mobilenet", "Pretrained": "pretrained", "RESNETS": "resnet",
    "RecurrentLanguageModel": "rnn", "RecurrentNet": "rnn", "RecurrentReadout": "rnn", "ResNet": "resnet", "TextClassifier": "bert",
    "TokenClassifier": "bert", "UNet": "unet", "VGG": "vgg", "VGGS": "vgg", "Weight": "weights", "attention_maps": "gpt", "export_weights":
    "weights", "from_pretrained": "pretrained", "import_weights": "weights", "read_tensors": "weights", "recurrent_sampler": "rnn",
    "recurrent_weights": "rnn", "resnet_weights": "resnet", "sampler": "gpt", "sentence_embedding": "bert", "to_safetensors": "pretrained",
    "write_tensors": "weights",
}  # fmt: skip

if TYPE_CHECKING:
    from dljax.models.bert import BERT, MaskedLanguageModel, TextClassifier, TokenClassifier, sentence_embedding
    from dljax.models.cnn import CNN
    from dljax.models.convnext import CONVNEXTS, ConvNeXt
    from dljax.models.densenet import DENSENETS, DenseNet
    from dljax.models.gcn import GCN
    from dljax.models.gpt import GPT, attention_maps, sampler
    from dljax.models.graph_autoencoder import GraphAutoencoder
    from dljax.models.highway import Highway
    from dljax.models.inception import GoogLeNet
    from dljax.models.lenet import LeNet
    from dljax.models.mlp import MLP
    from dljax.models.mobilenet import MobileNetV1, MobileNetV2
    from dljax.models.pretrained import Pretrained, from_pretrained, to_safetensors
    from dljax.models.resnet import RESNETS, ResNet, resnet_weights
    from dljax.models.rnn import RecurrentLanguageModel, RecurrentNet, RecurrentReadout, recurrent_sampler, recurrent_weights
    from dljax.models.unet import UNet
    from dljax.models.vgg import VGG, VGGS
    from dljax.models.weights import Weight, export_weights, import_weights, read_tensors, write_tensors


def __getattr__(name: str) -> Any:
    # Imported where it is used: a perceptron need not wait for the libraries of graphs.
    if name in _MODULES:
        return getattr(importlib.import_module(f"dljax.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dljax.models' has no attribute {name!r}")
