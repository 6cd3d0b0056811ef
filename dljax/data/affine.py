"""Affine changes of pictures, and of the masks, boxes and points in them: one transform, applied to each in its own way."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, Shaped

from dljax.core.checks import check_choice
from dljax.core.contract import Numeric


class Affine(NamedTuple):
    """From each place of a new picture to the place of the old one that its content comes from.

      p ↦ M p + t,   p = (row, column) in pixels from the middle of the picture

    Attributes:
      matrix: M.
      offset: t, in pixels.

    >>> quarter = rotation(jnp.array([jnp.pi / 2]))
    >>> quarter.matrix.tolist(), quarter.offset.tolist()
    ([[[0.0, 1.0], [-1.0, 0.0]]], [[0.0, 0.0]])
    """

    matrix: Float[Array, "B 2 2"]
    offset: Float[Array, "B 2"]


def rotation(angle: Float[Array, "B"]) -> Affine:
    """A turn about the middle, counterclockwise as one looks at the picture; quarter turns are exact, as `np.rot90`.

      M = [[cos θ, sin θ], [-sin θ, cos θ]]

    Args:
      angle: θ in radians.

    >>> warp(jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, ..., None], rotation(jnp.array([jnp.pi / 2])))[0, ..., 0].tolist()
    [[2.0, 4.0], [1.0, 3.0]]
    """
    cos, sin = _snapped(jnp.cos(angle)), _snapped(jnp.sin(angle))
    matrix = jnp.stack([cos, sin, -sin, cos], -1).reshape(*angle.shape, 2, 2)
    return Affine(matrix, jnp.zeros((*angle.shape, 2), angle.dtype))


def translation(shift: Float[Array, "B 2"]) -> Affine:
    """The content moved down and to the right by (rows, columns) pixels.

      M = I,   t = -shift

    >>> warp(jnp.array([[1.0, 2.0]])[None, ..., None], translation(jnp.array([[0.0, 0.5]])))[0, ..., 0].tolist()
    [[0.5, 1.5]]
    """
    return Affine(jnp.broadcast_to(jnp.eye(2, dtype=shift.dtype), (len(shift), 2, 2)), -shift)


def reflection(is_flipped: Shaped[Array, "B 2"]) -> Affine:
    """Rows and columns in reverse order where `is_flipped` is 1 or True.

      M = diag(1 - 2·is_flipped)

    >>> warp(jnp.array([[1.0, 2.0]])[None, ..., None], reflection(jnp.array([[False, True]])))[0, ..., 0].tolist()
    [[2.0, 1.0]]
    """
    sign = 1 - 2 * is_flipped.astype(jnp.promote_types(is_flipped.dtype, jnp.float32))
    return Affine(sign[:, :, None] * jnp.eye(2, dtype=sign.dtype)[None], jnp.zeros_like(sign))


def compose(first: Affine, second: Affine) -> Affine:
    """The change that makes `first` and then `second`, in one pass over the pictures instead of two.

      M = M₁ M₂,   t = M₁ t₂ + t₁      because places go from the new picture to the old one

    >>> both = compose(translation(jnp.array([[0.0, 1.0]])), reflection(jnp.array([[False, True]])))
    >>> warp(jnp.array([[1.0, 2.0, 3.0]])[None, ..., None], both)[0, ..., 0].tolist()
    [[2.0, 1.0, 0.0]]
    """
    offset = (first.matrix @ second.offset[..., None])[..., 0] + first.offset
    return Affine(first.matrix @ second.matrix, offset)


def inverse(transform: Affine) -> Affine:
    """The change that takes it back: p ↦ M⁻¹ (p - t). The matrix must not be singular.

    >>> inverse(translation(jnp.array([[1.0, 2.0]]))).offset.tolist()
    [[1.0, 2.0]]
    """
    a, b, c, d = (transform.matrix[:, i, j] for i in range(2) for j in range(2))
    matrix = jnp.stack([d, -b, -c, a], -1).reshape(-1, 2, 2) / (a * d - b * c)[:, None, None]
    return Affine(matrix, -(matrix @ transform.offset[..., None])[..., 0])


def warp(x: Num[Array, "B H W C"], transform: Affine, *, method: str = "bilinear", fill: Numeric = 0.0) -> Num[Array, "B H W C"]:
    """Pictures as an affine change leaves them, of the same size.

      x'(p) = x(M p + t),   between pixels by interpolation, `fill` outside

    Args:
      x: pictures, or maps of labels [B, H, W, 1] with `method="nearest"`.
      method: "bilinear" (floats only) or "nearest" (any dtype; halves go to the even pixel).
      fill: what lies outside, in the units of the pixels; bilinear borders fade into it over one pixel.
    Returns:
      Pictures of the same shape and dtype.
    Raises:
      ValueError: another method; not one transform a picture. TypeError: "bilinear" for whole numbers, which have nothing between them.

    >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> bool((warp(x, rotation(jnp.array([jnp.pi]))) == x[:, ::-1, ::-1]).all())
    True
    """
    check_choice("warp", "method", method, ("bilinear", "nearest"))
    _check_number("warp", "pictures", len(x), transform)
    if method == "bilinear" and not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f'warp: x must be floating-point pictures, got {x.dtype}; scale them with `dljax.nn.unit_pixels`, or take method="nearest"')
    num, height, width, channels = x.shape
    dtype = jnp.promote_types(transform.matrix.dtype, jnp.float32)
    rows = jnp.arange(height, dtype=dtype)[None, :, None] - (height - 1) / 2
    columns = jnp.arange(width, dtype=dtype)[None, None, :] - (width - 1) / 2
    matrix, offset = (leaf.astype(dtype)[..., None, None] for leaf in transform)
    # Two pixels of fill at the end and one before: every place is clipped into the frame, and no neighbour is ever out of bounds.
    row = jnp.clip(matrix[:, 0, 0] * rows + matrix[:, 0, 1] * columns + offset[:, 0] + (height - 1) / 2, -1, height) + 1
    column = jnp.clip(matrix[:, 1, 0] * rows + matrix[:, 1, 1] * columns + offset[:, 1] + (width - 1) / 2, -1, width) + 1
    frame = jnp.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)), constant_values=jnp.asarray(fill, x.dtype)).reshape(num, -1, channels)
    stride = width + 3

    def at(row: Array, column: Array) -> Array:
        index = (row * stride + column).reshape(num, height * width, 1)
        return jnp.take_along_axis(frame, index, axis=1, mode="promise_in_bounds").reshape(x.shape)

    if method == "nearest":
        return at(jnp.rint(row).astype(jnp.int32), jnp.rint(column).astype(jnp.int32))
    top, left = jnp.floor(row), jnp.floor(column)
    down, right = ((place - begin)[..., None].astype(x.dtype) for place, begin in ((row, top), (column, left)))
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)
    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return upper * (1 - down) + lower * down


def warp_points(points: Float[Array, "B N 2"], transform: Affine, size: Sequence[int]) -> Float[Array, "B N 2"]:
    """Where `warp` moves points: the inverse change, because `warp` looks from the new picture to the old one.

    Args:
      points: (row, column), 0 at the outer edge of the first pixel, whose middle is at 0.5.
      size: height and width of the pictures.
    Raises:
      ValueError: not one transform for each set of points.

    >>> warp_points(jnp.array([[[0.0, 0.0]]]), reflection(jnp.array([[False, True]])), (4, 6)).tolist()
    [[[0.0, 6.0]]]
    """
    _check_number("warp_points", "sets of points", len(points), transform)
    back, middle = inverse(transform), jnp.array(size, points.dtype)[None, None] / 2
    return ((points - middle) @ back.matrix.swapaxes(1, 2) + back.offset[:, None] + middle).astype(points.dtype)


def warp_boxes(boxes: Float[Array, "B N 4"], transform: Affine, size: Sequence[int]) -> Float[Array, "B N 4"]:
    """The upright boxes around the four moved corners of boxes, cut off at the picture's edge.

    Args:
      boxes: (top, left, bottom, right) in pixels, 0 at the outer edge of the first pixel and H, W at that of the last, so that the area of a box
        is the number of its pixels.
      size: height and width of the pictures.
    Returns:
      Boxes; one that left the picture has no area.
    Raises:
      ValueError: not one transform for each set of boxes.

    >>> warp_boxes(jnp.array([[[0.0, 0.0, 1.0, 2.0]]]), reflection(jnp.array([[False, True]])), (4, 6)).tolist()
    [[[0.0, 4.0, 1.0, 6.0]]]
    """
    _check_number("warp_boxes", "sets of boxes", len(boxes), transform)
    corners = boxes[..., jnp.array([0, 1, 0, 3, 2, 1, 2, 3])].reshape(*boxes.shape[:2], 4, 2)
    moved = jax.vmap(lambda points: warp_points(points, transform, size), in_axes=2, out_axes=2)(corners)
    limit = jnp.array(size, boxes.dtype)[None, None]
    return jnp.concatenate([jnp.clip(moved.min(2), 0, limit), jnp.clip(moved.max(2), 0, limit)], -1)


def _check_number(who: str, what: str, num: int, transform: Affine) -> None:
    if transform.matrix.shape != (num, 2, 2) or transform.offset.shape != (num, 2):
        got = f"{transform.matrix.shape} and {transform.offset.shape}"
        raise ValueError(f"{who}: transform must have a matrix and an offset for each of the {num} {what}, [{num}, 2, 2] and [{num}, 2], got {got}")


def _snapped(x: Float[Array, "B"]) -> Array:
    """Sines within rounding of -1, 0 and 1 are these: π/2 is no float, and its turn would blur a picture a little."""
    return jnp.where(jnp.abs(x - jnp.round(x)) < 1e-6, jnp.round(x) + 0.0, x)  # -0.0 + 0.0 = 0.0
