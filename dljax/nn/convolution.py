"""Convolution whose gradients are as fast inside `lax.scan` as outside, on a CPU too."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.nn.dense import promote_to_kernel

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

    The value is `lax.conv_general_dilated`'s, and so are derivatives of every order and mode, up to rounding. On a CPU the gradients are computed by
    other convolutions: those that JAX derives lead XLA to layouts that run in a naive loop once they stand inside `lax.scan`, tens of times
    slower. Which form is used is decided when the function is traced, by the default device; on other devices, and for `groups` > 1, it is JAX's own.

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
    rank = kernel.ndim - 2
    if rank not in (1, 2, 3) or x.ndim != kernel.ndim:
        raise ValueError(
            "convolution: x must be [B, *spatial, C] and kernel [*window, C / groups, O] with one, two or three spatial axes, "
            f"got {x.shape} and {kernel.shape}"
        )
    check_int("convolution", "groups", groups, minimum=1)
    if x.shape[-1] != groups * kernel.shape[-2] or kernel.shape[-1] % groups:
        raise ValueError(
            f"convolution: kernel must have {x.shape[-1]} / {groups} input channels and a multiple of {groups} outputs (groups={groups}), "
            f"got {kernel.shape[-2]} and {kernel.shape[-1]}"
        )
    strides, dilation, input_dilation = (
        _sizes(name, value, rank) for name, value in (("strides", strides), ("dilation", dilation), ("input_dilation", input_dilation))
    )
    if isinstance(padding, str) and max(input_dilation) > 1:
        raise ValueError(f"convolution: padding must be given in numbers where input_dilation is above 1, got {padding!r} and {input_dilation}")
    pads = _pads(padding, x.shape[1:-1], kernel.shape[:-2], strides, dilation)
    geometry = {"window_strides": strides, "padding": pads, "lhs_dilation": input_dilation, "rhs_dilation": dilation, "precision": precision}
    if groups > 1 or not _traced_for_cpu():
        return _convolve(x, kernel, **geometry, feature_group_count=groups)
    return _cpu_convolution(x, kernel, tuple(geometry.items()))


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


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _cpu_convolution(x: Array, kernel: Array, geometry: tuple) -> Array:
    return _convolve(x, kernel, **dict(geometry))


def _cpu_convolution_jvp(geometry: tuple, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, kernel = primals
    dx, dkernel = tangents
    y = _cpu_convolution(x, kernel, geometry)
    # A constant input (the pictures of the first layer) has a symbolic zero for its tangent, and costs nothing.
    dy = jnp.zeros_like(y)
    if not isinstance(dx, jax.custom_derivatives.SymbolicZero):
        dy = _along_input(dx, kernel, dict(geometry))
    if not isinstance(dkernel, jax.custom_derivatives.SymbolicZero):
        along_kernel = _along_kernel_of_one_channel if x.shape[-1] == 1 else _along_kernel
        part = along_kernel(dkernel, x, dict(geometry))
        dy = part if isinstance(dx, jax.custom_derivatives.SymbolicZero) else dy + part
    return y, dy


_cpu_convolution.defjvp(_cpu_convolution_jvp, symbolic_zeros=True)


# Both tangents are the convolution again, written so that their *transposes*, which JAX derives and a gradient runs, are convolutions of
# channels-last pictures with an HWIO kernel: the one layout that XLA's CPU backend hands to its fast routine wherever it stands. All
# transpositions are explicit, and a barrier keeps XLA from folding them back into the convolution's layout.


def _along_input(dx: Array, kernel: Array, geometry: dict) -> Array:
    window = tuple(range(kernel.ndim - 2))
    flipped = lax.optimization_barrier(lax.rev(kernel, window).swapaxes(-1, -2))
    # The transpose reverses its kernel; reversed twice it is `flipped`.
    return _convolve(dx, lax.rev(flipped, window), **geometry, kernel_spec="OI")


def _along_kernel(dkernel: Array, x: Array, geometry: dict) -> Array:
    # For the transpose, channels of x are the batch and its batch the channels, and the cotangent is the kernel.
    x = lax.optimization_barrier(jnp.swapaxes(x, 0, -1))
    dkernel = lax.optimization_barrier(jnp.moveaxis(dkernel, -2, 0))
    letters = "DHW"[-(dkernel.ndim - 2) :]
    dy = lax.conv_general_dilated(x, dkernel, dimension_numbers=(f"C{letters}N", f"I{letters}O", f"{letters}NC"), **geometry)
    return jnp.moveaxis(lax.optimization_barrier(dy), -2, 0)


def _along_kernel_of_one_channel(dkernel: Array, x: Array, geometry: dict) -> Array:
    # With a single input channel the convolution above has a batch of one; a matrix product with the shifted pictures is four times as fast.
    strides, dilation, window = geometry["window_strides"], geometry["rhs_dilation"], dkernel.shape[:-2]
    spread = [(0, 0, 0), *((low, high, step - 1) for (low, high), step in zip(geometry["padding"], geometry["lhs_dilation"], strict=True)), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), spread)[..., 0]
    out = [(size - d * (k - 1) - 1) // s + 1 for size, d, k, s in zip(x.shape[1:], dilation, window, strides, strict=True)]
    shifted = []
    for tap in product(*map(range, window)):
        first = [d * i for d, i in zip(dilation, tap, strict=True)]
        last = [start + s * (n - 1) + 1 for start, s, n in zip(first, strides, out, strict=True)]
        shifted.append(lax.slice(x, [0, *first], [x.shape[0], *last], [1, *strides]).ravel())
    shifted = lax.optimization_barrier(jnp.stack(shifted))
    dy = jnp.einsum("km,ko->mo", shifted, dkernel.reshape(len(shifted), -1), precision=geometry["precision"])
    return dy.reshape(x.shape[0], *out, -1)


def _convolve(x: Array, kernel: Array, *, kernel_spec: str = "IO", feature_group_count: int = 1, **geometry: Any) -> Array:
    letters = "DHW"[-(kernel.ndim - 2) :]
    numbers = (f"N{letters}C", letters + kernel_spec, f"N{letters}C")
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, feature_group_count=feature_group_count, **geometry)


def _traced_for_cpu() -> bool:
    device: Any = jax.config.values["jax_default_device"]
    return (device if isinstance(device, str) else getattr(device, "platform", jax.default_backend())) == "cpu"


def _sizes(name: str, value: Sizes, rank: int) -> tuple[int, ...]:
    sizes = (value,) * rank if not isinstance(value, Sequence) else tuple(value)
    if len(sizes) != rank:
        raise ValueError(f"convolution: {name} must be one number or {rank}, one for each spatial axis, got {value}")
    return tuple(check_int("convolution", name, size, minimum=1) for size in sizes)


def _pads(padding: Padding, spatial: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]) -> tuple:
    rank = len(window)
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "VALID"):
            raise ValueError(f"convolution: padding must be 'SAME', 'VALID', a number or {rank} numbers or pairs, got {padding!r}")
        extents = [d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True)]
        return tuple(lax.padtype_to_pads(spatial, extents, strides, padding.upper()))
    sides = tuple(padding) if isinstance(padding, Sequence) else (padding,) * rank
    pairs = tuple((side, side) if isinstance(side, int) else tuple(side) if isinstance(side, Sequence) else () for side in sides)
    if len(pairs) != rank or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"convolution: padding must be 'SAME', 'VALID', a number or {rank} numbers or pairs, got {padding!r}")
    return pairs
