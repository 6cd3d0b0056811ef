"""Convolution as a matrix product: the matrix of Toeplitz blocks that a kernel, its strides and its padding stand for."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.nn.convolution import Padding, Sizes, convolution


def toeplitz(
    kernel: Float[Array, "*window I O"],
    input_shape: Sequence[int],
    *,
    strides: Sizes = 1,
    padding: Padding = "SAME",
    dilation: Sizes = 1,
    input_dilation: Sizes = 1,
    groups: int = 1,
) -> Float[Array, "M N"]:
    """The dense matrix T of a convolution of one picture, over one, two or three spatial axes.

      vec(convolution(x, k)) = T vec(x),   T[(t, o), (h, c)] = k[i, c, o] where e·h = s·t + d·i - p on every axis, and 0 where no tap i does that

    With strides s = 1 an entry depends on h - t alone: T is made of Toeplitz blocks. Its transpose is the transposed convolution, what a gradient
    goes back through. T is linear in the kernel and has derivatives; it is mostly zeros and meant for looking at, for proofs and spectra.

    Args:
      kernel: window sizes, input channels of one group, output channels, as for `convolution`.
      input_shape: spatial sizes and channels of a picture, without the batch.
      strides, padding, dilation, input_dilation, groups: as for `convolution`: s, p (before), d, e.
    Returns:
      One row for each output number, one column for each input number, both in the order of `ravel`: places in row-major order, channels last.
    Raises:
      ValueError: as `convolution`; a size of `input_shape` < 1.

    >>> toeplitz(jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1), (4, 1), padding=1).tolist()
    [[2.0, 3.0, 0.0, 0.0], [1.0, 2.0, 3.0, 0.0], [0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 1.0, 2.0]]
    """
    kernel = jnp.asarray(kernel)
    shape = tuple(check_int("toeplitz", "input_shape", size, minimum=1) for size in input_shape)
    options: dict[str, Any] = {"strides": strides, "padding": padding, "dilation": dilation, "input_dilation": input_dilation, "groups": groups}
    picture = jax.ShapeDtypeStruct((1, *shape), kernel.dtype)
    *_, num_outputs = out_shape = jax.eval_shape(lambda x, k: convolution(x, k, **options), picture, kernel).shape[1:]
    window, rank = kernel.shape[:-2], kernel.ndim - 2
    steps, gaps, spacing = (np.broadcast_to(sizes, rank).tolist() for sizes in (strides, dilation, input_dilation))
    if isinstance(padding, str):
        pads: Sequence[Any] = lax.padtype_to_pads(shape[:-1], [d * (k - 1) + 1 for d, k in zip(gaps, window, strict=True)], steps, padding.upper())
    else:
        pads = padding if isinstance(padding, Sequence) else [padding] * rank
    # A tap of zeros behind the last of every axis is what places see that no tap joins: gathered, not multiplied by zero, so that NaN stays in place.
    kernel = jnp.pad(_one_block_per_group(kernel, groups), [(0, 1)] * rank + [(0, 0)] * 2)
    taps = []
    for axis, (size, taken, s, d, e, pad) in enumerate(zip(shape, window, steps, gaps, spacing, pads, strict=False)):
        before = pad if isinstance(pad, int) else pad[0]
        offset = e * np.arange(size)[None] - s * np.arange(out_shape[axis])[:, None] + before
        is_tap = (offset % d == 0) & (offset >= 0) & (offset < d * taken)
        # [t, h] along the axes `axis` and `rank + axis` of the matrix.
        index = np.where(is_tap, offset // d, taken)
        taps.append(index.reshape([-1 if place == axis else 1 for place in range(rank)] + [size if place == axis else 1 for place in range(rank)]))
    blocks = kernel[tuple(taps)]
    order = (*range(rank), 2 * rank + 1, *range(rank, 2 * rank), 2 * rank)
    return blocks.transpose(order).reshape(int(np.prod(out_shape[:-1])) * num_outputs, -1)


def _one_block_per_group(kernel: Array, groups: int) -> Array:
    # Channels of other groups have weight zero.
    *window, inputs, outputs = kernel.shape
    blocks = jnp.zeros((*window, groups, inputs, groups, outputs // groups), kernel.dtype)
    group = np.arange(groups)
    parts = jnp.moveaxis(kernel.reshape(*window, inputs, groups, -1), -2, 0)
    return blocks.at[..., group, :, group, :].set(parts).reshape(*window, groups * inputs, outputs)
