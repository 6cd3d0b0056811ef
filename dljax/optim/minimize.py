"""`minimize`: deterministic problems, to the end, as one pure function; and the same methods one step at a time, as a learner."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from dljax.core.checks import check_choice, check_int, check_range
from dljax.core.contract import Batch, Key, Learner, Metrics, Numeric, Params
from dljax.optim.descent import gradient_descent, nonlinear_cg
from dljax.optim.lbfgs import lbfgs
from dljax.optim.method import CONVERGED, MAX_ITERATIONS, MESSAGES, RUNNING, Iterate, Method, Objective, advance, begin, flat_objective, gradient_norm
from dljax.optim.newton import damped_newton, newton, newton_cg
from dljax.optim.quasi_newton import bfgs, dfp, sr1

METHODS: Mapping[str, Callable[[], Method]] = {
    "bfgs": bfgs,
    "damped-newton": damped_newton,
    "dfp": dfp,
    "gradient-descent": gradient_descent,
    "l-bfgs": lbfgs,
    "newton": newton,
    "newton-cg": newton_cg,
    "nonlinear-cg": nonlinear_cg,
    "sr1": sr1,
}
"""The methods of `minimize` by name, with their defaults."""


class Path(NamedTuple):
    """The iterates of a minimisation, the start first; rows after the last are NaN.

    Attributes:
      x: [K + 1, ...] each leaf, K = max_iterations.
      value, gradient_norm: [K + 1].
    """

    x: Params
    value: Float[Array, " rows"]
    gradient_norm: Float[Array, " rows"]


class MinimizeResult(NamedTuple):
    """What a minimisation came to. Failure is a value: nothing is raised, nothing loops for ever.

    Attributes:
      x: the last point, of the structure of the start.
      value: f there [].
      gradient_norm: the largest component of the gradient in magnitude [].
      converged: [] gradient_norm <= tolerance.
      iterations, evaluations: [] int32, steps, and calls of f with its gradient; Hessian products are not counted.
      status: [] int32, why it stopped: `message` says it in words.
      history: the `Path`, or None.
      aux: what f returned beside its value, at x; None without `has_aux`.
    """

    x: Params
    value: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    converged: Bool[Array, ""]
    iterations: Int[Array, ""]
    evaluations: Int[Array, ""]
    status: Int[Array, ""]
    history: Path | None = None
    aux: Any = None


def minimize(
    fun: Callable[[Params], Any],
    x0: Params,
    *,
    method: str | Method = "l-bfgs",
    tolerance: Numeric = 1e-5,
    max_iterations: int = 1000,
    has_aux: bool = False,
    history: bool = False,
) -> MinimizeResult:
    """Find a local minimum of a differentiable function of any pytree.

    It is pure: `jax.jit` it where you call it, with the data as arguments, or every call compiles anew; `jax.vmap` it over many starts or problems.

    Args:
      fun: `x -> f` [], or `x -> (f, aux)` with `has_aux`.
      x0: the start, a pytree of floating-point arrays. They are solved in their own precision: in float32 a value known to 7 digits gives x to
        3 or 4 of them, unless the gradient is more exact than that.
      method: a name in `METHODS`, or a `Method` made with options, such as `lbfgs(memory_size=20)`.
      tolerance: on the largest component of the gradient, >= 0; may be traced.
      max_iterations: iterations at most, >= 0; may be traced without `history`.
      history: whether to keep the path.
    Returns:
      A `MinimizeResult`, whose status and `message(result)` say why it stopped.
    Raises:
      ValueError: an unknown method, an option out of its range, an x0 that is not floating-point, a `fun` that does not return one real number.
      All before anything is compiled.

    >>> def rosenbrock(x):
    ...     return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
    >>> result = jax.jit(lambda x0: minimize(rosenbrock, x0))(jnp.array([-1.2, 1.0]))
    >>> message(result)
    'converged: the largest component of the gradient is within the tolerance'
    >>> result.x.round(3).tolist()
    [1.0, 1.0]
    """
    method = checked("minimize", method, METHODS, tolerance)
    objective, x, unravel = flat_objective("minimize", (lambda x: fun(x)[0]) if has_aux else fun, x0)
    result = run("minimize", method, objective, x, unravel, tolerance, max_iterations, history)
    return result._replace(aux=fun(result.x)[1]) if has_aux else result


def run(
    who: str,
    method: Method,
    objective: Objective,
    x: Array,
    unravel: Callable[[Array], Params],
    tolerance: Numeric,
    max_iterations: Any,
    history: bool,
) -> MinimizeResult:
    """The loop of `minimize` and its siblings, on a flat objective."""
    if not isinstance(max_iterations, jax.core.Tracer):
        check_int(who, "max_iterations", max_iterations)
    elif history:
        raise ValueError(f"{who}: max_iterations must be a known number where the history is kept, got a traced one; pass history=False")
    iterate = begin(method, objective, x, tolerance)
    rows = max_iterations + 1 if history else 0
    xs, values, norms = jnp.full((rows, x.size), jnp.nan, x.dtype), jnp.full(rows, jnp.nan, x.dtype), jnp.full(rows, jnp.nan, x.dtype)

    def noted(path: tuple, iterate: Iterate) -> tuple:
        facts = iterate.x, iterate.value, gradient_norm(iterate.gradient)
        return tuple(row.at[iterate.iterations].set(fact) for row, fact in zip(path, facts, strict=True)) if history else path

    def goes_on(carry: tuple[Iterate, tuple]) -> Array:
        return (carry[0].status == RUNNING) & (carry[0].iterations < max_iterations)

    def body(carry: tuple[Iterate, tuple]) -> tuple[Iterate, tuple]:
        iterate = advance(method, objective, carry[0], tolerance)
        return iterate, noted(carry[1], iterate)

    last, path = lax.while_loop(goes_on, body, (iterate, noted((xs, values, norms), iterate)))
    return MinimizeResult(
        x=unravel(last.x),
        value=last.value,
        gradient_norm=gradient_norm(last.gradient),
        converged=last.status == CONVERGED,
        iterations=last.iterations,
        evaluations=last.evaluations,
        status=jnp.where(last.status == RUNNING, MAX_ITERATIONS, last.status),
        history=Path(jax.vmap(unravel)(path[0]), *path[1:]) if history else None,
    )


def message(result: MinimizeResult) -> str:
    """Why a minimisation stopped, in words.

    Args:
      result: of one problem, not traced; of a batch take one: `jax.tree.map(lambda leaf: leaf[i], result)`.
    Raises:
      ValueError: a batch of results.

    >>> message(minimize(lambda x: (x**2).sum(), jnp.array([jnp.nan])))
    'the value or the gradient is not finite at the start, or became so; x is the last point where both were'
    """
    if jnp.shape(result.status):
        raise ValueError(f"message: result must be of one problem, got a batch {jnp.shape(result.status)}; index its leaves first")
    return MESSAGES[int(result.status)]


class MinimizerState(NamedTuple):
    """The parameters as a pytree, and the iterate on them as a vector."""

    params: Params
    iterate: Iterate


def minimizer(
    fun: Callable[[Params, Batch], Any], start: Callable[[Key, Batch], Params], *, method: str | Method = "l-bfgs", tolerance: Numeric = 1e-5
) -> Learner:
    """A method of `minimize` as a learner: one iteration a step, on the same batch in each.

    Once it has converged or failed its state stays as it is, and a run of it ends: `learner.done(state)`.

    Args:
      fun: `(x, batch) -> f` [], the objective on the whole data set, which the source repeats.
      start: `(key, batch) -> x0`, such as a model's initialisation.
      method, tolerance: as for `minimize`.
    Returns:
      A learner with metrics `value` [] and `gradient_norm` [].
    Raises:
      ValueError: as `minimize`.

    >>> learner = minimizer(lambda x, batch: ((x - batch) ** 2).sum(), lambda key, batch: jnp.zeros(2))
    >>> state = learner.init(jax.random.key(0), jnp.ones(2))
    >>> for _ in range(3):
    ...     state, metrics = learner.step(jax.random.key(0), state, jnp.ones(2))
    >>> state.params.tolist(), bool(learner.done(state))
    ([1.0, 1.0], True)
    """
    method = checked("minimizer", method, METHODS, tolerance)

    def problem(params: Params, batch: Batch) -> tuple[Objective, Array, Callable[[Array], Params]]:
        return flat_objective("minimizer", lambda x: fun(x, batch), params)

    def init(key: Key, batch: Batch) -> MinimizerState:
        params = start(key, batch)
        objective, x, _ = problem(params, batch)
        return MinimizerState(params, begin(method, objective, x, tolerance))

    def step(key: Key, state: MinimizerState, batch: Batch) -> tuple[MinimizerState, Metrics]:
        objective, _, unravel = problem(state.params, batch)
        iterate = lax.cond(_is_done(state), lambda old: old, lambda old: advance(method, objective, old, tolerance), state.iterate)
        state = MinimizerState(unravel(iterate.x), iterate)
        return state, {"value": iterate.value, "gradient_norm": gradient_norm(iterate.gradient)}

    return Learner(init, step, done=_is_done)


def checked(who: str, method: str | Method, methods: Mapping[str, Callable[[], Method]], tolerance: Numeric) -> Method:
    """The method of that name, once the options are in order."""
    check_range(who, "tolerance", tolerance, 0)
    if isinstance(method, Method):
        return method
    check_choice(who, "method", method, methods)
    return methods[method]()


def _is_done(state: MinimizerState) -> Bool[Array, ""]:
    return state.iterate.status != RUNNING
