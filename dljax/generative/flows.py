"""Normalizing flows: exact densities by invertible maps (Rezende and Mohamed, 2015). `flow` makes a learner of any `Bijector`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int
from dljax.core.contract import Key, Learner, Params
from dljax.generative.bijectors import Bijector, Point, encoded, estimate_or_exact
from dljax.generative.densities import Density, fixed, maximum_likelihood
from dljax.generative.distribution import Distribution, standard_normal


def flow(
    bijector: Bijector, optimizer: optax.GradientTransformation, *, size: int | Sequence[int], base: Density | Distribution | None = None
) -> Learner:
    """Maximum likelihood of a simple density pushed through a bijector.

      log p(x | c) = log p_base(z) + log|det ∂z/∂x|,   z = f⁻¹(x; c)

    Args:
      bijector: f; `bijector.init` sees the first batch.
      optimizer: of the mean negative log-likelihood.
      size: D >= 1, the length of a data point, or the shape of one, such as (28, 28, 1).
      base: of z: a distribution, such as `uniform_sphere(3)` for a flow on the sphere, or a density that is learned as well; None for N(0, I).
    Returns:
      A learner on batches `{"x": [B, ...]}`, with `"context": [B, ...]` besides where f has one. Its metric is `nll` [] (nats per example): in
      evaluation exact where f has an inverse, else a bound; in steps by f's estimate, where it has one.
      Its params are `{"base": ..., "bijector": ...}`, and its functions
      `log_prob(key, params, x [B, ...], *context) -> [B]` (nats), `sample(key, params, num, *context [num, ...]) -> [num, ...]`,
      `forward(key, params, z, *context) -> x` and `inverse(key, params, x, *context) -> z`; keys are for samples and estimates.
    Raises:
      ValueError: a size < 1; a first batch of another shape, or not floating where the bijector does not dequantise.
    Source: Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, eq. 5; Dinh et al. (2017), RealNVP, eq. 2-3.

    >>> from dljax.generative import act_norm, chain, repeat, spline_coupling
    >>> learner = flow(chain(act_norm(), repeat(spline_coupling(hidden=(8,)), 2)), optax.adam(1e-3), size=2)
    >>> batch = {"x": jax.random.normal(jax.random.key(0), (16, 2))}
    >>> state = learner.init(jax.random.key(1), batch)
    >>> state, metrics = learner.step(jax.random.key(2), state, batch)
    >>> learner.functions["sample"](jax.random.key(3), learner.params(state), 5).shape
    (5, 2)
    """
    shape = (size,) if isinstance(size, int) else tuple(size)
    for length in shape:
        check_int("flow", "size", length, minimum=1)
    distribution = standard_normal(shape) if base is None else base
    density = pushforward(bijector, fixed(distribution) if isinstance(distribution, Distribution) else distribution)

    def init(key: Key, x: Num[Array, "B ..."], *context: Array) -> Params:
        is_floating = jnp.issubdtype(x.dtype, jnp.floating)
        if x.shape[1:] != shape or not (is_floating or bijector.inverse is None or base is not None):
            wanted = ", ".join(map(str, shape))
            raise ValueError(
                f"flow: batch['x'] must be floating [B, {wanted}], got {x.dtype}{list(x.shape)}; flatten, scale or dequantise the examples"
            )
        return density.init(key, x, *context)

    def forward(key: Key, params: Params, z: Num[Array, "B ..."], *context: Array) -> Num[Array, "B ..."]:
        return jax.vmap(lambda z, *context: bijector.forward(params["bijector"], z, *context)[0])(z, *context)

    def inverse(key: Key, params: Params, x: Num[Array, "B ..."], *context: Array) -> Num[Array, "B ..."]:
        return encoded(bijector, key, params["bijector"], x, *context)

    learner = maximum_likelihood(density._replace(init=init), optimizer)
    return learner._replace(functions={**learner.functions, "forward": forward, "inverse": inverse})


def pushforward(bijector: Bijector, base: Density) -> Density:
    """The density of x = f(z), z from a base: what `flow` learns.

    >>> shift = Bijector(lambda key, x: (), lambda _, z: (z + 1, jnp.zeros(())), lambda _, x: (x - 1, jnp.zeros(())))
    >>> density = pushforward(shift, fixed(standard_normal(2)))
    >>> params = density.init(jax.random.key(0), jnp.zeros((4, 2)))
    >>> round(float(density.log_prob(params, jnp.ones(2))), 4)  # -log 2π
    -1.8379
    """

    def init(key: Key, x: Num[Array, "B ..."], *context: Array) -> Params:
        base_key, bijector_key, noise_key = jax.random.split(key, 3)
        params = bijector.init(bijector_key, x, *context)
        return {"base": base.init(base_key, encoded(bijector, noise_key, params, x, *context)), "bijector": params}

    def log_prob(params: Params, x: Point, *context: Array) -> Float[Array, ""]:
        assert bijector.inverse is not None
        assert base.log_prob is not None
        z, log_det = bijector.inverse(params["bijector"], x, *context)
        return base.log_prob(params["base"], z) + log_det

    def estimate(key: Key, params: Params, x: Point, *context: Array) -> Float[Array, ""]:
        base_key, key = jax.random.split(key)
        z, log_det = estimate_or_exact(bijector)(key, params["bijector"], x, *context)
        if base.estimate is not None:
            return base.estimate(base_key, params["base"], z) + log_det
        assert base.log_prob is not None
        return base.log_prob(params["base"], z) + log_det

    def sample(key: Key, params: Params, *context: Array) -> Point:
        return bijector.forward(params["bijector"], base.sample(key, params["base"]), *context)[0]

    is_exact = bijector.inverse is not None and base.log_prob is not None
    is_estimated = bijector.estimate is not None or base.estimate is not None
    return Density(init, log_prob if is_exact else None, sample, estimate if is_estimated else None)
