"""The players of adversarial games: what they hold, what they say and how they move."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float

from dljax.core.axis import pmean
from dljax.core.contract import Key, Metrics, Numeric, Params
from dljax.nn.model import Model, Variables
from dljax.objectives.adversarial import Logits


class Player(NamedTuple):
    """One of the networks of a game: its trained parameters, its other collections and its optimiser's state."""

    params: Params
    model_state: Variables
    opt_state: optax.OptState


class Judgement(NamedTuple):
    """What a discriminator says of a batch: logits, one an example or one a patch of each, and whatever further outputs it has, or None."""

    logits: Logits
    further: Any = None


def player(model: Model, key: Key, inputs: tuple[Any, ...], optimizer: optax.GradientTransformation) -> Player:
    """A fresh player, initialised by the inputs that it will be given.

    >>> import jax.numpy as jnp
    >>> from flax import linen
    >>> from dljax.nn.model import as_model
    >>> fresh = player(as_model(linen.Dense(2)), jax.random.key(0), (jnp.ones((1, 3)),), optax.sgd(0.1))
    >>> sorted(fresh.params), fresh.model_state
    (['bias', 'kernel'], {})
    """
    params, model_state = split(model.init(key, *inputs))
    return Player(params, model_state, optimizer.init(params))


def split(variables: Variables) -> tuple[Params, Variables]:
    """A model's variables as its parameters and its other collections.

    >>> split({"params": 1, "batch_stats": 2})
    (1, {'batch_stats': 2})
    """
    return variables.get("params", {}), {name: value for name, value in variables.items() if name != "params"}


def variables_of(player: Player) -> Variables:
    """The variables of a player's model.

    >>> variables_of(Player(1, {"batch_stats": 2}, ()))
    {'params': 1, 'batch_stats': 2}
    """
    return {"params": player.params, **player.model_state}


def moved(
    name: str, objective: Callable[[Params], Any], at: Player, start: Player, optimizer: optax.GradientTransformation
) -> tuple[Player, Metrics]:
    """The player `start` after the step that the optimizer makes of the gradient at `at`.

    Args:
      name: of the player, for the metric `<name>_gradient`, the norm.
      objective: `params -> (value [], (model_state, metrics))`.

    >>> import jax.numpy as jnp
    >>> corner = Player(jnp.float32(1.0), {}, optax.sgd(0.5).init(1.0))
    >>> player, metrics = moved("generator", lambda x: (x**2, ({}, {})), corner, corner, optax.sgd(0.5))
    >>> float(player.params), float(metrics["generator_gradient"])
    (0.0, 2.0)
    """
    grads, (model_state, metrics) = jax.grad(objective, has_aux=True)(at.params)
    grads = pmean(grads)
    updates, opt_state = optimizer.update(grads, at.opt_state, start.params)
    player = Player(optax.apply_updates(start.params, updates), pmean(model_state), opt_state)
    return player, metrics | {f"{name}_gradient": optax.tree.norm(grads)}


def averaged(decay: Numeric, old: Params, new: Params) -> Params:
    """One step of a running average of parameters, in their own dtypes.

    >>> import jax.numpy as jnp
    >>> float(averaged(0.75, jnp.float32(4.0), jnp.float32(8.0)))
    5.0
    """
    return jax.tree.map(lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), old, new)


def applied(model: Model, params: Params, model_state: Variables, inputs: tuple[Any, ...], key: Key) -> tuple[Any, Variables]:
    """A model's outputs in training, and its changed collections.

    >>> from dljax.nn.model import as_model
    >>> double = as_model((lambda key, x: 2.0, lambda params, x: params * x))
    >>> applied(double, 2.0, {}, (3.0,), jax.random.key(0))
    (6.0, {})
    """
    outputs, changed = model.apply({"params": params, **model_state}, *inputs, key=key, train=True)
    return outputs, {name: value for name, value in changed.items() if name in model_state}


def judgement(who: str, outputs: Any, num: int) -> Judgement:
    """A discriminator's outputs, checked: logits, or a pair of logits and anything further.

    Args:
      who: the learner, for the message.
      outputs: logits [B], [B, 1] or, of patches, [B, ..., 1].
      num: B.
    Returns:
      The logits of all examples, and of all patches of each, as one vector.
    Raises:
      ValueError: logits of any other shape.

    >>> import jax.numpy as jnp
    >>> judgement("gan", (jnp.zeros((4, 1)), "further"), 4).logits.shape, judgement("gan", jnp.zeros((4, 7, 7, 1)), 4).logits.shape
    ((4,), (196,))
    """
    logits, further = outputs if isinstance(outputs, tuple) else (outputs, None)
    shape = logits.shape
    if shape != (num,) and not (shape[:1] == (num,) and shape[-1:] == (1,) and len(shape) > 1):
        raise ValueError(
            f"{who}: the discriminator must give one logit an example, [{num}] or [{num}, 1], got {shape}; one a patch is [{num}, ..., 1]"
        )
    return Judgement(logits.reshape(-1), further)


def judged(
    who: str, model: Model, params: Params, model_state: Variables, inputs: tuple[Any, ...], key: Key, num: int
) -> tuple[Judgement, Variables]:
    """What a discriminator says of `num` examples in training, and its changed collections.

    >>> import jax.numpy as jnp
    >>> from dljax.nn.model import as_model
    >>> slope = as_model((lambda key, x: 2.0, lambda params, x: params * x[:, 0]))
    >>> judged("gan", slope, 2.0, {}, (jnp.ones((2, 3)),), jax.random.key(0), 2)[0].logits.tolist()
    [2.0, 2.0]
    """
    outputs, model_state = applied(model, params, model_state, inputs, key)
    return judgement(who, outputs, num), model_state


def one_each(logits: Float[Array, " P"], num: int) -> Float[Array, " B"]:
    """One logit an example: the mean over its patches.

    >>> import jax.numpy as jnp
    >>> one_each(jnp.array([1.0, 3.0, 5.0, 5.0]), 2).tolist()
    [2.0, 5.0]
    """
    return logits if logits.shape == (num,) else logits.reshape(num, -1).mean(1)


def team(models: Mapping[str, Model], key: Key, inputs: Mapping[str, tuple[Any, ...]], optimizer: optax.GradientTransformation) -> Player:
    """Several networks that move as one player: its parameters and other collections are dicts by their names.

    Args:
      inputs: what each will be given.

    >>> import jax.numpy as jnp
    >>> from flax import linen
    >>> from dljax.nn.model import as_model
    >>> both = team({"there": as_model(linen.Dense(2)), "back": as_model(linen.Dense(3))}, jax.random.key(0),
    ...             {"there": (jnp.ones((1, 3)),), "back": (jnp.ones((1, 2)),)}, optax.sgd(0.1))
    >>> sorted(members(both))
    ['back', 'there']
    """
    keys = jax.random.split(key, len(models))
    parts = {name: split(model.init(key, *inputs[name])) for (name, model), key in zip(models.items(), keys, strict=True)}
    params = {name: part[0] for name, part in parts.items()}
    return Player(params, {name: part[1] for name, part in parts.items()}, optimizer.init(params))


def members(player: Player) -> dict[str, Variables]:
    """The variables of each of a team's models.

    >>> members(Player({"there": 1}, {"there": {"batch_stats": 2}}, ()))
    {'there': {'params': 1, 'batch_stats': 2}}
    """
    return {name: {"params": params, **player.model_state[name]} for name, params in player.params.items()}
