"""Architectures made of the layers of `dljax.nn`."""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "CNN", "GCN", "GPT", "MLP", "Beams", "Decoded", "Seq2Seq", "attention_maps", "beam_search", "decoder_step", "encoder", "greedy", "keep_min_p",
    "keep_top_k", "keep_top_p", "sample", "sampler", "teacher_forcing", "translator",
]  # fmt: skip

_MODULES = {
    "CNN": "cnn", "GCN": "gcn", "GPT": "gpt", "MLP": "mlp", "Beams": "decoding", "Decoded": "decoding", "Seq2Seq": "seq2seq", "attention_maps": "gpt",
    "beam_search": "decoding", "decoder_step": "translation", "encoder": "translation", "greedy": "decoding", "keep_min_p": "decoding",
    "keep_top_k": "decoding", "keep_top_p": "decoding", "sample": "decoding", "sampler": "gpt", "teacher_forcing": "translation",
    "translator": "translation",
}  # fmt: skip

if TYPE_CHECKING:
    from dljax.models.cnn import CNN
    from dljax.models.decoding import Beams, Decoded, beam_search, greedy, keep_min_p, keep_top_k, keep_top_p, sample
    from dljax.models.gcn import GCN
    from dljax.models.gpt import GPT, attention_maps, sampler
    from dljax.models.mlp import MLP
    from dljax.models.seq2seq import Seq2Seq
    from dljax.models.translation import decoder_step, encoder, teacher_forcing, translator


def __getattr__(name: str) -> Any:
    # Imported where it is used: a perceptron need not wait for the libraries of graphs.
    if name in _MODULES:
        return getattr(importlib.import_module(f"dljax.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dljax.models' has no attribute {name!r}")
