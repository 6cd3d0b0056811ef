"""Architectures made of the layers of `dljax.nn`."""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "BERT", "CNN", "GCN", "GPT", "MLP", "MaskedLanguageModel", "Pretrained", "TextClassifier", "TokenClassifier", "Weight", "attention_maps",
    "export_weights", "from_pretrained", "import_weights", "read_tensors", "sampler", "sentence_embedding", "to_safetensors", "write_tensors",
]  # fmt: skip

_MODULES = {
    "BERT": "bert", "CNN": "cnn", "GCN": "gcn", "GPT": "gpt", "MLP": "mlp", "MaskedLanguageModel": "bert", "Pretrained": "pretrained",
    "TextClassifier": "bert", "TokenClassifier": "bert", "Weight": "weights", "attention_maps": "gpt", "export_weights": "weights",
    "from_pretrained": "pretrained", "import_weights": "weights", "read_tensors": "weights", "sampler": "gpt", "sentence_embedding": "bert",
    "to_safetensors": "pretrained", "write_tensors": "weights",
}  # fmt: skip

if TYPE_CHECKING:
    from dljax.models.bert import BERT, MaskedLanguageModel, TextClassifier, TokenClassifier, sentence_embedding
    from dljax.models.cnn import CNN
    from dljax.models.gcn import GCN
    from dljax.models.gpt import GPT, attention_maps, sampler
    from dljax.models.mlp import MLP
    from dljax.models.pretrained import Pretrained, from_pretrained, to_safetensors
    from dljax.models.weights import Weight, export_weights, import_weights, read_tensors, write_tensors


def __getattr__(name: str) -> Any:
    # Imported where it is used: a perceptron need not wait for the libraries of graphs.
    if name in _MODULES:
        return getattr(importlib.import_module(f"dljax.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dljax.models' has no attribute {name!r}")
