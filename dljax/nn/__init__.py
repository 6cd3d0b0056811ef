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
    FusedSelfAttention,
    MultiHeadAttention,
    MultiHeadDotProductAttention,
    SelfAttention,
    attention,
    attention_weights,
    causal_mask,
)
from dljax.nn.attribution import grad_cam, integrated_gradients, layer_output, layer_shapes, occlusion, overlay, saliency, smooth_grad
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
from dljax.nn.feature_visualisation import MaximisationConfig, activation_maximisation, filter_pictures
from dljax.nn.graph import GraphConvolution, SparseRows, neighbour_sum, single_graph, sparse_rows
from dljax.nn.initialisers import FixupBranch, Propagation, fixup, gain, lsuv, signal_propagation
from dljax.nn.model import Model, as_model
from dljax.nn.normalisation import BatchNorm
from dljax.nn.ode import ODEBlock, ODEConfig, ODESolution, solve_ode
from dljax.nn.pooling import avg_pool, max_pool
from dljax.nn.product import row_product
from dljax.nn.recurrent import RNN, gru, lstm

__all__ = [
    "ACTIVATIONS", "RNN", "Activation", "AffineLayer", "BackwardPass", "BatchNorm", "ComputationGraph", "Conv", "ConvTranspose", "Dense",
    "DenseGeneral", "DifferentiationCost", "DropConnectDense", "FixupBranch", "ForwardPass", "FusedSelfAttention", "GraphConvolution",
    "MaximisationConfig", "Model", "MultiHeadAttention", "MultiHeadDotProductAttention", "Noise", "ODEBlock", "ODEConfig", "ODESolution", "PReLU",
    "Propagation", "SelfAttention", "SparseRows", "activation_maximisation", "additive_noise", "as_model", "attention", "attention_weights",
    "avg_pool", "backpropagate", "causal_mask", "computation_graph", "conv_transpose", "convolution", "differentiation_cost", "drop_connect",
    "dropout", "filter_pictures", "fixup", "forward_pass", "fully_connected", "gain", "gaussian", "gaussian_dropout", "grad_cam", "gru",
    "hard_shrink", "identity", "initialisers", "initializers", "integrated_gradients", "layer_output", "layer_shapes", "lstm", "lsuv", "max_pool",
    "maxout", "mc_dropout", "mish", "multiplicative_noise", "neighbour_sum", "occlusion", "overlay", "patches", "row_product", "saliency",
    "signal_propagation", "single_graph", "smooth_grad", "soft_shrink", "solve_ode", "sparse_plus", "sparse_rows", "sparse_sigmoid", "sparsemax",
    "spatial_dropout", "squared_relu", "squareplus", "step", "stochastic_depth", "tanh_shrink", "unit_pixels", "variational_dropout",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    try:
        return getattr(linen, name)
    except AttributeError:
        raise AttributeError(f"neither {__name__} nor flax.linen has an attribute {name!r}") from None
