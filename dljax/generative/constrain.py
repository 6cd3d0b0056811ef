"""Unbounded real numbers for what is positive, in an interval, ordered or a probability: a model's log joint on the space that guides live in.

The maps are bijectors without parameters, so they chain with those of flows; each takes x on the reals to z where the model wants it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.nn import log_sigmoid
from jaxtyping import Array, Float

from dljax.core.checks import check_range
from dljax.core.contract import Numeric
from dljax.generative.bijectors import Bijector, exact_inverse
from dljax.generative.guides import Point


class Constrained(NamedTuple):
    """A model on the reals.

    Attributes:
      log_joint: `(x, ...) -> []`, the density of x: that of z and the log-determinant.
      forward: `x -> z`, for what the guide drew.
      inverse: `z -> x`, for where it begins.
    """

    log_joint: Callable[..., Array]
    forward: Callable[[Point], Point]
    inverse: Callable[[Point], Point]


def constrain(log_joint: Callable[..., Array], bijectors: Mapping[str, Bijector]) -> Constrained:
    """The log joint of a dict of constrained quantities as one of unbounded real numbers.

      log p(x) = log p(z = T(x)) + Σ log|det ∂T/∂x|

    Args:
      log_joint: `(z, ...) -> []`, z a dict.
      bijectors: the map of each constrained entry of z; the others stay as they are.
    Source: Kucukelbir et al. (2017), Automatic Differentiation Variational Inference, eq. 3.

    >>> model = constrain(lambda z: -z["rate"], {"rate": positive()})  # Exp(1)
    >>> float(model.log_joint({"rate": jnp.float32(0.0)}))  # -1 + log 1
    -1.0
    """
    backward = {name: exact_inverse("constrain", bijector) for name, bijector in bijectors.items()}

    def mapped(x: Point) -> tuple[dict[str, Any], Array]:
        z, total = dict(x), jnp.zeros(())
        for name, bijector in bijectors.items():
            z[name], log_det = bijector.forward((), x[name])
            total += log_det
        return z, total

    def log_density(x: Point, *given: Any) -> Array:
        z, log_det = mapped(x)
        return log_joint(z, *given) + log_det

    def inverse(z: Point) -> Point:
        return dict(z) | {name: inverse((), z[name])[0] for name, inverse in backward.items()}

    return Constrained(log_density, lambda x: mapped(x)[0], inverse)


def positive() -> Bijector:
    """(0, ∞): z = exp(x), of each number of an array of any shape.

    >>> z, log_det = positive().forward((), jnp.array([0.0, 1.0]))
    >>> float(log_det)
    1.0
    """
    return _fixed(lambda x: (jnp.exp(x), x.sum()), lambda z: (jnp.log(z), -jnp.log(z).sum()))


def interval(low: Numeric = 0.0, high: Numeric = 1.0) -> Bijector:
    """(low, high): z = low + (high - low) sigmoid(x), of each number of an array of any shape.

    Args:
      low, high: the ends, low < high; `high` - `low` may be traced.
    Raises:
      ValueError: low >= high.

    >>> z, log_det = interval(-1.0, 1.0).forward((), jnp.zeros(1))
    >>> z.tolist(), float(jnp.exp(log_det))
    ([0.0], 0.5)
    """
    width = high - low
    check_range("interval", "high - low", width, 0, open_low=True, open_high=True)

    def forward(x: Float[Array, "*D"]) -> tuple[Float[Array, "*D"], Float[Array, ""]]:
        return low + width * jnp.exp(log_sigmoid(x)), (log_sigmoid(x) + log_sigmoid(-x) + jnp.log(width)).sum()

    def inverse(z: Float[Array, "*D"]) -> tuple[Float[Array, "*D"], Float[Array, ""]]:
        x = jnp.log(z - low) - jnp.log(high - z)
        return x, -forward(x)[1]

    return _fixed(forward, inverse)


def ordered() -> Bijector:
    """z_1 < z_2 < ...: z_1 = x_1, z_i = z_{i-1} + exp(x_i), of a vector; so that the components of a mixture keep their names.

    >>> ordered().forward((), jnp.zeros(3))[0].tolist()
    [0.0, 1.0, 2.0]
    """

    def forward(x: Float[Array, " D"]) -> tuple[Float[Array, " D"], Float[Array, ""]]:
        return jnp.cumsum(jnp.concatenate([x[:1], jnp.exp(x[1:])])), x[1:].sum()

    def inverse(z: Float[Array, " D"]) -> tuple[Float[Array, " D"], Float[Array, ""]]:
        gaps = jnp.log(jnp.diff(z))
        return jnp.concatenate([z[:1], gaps]), -gaps.sum()

    return _fixed(forward, inverse)


def simplex() -> Bijector:
    """Probabilities z [C] that add up to one, from x [C - 1] by breaking a stick; x = 0 gives equal ones.

      z_i = v_i Π_{j<i} (1 - v_j),   v_i = sigmoid(x_i - log(C - i))

    The determinant is that of the first C - 1 probabilities.
    Source: Betancourt (2012), Cruising the Simplex; Stan Reference Manual, section 10.7.

    >>> simplex().forward((), jnp.zeros(3))[0].round(4).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """

    def forward(x: Float[Array, " E"]) -> tuple[Float[Array, " C"], Float[Array, ""]]:
        shifted = x - jnp.log(x.size - jnp.arange(x.size, dtype=x.dtype))
        rest = jnp.concatenate([jnp.zeros_like(x[:1]), jnp.cumsum(log_sigmoid(-shifted))])
        log_z = rest.at[:-1].add(log_sigmoid(shifted))
        return jnp.exp(log_z), (log_z[:-1] + log_sigmoid(-shifted)).sum()

    def inverse(z: Float[Array, " C"]) -> tuple[Float[Array, " E"], Float[Array, ""]]:
        # What is left of the stick, from its end: differences from one would lose the small ones.
        left = jnp.cumsum(z[::-1])[::-1]
        x = jnp.log(z[:-1]) - jnp.log(left[1:]) + jnp.log(z.size - 1 - jnp.arange(z.size - 1, dtype=z.dtype))
        return x, -forward(x)[1]

    return _fixed(forward, inverse)


def _fixed(forward: Callable[[Array], tuple], inverse: Callable[[Array], tuple]) -> Bijector:
    return Bijector(lambda key, x: (), lambda _, x: forward(jnp.asarray(x)), lambda _, z: inverse(jnp.asarray(z)))
