"""Architectures made of the layers of `dljax.nn`."""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "CNN", "GCN", "GPT", "MLP", "RecurrentLanguageModel", "RecurrentNet", "RecurrentReadout", "attention_maps", "recurrent_sampler",
    "recurrent_weights", "sampler",
]  # fmt: skip

_MODULES = {
    "CNN": "cnn", "GCN": "gcn", "GPT": "gpt", "MLP": "mlp", "RecurrentLanguageModel": "rnn", "RecurrentNet": "rnn", "RecurrentReadout": "rnn",
    "attention_maps": "gpt", "recurrent_sampler": "rnn", "recurrent_weights": "rnn", "sampler": "gpt",
}  # fmt: skip

if TYPE_CHECKING:
    from dljax.models.cnn import CNN
    from dljax.models.gcn import GCN
    from dljax.models.gpt import GPT, attention_maps, sampler
    from dljax.models.mlp import MLP
    from dljax.models.rnn import RecurrentLanguageModel, RecurrentNet, RecurrentReadout, recurrent_sampler, recurrent_weights


def __getattr__(name: str) -> Any:
    # Imported where it is used: a perceptron need not wait for the libraries of graphs.
    if name in _MODULES:
        return getattr(importlib.import_module(f"dljax.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dljax.models' has no attribute {name!r}")
