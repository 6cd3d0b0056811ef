"""Layers: pure functions and Flax modules, fast in and out of `lax.scan`.

A model written for `from flax import linen as nn` runs on these layers with `from dljax import nn`: parameters and values stay the same. What linen
has and is not replaced here (`Module`, `compact`, `LayerNorm`, `Dropout` ...) is found here too.
"""

from typing import Any

from flax import linen

from dljax.nn import initialisers
from dljax.nn import initialisers as initializers
from dljax.nn.activation_table import ACTIVATIONS, Activation
from dljax.nn.activations import (
    PReLU,
    gaussian,
    hard_shrink,
    identity,
    maxout,
    mish,
    soft_shrink,
    sparse_plus,
    sparse_sigmoid,
    sparsemax,
    squared_relu,
    squareplus,
    step,
    tanh_shrink,
)
from dljax.nn.attention import (
    MultiHeadAttention,
    MultiHeadDotProductAttention,
    SelfAttention,
    attention,
    attention_reading,
    attention_scores,
    attention_weights,
    causal_mask,
    masked_softmax,
)
from dljax.nn.backpropagation import AffineLayer, BackwardPass, ForwardPass, backpropagate, forward_pass, fully_connected
from dljax.nn.computation_graph import ComputationGraph, computation_graph
from dljax.nn.convolution import Conv, ConvTranspose, conv_transpose, convolution, patches
from dljax.nn.dense import Dense, DenseGeneral, unit_pixels
from dljax.nn.differentiation_cost import DifferentiationCost, differentiation_cost
from dljax.nn.dropout import (
    DropConnectDense,
    Noise,
    additive_noise,
    drop_connect,
    dropout,
    gaussian_dropout,
    mc_dropout,
    multiplicative_noise,
    spatial_dropout,
    stochastic_depth,
    variational_dropout,
)
from dljax.nn.graph import GraphConvolution, SparseRows, neighbour_sum, single_graph, sparse_rows
from dljax.nn.initialisers import FixupBranch, Propagation, fixup, gain, lsuv, signal_propagation
from dljax.nn.key_value_cache import KeyValueCache
from dljax.nn.model import Model, as_model
from dljax.nn.normalisation import BatchNorm
from dljax.nn.pooling import avg_pool, max_pool
from dljax.nn.positions import RelativeBias, Rotary, alibi, alibi_slopes, relative_bucket, sinusoidal_positions
from dljax.nn.product import row_product
from dljax.nn.recurrent import RNN, gru, lstm
from dljax.nn.seq_attention import SequenceAttention, additive_scores, multiplicative_scores
from dljax.nn.transformer import Attention, FeedForward, Transformer, TransformerConfig, TransformerLayer, norm_layer

__all__ = [
    "ACTIVATIONS", "RNN", "Activation", "AffineLayer", "Attention", "BackwardPass", "BatchNorm", "ComputationGraph", "Conv", "ConvTranspose",
    "Dense", "DenseGeneral", "DifferentiationCost", "DropConnectDense", "FeedForward", "FixupBranch", "ForwardPass", "GraphConvolution",
    "KeyValueCache", "Model", "MultiHeadAttention", "MultiHeadDotProductAttention", "Noise", "PReLU", "Propagation", "RelativeBias", "Rotary",
    "SelfAttention", "SequenceAttention", "SparseRows", "Transformer", "TransformerConfig", "TransformerLayer", "additive_noise", "additive_scores",
    "alibi", "alibi_slopes", "as_model", "attention", "attention_reading", "attention_scores", "attention_weights", "avg_pool", "backpropagate",
    "causal_mask", "computation_graph", "conv_transpose", "convolution", "differentiation_cost", "drop_connect", "dropout", "fixup", "forward_pass",
    "fully_connected", "gain", "gaussian", "gaussian_dropout", "gru", "hard_shrink", "identity", "initialisers", "initializers", "lstm", "lsuv",
    "masked_softmax", "max_pool", "maxout", "mc_dropout", "mish", "multiplicative_noise", "multiplicative_scores", "neighbour_sum", "norm_layer",
    "patches", "relative_bucket", "row_product", "signal_propagation", "single_graph", "sinusoidal_positions", "soft_shrink", "sparse_plus",
    "sparse_rows", "sparse_sigmoid", "sparsemax", "spatial_dropout", "squared_relu", "squareplus", "step", "stochastic_depth", "tanh_shrink",
    "unit_pixels", "variational_dropout",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    try:
        return getattr(linen, name)
    except AttributeError:
        raise AttributeError(f"neither {__name__} nor flax.linen has an attribute {name!r}") from None
