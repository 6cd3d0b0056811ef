"""Generative models: adversarial nets, normalizing flows, variational autoencoders, variational inference."""

from dljax.generative.bounds import Divergence, chi, forward_kl, importance_weighted, renyi, reverse_kl
from dljax.generative.constrain import Constrained, constrain, interval, ordered, positive, simplex
from dljax.generative.coordinate_ascent import coordinate_ascent, normal_mixture, normal_sample
from dljax.generative.estimators import Estimator, doubly_reparameterised, rao_blackwellised, reparameterised, score_function, sticking_the_landing
from dljax.generative.factors import bernoulli_guide, beta_guide, categorical_guide, gamma_guide, implicitly_reparameterised, von_mises_guide
from dljax.generative.flows import Bijector, act_norm, chain, flow, repeat, spline_coupling
from dljax.generative.gan import gan
from dljax.generative.guides import Guide, flow_guide, full_rank_guide, low_rank_guide, mean_field_guide
from dljax.generative.importance import ParetoSmoothed, effective_sample_size, pareto_smoothed
from dljax.generative.vae import standard_normal_kl, vae
from dljax.generative.variational import GradientVariance, gradient_variance, minibatched, vi

__all__ = [
    "Bijector",
    "Constrained",
    "Divergence",
    "Estimator",
    "GradientVariance",
    "Guide",
    "ParetoSmoothed",
    "act_norm",
    "bernoulli_guide",
    "beta_guide",
    "categorical_guide",
    "chain",
    "chi",
    "constrain",
    "coordinate_ascent",
    "doubly_reparameterised",
    "effective_sample_size",
    "flow",
    "flow_guide",
    "forward_kl",
    "full_rank_guide",
    "gamma_guide",
    "gan",
    "gradient_variance",
    "implicitly_reparameterised",
    "importance_weighted",
    "interval",
    "low_rank_guide",
    "mean_field_guide",
    "minibatched",
    "normal_mixture",
    "normal_sample",
    "ordered",
    "pareto_smoothed",
    "positive",
    "rao_blackwellised",
    "renyi",
    "reparameterised",
    "repeat",
    "reverse_kl",
    "score_function",
    "simplex",
    "spline_coupling",
    "standard_normal_kl",
    "sticking_the_landing",
    "vae",
    "vi",
    "von_mises_guide",
]
