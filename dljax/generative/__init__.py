"""Generative models: adversarial nets, normalizing flows, variational autoencoders."""

from dljax.generative.flows import Bijector, act_norm, chain, flow, repeat, spline_coupling
from dljax.generative.gan import gan
from dljax.generative.vae import standard_normal_kl, vae

__all__ = ["Bijector", "act_norm", "chain", "flow", "gan", "repeat", "spline_coupling", "standard_normal_kl", "vae"]
