"""Layers: pure functions and Flax modules, fast in and out of `lax.scan`.

A model written for `from flax import linen as nn` runs on these layers with `from dljax import nn`: parameters and values stay the same. What linen
has and is not replaced here (`Module`, `compact`, `BatchNorm`, `relu` ...) is found here too.
"""

from typing import Any

from flax import linen

from dljax.nn.attention import (
    FusedSelfAttention,
    MultiHeadAttention,
    MultiHeadDotProductAttention,
    SelfAttention,
    attention,
    attention_weights,
    causal_mask,
)
from dljax.nn.convolution import Conv, ConvTranspose, conv_transpose, convolution
from dljax.nn.dense import Dense, DenseGeneral, unit_pixels
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
from dljax.nn.model import Model, as_model
from dljax.nn.pooling import avg_pool, max_pool
from dljax.nn.product import row_product
from dljax.nn.recurrent import RNN, gru, lstm

__all__ = [
    "RNN", "Conv", "ConvTranspose", "Dense", "DenseGeneral", "DropConnectDense", "FusedSelfAttention", "GraphConvolution", "Model",
    "MultiHeadAttention", "MultiHeadDotProductAttention", "Noise", "SelfAttention", "SparseRows", "additive_noise", "as_model", "attention",
    "attention_weights", "avg_pool", "causal_mask", "conv_transpose", "convolution", "drop_connect", "dropout", "gaussian_dropout", "gru", "lstm",
    "max_pool", "mc_dropout", "multiplicative_noise", "neighbour_sum", "row_product", "single_graph", "sparse_rows", "spatial_dropout",
    "stochastic_depth", "unit_pixels", "variational_dropout",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    try:
        return getattr(linen, name)
    except AttributeError:
        raise AttributeError(f"neither {__name__} nor flax.linen has an attribute {name!r}") from None
