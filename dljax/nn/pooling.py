"""Pooling over windows, channels last, as chains of strided slices whose gradients are fast on every backend."""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_choice, check_int

Pairs = str | Sequence[tuple[int, int]]
Size = int | None | Sequence[int | None]

# Beyond this many slices XLA's own window reduction is shorter to compile and no slower.
_MOST_SLICES = 16


def max_pool(
    x: Num[Array, "*B_spatial C"], window_shape: Sequence[int], strides: Sequence[int] | None = None, padding: Pairs = "VALID"
) -> Num[Array, "*B_out C"]:
    """The maximum of each window.

    Of equal maxima the first in row-major order gets the whole gradient, as in PyTorch and in XLA's own reduction. A window with NaN
    anywhere gives NaN.

    Args:
      x: inputs, channels C last; the axes before the window's are batch axes.
      window_shape: sizes of the window, one for each spatial axis.
      strides: steps of the window; None for 1 everywhere, as in Flax.
      padding: "SAME", "VALID", or (before, after) for each axis; padding never is the maximum.
    Returns:
      One value for each place of the window.
    Raises:
      ValueError: lengths do not fit, a size < 1, an unknown padding, or a window larger than the padded input.

    >>> max_pool(jnp.arange(4.0).reshape(1, 4, 1), (2,), (2,)).ravel().tolist()
    [1.0, 3.0]
    """
    window, strides, pads = _geometry("max_pool", x, window_shape, strides, padding)
    if sum(window) > _MOST_SLICES:
        return linen.max_pool(x, window, strides, pads)
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return _slide(_first_maximum, lowest, x, window, strides, pads)


def avg_pool(
    x: Float[Array, "*B_spatial C"],
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Pairs = "VALID",
    count_include_pad: bool = True,
) -> Num[Array, "*B_out C"]:
    """The mean of each window.

    Args:
      x, window_shape, strides, padding: as in `max_pool`.
      count_include_pad: whether padding counts as zeros; if not, each mean is over the inputs in its window only.
    Returns:
      One value for each place of the window.
    Raises:
      ValueError: as `max_pool`.

    >>> avg_pool(jnp.arange(4.0).reshape(1, 4, 1), (2,), (2,)).ravel().tolist()
    [0.5, 2.5]
    """
    window, strides, pads = _geometry("avg_pool", x, window_shape, strides, padding)
    if sum(window) > _MOST_SLICES:
        return linen.avg_pool(x, window, strides, pads, count_include_pad)
    sums = _slide(jnp.add, 0, x, window, strides, pads)
    if count_include_pad:
        return sums / math.prod(window)
    ones = jnp.ones((*(1,) * (x.ndim - 1 - len(window)), *x.shape[-1 - len(window) : -1], 1), x.dtype)
    return sums / jnp.broadcast_to(_slide(jnp.add, 0, ones, window, strides, pads), sums.shape)


def global_max_pool(x: Num[Array, "B *spatial C"]) -> Num[Array, "B C"]:
    """The maximum of each channel over all places; of equal maxima the first in row-major order gets the whole gradient.

    Args:
      x: inputs, batch first and channels last.
    Raises:
      ValueError: x has no spatial axis, or one of length 0.

    >>> global_max_pool(jnp.arange(8.0).reshape(1, 2, 2, 2)).tolist()
    [[6.0, 7.0]]
    """
    _spatial("global_max_pool", x)
    return _maximum(x.reshape(x.shape[0], -1, x.shape[-1]), 1)


def global_avg_pool(x: Float[Array, "B *spatial C"]) -> Float[Array, "B C"]:
    """The mean of each channel over all places.

    Args:
      x: inputs, batch first and channels last.
    Raises:
      ValueError: x has no spatial axis, or one of length 0.
    Source: Lin et al. (2014), Network in network, section 3.2.

    >>> global_avg_pool(jnp.arange(8.0).reshape(1, 2, 2, 2)).tolist()
    [[3.0, 4.0]]
    """
    _spatial("global_avg_pool", x)
    return x.mean(tuple(range(1, x.ndim - 1)))


def adaptive_max_pool(x: Num[Array, "B *spatial C"], output_size: Size) -> Num[Array, "B *out C"]:
    """Maxima over as many windows as are asked for, whatever the size of the input: PyTorch's `AdaptiveMaxPool`.

      window i of n over an axis of length L:   ⌊i L / n⌋ ... ⌈(i + 1) L / n⌉ - 1

    Neighbouring windows share a place where n does not divide L. Of equal maxima the first in row-major order gets the whole gradient.

    Args:
      x: inputs, batch first and channels last.
      output_size: n >= 1, one for all spatial axes or one each; None keeps an axis as it is.
    Raises:
      ValueError: n < 1, sizes that are not one for each spatial axis, x without spatial axes or with one of length 0.

    >>> adaptive_max_pool(jnp.arange(5.0).reshape(1, 5, 1), 2).ravel().tolist()
    [2.0, 4.0]
    """
    return _adapted("adaptive_max_pool", _maximum, x, output_size)


def adaptive_avg_pool(x: Float[Array, "B *spatial C"], output_size: Size) -> Float[Array, "B *out C"]:
    """Means over as many windows as are asked for, whatever the size of the input: PyTorch's `AdaptiveAvgPool`.

    Args:
      x, output_size: as for `adaptive_max_pool`, which says what the windows are.
    Raises:
      ValueError: as `adaptive_max_pool`.

    >>> adaptive_avg_pool(jnp.arange(5.0).reshape(1, 5, 1), 2).ravel().tolist()
    [1.0, 3.0]
    """
    return _adapted("adaptive_avg_pool", lambda x, axis: x.mean(axis), x, output_size)


def _first_maximum(a: Array, b: Array) -> Array:
    return jnp.where((a >= b) | (a != a), a, b)


def _spatial(who: str, x: Array) -> tuple[int, ...]:
    if x.ndim < 3 or 0 in x.shape[1:-1]:
        raise ValueError(f"{who}: x must be [B, *spatial, C] with at least one spatial axis and no empty one, got {x.shape}")
    return x.shape[1:-1]


def _maximum(x: Array, axis: int) -> Array:
    # Gathered, so that one of several equal maxima gets the whole gradient; the first NaN counts as the largest.
    place = jnp.expand_dims(lax.stop_gradient(x).argmax(axis), axis)
    return jnp.take_along_axis(x, place, axis).squeeze(axis)


def _adapted(who: str, reduction: Callable[[Array, int], Array], x: Array, output_size: Size) -> Array:
    lengths = _spatial(who, x)
    sizes = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * len(lengths)
    if len(sizes) != len(lengths):
        raise ValueError(f"{who}: output_size must be one number or {len(lengths)}, one for each spatial axis, got {output_size}")
    # Windows are boxes: axis by axis, the last one first, which is the row-major order among equal maxima.
    for axis, length, size in reversed(list(zip(range(1, x.ndim - 1), lengths, sizes, strict=True))):
        num = length if size is None else check_int(who, "output_size", size, minimum=1)
        if num == length:
            continue
        if length % num == 0:
            x = reduction(x.reshape(*x.shape[:axis], num, length // num, *x.shape[axis + 1 :]), axis + 1)
        else:
            bounds = [(i * length // num, -(-(i + 1) * length // num)) for i in range(num)]
            x = jnp.stack([reduction(lax.slice_in_dim(x, *bound, axis=axis), axis) for bound in bounds], axis)
    return x


def _slide(combine: Callable[[Array, Array], Array], fill: Any, x: Array, window: tuple, strides: tuple, pads: tuple) -> Array:
    first_axis = x.ndim - 1 - len(window)
    x = lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0)] * first_axis + [(low, high, 0) for low, high in pads] + [(0, 0, 0)])
    # Row by row, the last axis first: the order that decides between equal values, on arrays that shrink as early as they can.
    for axis, size, stride in reversed(list(zip(range(first_axis, x.ndim - 1), window, strides, strict=True))):
        length = (x.shape[axis] - size) // stride * stride + 1
        x = reduce(combine, [lax.slice_in_dim(x, start, start + length, stride, axis) for start in range(size)])
    return x


def _geometry(who: str, x: Array, window: Sequence[int], strides: Sequence[int] | None, padding: Pairs) -> tuple[tuple, tuple, Any]:
    window = tuple(check_int(who, "window_shape", size, minimum=1) for size in window)
    strides = (1,) * len(window) if strides is None else tuple(check_int(who, "strides", stride, minimum=1) for stride in strides)
    spatial = x.shape[-1 - len(window) : -1]
    if not window or x.ndim < len(window) + 1 or len(strides) != len(window):
        raise ValueError(f"{who}: window_shape and strides must have one size for each spatial axis of x {x.shape}, got {window} and {strides}")
    if isinstance(padding, str):
        check_choice(who, "padding", padding, ("SAME", "VALID"))
        pads: tuple[Any, ...] = tuple(lax.padtype_to_pads(spatial, window, strides, padding))
    else:
        pads = tuple(tuple(pair) if isinstance(pair, Sequence) else () for pair in padding)
        if len(pads) != len(window) or any(len(pair) != 2 for pair in pads):
            raise ValueError(f"{who}: padding must be 'SAME', 'VALID' or {len(window)} pairs (before, after), got {padding!r}")
    for size, length, (low, high) in zip(window, spatial, pads, strict=True):
        if size > length + low + high:
            raise ValueError(f"{who}: window_shape {window} must fit into the padded input {spatial} + {pads}; use a smaller window")
    return window, strides, pads
