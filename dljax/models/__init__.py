"""Architectures made of the layers of `dljax.nn`."""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "CNN", "GCN", "GPT", "MLP", "SHARDING", "T5", "Beams", "Decoded", "EncoderDecoder", "Llama", "Seq2Seq", "ViT", "attention_maps", "beam_search",
    "decoder_step", "empty_cache", "encoder", "generate", "generate_target", "gpt_weights", "greedy", "keep_min_p", "keep_top_k", "keep_top_p",
    "llama_weights", "lora", "lora_adapters", "lora_merged", "read_prompts", "read_source", "sample", "t5_weights", "teacher_forcing", "translator",
    "vit_weights",
]  # fmt: skip

_MODULES = {
    "CNN": "cnn", "GCN": "gcn", "GPT": "gpt", "MLP": "mlp", "SHARDING": "gpt", "T5": "t5", "Beams": "decoding", "Decoded": "decoding",
    "EncoderDecoder": "encoder_decoder", "Llama": "llama", "Seq2Seq": "seq2seq", "ViT": "vit", "attention_maps": "gpt", "beam_search": "decoding",
    "decoder_step": "translation", "empty_cache": "generation", "encoder": "translation", "generate": "generation",
    "generate_target": "target_generation", "gpt_weights": "gpt_weights", "greedy": "decoding", "keep_min_p": "decoding", "keep_top_k": "decoding",
    "keep_top_p": "decoding", "llama_weights": "llama_weights", "lora": "low_rank", "lora_adapters": "low_rank", "lora_merged": "low_rank",
    "read_prompts": "generation", "read_source": "target_generation", "sample": "decoding", "t5_weights": "t5_weights",
    "teacher_forcing": "translation", "translator": "translation", "vit_weights": "vit_weights",
}  # fmt: skip

if TYPE_CHECKING:
    from dljax.models.cnn import CNN
    from dljax.models.decoding import Beams, Decoded, beam_search, greedy, keep_min_p, keep_top_k, keep_top_p, sample
    from dljax.models.encoder_decoder import EncoderDecoder
    from dljax.models.gcn import GCN
    from dljax.models.generation import empty_cache, generate, read_prompts
    from dljax.models.gpt import GPT, SHARDING, attention_maps
    from dljax.models.gpt_weights import gpt_weights
    from dljax.models.llama import Llama
    from dljax.models.llama_weights import llama_weights
    from dljax.models.low_rank import lora, lora_adapters, lora_merged
    from dljax.models.mlp import MLP
    from dljax.models.seq2seq import Seq2Seq
    from dljax.models.t5 import T5
    from dljax.models.t5_weights import t5_weights
    from dljax.models.target_generation import generate_target, read_source
    from dljax.models.translation import decoder_step, encoder, teacher_forcing, translator
    from dljax.models.vit import ViT
    from dljax.models.vit_weights import vit_weights


def __getattr__(name: str) -> Any:
    # Imported where it is used: a perceptron need not wait for the libraries of graphs.
    if name in _MODULES:
        return getattr(importlib.import_module(f"dljax.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dljax.models' has no attribute {name!r}")
