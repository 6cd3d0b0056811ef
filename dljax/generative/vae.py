"""Variational autoencoders: a latent-variable model and its approximate posterior, trained together (Kingma and Welling, 2014)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from dljax.core.axis import local_key, pmean
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Fold, Key, Learner, Mean, Metrics, Numeric, Params
from dljax.generative.bounds import importance_weighted
from dljax.generative.densities import context_of
from dljax.generative.latents import Latent, LearnedLatent, normal_latent
from dljax.generative.likelihoods import Likelihood, bernoulli_likelihood, per_example
from dljax.nn.model import as_model, stateless_params


class VAEState(NamedTuple):
    """Parameters of the encoder, the decoder and a learned prior, and the state of their optimiser."""

    params: Params
    opt_state: optax.OptState


def vae(
    encoder: Any,
    decoder: Any,
    optimizer: optax.GradientTransformation,
    *,
    latent_size: int | None = None,
    latent: Latent | LearnedLatent | None = None,
    likelihood: Likelihood = bernoulli_likelihood,
    beta: Numeric = 1.0,
    num_samples: int = 1,
) -> Learner:
    """Maximise a lower bound of the evidence, with one reparameterised sample of the posterior or with several.

      ELBO(x) = E_q(z|x) log p(x|z) - KL(q(z|x) || p(z)) <= E log 1/K Σ_k p(x, z_k) / q(z_k|x) <= log p(x),   z_k ~ q(z|x)
      p(x|z) = Π_i Bernoulli(x_i; sigmoid(decoder(z)_i));   by default p(z) = N(0, I),   q(z|x) = N(μ, diag σ²),   (μ, log σ) = encoder(x)

    Args:
      encoder: examples [B, ...] to [B, R], by default R = 2 Z, μ and then log σ; whatever `dljax.nn.as_model` takes. Dropout is welcome, running
        statistics not.
      decoder: latents [B, Z] to outputs of the data's shape [B, ...], by default logits; likewise.
      optimizer: of the mean of -E_q log p(x|z) + β KL.
      latent_size: Z >= 1, short for `latent=normal_latent(Z)`.
      latent: the space of codes, with its prior p(z) and its posteriors q(z|x): `von_mises_fisher_latent(3)`, `hyperbolic_latent(2)`,
        `categorical_latent(8, 10)`, `hierarchical_latent(...)` ...
      likelihood: what the outputs say of the data; `normal_likelihood(s)` for real numbers.
      beta: β >= 0, 1 for the bound itself (Higgins et al., 2017); may be traced. With several samples it weighs log q(z|x)/p(z).
      num_samples: K >= 1, samples of the bound that is maximised: 1 for the ELBO, whose KL is exact where the latent knows it; more for the
        importance-weighted autoencoder (IWAE).
    Returns:
      A learner on batches `{"x": [B, ...]}`, by default with values in [0, 1]. Metrics of steps and of evaluation are `negative_elbo` and its parts
      `reconstruction` and `kl`, nats per example, and where K > 1 `negative_bound`, minus the bound of K samples. Its functions are
      `encode(key, params, x) -> latent.parameters` (by default μ [B, Z] and log σ [B, Z]), `decode(key, params, z) -> means [B, ...]` (by default
      probabilities), `sample(key, params, num) -> means [num, ...]`, `log_evidence(key, params, x, num) -> [B]`, the bound of `num` importance
      samples: the ELBO for one, log p(x) for many; and `active_units(key, params, x) -> bool [Z]`, whether the posterior mean of each number of
      the code varies from example to example, Var_x(μ_i) > 0.01: where it does not, the posterior has collapsed to the prior.

      Batches may have a `context` [B, ...] besides (Sohn et al., 2015), such as one-hot labels: then the models are called with two arguments,
      `encoder(x, context)` and `decoder(z, context)`, of which `dljax.nn.Conditional` makes one, all is given it, ELBO(x | context), and
      the functions take it as their last argument.
    Raises:
      ValueError: an option out of its range; both or neither of `latent_size` and `latent`; when the first batch comes: outputs of another shape, a
        model with running statistics.
    Source: Kingma and Welling (2014), Auto-Encoding Variational Bayes, eq. 10; Burda, Grosse and Salakhutdinov (2016), IWAE, eq. 8 and section 5.2;
      Sohn, Lee and Yan (2015), Learning Structured Output Representation, eq. 5, with p(z) for p(z | context).

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
    check_int("vae", "num_samples", num_samples, minimum=1)
    models = {"encoder": as_model(encoder), "decoder": as_model(decoder)}
    names = ("negative_elbo", "reconstruction", "kl") if num_samples == 1 else ("negative_elbo", "reconstruction", "kl", "negative_bound")

    def run(name: str, params: Params, *inputs: Array, key: Key | None = None) -> Array:
        return models[name].apply({"params": params[name]}, *inputs, key=key, train=key is not None)[0]

    def space_at(params: Params) -> Latent:
        return space.at(params["latent"]) if isinstance(space, LearnedLatent) else space

    def init(key: Key, batch: Batch) -> VAEState:
        encoder_key, decoder_key = jax.random.split(key)
        x, context, z = batch["x"], context_of(batch), jnp.zeros((len(batch["x"]), space.size))
        params = {
            "encoder": stateless_params("vae", "the encoder", models["encoder"], encoder_key, x, *context, shape=(len(x), space.raw_size)),
            "decoder": stateless_params("vae", "the decoder", models["decoder"], decoder_key, z, *context, shape=x.shape),
        }
        if isinstance(space, LearnedLatent):
            params["latent"] = space.init(jax.random.fold_in(key, 2))
        return VAEState(params, optimizer.init(params))

    def surprise(params: Params, x: Array, z: Array, context: tuple[Array, ...], key: Key | None = None) -> Float[Array, " B"]:
        return -per_example(likelihood.log_prob(run("decoder", params, z, *context, key=key), x))

    def bound(key: Key, params: Params, batch: Batch, train: bool) -> dict[str, Float[Array, " B"]]:
        x, context = batch["x"], context_of(batch)
        noise_key, encoder_key, decoder_key = jax.random.split(key, 3)
        space = space_at(params)
        raw = run("encoder", params, x, *context, key=encoder_key if train else None)

        def one(noise_key: Key, decoder_key: Key) -> tuple[Float[Array, " B"], Float[Array, " B"], Float[Array, " B"]]:
            z = space.sample(noise_key, raw)
            reconstruction = surprise(params, x, z, context, decoder_key if train else None)
            ratio = jnp.zeros(len(x)) if num_samples == 1 else space.log_prob(raw, z) - space.prior.log_prob(z)
            return reconstruction, space.kl(raw, z), ratio

        if num_samples == 1:
            reconstruction, kl, _ = one(noise_key, decoder_key)
            return {"negative_elbo": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}
        keys = jax.random.split(noise_key, num_samples), jax.random.split(decoder_key, num_samples)
        reconstructions, kls, ratios = jax.vmap(one)(*keys)
        loss = jax.vmap(importance_weighted.value, 1)
        bounds = {"negative_bound": loss(-reconstructions - ratios), "objective": loss(-reconstructions - beta * ratios)}
        reconstruction, kl = reconstructions.mean(0), kls.mean(0)
        return {"negative_elbo": reconstruction + kl, "reconstruction": reconstruction, "kl": kl, **bounds}

    def step(key: Key, state: VAEState, batch: Batch) -> tuple[VAEState, Metrics]:
        def objective(params: Params) -> tuple[Float[Array, ""], Metrics]:
            parts = jax.tree.map(jnp.mean, bound(local_key(key), params, batch, train=True))
            loss = parts["reconstruction"] + beta * parts["kl"] if num_samples == 1 else parts["objective"]
            return loss, {name: parts[name] for name in names}

        grads, metrics = jax.grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(pmean(grads), state.opt_state, state.params)
        return VAEState(optax.apply_updates(state.params, updates), opt_state), metrics

    def fold_init(key: Key, state: VAEState) -> tuple[Key, dict[str, Mean]]:
        return key, {name: Mean(jnp.zeros(()), jnp.zeros(())) for name in names}

    def fold_step(acc: tuple[Key, dict[str, Mean]], state: VAEState, batch: Batch) -> tuple[Key, dict[str, Mean]]:
        (key, noise_key), means = jax.random.split(acc[0]), acc[1]
        mask = batch.get("mask", jnp.ones(len(batch["x"])))
        parts = bound(noise_key, state.params, batch, train=False)
        return key, {name: Mean(mean.total + (mask * parts[name]).sum(), mean.weight + mask.sum()) for name, mean in means.items()}

    def encode(key: Key, params: Params, x: Float[Array, "B ..."], *context: Array) -> tuple[Array, Array]:
        return space_at(params).parameters(run("encoder", params, x, *context))

    def decode(key: Key, params: Params, z: Float[Array, "B Z"], *context: Array) -> Float[Array, "B ..."]:
        return likelihood.mean(run("decoder", params, z, *context))

    def sample(key: Key, params: Params, num: int, *context: Array) -> Float[Array, "N ..."]:
        return decode(key, params, space_at(params).prior.sample(key, num), *context)

    def log_evidence(key: Key, params: Params, x: Float[Array, "B ..."], num: int, *context: Array) -> Float[Array, " B"]:
        space, raw = space_at(params), run("encoder", params, x, *context)

        def log_weight(key: Key) -> Float[Array, " B"]:
            z = space.sample(key, raw)
            return space.prior.log_prob(z) - surprise(params, x, z, context) - space.log_prob(raw, z)

        log_weights = jax.lax.map(log_weight, jax.random.split(key, num))
        return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(num)

    def active_units(key: Key, params: Params, x: Float[Array, "B ..."], *context: Array) -> Bool[Array, " Z"]:
        mean, _ = encode(key, params, x, *context)
        return mean.reshape(len(x), -1).var(0) > 0.01

    return Learner(
        init,
        step,
        evaluate=Fold(fold_init, fold_step, lambda acc: acc[1]),
        functions={"encode": encode, "decode": decode, "sample": sample, "log_evidence": log_evidence, "active_units": active_units},
    )
