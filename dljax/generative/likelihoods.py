"""What a decoder's outputs say of the data: the distribution of each number given its output."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from dljax.core.checks import check_range
from dljax.core.contract import Numeric
from dljax.objectives.losses import sigmoid_binary_cross_entropy


class Likelihood(NamedTuple):
    """Independent distributions of the numbers of an example, one for each output of a decoder.

    Attributes:
      log_prob: `(outputs [B, ...], x [B, ...]) -> [B, ...]`, nats of each number.
      mean: `outputs -> [B, ...]`, what is expected of each.

    >>> bernoulli_likelihood.mean(jax.numpy.zeros(2)).tolist()
    [0.5, 0.5]
    """

    log_prob: Callable[[Float[Array, "..."], Float[Array, "..."]], Float[Array, "..."]]
    mean: Callable[[Float[Array, "..."]], Float[Array, "..."]]


bernoulli_likelihood = Likelihood(lambda logits, x: -sigmoid_binary_cross_entropy(logits, x), jax.nn.sigmoid)
"""Binary data by their logits, x log σ(a) + (1 - x) log σ(-a); for values between 0 and 1 the cross-entropy, which is no density."""


def per_example(values: Float[Array, "B *shape"]) -> Float[Array, " B"]:
    """The sums over all axes but the first.

    >>> per_example(jax.numpy.ones((2, 3, 4))).tolist()
    [12.0, 12.0]
    """
    return values.reshape(values.shape[0], -1).sum(-1)


def normal_likelihood(scale: Numeric = 1.0) -> Likelihood:
    """Real data around the outputs, N(x; output, s²).

    Args:
      scale: s > 0, of each number; may be traced.
    Raises:
      ValueError: `scale` <= 0.

    >>> round(float(normal_likelihood(2.0).log_prob(jax.numpy.zeros(()), jax.numpy.zeros(()))), 4)  # -log(2 √(2π))
    -1.6121
    """
    check_range("normal_likelihood", "scale", scale, 0, open_low=True, open_high=True)
    return Likelihood(lambda mean, x: norm.logpdf(x, mean, scale), lambda mean: mean)
