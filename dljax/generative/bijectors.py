"""Bijectors: invertible maps of one point with learned parameters, and what composes them.

A `Bijector` speaks of one point; `chain`, `repeat` and `inverted` make bijectors of bijectors.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
from jax import lax
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int
from dljax.core.contract import Key, Params

type_aliases = ("Point", "Mapped", "Map", "Estimate")

Point = Num[Array, "..."]  # of a fixed shape: features [D], or a picture [H, W, C]
Mapped = tuple[Point, Float[Array, ""]]
Map = Callable[..., Mapped]  # (params, point, *context) -> (point, log-determinant)
Estimate = Callable[..., Mapped]  # (key, params, point, *context) -> (point, log-determinant)


class Bijector(NamedTuple):
    """An invertible map between a noise point z and a data point x of the same shape, with learned parameters.

    Whatever the map depends on besides (a class, a picture: a conditional flow) comes last, as one optional argument `context`.

    Attributes:
      init: `(key, x [B, ...], *context [B, ...]) -> params`; a batch of data gives the size and, where the map wants it, the scale.
      forward: `(params, z, *context) -> (x, log|det ∂x/∂z|)`, nats.
      inverse: `(params, x, *context) -> (z, log|det ∂z/∂x|)`, nats; None where it cannot be had and there are only estimates.
      estimate: `(key, params, x, *context) -> (z, ...)`, the inverse with a random term in place of the log-determinant whose mean is that
        log-determinant, or makes log p(x) a lower bound; a flow is trained by it. None: by `inverse`.

    >>> import jax.numpy as jnp
    >>> double = Bijector(lambda key, x: (), lambda _, z: (2 * z, z.size * jnp.log(2.0)), lambda _, x: (x / 2, -x.size * jnp.log(2.0)))
    >>> x, log_det = double.forward((), jnp.ones(2))
    >>> x.tolist(), round(float(log_det), 4)
    ([2.0, 2.0], 1.3863)
    """

    init: Callable[..., Params]
    forward: Map
    inverse: Map | None
    estimate: Estimate | None = None


def chain(*bijectors: Bijector) -> Bijector:
    """The composition x = f_1(f_2(... f_n(z))): the first bijector stands next to the data, as in mathematics and in distrax.

    Raises:
      ValueError: no bijector.

    >>> import jax.numpy as jnp
    >>> from dljax.generative import act_norm
    >>> both = chain(act_norm(), act_norm())
    >>> params = both.init(jax.random.key(0), jnp.array([[0.0, 1.0], [4.0, 3.0]]))
    >>> both.inverse(params, jnp.array([4.0, 3.0]))[0].tolist()
    [1.0, 1.0]
    """
    if not bijectors:
        raise ValueError("chain: needs at least one bijector, got none")

    def init(key: Key, x: Num[Array, "B ..."], *context: Array) -> tuple[Params, ...]:
        params = []
        for bijector, layer_key in zip(bijectors, jax.random.split(key, len(bijectors)), strict=True):
            init_key, noise_key = jax.random.split(layer_key)
            params.append(bijector.init(init_key, x, *context))
            x = encoded(bijector, noise_key, params[-1], x, *context)
        return tuple(params)

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        log_dets = []
        for bijector, layer in reversed(list(zip(bijectors, params, strict=True))):
            z, log_det = bijector.forward(layer, z, *context)
            log_dets.append(log_det)
        return z, sum(log_dets[1:], log_dets[0])

    def back(ways: Sequence[Callable[..., Mapped]], params: Params, x: Point, context: tuple[Array, ...]) -> Mapped:
        log_dets = []
        for way, layer in zip(ways, params, strict=True):
            x, log_det = way(layer, x, *context)
            log_dets.append(log_det)
        return x, sum(log_dets[1:], log_dets[0])

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        return back([bijector.inverse for bijector in bijectors if bijector.inverse is not None], params, x, context)

    def estimate(key: Key, params: Params, x: Point, *context: Array) -> Mapped:
        keys = jax.random.split(key, len(bijectors))
        ways = [partial(estimate_or_exact(bijector), layer_key) for bijector, layer_key in zip(bijectors, keys, strict=True)]
        return back(ways, params, x, context)

    is_exact = all(bijector.inverse is not None for bijector in bijectors)
    is_estimated = any(bijector.estimate is not None for bijector in bijectors)
    return Bijector(init, forward, inverse if is_exact else None, estimate if is_estimated else None)


def repeat(bijector: Bijector, num_layers: int) -> Bijector:
    """The composition of `num_layers` bijectors of the same kind, each with parameters of its own.

    The layers are scanned over their stacked parameters: one layer is compiled, however many there are.

    Args:
      num_layers: L >= 1; leaf shapes of the parameters get a leading L.
    Raises:
      ValueError: `num_layers` < 1.

    >>> import jax.numpy as jnp
    >>> from dljax.generative import spline_coupling
    >>> layers = repeat(spline_coupling(hidden=(8,)), 3)
    >>> params = layers.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> {leaf.shape[0] for leaf in jax.tree.leaves(params)}
    {3}
    """
    check_int("repeat", "num_layers", num_layers, minimum=1)

    def init(key: Key, x: Num[Array, "B ..."], *context: Array) -> Params:
        def one(x: Num[Array, "B ..."], layer_key: Key) -> tuple[Num[Array, "B ..."], Params]:
            init_key, noise_key = jax.random.split(layer_key)
            layer = bijector.init(init_key, x, *context)
            return encoded(bijector, noise_key, layer, x, *context), layer

        return lax.scan(one, x, jax.random.split(key, num_layers))[1]

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        z, log_dets = lax.scan(lambda z, layer: bijector.forward(layer, z, *context), z, params, reverse=True)
        return z, log_dets.sum()

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        way = exact_inverse("repeat", bijector)
        x, log_dets = lax.scan(lambda x, layer: way(layer, x, *context), x, params)
        return x, log_dets.sum()

    def estimate(key: Key, params: Params, x: Point, *context: Array) -> Mapped:
        way, layers = estimate_or_exact(bijector), (jax.random.split(key, num_layers), params)
        x, log_dets = lax.scan(lambda x, layer: way(layer[0], layer[1], x, *context), x, layers)
        return x, log_dets.sum()

    return Bijector(init, forward, inverse if bijector.inverse else None, estimate if bijector.estimate else None)


def inverted(bijector: Bijector) -> Bijector:
    """The bijector the other way round: what was quick one way (densities) is so the other (samples).

    Raises:
      ValueError: the bijector has no exact inverse.

    >>> import jax.numpy as jnp
    >>> from dljax.generative import act_norm
    >>> params = act_norm().init(jax.random.key(0), jnp.array([[1.0], [3.0]]))
    >>> inverted(act_norm()).forward(params, jnp.array([3.0]))[0].tolist()
    [1.0]
    """
    return Bijector(bijector.init, exact_inverse("inverted", bijector), bijector.forward)


def exact_inverse(who: str, bijector: Bijector) -> Map:
    """The inverse of a bijector, for a layer `who` that cannot do without one.

    Raises:
      ValueError: there are only estimates.

    >>> import jax.numpy as jnp
    >>> exact_inverse("doc", Bijector(lambda key, x: (), lambda _, z: (z, jnp.zeros(())), None))
    Traceback (most recent call last):
    ValueError: doc: bijector must have an exact inverse, got one that has only an estimate
    """
    if bijector.inverse is None:
        raise ValueError(f"{who}: bijector must have an exact inverse, got one that has only an estimate")
    return bijector.inverse


def exact_or_estimate(bijector: Bijector) -> Estimate:
    """`(key, params, x, *context) -> (z, log-determinant)`: the exact inverse where there is one, else the estimate.

    >>> import jax.numpy as jnp
    >>> shift = Bijector(lambda key, x: (), lambda _, z: (z + 1, jnp.zeros(())), lambda _, x: (x - 1, jnp.zeros(())))
    >>> exact_or_estimate(shift)(jax.random.key(0), (), jnp.ones(2))[0].tolist()
    [0.0, 0.0]
    """
    if bijector.inverse is None:
        assert bijector.estimate is not None
        return bijector.estimate
    inverse = bijector.inverse
    return lambda key, params, x, *context: inverse(params, x, *context)


def estimate_or_exact(bijector: Bijector) -> Estimate:
    """`(key, params, x, *context) -> (z, log-determinant)`: the estimate where there is one, else the exact inverse; what training uses.

    >>> import jax.numpy as jnp
    >>> shift = Bijector(lambda key, x: (), lambda _, z: (z + 1, jnp.zeros(())), lambda _, x: (x - 1, jnp.zeros(())))
    >>> estimate_or_exact(shift)(jax.random.key(0), (), jnp.ones(2))[0].tolist()
    [0.0, 0.0]
    """
    return exact_or_estimate(bijector) if bijector.estimate is None else bijector.estimate


def encoded(bijector: Bijector, key: Key, params: Params, x: Num[Array, "B ..."], *context: Array) -> Num[Array, "B ..."]:
    """A batch of data as noise: what the next layer of a flow begins with.

    >>> import jax.numpy as jnp
    >>> shift = Bijector(lambda key, x: (), lambda _, z: (z + 1, jnp.zeros(())), lambda _, x: (x - 1, jnp.zeros(())))
    >>> encoded(shift, jax.random.key(0), (), jnp.ones((1, 2))).tolist()
    [[0.0, 0.0]]
    """
    way = exact_or_estimate(bijector)
    return jax.vmap(lambda key, x, *context: way(key, params, x, *context)[0])(jax.random.split(key, len(x)), x, *context)
