"""Generative models: adversarial nets, normalizing flows, variational autoencoders."""

from dljax.generative.flows import Bijector, act_norm, chain, flow, repeat, spline_coupling
from dljax.generative.games import Game, duality_gap
from dljax.generative.gan import GANState, gan
from dljax.generative.remedies import Remedy, consensus, extragradient, instance_noise, pack, packing, simultaneous, unrolled
from dljax.generative.vae import standard_normal_kl, vae

__all__ = [
    "Bijector", "GANState", "Game", "Remedy", "act_norm", "chain", "consensus", "duality_gap", "extragradient", "flow", "gan", "instance_noise",
    "pack", "packing", "repeat", "simultaneous", "spline_coupling", "standard_normal_kl", "unrolled", "vae",
]  # fmt: skip
