"""The keys and values of what a causal Transformer has read, kept so that each further token costs the work of one position."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dljax.core.checks import check_int


class KeyValueCache(NamedTuple):
    """Room for C positions of B sequences in each of L layers; all sequences end at the same place, and begin where their padding on the left ends.

    Attributes:
      key, value: [L, B, C, G, F].
      length: how many places are filled, padding included.
      start: [B], how many of them are padding: place s of sequence b is its position s - start_b.
      memory: the keys and values of the memory in each layer, two arrays [L, B, S, G, F], or None.
      memory_mask: [B, S], True where the memory is no padding, or None.

    >>> cache = KeyValueCache.empty(num_layers=2, batch=1, size=4, num_groups=1, head_size=3)
    >>> cache.key.shape, cache.positions(2).tolist()
    ((2, 1, 4, 1, 3), [[0, 1]])
    """

    key: Float[Array, "L B C G F"]
    value: Float[Array, "L B C G F"]
    length: Int[Array, ""]
    start: Int[Array, "B"]
    memory: Any = None
    memory_mask: Any = None

    @classmethod
    def empty(
        cls,
        *,
        num_layers: int,
        batch: int,
        size: int,
        num_groups: int,
        head_size: int,
        start: Int[Array, "B"] | None = None,
        dtype: Any = jnp.float32,
    ) -> "KeyValueCache":
        """A cache that has read nothing.

        Args:
          num_layers, batch, size, num_groups, head_size: L, B, C, G, F, each >= 1.
          start: of each sequence, how many of its first places will be padding; None for none.
        Raises:
          ValueError: a size < 1.
        """
        sizes = {"num_layers": num_layers, "batch": batch, "size": size, "num_groups": num_groups, "head_size": head_size}
        shape = tuple(check_int("KeyValueCache", name, value, minimum=1) for name, value in sizes.items())
        start = jnp.zeros((batch,), jnp.int32) if start is None else start.astype(jnp.int32)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.int32(0), start)

    @property
    def size(self) -> int:
        """C."""
        return self.key.shape[2]

    @property
    def batch_axis(self) -> "KeyValueCache":
        """Where the sequences are in each array: what the functions of `dljax.models.decoding` take under this name."""
        memory = None if self.memory is None else (1, 1)
        return KeyValueCache(1, 1, None, 0, memory, None if self.memory_mask is None else 0)  # type: ignore[arg-type]

    @property
    def layers(self) -> tuple[Array, Array, Int[Array, "L"]]:
        """What each layer is given of it: keys, values and the place from which the next ones are written."""
        return self.key, self.value, jnp.broadcast_to(self.length, self.key.shape[:1])

    def after(self, layers: tuple[Array, Array], num: int, *, memory: Any = None, memory_mask: Any = None) -> "KeyValueCache":
        """The cache when `num` positions have been read, with what each layer then has."""
        return KeyValueCache(*layers, self.length + num, self.start, memory, memory_mask)

    def positions(self, num: int) -> Int[Array, "B T"]:
        """The positions of the next `num` tokens of each sequence; padding has position 0."""
        return jnp.maximum(self.length + jnp.arange(num)[None] - self.start[:, None], 0)

    @property
    def all_positions(self) -> Int[Array, "B C"]:
        """The positions of all places."""
        return jnp.arange(self.size)[None] - self.start[:, None]

    def mask(self, num: int, *, window: int | None = None) -> Bool[Array, "B 1 T C"]:
        """True where one of the next `num` tokens, when they are written, may read a place: no padding, not behind the token, within the window."""
        places, read = self.length + jnp.arange(num)[:, None], jnp.arange(self.size)[None]
        before = read <= places
        if window is not None:
            before &= read > places - window
        is_real = read >= self.start[:, None]
        return is_real[:, None, None] & before[None, None]
