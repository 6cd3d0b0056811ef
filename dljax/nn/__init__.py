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
from dljax.nn.attribution import grad_cam, integrated_gradients, layer_output, layer_shapes, occlusion, overlay, saliency, smooth_grad
from dljax.nn.backpropagation import AffineLayer, BackwardPass, ForwardPass, backpropagate, forward_pass, fully_connected
from dljax.nn.computation_graph import ComputationGraph, computation_graph
from dljax.nn.conditional import Conditional
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
from dljax.nn.elman import elman
from dljax.nn.feature_visualisation import MaximisationConfig, activation_maximisation, filter_pictures
from dljax.nn.gradient_norms import gradient_norms
from dljax.nn.graph import GraphConvolution, neighbour_sum, single_graph
from dljax.nn.graph_aggregation import GINConvolution, SAGEConvolution, unit_rows
from dljax.nn.graph_attention import GraphAttention, GraphAttentionV2, GraphDotProductAttention
from dljax.nn.graph_conversion import graph_from_edges, graph_from_matrix, graph_from_networkx, graph_to_networkx, graph_to_scipy
from dljax.nn.graph_heads import AttentionPooling, GraphHead, Set2Set, pool_nodes
from dljax.nn.graph_matrices import (
    Spectrum,
    adjacency_matrix,
    degrees,
    laplacian,
    laplacian_spectrum,
    pagerank,
    stationary_distribution,
    transition_matrix,
)
from dljax.nn.graph_polynomial import ChebyshevConvolution, chebyshev_sum
from dljax.nn.graph_recurrent import EdgeNetworkConvolution, GatedGraphConvolution, gated_update
from dljax.nn.graph_structure import components, shortest_paths, weisfeiler_lehman
from dljax.nn.initialisers import FixupBranch, Propagation, fixup, gain, lsuv, signal_propagation
from dljax.nn.key_value_cache import KeyValueCache
from dljax.nn.linear_attention import LinearAttentionState, causal_linear_attention, elu_features, linear_attention, linear_attention_weights
from dljax.nn.linear_attention_layer import LinearAttention, LinearAttentionCache
from dljax.nn.message_passing import pass_messages, segment_reduce, segment_softmax
from dljax.nn.minibatch import MinibatchDeviation, MinibatchDiscrimination
from dljax.nn.mixture_of_experts import EXPERT_SHARDING, MixtureOfExperts, Routes, balance_loss, route, router_z_loss
from dljax.nn.model import Model, as_model
from dljax.nn.node_features import NodeDense, NodeDropout, SparseRows, sparse_rows
from dljax.nn.normalisation import BatchNorm, norm_layer
from dljax.nn.ode import ODEBlock, ODEConfig, ODESolution, solve_ode
from dljax.nn.pooling import adaptive_avg_pool, adaptive_max_pool, avg_pool, global_avg_pool, global_max_pool, max_pool
from dljax.nn.positions import RelativeBias, Rotary, alibi, alibi_slopes, relative_bucket, sinusoidal_positions
from dljax.nn.product import row_product
from dljax.nn.recurrent import RNN, gru, lstm
from dljax.nn.relative_attention import RelativeAttention, SegmentMemory, relative_shift
from dljax.nn.separable import DepthwiseConv, SeparableConv
from dljax.nn.seq_attention import SequenceAttention, additive_scores, multiplicative_scores
from dljax.nn.spectral_norm import power_iteration, spectral_norm
from dljax.nn.style import ModulatedConv, adaptive_instance_norm, doubled, fade_in, modulated_convolution, pixel_norm
from dljax.nn.toeplitz import toeplitz
from dljax.nn.transformer import Attention, FeedForward, Transformer, TransformerLayer
from dljax.nn.transformer_config import TransformerConfig
from dljax.nn.vector_quantiser import Codebook, moved_codebook, nearest_code, quantised, started_codebook

__all__ = [
    "ACTIVATIONS", "EXPERT_SHARDING", "RNN", "Activation", "AffineLayer", "Attention", "AttentionPooling", "BackwardPass", "BatchNorm",
    "ChebyshevConvolution", "Codebook", "ComputationGraph", "Conditional", "Conv", "ConvTranspose", "Dense", "DenseGeneral", "DepthwiseConv",
    "DifferentiationCost", "DropConnectDense", "EdgeNetworkConvolution", "FeedForward", "FixupBranch", "ForwardPass", "GINConvolution",
    "GatedGraphConvolution", "GraphAttention", "GraphAttentionV2", "GraphConvolution", "GraphDotProductAttention", "GraphHead", "KeyValueCache",
    "LinearAttention", "LinearAttentionCache", "LinearAttentionState", "MaximisationConfig", "MinibatchDeviation", "MinibatchDiscrimination",
    "MixtureOfExperts", "Model", "ModulatedConv", "MultiHeadAttention", "MultiHeadDotProductAttention", "NodeDense", "NodeDropout", "Noise",
    "ODEBlock", "ODEConfig", "ODESolution", "PReLU", "Propagation", "RelativeAttention", "RelativeBias", "Rotary", "Routes", "SAGEConvolution",
    "SegmentMemory", "SelfAttention", "SeparableConv", "SequenceAttention", "Set2Set", "SparseRows", "Spectrum", "Transformer", "TransformerConfig",
    "TransformerLayer", "activation_maximisation", "adaptive_avg_pool", "adaptive_instance_norm", "adaptive_max_pool", "additive_noise",
    "additive_scores", "adjacency_matrix", "alibi", "alibi_slopes", "as_model", "attention", "attention_reading", "attention_scores",
    "attention_weights", "avg_pool", "backpropagate", "balance_loss", "causal_linear_attention", "causal_mask", "chebyshev_sum", "components",
    "computation_graph", "conv_transpose", "convolution", "degrees", "differentiation_cost", "doubled", "drop_connect", "dropout", "elman",
    "elu_features", "fade_in", "filter_pictures", "fixup", "forward_pass", "fully_connected", "gain", "gated_update", "gaussian", "gaussian_dropout",
    "global_avg_pool", "global_max_pool", "grad_cam", "gradient_norms", "graph_from_edges", "graph_from_matrix", "graph_from_networkx",
    "graph_to_networkx", "graph_to_scipy", "gru", "hard_shrink", "identity", "initialisers", "initializers", "integrated_gradients", "laplacian",
    "laplacian_spectrum", "layer_output", "layer_shapes", "linear_attention", "linear_attention_weights", "lstm", "lsuv", "masked_softmax",
    "max_pool", "maxout", "mc_dropout", "mish", "modulated_convolution", "moved_codebook", "multiplicative_noise", "multiplicative_scores",
    "nearest_code", "neighbour_sum", "norm_layer", "occlusion", "overlay", "pagerank", "pass_messages", "patches", "pixel_norm", "pool_nodes",
    "power_iteration", "quantised", "relative_bucket", "relative_shift", "route", "router_z_loss", "row_product", "saliency", "segment_reduce",
    "segment_softmax", "shortest_paths", "signal_propagation", "single_graph", "sinusoidal_positions", "smooth_grad", "soft_shrink", "solve_ode",
    "sparse_plus", "sparse_rows", "sparse_sigmoid", "sparsemax", "spatial_dropout", "spectral_norm", "squared_relu", "squareplus", "started_codebook",
    "stationary_distribution", "step", "stochastic_depth", "tanh_shrink", "toeplitz", "transition_matrix", "unit_pixels", "unit_rows",
    "variational_dropout", "weisfeiler_lehman",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    try:
        return getattr(linen, name)
    except AttributeError:
        raise AttributeError(f"neither {__name__} nor flax.linen has an attribute {name!r}") from None
