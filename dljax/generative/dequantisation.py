"""Dequantisation: whole numbers get noise between them, so that a density of real numbers bounds their probability from below."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Num

from dljax.core.checks import check_int
from dljax.core.contract import Key, Params
from dljax.generative.bijectors import Bijector, Mapped, Point


def dequantise(num_values: int, noise: Bijector | None = None) -> Bijector:
    """The layer next to whole numbers, and the only one of a flow that is no bijection: many reals are rounded down to one number.

      y = (x + u)/K,   x ∈ {0 ... K-1}^S,   u ∈ [0, 1)^S
      log P(x) >= E_{u ~ q(u|x)} [log p(y) - log q(u|x)] - S log K

    With u uniform the bound is tight where the density is constant on each cell. With u = σ(g(ε; x)), ε normal and g a conditional bijector that is
    trained along with the flow (variational dequantisation), q can follow the density, and then the bound is tight.

    Args:
      num_values: K >= 1, 256 for pixels. Values outside make the bound -inf.
      noise: g, of points of the shape of x; its context is x scaled to [-1/2, 1/2], and of the same shape. None for uniform noise.
    Returns:
      A bijector without an exact `inverse`: `estimate` draws u, and `forward` rounds down. Put it first in a `chain`; `logit` may follow.
    Raises:
      ValueError: `num_values` < 1, or data that are not whole numbers (of an integer type).
    Source: Theis, van den Oord and Bethge (2016), A note on the evaluation of generative models, section 3.1; Ho, Chen, Srinivas, Duan and Abbeel
      (2019), Flow++, eq. 12.

    >>> layer = dequantise(4)
    >>> y, _ = layer.estimate(jax.random.key(0), (), jnp.array([0, 3]))
    >>> layer.forward((), y)[0].tolist()
    [0, 3]
    """
    check_int("dequantise", "num_values", num_values, minimum=1)

    def scaled(x: Num[Array, "..."]) -> Num[Array, "..."]:
        return (x + 0.5) / num_values - 0.5

    def init(key: Key, x: Num[Array, "B ..."], *context: Array) -> Params:
        if jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"dequantise: x must be whole numbers in 0 ... {num_values - 1}, of an integer type, got {x.dtype}; cast them")
        if noise is None:
            return ()
        bijector_key, draw_key = jax.random.split(key)
        return noise.init(bijector_key, jax.random.normal(draw_key, x.shape), scaled(x))

    def estimate(key: Key, params: Params, x: Point, *context: Array) -> Mapped:
        if noise is None:
            u = jax.random.uniform(key, x.shape)
            log_det = jnp.zeros((), u.dtype)
        else:
            z = jax.random.normal(key, x.shape)
            raw, log_det = noise.forward(params, z, scaled(x).astype(z.dtype))
            u = jax.nn.sigmoid(raw)
            # -log q(u|x), by the change of variables from z to u.
            log_det = log_det + (jax.nn.log_sigmoid(raw) + jax.nn.log_sigmoid(-raw) - norm.logpdf(z)).sum()
        # uint8 does not know 256.
        whole = x.astype(jnp.int32)
        is_inside = ((whole >= 0) & (whole < num_values)).all()
        return (x + u) / num_values, jnp.where(is_inside, log_det - x.size * math.log(num_values), -jnp.inf)

    def forward(params: Params, y: Point, *context: Array) -> Mapped:
        return jnp.clip(jnp.floor(num_values * y), 0, num_values - 1).astype(jnp.int32), jnp.zeros((), y.dtype)

    return Bijector(init, forward, None, estimate)
