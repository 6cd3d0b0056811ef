"""Augmentation: random changes of pictures that leave their meaning, as pure functions of a key and a batch."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from dljax.core.checks import check_range
from dljax.core.contract import Key, Numeric


def random_affine(
    key: Key, x: Float[Array, "B H W C"], *, shift: Numeric = 0.0, rotation: Numeric = 0.0, distortion: Numeric = 0.0
) -> Float[Array, "B H W C"]:
    """Each picture moved, turned, stretched and slanted at random about its middle, bilinear between pixels, zero outside.

      x'(p) = x((I + E) R(θ) p + t),   E_ij ~ U(-distortion, distortion),   θ ~ U(-rotation, rotation),   t_i ~ U(-shift, shift)

    Args:
      x: pictures of any floating dtype.
      shift: pixels, >= 0; may be traced, as may all three.
      rotation: radians in [0, π].
      distortion: of the identity matrix, in [0, 1).
    Returns:
      Pictures of the same shape and dtype.
    Raises:
      ValueError: an option out of range. TypeError: pictures of whole numbers, which have nothing between pixels.

    >>> x = jnp.ones((2, 5, 5, 1))
    >>> bool((random_affine(jax.random.key(0), x) == x).all())
    True
    """
    check_range("random_affine", "shift", shift, 0)
    check_range("random_affine", "rotation", rotation, 0, jnp.pi)
    check_range("random_affine", "distortion", distortion, 0, 1, open_high=True)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"random_affine: x must be floating-point pictures, got {x.dtype}; scale them first, as `dljax.nn.unit_pixels` does")
    num, height, width, _ = x.shape
    distortion_key, rotation_key, shift_key = jax.random.split(key, 3)
    angle = jax.random.uniform(rotation_key, (num,), x.dtype, -1, 1) * rotation
    turn = jnp.stack([jnp.cos(angle), -jnp.sin(angle), jnp.sin(angle), jnp.cos(angle)], -1).reshape(num, 2, 2)
    matrix = (jnp.eye(2, dtype=x.dtype)[None] + jax.random.uniform(distortion_key, (num, 2, 2), x.dtype, -1, 1) * distortion) @ turn
    offset = jax.random.uniform(shift_key, (num, 2, 1, 1), x.dtype, -1, 1) * shift
    middle = jnp.array([height - 1, width - 1], x.dtype)[:, None, None] / 2
    places = jnp.stack(jnp.meshgrid(jnp.arange(height, dtype=x.dtype), jnp.arange(width, dtype=x.dtype), indexing="ij")) - middle
    places = jnp.einsum("bij,jhw->bihw", matrix, places) + offset + middle[None]
    one_channel = jax.vmap(lambda picture, place: map_coordinates(picture, list(place), order=1), in_axes=(-1, None), out_axes=-1)
    return jax.vmap(one_channel)(x, places).astype(x.dtype)
