"""Generative models: adversarial nets, normalizing flows, variational autoencoders."""

from dljax.generative.bijectors import Bijector, chain, inverted, repeat
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
from dljax.generative.autoregressive_flows import autoregressive_categorical, inverse_autoregressive, masked_autoregressive
from dljax.generative.densities import Density, categorical, discretised_logistic, maximum_likelihood, standard_normal
from dljax.generative.elementary_flows import act_norm, from_distrax, logit, planar, radial
from dljax.generative.flows import flow, pushforward
from dljax.generative.gan import gan
from dljax.generative.splines import rational_quadratic_spline
from dljax.generative.vae import standard_normal_kl, vae
