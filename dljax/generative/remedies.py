"""Remedies for the ills of adversarial training: what they change is what the discriminator sees, the game, or the order of moves.

What changes a model, a loss or an optimizer alone needs no help from `gan` and is a function of it: `dljax.nn.spectral_norm(discriminator)`, the
layers `MinibatchDiscrimination` and `MinibatchDeviation`, `dljax.objectives.label_smoothing(loss)`, `dljax.optim.projected` and
`historical_averaging`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Metrics, Numeric, Params, State
from dljax.generative.games import Game, Objective, gradients

type_aliases = ("View", "Move", "Play")

View = Callable[[Key, Int[Array, ""], Float[Array, "B ..."]], Float[Array, "A ..."]]  # (key, steps so far, examples) -> what is judged
Move = Callable[[State, State], tuple[State, Metrics]]
Play = Callable[[Move, State], tuple[State, Metrics]]


class Remedy(NamedTuple):
    """A change to how a GAN is trained, of up to three parts; what is None is left as it is.

    Attributes:
      view: `(key, steps, x [B, ...]) -> x' [A, ...]`: what the discriminator is shown of every batch, real or generated, in either player's step;
        `steps` counts the updates of the generator. It may group examples: there are A logits then. Penalties see what the discriminator sees.
      game: `Game -> Game`: other objectives made of the two.
      play: `(move, state) -> (state, metrics)`: one step of both players at once instead of one after the other. `move(at, start)` is `start` with
        the updates that the optimizers make of the gradients at `at`, and of their states there.

    >>> mirrored = Remedy(view=lambda key, steps, x: -x)
    >>> mirrored.view(jax.random.key(0), 0, jnp.ones(2)).tolist()
    [-1.0, -1.0]
    """

    view: View | None = None
    game: Callable[[Game], Game] | None = None
    play: Play | None = None


def instance_noise(scale: Numeric, steps: int | None = None) -> Remedy:
    """Noise on all that the discriminator sees, so that real and generated examples always overlap.

      x + σ_t ε,   σ_t = σ max(0, 1 - t/T),   ε ~ N(0, I)

    Args:
      scale: σ >= 0, in the units of the data; may be traced.
      steps: T >= 1, after which there is none; None leaves it at σ.
    Raises:
      ValueError: an option out of its range.
    Source: Sønderby et al. (2017), Amortised MAP Inference for Image Super-resolution, section 3.4; Arjovsky and Bottou (2017), section 3.

    >>> remedy = instance_noise(0.1, steps=100)
    >>> remedy.view(jax.random.key(0), jnp.int32(100), jnp.ones((2, 1))).tolist()
    [[1.0], [1.0]]
    """
    check_range("instance_noise", "scale", scale, 0)
    if steps is not None:
        check_int("instance_noise", "steps", steps, minimum=1)

    def view(key: Key, step: Int[Array, ""], x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        share = 1.0 if steps is None else jnp.maximum(1 - step / steps, 0)
        return x + (scale * share * jax.random.normal(key, x.shape, x.dtype)).astype(x.dtype)

    return Remedy(view=view)


def packing(num: int) -> Remedy:
    """The discriminator judges several examples together, which betrays a generator that repeats itself.

      D(x_1, ..., x_m): one logit a pack, of all real or all generated examples

    The discriminator must take what `pack` makes: m times as many features (channels) as the data have.

    Args:
      num: m >= 1.
    Raises:
      ValueError: `num` < 1; when traced: a batch that it does not divide.
    Source: Lin, Khetan, Fanti and Oh (2018), PacGAN: The power of two samples in generative adversarial networks, section 2.1.

    >>> packing(2).view(jax.random.key(0), 0, jnp.zeros((6, 5, 5, 3))).shape
    (3, 5, 5, 6)
    """
    check_int("packing", "num", num, minimum=1)
    return Remedy(view=lambda key, steps, x: pack(x, num))


def pack(x: Float[Array, "B ... D"], num: int) -> Float[Array, "A ... E"]:
    """A batch as packs: `num` consecutive examples side by side along the last axis.

    Raises:
      ValueError: `num` does not divide the batch.

    >>> pack(jnp.arange(4.0)[:, None], 2).tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    if x.shape[0] % num:
        raise ValueError(f"packing: the batch of {x.shape[0]} examples must be divisible by num, got {num}")
    groups = x.reshape(x.shape[0] // num, num, *x.shape[1:])
    return jnp.moveaxis(groups, 1, -2).reshape(groups.shape[0], *x.shape[1:-1], num * x.shape[-1])


def unrolled(num_steps: int, learning_rate: Numeric) -> Remedy:
    """The generator answers the discriminator of some steps ahead, and sees how that depends on itself.

      min_θ L_G(θ, ψ_k(θ)),   ψ_0 = ψ,   ψ_{i+1} = ψ_i - η ∇_ψ L_D(θ, ψ_i)

    Args:
      num_steps: k >= 0; 0 is the plain game.
      learning_rate: η > 0; may be traced.
    Raises:
      ValueError: an option out of its range.
    Source: Metz, Poole, Pfau and Sohl-Dickstein (2017), Unrolled Generative Adversarial Networks, eq. 3 to 7.

    >>> game = Game(lambda x, y: (x * y, ()), lambda x, y: (y * y / 2 - x * y, ()))
    >>> jax.grad(lambda x: unrolled(1, 0.5).game(game).generator(x, 0.0)[0])(2.0)  # d/dx of x · (x/2)
    Array(2., dtype=float32, weak_type=True)
    """
    check_int("unrolled", "num_steps", num_steps, minimum=0)
    check_range("unrolled", "learning_rate", learning_rate, 0, open_low=True, open_high=True)

    def ahead(game: Game) -> Game:
        def generator(theta: Params, psi: Params) -> tuple[Float[Array, ""], Any]:
            def teach(psi: Params, _: None) -> tuple[Params, None]:
                grads, _ = jax.grad(game.discriminator, 1, has_aux=True)(theta, psi)
                return jax.tree.map(lambda old, grad: (old - learning_rate * grad).astype(old.dtype), psi, grads), None

            psi = jax.tree.map(jnp.asarray, psi)
            return game.generator(theta, lax.scan(teach, psi, None, length=num_steps)[0])

        return game._replace(generator=generator)

    return Remedy(game=ahead)


def consensus(weight: Numeric) -> Remedy:
    """Both players also want the game to be at rest: its rotation turns into a pull towards the equilibrium.

      L + γ/2 (|∇_θ L_G|² + |∇_ψ L_D|²),   whose gradient is v + γ Jᵀ v,   v = (∇_θ L_G, ∇_ψ L_D),   J = v'

    Args:
      weight: γ >= 0; may be traced.
    Raises:
      ValueError: γ < 0.
    Source: Mescheder, Nowozin and Geiger (2017), The Numerics of GANs, eq. 9 and 10.

    >>> game = consensus(0.5).game(Game(lambda x, y: (x * y, ()), lambda x, y: (-x * y, ())))
    >>> float(game.generator(2.0, 3.0)[0])  # 6 + (9 + 4)/4
    9.25
    """
    check_range("consensus", "weight", weight, 0)

    def agreed(game: Game) -> Game:
        def unrest(theta: Params, psi: Params) -> Float[Array, ""]:
            return weight / 2 * sum(optax.tree.norm(grads, squared=True) for grads, _ in gradients(game, theta, psi))

        def added(objective: Objective) -> Objective:
            def total(theta: Params, psi: Params) -> tuple[Float[Array, ""], Any]:
                value, auxiliary = objective(theta, psi)
                return value + unrest(theta, psi), auxiliary

            return total

        return Game(added(game.generator), added(game.discriminator))

    return Remedy(game=agreed)


def simultaneous() -> Remedy:
    """Both players move at once, from where both are: the plain gradient step of the game.

      (θ, ψ) ← (θ, ψ) - η v(θ, ψ)

    >>> simultaneous().play(lambda at, start: (start + at, {}), 3)
    (6, {})
    """
    return Remedy(play=lambda move, state: move(state, state))


def extragradient() -> Remedy:
    """Both players look one step ahead and take from here the step that they would take there.

      ω' = ω - η v(ω),   ω ← ω - η v(ω')

    On xy it converges for η < 1, where simultaneous steps move away and alternating ones go round. The optimizers are asked twice a step, the second
    time with what they learned in the first (as extra-Adam does); a schedule therefore counts two. Both steps see the same examples and latents.

    Source: Korpelevich (1976); Gidel et al. (2019), A Variational Inequality Perspective on GANs, algorithms 2 and 4; the same examples twice:
      Mishchenko et al. (2020), Revisiting Stochastic Extragradient.

    >>> extragradient().play(lambda at, start: (start - at / 2, {}), 4.0)
    (3.0, {})
    """

    def play(move: Move, state: State) -> tuple[State, Metrics]:
        ahead, _ = move(state, state)
        return move(ahead, state)

    return Remedy(play=play)
