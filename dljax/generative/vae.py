"""Variational autoencoders of binary data: a latent-variable model and its approximate posterior, trained together (Kingma and Welling, 2014)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dljax.core.axis import local_key, pmean
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Fold, Key, Learner, Mean, Metrics, Numeric, Params
from dljax.generative.latents import Latent, normal_latent
from dljax.nn.model import Model, as_model
from dljax.objectives.losses import sigmoid_binary_cross_entropy


class VAEState(NamedTuple):
    """Parameters of the encoder and the decoder, and the state of their optimiser."""

    params: Params
    opt_state: optax.OptState


def vae(
    encoder: Any,
    decoder: Any,
    optimizer: optax.GradientTransformation,
    *,
    latent_size: int | None = None,
    latent: Latent | None = None,
    beta: Numeric = 1.0,
) -> Learner:
    """Maximise a lower bound of the evidence of binary data, with one reparameterised sample of the posterior.

      ELBO(x) = E_q(z|x) log p(x|z) - KL(q(z|x) || p(z)) <= log p(x)
      p(x|z) = Π_i Bernoulli(x_i; sigmoid(decoder(z)_i));   by default p(z) = N(0, I),   q(z|x) = N(μ, diag σ²),   (μ, log σ) = encoder(x)

    Args:
      encoder: examples [B, ...] to [B, R], by default R = 2 Z, μ and then log σ; whatever `dljax.nn.as_model` takes. Dropout is welcome, running
        statistics not.
      decoder: latents [B, Z] to logits [B, ...]; likewise.
      optimizer: of the mean of -E_q log p(x|z) + β KL.
      latent_size: Z >= 1, short for `latent=normal_latent(Z)`.
      latent: the space of codes, with its prior p(z) and its posteriors q(z|x): `von_mises_fisher_latent(3)`, `hyperbolic_latent(2)` ...
      beta: β >= 0, 1 for the ELBO itself (Higgins et al., 2017); may be traced.
    Returns:
      A learner on batches `{"x": [B, ...]}` with values in [0, 1]. Metrics of steps and of evaluation are `negative_elbo` and its parts
      `reconstruction` and `kl`, nats per example. Its functions are `encode(key, params, x) -> latent.parameters` (by default μ [B, Z] and
      log σ [B, Z]), `decode(key, params, z) -> probabilities [B, ...]`, `sample(key, params, num) -> probabilities [num, ...]` and
      `log_evidence(key, params, x, num) -> [B]`, the bound of `num` importance samples: the ELBO for one, log p(x) for many.
    Raises:
      ValueError: an option out of its range; both or neither of `latent_size` and `latent`; when the first batch comes: outputs of another shape, a
        model with running statistics.
    Source: Kingma and Welling (2014), Auto-Encoding Variational Bayes, eq. 10; Burda, Grosse and Salakhutdinov (2016), IWAE, eq. 8.

    >>> from flax import linen
    >>> learner = vae(linen.Dense(4), linen.Dense(6), optax.adam(1e-3), latent_size=2)
    >>> batch = {"x": jnp.ones((8, 6))}
    >>> state = learner.init(jax.random.key(0), batch)
    >>> state, metrics = learner.step(jax.random.key(1), state, batch)
    >>> sorted(metrics)
    ['kl', 'negative_elbo', 'reconstruction']
    >>> learner.functions["sample"](jax.random.key(2), learner.params(state), 3).shape
    (3, 6)
    """
    if (latent is None) == (latent_size is None):
        raise ValueError("vae: needs either latent_size or latent, got both or neither; latent_size=Z is short for latent=normal_latent(Z)")
    if latent is None:
        latent = normal_latent(check_int("vae", "latent_size", latent_size, minimum=1))
    space = latent
    check_range("vae", "beta", beta, 0)
    models = {"encoder": as_model(encoder), "decoder": as_model(decoder)}

    def run(name: str, params: Params, x: Array, key: Key | None = None) -> Array:
        return models[name].apply({"params": params[name]}, x, key=key, train=key is not None)[0]

    def init(key: Key, batch: Batch) -> VAEState:
        encoder_key, decoder_key = jax.random.split(key)
        x = batch["x"]
        params = {
            "encoder": _params("encoder", models["encoder"], encoder_key, x, (len(x), space.raw_size)),
            "decoder": _params("decoder", models["decoder"], decoder_key, jnp.zeros((len(x), space.size)), x.shape),
        }
        return VAEState(params, optimizer.init(params))

    def bound(key: Key, params: Params, x: Float[Array, "B ..."], train: bool) -> dict[str, Float[Array, " B"]]:
        noise_key, *keys = jax.random.split(key, 3)
        encoder_key, decoder_key = keys if train else (None, None)
        raw = run("encoder", params, x, encoder_key)
        z = space.sample(noise_key, raw)
        reconstruction = _per_example(sigmoid_binary_cross_entropy(run("decoder", params, z, decoder_key), x))
        kl = space.kl(raw, z)
        return {"negative_elbo": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}

    def step(key: Key, state: VAEState, batch: Batch) -> tuple[VAEState, Metrics]:
        def objective(params: Params) -> tuple[Float[Array, ""], Metrics]:
            parts = jax.tree.map(jnp.mean, bound(local_key(key), params, batch["x"], train=True))
            return parts["reconstruction"] + beta * parts["kl"], parts

        grads, metrics = jax.grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(pmean(grads), state.opt_state, state.params)
        return VAEState(optax.apply_updates(state.params, updates), opt_state), metrics

    def fold_init(key: Key, state: VAEState) -> tuple[Key, dict[str, Mean]]:
        return key, {name: Mean(jnp.zeros(()), jnp.zeros(())) for name in ("negative_elbo", "reconstruction", "kl")}

    def fold_step(acc: tuple[Key, dict[str, Mean]], state: VAEState, batch: Batch) -> tuple[Key, dict[str, Mean]]:
        (key, noise_key), means = jax.random.split(acc[0]), acc[1]
        mask = batch.get("mask", jnp.ones(len(batch["x"])))
        parts = bound(noise_key, state.params, batch["x"], train=False)
        return key, {name: Mean(mean.total + (mask * parts[name]).sum(), mean.weight + mask.sum()) for name, mean in means.items()}

    def encode(key: Key, params: Params, x: Float[Array, "B ..."]) -> tuple[Array, Array]:
        return space.parameters(run("encoder", params, x))

    def decode(key: Key, params: Params, z: Float[Array, "B Z"]) -> Float[Array, "B ..."]:
        return jax.nn.sigmoid(run("decoder", params, z))

    def sample(key: Key, params: Params, num: int) -> Float[Array, "N ..."]:
        return decode(key, params, space.prior.sample(key, num))

    def log_evidence(key: Key, params: Params, x: Float[Array, "B ..."], num: int) -> Float[Array, " B"]:
        raw = run("encoder", params, x)

        def log_weight(key: Key) -> Float[Array, " B"]:
            z = space.sample(key, raw)
            log_likelihood = -_per_example(sigmoid_binary_cross_entropy(run("decoder", params, z), x))
            return space.prior.log_prob(z) + log_likelihood - space.log_prob(raw, z)

        log_weights = jax.lax.map(log_weight, jax.random.split(key, num))
        return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(num)

    return Learner(
        init,
        step,
        evaluate=Fold(fold_init, fold_step, lambda acc: acc[1]),
        functions={"encode": encode, "decode": decode, "sample": sample, "log_evidence": log_evidence},
    )


def _params(name: str, model: Model, key: Key, x: Array, shape: tuple[int, ...]) -> Params:
    variables = model.init(key, x)
    if set(variables) - {"params"}:
        raise ValueError(f"vae: the {name} must have no running statistics, got {sorted(variables)}; use layer instead of batch normalisation")
    made = jax.eval_shape(lambda: model.apply(variables, x)[0])
    if made.shape != shape:
        raise ValueError(f"vae: the {name} must map {x.shape} to {shape}, got {made.shape}")
    return variables["params"]


def _per_example(values: Float[Array, "B ..."]) -> Float[Array, " B"]:
    return values.reshape(values.shape[0], -1).sum(-1)
