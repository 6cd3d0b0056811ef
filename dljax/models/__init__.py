"""Architectures made of the layers of `dljax.nn`."""

from dljax.models.gcn import GCN
from dljax.models.gpt import GPT, attention_maps, sampler

__all__ = ["GCN", "GPT", "attention_maps", "sampler"]
