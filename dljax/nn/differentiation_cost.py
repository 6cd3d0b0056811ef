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
      fun: a function of pytrees of arrays; its real arguments are differentiated by, all others held.
      args: its arguments, or their shapes.
    Returns:
      A `DifferentiationCost`.
    Raises:
      TypeError: a result is not real.

    >>> cost = differentiation_cost(lambda x, w: jnp.sum((w @ x) ** 2), jnp.ones(10), jnp.ones((5, 10)))
    >>> cost.num_inputs, cost.num_outputs, cost.value, cost.reverse, cost.cheaper
    (60, 1, 109.0, 319.0, 'reverse')
    """
    leaves, structure = jax.tree.flatten(args)
    shapes = [leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.eval_shape(jnp.asarray, leaf) for leaf in leaves]
    moved = [shape for shape in shapes if _is_real(shape)]
    held = [shape for shape in shapes if not _is_real(shape)]
    out = jax.eval_shape(fun, *jax.tree.unflatten(structure, shapes))
    for name, leaf in named_leaves(out):
        if not _is_real(leaf):
            raise TypeError(f"differentiation_cost: fun must return real numbers, but {name or 'its result'} is {leaf.dtype}")

    def of_moved(x: Any, held: Any) -> Any:
        given, fixed = iter(x), iter(held)
        return fun(*jax.tree.unflatten(structure, [next(given if _is_real(shape) else fixed) for shape in shapes]))

    def flops(function: Callable[..., Any], *inputs: Any) -> float:
        return sum(times * arithmetic(eqn) for eqn, times in equations(jax.make_jaxpr(function)(*inputs).jaxpr))

    value = flops(of_moved, moved, held)
    forward = flops(lambda x, held, v: jax.jvp(lambda x: of_moved(x, held), (x,), (v,)), moved, held, moved)
    reverse = flops(lambda x, held, u: jax.vjp(lambda x: of_moved(x, held), x)[1](u), moved, held, out)
    return DifferentiationCost(num_params(moved), num_params(out), value, forward - value, reverse - value)


def _is_real(shape: jax.ShapeDtypeStruct) -> bool:
    return jax.dtypes.issubdtype(shape.dtype, np.floating)
