"""Spaces: which actions an environment takes and which observations it gives."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dljax.core import Key

type_aliases = ("Space",)


class Discrete(NamedTuple):
    """The whole numbers 0, 1, ... num - 1.

    Attributes:
      num: how many, >= 1.

    >>> Discrete(2).shape, Discrete(2).dtype
    ((), dtype('int32'))
    """

    num: int

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype(self) -> Any:
        return jnp.dtype(jnp.int32)

    def sample(self, key: Key, shape: tuple[int, ...] = ()) -> Array:
        """Uniform numbers of the given shape, int32.

        >>> set(Discrete(3).sample(jax.random.key(0), (50,)).tolist())
        {0, 1, 2}
        """
        bits = self.num.bit_length() - 1
        if self.num != 1 << bits or not 0 < bits <= 16:
            return jax.random.randint(key, shape, 0, self.num, jnp.int32)
        # A power of two: one random word holds many numbers, and drawing words is what costs.
        size, per_word = math.prod(shape), 32 // bits
        words = jax.random.bits(key, (-(-size // per_word), 1), jnp.uint32)
        digits = words >> (bits * jnp.arange(per_word, dtype=jnp.uint32))[None] & jnp.uint32(self.num - 1)
        return digits.reshape(-1)[:size].reshape(shape).astype(jnp.int32)

    def contains(self, value: Any) -> bool:
        """Whether concrete values are all in the space.

        >>> Discrete(2).contains(jnp.array([0, 1])), Discrete(2).contains(2)
        (True, False)
        """
        value = jnp.asarray(value)
        return bool(jnp.issubdtype(value.dtype, jnp.integer) and ((value >= 0) & (value < self.num)).all())


class Box(NamedTuple):
    """Arrays of real numbers between bounds.

    Attributes:
      low, high: the bounds, included; numbers or nested tuples that broadcast to `shape`; infinite where there is none.
      shape: the shape of one value.

    >>> Box(-1.0, 1.0, (3,)).shape
    (3,)
    """

    low: Any
    high: Any
    shape: tuple[int, ...]

    @property
    def dtype(self) -> Any:
        return jnp.dtype(jnp.result_type(float))

    def sample(self, key: Key, shape: tuple[int, ...] = ()) -> Array:
        """Uniform values, `shape` of them; standard normal in a coordinate without bounds.

        Raises:
          ValueError: a coordinate has one bound only.

        >>> Box(-1.0, 1.0, (3,)).sample(jax.random.key(0), (2,)).shape
        (2, 3)
        """
        low, high = (jnp.broadcast_to(jnp.asarray(bound, self.dtype), self.shape) for bound in (self.low, self.high))
        is_bounded = jnp.isfinite(low)
        if bool((is_bounded != jnp.isfinite(high)).any()):
            raise ValueError(f"Box: sample needs both bounds or none in each coordinate, got low={self.low}, high={self.high}")
        uniform_key, normal_key = jax.random.split(key)
        unit = jax.random.uniform(uniform_key, shape + self.shape, self.dtype)
        normal = jax.random.normal(normal_key, shape + self.shape, self.dtype)
        low, high, is_bounded = (jnp.broadcast_to(x, unit.shape) for x in (low, high, is_bounded))
        return jnp.where(is_bounded, jnp.where(is_bounded, low, 0) + unit * jnp.where(is_bounded, high - low, 0), normal)

    def contains(self, value: Any) -> bool:
        """Whether concrete values [..., *shape] are all within the bounds.

        >>> Box(-1.0, 1.0, (3,)).contains(jnp.zeros(3)), Box(-1.0, 1.0, (3,)).contains(jnp.full(3, 2.0))
        (True, False)
        """
        value = jnp.asarray(value)
        if value.shape[value.ndim - len(self.shape) :] != self.shape:
            return False
        low, high = (jnp.broadcast_to(jnp.asarray(bound, self.dtype), value.shape) for bound in (self.low, self.high))
        return bool(((value >= low) & (value <= high)).all())


Space = Discrete | Box
