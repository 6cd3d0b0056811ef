"""Architectures made of the layers of `dljax.nn`."""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["CNN", "GCN", "GPT", "MLP", "GraphAutoencoder", "attention_maps", "sampler"]

_MODULES = {
    "CNN": "cnn", "GCN": "gcn", "GPT": "gpt", "MLP": "mlp", "GraphAutoencoder": "graph_autoencoder", "attention_maps": "gpt", "sampler": "gpt",
}  # fmt: skip

if TYPE_CHECKING:
    from dljax.models.cnn import CNN
    from dljax.models.gcn import GCN
    from dljax.models.gpt import GPT, attention_maps, sampler
    from dljax.models.graph_autoencoder import GraphAutoencoder
    from dljax.models.mlp import MLP


def __getattr__(name: str) -> Any:
    # Imported where it is used: a perceptron need not wait for the libraries of graphs.
    if name in _MODULES:
        return getattr(importlib.import_module(f"dljax.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dljax.models' has no attribute {name!r}")
