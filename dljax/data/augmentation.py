"""Augmentation: random changes of pictures that leave their meaning, as pure functions of a key and a batch.

What moves pixels (`random_flip`, `random_crop`, `random_shift`, `cutout`) takes any dtype, and the same key changes maps of labels of the same
size in the same way. For changes in between pixels, and for boxes, draw the change once and apply it to each in its own way:

    change = draw_affine(key, len(x), flip=0.5, shift=2, rotation=0.2)
    x, labels, boxes = warp(x, change), warp(labels, change, method="nearest"), warp_boxes(boxes, change, x.shape[1:3])

Colours are in `dljax.data.colour`, mixtures of examples in `dljax.data.mixing`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Num

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric
from dljax.data.affine import Affine, compose, reflection, rotation, translation, warp


def random_flip(key: Key, x: Num[Array, "B H W C"], *, horizontal: Numeric = 0.5, vertical: Numeric = 0.0) -> Num[Array, "B H W C"]:
    """Each picture mirrored with some probability: columns in reverse order, rows in reverse order.

    Args:
      x: pictures of any dtype.
      horizontal, vertical: probabilities in [0, 1]; may be traced.
    Raises:
      ValueError: a probability outside [0, 1].

    >>> random_flip(jax.random.key(0), jnp.array([[1, 2]])[None, ..., None], horizontal=1.0)[0, ..., 0].tolist()
    [[2, 1]]
    """
    for name, probability in (("horizontal", horizontal), ("vertical", vertical)):
        check_range("random_flip", name, probability, 0, 1)
    is_flipped = jax.random.uniform(key, (2, len(x), 1, 1, 1)) < jnp.stack([jnp.asarray(p) for p in (vertical, horizontal)]).reshape(2, 1, 1, 1, 1)
    for axis, probability in ((1, vertical), (2, horizontal)):
        if not _is_zero(probability):
            x = jnp.where(is_flipped[axis - 1], jnp.flip(x, axis), x)
    return x


def random_crop(key: Key, x: Num[Array, "B H W C"], size: Sequence[int]) -> Num[Array, "B h w C"]:
    """A window of each picture, every place equally likely.

    Args:
      x: pictures of any dtype.
      size: height and width of the window, at most those of the pictures.
    Raises:
      ValueError: the window is larger than the picture.

    >>> random_crop(jax.random.key(0), jnp.ones((2, 5, 5, 1)), (3, 4)).shape
    (2, 3, 4, 1)
    """
    for name, length, limit in zip(("height", "width"), size, x.shape[1:3], strict=True):
        if check_int("random_crop", name, length, minimum=1) > limit:
            raise ValueError(f"random_crop: {name} {length} is larger than the pictures' {limit}; take at most {limit}, or pad them first")
    room = jnp.array([x.shape[1] - size[0] + 1, x.shape[2] - size[1] + 1])
    return crop(x, jax.random.randint(key, (len(x), 2), 0, room[None]), size)


def crop(x: Num[Array, "B H W C"], corner: Num[Array, "B 2"], size: Sequence[int]) -> Num[Array, "B h w C"]:
    """A window of each picture, by its upper left corner; boxes move along by minus the corner.

      x'_{b, i, j} = x_{b, corner_b + (i, j)}

    Args:
      corner: first row and column, whole numbers; moved inwards where the window would reach outside.
      size: height and width of the window.

    >>> crop(jnp.arange(9).reshape(1, 3, 3, 1), jnp.array([[1, 0]]), (2, 2))[0, ..., 0].tolist()
    [[3, 4], [6, 7]]
    """
    # Slices, not single pixels: a window's rows are copied as a whole.
    return jax.vmap(lambda picture, corner: lax.dynamic_slice(picture, (*corner, 0), (*size, x.shape[-1])))(x, corner)


def random_shift(key: Key, x: Num[Array, "B H W C"], *, pixels: int, fill: Numeric = 0) -> Num[Array, "B H W C"]:
    """Each picture moved by whole pixels, every shift up to `pixels` in each direction equally likely: a padded picture, cropped.

    Args:
      x: pictures of any dtype.
      pixels: largest shift, >= 0.
      fill: what moves in at the border.
    Raises:
      ValueError: `pixels` < 0.

    >>> moved = random_shift(jax.random.key(0), jnp.ones((100, 3, 3, 1)), pixels=1)
    >>> sorted({int(pixels) for pixels in moved.sum((1, 2, 3))})
    [4, 6, 9]
    """
    check_int("random_shift", "pixels", pixels, minimum=0)
    return shift(x, jax.random.randint(key, (len(x), 2), -pixels, pixels + 1), pixels, fill=fill)


def shift(x: Num[Array, "B H W C"], by: Num[Array, "B 2"], limit: int, *, fill: Numeric = 0) -> Num[Array, "B H W C"]:
    """Each picture moved down and to the right by whole numbers of pixels.

    Args:
      by: (rows, columns), whole numbers in [-limit, limit].
      limit: of the shifts, which sets the width of the padding.
      fill: what moves in at the border.

    >>> shift(jnp.array([[1, 2, 3]])[None, ..., None], jnp.array([[0, 1]]), 1)[0, ..., 0].tolist()
    [[0, 1, 2]]
    """
    padded = jnp.pad(x, ((0, 0), (limit, limit), (limit, limit), (0, 0)), constant_values=jnp.asarray(fill, x.dtype))
    return crop(padded, limit - by, x.shape[1:3])


def cutout(key: Key, x: Num[Array, "B H W C"], *, size: int, probability: Numeric = 1.0, fill: Numeric = 0) -> Num[Array, "B H W C"]:
    """A square of each picture blanked; its middle is any pixel, so that part of it may lie outside.

    Args:
      x: pictures of any dtype.
      size: side of the square in pixels, >= 1.
      probability: of a picture to lose a square, in [0, 1]; may be traced.
      fill: what the square is filled with.
    Raises:
      ValueError: `size` < 1, or a probability outside [0, 1].
    Source: DeVries & Taylor (2017), arXiv:1708.04552; with a probability, random erasing (Zhong et al., 2020) of squares.

    >>> int((cutout(jax.random.key(0), jnp.ones((1, 9, 9, 1)), size=1) == 0).sum())
    1
    """
    check_int("cutout", "size", size, minimum=1)
    check_range("cutout", "probability", probability, 0, 1)
    row_key, column_key, probability_key = jax.random.split(key, 3)
    row, column = (jax.random.randint(k, (len(x), 1), 0, n) - size // 2 for k, n in ((row_key, x.shape[1]), (column_key, x.shape[2])))
    hole = window(row, row + size, column, column + size, x.shape[1:3])
    if not _is_one(probability):
        hole &= (jax.random.uniform(probability_key, (len(x),)) < probability)[:, None, None, None]
    return jnp.where(hole, jnp.asarray(fill, x.dtype), x)


def window(top: Array, bottom: Array, left: Array, right: Array, size: Sequence[int]) -> Array:
    """True inside of rectangles, [B, H, W, 1]; bounds are [B, 1], the last row and column are outside.

    >>> int(window(*(jnp.array([[n]]) for n in (1, 3, 0, 2)), (4, 4)).sum())
    4
    """
    rows, columns = (jnp.arange(length)[None] for length in size)
    is_row, is_column = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (is_row[:, :, None] & is_column[:, None, :])[..., None]


def draw_affine(
    key: Key,
    num: int,
    *,
    flip: Numeric = 0.0,
    shift: Numeric = 0.0,
    rotation: Numeric = 0.0,
    zoom: Numeric = 0.0,
    distortion: Numeric = 0.0,
) -> Affine:
    """Random affine changes: to be applied to pictures (`warp`), label maps (`warp` by the nearest pixel) and boxes (`warp_boxes`).

      p ↦ s (I + E) R(θ) F p + t,   E_ij ~ U(-distortion, distortion),   θ ~ U(-rotation, rotation),   t_i ~ U(-shift, shift)

    F mirrors the columns with probability `flip`, log s ~ U(-log(1 + zoom), log(1 + zoom)).

    Args:
      num: how many.
      flip: probability in [0, 1]; may be traced, as may all options.
      shift: pixels, >= 0.
      rotation: radians in [0, π].
      zoom: >= 0; 0.25 makes things up to 1.25 times as large or small.
      distortion: of the identity matrix, in [0, 1).
    Raises:
      ValueError: an option out of range.

    >>> draw_affine(jax.random.key(0), 2).matrix.tolist()
    [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]
    """
    check_int("draw_affine", "num", num, minimum=1)
    return _draw("draw_affine", key, num, flip, shift, rotation, zoom, distortion)


def random_affine(
    key: Key, x: Num[Array, "B H W C"], *, shift: Numeric = 0.0, rotation: Numeric = 0.0, zoom: Numeric = 0.0, distortion: Numeric = 0.0
) -> Num[Array, "B H W C"]:
    """Each picture moved, turned, stretched and slanted at random about its middle, bilinear between pixels, zero outside.

      warp(x, draw_affine(key, B, ...))

    Args:
      x: pictures of any floating dtype.
      shift: pixels, >= 0; may be traced, as may all options.
      rotation: radians in [0, π].
      zoom: >= 0; 0.25 makes things up to 1.25 times as large or small.
      distortion: of the identity matrix, in [0, 1).
    Returns:
      Pictures of the same shape and dtype.
    Raises:
      ValueError: an option out of range. TypeError: pictures of whole numbers, which have nothing between pixels.

    >>> x = jnp.ones((2, 5, 5, 1))
    >>> bool((random_affine(jax.random.key(0), x) == x).all())
    True
    """
    return warp(x, _draw("random_affine", key, len(x), 0.0, shift, rotation, zoom, distortion))


def _draw(who: str, key: Key, num: int, flip: Numeric, shift: Numeric, angle: Numeric, zoom: Numeric, distortion: Numeric) -> Affine:
    check_range(who, "flip", flip, 0, 1)
    check_range(who, "shift", shift, 0, open_high=True)
    check_range(who, "rotation", angle, 0, jnp.pi)
    check_range(who, "zoom", zoom, 0, open_high=True)
    check_range(who, "distortion", distortion, 0, 1, open_high=True)
    distortion_key, rotation_key, shift_key, zoom_key, flip_key = jax.random.split(key, 5)
    stretch = jnp.eye(2)[None] + jax.random.uniform(distortion_key, (num, 2, 2), minval=-1, maxval=1) * distortion
    scale = jnp.exp(jax.random.uniform(zoom_key, (num, 1, 1), minval=-1, maxval=1) * jnp.log1p(zoom))
    place = translation(jax.random.uniform(shift_key, (num, 2), minval=-1, maxval=1) * shift)
    place = compose(place, Affine(scale * stretch, jnp.zeros((num, 2))))
    place = compose(place, rotation(jax.random.uniform(rotation_key, (num,), minval=-1, maxval=1) * angle))
    is_flipped = jax.random.uniform(flip_key, (num,)) < flip
    return compose(place, reflection(jnp.stack([jnp.zeros_like(is_flipped), is_flipped], -1)))


def _is_zero(probability: Numeric) -> bool:
    return isinstance(probability, int | float) and probability == 0


def _is_one(probability: Numeric) -> bool:
    return isinstance(probability, int | float) and probability == 1
