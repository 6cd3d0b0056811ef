"""What a minimiser is inside: an objective on flat vectors, an iterate, and a pair (init, step)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from dljax.core.contract import Params
from dljax.core.tree import named_leaves

RUNNING, CONVERGED, MAX_ITERATIONS, LINE_SEARCH, NOT_DESCENT, SINGULAR, NOT_FINITE, NO_PROGRESS = range(8)

# Iterations without any gain that is more than rounding.
_PATIENCE = 20

MESSAGES: Mapping[int, str] = {
    RUNNING: "still running",
    CONVERGED: "converged: the largest component of the gradient is within the tolerance",
    MAX_ITERATIONS: "stopped after max_iterations; allow more, scale the variables, or take a method with more curvature",
    LINE_SEARCH: "no step along the direction decreases the value enough: its precision is used up, the gradient is wrong, or there is no minimum",
    NOT_DESCENT: "the search direction does not go downhill: the Hessian is not positive definite; take damped-newton or newton-cg",
    SINGULAR: "the Hessian is singular; take damped-newton, newton-cg or a quasi-Newton method",
    NOT_FINITE: "the value or the gradient is not finite at the start, or became so; x is the last point where both were",
    NO_PROGRESS: "neither the value nor the gradient falls any more: their precision is used up, or the gradient is wrong",
}


class Objective(NamedTuple):
    """A function of a flat vector and what its methods may ask.

    Attributes:
      value_and_grad: `x [n] -> (f [], ∇f [n])`.
      hessian_product: `(x [n], v [n]) -> ∇²f(x) v`, forward over reverse, without the matrix.
      residuals: `x [n] -> r [m]` where f = ½ |r|², else None.
    """

    value_and_grad: Callable[[Array], tuple[Array, Array]]
    hessian_product: Callable[[Array, Array], Array]
    residuals: Callable[[Array], Array] | None = None


class Iterate(NamedTuple):
    """Where a minimiser stands: a point, what is known there, and the method's own memory.

    Attributes:
      x, value, gradient: the point [n], f [] and ∇f [n] there.
      memory: whatever the method keeps.
      status: [] int32, one of the codes of `MESSAGES`.
      iterations, evaluations: [] int32, steps made and calls of f with its gradient.
      mark: the value and the norm of the gradient at the last gain, and the iterations [] int32 since.
    """

    x: Float[Array, " n"]
    value: Float[Array, ""]
    gradient: Float[Array, " n"]
    memory: Any
    status: Int[Array, ""]
    iterations: Int[Array, ""]
    evaluations: Int[Array, ""]
    mark: tuple[Array, Array, Array]


class Method(NamedTuple):
    """A minimiser as a pair of pure functions.

    Attributes:
      init: `(objective, x, value, gradient) -> memory`.
      step: `(objective, iterate) -> iterate`, one iteration; it counts its evaluations and sets `status` where it cannot go on.
    """

    init: Callable[[Objective, Array, Array, Array], Any]
    step: Callable[[Objective, Iterate], Iterate]


def begin(method: Method, objective: Objective, x: Float[Array, " n"], tolerance: Any) -> Iterate:
    """The first iterate, at x."""
    value, gradient = objective.value_and_grad(x)
    zero = jnp.int32(0)
    mark = value, gradient_norm(gradient), zero
    iterate = Iterate(x, value, gradient, method.init(objective, x, value, gradient), zero, zero, jnp.int32(1), mark)
    status = jnp.where(_is_finite(value, gradient), _verdict(iterate, tolerance), NOT_FINITE)
    return iterate._replace(status=jnp.int32(status))


def advance(method: Method, objective: Objective, iterate: Iterate, tolerance: Any) -> Iterate:
    """One iteration and its judgement: converged, failed or still running; a point that is not finite is not gone to."""
    after = method.step(objective, iterate)
    after = after._replace(iterations=iterate.iterations + 1)
    mark = _marked(after)
    after = after._replace(status=jnp.where((after.status == RUNNING) & (mark[2] > _PATIENCE), NO_PROGRESS, after.status), mark=mark)
    after = after._replace(status=jnp.int32(_verdict(after, tolerance)))
    stay = iterate._replace(status=jnp.int32(NOT_FINITE), iterations=after.iterations, evaluations=after.evaluations)
    is_finite = _is_finite(after.value, after.gradient) & jnp.isfinite(after.x).all()
    return jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), after, stay)


def moved(iterate: Iterate, is_taken: Array, x: Array, value: Array, gradient: Array) -> Iterate:
    """The iterate at a trial point where that is taken, else where it was; one evaluation more."""
    pairs = (x, iterate.x), (value, iterate.value), (gradient, iterate.gradient)
    x, value, gradient = (jnp.where(is_taken, new, old) for new, old in pairs)
    return iterate._replace(x=x, value=value, gradient=gradient, evaluations=iterate.evaluations + 1)


def choose(condition: Array, yes: Any, no: Any) -> Any:
    """One of two trees of the same structure."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def rounding(value: Float[Array, ""]) -> Float[Array, ""]:
    """How far a difference of values like this one may be nothing but rounding."""
    return 8 * jnp.finfo(value.dtype).eps * jnp.abs(value)


def gradient_norm(gradient: Float[Array, " n"]) -> Float[Array, ""]:
    """The largest component in magnitude, which does not grow with the number of variables."""
    return jnp.max(jnp.abs(gradient), initial=0.0)


def flat_objective(who: str, fun: Callable[[Params], Any], x0: Params) -> tuple[Objective, Float[Array, " n"], Callable[[Array], Params]]:
    """A scalar function of a pytree as an `Objective`, its start as a vector, and the way back.

    Raises:
      ValueError: x0 is empty or not all floating-point; `fun` does not return one real number.
    """
    x, unravel = _flat(who, x0)
    made = jax.eval_shape(fun, x0)
    if not isinstance(made, jax.ShapeDtypeStruct) or made.shape != () or not jnp.issubdtype(made.dtype, jnp.floating):
        raise ValueError(f"{who}: fun must return one real number, got {_described(made)}; sum or average it, or say has_aux=True")

    def value(x: Array) -> Array:
        return jnp.asarray(fun(unravel(x)), x.dtype)

    gradient = jax.grad(value)
    return Objective(jax.value_and_grad(value), lambda x, v: jax.jvp(gradient, (x,), (v,))[1]), x, unravel


def flat_residuals(who: str, residuals: Callable[[Params], Any], x0: Params) -> tuple[Objective, Float[Array, " n"], Callable[[Array], Params]]:
    """f = ½ |r|² of residuals in any pytree as an `Objective`; its Hessian products are Gauss-Newton's JᵀJ v.

    Raises:
      ValueError: x0 or what `residuals` returns is empty or not all floating-point.
    """
    x, unravel = _flat(who, x0)
    made = jax.eval_shape(residuals, x0)
    if not jax.tree.leaves(made) or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(made)):
        raise ValueError(f"{who}: residuals must return arrays of real numbers, got {_described(made)}; return the differences, not their squares")

    def flat(x: Array) -> Array:
        return ravel_pytree(residuals(unravel(x)))[0].astype(x.dtype)

    def value_and_grad(x: Array) -> tuple[Array, Array]:
        r, pull = jax.vjp(flat, x)
        return 0.5 * r @ r, pull(r)[0]

    def product(x: Array, v: Array) -> Array:
        return jax.vjp(flat, x)[1](jax.jvp(flat, (x,), (v,))[1])[0]

    return Objective(value_and_grad, product, flat), x, unravel


def _flat(who: str, x0: Params) -> tuple[Array, Callable[[Array], Params]]:
    for name, leaf in named_leaves(x0):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"{who}: x0 must hold real floating-point numbers, got {jnp.result_type(leaf)} at {name or 'its only leaf'}; write 1.0 for 1"
            )
    x, unravel = ravel_pytree(x0)
    if not x.size:
        raise ValueError(f"{who}: x0 must hold at least one number, got {x0!r}")
    return x, unravel


def _verdict(iterate: Iterate, tolerance: Any) -> Array:
    return jnp.where(gradient_norm(iterate.gradient) <= tolerance, CONVERGED, iterate.status)


def _marked(iterate: Iterate) -> tuple[Array, Array, Array]:
    value, norm, since = iterate.mark  # only gains move them, or many small ones would never add up to one
    now = gradient_norm(iterate.gradient)
    is_gain = (iterate.value < value - rounding(value)) | (now < 0.9 * norm)
    return jnp.where(is_gain, iterate.value, value), jnp.where(is_gain, now, norm), jnp.where(is_gain, 0, since + 1)


def _is_finite(value: Array, gradient: Array) -> Bool[Array, ""]:
    return jnp.isfinite(value) & jnp.isfinite(gradient).all()


def _described(made: Any) -> str:
    return ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(made)) or repr(made)
