"""Architectures made of the layers of `dljax.nn`."""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "CNN", "GAT", "GCN", "GIN", "GPT", "MLP", "MPNN", "ChebNet", "GatedGNN", "GraphSAGE", "GraphTransformer", "attention_maps", "sampler",
]  # fmt: skip

_MODULES = {
    "CNN": "cnn", "GAT": "graph_networks", "GCN": "gcn", "GIN": "graph_networks", "GPT": "gpt", "MLP": "mlp", "MPNN": "message_networks",
    "ChebNet": "graph_networks", "GatedGNN": "message_networks", "GraphSAGE": "graph_networks", "GraphTransformer": "message_networks",
    "attention_maps": "gpt", "sampler": "gpt",
}  # fmt: skip

if TYPE_CHECKING:
    from dljax.models.cnn import CNN
    from dljax.models.gcn import GCN
    from dljax.models.gpt import GPT, attention_maps, sampler
    from dljax.models.graph_networks import GAT, GIN, ChebNet, GraphSAGE
    from dljax.models.message_networks import MPNN, GatedGNN, GraphTransformer
    from dljax.models.mlp import MLP


def __getattr__(name: str) -> Any:
    # Imported where it is used: a perceptron need not wait for the libraries of graphs.
    if name in _MODULES:
        return getattr(importlib.import_module(f"dljax.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dljax.models' has no attribute {name!r}")
