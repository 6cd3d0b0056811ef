"""Forward mode against reverse mode: what the Jacobian of a function costs in either, counted before anything runs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dljax.core.flops import arithmetic, equations
from dljax.core.tree import named_leaves, num_params


class DifferentiationCost(NamedTuple):
    """What the Jacobian of f: ℝⁿ -> ℝᵐ costs in both modes, in floating-point operations.

    Attributes:
      num_inputs, num_outputs: n and m, the passes that forward and reverse mode take.
      value: one evaluation of f.
      forward_pass, reverse_pass: one Jacobian-vector product J v, one vector-Jacobian product uᵀJ, without the evaluation of f.
    """

    num_inputs: int
    num_outputs: int
    value: float
    forward_pass: float
    reverse_pass: float

    @property
    def forward(self) -> float:
        """The Jacobian column by column: f and n passes."""
        return self.value + self.num_inputs * self.forward_pass

    @property
    def reverse(self) -> float:
        """The Jacobian row by row: f and m passes."""
        return self.value + self.num_outputs * self.reverse_pass

    @property
    def cheaper(self) -> str:
        """Whichever takes fewer operations, "forward" or "reverse"."""
        return "forward" if self.forward < self.reverse else "reverse"


def differentiation_cost(fun: Callable[..., Any], *args: Any) -> DifferentiationCost:
    """Forward mode against reverse mode, counted without running either.

    Forward mode pushes a tangent through the graph for each input, reverse mode pulls an adjoint back for each output:

      forward = cost(f) + n cost(J v),   reverse = cost(f) + m cost(uᵀJ)

    so that the gradient of a loss with a million parameters takes one pass in reverse and a million forward.

    Args:
      fun: a function of pytrees of real arrays.
      args: its arguments, or their shapes.
    Returns:
      A `DifferentiationCost`.
    Raises:
      TypeError: an argument or a result is not real.

    >>> cost = differentiation_cost(lambda x, w: jnp.sum((w @ x) ** 2), jnp.ones(10), jnp.ones((5, 10)))
    >>> cost.num_inputs, cost.num_outputs, cost.value, cost.reverse, cost.cheaper
    (60, 1, 109.0, 319.0, 'reverse')
    """
    shapes = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.eval_shape(jnp.asarray, leaf), args)
    out = jax.eval_shape(fun, *shapes)
    for what, tree in (("an argument", shapes), ("a result", out)):
        for name, leaf in named_leaves(tree):
            if not jax.dtypes.issubdtype(leaf.dtype, np.floating):
                raise TypeError(f"differentiation_cost: what is differentiated must be real, but {what} {name} is {leaf.dtype}")

    def flops(function: Callable[..., Any], *inputs: Any) -> float:
        return sum(times * arithmetic(eqn) for eqn, times in equations(jax.make_jaxpr(function)(*inputs).jaxpr))

    value = flops(fun, *shapes)
    forward = flops(lambda x, v: jax.jvp(fun, x, v), shapes, shapes)
    reverse = flops(lambda x, u: jax.vjp(fun, *x)[1](u), shapes, out)
    return DifferentiationCost(num_params(shapes), num_params(out), value, forward - value, reverse - value)
