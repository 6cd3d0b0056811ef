"""Matrix products of stacked rows, in the one layout that every backend runs at its peak."""

import math
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def row_product(
    x: Float[Array, "*B D"], kernel: Float[Array, "..."], dimension_numbers: Any = None, precision: Any = None, **options: Any
) -> Float[Array, "..."]:
    """The product of every row of `x` with a matrix, computed as one product of two matrices.

      y_...f = Σ_d x_...d w_df

    The leading axes are merged first: the gradient of the kernel otherwise sums over several axes at once, which XLA's CPU backend is slow at. On an
    AMD CPU that gradient is written as (gᵀ x)ᵀ, of which the product is a plain one, up to twice as fast there as the xᵀ g that JAX asks for; on an
    Intel CPU, whose kernel for xᵀ g is as fast as any, the transpositions would cost a perceptron a fifth of its step.

    Args:
      x: rows of D numbers.
      kernel: [D, *F].
      dimension_numbers: None, or as for `jax.lax.dot_general`: several last axes of `x` may be contracted with as many first ones of `kernel`.
        Anything else is left to `jax.lax.dot_general`.
      precision, options: as for `jax.lax.dot_general`.
    Returns:
      [*B, *F].
    Raises:
      ValueError: sizes that do not match.

    It is what linen's layers take as their `dot_general`:

    >>> from flax import linen
    >>> linen.Dense(4, dot_general=row_product).init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))[0].shape
    (2, 5, 4)
    """
    num = 1 if dimension_numbers is None else len(dimension_numbers[0][1])
    last, first = tuple(range(x.ndim - num, x.ndim)), tuple(range(num))
    if dimension_numbers is not None and jax.tree.map(int, dimension_numbers) != ((last, first), ((), ())):
        return lax.dot_general(x, kernel, dimension_numbers, precision=precision, **options)
    if x.shape[-num:] != kernel.shape[:num]:
        raise ValueError(f"row_product: kernel must have as many rows as x has columns, got {kernel.shape} for x {x.shape}")
    size = math.prod(kernel.shape[:num])
    rows, matrix = x.reshape(math.prod(x.shape[:-num]), size), kernel.reshape(size, math.prod(kernel.shape[num:]))
    multiply = _amd_product if traced_for_cpu() and _is_amd() else _product
    return multiply(rows, matrix, (("precision", precision), *options.items())).reshape(*x.shape[:-num], *kernel.shape[num:])


def traced_for_cpu() -> bool:
    """Whether what is traced now will run on a CPU, judged by the default device.

    >>> with jax.default_device("cpu"):
    ...     traced_for_cpu()
    True
    """
    device: Any = jax.config.values["jax_default_device"]
    return (device if isinstance(device, str) else getattr(device, "platform", jax.default_backend())) == "cpu"


@cache
def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:  # not on Linux
        return False


def _product(x: Float[Array, "N D"], kernel: Float[Array, "D F"], options: tuple = ()) -> Float[Array, "N F"]:
    return lax.dot_general(x, kernel, (((1,), (0,)), ((), ())), **dict(options))


_amd_product = jax.custom_jvp(_product, nondiff_argnums=(2,))


@partial(_amd_product.defjvp, symbolic_zeros=True)
def _amd_product_jvp(options: tuple, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _amd_product(x, kernel, options)
    # A constant factor has a symbolic zero for its tangent, and costs nothing.
    parts = []
    if not isinstance(dx, jax.custom_derivatives.SymbolicZero):
        parts.append(_amd_product(dx, kernel, options))
    if not isinstance(dkernel, jax.custom_derivatives.SymbolicZero):
        # What counts is the transpose of this with respect to dkernel: ((gᵀ) x)ᵀ, a product of two matrices as they stand. The barriers keep XLA from
        # folding the transpositions into the product, for which it has a kernel of half the speed.
        columns = lax.dot_general(lax.optimization_barrier(dkernel.T), x, (((1,), (1,)), ((), ())), **dict(options))
        parts.append(lax.optimization_barrier(columns).T)
    return y, sum(parts[1:], parts[0]) if parts else jnp.zeros_like(y)
