"""Architectures made of the layers of `dljax.nn`."""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "BERT", "CNN", "CONVNEXTS", "DENSENETS", "GAT", "GCN", "GIN", "GPT", "MLP", "MPNN", "RESNETS", "SHARDING", "T5", "VGG", "VGGS", "Beams",
    "Bigrams", "ChebNet", "ConvNeXt", "DCGANDiscriminator", "DCGANGenerator", "Decoded", "DenseNet", "EncoderDecoder", "GatedGNN", "GoogLeNet",
    "GraphAutoencoder", "GraphSAGE", "GraphTransformer", "Highway", "LeNet", "LexicalTranslator", "Lexicon", "Llama", "MaskedLanguageModel",
    "MobileNetV1", "MobileNetV2", "ODENet", "PatchDiscriminator", "PhraseTable", "PhraseWeights", "PictureGenerator", "Pretrained",
    "RecurrentLanguageModel", "RecurrentNet", "RecurrentReadout", "ResNet", "Seq2Seq", "TextClassifier", "TimeUNet", "TokenClassifier",
    "TransformerXL", "UNet", "ViT", "Weight", "WordTable", "attention_maps", "beam_search", "consistent_phrases", "decoder_step", "empty_cache",
    "encoder", "export_weights", "from_pretrained", "generate", "generate_target", "gpt_weights", "greedy", "ibm_model_1", "import_weights",
    "keep_min_p", "keep_top_k", "keep_top_p", "lexicon", "llama_weights", "lora", "lora_adapters", "lora_merged", "phrase_table", "read_prompts",
    "read_source", "read_tensors", "recurrent_sampler", "recurrent_weights", "sample", "sentence_embedding", "symmetrised", "t5_weights",
    "teacher_forcing", "to_safetensors", "translator", "vit_weights", "write_tensors",
]  # fmt: skip

_MODULES = {
    "BERT": "bert", "CNN": "cnn", "CONVNEXTS": "convnext", "DENSENETS": "densenet", "GAT": "graph_networks", "GCN": "gcn", "GIN": "graph_networks",
    "GPT": "gpt", "MLP": "mlp", "MPNN": "message_networks", "RESNETS": "resnet", "SHARDING": "gpt", "T5": "t5", "VGG": "vgg", "VGGS": "vgg",
    "Beams": "decoding", "Bigrams": "phrases", "ChebNet": "graph_networks", "ConvNeXt": "convnext", "DCGANDiscriminator": "dcgan",
    "DCGANGenerator": "dcgan", "Decoded": "decoding", "DenseNet": "densenet", "EncoderDecoder": "encoder_decoder", "GatedGNN": "message_networks",
    "GoogLeNet": "inception", "GraphAutoencoder": "graph_autoencoder", "GraphSAGE": "graph_networks", "GraphTransformer": "message_networks",
    "Highway": "highway", "LeNet": "lenet", "LexicalTranslator": "lexical_translator", "Lexicon": "lexical_translator", "Llama": "llama",
    "MaskedLanguageModel": "bert", "MobileNetV1": "mobilenet", "MobileNetV2": "mobilenet", "ODENet": "odenet", "PatchDiscriminator": "pix2pix",
    "PhraseTable": "phrases", "PhraseWeights": "phrases", "PictureGenerator": "pix2pix", "Pretrained": "pretrained", "RecurrentLanguageModel": "rnn",
    "RecurrentNet": "rnn", "RecurrentReadout": "rnn", "ResNet": "resnet", "Seq2Seq": "seq2seq", "TextClassifier": "bert", "TimeUNet": "unet",
    "TokenClassifier": "bert", "TransformerXL": "transformer_xl", "UNet": "unet", "ViT": "vit", "Weight": "weights", "WordTable": "word_alignment",
    "attention_maps": "gpt", "beam_search": "decoding", "consistent_phrases": "phrases", "decoder_step": "translation", "empty_cache": "generation",
    "encoder": "translation", "export_weights": "weights", "from_pretrained": "pretrained", "generate": "generation",
    "generate_target": "target_generation", "gpt_weights": "gpt_weights", "greedy": "decoding", "ibm_model_1": "word_alignment",
    "import_weights": "weights", "keep_min_p": "decoding", "keep_top_k": "decoding", "keep_top_p": "decoding", "lexicon": "lexical_translator",
    "llama_weights": "llama_weights", "lora": "low_rank", "lora_adapters": "low_rank", "lora_merged": "low_rank", "phrase_table": "phrases",
    "read_prompts": "generation", "read_source": "target_generation", "read_tensors": "weights", "recurrent_sampler": "rnn",
    "recurrent_weights": "rnn", "sample": "decoding", "sentence_embedding": "bert", "symmetrised": "word_alignment", "t5_weights": "t5_weights",
    "teacher_forcing": "translation", "to_safetensors": "pretrained", "translator": "translation", "vit_weights": "vit_weights",
    "write_tensors": "weights",
}  # fmt: skip

if TYPE_CHECKING:
    from dljax.models.bert import BERT, MaskedLanguageModel, TextClassifier, TokenClassifier, sentence_embedding
    from dljax.models.cnn import CNN
    from dljax.models.convnext import CONVNEXTS, ConvNeXt
    from dljax.models.dcgan import DCGANDiscriminator, DCGANGenerator
    from dljax.models.decoding import Beams, Decoded, beam_search, greedy, keep_min_p, keep_top_k, keep_top_p, sample
    from dljax.models.densenet import DENSENETS, DenseNet
    from dljax.models.encoder_decoder import EncoderDecoder
    from dljax.models.gcn import GCN
    from dljax.models.generation import empty_cache, generate, read_prompts
    from dljax.models.gpt import GPT, SHARDING, attention_maps
    from dljax.models.gpt_weights import gpt_weights
    from dljax.models.graph_autoencoder import GraphAutoencoder
    from dljax.models.graph_networks import GAT, GIN, ChebNet, GraphSAGE
    from dljax.models.highway import Highway
    from dljax.models.inception import GoogLeNet
    from dljax.models.lenet import LeNet
    from dljax.models.lexical_translator import LexicalTranslator, Lexicon, lexicon
    from dljax.models.llama import Llama
    from dljax.models.llama_weights import llama_weights
    from dljax.models.low_rank import lora, lora_adapters, lora_merged
    from dljax.models.message_networks import MPNN, GatedGNN, GraphTransformer
    from dljax.models.mlp import MLP
    from dljax.models.mobilenet import MobileNetV1, MobileNetV2
    from dljax.models.odenet import ODENet
    from dljax.models.phrases import Bigrams, PhraseTable, PhraseWeights, consistent_phrases, phrase_table
    from dljax.models.pix2pix import PatchDiscriminator, PictureGenerator
    from dljax.models.pretrained import Pretrained, from_pretrained, to_safetensors
    from dljax.models.resnet import RESNETS, ResNet
    from dljax.models.rnn import RecurrentLanguageModel, RecurrentNet, RecurrentReadout, recurrent_sampler, recurrent_weights
    from dljax.models.seq2seq import Seq2Seq
    from dljax.models.t5 import T5
    from dljax.models.t5_weights import t5_weights
    from dljax.models.target_generation import generate_target, read_source
    from dljax.models.transformer_xl import TransformerXL
    from dljax.models.translation import decoder_step, encoder, teacher_forcing, translator
    from dljax.models.unet import TimeUNet, UNet
    from dljax.models.vgg import VGG, VGGS
    from dljax.models.vit import ViT
    from dljax.models.vit_weights import vit_weights
    from dljax.models.weights import Weight, export_weights, import_weights, read_tensors, write_tensors
    from dljax.models.word_alignment import WordTable, ibm_model_1, symmetrised


def __getattr__(name: str) -> Any:
    # Imported where it is used: a perceptron need not wait for the libraries of graphs.
    if name in _MODULES:
        return getattr(importlib.import_module(f"dljax.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dljax.models' has no attribute {name!r}")
