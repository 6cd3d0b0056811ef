"""What a distribution is: something that samples and has a density, whatever the space that its points lie in."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.core.contract import Key


class Distribution(NamedTuple):
    """A distribution as two pure functions, made from raw parameters where it is used: inside `jit`, `vmap` and `grad`.

    Attributes:
      sample: `(key, num) -> points [num, D]`, differentiable in the parameters where the factory says so.
      log_prob: `points [*N, D] -> [*N]`, nats, with respect to the measure that the space has: length, area, volume.

    >>> prior = standard_normal(2)
    >>> prior.sample(jax.random.key(0), 3).shape, round(float(prior.log_prob(jax.numpy.zeros(2))), 4)
    ((3, 2), -1.8379)
    """

    sample: Callable[[Key, int], Float[Array, "N D"]]
    log_prob: Callable[[Float[Array, "*N D"]], Float[Array, "*N"]]


def standard_normal(size: int | Sequence[int]) -> Distribution:
    """N(0, I) in flat space.

    Args:
      size: D >= 1, or the shape of a point.
    Raises:
      ValueError: a size < 1.

    >>> standard_normal(3).log_prob(jax.numpy.zeros((4, 3))).shape, standard_normal((2, 3)).sample(jax.random.key(0), 4).shape
    ((4,), (4, 2, 3))
    """
    shape = (size,) if isinstance(size, int) else tuple(size)
    for length in shape:
        check_int("standard_normal", "size", length, minimum=1)
    axes = tuple(range(-len(shape), 0))
    return Distribution(lambda key, num: jax.random.normal(key, (num, *shape)), lambda x: norm.logpdf(x).sum(axes))
