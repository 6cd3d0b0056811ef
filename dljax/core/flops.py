"""Floating-point operations of a function, counted in its jaxpr before anything is compiled."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

ELEMENTWISE = frozenset((
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp",
    "cos", "cosh", "digamma", "div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "integer_pow", "lgamma", "log", "log1p",
    "logistic", "max", "min", "mul", "neg", "nextafter", "pow", "rem", "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan",
    "tanh",
))  # fmt: skip
"""The primitives that compute each element of their result from the elements at the same place of their arguments."""

_REDUCTIONS = frozenset(["reduce_sum", "reduce_max", "reduce_min", "reduce_prod"])
_CUMULATIVE = frozenset(["cumsum", "cummax", "cummin", "cumprod", "cumlogsumexp"])


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations of the matrix products and convolutions of a function, loops counted as often as they run.

    A multiplication and an addition are two operations. XLA's own analysis counts the body of a loop once; a `while` loop whose
    length is not known before it runs counts once here too.

    >>> import jax.numpy as jnp
    >>> count_flops(lambda a, b: a @ b, jnp.ones((4, 8)), jnp.ones((8, 2)))
    128.0
    """
    return float(sum(times * equation_flops(eqn) for eqn, times in equations(jax.make_jaxpr(function)(*args).jaxpr)))


def equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Every primitive operation of a jaxpr and of those inside it, with how often it runs; of the branches of a `cond`, the first."""
    for eqn in jaxpr.eqns:
        yield eqn, times
        for body in bodies(eqn):
            yield from equations(body, times * eqn.params["length"] if eqn.primitive.name == "scan" else times)


def bodies(eqn: Any) -> list[Any]:
    """The jaxprs inside one operation: what a call calls, what a loop repeats, the first branch of a `cond`; none in an operation proper."""
    inner = eqn.params["branches"][:1] if eqn.primitive.name == "cond" else eqn.params.values()
    return [body for body in (getattr(value, "jaxpr", value) for value in inner) if hasattr(body, "eqns")]


def equation_flops(eqn: Any) -> float:
    """Of one primitive operation: a matrix product or a convolution; 0 for all others.

    A convolution counts the products of kernel and input; what falls on padding is none.
    """
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        lhs = eqn.invars[0].aval.shape
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[dim] for dim in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        lhs, kernel, out = (atom.aval.shape for atom in (*eqn.invars, *eqn.outvars))
        numbers = eqn.params["dimension_numbers"]
        options = (eqn.params[name] for name in ("window_strides", "padding", "lhs_dilation", "rhs_dilation"))
        windows = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], *options, strict=True)
        taps = math.prod(_taps(lhs[i], kernel[k], out[o], *option) for i, k, o, *option in windows)
        return 2.0 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]] * taps
    return 0.0


def arithmetic(eqn: Any) -> float:
    """Of one primitive operation, element by element as well as in products and convolutions.

    An elementwise operation counts once for each element of its result, `exp` and its kin too (which XLA counts apart, as transcendentals), a
    reduction once for each element that it takes away. Moving, comparing and selecting cost nothing, nor do whole numbers.

    >>> import jax.numpy as jnp
    >>> eqns = jax.make_jaxpr(lambda x: jnp.sum(x * jnp.exp(x)))(jnp.ones((4, 5))).jaxpr.eqns
    >>> [(eqn.primitive.name, arithmetic(eqn)) for eqn in eqns]
    [('exp', 20.0), ('mul', 20.0), ('reduce_sum', 19.0)]
    """
    name, out = eqn.primitive.name, eqn.outvars[0].aval if eqn.outvars else None
    if out is None or not jax.dtypes.issubdtype(getattr(out, "dtype", None), np.inexact):
        return 0.0
    if name in ELEMENTWISE or name in _CUMULATIVE:
        return float(math.prod(out.shape))
    if name in _REDUCTIONS:
        return float(math.prod(eqn.invars[0].aval.shape) - math.prod(out.shape))
    return equation_flops(eqn)


def _taps(size: int, kernel: int, out: int, stride: int, padding: tuple[int, int], dilation: int, kernel_dilation: int) -> int:
    """Along one dimension, the pairs of output and kernel positions that meet an element of the input, not padding or a hole of its dilation."""
    place = np.arange(out)[:, None] * stride + np.arange(kernel)[None, :] * kernel_dilation - padding[0]
    return int(((place >= 0) & (place <= (size - 1) * dilation) & (place % dilation == 0)).sum())
