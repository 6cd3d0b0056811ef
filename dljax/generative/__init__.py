"""Generative models: adversarial nets, normalizing flows, variational autoencoders."""

from dljax.generative.autoregressive_flows import autoregressive_categorical, inverse_autoregressive, masked_autoregressive
from dljax.generative.bijectors import Bijector, chain, inverted, repeat
from dljax.generative.continuous_flows import continuous
from dljax.generative.couplings import (
    ElementMap,
    additive,
    additive_coupling,
    affine,
    affine_coupling,
    convolutional_network,
    coupling,
    dense_network,
    spline,
    spline_coupling,
)
from dljax.generative.densities import Density, categorical, discretised_logistic, maximum_likelihood, standard_normal
from dljax.generative.dequantisation import dequantise
from dljax.generative.discrete_flows import discrete_autoregressive, discrete_coupling, integer_shift, one_hot
from dljax.generative.elementary_flows import act_norm, from_distrax, logit, planar, radial
from dljax.generative.flows import flow, pushforward
from dljax.generative.gan import gan
from dljax.generative.image_flows import glow, invertible_convolution, on_half, squeezed
from dljax.generative.residual_flows import lip_swish, log_det_estimate, residual, spectral_norm_bound
from dljax.generative.splines import rational_quadratic_spline
from dljax.generative.vae import standard_normal_kl, vae

__all__ = [
    "Bijector", "Density", "ElementMap", "act_norm", "additive", "additive_coupling", "affine", "affine_coupling", "autoregressive_categorical",
    "categorical", "chain", "continuous", "convolutional_network", "coupling", "dense_network", "dequantise", "discrete_autoregressive",
    "discrete_coupling", "discretised_logistic", "flow", "from_distrax", "gan", "glow", "integer_shift", "inverse_autoregressive", "inverted",
    "invertible_convolution", "lip_swish", "log_det_estimate", "logit", "masked_autoregressive", "maximum_likelihood", "on_half", "one_hot",
    "planar", "pushforward", "radial", "rational_quadratic_spline", "repeat", "residual", "spectral_norm_bound", "spline", "spline_coupling",
    "squeezed", "standard_normal", "standard_normal_kl", "vae",
]  # fmt: skip
