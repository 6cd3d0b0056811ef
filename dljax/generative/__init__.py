"""Generative models: adversarial nets, normalizing flows, variational autoencoders; distributions and flows on manifolds."""

from dljax.generative.bessel import BesselTerms, bessel_terms, log_bessel
from dljax.generative.distribution import Distribution, standard_normal
from dljax.generative.flows import Bijector, act_norm, chain, flow, repeat, spline_coupling
from dljax.generative.games import Game, duality_gap
from dljax.generative.gan import GANState, gan
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
from dljax.generative.latents import Latent, hyperbolic_latent, normal_latent, power_spherical_latent, standard_normal_kl, von_mises_fisher_latent
from dljax.generative.manifold_flows import Manifold, continuous_flow, divergence, moser_flow, sphere, torus
from dljax.generative.manifold_splines import circle_spline, inverse_circle_spline, sphere_spline_coupling, torus_spline_coupling
from dljax.generative.power_spherical import (
    power_spherical,
    power_spherical_kl_uniform,
    power_spherical_kl_von_mises_fisher,
    power_spherical_mean_resultant_length,
)
from dljax.generative.remedies import Remedy, consensus, extragradient, instance_noise, pack, packing, simultaneous, unrolled
from dljax.generative.sphere import around, log_sphere_area, uniform_sphere, unit
from dljax.generative.torus import uniform_torus, von_mises, wrap_angle, wrapped_normal
from dljax.generative.vae import vae
from dljax.generative.von_mises_fisher import mean_resultant_length, von_mises_fisher, von_mises_fisher_angle, von_mises_fisher_kl_uniform
from dljax.generative.von_mises_fisher_mixture import fitted_concentration, von_mises_fisher_mixture

__all__ = [
    "BesselTerms", "Bijector", "Distribution", "GANState", "Game", "Latent", "Manifold", "Remedy", "act_norm", "around", "ball_log_volume",
    "ball_to_hyperboloid", "bessel_terms", "chain", "circle_spline", "consensus", "continuous_flow", "divergence", "duality_gap", "extragradient",
    "fitted_concentration", "flow", "gan", "hyperbolic_distance", "hyperbolic_latent", "hyperbolic_normal", "hyperboloid_exp", "hyperboloid_log",
    "hyperboloid_point", "hyperboloid_to_ball", "hyperboloid_transport", "instance_noise", "inverse_circle_spline", "log_bessel", "log_sphere_area",
    "lorentz_product", "mean_resultant_length", "mobius_add", "moser_flow", "normal_latent", "origin_exp", "origin_log", "pack", "packing",
    "power_spherical", "power_spherical_kl_uniform", "power_spherical_kl_von_mises_fisher", "power_spherical_latent",
    "power_spherical_mean_resultant_length", "repeat", "simultaneous", "sphere", "sphere_spline_coupling", "spline_coupling", "standard_normal",
    "standard_normal_kl", "torus", "torus_spline_coupling", "uniform_sphere", "uniform_torus", "unit", "unrolled", "vae", "von_mises",
    "von_mises_fisher", "von_mises_fisher_angle", "von_mises_fisher_kl_uniform", "von_mises_fisher_latent", "von_mises_fisher_mixture", "wrap_angle",
    "wrapped_normal",
]  # fmt: skip
