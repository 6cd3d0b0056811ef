"""Convolution and its transpose, with gradients as fast inside `lax.scan` as outside, on a CPU too."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.nn.dense import promote_to_kernel
from dljax.nn.product import row_product, traced_for_cpu

Sizes = int | Sequence[int]
Padding = str | int | Sequence[int | tuple[int, int]]


def convolution(
    x: Float[Array, "B *spatial C"],
    kernel: Float[Array, "*window I O"],
    *,
    strides: Sizes = 1,
    padding: Padding = "SAME",
    dilation: Sizes = 1,
    input_dilation: Sizes = 1,
    groups: int = 1,
    precision: Any = None,
) -> Float[Array, "B *out O"]:
    """Cross-correlation of pictures with a kernel, channels last, over one, two or three spatial axes.

      y[b, t, o] = Σ_{i, c} x[b, s·t + d·i - p, c] · kernel[i, c, o]

    The value is `lax.conv_general_dilated`'s, and so are derivatives of every order and mode, up to rounding. On a CPU they are computed by other
    programs: those that JAX derives lead XLA to layouts that run in a naive loop once they stand inside `lax.scan`, tens of times slower. Which
    form is used is decided when the function is traced, by the default device; on other devices it is JAX's own.

    Args:
      x: inputs, batch first and channels C last.
      kernel: window sizes, input channels of one group (C / `groups`), output channels.
      strides: s, one for all axes or one each.
      padding: "SAME", "VALID", one number for both sides of all axes, or for each axis a number or a pair (before, after).
      dilation: d, the distance between neighbouring taps of the kernel.
      input_dilation: distance between neighbouring inputs; what lies between is zero (a transposed convolution).
      groups: channels are convolved in this many separate groups.
      precision: of the products, as `lax.Precision`.
    Returns:
      Outputs, channels last.
    Raises:
      ValueError: ranks, channels, groups or the lengths of the options do not fit; a stride or dilation < 1; an unknown padding.

    >>> x = jnp.arange(5.0).reshape(1, 5, 1)
    >>> convolution(x, jnp.array([1.0, 0.0, -1.0]).reshape(3, 1, 1), padding="VALID").ravel().tolist()
    [-2.0, -2.0, -2.0]
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    rank = _rank("convolution", x, kernel)
    check_int("convolution", "groups", groups, minimum=1)
    if x.shape[-1] != groups * kernel.shape[-2] or kernel.shape[-1] % groups:
        raise ValueError(
            f"convolution: kernel must have {x.shape[-1]} / {groups} input channels and a multiple of {groups} outputs (groups={groups}), "
            f"got {kernel.shape[-2]} and {kernel.shape[-1]}"
        )
    options = (("strides", strides), ("dilation", dilation), ("input_dilation", input_dilation))
    strides, dilation, input_dilation = (_sizes("convolution", name, value, rank) for name, value in options)
    if isinstance(padding, str) and max(input_dilation) > 1:
        raise ValueError(f"convolution: padding must be given in numbers where input_dilation is above 1, got {padding!r} and {input_dilation}")
    pads = _resolved("convolution", padding, x, kernel.shape[:rank], strides, dilation)
    return _dispatch(x, kernel, _Geometry(strides, pads, input_dilation, dilation, precision), groups)


def patches(
    x: Float[Array, "B *spatial C"], window: Sequence[int], *, strides: Sizes = 1, padding: Padding = "SAME", dilation: Sizes = 1
) -> Float[Array, "B *out K"]:
    """What a convolution's kernel sees at each place, so that the convolution is a matrix product.

      convolution(x, kernel) = patches(x, window) @ kernel.reshape(-1, O)

    Args:
      window: sizes of the kernel, one for each spatial axis.
      strides, padding, dilation: as for `convolution`.
    Returns:
      K = C times the window's size; the taps of the window in row-major order, and the channels of each.
    Raises:
      ValueError: ranks or the lengths of the options do not fit; a size < 1; an unknown padding.

    >>> patches(jnp.arange(3.0).reshape(1, 3, 1), (2,), padding="VALID").tolist()
    [[[0.0, 1.0], [1.0, 2.0]]]
    """
    rank = _rank("patches", x, jnp.empty((*window, 1, 1)))
    sizes, strides, dilation = (_sizes("patches", *option, rank) for option in (("window", window), ("strides", strides), ("dilation", dilation)))
    pads = _resolved("patches", padding, x, sizes, strides, dilation)
    return jnp.concatenate(_taps(x, sizes, _Geometry(strides, pads, (1,) * rank, dilation, None)), -1)


def conv_transpose(
    x: Float[Array, "B *spatial C"],
    kernel: Float[Array, "*window I J"],
    *,
    strides: Sizes = 1,
    padding: Padding = "SAME",
    dilation: Sizes = 1,
    transpose_kernel: bool = False,
    precision: Any = None,
) -> Float[Array, "B *out _"]:
    """Transposed convolution: every input pixel is spread over a window of the output, `strides` apart.

    The value is `lax.conv_transpose`'s. On a CPU it is one product of matrices and a sum of shifted pictures, and no zero is ever multiplied.

    Args:
      x: inputs, batch first and channels last.
      kernel: window sizes, C and O; [*window, O, C] if `transpose_kernel`.
      strides: one for all axes or one each; how much larger the output is.
      padding: of the convolution that this one is the transpose of: "SAME" (the output is `strides` times as large) or "VALID" (all that a pixel
        reaches); "CIRCULAR" sums what leaves on one side into the other; numbers or pairs as in `convolution` are zeros around the spread input.
      dilation: the distance between neighbouring taps of the kernel.
      transpose_kernel: whether to flip the kernel's window and swap its channels: with a `convolution`'s kernel this is its gradient.
      precision: of the products, as `lax.Precision`.
    Returns:
      Outputs, channels last.
    Raises:
      ValueError: as `convolution`.

    >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
    >>> conv_transpose(x, jnp.array([1.0, 10.0]).reshape(2, 1, 1), strides=2).ravel().tolist()
    [10.0, 1.0, 20.0, 2.0]
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    rank = _rank("conv_transpose", x, kernel)
    if transpose_kernel:
        kernel = jnp.flip(kernel, range(rank)).swapaxes(-1, -2)
    if x.shape[-1] != kernel.shape[-2]:
        raise ValueError(f"conv_transpose: kernel must have {x.shape[-1]} input channels, got {kernel.shape[-2]}")
    strides, dilation = (_sizes("conv_transpose", name, value, rank) for name, value in (("strides", strides), ("dilation", dilation)))
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel.shape, strict=False)]
    if isinstance(padding, str) and padding in ("SAME", "VALID", "CIRCULAR"):
        pads = tuple(_spread_pads(padding, extent, stride) for extent, stride in zip(extents, strides, strict=True))
    else:
        pads = _pairs("conv_transpose", padding, rank)
    y = _dispatch(x, kernel, _Geometry((1,) * rank, pads, strides, dilation, precision))
    if padding == "CIRCULAR":
        for axis, (window, stride) in enumerate(zip(kernel.shape[:rank], strides, strict=True), 1):
            overlap = max(dilation[axis - 1] * (window - 1) + 1 - stride, 0)
            y = _wrapped(y, axis, stride * x.shape[axis], (overlap + transpose_kernel) // 2)
    return y


def _as_lax(lhs, rhs, window_strides, padding, *, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count=1, precision=None):
    # Linen calls with channels last, whatever dimension_numbers it spells that with.
    options = {"strides": window_strides, "dilation": rhs_dilation, "input_dilation": lhs_dilation}
    return convolution(lhs, rhs, padding=padding, groups=feature_group_count, precision=precision, **options)


class Conv(linen.Conv):
    """`flax.linen.Conv` on `convolution`: the same options, parameters (`kernel`, `bias`) and values.

    Half-precision parameters decide the dtype of the computation, so that float32 inputs (scaled pixels) do not undo mixed precision.

    >>> layer = Conv(4, (3, 3), strides=2)
    >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    >>> jax.tree.map(jnp.shape, variables["params"]), layer.apply(variables, jnp.ones((1, 8, 8, 3))).shape
    ({'bias': (4,), 'kernel': (3, 3, 3, 4)}, (1, 4, 4, 4))
    """

    promote_dtype: Any = promote_to_kernel
    conv_general_dilated: Any = _as_lax


class ConvTranspose(linen.ConvTranspose):
    """`flax.linen.ConvTranspose` on `conv_transpose`: the same options, parameters (`kernel`, `bias`) and values.

    >>> layer = ConvTranspose(4, (3, 3), strides=(2, 2))
    >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    >>> jax.tree.map(jnp.shape, variables["params"]), layer.apply(variables, jnp.ones((1, 8, 8, 3))).shape
    ({'bias': (4,), 'kernel': (3, 3, 3, 4)}, (1, 16, 16, 4))
    """

    promote_dtype: Any = promote_to_kernel

    @linen.compact
    def __call__(self, inputs: Float[Array, "*B_spatial C"]) -> Float[Array, "*B_out O"]:
        window = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        batch, picture = inputs.shape[: -1 - len(window)], inputs.shape[-1 - len(window) :]
        channels = (self.features, picture[-1]) if self.transpose_kernel else (picture[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, (*window, *channels), self.param_dtype)
        if self.mask is not None:
            if self.mask.shape != kernel.shape:
                raise ValueError(f"ConvTranspose: mask must have the shape of the kernel {kernel.shape}, got {self.mask.shape}")
            kernel = kernel * self.mask
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = self.promote_dtype(inputs.reshape(-1, *picture), kernel, bias, dtype=self.dtype)
        options: dict[str, Any] = {"strides": self.strides or 1, "dilation": self.kernel_dilation or 1, "transpose_kernel": self.transpose_kernel}
        y = conv_transpose(x, kernel, padding=self.padding, precision=self.precision, **options)
        if bias is not None:
            y = y + jnp.reshape(bias, (1,) * (y.ndim - 1) + (-1,))
        return y.reshape(*batch, *y.shape[1:])


class _Geometry(NamedTuple):
    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    precision: Any

    def along(self, *axes: int) -> "_Geometry":
        """Of some axes only; an axis of -1 is one that the window does not move along."""

        def chosen(sizes: tuple, still: Any) -> tuple:
            return tuple(still if axis < 0 else sizes[axis] for axis in axes)

        strides, padding = chosen(self.window_strides, 1), chosen(self.padding, (0, 0))
        return _Geometry(strides, padding, chosen(self.lhs_dilation, 1), chosen(self.rhs_dilation, 1), self.precision)


def _dispatch(x: Array, kernel: Array, geometry: _Geometry, groups: int = 1) -> Array:
    if not traced_for_cpu():
        return _convolve(x, kernel, geometry, groups=groups)
    if groups == 1:
        return _one_group(x, kernel, geometry)
    if kernel.shape[-2] == 1:
        return _channel_by_channel(x, kernel, geometry)
    group_first = [jnp.moveaxis(a.reshape(*a.shape[:-1], groups, -1), -2, 0) for a in (x, kernel)]
    y = lax.map(lambda group: _one_group(group[0], group[1], geometry), tuple(group_first))
    return jnp.moveaxis(y, 0, -2).reshape(*y.shape[1:-1], -1)


def _one_group(x: Array, kernel: Array, geometry: _Geometry) -> Array:
    rank = kernel.ndim - 2
    if max(geometry.lhs_dilation) > 1:
        return _spread(x, kernel, geometry)
    if max(kernel.shape[:rank]) == 1:
        return row_product(_taps(x, (1,) * rank, geometry)[0], kernel.reshape(kernel.shape[-2:]), precision=geometry.precision)
    if rank == 1:
        return _plane(x[:, None], kernel[None], geometry.along(-1, 0))[:, 0]
    if rank == 2:
        return _plane(x, kernel, geometry)
    # The taps of the first axis become channels of one convolution of planes.
    y = jnp.concatenate(_taps(x, (kernel.shape[0], 1, 1), geometry.along(0, -1, -1)), -1)
    folded = jnp.moveaxis(kernel, 0, -3).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
    planes = _one_group(y.reshape(-1, *y.shape[2:]), folded, geometry.along(1, 2))
    return planes.reshape(*y.shape[:2], *planes.shape[1:])


def _channel_by_channel(x: Array, kernel: Array, geometry: _Geometry) -> Array:
    # A channel's own kernel is a number for each tap: nothing that a matrix product could do, but one fused loop.
    taps = _taps(jnp.repeat(x, kernel.shape[-1] // x.shape[-1], -1), kernel.shape[:-2], geometry)
    weights = kernel.reshape(len(taps), *(1,) * (x.ndim - 1), -1)
    return sum(tap * weight for tap, weight in zip(taps[1:], weights[1:], strict=True)) + taps[0] * weights[0]


def _spread(x: Array, kernel: Array, geometry: _Geometry) -> Array:
    # What each input pixel adds to each place of its window, then the sum of these pictures, each moved to its place.
    window = kernel.shape[:-2]
    parts = row_product(x, jnp.moveaxis(kernel, -2, 0), precision=geometry.precision)
    y = jnp.zeros((), x.dtype)
    for tap in product(*map(range, window)):
        moves = [(d * (k - 1 - i), d * i, s - 1) for d, k, i, s in zip(geometry.rhs_dilation, window, tap, geometry.lhs_dilation, strict=True)]
        y = y + lax.pad(parts[(..., *tap, slice(None))], jnp.zeros((), x.dtype), [(0, 0, 0), *moves, (0, 0, 0)])
    reach = [d * (k - 1) for d, k in zip(geometry.rhs_dilation, window, strict=True)]
    crops = tuple((low - r, high - r) for (low, high), r in zip(geometry.padding, reach, strict=True))
    return _taps(y, (1,) * len(window), geometry._replace(padding=crops, lhs_dilation=(1,) * len(window)))[0]


def _taps(x: Array, window: Sequence[int], geometry: _Geometry) -> list[Array]:
    """What each tap of the window sees, in row-major order of the taps."""
    strides, padding, spacing, dilation, _ = geometry
    x = lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, step - 1) for (low, high), step in zip(padding, spacing, strict=True)), (0, 0, 0)]
    )
    out = [(size - d * (k - 1) - 1) // s + 1 for size, d, k, s in zip(x.shape[1:-1], dilation, window, strides, strict=True)]
    taps = []
    for tap in product(*map(range, window)):
        first = [d * i for d, i in zip(dilation, tap, strict=True)]
        last = [start + s * (n - 1) + 1 for start, s, n in zip(first, strides, out, strict=True)]
        taps.append(lax.slice(x, [0, *first, 0], [x.shape[0], *last, x.shape[-1]], [1, *strides, 1]))
    return taps


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _plane(x: Array, kernel: Array, geometry: _Geometry) -> Array:
    return _convolve(x, kernel, geometry)


@partial(_plane.defjvp, symbolic_zeros=True)
def _plane_jvp(geometry: _Geometry, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _plane(x, kernel, geometry)
    # A constant input (the pictures of the first layer) has a symbolic zero for its tangent, and costs nothing.
    parts = []
    if not isinstance(dx, jax.custom_derivatives.SymbolicZero):
        parts.append(_along_input(dx, kernel, geometry))
    if not isinstance(dkernel, jax.custom_derivatives.SymbolicZero):
        along_kernel = _along_kernel_of_one_channel if x.shape[-1] == 1 else _along_kernel
        parts.append(along_kernel(dkernel, x, geometry))
    return y, sum(parts[1:], parts[0]) if parts else jnp.zeros_like(y)


# Both tangents are the convolution again, written so that their *transposes*, which JAX derives and a gradient runs, are convolutions of
# channels-last pictures with an HWIO kernel: the one layout that XLA's CPU backend hands to its fast routine wherever it stands. All
# transpositions are explicit, and a barrier keeps XLA from folding them back into the convolution's layout.


def _along_input(dx: Array, kernel: Array, geometry: _Geometry) -> Array:
    flipped = lax.optimization_barrier(lax.rev(kernel, (0, 1)).swapaxes(-1, -2))
    # The transpose reverses its kernel; reversed twice it is `flipped`.
    return _convolve(dx, lax.rev(flipped, (0, 1)), geometry, ("NHWC", "HWOI", "NHWC"))


def _along_kernel(dkernel: Array, x: Array, geometry: _Geometry) -> Array:
    # For the transpose, channels of x are the batch and its batch the channels, and the cotangent is the kernel.
    x = lax.optimization_barrier(jnp.swapaxes(x, 0, -1))
    dkernel = lax.optimization_barrier(jnp.moveaxis(dkernel, -2, 0))
    return jnp.moveaxis(lax.optimization_barrier(_convolve(x, dkernel, geometry, ("CHWN", "IHWO", "HWNC"))), -2, 0)


def _along_kernel_of_one_channel(dkernel: Array, x: Array, geometry: _Geometry) -> Array:
    # With a single input channel the convolution above has a batch of one; a matrix product with the shifted pictures is four times as fast.
    shifted = _taps(x, dkernel.shape[:2], geometry)
    columns = lax.optimization_barrier(jnp.stack([tap.ravel() for tap in shifted]))
    dy = jnp.einsum("km,ko->mo", columns, dkernel.reshape(len(shifted), -1), precision=geometry.precision)
    return dy.reshape(*shifted[0].shape[:-1], -1)


def _convolve(x: Array, kernel: Array, geometry: _Geometry, numbers: tuple[str, str, str] | None = None, groups: int = 1) -> Array:
    letters = "DHW"[-(kernel.ndim - 2) :]
    numbers = numbers or (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, feature_group_count=groups, **geometry._asdict())


def _spread_pads(padding: str, extent: int, stride: int) -> tuple[int, int]:
    # Everything that the window reaches; "SAME" cuts that to `stride` places a pixel, the odd one more kept at the front.
    if padding != "SAME":
        return extent - 1, stride - 1 + max(extent - stride, 0)
    before = extent - 1 if stride > extent - 1 else (extent + stride - 1) // 2
    return before, extent + stride - 2 - before


def _wrapped(y: Array, axis: int, period: int, shift: int) -> Array:
    """Sums of all that lies a multiple of `period` apart, the first place being `shift`."""
    before = -shift % period
    pads = [(0, 0)] * y.ndim
    pads[axis] = (before, -(before + y.shape[axis]) % period)
    y = jnp.pad(y, pads)
    return y.reshape(*y.shape[:axis], -1, period, *y.shape[axis + 1 :]).sum(axis)


def _rank(who: str, x: Array, kernel: Array) -> int:
    if kernel.ndim not in (3, 4, 5) or x.ndim != kernel.ndim:
        raise ValueError(
            f"{who}: x must be [B, *spatial, C] and kernel [*window, C / groups, O] with one, two or three spatial axes, "
            f"got {x.shape} and {kernel.shape}"
        )
    return kernel.ndim - 2


def _sizes(who: str, name: str, value: Sizes, rank: int) -> tuple[int, ...]:
    sizes = (value,) * rank if not isinstance(value, Sequence) else tuple(value)
    if len(sizes) != rank:
        raise ValueError(f"{who}: {name} must be one number or {rank}, one for each spatial axis, got {value}")
    return tuple(check_int(who, name, size, minimum=1) for size in sizes)


def _resolved(who: str, padding: Padding, x: Array, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]) -> tuple:
    if isinstance(padding, str) and padding.upper() in ("SAME", "VALID"):
        extents = [d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True)]
        return tuple(lax.padtype_to_pads(x.shape[1:-1], extents, strides, padding.upper()))
    return _pairs(who, padding, len(window))


def _pairs(who: str, padding: Padding, rank: int) -> tuple[tuple[int, int], ...]:
    sides = tuple(padding) if isinstance(padding, Sequence) and not isinstance(padding, str) else (padding,) * rank
    pairs: tuple[Any, ...] = tuple((side, side) if isinstance(side, int) else tuple(side) if isinstance(side, Sequence) else () for side in sides)
    if len(pairs) != rank or any(len(pair) != 2 or isinstance(pair[0], str) for pair in pairs):
        raise ValueError(f"{who}: padding must be 'SAME', 'VALID', a number or {rank} numbers or pairs, got {padding!r}")
    return pairs
