"""Matrix products of stacked rows, in the one layout that every backend runs at its peak."""

from typing import Any

from jax import lax
from jaxtyping import Array, Float


def row_product(
    x: Float[Array, "*B D"], kernel: Float[Array, "D F"], dimension_numbers: Any = None, precision: Any = None, **options: Any
) -> Float[Array, "*B F"]:
    """The product of every row of `x` with a matrix, computed as one product of two matrices.

      y_...f = Σ_d x_...d w_df

    The leading axes are merged first. Otherwise the gradient of the kernel sums over several axes at once, and XLA's CPU backend takes a naive
    loop for it: a Transformer's training step then takes twice as long.

    Args:
      dimension_numbers: None, or the only ones that a dense layer asks for: last axis of `x` against first of `kernel`.
      precision, options: as for `jax.lax.dot_general`.
    Raises:
      ValueError: other dimension numbers; sizes that do not match.

    It is what linen's layers take as their `dot_general`:

    >>> import jax, jax.numpy as jnp
    >>> from flax import linen
    >>> linen.Dense(4, dot_general=row_product).init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))[0].shape
    (2, 5, 4)
    """
    contraction = (((x.ndim - 1,), (0,)), ((), ()))
    if dimension_numbers not in (None, contraction) or kernel.ndim != 2:
        raise ValueError(
            f"row_product: must contract the last axis of x with the first of a matrix, got {dimension_numbers} and a kernel {kernel.shape}"
        )
    if x.shape[-1] != kernel.shape[0]:
        raise ValueError(f"row_product: kernel must have as many rows as x has columns, got {kernel.shape} for x {x.shape}")
    rows = x.reshape(-1, x.shape[-1])
    return lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), precision=precision, **options).reshape(*x.shape[:-1], -1)
