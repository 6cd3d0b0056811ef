"""CycleGAN: from one kind of picture to another and back, learned without pairs (Zhu et al., 2017)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dljax.core.axis import local_key
from dljax.core.checks import check_range
from dljax.core.contract import Batch, Key, Learner, Metrics, Numeric, Params
from dljax.generative.players import Player, applied, judged, members, moved, team
from dljax.nn.model import Variables, as_model
from dljax.objectives.adversarial import AdversarialLoss, least_squares


class CycleGANState(NamedTuple):
    """Both maps as one player, both discriminators as the other, and the updates so far."""

    maps: Player
    discriminators: Player
    steps: Int[Array, ""]


def cycle_gan(
    forward: Any,
    backward: Any,
    x_discriminator: Any,
    y_discriminator: Any,
    map_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    *,
    loss: AdversarialLoss = least_squares,
    cycle_weight: Numeric = 10.0,
    identity_weight: Numeric = 0.0,
) -> Learner:
    """Two maps between two kinds of examples, each judged on its side, that together must lead back to where one began.

      D_Y, D_X: min L_D(D_Y(y), D_Y(G(x))) + L_D(D_X(x), D_X(F(y)))
      G, F: min L_G(D_Y(y), D_Y(G(x))) + L_G(D_X(x), D_X(F(y))) + λ (E |F(G(x)) - x|₁ + E |G(F(y)) - y|₁) + μ (E |G(y) - y|₁ + E |F(x) - x|₁)

    Norms are means over the entries of an example.

    Args:
      forward, backward: G from x to y and F from y to x, whatever `dljax.nn.as_model` takes.
      x_discriminator, y_discriminator: to one logit an example, or a patch; likewise.
      map_optimizer: of both maps together. discriminator_optimizer: of both discriminators.
      loss: a pair out of `dljax.objectives.ADVERSARIAL_LOSSES`.
      cycle_weight: λ >= 0; identity_weight: μ >= 0, above 0 only where x and y have one shape. Both may be traced.
    Returns:
      A learner on batches `{"x": [B, ...], "y": [B, ...]}`, not in pairs, with metrics `map_loss` (adversarial), `cycle_loss` and `identity_loss`
      (without their weights), `discriminator_loss`, `map_gradient` and `discriminator_gradient`, all []. Its functions are
      `forward(key, params, x)` and `backward(key, params, y)`. Its params are `{"forward", "backward", "x_discriminator", "y_discriminator"}`,
      variables each.
    Raises:
      ValueError: a weight < 0; when the first batch comes: a map whose outputs are not shaped as the other kind.
    Source: Zhu et al. (2017), Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, eq. 1 to 4 and section 5.2.

    >>> from flax import linen
    >>> learner = cycle_gan(*(linen.Dense(size) for size in (3, 2, 1, 1)), optax.adam(1e-3), optax.adam(1e-3))
    >>> batch = {"x": jnp.ones((4, 2)), "y": jnp.zeros((4, 3))}
    >>> state, metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
    >>> learner.functions["forward"](jax.random.key(2), learner.params(state), batch["x"]).shape
    (4, 3)
    """
    check_range("cycle_gan", "cycle_weight", cycle_weight, 0)
    check_range("cycle_gan", "identity_weight", identity_weight, 0)
    maps = {"forward": as_model(forward), "backward": as_model(backward)}
    judges = {"x_discriminator": as_model(x_discriminator), "y_discriminator": as_model(y_discriminator)}
    is_identity_free = isinstance(identity_weight, int | float) and identity_weight == 0

    def init(key: Key, batch: Batch) -> CycleGANState:
        map_key, discriminator_key = jax.random.split(key)
        x, y = batch["x"], batch["y"]
        both = team(maps, map_key, {"forward": (x,), "backward": (y,)}, map_optimizer)
        for name, given, wanted in (("forward", x, y), ("backward", y, x)):
            made = jax.eval_shape(lambda name=name, given=given: maps[name].apply(members(both)[name], given)[0])
            if made.shape != wanted.shape:
                raise ValueError(f"cycle_gan: {name} must map {given.shape} to {wanted.shape}, got {made.shape}")
        critics = team(judges, discriminator_key, {"x_discriminator": (x,), "y_discriminator": (y,)}, discriminator_optimizer)
        return CycleGANState(both, critics, jnp.int32(0))

    def step(key: Key, state: CycleGANState, batch: Batch) -> tuple[CycleGANState, Metrics]:
        keys = jax.random.split(local_key(key))
        x, y = batch["x"], batch["y"]

        def translated(key: Key, theta: Params) -> tuple[Array, Array, dict[str, Variables]]:
            keys = jax.random.split(key)
            made_y, of_forward = applied(maps["forward"], theta["forward"], state.maps.model_state["forward"], (x,), keys[0])
            made_x, of_backward = applied(maps["backward"], theta["backward"], state.maps.model_state["backward"], (y,), keys[1])
            return made_x, made_y, {"forward": of_forward, "backward": of_backward}

        def logits(key: Key, psi: Params, made: dict[str, Array], critics: Player) -> tuple[list, Variables]:
            values, states = [], {}
            for number, (name, real) in enumerate((("x_discriminator", x), ("y_discriminator", y))):
                real_key, fake_key = jax.random.split(jax.random.fold_in(key, number))
                of_real, seen = judged("cycle_gan", judges[name], psi[name], critics.model_state[name], (real,), real_key, len(real))
                of_fake, states[name] = judged("cycle_gan", judges[name], psi[name], seen, (made[name],), fake_key, len(real))
                values.append((of_real.logits, of_fake.logits))
            return values, states

        def teach(psi: Params) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
            map_key, judge_key = jax.random.split(keys[0])
            made_x, made_y, _ = translated(map_key, state.maps.params)
            values, states = logits(judge_key, psi, {"x_discriminator": made_x, "y_discriminator": made_y}, state.discriminators)
            value = sum((loss.discriminator(*pair) for pair in values), jnp.zeros(()))
            return value, (states, {"discriminator_loss": value})

        critics, metrics = moved("discriminator", teach, state.discriminators, state.discriminators, discriminator_optimizer)

        def answer(theta: Params) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
            map_key, judge_key, *rest = jax.random.split(keys[1], 6)
            made_x, made_y, states = translated(map_key, theta)
            values, _ = logits(judge_key, critics.params, {"x_discriminator": made_x, "y_discriminator": made_y}, critics)
            value = sum((loss.generator(*pair) for pair in values), jnp.zeros(()))
            cycle, identity = jnp.zeros(()), jnp.zeros(())
            ways = [("backward", made_y, x), ("forward", made_x, y)] + ([] if is_identity_free else [("forward", y, y), ("backward", x, x)])
            for number, (name, given, wanted) in enumerate(ways):
                made, states[name] = applied(maps[name], theta[name], states[name], (given,), rest[number])
                error = jnp.abs(made - wanted).mean()
                cycle, identity = (cycle + error, identity) if number < 2 else (cycle, identity + error)
            total = value + cycle_weight * cycle + (0 if is_identity_free else identity_weight * identity)
            return total, (states, {"map_loss": value, "cycle_loss": cycle, "identity_loss": identity})

        both, map_metrics = moved("map", answer, state.maps, state.maps, map_optimizer)
        return CycleGANState(both, critics, state.steps + 1), {**metrics, **map_metrics}

    def to(name: str) -> Any:
        def mapped(key: Key, params: Params, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
            return maps[name].apply(params[name], x)[0]

        return mapped

    return Learner(
        init,
        step,
        lambda state: members(state.maps) | members(state.discriminators),
        functions={"forward": to("forward"), "backward": to("backward")},
    )
