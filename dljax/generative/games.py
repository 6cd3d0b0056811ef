"""Games of two players: their gradients, and how far they are from an equilibrium."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.core.contract import Params

type_aliases = ("Objective",)

Objective = Callable[[Params, Params], tuple[Float[Array, ""], Any]]  # (θ, ψ) -> (what is minimised [], anything else)


class Game(NamedTuple):
    """Two players, each of whom minimises an objective of both players' parameters by their own.

      θ: min L_G(θ, ψ),   ψ: min L_D(θ, ψ)

    Attributes:
      generator, discriminator: `(θ, ψ) -> (value [], auxiliary)`; all chance is decided already.

    >>> bilinear = Game(lambda x, y: (x * y, ()), lambda x, y: (-x * y, ()))
    >>> bilinear.generator(2.0, 3.0)
    (6.0, ())
    """

    generator: Objective
    discriminator: Objective


def gradients(game: Game, theta: Params, psi: Params) -> tuple[tuple[Params, Any], tuple[Params, Any]]:
    """The game's vector field: for each player the gradient of their own objective by their own parameters, and what else it returns.

    >>> (up, _), (down, _) = gradients(Game(lambda x, y: (x * y, ()), lambda x, y: (-x * y, ())), 2.0, 3.0)
    >>> float(up), float(down)
    (3.0, -2.0)
    """
    return jax.grad(game.generator, 0, has_aux=True)(theta, psi), jax.grad(game.discriminator, 1, has_aux=True)(theta, psi)


def duality_gap(
    game: Game,
    theta: Params,
    psi: Params,
    generator_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
) -> Float[Array, ""]:
    """How much the players could gain if each alone were to change: zero at an equilibrium and nowhere else.

      [L_G(θ, ψ) - min_θ' L_G(θ', ψ)] + [L_D(θ, ψ) - min_ψ' L_D(θ, ψ')]

    Of a zero-sum game it is max_ψ' L_G(θ, ψ') - min_θ' L_G(θ', ψ). The minima are the least values that `num_steps` steps of the optimizers, started
    afresh from θ and ψ, come upon: a lower bound of the gap of this batch.

    Args:
      game, theta, psi: where the players stand.
      generator_optimizer, discriminator_optimizer: how the worst cases are looked for.
      num_steps: >= 0.
    Returns:
      The gap, >= 0.
    Raises:
      ValueError: `num_steps` < 0.
    Source: Grnarova et al. (2019), A Domain Agnostic Measure for Monitoring and Evaluating GANs, eq. 3 and section 4.

    >>> saddle = Game(lambda x, y: (x**2 / 2 + x * y - y**2 / 2, ()), lambda x, y: (y**2 / 2 - x * y - x**2 / 2, ()))
    >>> gap = duality_gap(saddle, jnp.float32(1.0), jnp.float32(0.0), optax.sgd(0.5), optax.sgd(0.5), num_steps=40)
    >>> round(float(gap), 4)  # f(1, y) is 1 at most, f(x, 0) 0 at least
    1.0
    """
    check_int("duality_gap", "num_steps", num_steps, minimum=0)

    def regret(objective: Callable[[Params], Float[Array, ""]], params: Params, optimizer: optax.GradientTransformation) -> Float[Array, ""]:
        def improve(carry: tuple[Params, Any], _: None) -> tuple[tuple[Params, Any], Float[Array, ""]]:
            params, opt_state = carry
            value, grads = jax.value_and_grad(objective)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        (last, _), values = lax.scan(improve, (params, optimizer.init(params)), None, length=num_steps)
        values = jnp.append(values, objective(last))
        return values[0] - values.min()

    return regret(lambda theta: game.generator(theta, psi)[0], theta, generator_optimizer) + regret(
        lambda psi: game.discriminator(theta, psi)[0], psi, discriminator_optimizer
    )
