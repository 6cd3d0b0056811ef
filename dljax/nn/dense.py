"""Dense layers: a matrix product at the machine's peak, in the precision of their parameters."""

import itertools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float, Num

from dljax.nn.product import row_product


def promote_to_kernel(x: Any, kernel: Any, bias: Any, *, dtype: Any = None) -> list[Any]:
    """Linen's promotion of inputs, kernel and bias to one dtype, except that half-precision parameters win over wider inputs.

    >>> x, kernel, bias = promote_to_kernel(jnp.ones(2, jnp.float32), jnp.ones(2, jnp.bfloat16), None)
    >>> x.dtype, kernel.dtype, bias
    (dtype(bfloat16), dtype(bfloat16), None)
    """
    if dtype is None and kernel.dtype in (jnp.bfloat16, jnp.float16):
        dtype = kernel.dtype
    return promote_dtype(x, kernel, bias, dtype=dtype)


class Dense(linen.Dense):
    """`flax.linen.Dense` on `row_product`: the same options, parameters (`kernel`, `bias`) and values.

    Half-precision parameters decide the dtype of the computation, so that float32 inputs (scaled pixels) do not undo mixed precision.

    >>> import jax
    >>> layer = Dense(4)
    >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
    >>> jax.tree.map(jnp.shape, variables["params"]), layer.apply(variables, jnp.ones((5, 2, 3))).shape
    ({'bias': (4,), 'kernel': (3, 4)}, (5, 2, 4))
    """

    promote_dtype: Any = promote_to_kernel
    dot_general: Any = row_product


class DenseGeneral(linen.DenseGeneral):
    """`flax.linen.DenseGeneral` on `row_product`: the same options, parameters (`kernel`, `bias`) and values.

    It is fast where the contracted axes are the last ones, as in attention; elsewhere it is linen's own.

    >>> import jax
    >>> DenseGeneral((2, 4)).init_with_output(jax.random.key(0), jnp.ones((5, 3)))[0].shape
    (5, 2, 4)
    """

    promote_dtype: Any = promote_to_kernel
    dot_general: Any = row_product


class Projection(linen.Module):
    """The parameters of a `Dense` layer, so that several of the same input can be one product (`projected`)."""

    features: int
    use_bias: bool
    kernel_init: Callable[..., Any]

    @linen.compact
    def __call__(self, size: int) -> tuple[Array, Array | None]:
        kernel = self.param("kernel", self.kernel_init, (size, self.features), jnp.float32)
        return kernel, self.param("bias", linen.initializers.zeros, (self.features,), jnp.float32) if self.use_bias else None


def projected(x: Float[Array, "*B D"], *projections: Projection) -> list[Array]:
    """What the `Dense` layers with these parameters make of `x`, computed as one product."""
    kernels, biases = zip(*(projection(x.shape[-1]) for projection in projections), strict=True)
    kernel = kernels[0] if len(kernels) == 1 else jnp.concatenate(kernels, -1)
    bias = None if biases[0] is None else jnp.concatenate(biases)
    x, kernel, bias = promote_to_kernel(x, kernel, bias)
    y = row_product(x, kernel)
    y = y if bias is None else y + jnp.expand_dims(bias, range(y.ndim - 1))
    ends = list(itertools.accumulate(projection.features for projection in projections))
    return jnp.split(y, ends[:-1], -1)


def unit_pixels(x: Num[Array, "*B"]) -> Float[Array, "*B"]:
    """Pictures as floats: uint8 is scaled to [0, 1], floats are left as they are.

    Raises:
      TypeError: another dtype, whose scale is anybody's guess.

    >>> unit_pixels(jnp.array([0, 255], jnp.uint8)).tolist()
    [0.0, 1.0]
    """
    if x.dtype == jnp.uint8:
        return x.astype(jnp.float32) / 255
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"unit_pixels: pictures must be uint8 in 0 ... 255 or floats, got {x.dtype}; convert them to one of these")
    return x
