"""VQ-VAE: an autoencoder whose codes are entries of a learned codebook (van den Oord et al., 2017)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core.axis import local_key, pmean
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Fold, Key, Learner, Mean, Metrics, Numeric, Params
from dljax.generative.likelihoods import Likelihood, normal_likelihood, per_example
from dljax.nn.model import as_model, stateless_params
from dljax.nn.vector_quantiser import Codebook, moved_codebook, nearest_code, quantised, started_codebook


class VQVAEState(NamedTuple):
    """Parameters of the encoder and the decoder, the codebook with its running means, and the state of the optimiser."""

    params: Params
    codebook: Codebook
    opt_state: optax.OptState


class _Use(NamedTuple):
    parts: dict[str, Mean]
    counts: Float[Array, " K"]


def vq_vae(
    encoder: Any,
    decoder: Any,
    optimizer: optax.GradientTransformation,
    *,
    num_codes: int,
    code_size: int,
    likelihood: Likelihood | None = None,
    commitment: Numeric = 0.25,
    decay: Numeric = 0.99,
) -> Learner:
    """Minimise the description of the data given the nearest codes, and keep the encoder near to them; the codes are running means of its outputs.

      L = -log p(x | q(z)) + β |z - sg q(z)|²,   z = encoder(x),   q(z) the nearest of K vectors, ∂q/∂z := 1

    Args:
      encoder: examples [B, ...] to features [B, ..., G·D], which are cut into vectors of D numbers: at every place of a feature map, and where G > 1
        several at a place; whatever `dljax.nn.as_model` takes. Dropout is welcome, running statistics not.
      decoder: features of the same shape to outputs of the data's shape; likewise.
      optimizer: of the encoder and the decoder. The codebook has no gradient: it makes a step of k-means in every step, and codes that nothing is
        near to start again (`dljax.nn.moved_codebook`).
      num_codes: K >= 2.
      code_size: D >= 1.
      likelihood: what the outputs say of the data; by default `normal_likelihood(√½)`, whose surprise is the squared error and a constant.
      commitment: β >= 0; may be traced.
      decay: γ of the running means, in [0, 1); may be traced.
    Returns:
      A learner on batches `{"x": [B, ...]}`. Its metrics are `reconstruction`, -log p(x | q(z)) in nats per example, `commitment`, |z - q(z)|² per
      example, `codebook_use`, the share of the codes that are used at all, and `perplexity`, exp of the entropy of their use: of a batch in steps,
      of all data in evaluation. Its functions are `encode(key, params, x) -> index [B, ..., G]`, `decode(key, params, index) -> means [B, ...]` and
      `reconstruct(key, params, x)`. It has no prior: fit one to the indices, such as `autoregressive_categorical`.
    Raises:
      ValueError: an option out of its range; when the first batch comes: outputs of another shape, features that D does not divide, a model with
        running statistics.
    Source: van den Oord, Vinyals and Kavukcuoglu (2017), Neural Discrete Representation Learning, eq. 3 and appendix A.1.

    >>> from flax import linen
    >>> learner = vq_vae(linen.Dense(6), linen.Dense(4), optax.adam(1e-3), num_codes=8, code_size=2)
    >>> batch = {"x": jax.random.normal(jax.random.key(0), (16, 4))}
    >>> state = jax.jit(learner.init)(jax.random.key(1), batch)
    >>> state, metrics = jax.jit(learner.step)(jax.random.key(2), state, batch)
    >>> sorted(metrics), learner.functions["encode"](None, learner.params(state), batch["x"]).shape
    (['codebook_use', 'commitment', 'perplexity', 'reconstruction'], (16, 3))
    """
    check_int("vq_vae", "num_codes", num_codes, minimum=2)
    check_int("vq_vae", "code_size", code_size, minimum=1)
    check_range("vq_vae", "commitment", commitment, 0, open_high=True)
    check_range("vq_vae", "decay", decay, 0, 1, open_high=True)
    surprise = normal_likelihood(0.5**0.5) if likelihood is None else likelihood
    models = {"encoder": as_model(encoder), "decoder": as_model(decoder)}

    def run(name: str, params: Params, x: Array, key: Key | None = None) -> Array:
        return models[name].apply({"params": params[name]}, x, key=key, train=key is not None)[0]

    def vectors(features: Float[Array, "B *G"]) -> Float[Array, "B ... D"]:
        return features.reshape(*features.shape[:-1], -1, code_size)

    def init(key: Key, batch: Batch) -> VQVAEState:
        encoder_key, decoder_key, code_key = jax.random.split(key, 3)
        x = batch["x"]
        params = {"encoder": stateless_params("vq_vae", "the encoder", models["encoder"], encoder_key, x)}
        features = run("encoder", params, x)
        if features.ndim < 2 or features.shape[-1] % code_size:
            raise ValueError(f"vq_vae: the encoder must give features [B, ..., G * {code_size}], a multiple of code_size, got {features.shape}")
        params["decoder"] = stateless_params("vq_vae", "the decoder", models["decoder"], decoder_key, features, shape=x.shape)
        codebook = started_codebook(code_key, vectors(features).reshape(-1, code_size), num_codes)
        return VQVAEState(params, codebook, optimizer.init(params))

    def parts(params: Params, book: Array, x: Array, keys: tuple[Key | None, Key | None]) -> tuple[dict[str, Float[Array, " B"]], Array, Array]:
        features = run("encoder", params, x, keys[0])
        z = vectors(features)
        codes, index = quantised(book, z)
        outputs = run("decoder", params, codes.reshape(features.shape), keys[1])
        reconstruction = -per_example(surprise.log_prob(outputs, x))
        return {"reconstruction": reconstruction, "commitment": per_example(jnp.square(z - lax.stop_gradient(codes)))}, z, index

    def step(key: Key, state: VQVAEState, batch: Batch) -> tuple[VQVAEState, Metrics]:
        book_key, *keys = jax.random.split(key, 3)

        def objective(params: Params) -> tuple[Float[Array, ""], Any]:
            found, z, index = parts(params, state.codebook.vectors, batch["x"], (local_key(keys[0]), local_key(keys[1])))
            means = jax.tree.map(jnp.mean, found)
            return means["reconstruction"] + commitment * means["commitment"], (means, z, index)

        grads, (metrics, z, index) = jax.grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(pmean(grads), state.opt_state, state.params)
        codebook = moved_codebook(book_key, state.codebook, z.reshape(-1, code_size), index.ravel(), decay=decay)
        metrics |= _use(jnp.zeros(num_codes).at[index.ravel()].add(1))
        return VQVAEState(optax.apply_updates(state.params, updates), codebook, opt_state), metrics

    def fold_init(key: Key, state: VQVAEState) -> _Use:
        return _Use({name: Mean(jnp.zeros(()), jnp.zeros(())) for name in ("reconstruction", "commitment")}, jnp.zeros(num_codes))

    def fold_step(acc: _Use, state: VQVAEState, batch: Batch) -> _Use:
        mask = batch.get("mask", jnp.ones(len(batch["x"])))
        found, _, index = parts(state.params, state.codebook.vectors, batch["x"], (None, None))
        means = {name: Mean(mean.total + (mask * found[name]).sum(), mean.weight + mask.sum()) for name, mean in acc.parts.items()}
        rows = index.reshape(len(mask), -1)
        return _Use(means, acc.counts.at[rows].add(jnp.broadcast_to(mask[:, None], rows.shape).astype(acc.counts.dtype)))

    def params_of(state: VQVAEState) -> Params:
        return {**state.params, "codebook": state.codebook.vectors}

    def encode(key: Key, params: Params, x: Float[Array, "B ..."]) -> Int[Array, "B ... G"]:
        return nearest_code(params["codebook"], vectors(run("encoder", params, x)))

    def decode(key: Key, params: Params, index: Int[Array, "B ... G"]) -> Float[Array, "B ..."]:
        codes = params["codebook"][index]
        return surprise.mean(run("decoder", params, codes.reshape(*index.shape[:-1], -1)))

    def reconstruct(key: Key, params: Params, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        return decode(key, params, encode(key, params, x))

    return Learner(
        init,
        step,
        params_of,
        evaluate=Fold(fold_init, fold_step, lambda acc: {**acc.parts, **_use(acc.counts)}),
        functions={"encode": encode, "decode": decode, "reconstruct": reconstruct},
    )


def _use(counts: Float[Array, " K"]) -> dict[str, Float[Array, ""]]:
    shares = counts / jnp.maximum(counts.sum(), 1)
    return {"codebook_use": (counts > 0).mean(), "perplexity": jnp.exp(jax.scipy.special.entr(shares).sum())}
