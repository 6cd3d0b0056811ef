"""Where a token stands: rotary, sinusoidal and relative positions, and ALiBi."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Int, Num

from dljax.core.checks import check_int, check_range


class Rotary(NamedTuple):
    """Rotary positions: each pair of numbers of a head is turned by an angle that grows with the position.

      (x_i, x_{i+R/2}) ← the same pair, turned by p · θ_i,   θ_i = base^(-2i/R)

    so that the product of a query with a key depends on the distance of their positions alone.

    Attributes:
      base: > 1; the longest period is 2π·base positions.
      size: R, how many of a head's numbers are turned, even; None for all of them.
      factor: positions are divided by it, so that a model can be stretched to longer texts (Chen et al., 2023), > 0.
      low_factor, high_factor, length: where `length` is given, Llama 3's way to stretch: pairs that turn fewer than `low_factor` times within the
        `length` positions of the training are slowed by `factor`, those that turn more than `high_factor` times are left, the rest lies between.

    Source: Su et al. (2021), RoFormer, eq. 34, with the pairs as Llama has them; Llama Team (2024), The Llama 3 herd of models.

    >>> Rotary().angles(jnp.arange(3), 4).shape
    (3, 2)
    """

    base: float = 10000.0
    size: int | None = None
    factor: float = 1.0
    low_factor: float = 1.0
    high_factor: float = 4.0
    length: int | None = None

    def angles(self, positions: Int[Array, "*B T"], size: int) -> Float[Array, "*B T R"]:
        """The angle of each pair at each position, in radians; `size` is that of a head.

        Raises:
          ValueError: options out of range, an odd number of turned numbers, or more than a head has.
        """
        check_range("Rotary", "base", self.base, 1, open_low=True, open_high=True)
        check_range("Rotary", "factor", self.factor, 0, open_low=True, open_high=True)
        turned = size if self.size is None else check_int("Rotary", "size", self.size, minimum=2)
        if turned % 2 or turned > size:
            raise ValueError(f"Rotary: the numbers of a head that are turned must be even and at most its size {size}, got {turned}")
        rates = self.base ** (-jnp.arange(0, turned, 2, dtype=jnp.float32) / turned)
        if self.length is None:
            rates = rates / self.factor
        else:
            turns = self.length * rates / (2 * math.pi)
            kept = jnp.clip((turns - self.low_factor) / (self.high_factor - self.low_factor), 0, 1)
            rates = (1 - kept) * rates / self.factor + kept * rates
        return positions[..., None].astype(jnp.float32) * jnp.expand_dims(rates, range(positions.ndim))

    def __call__(self, x: Float[Array, "*B T H D"], positions: Int[Array, "*B T"]) -> Float[Array, "*B T H D"]:
        """The heads `x`, turned.

        >>> x = jnp.array([[[1.0, 0.0]]])
        >>> Rotary()(x, jnp.array([0])).tolist()  # nothing turns at position 0
        [[[1.0, 0.0]]]
        """
        angles = self.angles(positions, x.shape[-1])[..., None, :]
        cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
        half = angles.shape[-1]
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], -1)


def alibi_slopes(num_heads: int) -> Float[Array, "H"]:
    """The slopes of ALiBi: how fast each head forgets, m_h = 2^(-8h/H) for h = 1 ... H.

    Where H is no power of two, the slopes of the next smaller one come first, and then every second one of the next larger one.

    Source: Press, Smith & Lewis (2022), Train short, test long.

    >>> alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    check_int("alibi_slopes", "num_heads", num_heads, minimum=1)
    whole = 2 ** int(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
    slopes += [2 ** (-4 * (2 * i + 1) / whole) for i in range(num_heads - whole)]
    return jnp.array(slopes)


def alibi(num_heads: int, positions: Int[Array, "*B T"], key_positions: Int[Array, "*B S"]) -> Float[Array, "*B H T S"]:
    """The bias of ALiBi: a penalty on the scores that grows with the distance, b_hts = -m_h |p_t - p_s|.

    >>> alibi(1, jnp.arange(2), jnp.arange(2)).tolist()
    [[[-0.0, -0.00390625], [-0.00390625, -0.0]]]
    """
    distance = jnp.abs(positions[..., :, None] - key_positions[..., None, :])[..., None, :, :]
    slopes = alibi_slopes(num_heads)[:, None, None]
    return -jnp.expand_dims(slopes, range(distance.ndim - 3)) * distance


def sinusoidal_positions(positions: Num[Array, "*B T"], width: int, *, base: float = 10000.0) -> Float[Array, "*B T D"]:
    """Positions as waves: (sin p θ_i) for the first half of the numbers and (cos p θ_i) for the second, θ_i = base^(-2i/D).

    Args:
      positions: p, whole numbers or not.
      width: D, even.
    Raises:
      ValueError: an odd width.
    Source: Vaswani et al. (2017), section 3.5; the sines stand before the cosines instead of between them, which no layer can tell.

    >>> sinusoidal_positions(jnp.array([0]), 4).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    if width % 2:
        raise ValueError(f"sinusoidal_positions: width must be even, got {width}")
    rates = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = positions[..., None].astype(jnp.float32) * jnp.expand_dims(rates, range(positions.ndim))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def relative_bucket(distance: Int[Array, "*B"], *, num_buckets: int = 32, max_distance: int = 128, is_causal: bool = False) -> Int[Array, "*B"]:
    """The bucket of a distance p_s - p_t: one each for the near ones, then logarithmically wider ones up to `max_distance`, which takes all beyond.

    Args:
      num_buckets: N >= 2; without causality half of them are for positions ahead.
      max_distance: from where all fall into the last bucket.
      is_causal: whether positions ahead count as distance 0.
    Source: Raffel et al. (2020), Exploring the limits of transfer learning, section 2.1.

    >>> relative_bucket(jnp.array([0, -1, 1, -1000, 1000])).tolist()
    [0, 1, 17, 15, 31]
    """
    check_int("relative_bucket", "num_buckets", num_buckets, minimum=2 if is_causal else 4)
    half = num_buckets if is_causal else num_buckets // 2
    ahead = jnp.zeros_like(distance) if is_causal else jnp.where(distance > 0, half, 0)
    far = jnp.maximum(-distance, 0) if is_causal else jnp.abs(distance)
    exact = half // 2
    check_int("relative_bucket", "max_distance", max_distance, minimum=exact + 1)
    ratio = jnp.log(jnp.maximum(far, 1).astype(jnp.float32) / exact) / math.log(max_distance / exact)
    wide = jnp.minimum(exact + (ratio * (half - exact)).astype(distance.dtype), half - 1)
    return ahead + jnp.where(far < exact, far, wide)


class RelativeBias(linen.Module):
    """A learned bias of attention for each head and bucket of distance: b_hts = B[bucket(p_s - p_t), h].

    Attributes:
      num_heads: H.
      num_buckets, max_distance, is_causal: as for `relative_bucket`.

    Source: Raffel et al. (2020), section 2.1.

    >>> import jax
    >>> layer = RelativeBias(num_heads=2)
    >>> layer.init_with_output(jax.random.key(0), jnp.arange(3), jnp.arange(4))[0].shape
    (2, 3, 4)
    """

    num_heads: int
    num_buckets: int = 32
    max_distance: int = 128
    is_causal: bool = False
    embedding_init: Any = linen.initializers.normal(1.0)

    @linen.compact
    def __call__(self, positions: Int[Array, "*B T"], key_positions: Int[Array, "*B S"]) -> Float[Array, "*B H T S"]:
        """The bias for reading and read positions."""
        table = self.param("embedding", self.embedding_init, (self.num_buckets, self.num_heads), jnp.float32)
        distance = key_positions[..., None, :] - positions[..., :, None]
        bucket = relative_bucket(distance, num_buckets=self.num_buckets, max_distance=self.max_distance, is_causal=self.is_causal)
        return jnp.moveaxis(table[bucket], -1, -3)
