"""Layers: pure functions and Flax modules, fast in and out of `lax.scan`."""

from dljax.nn.attention import SelfAttention, attention, attention_weights, causal_mask
from dljax.nn.graph import GraphConvolution, SparseRows, neighbour_sum, single_graph, sparse_rows
from dljax.nn.model import Model, as_model
from dljax.nn.product import row_product

__all__ = [
    "GraphConvolution", "Model", "SelfAttention", "SparseRows", "as_model", "attention", "attention_weights", "causal_mask",
    "neighbour_sum", "row_product", "single_graph", "sparse_rows",
]  # fmt: skip
