"""Generative adversarial networks: a generator and a discriminator that train against each other (Goodfellow et al., 2014)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from dljax.core.axis import local_key, pmean
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Key, Learner, Metrics, Numeric, Params
from dljax.nn.model import Model, Variables, as_model
from dljax.objectives.adversarial import AdversarialLoss, Logits, Penalty, non_saturating


class Player(NamedTuple):
    """One of the two networks: its trained parameters, its other collections and its optimiser's state."""

    params: Params
    model_state: Variables
    opt_state: optax.OptState


class GANState(NamedTuple):
    """Both players, and the running average of the generator's parameters that samples are drawn with."""

    generator: Player
    discriminator: Player
    average: Params


def gan(
    generator: Any,
    discriminator: Any,
    generator_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    *,
    latent_size: int,
    loss: AdversarialLoss = non_saturating,
    penalty: Penalty | None = None,
    discriminator_steps: int = 1,
    average: Numeric = 0.0,
) -> Learner:
    """Two players: the discriminator learns to tell real examples from generated ones, the generator learns to be mistaken for real.

      D: min L_D(D(x), D(G(z))) + penalty(D),   then   G: min L_G(D(x), D(G(z))),   z ~ N(0, I)

    Args:
      generator: latents [B, latent_size] to examples [B, ...]; whatever `dljax.nn.as_model` takes, a linen module for one.
      discriminator: examples [B, ...] to logits [B] or [B, 1]; likewise.
      generator_optimizer, discriminator_optimizer: one for each player; different learning rates are two time scales.
      latent_size: Z >= 1.
      loss: a pair out of `dljax.objectives`: `non_saturating`, `minimax`, `least_squares`, `hinge`, `wasserstein`, or your own.
      penalty: added to the discriminator's loss: `dljax.objectives.r1(weight)`, `gradient_penalty(weight)`, or None.
      discriminator_steps: K >= 1 updates of the discriminator before the one of the generator. Each sees its own K-th part of the batch.
      average: decay in [0, 1) of the running average of the generator's parameters; 0 draws samples with the latest. May be traced.
    Returns:
      A learner on batches `{"x": [B, ...]}` with metrics `generator_loss`, `discriminator_loss` (without its penalty), `penalty`,
      `real_logit` and `fake_logit` (means of what the discriminator says), all []. Its functions are `sample(key, params, num) -> [num, ...]`
      and `discriminate(key, params, x) -> logits [B]`; its params are `{"generator": variables, "discriminator": variables}`.
    Raises:
      ValueError: an option out of its range; when traced: a generator whose examples are not shaped as the data, a discriminator that gives
        anything but one logit an example, a batch that `discriminator_steps` does not divide.
    Source: Goodfellow et al. (2014), Generative Adversarial Nets, algorithm 1.

    >>> from flax import linen
    >>> learner = gan(linen.Dense(2), linen.Dense(1), optax.adam(1e-3), optax.adam(1e-3), latent_size=3)
    >>> batch = {"x": jnp.ones((8, 2))}
    >>> state = learner.init(jax.random.key(0), batch)
    >>> state, metrics = learner.step(jax.random.key(1), state, batch)
    >>> sorted(metrics)
    ['discriminator_loss', 'fake_logit', 'generator_loss', 'penalty', 'real_logit']
    >>> learner.functions["sample"](jax.random.key(2), learner.params(state), 4).shape
    (4, 2)
    """
    check_int("gan", "latent_size", latent_size, minimum=1)
    check_int("gan", "discriminator_steps", discriminator_steps, minimum=1)
    check_range("gan", "average", average, 0, 1, open_high=True)
    make, judge = as_model(generator), as_model(discriminator)

    def init(key: Key, batch: Batch) -> GANState:
        generator_key, discriminator_key = jax.random.split(key)
        x = batch["x"]
        z = jnp.zeros((x.shape[0], latent_size))
        players = _player(make, generator_key, z, generator_optimizer), _player(judge, discriminator_key, x, discriminator_optimizer)
        made = jax.eval_shape(lambda: make.apply(_variables(players[0]), z)[0])
        if made.shape != x.shape:
            raise ValueError(f"gan: the generator must make examples of the data's shape {x.shape[1:]}, got {made.shape[1:]}")
        return GANState(*players, players[0].params)

    def step(key: Key, state: GANState, batch: Batch) -> tuple[GANState, Metrics]:
        discriminator_key, generator_key = jax.random.split(local_key(key))
        parts = _parts(batch["x"], discriminator_steps)

        def teach(state: GANState, inputs: tuple[Key, Array]) -> tuple[GANState, Metrics]:
            return discriminator_step(*inputs, state)

        state, metrics = lax.scan(teach, state, (jax.random.split(discriminator_key, discriminator_steps), parts))
        state, generator_metrics = generator_step(generator_key, parts[-1], state)
        return state, jax.tree.map(lambda value: value.mean(0), metrics) | generator_metrics

    def discriminator_step(key: Key, real: Array, state: GANState) -> tuple[GANState, Metrics]:
        latent_key, generator_key, real_key, fake_key, critic_key, penalty_key = jax.random.split(key, 6)
        fake, _ = make.apply(_variables(state.generator), latents(latent_key, real), key=generator_key, train=True)
        player = state.discriminator

        def objective(params: Params) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
            real_logits, model_state = _logits(judge, params, player.model_state, real, real_key)
            fake_logits, model_state = _logits(judge, params, model_state, fake, fake_key)
            value = loss.discriminator(real_logits, fake_logits)
            critic = lambda x: _logits(judge, params, player.model_state, x, critic_key)[0]  # noqa: E731
            extra = jnp.zeros(()) if penalty is None else penalty(penalty_key, critic, real, fake)
            metrics = {"discriminator_loss": value, "penalty": extra, "real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}
            return value + extra, (model_state, metrics)

        (_, (model_state, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(player.params)
        return state._replace(discriminator=_updated(player, grads, model_state, discriminator_optimizer)), metrics

    def generator_step(key: Key, real: Array, state: GANState) -> tuple[GANState, Metrics]:
        latent_key, generator_key, real_key, fake_key = jax.random.split(key, 4)
        z = latents(latent_key, real)
        player, opponent = state.generator, state.discriminator

        def objective(params: Params) -> tuple[Float[Array, ""], Variables]:
            fake, model_state = make.apply({"params": params, **player.model_state}, z, key=generator_key, train=True)
            # Most losses leave the logits of the real examples alone, and the compiler then leaves them out.
            real_logits, _ = _logits(judge, opponent.params, opponent.model_state, real, real_key)
            fake_logits, _ = _logits(judge, opponent.params, opponent.model_state, fake, fake_key)
            return loss.generator(real_logits, fake_logits), model_state

        (value, model_state), grads = jax.value_and_grad(objective, has_aux=True)(player.params)
        player = _updated(player, grads, model_state, generator_optimizer)
        mean = jax.tree.map(lambda old, new: (average * old + (1 - average) * new).astype(old.dtype), state.average, player.params)
        return state._replace(generator=player, average=mean), {"generator_loss": value}

    def latents(key: Key, like: Array) -> Float[Array, "B Z"]:
        return jax.random.normal(key, (like.shape[0], latent_size))

    def params(state: GANState) -> Params:
        return {"generator": _variables(state.generator._replace(params=state.average)), "discriminator": _variables(state.discriminator)}

    def sample(key: Key, params: Params, num: int) -> Float[Array, "N ..."]:
        return make.apply(params["generator"], jax.random.normal(key, (num, latent_size)))[0]

    def discriminate(key: Key, params: Params, x: Float[Array, "B ..."]) -> Logits:
        return judge.apply(params["discriminator"], x)[0].reshape(x.shape[0])

    return Learner(init, step, params, functions={"sample": sample, "discriminate": discriminate})


def _player(model: Model, key: Key, x: Array, optimizer: optax.GradientTransformation) -> Player:
    variables = dict(model.init(key, x))
    params = variables.pop("params", {})
    return Player(params, variables, optimizer.init(params))


def _updated(player: Player, grads: Params, model_state: Variables, optimizer: optax.GradientTransformation) -> Player:
    updates, opt_state = optimizer.update(pmean(grads), player.opt_state, player.params)
    return Player(optax.apply_updates(player.params, updates), pmean(model_state), opt_state)


def _variables(player: Player) -> Variables:
    return {"params": player.params, **player.model_state}


def _logits(model: Model, params: Params, model_state: Variables, x: Array, key: Key) -> tuple[Logits, Variables]:
    logits, model_state = model.apply({"params": params, **model_state}, x, key=key, train=True)
    if logits.shape not in ((x.shape[0],), (x.shape[0], 1)):
        raise ValueError(f"gan: the discriminator must give one logit an example, [{x.shape[0]}] or [{x.shape[0]}, 1], got {logits.shape}")
    return logits.reshape(x.shape[0]), model_state


def _parts(x: Array, num: int) -> Float[Array, "K B ..."]:
    if x.shape[0] % num:
        raise ValueError(f"gan: the batch of {x.shape[0]} examples must be divisible by discriminator_steps, got {num}")
    return x.reshape(num, x.shape[0] // num, *x.shape[1:])
