"""Codes in several layers, each drawn given the one above: the ladder variational autoencoder (Sønderby et al., 2016)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.core.contract import Key, Params
from dljax.generative.distribution import Distribution
from dljax.generative.latents import Codes, Latent, LearnedLatent, Raw
from dljax.nn.model import as_model, stateless_params

type_aliases = ("Layer",)

Layer = Float[Array, "*B Z"]


class _Normal(NamedTuple):
    mean: Layer
    log_scale: Layer


def hierarchical_latent(sizes: Sequence[int], networks: Sequence[Any]) -> LearnedLatent:
    """Layers of normal codes whose prior is learned from the top down, and posteriors that correct it with what the encoder saw.

      p(z) = N(z_L; 0, I) Π_{l<L} N(z_l; network_l(z_{l+1})),   q(z|x) = q(z_L|x) Π_{l<L} q(z_l | z_{l+1}, x)
      q(z_L|x) = N(μ̂_L, σ̂_L²),   q(z_l | z_{l+1}, x) ∝ N(z_l; μ̂_l, σ̂_l²) p(z_l | z_{l+1}),   (μ̂, log σ̂) = raw

    Codes are (z_1 ... z_L) side by side, z_1 nearest to the data; the decoder sees them all. The divergence of each layer is in closed form, at a
    code of the layers above.

    Args:
      sizes: Z_1 ... Z_L, each >= 1, the sizes of the layers from the data upwards.
      networks: L - 1 models from z_{l+1} [B, Z_{l+1}] to [B, 2 Z_l], mean and then log deviation; whatever `dljax.nn.as_model` takes, without running
        statistics.
    Returns:
      A latent of Z = Σ Z_l and R = 2 Z numbers, first all μ̂ and then all log σ̂, in the order of the layers. Its parameters are means and log
      deviations, each layer given the means of those above.
    Raises:
      ValueError: a size < 1, another number of networks than L - 1; when the parameters are made: a network whose outputs have another shape.
    Source: Sønderby, Raiko, Maaløe, Sønderby and Winther (2016), Ladder Variational Autoencoders, eq. 8-9 and 17-19, its bottom-up part being the
      encoder.

    >>> from dljax.models.mlp import MLP
    >>> learned = hierarchical_latent((3, 2), [MLP(6, (8,))])
    >>> latent = learned.at(learned.init(jax.random.key(0)))
    >>> latent.prior.sample(jax.random.key(1), 4).shape, learned.raw_size
    ((4, 5), 10)
    """
    sizes = tuple(check_int("hierarchical_latent", "sizes", size, minimum=1) for size in sizes)
    if len(networks) != len(sizes) - 1:
        raise ValueError(f"hierarchical_latent: {len(sizes)} sizes need {len(sizes) - 1} networks between them, got {len(networks)}")
    models = [as_model(network) for network in networks]
    ends = [sum(sizes[: layer + 1]) for layer in range(len(sizes))]
    total = ends[-1]

    def init(key: Key) -> Params:
        params, who = [], "hierarchical_latent"
        for layer, (model, layer_key) in enumerate(zip(models, jax.random.split(key, max(len(models), 1)), strict=False)):
            above = jnp.zeros((1, sizes[layer + 1]))
            params.append(stateless_params(who, f"network {layer}", model, layer_key, above, shape=(1, 2 * sizes[layer])))
        return params

    def layers(flat: Float[Array, "*B Z"]) -> list[Layer]:
        return jnp.split(flat, ends[:-1], -1)

    def prior_of(params: Params, layer: int, above: Layer) -> _Normal:
        flat = above.reshape(-1, above.shape[-1])
        outputs, _ = models[layer].apply({"params": params[layer]}, flat)
        return _Normal(*jnp.split(outputs.reshape(*above.shape[:-1], -1), 2, -1))

    def at(params: Params) -> Latent:
        def posterior(seen: _Normal, layer: int, above: Layer | None) -> tuple[_Normal, _Normal]:
            """Posterior and prior of a layer, given the code of the one above."""
            if above is None:
                return seen, _Normal(jnp.zeros_like(seen.mean), jnp.zeros_like(seen.mean))
            prior = prior_of(params, layer, above)
            return _product(seen, prior), prior

        def evidence(raw: Raw) -> list[_Normal]:
            return [_Normal(*pair) for pair in zip(*map(layers, jnp.split(raw, 2, -1)), strict=True)]

        def normals(raw: Raw, codes: list[Layer]) -> list[tuple[_Normal, _Normal]]:
            return [posterior(seen, layer, above) for layer, (seen, above) in enumerate(zip(evidence(raw), [*codes[1:], None], strict=True))]

        def descend(raw: Raw, draw: Callable[[int, _Normal], Layer]) -> tuple[list[_Normal], list[Layer]]:
            found: list[_Normal] = []
            codes: list[Layer] = []
            for layer, seen in reversed(list(enumerate(evidence(raw)))):
                normal, _ = posterior(seen, layer, codes[0] if codes else None)
                found.insert(0, normal)
                codes.insert(0, draw(layer, normal))
            return found, codes

        def sample(key: Key, raw: Raw) -> Codes:
            keys = jax.random.split(key, len(sizes))
            return jnp.concatenate(descend(raw, lambda layer, normal: _draw(keys[layer], normal))[1], -1)

        def parameters(raw: Raw) -> tuple[Array, Array]:
            found, _ = descend(raw, lambda layer, normal: normal.mean)
            return jnp.concatenate([normal.mean for normal in found], -1), jnp.concatenate([normal.log_scale for normal in found], -1)

        def log_prob(raw: Raw, codes: Codes) -> Float[Array, " B"]:
            parts = layers(codes)
            return jnp.stack([_log_prob(q, z) for (q, _), z in zip(normals(raw, parts), parts, strict=True)]).sum(0)

        def kl(raw: Raw, codes: Codes) -> Float[Array, " B"]:
            return jnp.stack([_kl(q, p) for q, p in normals(raw, layers(codes))]).sum(0)

        def prior_sample(key: Key, num: int) -> Codes:
            keys = jax.random.split(key, len(sizes))
            codes = [jax.random.normal(keys[-1], (num, sizes[-1]))]
            for layer in reversed(range(len(sizes) - 1)):
                codes.insert(0, _draw(keys[layer], prior_of(params, layer, codes[0])))
            return jnp.concatenate(codes, -1)

        def prior_log_prob(codes: Float[Array, "*N Z"]) -> Float[Array, "*N"]:
            parts = layers(codes)
            below = [_log_prob(prior_of(params, layer, parts[layer + 1]), parts[layer]) for layer in range(len(sizes) - 1)]
            return sum(below, norm.logpdf(parts[-1]).sum(-1))

        return Latent(total, 2 * total, Distribution(prior_sample, prior_log_prob), parameters, sample, log_prob, kl)

    return LearnedLatent(total, 2 * total, init, at)


def _product(one: _Normal, other: _Normal) -> _Normal:
    """The normal whose density is proportional to the product: precisions add up."""
    log_precision = jnp.logaddexp(-2 * one.log_scale, -2 * other.log_scale)
    share = jnp.exp(-2 * one.log_scale - log_precision)
    return _Normal(share * one.mean + (1 - share) * other.mean, -0.5 * log_precision)


def _draw(key: Key, normal: _Normal) -> Layer:
    return normal.mean + jnp.exp(normal.log_scale) * jax.random.normal(key, normal.mean.shape, normal.mean.dtype)


def _log_prob(normal: _Normal, z: Layer) -> Float[Array, "*B"]:
    return norm.logpdf(z, normal.mean, jnp.exp(normal.log_scale)).sum(-1)


def _kl(q: _Normal, p: _Normal) -> Float[Array, "*B"]:
    difference = q.log_scale - p.log_scale
    return (0.5 * (jnp.exp(2 * difference) + jnp.square((q.mean - p.mean) * jnp.exp(-p.log_scale)) - 1) - difference).sum(-1)
