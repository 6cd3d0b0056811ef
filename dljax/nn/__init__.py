"""Layers: pure functions and Flax modules, fast in and out of `lax.scan`."""

from dljax.nn.attention import SelfAttention, attention, attention_weights, causal_mask
from dljax.nn.convolution import Conv, convolution
from dljax.nn.dense import Dense, unit_pixels
from dljax.nn.graph import GraphConvolution, SparseRows, neighbour_sum, single_graph, sparse_rows
from dljax.nn.model import Model, as_model
from dljax.nn.pooling import avg_pool, max_pool
from dljax.nn.product import row_product

__all__ = [
    "Conv", "Dense", "GraphConvolution", "Model", "SelfAttention", "SparseRows", "as_model", "attention",
    "attention_weights", "avg_pool", "causal_mask", "convolution", "max_pool", "neighbour_sum", "row_product",
    "single_graph", "sparse_rows", "unit_pixels",
]  # fmt: skip
