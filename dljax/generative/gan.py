"""Generative adversarial networks: a generator and a discriminator that train against each other (Goodfellow et al., 2014)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from dljax.core.axis import local_key
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Key, Learner, Metrics, Numeric, Params
from dljax.generative.densities import context_of
from dljax.generative.games import Game, duality_gap
from dljax.generative.players import Judgement, Player, applied, averaged, judged, judgement, moved, one_each, player, split, variables_of
from dljax.generative.remedies import Remedy
from dljax.generative.terms import Round, Term
from dljax.nn.model import Variables, as_model
from dljax.objectives.adversarial import AdversarialLoss, Logits, non_saturating
from dljax.objectives.gradient_penalties import Penalty


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
    terms: Sequence[Term] = (),
) -> Learner:
    """Two players: the discriminator learns to tell real examples from generated ones, the generator learns to be mistaken for real.

      D: min L_D(D(x), D(G(z))) + penalty(D),   then   G: min L_G(D(x), D(G(z))),   z ~ N(0, I)

    Where batches have a context c, labels or pictures, both see it, and the best discriminator compares p(x|c) with q(x|c): D(x, c) and G(z, c).

    Args:
      generator: latents [B, latent_size] to examples [B, ...]; whatever `dljax.nn.as_model` takes, a linen module for one. With a context it
        is called with it, `generator(z, context)`.
      discriminator: examples [B, ...] to logits [B] or [B, 1], or [B, ..., 1] for the patches of each; likewise, `discriminator(x,
        context)`. It may return a pair of logits and further outputs for the terms.
      generator_optimizer, discriminator_optimizer: one for each player; different learning rates are two time scales.
      latent_size: Z >= 1.
      loss: a pair out of `dljax.objectives.ADVERSARIAL_LOSSES`, such as `non_saturating` or `f_gan("kl")`, or your own.
      penalty: added to the discriminator's loss: `dljax.objectives.r1(weight)`, `r2(weight)`, `gradient_penalty(weight)`, or None.
      discriminator_steps: K >= 1 updates of the discriminator before the one of the generator. Each sees its own K-th part of the batch.
      average: decay in [0, 1) of the running average of the generator's parameters; 0 draws samples with the latest. May be traced.
      remedies: `Remedy`s such as `instance_noise(0.1)`, `packing(2)`, `unrolled(5, 0.1)`, `consensus(1.0)` or `extragradient()`: views and games are
        applied in their order; at most one may say how the players move. What changes only a model, a loss or an optimizer is a function of it.
      terms: what the players minimise besides: `Term`s such as `auxiliary_classification()`, `mutual_information(code)` or `reconstruction(100.0)`.
    Returns:
      A learner on batches `{"x": [B, ...]}`, optionally with a `context`, any pytree of arrays [B, ...]. Its metrics, all [], are `generator_loss`
      and `discriminator_loss` (without penalties and terms), `penalty`, what the terms add, `real_logit` and `fake_logit` (means of what the
      discriminator says), `generator_gradient` and `discriminator_gradient` (norms). Its functions, each with the context as last argument where
      there is one, are `sample(key, params, num) -> [num, ...]`; `discriminate(key, params, x) -> logits` [B] of what the discriminator takes,
      without the remedies' views, means over patches; `duality_gap(key, params, x, num_steps=100) -> []` on a frozen batch and its latents, the
      worst cases found by the two optimizers started afresh. Its params are `{"generator": variables, "discriminator": variables}`.
    Raises:
      ValueError: an option out of its range, two remedies that say how the players move, or one and `discriminator_steps` > 1, two terms of one
        name; when traced: a generator whose examples are not shaped as the data, a discriminator that gives anything but one logit an example (or
        pack, or patch), a batch that `discriminator_steps` does not divide, a context and a remedy that groups examples.
    Source: Goodfellow et al. (2014), Generative Adversarial Nets, algorithm 1; with a context Mirza and Osindero (2014), eq. 2.

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
    names = [term.name for term in terms]
    if len({*names, "loss", "gradient"}) < len(names) + 2:
        raise ValueError(f'gan: terms must have names of their own, other than "loss" and "gradient", got {names}')
    make, judge = as_model(generator), as_model(discriminator)

    def init(key: Key, batch: Batch) -> GANState:
        generator_key, discriminator_key = jax.random.split(key)
        x, context = batch["x"], context_of(batch)
        z = jnp.zeros((x.shape[0], latent_size))
        maker = player(make, generator_key, (z, *context), generator_optimizer)
        made = jax.eval_shape(lambda: make.apply(variables_of(maker), z, *context)[0])
        if made.shape != x.shape:
            raise ValueError(f"gan: the generator must make examples of the data's shape {x.shape[1:]}, got {made.shape[1:]}")
        seen = (view(key, jnp.int32(0), x), *context)
        return GANState(maker, player(judge, discriminator_key, seen, discriminator_optimizer), maker.params, jnp.int32(0))

    def step(key: Key, state: GANState, batch: Batch) -> tuple[GANState, Metrics]:
        discriminator_key, generator_key = jax.random.split(local_key(key))
        if plays:
            at_once = lambda at, start: both_moved(game(generator_key, batch["x"], context_of(batch), start), at, start)  # noqa: E731
            return plays[0](at_once, state)
        parts = jax.tree.map(lambda x: _parts(x, discriminator_steps), (batch["x"], context_of(batch)))

        def teach(state: GANState, inputs: tuple[Key, Any]) -> tuple[GANState, Metrics]:
            key, (real, context) = inputs
            critic, metrics = discriminator_move(game(key, real, context, state), state, state)
            return state._replace(discriminator=critic), metrics

        state, metrics = lax.scan(teach, state, (jax.random.split(discriminator_key, discriminator_steps), parts))
        real, context = jax.tree.map(lambda x: x[-1], parts)
        maker, generator_metrics = generator_move(game(generator_key, real, context, state), state, state)
        return after(state._replace(generator=maker)), jax.tree.map(lambda value: value.mean(0), metrics) | generator_metrics

    def game(key: Key, real: Array, context: tuple[Any, ...], state: GANState) -> Game:
        """The game on one batch and its latents: objectives of the two players' parameters, their other collections being those of `state`."""
        latent_key, generator_key, real_key, fake_key, critic_key, penalty_key, real_view, fake_view = jax.random.split(key, 8)
        z = jax.random.normal(latent_key, (real.shape[0], latent_size))
        viewed = view(real_view, state.steps, real)
        if context and len(viewed) != len(real):
            raise ValueError(f"gan: with a context no remedy may group examples, got {len(viewed)} views of {len(real)}; leave out packing")

        def judgement_of(psi: Params, model_state: Variables, x: Array, key: Key) -> tuple[Judgement, Variables]:
            return judged("gan", judge, psi, model_state, (x, *context), key, len(x))

        def played(theta: Params, psi: Params) -> tuple[Round, Variables, Array, Logits, Logits, Variables]:
            made, made_state = applied(make, theta, state.generator.model_state, (z, *context), generator_key)
            fake = view(fake_view, state.steps, made)
            of_real, seen_state = judgement_of(psi, state.discriminator.model_state, viewed, real_key)
            of_fake, seen_state = judgement_of(psi, seen_state, fake, fake_key)
            round = Round(z, context[0] if context else None, real, made, of_real.further, of_fake.further)
            return round, made_state, fake, of_real.logits, of_fake.logits, seen_state

        def generator_objective(theta: Params, psi: Params) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
            # Most losses leave the logits of the real examples alone, and the compiler then leaves them out.
            round, model_state, _, real_logits, fake_logits, _ = played(theta, psi)
            value = loss.generator(real_logits, fake_logits)
            added = {f"generator_{term.name}": term.generator(round) for term in terms if term.generator is not None}
            return sum(added.values(), value), (model_state, {"generator_loss": value, **added})

        def discriminator_objective(theta: Params, psi: Params) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
            round, _, fake, real_logits, fake_logits, model_state = played(theta, psi)
            value = loss.discriminator(real_logits, fake_logits)
            critic = lambda x: one_each(judgement_of(psi, state.discriminator.model_state, x, critic_key)[0].logits, len(x))  # noqa: E731
            extra = jnp.zeros(()) if penalty is None else penalty(penalty_key, critic, viewed, fake)
            added = {f"discriminator_{term.name}": term.discriminator(round) for term in terms if term.discriminator is not None}
            metrics = {"discriminator_loss": value, "penalty": extra, "real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}
            return sum(added.values(), value + extra), (model_state, metrics | added)

        played_game = Game(generator_objective, discriminator_objective)
        for remedy in remedies:
            played_game = played_game if remedy.game is None else remedy.game(played_game)
        return played_game

    def view(key: Key, steps: Int[Array, ""], x: Float[Array, "B ..."]) -> Float[Array, "A ..."]:
        for number, look in enumerate(views):
            x = look(jax.random.fold_in(key, number), steps, x)
        return x

    def generator_move(game: Game, at: GANState, start: GANState) -> tuple[Player, Metrics]:
        objective = lambda params: game.generator(params, at.discriminator.params)  # noqa: E731
        return moved("generator", objective, at.generator, start.generator, generator_optimizer)

    def discriminator_move(game: Game, at: GANState, start: GANState) -> tuple[Player, Metrics]:
        objective = lambda params: game.discriminator(at.generator.params, params)  # noqa: E731
        return moved("discriminator", objective, at.discriminator, start.discriminator, discriminator_optimizer)

    def both_moved(game: Game, at: GANState, start: GANState) -> tuple[GANState, Metrics]:
        maker, generator_metrics = generator_move(game, at, start)
        critic, metrics = discriminator_move(game, at, start)
        return after(start._replace(generator=maker, discriminator=critic)), {**metrics, **generator_metrics}

    def after(state: GANState) -> GANState:
        return state._replace(average=averaged(average, state.average, state.generator.params), steps=state.steps + 1)

    def params(state: GANState) -> Params:
        return {"generator": variables_of(state.generator._replace(params=state.average)), "discriminator": variables_of(state.discriminator)}

    def sample(key: Key, params: Params, num: int, *context: Any) -> Float[Array, "N ..."]:
        return make.apply(params["generator"], jax.random.normal(key, (num, latent_size)), *context)[0]

    def discriminate(key: Key, params: Params, x: Any, *context: Any) -> Logits:
        num = x.shape[0]
        return one_each(judgement("gan", judge.apply(params["discriminator"], x, *context)[0], num).logits, num)

    def gap(key: Key, params: Params, x: Array, num_steps: int = 100, *context: Any) -> Float[Array, ""]:
        maker, critic = (Player(*split(params[name]), ()) for name in ("generator", "discriminator"))
        frozen = game(key, x, context, GANState(maker, critic, maker.params, jnp.int32(jnp.iinfo(jnp.int32).max)))
        return duality_gap(frozen, maker.params, critic.params, generator_optimizer, discriminator_optimizer, num_steps=num_steps)

    return Learner(init, step, params, functions={"sample": sample, "discriminate": discriminate, "duality_gap": gap})


def _parts(x: Array, num: int) -> Shaped[Array, "K B ..."]:
    if x.shape[0] % num:
        raise ValueError(f"gan: the batch of {x.shape[0]} examples must be divisible by discriminator_steps, got {num}")
    return x.reshape(num, x.shape[0] // num, *x.shape[1:])
