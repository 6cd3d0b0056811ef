"""Flows that need no coordinates: continuous flows on a manifold (Mathieu and Nickel, 2020) and Moser flow (Rozen et al., 2021)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dljax.core.axis import local_key, pmean
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Fold, Key, Learner, Mean, Metrics, Numeric, Params
from dljax.generative.bijectors import Bijector, Mapped
from dljax.generative.distribution import Distribution
from dljax.generative.sphere import log_sphere_area, uniform_sphere, unit
from dljax.generative.torus import uniform_torus, wrap_angle
from dljax.nn.model import as_model
from dljax.nn.ode import ODEConfig, solve_ode

type_aliases = ("Point",)

Point = Float[Array, " D"]


class Manifold(NamedTuple):
    """What flows ask of a compact manifold whose points are D numbers.

    Attributes:
      size: D.
      project: `x [D] -> [D]`, the nearest point of the manifold.
      tangent: `(x, v [D]) -> [D]`, the part of v that is tangent at x.
      embed: `x -> [E]`, smooth features without a seam, which networks see.
      uniform: the distribution that is the same everywhere.
      log_volume: the logarithm of the length, area or volume.

    >>> sphere(3).tangent(jnp.array([0.0, 0.0, 1.0]), jnp.ones(3)).tolist()
    [1.0, 1.0, 0.0]
    """

    size: int
    project: Callable[[Point], Point]
    tangent: Callable[[Point, Point], Point]
    embed: Callable[[Point], Float[Array, " E"]]
    uniform: Distribution
    log_volume: float


def sphere(size: int) -> Manifold:
    """The unit sphere in R^d, points as unit vectors.

    Args:
      size: d >= 2.
    Raises:
      ValueError: `size` < 2.

    >>> round(math.exp(sphere(3).log_volume) / math.pi, 6)
    4.0
    """
    return Manifold(size, unit, lambda x, v: v - (x * v).sum() * x, lambda x: x, uniform_sphere(size), log_sphere_area(size))


def torus(size: int) -> Manifold:
    """The flat torus, points as D angles in [-π, π).

    Args:
      size: D >= 1.
    Raises:
      ValueError: `size` < 1.

    >>> torus(2).embed(jnp.zeros(2)).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """

    def embed(x: Point) -> Float[Array, " E"]:
        return jnp.concatenate([jnp.cos(x), jnp.sin(x)])

    return Manifold(size, wrap_angle, lambda x, v: v, embed, uniform_torus(size), size * math.log(2 * math.pi))


def divergence(manifold: Manifold, field: Callable[[Point], Point], x: Point) -> tuple[Point, Float[Array, ""]]:
    """A vector field made tangent, and its divergence on the manifold, at one point.

      u(x) = P_x v(x),   div u = tr ∂(u ∘ project)/∂x

    Extended like that, u is constant across the manifold, and the trace in R^D is the manifold's own divergence.

    Args:
      field: v, from a point to D numbers.

    >>> up = lambda x: jnp.array([0.0, 0.0, 1.0])  # the gradient of the height, whose Laplacian on S² is -2 z
    >>> round(float(divergence(sphere(3), up, jnp.array([0.0, 0.6, 0.8]))[1]), 4)
    -1.6
    """

    def extended(x: Point) -> Point:
        x = manifold.project(x)
        return manifold.tangent(x, field(x))

    value, push = jax.linearize(extended, x)
    return value, jnp.trace(jax.vmap(push)(jnp.eye(x.size, dtype=x.dtype)))


def continuous_flow(manifold: Manifold, field: Any, *, config: ODEConfig = ODEConfig("tsit5", num_steps=8)) -> Bijector:
    """A flow along a learned, time-dependent vector field: a Riemannian continuous normalizing flow.

      dx/dt = u_t(x) = P_x v(embed(x), t),   d log|det|/dt = div u_t,   t from 0 (noise) to 1 (data)

    The divergence is exact: D products with the Jacobian at each evaluation. Its base is `manifold.uniform`.

    Args:
      field: v, from [B, E + 1] (features and the time) to [B, D]; whatever `dljax.nn.as_model` takes, without running statistics.
      config: of the solver; with adaptive steps under `vmap` the slowest point sets the time.
    Raises:
      ValueError: when the first batch comes: points of another size, a field of another shape.
    Source: Mathieu and Nickel (2020), Riemannian Continuous Normalizing Flows, eq. 4 and section 4.

    >>> from flax import linen
    >>> flow = continuous_flow(sphere(3), linen.Dense(3), config=ODEConfig("heun", num_steps=2))
    >>> params = flow.init(jax.random.key(0), jnp.array([[0.6, 0.0, 0.8]]))
    >>> x, log_det = flow.forward(params, jnp.array([0.6, 0.0, 0.8]))
    >>> round(float(jnp.linalg.norm(x)), 4)
    1.0
    """
    model = as_model(field)

    def init(key: Key, x: Float[Array, "B D"]) -> Params:
        return _init_field("continuous_flow", model, manifold, key, x, num_extra=1)

    def flow(params: Params, x: Point, times: tuple[float, float]) -> Mapped:
        def slope(params: Params, state: tuple[Point, Array], time: Array) -> tuple[Point, Array]:
            def field(x: Point) -> Point:
                features = jnp.concatenate([manifold.embed(x), time.astype(x.dtype)[None]])
                return model.apply({"params": params}, features[None])[0][0]

            return divergence(manifold, field, state[0])

        points, log_dets = solve_ode(slope, params, (x, jnp.zeros((), x.dtype)), times, config).states
        return manifold.project(points[-1]), log_dets[-1]

    return Bijector(init, lambda params, z: flow(params, z, (0.0, 1.0)), lambda params, x: flow(params, x, (1.0, 0.0)))


class MoserState(NamedTuple):
    """The parameters of the vector field and the state of their optimiser."""

    params: Params
    opt_state: optax.OptState


def moser_flow(
    manifold: Manifold,
    field: Any,
    optimizer: optax.GradientTransformation,
    *,
    penalty: Numeric = 10.0,
    floor: float = 1e-5,
    num_uniform: int = 512,
    config: ODEConfig = ODEConfig("tsit5", num_steps=32),
) -> Learner:
    """A density that is the uniform one less the divergence of a vector field: no differential equation is solved in training.

      μ = ν - div u,   ∫ μ = 1 whatever u is;   μ₊ = max(ε, μ),   μ₋ = ε - min(ε, μ),   μ = μ₊ - μ₋
      min -E log μ₊(x) + λ ∫ μ₋
      sample: dx/dt = u(x) / ((1-t) ν + t μ₊(x)), from uniform points at t = 0

    μ₊ has mass 1 + ∫ μ₋, which the penalty keeps near one; `negative_mass` says how near, and log(1 + ∫ μ₋) is what `log_prob` is too high by.

    Args:
      field: from [B, E] features to [B, D]; whatever `dljax.nn.as_model` takes, without running statistics.
      optimizer: of the objective.
      penalty: λ >= 0; may be traced.
      floor: ε > 0, a density.
      num_uniform: points >= 1 at which a step estimates the integral.
      config: of the solver, for samples only.
    Returns:
      A learner on batches `{"x": [B, D]}` with metrics `nll` [] (nats per example, of μ₊) and `negative_mass` [] (∫ μ₋); `nll` in evaluation.
      Its functions are `log_prob(key, params, x [B, D]) -> [B]`, `density(key, params, x) -> [B]` (μ itself),
      `sample(key, params, num) -> [num, D]` and `negative_mass(key, params, num) -> []`.
    Raises:
      ValueError: an option out of its range; when the first batch comes: points of another size, a field of another shape.
    Source: Rozen, Grover, Nickel and Lipman (2021), Moser Flow: Divergence-based Generative Modeling on Manifolds, eq. 4, 8-11 and 14.

    >>> from flax import linen
    >>> learner = moser_flow(torus(2), linen.Dense(2), optax.adam(1e-3))
    >>> batch = {"x": jnp.zeros((4, 2))}
    >>> state, metrics = learner.step(jax.random.key(0), learner.init(jax.random.key(1), batch), batch)
    >>> sorted(metrics)
    ['negative_mass', 'nll']
    """
    check_range("moser_flow", "penalty", penalty, 0)
    check_range("moser_flow", "floor", floor, 0, open_low=True, open_high=True)
    check_int("moser_flow", "num_uniform", num_uniform, minimum=1)
    model = as_model(field)
    base = math.exp(-manifold.log_volume)

    def init(key: Key, batch: Batch) -> MoserState:
        params = _init_field("moser_flow", model, manifold, key, batch["x"], num_extra=0)
        return MoserState(params, optimizer.init(params))

    def field_and_density(params: Params, x: Point) -> tuple[Point, Float[Array, ""]]:
        u, div = divergence(manifold, lambda x: model.apply({"params": params}, manifold.embed(x)[None])[0][0], x)
        return u, base - div

    def density(key: Key, params: Params, x: Float[Array, "B D"]) -> Float[Array, " B"]:
        return jax.vmap(field_and_density, (None, 0))(params, x)[1]

    def log_prob(key: Key, params: Params, x: Float[Array, "B D"]) -> Float[Array, " B"]:
        return jnp.log(jnp.maximum(density(key, params, x), floor))

    def negative_mass(key: Key, params: Params, num: int) -> Float[Array, ""]:
        return jnp.maximum(floor - density(key, params, manifold.uniform.sample(key, num)), 0).mean() / base

    def step(key: Key, state: MoserState, batch: Batch) -> tuple[MoserState, Metrics]:
        def objective(params: Params) -> tuple[Float[Array, ""], Metrics]:
            parts = {"nll": -log_prob(key, params, batch["x"]).mean(), "negative_mass": negative_mass(local_key(key), params, num_uniform)}
            return parts["nll"] + penalty * parts["negative_mass"], parts

        grads, metrics = jax.grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(pmean(grads), state.opt_state, state.params)
        return MoserState(optax.apply_updates(state.params, updates), opt_state), metrics

    def sample(key: Key, params: Params, num: int) -> Float[Array, "N D"]:
        def slope(params: Params, x: Point, time: Array) -> Point:
            u, mu = field_and_density(params, x)
            return u / ((1 - time) * base + time * jnp.maximum(mu, floor))

        def one(x: Point) -> Point:
            return manifold.project(solve_ode(slope, params, x, (0.0, 1.0), config).states[-1])

        return jax.vmap(one)(manifold.uniform.sample(key, num))

    def fold_step(acc: Mean, state: MoserState, batch: Batch) -> Mean:
        nll = -log_prob(jax.random.key(0), state.params, batch["x"])
        mask = batch.get("mask", jnp.ones_like(nll))
        return Mean(acc.total + (mask * nll).sum(), acc.weight + mask.sum())

    return Learner(
        init,
        step,
        evaluate=Fold(lambda key, state: Mean(jnp.zeros(()), jnp.zeros(())), fold_step, lambda acc: {"nll": acc}),
        functions={"log_prob": log_prob, "density": density, "sample": sample, "negative_mass": negative_mass},
    )


def _init_field(who: str, model: Any, manifold: Manifold, key: Key, x: Array, *, num_extra: int) -> Params:
    if x.ndim != 2 or x.shape[1] != manifold.size:
        raise ValueError(f"{who}: points must be [B, {manifold.size}], got {list(x.shape)}")
    features = jnp.pad(manifold.embed(x[0])[None], ((0, 0), (0, num_extra)))
    variables = model.init(key, features)
    if set(variables) - {"params"}:
        raise ValueError(f"{who}: the field must have no running statistics, got {sorted(variables)}; use layer instead of batch normalisation")
    made = jax.eval_shape(lambda: model.apply(variables, features)[0])
    if made.shape != (1, manifold.size):
        raise ValueError(f"{who}: the field must map {features.shape} to {(1, manifold.size)}, got {made.shape}")
    return variables["params"]
