"""Edges of pictures: where brightness changes fast."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.core.checks import check_range
from dljax.core.contract import Numeric


def sobel(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """The length of the gradient by Sobel's masks, per pixel step; what lies outside is like the pixel at the rim.

      |(s ⊗ d * x, d ⊗ s * x)| / 8,   d = (-1, 0, 1),   s = (1, 2, 1)

    Source: Sobel and Feldman (1968), A 3×3 isotropic gradient operator.

    >>> ramp = jnp.broadcast_to(jnp.arange(4.0), (4, 4))[None, :, :, None]
    >>> sobel(ramp)[0, 1, :, 0].tolist()  # half as steep at the rim
    [0.5, 1.0, 1.0, 0.5]
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")

    def smooth(x: Array, axis: int) -> Array:
        size = x.shape[axis] - 2
        before, here, after = (jax.lax.slice_in_dim(x, start, start + size, axis=axis) for start in range(3))
        return before + 2 * here + after

    def difference(x: Array, axis: int) -> Array:
        size = x.shape[axis] - 2
        return jax.lax.slice_in_dim(x, 2, 2 + size, axis=axis) - jax.lax.slice_in_dim(x, 0, size, axis=axis)

    return jnp.hypot(smooth(difference(x, 2), 1), smooth(difference(x, 1), 2)) / 8


def edges(x: Float[Array, "B H W C"], *, threshold: Numeric = 0.1) -> Float[Array, "B H W C"]:
    """A line drawing: 1 where the gradient is longer than a threshold and no neighbour's along it is longer, 0 elsewhere.

    Of Canny's detector this is the gradient and, along the nearer axis, the thinning of lines; not its two thresholds.

    Args:
      threshold: per pixel step, >= 0; may be traced.
    Raises:
      ValueError: `threshold` < 0.
    Source: Canny (1986), A Computational Approach to Edge Detection, section 5.

    >>> step = jnp.zeros((1, 5, 6, 1)).at[:, :, 3:].set(1.0)
    >>> edges(step)[0, 2, :, 0].tolist()  # a line before the step: of two equal neighbours the first
    [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    """
    check_range("edges", "threshold", threshold, 0)
    size = sobel(x)

    def thin(axis: int) -> Array:
        before, after = (jnp.roll(size, shift, axis) for shift in (1, -1))
        places = jnp.expand_dims(jnp.arange(x.shape[axis]), tuple(other for other in range(4) if other != axis))
        before, after = jnp.where(places == 0, 0, before), jnp.where(places == x.shape[axis] - 1, 0, after)
        return (size > before) & (size >= after)

    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    down, right = jnp.abs(padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]), jnp.abs(padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2])
    return ((size > threshold) & jnp.where(right >= down, thin(2), thin(1))).astype(x.dtype)
