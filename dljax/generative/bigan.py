"""BiGAN: a generator and an encoder that a discriminator of pairs makes inverse to each other (Donahue et al., 2017; Dumoulin et al., 2017)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dljax.core.axis import local_key
from dljax.core.checks import check_int
from dljax.core.contract import Batch, Key, Learner, Metrics, Params
from dljax.generative.players import Player, applied, judged, judgement, members, moved, one_each, player, team, variables_of
from dljax.nn.model import Variables, as_model
from dljax.objectives.adversarial import AdversarialLoss, Logits, non_saturating


class BiGANState(NamedTuple):
    """The generator and the encoder as one player, the discriminator as the other, and the updates so far."""

    maker: Player
    discriminator: Player
    steps: Int[Array, ""]


def bigan(
    generator: Any,
    encoder: Any,
    discriminator: Any,
    maker_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    *,
    latent_size: int,
    loss: AdversarialLoss = non_saturating,
) -> Learner:
    """The discriminator tells examples beside their codes from latents beside what is made of them; the other two want it not to.

      D: min L_D(D(x, E(x)), D(G(z), z)),   then   G and E: min L_D(D(G(z), z), D(x, E(x))),   z ~ N(0, I)

    The makers minimise the discriminator's loss with the roles exchanged, which does not saturate. Against the best discriminator both pairs have the
    same distribution only where E is the inverse of G on what G makes (theorem 2 of the source): features are learned without a reconstruction error.

    Args:
      generator: latents [B, latent_size] to examples [B, ...]; whatever `dljax.nn.as_model` takes.
      encoder: examples to latents; likewise.
      discriminator: of two inputs, x and z, to logits [B] or [B, 1]; likewise.
      maker_optimizer: of the generator and the encoder together.
      discriminator_optimizer: of the discriminator.
      latent_size: Z >= 1.
      loss: a pair out of `dljax.objectives.ADVERSARIAL_LOSSES`; of its two parts only the discriminator's is used.
    Returns:
      A learner on batches `{"x": [B, ...]}` with metrics `maker_loss`, `discriminator_loss`, `real_logit`, `fake_logit`, `maker_gradient` and
      `discriminator_gradient`, all []. Its functions are `sample(key, params, num)`, `encode(key, params, x)`, `decode(key, params, z)` and
      `discriminate(key, params, x, z)`. Its params are `{"generator", "encoder", "discriminator"}`, variables each.
    Raises:
      ValueError: `latent_size` < 1; when the first batch comes: a generator or an encoder whose outputs are not shaped as the data or the latents.
    Source: Donahue, Krähenbühl and Darrell (2017), Adversarial Feature Learning, eq. 2 and section 3.4; Dumoulin et al. (2017), Adversarially
      Learned Inference, eq. 2.

    >>> from flax import linen
    >>> pair = (lambda key, x, z: jnp.zeros((5, 1)), lambda params, x, z: jnp.concatenate([x, z], 1) @ params)
    >>> learner = bigan(linen.Dense(2), linen.Dense(3), pair, optax.adam(1e-3), optax.adam(1e-3), latent_size=3)
    >>> state = learner.init(jax.random.key(0), {"x": jnp.ones((8, 2))})
    >>> state, metrics = learner.step(jax.random.key(1), state, {"x": jnp.ones((8, 2))})
    >>> learner.functions["encode"](jax.random.key(2), learner.params(state), jnp.ones((4, 2))).shape
    (4, 3)
    """
    check_int("bigan", "latent_size", latent_size, minimum=1)
    models, judge = {"generator": as_model(generator), "encoder": as_model(encoder)}, as_model(discriminator)

    def init(key: Key, batch: Batch) -> BiGANState:
        maker_key, discriminator_key = jax.random.split(key)
        x, z = batch["x"], jnp.zeros((batch["x"].shape[0], latent_size))
        makers = team(models, maker_key, {"generator": (z,), "encoder": (x,)}, maker_optimizer)
        for name, given, wanted in (("generator", z, x), ("encoder", x, z)):
            made = jax.eval_shape(lambda name=name, given=given: models[name].apply(members(makers)[name], given)[0])
            if made.shape != wanted.shape:
                raise ValueError(f"bigan: the {name} must map {given.shape} to {wanted.shape}, got {made.shape}")
        return BiGANState(makers, player(judge, discriminator_key, (x, z), discriminator_optimizer), jnp.int32(0))

    def step(key: Key, state: BiGANState, batch: Batch) -> tuple[BiGANState, Metrics]:
        discriminator_key, maker_key = jax.random.split(local_key(key))

        def teach(psi: Params) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
            _, real, fake, model_state = played(discriminator_key, state.maker.params, psi, state, batch["x"])
            value = loss.discriminator(real, fake)
            return value, (model_state, {"discriminator_loss": value, "real_logit": real.mean(), "fake_logit": fake.mean()})

        critic, metrics = moved("discriminator", teach, state.discriminator, state.discriminator, discriminator_optimizer)
        state = state._replace(discriminator=critic)

        def answer(theta: Params) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
            model_state, real, fake, _ = played(maker_key, theta, state.discriminator.params, state, batch["x"])
            value = loss.discriminator(fake, real)
            return value, (model_state, {"maker_loss": value})

        maker, maker_metrics = moved("maker", answer, state.maker, state.maker, maker_optimizer)
        return BiGANState(maker, state.discriminator, state.steps + 1), {**metrics, **maker_metrics}

    def played(key: Key, theta: Params, psi: Params, state: BiGANState, x: Array) -> tuple[Variables, Logits, Logits, Variables]:
        latent_key, generator_key, encoder_key, real_key, fake_key = jax.random.split(key, 5)
        z, made_state = jax.random.normal(latent_key, (x.shape[0], latent_size)), state.maker.model_state
        made, of_generator = applied(models["generator"], theta["generator"], made_state["generator"], (z,), generator_key)
        codes, of_encoder = applied(models["encoder"], theta["encoder"], made_state["encoder"], (x,), encoder_key)
        real, seen = judged("bigan", judge, psi, state.discriminator.model_state, (x, codes), real_key, len(x))
        fake, seen = judged("bigan", judge, psi, seen, (made, z), fake_key, len(x))
        return {"generator": of_generator, "encoder": of_encoder}, real.logits, fake.logits, seen

    def params(state: BiGANState) -> Params:
        return members(state.maker) | {"discriminator": variables_of(state.discriminator)}

    def decode(key: Key, params: Params, z: Float[Array, "N Z"]) -> Float[Array, "N ..."]:
        return models["generator"].apply(params["generator"], z)[0]

    def sample(key: Key, params: Params, num: int) -> Float[Array, "N ..."]:
        return decode(key, params, jax.random.normal(key, (num, latent_size)))

    def encode(key: Key, params: Params, x: Float[Array, "N ..."]) -> Float[Array, "N Z"]:
        return models["encoder"].apply(params["encoder"], x)[0]

    def discriminate(key: Key, params: Params, x: Float[Array, "B ..."], z: Float[Array, "B Z"]) -> Logits:
        return one_each(judgement("bigan", judge.apply(params["discriminator"], x, z)[0], len(x)).logits, len(x))

    return Learner(init, step, params, functions={"sample": sample, "encode": encode, "decode": decode, "discriminate": discriminate})
