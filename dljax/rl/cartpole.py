"""CartPole: a pole on a cart, balanced by pushing the cart left or right (Barto, Sutton and Anderson, 1983)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dljax.core import Key, Numeric
from dljax.rl.angles import sin_cos
from dljax.rl.environment import Environment, Transition, time_limit
from dljax.rl.spaces import Box, Discrete


class CartPoleParams(NamedTuple):
    """The constants of the dynamics, numbers that may be traced.

    Attributes:
      gravity: m/s².
      mass_cart, mass_pole: kg.
      half_length: of the pole, m.
      force: of a push, N.
      time_step: of the Euler integrator, s.
      max_angle: of the pole, radians; an episode ends beyond.
      max_position: of the cart, m; an episode ends beyond.

    >>> CartPoleParams(gravity=1.62).mass_cart
    1.0
    """

    gravity: Numeric = 9.8
    mass_cart: Numeric = 1.0
    mass_pole: Numeric = 0.1
    half_length: Numeric = 0.5
    force: Numeric = 10.0
    time_step: Numeric = 0.02
    max_angle: Numeric = 12 * 2 * math.pi / 360
    max_position: Numeric = 2.4


class CartPoleState(NamedTuple):
    """Position (m) and speed (m/s) of the cart, angle (radians, 0 upright) and angular speed (radians/s) of the pole."""

    x: Float[Array, "*B"]
    x_dot: Float[Array, "*B"]
    theta: Float[Array, "*B"]
    theta_dot: Float[Array, "*B"]


def cartpole(params: CartPoleParams = CartPoleParams(), max_steps: Numeric | None = 500) -> Environment:
    """CartPole-v1: reward 1 for each step until the pole falls, the cart leaves the track, or the time is over.

      θ̈ = (g sin θ - cos θ · t) / (l (4/3 - m cos² θ / M)),   ẍ = t - m l θ̈ cos θ / M,   t = (F + m l θ̇² sin θ) / M

    with M the mass of cart and pole, one explicit Euler step of 0.02 s per action. Equal to gymnasium's CartPole-v1 step for step,
    in the precision of jax's default float (gymnasium computes in float64).

    Args:
      params: the constants of the dynamics.
      max_steps: steps until an episode is truncated, >= 1, may be traced; None for no limit.
    Returns:
      An environment with observations [4] (x, ẋ, θ, θ̇), actions 0 (push left) and 1 (push right), starts uniform in ±0.05.
    Raises:
      ValueError: `max_steps` < 1.
    Source: Barto, Sutton and Anderson (1983), IEEE SMC 13; Florian (2007), "Correct equations for the dynamics of the cart-pole system";
      gymnasium's CartPole-v1.

    >>> env = cartpole()
    >>> state, observation = env.reset(jax.random.key(0), env.params)
    >>> transition = env.step(jax.random.key(1), state, 1, env.params)
    >>> transition.observation.shape, float(transition.reward), bool(transition.terminated)
    ((4,), 1.0, False)
    """

    def reset(key: Key, params: CartPoleParams) -> tuple[CartPoleState, Float[Array, "4"]]:
        start = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return CartPoleState(*start), start

    def step(key: Key, state: CartPoleState, action: Int[Array, ""], params: CartPoleParams) -> Transition:
        dtype = state.x.dtype
        p = CartPoleParams(*(jnp.asarray(value, dtype) for value in params))
        x, x_dot, theta, theta_dot = state
        total_mass = p.mass_cart + p.mass_pole
        moment = p.mass_pole * p.half_length
        sin, cos = sin_cos(theta)
        force = jnp.where(action == 1, p.force, -p.force)
        push = (force + moment * jnp.square(theta_dot) * sin) / total_mass
        theta_acc = (p.gravity * sin - cos * push) / (p.half_length * (4 / 3 - p.mass_pole * jnp.square(cos) / total_mass))
        x_acc = push - moment * theta_acc * cos / total_mass
        new = CartPoleState(
            x + p.time_step * x_dot,
            x_dot + p.time_step * x_acc,
            theta + p.time_step * theta_dot,
            theta_dot + p.time_step * theta_acc,
        )
        terminated = (jnp.abs(new.x) > p.max_position) | (jnp.abs(new.theta) > p.max_angle)
        return Transition(new, jnp.stack(new), jnp.ones((), dtype), terminated, jnp.bool_(False))

    # Beyond twice the limits only speeds go: the space holds the observation that ends an episode.
    bounds = (4.8, math.inf, 2 * 12 * 2 * math.pi / 360, math.inf)
    env = Environment(reset, step, Box(tuple(-bound for bound in bounds), bounds, (4,)), Discrete(2), params, "cartpole")
    return env if max_steps is None else time_limit(env, max_steps)


def draw_cartpole(
    observation: Float[np.ndarray, "T 4"], params: CartPoleParams = CartPoleParams(), width: int = 300, height: int = 200
) -> np.ndarray:
    """Pictures of the cart and the pole, drawn with NumPy.

    Args:
      observation: [T, 4], concrete.
      params: for the length of the pole and of the track.
      width, height: of a picture in pixels.
    Returns:
      uint8 [T, height, width, 3].

    >>> draw_cartpole(np.zeros((2, 4))).shape
    (2, 200, 300, 3)
    """
    position, angle = np.asarray(observation, np.float64)[:, 0, None, None], np.asarray(observation, np.float64)[:, 2, None, None]
    scale = width / (2.4 * float(params.max_position))  # pixels a metre; the track and a margin
    row, column = np.mgrid[:height, :width]
    x = (column[None] - width / 2) / scale - position  # metres from the pivot, which moves with the cart
    y = (0.72 * height - row[None]) / scale
    along = x * np.sin(angle) + y * np.cos(angle)
    across = x * np.cos(angle) - y * np.sin(angle)
    is_rail = np.broadcast_to(np.abs(y + 0.18) < 0.5 / scale, along.shape)
    is_cart = (np.abs(x) < 0.25) & (np.abs(y + 0.08) < 0.1)
    is_pole = (np.abs(across) < 0.05) & (along > -0.05) & (along < 2 * float(params.half_length))
    is_axle = x**2 + y**2 < 0.04**2
    frames = np.full((*along.shape, 3), 255, np.uint8)
    for mask, colour in ((is_rail, (150, 150, 150)), (is_cart, (40, 40, 40)), (is_pole, (202, 152, 101)), (is_axle, (129, 132, 203))):
        frames[mask] = colour
    return frames
