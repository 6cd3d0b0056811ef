"""Colour changes of pictures in [0, 1].

Every function is written for a batch with one strength a picture, and equals Pillow's of the same name up to its rounding to whole numbers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_range
from dljax.core.contract import Key, Numeric

LEVELS = 256


def grey(x: Num[Array, "B H W C"]) -> Num[Array, "B H W 1"]:
    """Luma of red, green and blue (ITU-R 601); what has one channel is grey already.

      0.299 R + 0.587 G + 0.114 B

    Raises:
      ValueError: neither one channel nor three.

    >>> grey(jnp.array([1.0, 0.0, 0.0]).reshape(1, 1, 1, 3)).item()
    0.29899999499320984
    """
    if x.shape[-1] not in (1, 3):
        raise ValueError(f"grey: x must have 1 channel or 3 (red, green, blue), got {x.shape[-1]}")
    return x if x.shape[-1] == 1 else x @ jnp.array([[0.299], [0.587], [0.114]], x.dtype)


def brightness(x: Num[Array, "B H W C"], factor: Float[Array, "B"]) -> Num[Array, "B H W C"]:
    """Pictures made darker or brighter: `f x`, cut off at 0 and 1. A factor of 1 changes nothing, 0 gives black.

    >>> brightness(jnp.full((1, 1, 1, 1), 0.5), jnp.array([1.5])).item()
    0.75
    """
    return _blend("brightness", jnp.zeros_like(x), x, factor)


def contrast(x: Num[Array, "B H W C"], factor: Float[Array, "B"]) -> Num[Array, "B H W C"]:
    """Pictures drawn to or away from their mean grey m: `m + f (x - m)`, cut off at 0 and 1.

    >>> contrast(jnp.array([0.25, 0.75]).reshape(1, 1, 2, 1), jnp.array([0.5])).ravel().tolist()
    [0.375, 0.625]
    """
    return _blend("contrast", grey(x).mean((1, 2, 3), keepdims=True), x, factor)


def saturation(x: Num[Array, "B H W C"], factor: Float[Array, "B"]) -> Num[Array, "B H W C"]:
    """Pictures drawn to or away from their own grey: `g + f (x - g)`, cut off at 0 and 1. A factor of 0 takes the colour away.

    >>> red = jnp.array([1.0, 0.0, 0.0]).reshape(1, 1, 1, 3)
    >>> bool((saturation(red, jnp.array([0.0])) == grey(red)).all())
    True
    """
    return _blend("saturation", grey(x), x, factor)


def sharpness(x: Num[Array, "B H W C"], factor: Float[Array, "B"]) -> Num[Array, "B H W C"]:
    """Pictures drawn to or away from their smoothed selves s: `s + f (x - s)`; the outermost pixels are left alone.

      s = x * [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13

    Raises:
      TypeError: pictures of whole numbers.

    >>> bool((sharpness(jnp.full((1, 3, 3, 1), 0.5), jnp.array([2.0])) == 0.5).all())
    True
    """
    _check_pictures("sharpness", x)
    height, width = x.shape[1:3]
    if min(height, width) < 3:
        return x
    sides = sum(x[:, i : i + height - 2, j : j + width - 2] for i in range(3) for j in range(3))
    smooth = (sides + 4 * x[:, 1:-1, 1:-1]) / 13
    return _blend("sharpness", x.at[:, 1:-1, 1:-1].set(smooth), x, factor)


def hue(x: Num[Array, "B H W 3"], turn: Float[Array, "B"]) -> Num[Array, "B H W 3"]:
    """Colours moved around the circle of hues; lightness and saturation (HSV) are kept.

    Args:
      turn: of a full circle; 1/3 makes red green.

    Raises:
      TypeError: pictures of whole numbers.

    >>> hue(jnp.array([1.0, 0.0, 0.0]).reshape(1, 1, 1, 3), jnp.array([1 / 3])).ravel().round(3).tolist()
    [0.0, 1.0, 0.0]
    """
    _check_pictures("hue", x)
    value, low = x.max(-1), x.min(-1)
    chroma = value - low
    red, green, blue = (x[..., channel] for channel in range(3))
    safe = jnp.where(chroma > 0, chroma, 1)
    sixth = jnp.where(value == red, (green - blue) / safe, jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe))
    sixth = sixth + 6 * _each(turn, x)[..., 0]
    # Each channel is full within a sixth of the circle of its own hue, empty beyond two sixths, and linear in between.
    distance = jnp.stack([jnp.abs(jnp.mod(sixth - 2 * channel + 3, 6) - 3) for channel in range(3)], -1)
    return low[..., None] + chroma[..., None] * jnp.clip(2 - distance, 0, 1)


def solarise(x: Num[Array, "B H W C"], threshold: Float[Array, "B"]) -> Num[Array, "B H W C"]:
    """The negative of every value at or above a threshold: x ↦ 1 - x where x >= threshold.

    Raises:
      TypeError: pictures of whole numbers.

    >>> solarise(jnp.array([0.25, 0.75]).reshape(1, 1, 2, 1), jnp.array([0.5])).ravel().tolist()
    [0.25, 0.25]
    """
    _check_pictures("solarise", x)
    return jnp.where(x >= _each(threshold, x), 1 - x, x)


def posterise(x: Num[Array, "B H W C"], bits: Float[Array, "B"]) -> Num[Array, "B H W C"]:
    """Only the first bits of the eight of each value (of 255 x, rounded) are kept.

    Args:
      bits: whole numbers from 0 to 8.

    Raises:
      TypeError: pictures of whole numbers.

    >>> (posterise(jnp.array([200 / 255]).reshape(1, 1, 1, 1), jnp.array([2.0])) * 255).item()
    192.0
    """
    _check_pictures("posterise", x)
    step = _each(2.0 ** (8 - bits), x)
    return jnp.floor(_level(x) / step) * step / (LEVELS - 1)


def invert(x: Num[Array, "B H W C"]) -> Num[Array, "B H W C"]:
    """The negative, 1 - x.

    Raises:
      TypeError: pictures of whole numbers.

    >>> invert(jnp.full((1, 1, 1, 1), 0.25)).item()
    0.75
    """
    _check_pictures("invert", x)
    return 1 - x


def autocontrast(x: Num[Array, "B H W C"]) -> Num[Array, "B H W C"]:
    """Each channel stretched to reach from 0 to 1; a channel of one value stays what it is.

    Raises:
      TypeError: pictures of whole numbers.

    >>> autocontrast(jnp.array([0.25, 0.5]).reshape(1, 1, 2, 1)).ravel().tolist()
    [0.0, 1.0]
    """
    _check_pictures("autocontrast", x)
    low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    return jnp.where(high > low, (x - low) / jnp.where(high > low, high - low, 1), x)


def equalise(x: Num[Array, "B H W C"]) -> Num[Array, "B H W C"]:
    """Values replaced so that all 256 levels are about equally frequent in each channel, by Pillow's rule with whole numbers.

      step = ⌊(N - n_last) / 255⌋,   level l ↦ ⌊(⌊step/2⌋ + Σ_{k<l} n_k) / step⌋     (unchanged where step = 0)

    Here n_k pixels of N have level k, and `last` is the highest level that occurs.

    Raises:
      TypeError: pictures of whole numbers.

    >>> (equalise(jnp.array([[0.0, 0.2], [0.4, 0.6]])[None, ..., None]) * 255).round().ravel().tolist()  # 4 pixels < 255: unchanged
    [0.0, 51.0, 102.0, 153.0]
    """
    _check_pictures("equalise", x)
    num, height, width, channels = x.shape
    level = _level(x).astype(jnp.int32).swapaxes(1, 3).reshape(num * channels, width * height)
    counts = jax.vmap(lambda level: jnp.zeros(LEVELS, jnp.int32).at[level].add(1))(level)
    last = LEVELS - 1 - jnp.argmax(counts[:, ::-1] > 0, -1)
    step = (height * width - jnp.take_along_axis(counts, last[:, None], 1)) // (LEVELS - 1)
    before = jnp.cumsum(counts, -1) - counts
    table = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, LEVELS - 1)
    new = jnp.where(step > 0, jnp.take_along_axis(table, level, 1, mode="promise_in_bounds"), level)
    return (new / (LEVELS - 1)).astype(x.dtype).reshape(num, channels, width, height).swapaxes(1, 3)


_JITTERED = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}  # the options below have their names


def colour_jitter(
    key: Key,
    x: Num[Array, "B H W C"],
    *,
    brightness: Numeric = 0.0,
    contrast: Numeric = 0.0,
    saturation: Numeric = 0.0,
    hue: float = 0.0,
) -> Num[Array, "B H W C"]:
    """Brightness, contrast and saturation times a factor from [1 - s, 1 + s], in this order, and hues turned by up to ±hue of the circle.

    Args:
      x: pictures in [0, 1], floats, with one channel or three.
      brightness, contrast, saturation: strengths s in [0, 1]; may be traced.
      hue: in [0, 0.5]; above 0 for three channels only.
    Raises:
      ValueError: a strength out of range; `hue` for grey pictures. TypeError: pictures of whole numbers.

    >>> x = jnp.full((2, 4, 4, 3), 0.5)
    >>> bool((colour_jitter(jax.random.key(0), x) == x).all())
    True
    """
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, strength in strengths.items():
        check_range("colour_jitter", name, strength, 0, 1)
    check_range("colour_jitter", "hue", hue, 0, 0.5)
    _check_pictures("colour_jitter", x)
    if hue and x.shape[-1] != 3:
        raise ValueError(f"colour_jitter: hue needs three channels (red, green, blue), got {x.shape[-1]}; leave it 0")
    keys = jax.random.split(key, 4)
    for (name, strength), own_key in zip(strengths.items(), keys, strict=False):
        if not (isinstance(strength, int | float) and strength == 0):
            factor = 1 + jax.random.uniform(own_key, (len(x),), x.dtype, -1, 1) * strength
            x = _JITTERED[name](x, factor)
    return _JITTERED["hue"](x, jax.random.uniform(keys[3], (len(x),), x.dtype, -hue, hue)) if hue else x


def _check_pictures(who: str, x: Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{who}: x must be floating-point pictures in [0, 1], got {x.dtype}; scale them first, as `dljax.nn.unit_pixels` does")


def _each(values: Array, x: Array) -> Array:
    return values.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def _blend(who: str, other: Array, x: Array, factor: Array) -> Array:
    _check_pictures(who, x)
    return jnp.clip(other + _each(factor, x) * (x - other), 0, 1)


def _level(x: Array) -> Array:
    return jnp.clip(jnp.round(x * (LEVELS - 1)), 0, LEVELS - 1)
