"""Continuous normalizing flows: noise and data are two ends of a differential equation. FFJORD (Grathwohl et al., 2019); diffrax solves."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_choice, check_int
from dljax.core.contract import Key, Params
from dljax.core.precision import wrap
from dljax.generative.bijectors import Bijector, Mapped, Point
from dljax.nn.dense import Dense
from dljax.nn.ode import ODEConfig, solve_ode


def continuous(*, hidden: Sequence[int] = (64, 64), config: ODEConfig = ODEConfig(), trace: str = "exact") -> Bijector:
    """A flow of continuous depth: any smooth field makes one, without a triangular or bounded network.

      dx/dt = f(x, t, c),   x(0) = z,   x(1) = the data point,   log|det ∂x/∂z| = ∫₀¹ tr(∂f/∂x) dt

    Args:
      hidden: widths of f, a tanh network of (x, t, c) whose last layer begins at zero: at first nothing flows.
      config: the solver, its tolerances and the adjoint. Each point takes steps of its own. A solver that fails makes the density NaN.
      trace: of what a flow is trained by: "exact" (D passes), or "hutchinson": vᵀ(∂f/∂x)v of one sign vector for the whole way, in one pass.
        `inverse` and `forward` are exact.
    Raises:
      ValueError: an option out of its range.
    Source: Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud (2019), FFJORD, eq. 3-7; Chen et al. (2018), Neural ODEs, theorem 1.

    >>> layer = continuous(hidden=(8,), config=ODEConfig("heun", num_steps=2))
    >>> params = layer.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> layer.forward(params, jnp.array([1.0, 2.0]))[0].tolist()
    [1.0, 2.0]
    """
    for width in hidden:
        check_int("continuous", "hidden", width, minimum=1)
    check_choice("continuous", "trace", trace, ("exact", "hutchinson"))

    def network(size: int) -> linen.Module:
        layers: list[Any] = [layer for width in hidden for layer in (Dense(width), linen.tanh)]
        return linen.Sequential([*layers, Dense(size, kernel_init=linen.initializers.zeros)])

    def init(key: Key, x: Num[Array, "B D"], *context: Array) -> Params:
        inputs = jnp.concatenate([x[0], jnp.zeros(1, x.dtype), *(part[0] for part in context)])
        return network(x.shape[1]).init(key, inputs)

    def field(params: tuple[Params, tuple[Array, ...]], x: Point, t: Float[Array, ""]) -> Point:
        inputs = jnp.concatenate([x, t[None].astype(x.dtype), *params[1]])
        return wrap(network(x.size).apply)(params[0], inputs)

    def solve(params: Params, x: Point, context: tuple[Array, ...], ends: tuple[float, float], signs: Point | None = None) -> Mapped:
        def slopes(arguments: Any, state: Mapped, t: Float[Array, ""]) -> Mapped:
            inner, signs = arguments
            here: Callable[[Point], Point] = lambda x: field(inner, x, t)  # noqa: E731
            if signs is None:
                slope, along = jax.vmap(lambda unit: jax.jvp(here, (state[0],), (unit,)), out_axes=(None, 0))(jnp.eye(x.size, dtype=x.dtype))
                return slope, jnp.trace(along)
            slope, along = jax.jvp(here, (state[0],), (signs,))
            return slope, along @ signs

        solution = solve_ode(slopes, ((params, context), signs), (x, jnp.zeros((), x.dtype)), ends, config)
        return solution.states[0][-1], solution.states[1][-1]

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        return solve(params, z, context, (0.0, 1.0))

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        return solve(params, x, context, (1.0, 0.0))

    def estimate(key: Key, params: Params, x: Point, *context: Array) -> Mapped:
        return solve(params, x, context, (1.0, 0.0), jax.random.rademacher(key, x.shape, x.dtype))

    return Bijector(init, forward, inverse, estimate if trace == "hutchinson" else None)
