"""Continuous depth: the solution of a differential equation as a layer, with both adjoints (Chen et al., 2018). diffrax solves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from dljax.core.checks import check_choice, check_int, check_range
from dljax.core.contract import Params

Field = Callable[[Params, Any, Float[Array, ""]], Any]  # (params, h, t) -> dh/dt, of the structure, shapes and dtypes of h

# Evaluations of the field: in a step, and before the first one, by methods whose last stage is the first of the next step.
_COSTS = {"euler": (1, 0), "heun": (2, 0), "midpoint": (2, 0), "bosh3": (3, 1), "tsit5": (6, 1), "dopri5": (6, 1), "dopri8": (13, 1)}


@dataclass(frozen=True)
class ODEConfig:
    """How an ordinary differential equation is solved, and differentiated.

    Attributes:
      solver: a Runge-Kutta method: "euler" (order 1), "heun" and "midpoint" (2), "bosh3" (3), "tsit5" and "dopri5" (5), "dopri8" (8).
      num_steps: N >= 1 equal steps between neighbouring times; None lets the tolerances choose the steps, which "euler" cannot.
      rtol, atol: > 0, of adaptive steps. The error of a step, estimated and divided by atol + rtol |h|, has a root mean square below 1 over all that
        is solved together: a whole batch takes the same steps.
      first_step: what an adaptive solver tries first, as a part of the way to the next time, in (0, 1].
      adjoint: what a gradient is.
        "direct": that of the computed solution, step by step backwards, with checkpoints ("discretise then optimise"): exact, the memory of about
          √(2 `max_steps`) states.
        "continuous": of the exact solution: the adjoint equation, solved backwards by the same solver along with h, which is recomputed on the
          way back ("optimise then discretise"): the memory of a few states, an error of the order of the tolerance.
        "forward": both modes and higher orders of differentiation, without checkpoints; slower and of more memory.
      max_steps: of an adaptive solver between neighbouring times, >= 1, rejected ones included.
    Raises:
      ValueError: when built: an option out of its range; "euler" without `num_steps`.
    """

    solver: str = "dopri5"
    num_steps: int | None = None
    rtol: float = 1e-4
    atol: float = 1e-6
    first_step: float = 0.1
    adjoint: str = "direct"
    max_steps: int = 1000

    def __post_init__(self) -> None:
        check_choice("ODEConfig", "solver", self.solver, _COSTS)
        check_choice("ODEConfig", "adjoint", self.adjoint, ("direct", "continuous", "forward"))
        check_int("ODEConfig", "max_steps", self.max_steps, minimum=1)
        check_range("ODEConfig", "rtol", self.rtol, 0, open_low=True)
        check_range("ODEConfig", "atol", self.atol, 0, open_low=True)
        check_range("ODEConfig", "first_step", self.first_step, 0, 1, open_low=True)
        if self.num_steps is not None:
            check_int("ODEConfig", "num_steps", self.num_steps, minimum=1)
        elif self.solver == "euler":
            raise ValueError("ODEConfig: num_steps must be given where solver='euler', which cannot tell its error; or choose 'heun', 'dopri5' ...")


class ODESolution(NamedTuple):
    """A solution at the times that were asked for.

    Attributes:
      states: h at each time, each leaf [T, ...]; the first is the initial state. NaN behind the place where the solver failed.
      num_evaluations: how often the field was evaluated on the way forward.
      num_steps: how many steps were tried, of which `num_rejected` were too long.
      is_solved: whether the last time was reached, and with finite values.
    """

    states: Any
    num_evaluations: Int[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    is_solved: Bool[Array, ""]


def solve_ode(field: Field, params: Params, h: Any, times: Float[Array, " T"] | Sequence[float], config: ODEConfig = ODEConfig()) -> ODESolution:
    """Solve an initial value problem.

      dh/dt = f(θ, h, t),   h(t_0) = h_0

    Each time is stepped to, none is interpolated. Values can be differentiated with respect to θ, h_0 and all times, by either adjoint.

    Args:
      field: f, pure and deterministic. What it closes over has no gradient: hand it over in `params`.
      params: θ, a pytree of floating-point arrays.
      h: h_0, a pytree of floating-point arrays. Half precision is solved in float32, and the field evaluated in half.
      times: t_0 ... t_{T-1}, T >= 2, rising or falling; may be traced.
    Returns:
      The states at all times. A solver that fails (more than `max_steps`, a step below the resolution of the numbers, values that are not finite)
      raises nothing, which no compiled program could: the states from there on are NaN, and `is_solved` is False.
    Raises:
      ValueError: `times` is no vector of at least two; the field returns other shapes than the state's.
      TypeError: a state that is not floating-point.
    Source: Chen, Rubanova, Bettencourt and Duvenaud (2018), Neural Ordinary Differential Equations.

    >>> solution = solve_ode(lambda rate, h, t: -rate * h, jnp.float32(2.0), jnp.float32(1.0), [0.0, 1.0])
    >>> round(float(solution.states[-1]), 4), int(solution.num_evaluations), bool(solution.is_solved)
    (0.1354, 25, True)
    """
    times = jnp.asarray(times)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"solve_ode: times must be a vector of at least two, got shape {times.shape}")
    params, h = jax.tree.map(jnp.asarray, (params, h))
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(h)):
        raise TypeError(f"solve_ode: the state h must be floating-point, got {jax.tree.map(lambda leaf: leaf.dtype.name, h)}")
    narrow = jax.tree.map(lambda leaf: leaf.dtype, (params, h))
    params, h = jax.tree.map(_widened, (params, h))
    clock = jnp.result_type(jnp.float32, *jax.tree.leaves(h))
    times = times.astype(clock)

    def slope(params: Params, h: Any, t: Array) -> Any:
        params, inner = jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), (params, h), narrow)
        slopes = field(params, inner, t)
        if jax.tree.map(jnp.shape, slopes) != jax.tree.map(jnp.shape, h):
            raise ValueError(
                f"solve_ode: field must return the shapes of the state, {jax.tree.map(jnp.shape, h)}, got {jax.tree.map(jnp.shape, slopes)}"
            )
        return jax.tree.map(lambda slope, leaf: slope.astype(leaf.dtype), slopes, h)

    solve = _interval(slope, config, clock)

    def advance(carry: tuple[Any, Array], ends: tuple[Array, Array]) -> tuple[tuple[Any, Array], tuple]:
        h, is_solved = carry
        h, counts, is_reached = solve(params, h, *ends)
        is_solved = is_solved & is_reached
        h = jax.tree.map(lambda leaf: jnp.where(is_solved, leaf, jnp.nan), h)
        return (h, is_solved), (h, counts)

    start = jax.tree.map(jnp.isfinite, h)
    carry = (h, jnp.stack([leaf.all() for leaf in jax.tree.leaves(start)]).all())
    if len(times) == 2:
        (last, is_solved), (_, counts) = advance(carry, (times[0], times[1]))
        states = jax.tree.map(lambda first, last: jnp.stack([first, last]), h, last)
    else:
        (_, is_solved), (rest, counts) = lax.scan(advance, carry, (times[:-1], times[1:]))
        states = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), h, rest)
        counts = jax.tree.map(jnp.sum, counts)
    states = jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), states, narrow[1])
    evaluations, steps, rejected = counts
    return ODESolution(states, evaluations, steps, rejected, is_solved)


class ODEBlock(linen.Module):
    """A residual branch of continuous depth: its output is where the features have flowed to at the last time.

      dh/dt = f(θ, h, t),   h(t_0) = [x, 0],   y = h(t_1)

    One "euler" step of length one is a residual block, x + f(x, t_0).

    Attributes:
      field: f, a module called as `field(h, t)` that returns the shape of h and keeps nothing but parameters: group norm, no batch norm, no dropout.
      config: the solver, its tolerances and the adjoint.
      times: t_0 and t_1; t_1 < t_0 flows backwards.
      num_extra: p >= 0 channels of zeros that are appended to x, and returned with it (an augmented ODE): in more dimensions ways need not cross.

    Every call sows what it took as `num_evaluations` and `is_solved` into the collection `intermediates`.

    Source: Chen et al. (2018), Neural Ordinary Differential Equations, section 2; Dupont, Doucet and Teh (2019), Augmented Neural ODEs, eq. 2.

    >>> class Rotation(linen.Module):
    ...     def __call__(self, h, t):
    ...         return jnp.pi * jnp.stack([-h[..., 1], h[..., 0]], -1)
    >>> y = ODEBlock(Rotation()).apply({}, jnp.array([[1.0, 0.0]]))
    >>> [round(float(value), 3) + 0 for value in y[0]]
    [-1.0, 0.0]
    """

    field: linen.Module
    config: ODEConfig = ODEConfig()
    times: tuple[float, float] = (0.0, 1.0)
    num_extra: int = 0

    @linen.compact
    def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B D"]:
        """Features at the last time, NaN where the solver failed.

        Raises:
          ValueError: when traced: the field keeps variables other than parameters, or returns another shape; `num_extra` < 0.
        """
        solution = self._solve(x, self.times)
        self.sow("intermediates", "num_evaluations", solution.num_evaluations)
        self.sow("intermediates", "is_solved", solution.is_solved)
        return solution.states[-1]

    def trajectory(self, x: Float[Array, "*B C"], times: Float[Array, " T"] | Sequence[float]) -> ODESolution:
        """The features on their way: `block.apply(variables, x, times, method="trajectory")`.

        Args:
          times: at least two, the first is that of x.
        """
        return self._solve(x, times)

    def _solve(self, x: Float[Array, "*B C"], times: Any) -> ODESolution:
        check_int("ODEBlock", "num_extra", self.num_extra, minimum=0)
        h = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.num_extra)])
        if self.is_initializing():
            self.field(h, jnp.asarray(times[0], jnp.float32))
        # Variables are made outside of the solve and handed to it: inside the loops of a solver linen could make none.
        field, variables = self.field.unbind()
        if set(variables) - {"params"}:
            raise ValueError(
                f"ODEBlock: field must keep nothing but parameters, got the collections {sorted(set(variables))}; a batch norm has no one batch "
                "whose statistics it could keep on the way through the solver: take GroupNorm"
            )
        return solve_ode(lambda params, h, t: field.apply({"params": params}, h, t), variables.get("params", {}), h, times, self.config)


def _interval(slope: Field, config: ODEConfig, clock: Any) -> Callable[..., tuple[Any, tuple, Array]]:
    """From one time to the next: `(params, h, t0, t1) -> (h at t1, counts, is_reached)`."""
    import diffrax

    solvers = {name: getattr(diffrax, name.capitalize()) for name in _COSTS}
    adjoints: dict[str, Any] = {
        "direct": diffrax.RecursiveCheckpointAdjoint,
        "continuous": diffrax.BacksolveAdjoint,
        "forward": diffrax.DirectAdjoint,
    }
    each, before = _COSTS[config.solver]
    num = config.num_steps
    controller: Any
    if num is None:
        # A step that is shorter than the clock can tell ends the solve, and not `max_steps`.
        controller = diffrax.PIDController(config.rtol, config.atol, norm=_size, dtmin=float(jnp.finfo(clock).eps), force_dtmin=False)
    else:
        controller = diffrax.ConstantStepSize()

    def scaled(s: Any, h: Any, args: tuple) -> Any:
        params, start, unit = args
        return jax.tree.map(lambda leaf: unit.astype(leaf.dtype) * leaf, slope(params, h, start + s * unit))

    def solve(params: Params, h: Any, start: Array, end: Array) -> tuple[Any, tuple, Array]:
        # The clock of the solver counts steps, or parts of the interval: the ends are then arguments of the field and have gradients by any adjoint.
        unit = (end - start) / (num or 1)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(scaled),
            solvers[config.solver](),
            t0=0.0,
            t1=float(num or 1),
            dt0=1.0 if num else config.first_step,
            y0=h,
            args=(params, start, unit),
            saveat=diffrax.SaveAt(t1=True),
            stepsize_controller=controller,
            adjoint=adjoints[config.adjoint](),
            max_steps=num or config.max_steps,
            throw=False,
        )
        h = jax.tree.map(lambda leaf: leaf[0], solution.ys)
        steps, rejected = solution.stats["num_steps"], solution.stats["num_rejected_steps"]
        is_finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(h)]).all()
        counts = (each * steps + before, steps, rejected)
        return h, counts, is_finite & (solution.result == diffrax.RESULTS.successful)

    return solve


def _size(tree: Any) -> Array:
    """Root mean square; what is not finite is huge, so that its step is refused and the next one shorter."""
    leaves = [jnp.abs(leaf) for leaf in jax.tree.leaves(lax.stop_gradient(tree))]
    square = sum(jnp.sum(leaf**2) for leaf in leaves) / max(sum(leaf.size for leaf in leaves), 1)
    return jnp.where(jnp.isfinite(square), jnp.sqrt(square), 1e30)


def _widened(leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
