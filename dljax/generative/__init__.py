"""Generative models: adversarial nets, normalizing flows, variational autoencoders, diffusion; distributions and flows on manifolds."""

from dljax.generative.autoregressive_flows import autoregressive_categorical, inverse_autoregressive, masked_autoregressive
from dljax.generative.bessel import BesselTerms, bessel_terms, log_bessel
from dljax.generative.bigan import BiGANState, bigan
from dljax.generative.bijectors import Bijector, chain, inverted, repeat
from dljax.generative.bounds import Divergence, chi, forward_kl, importance_weighted, renyi, reverse_kl
from dljax.generative.constrain import Constrained, constrain, interval, ordered, positive, simplex
from dljax.generative.continuous_flows import continuous
from dljax.generative.coordinate_ascent import coordinate_ascent, normal_mixture, normal_sample
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
from dljax.generative.cycle_gan import CycleGANState, cycle_gan
from dljax.generative.densities import Density, categorical, discretised_logistic, fixed, maximum_likelihood
from dljax.generative.dequantisation import dequantise
from dljax.generative.diffusion import Denoised, denoised, diffusion, diffusion_samples
from dljax.generative.discrete_flows import discrete_autoregressive, discrete_coupling, integer_shift, one_hot
from dljax.generative.discrete_latents import categorical_latent, gumbel_softmax
from dljax.generative.distribution import Distribution, standard_normal
from dljax.generative.elementary_flows import act_norm, from_distrax, logit, planar, radial
from dljax.generative.estimators import Estimator, doubly_reparameterised, rao_blackwellised, reparameterised, score_function, sticking_the_landing
from dljax.generative.factors import bernoulli_guide, beta_guide, categorical_guide, gamma_guide, implicitly_reparameterised, von_mises_guide
from dljax.generative.flows import flow, pushforward
from dljax.generative.games import Game, duality_gap
from dljax.generative.gan import GANState, gan
from dljax.generative.guides import Guide, flow_guide, full_rank_guide, low_rank_guide, mean_field_guide
from dljax.generative.hierarchical_latent import hierarchical_latent
from dljax.generative.hyperbolic import (
    ball_log_volume,
    ball_to_hyperboloid,
    hyperbolic_distance,
    hyperbolic_normal,
    hyperboloid_exp,
    hyperboloid_log,
    hyperboloid_point,
    hyperboloid_to_ball,
    hyperboloid_transport,
    lorentz_product,
    mobius_add,
    origin_exp,
    origin_log,
)
from dljax.generative.image_flows import glow, invertible_convolution, on_half, squeezed
from dljax.generative.importance import ParetoSmoothed, effective_sample_size, pareto_smoothed
from dljax.generative.latents import (
    Latent,
    LearnedLatent,
    hyperbolic_latent,
    normal_latent,
    power_spherical_latent,
    standard_normal_kl,
    von_mises_fisher_latent,
)
from dljax.generative.likelihoods import Likelihood, bernoulli_likelihood, normal_likelihood
from dljax.generative.manifold_flows import Manifold, continuous_flow, divergence, moser_flow, sphere, torus
from dljax.generative.manifold_splines import circle_spline, inverse_circle_spline, sphere_spline_coupling, torus_spline_coupling
from dljax.generative.noise_schedules import NoiseSchedule, cosine_schedule, linear_schedule, reverse_step
from dljax.generative.power_spherical import (
    power_spherical,
    power_spherical_kl_uniform,
    power_spherical_kl_von_mises_fisher,
    power_spherical_mean_resultant_length,
)
from dljax.generative.remedies import Remedy, consensus, extragradient, instance_noise, pack, packing, simultaneous, unrolled
from dljax.generative.residual_flows import lip_swish, log_det_estimate, residual, spectral_norm_bound
from dljax.generative.sphere import around, log_sphere_area, uniform_sphere, unit
from dljax.generative.splines import rational_quadratic_spline
from dljax.generative.terms import (
    Code,
    Round,
    Term,
    auxiliary_classification,
    categorical_code,
    coded,
    feature_matching,
    mutual_information,
    normal_code,
    reconstruction,
)
from dljax.generative.torus import uniform_torus, von_mises, wrap_angle, wrapped_normal
from dljax.generative.vae import vae
from dljax.generative.variational import GradientVariance, gradient_variance, minibatched, vi
from dljax.generative.von_mises_fisher import mean_resultant_length, von_mises_fisher, von_mises_fisher_angle, von_mises_fisher_kl_uniform
from dljax.generative.von_mises_fisher_mixture import fitted_concentration, von_mises_fisher_mixture
from dljax.generative.vq_vae import vq_vae

__all__ = [
    "BesselTerms", "BiGANState", "Bijector", "Code", "Constrained", "CycleGANState", "Denoised", "Density", "Distribution", "Divergence",
    "ElementMap", "Estimator", "GANState", "Game", "GradientVariance", "Guide", "Latent", "LearnedLatent", "Likelihood", "Manifold", "NoiseSchedule",
    "ParetoSmoothed", "Remedy", "Round", "Term", "act_norm", "additive", "additive_coupling", "affine", "affine_coupling", "around",
    "autoregressive_categorical", "auxiliary_classification", "ball_log_volume", "ball_to_hyperboloid", "bernoulli_guide", "bernoulli_likelihood",
    "bessel_terms", "beta_guide", "bigan", "categorical", "categorical_code", "categorical_guide", "categorical_latent", "chain", "chi",
    "circle_spline", "coded", "consensus", "constrain", "continuous", "continuous_flow", "convolutional_network", "coordinate_ascent",
    "cosine_schedule", "coupling", "cycle_gan", "denoised", "dense_network", "dequantise", "diffusion", "diffusion_samples",
    "discrete_autoregressive", "discrete_coupling", "discretised_logistic", "divergence", "doubly_reparameterised", "duality_gap",
    "effective_sample_size", "extragradient", "feature_matching", "fitted_concentration", "fixed", "flow", "flow_guide", "forward_kl", "from_distrax",
    "full_rank_guide", "gamma_guide", "gan", "glow", "gradient_variance", "gumbel_softmax", "hierarchical_latent", "hyperbolic_distance",
    "hyperbolic_latent", "hyperbolic_normal", "hyperboloid_exp", "hyperboloid_log", "hyperboloid_point", "hyperboloid_to_ball",
    "hyperboloid_transport", "implicitly_reparameterised", "importance_weighted", "instance_noise", "integer_shift", "interval",
    "inverse_autoregressive", "inverse_circle_spline", "inverted", "invertible_convolution", "linear_schedule", "lip_swish", "log_bessel",
    "log_det_estimate", "log_sphere_area", "logit", "lorentz_product", "low_rank_guide", "masked_autoregressive", "maximum_likelihood",
    "mean_field_guide", "mean_resultant_length", "minibatched", "mobius_add", "moser_flow", "mutual_information", "normal_code", "normal_latent",
    "normal_likelihood", "normal_mixture", "normal_sample", "on_half", "one_hot", "ordered", "origin_exp", "origin_log", "pack", "packing",
    "pareto_smoothed", "planar", "positive", "power_spherical", "power_spherical_kl_uniform", "power_spherical_kl_von_mises_fisher",
    "power_spherical_latent", "power_spherical_mean_resultant_length", "pushforward", "radial", "rao_blackwellised", "rational_quadratic_spline",
    "reconstruction", "renyi", "reparameterised", "repeat", "residual", "reverse_kl", "reverse_step", "score_function", "simplex", "simultaneous",
    "spectral_norm_bound", "sphere", "sphere_spline_coupling", "spline", "spline_coupling", "squeezed", "standard_normal", "standard_normal_kl",
    "sticking_the_landing", "torus", "torus_spline_coupling", "uniform_sphere", "uniform_torus", "unit", "unrolled", "vae", "vi", "von_mises",
    "von_mises_fisher", "von_mises_fisher_angle", "von_mises_fisher_kl_uniform", "von_mises_fisher_latent", "von_mises_fisher_mixture",
    "von_mises_guide", "vq_vae", "wrap_angle", "wrapped_normal",
]  # fmt: skip
