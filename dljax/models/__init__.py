"""Architectures made of the layers of `dljax.nn`."""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["CNN", "GCN", "GPT", "MLP", "ODENet", "attention_maps", "sampler"]

_MODULES = {"CNN": "cnn", "GCN": "gcn", "GPT": "gpt", "MLP": "mlp", "ODENet": "odenet", "attention_maps": "gpt", "sampler": "gpt"}

if TYPE_CHECKING:
    from dljax.models.cnn import CNN
    from dljax.models.gcn import GCN
    from dljax.models.gpt import GPT, attention_maps, sampler
    from dljax.models.mlp import MLP
    from dljax.models.odenet import ODENet


def __getattr__(name: str) -> Any:
    # Imported where it is used: a perceptron need not wait for the libraries of graphs.
    if name in _MODULES:
        return getattr(importlib.import_module(f"dljax.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dljax.models' has no attribute {name!r}")
