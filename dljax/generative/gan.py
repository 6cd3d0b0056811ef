"""Generative adversarial networks: a generator and a discriminator that train against each other (Goodfellow et al., 2014)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core.axis import local_key, pmean
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Key, Learner, Metrics, Numeric, Params
from dljax.generative.games import Game, duality_gap
from dljax.generative.remedies import Remedy
from dljax.nn.model import Model, Variables, as_model
from dljax.objectives.adversarial import AdversarialLoss, Logits, non_saturating
from dljax.objectives.gradient_penalties import Penalty


class Player(NamedTuple):
    """One of the two networks: its trained parameters, its other collections and its optimiser's state."""

    params: Params
    model_state: Variables
    opt_state: optax.OptState


class GANState(NamedTuple):
    """Both players, the running average of the generator's parameters that samples are drawn with, and the generator's updates so far."""

    generator: Player
    discriminator: Player
    average: Params
    steps: Int[Array, ""]


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
    remedies: Sequence[Remedy] = (),
) -> Learner:
    """Two players: the discriminator learns to tell real examples from generated ones, the generator learns to be mistaken for real.

      D: min L_D(D(x), D(G(z))) + penalty(D),   then   G: min L_G(D(x), D(G(z))),   z ~ N(0, I)

    Args:
      generator: latents [B, latent_size] to examples [B, ...]; whatever `dljax.nn.as_model` takes, a linen module for one.
      discriminator: examples [B, ...] to logits [B] or [B, 1]; likewise.
      generator_optimizer, discriminator_optimizer: one for each player; different learning rates are two time scales.
      latent_size: Z >= 1.
      loss: a pair out of `dljax.objectives.ADVERSARIAL_LOSSES`, such as `non_saturating` or `f_gan("kl")`, or your own.
      penalty: added to the discriminator's loss: `dljax.objectives.r1(weight)`, `r2(weight)`, `gradient_penalty(weight)`, or None.
      discriminator_steps: K >= 1 updates of the discriminator before the one of the generator. Each sees its own K-th part of the batch.
      average: decay in [0, 1) of the running average of the generator's parameters; 0 draws samples with the latest. May be traced.
      remedies: `Remedy`s such as `instance_noise(0.1)`, `packing(2)`, `unrolled(5, 0.1)`, `consensus(1.0)` or `extragradient()`: views and games are
        applied in their order; at most one may say how the players move. What changes only a model, a loss or an optimizer is a function of it.
    Returns:
      A learner on batches `{"x": [B, ...]}` with metrics `generator_loss` and `discriminator_loss` (without penalties), `penalty`, `real_logit` and
      `fake_logit` (means of what the discriminator says), `generator_gradient` and `discriminator_gradient` (norms), all []. Its functions are
      `sample(key, params, num) -> [num, ...]`; `discriminate(key, params, x) -> logits` of what the discriminator takes, without the remedies' views;
      `duality_gap(key, params, x, num_steps) -> []` on a frozen batch and its latents, the worst cases found by the two optimizers started afresh.
      Its params are `{"generator": variables, "discriminator": variables}`.
    Raises:
      ValueError: an option out of its range, two remedies that say how the players move, or one and `discriminator_steps` > 1; when traced: a
        generator whose examples are not shaped as the data, a discriminator that gives anything but one logit an example (or pack), a batch that
        `discriminator_steps` does not divide.
    Source: Goodfellow et al. (2014), Generative Adversarial Nets, algorithm 1.

    >>> from flax import linen
    >>> learner = gan(linen.Dense(2), linen.Dense(1), optax.adam(1e-3), optax.adam(1e-3), latent_size=3)
    >>> batch = {"x": jnp.ones((8, 2))}
    >>> state = learner.init(jax.random.key(0), batch)
    >>> state, metrics = learner.step(jax.random.key(1), state, batch)
    >>> sorted(metrics)
    ['discriminator_gradient', 'discriminator_loss', 'fake_logit', 'generator_gradient', 'generator_loss', 'penalty', 'real_logit']
    >>> learner.functions["sample"](jax.random.key(2), learner.params(state), 4).shape
    (4, 2)
    """
    check_int("gan", "latent_size", latent_size, minimum=1)
    check_int("gan", "discriminator_steps", discriminator_steps, minimum=1)
    check_range("gan", "average", average, 0, 1, open_high=True)
    views = [remedy.view for remedy in remedies if remedy.view is not None]
    plays = [remedy.play for remedy in remedies if remedy.play is not None]
    if len(plays) > 1:
        raise ValueError(f"gan: at most one of the remedies may say how the players move, got {len(plays)}")
    if plays and discriminator_steps > 1:
        raise ValueError(f"gan: players that move at once have one step each; discriminator_steps must be 1, got {discriminator_steps}")
    make, judge = as_model(generator), as_model(discriminator)

    def init(key: Key, batch: Batch) -> GANState:
        generator_key, discriminator_key = jax.random.split(key)
        x = batch["x"]
        z = jnp.zeros((x.shape[0], latent_size))
        maker = _player(make, generator_key, z, generator_optimizer)
        made = jax.eval_shape(lambda: make.apply(_variables(maker), z)[0])
        if made.shape != x.shape:
            raise ValueError(f"gan: the generator must make examples of the data's shape {x.shape[1:]}, got {made.shape[1:]}")
        seen = view(key, jnp.int32(0), x)
        return GANState(maker, _player(judge, discriminator_key, seen, discriminator_optimizer), maker.params, jnp.int32(0))

    def step(key: Key, state: GANState, batch: Batch) -> tuple[GANState, Metrics]:
        discriminator_key, generator_key = jax.random.split(local_key(key))
        if plays:
            at_once = lambda at, start: moved(game(generator_key, batch["x"], start), at, start)  # noqa: E731
            return plays[0](at_once, state)
        parts = _parts(batch["x"], discriminator_steps)

        def teach(state: GANState, inputs: tuple[Key, Array]) -> tuple[GANState, Metrics]:
            player, metrics = discriminator_move(game(*inputs, state), state, state)
            return state._replace(discriminator=player), metrics

        state, metrics = lax.scan(teach, state, (jax.random.split(discriminator_key, discriminator_steps), parts))
        player, generator_metrics = generator_move(game(generator_key, parts[-1], state), state, state)
        return averaged(state._replace(generator=player)), jax.tree.map(lambda value: value.mean(0), metrics) | generator_metrics

    def game(key: Key, real: Array, state: GANState) -> Game:
        """The game on one batch and its latents: objectives of the two players' parameters, their other collections being those of `state`."""
        latent_key, generator_key, real_key, fake_key, critic_key, penalty_key, real_view, fake_view = jax.random.split(key, 8)
        z = jax.random.normal(latent_key, (real.shape[0], latent_size))
        real = view(real_view, state.steps, real)
        judged = state.discriminator.model_state

        def played(theta: Params, psi: Params) -> tuple[Array, Variables, Logits, Logits, Variables]:
            made, made_state = _applied(make, theta, state.generator.model_state, z, generator_key)
            fake = view(fake_view, state.steps, made)
            real_logits, seen_state = _logits(judge, psi, judged, real, real_key)
            fake_logits, seen_state = _logits(judge, psi, seen_state, fake, fake_key)
            return fake, made_state, real_logits, fake_logits, seen_state

        def generator_objective(theta: Params, psi: Params) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
            # Most losses leave the logits of the real examples alone, and the compiler then leaves them out.
            _, model_state, real_logits, fake_logits, _ = played(theta, psi)
            value = loss.generator(real_logits, fake_logits)
            return value, (model_state, {"generator_loss": value})

        def discriminator_objective(theta: Params, psi: Params) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
            fake, _, real_logits, fake_logits, model_state = played(theta, psi)
            value = loss.discriminator(real_logits, fake_logits)
            critic = lambda x: _logits(judge, psi, judged, x, critic_key)[0]  # noqa: E731
            extra = jnp.zeros(()) if penalty is None else penalty(penalty_key, critic, real, fake)
            metrics = {"discriminator_loss": value, "penalty": extra, "real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}
            return value + extra, (model_state, metrics)

        played_game = Game(generator_objective, discriminator_objective)
        for remedy in remedies:
            played_game = played_game if remedy.game is None else remedy.game(played_game)
        return played_game

    def view(key: Key, steps: Int[Array, ""], x: Float[Array, "B ..."]) -> Float[Array, "A ..."]:
        for number, shown in enumerate(views):
            x = shown(jax.random.fold_in(key, number), steps, x)
        return x

    def generator_move(game: Game, at: GANState, start: GANState) -> tuple[Player, Metrics]:
        objective = lambda params: game.generator(params, at.discriminator.params)  # noqa: E731
        return _moved("generator", objective, at.generator, start.generator, generator_optimizer)

    def discriminator_move(game: Game, at: GANState, start: GANState) -> tuple[Player, Metrics]:
        objective = lambda params: game.discriminator(at.generator.params, params)  # noqa: E731
        return _moved("discriminator", objective, at.discriminator, start.discriminator, discriminator_optimizer)

    def moved(game: Game, at: GANState, start: GANState) -> tuple[GANState, Metrics]:
        maker, generator_metrics = generator_move(game, at, start)
        critic, metrics = discriminator_move(game, at, start)
        return averaged(start._replace(generator=maker, discriminator=critic)), {**metrics, **generator_metrics}

    def averaged(state: GANState) -> GANState:
        mean = jax.tree.map(lambda old, new: (average * old + (1 - average) * new).astype(old.dtype), state.average, state.generator.params)
        return state._replace(average=mean, steps=state.steps + 1)

    def params(state: GANState) -> Params:
        return {"generator": _variables(state.generator._replace(params=state.average)), "discriminator": _variables(state.discriminator)}

    def sample(key: Key, params: Params, num: int) -> Float[Array, "N ..."]:
        return make.apply(params["generator"], jax.random.normal(key, (num, latent_size)))[0]

    def discriminate(key: Key, params: Params, x: Float[Array, "B ..."]) -> Logits:
        return judge.apply(params["discriminator"], x)[0].reshape(x.shape[0])

    def gap(key: Key, params: Params, x: Float[Array, "B ..."], num_steps: int = 100) -> Float[Array, ""]:
        maker, critic = (Player(*_split(params[name]), ()) for name in ("generator", "discriminator"))
        frozen = game(key, x, GANState(maker, critic, maker.params, jnp.int32(jnp.iinfo(jnp.int32).max)))
        return duality_gap(frozen, maker.params, critic.params, generator_optimizer, discriminator_optimizer, num_steps=num_steps)

    return Learner(init, step, params, functions={"sample": sample, "discriminate": discriminate, "duality_gap": gap})


def _player(model: Model, key: Key, x: Array, optimizer: optax.GradientTransformation) -> Player:
    params, model_state = _split(model.init(key, x))
    return Player(params, model_state, optimizer.init(params))


def _split(variables: Variables) -> tuple[Params, Variables]:
    return variables.get("params", {}), {name: value for name, value in variables.items() if name != "params"}


def _variables(player: Player) -> Variables:
    return {"params": player.params, **player.model_state}


def _moved(
    name: str, objective: Callable[[Params], Any], at: Player, start: Player, optimizer: optax.GradientTransformation
) -> tuple[Player, Metrics]:
    grads, (model_state, metrics) = jax.grad(objective, has_aux=True)(at.params)
    grads = pmean(grads)
    updates, opt_state = optimizer.update(grads, at.opt_state, start.params)
    player = Player(optax.apply_updates(start.params, updates), pmean(model_state), opt_state)
    return player, metrics | {f"{name}_gradient": optax.tree.norm(grads)}


def _applied(model: Model, params: Params, model_state: Variables, x: Array, key: Key) -> tuple[Array, Variables]:
    outputs, changed = model.apply({"params": params, **model_state}, x, key=key, train=True)
    return outputs, {name: value for name, value in changed.items() if name in model_state}


def _logits(model: Model, params: Params, model_state: Variables, x: Array, key: Key) -> tuple[Logits, Variables]:
    logits, model_state = _applied(model, params, model_state, x, key)
    if logits.shape not in ((x.shape[0],), (x.shape[0], 1)):
        raise ValueError(f"gan: the discriminator must give one logit an example, [{x.shape[0]}] or [{x.shape[0]}, 1], got {logits.shape}")
    return logits.reshape(x.shape[0]), model_state


def _parts(x: Array, num: int) -> Float[Array, "K B ..."]:
    if x.shape[0] % num:
        raise ValueError(f"gan: the batch of {x.shape[0]} examples must be divisible by discriminator_steps, got {num}")
    return x.reshape(num, x.shape[0] // num, *x.shape[1:])
