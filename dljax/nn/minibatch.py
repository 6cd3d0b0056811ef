"""Layers that let a discriminator see how alike the examples of a batch are: a generator that repeats itself is found out."""

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float

from dljax.core.checks import check_int


class MinibatchDiscrimination(linen.Module):
    """Features beside which stand how near the other examples are, by learned measures.

      M_i = x_i T,   o_ik = Σ_{j≠i} exp(-|M_ik - M_jk|₁),   out_i = (x_i, o_i)

    Attributes:
      num_kernels: K, how many measures, >= 1.
      kernel_size: the size of each M_ik, >= 1.
    Raises:
      ValueError: an option < 1, or a batch of one, which has nobody to be near to.
    Source: Salimans et al. (2016), Improved Techniques for Training GANs, section 3.2.

    >>> import jax
    >>> layer = MinibatchDiscrimination(num_kernels=2)
    >>> x = jnp.ones((4, 3))  # all four alike: each has three at distance 0
    >>> print(layer.apply(layer.init(jax.random.key(0), x), x)[0])
    [1. 1. 1. 3. 3.]
    """

    num_kernels: int = 16
    kernel_size: int = 4

    @linen.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B out"]:
        check_int("MinibatchDiscrimination", "num_kernels", self.num_kernels, minimum=1)
        check_int("MinibatchDiscrimination", "kernel_size", self.kernel_size, minimum=1)
        _check_batch("MinibatchDiscrimination", x)
        size = (x.shape[-1], self.num_kernels * self.kernel_size)
        rows = (x @ self.param("kernel", linen.initializers.lecun_normal(), size).astype(x.dtype)).reshape(-1, self.num_kernels, self.kernel_size)
        near = jnp.exp(-jnp.abs(rows[:, None] - rows[None]).sum(-1))
        return jnp.concatenate([x, near.sum(1) - 1], -1)  # each is at distance 0 from itself


class MinibatchDeviation(linen.Module):
    """One more feature: by how much the examples of a batch differ.

      s = mean over features of √(Var_B x + ε)

    Attributes:
      epsilon: ε, which gives a batch of equal examples a gradient.
    Raises:
      ValueError: a batch of one, which has no deviation.
    Source: Karras et al. (2018), Progressive Growing of GANs, section 3, over the whole batch.

    >>> MinibatchDeviation().apply({}, jnp.array([[0.0, 5.0], [2.0, 5.0]])).round(2).tolist()
    [[0.0, 5.0, 0.5], [2.0, 5.0, 0.5]]
    """

    epsilon: float = 1e-8

    @linen.compact
    def __call__(self, x: Float[Array, "B ... D"]) -> Float[Array, "B ... out"]:
        _check_batch("MinibatchDeviation", x)
        deviation = jnp.sqrt(x.var(0) + self.epsilon).mean()
        return jnp.concatenate([x, jnp.broadcast_to(deviation, (*x.shape[:-1], 1))], -1)


def _check_batch(who: str, x: Array) -> None:
    if x.shape[0] < 2:
        raise ValueError(f"{who}: the batch must have at least 2 examples to compare, got {x.shape[0]}; judge more at a time")
