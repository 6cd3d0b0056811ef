"""Hessian-free optimisation: truncated Newton steps on batches by Gauss-Newton products (Martens, 2010)."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from dljax.core.axis import psum
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric, Params
from dljax.core.rule import Problem, Seen, UpdateRule, refuse_penalty


class HessianFreeState(NamedTuple):
    """The last direction [n], where the next solution starts from, and λ []."""

    direction: Float[Array, " n"]
    damping: Float[Array, ""]


def hessian_free(
    *, damping: Numeric = 1.0, decay: Numeric = 0.95, max_iterations: int = 50, tolerance: Numeric = 5e-4, max_backtracks: int = 20
) -> UpdateRule:
    """Newton steps with the Gauss-Newton matrix G, solved inexactly by conjugate gradients: as a rule for `supervised`.

      p ≈ argmin φ(p),   φ(p) = ∇Lᵀp + ½ pᵀ(G + λ I) p,   θ⁺ = θ + α p

    Conjugate gradients begin at the last direction and end where the last tenth of them (ten at least) lowered φ by less than `tolerance` each,
    relative to φ. From their last iterate one goes back (to every one that is a power of 1.3) as long as the loss, not φ, falls; then α is the first
    of 1, 0.8, 0.64 ... with a sufficient decrease, and 0 where none has it: a step never raises the loss of its own batch. λ grows by half where the
    loss falls by less than a quarter of what φ promised, and shrinks by a third where it falls by more than three quarters.

    Args:
      damping: the first λ >= 0; may be traced. 0 stays 0.
      decay: how much of the last direction a solution starts with, in [0, 1].
      max_iterations: of conjugate gradients, >= 1, each a pass forward and one back.
      tolerance: > 0.
      max_backtracks: tries of α, >= 1, each a pass forward.
    Returns:
      An `UpdateRule` that reports `damping`, `step_size` (α) and `cg_iterations`, all [].
    Raises:
      ValueError: an option out of its range.
    Source: Martens (2010), Deep learning via Hessian-free optimization, section 4; Martens and Sutskever (2012), sections 8-10, for the decay.

    >>> from flax import linen
    >>> from dljax.objectives import cross_entropy
    >>> from dljax.supervised import supervised
    >>> learner = supervised(linen.Dense(2), cross_entropy, hessian_free())
    >>> batch = {"x": jnp.eye(3), "y": jnp.array([0, 1, 1])}
    >>> state, metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
    >>> sorted(metrics)
    ['cg_iterations', 'damping', 'loss', 'step_size']
    """
    check_range("hessian_free", "damping", damping, 0)
    check_range("hessian_free", "decay", decay, 0, 1)
    check_int("hessian_free", "max_iterations", max_iterations, minimum=1)
    check_range("hessian_free", "tolerance", tolerance, 0, open_low=True)
    check_int("hessian_free", "max_backtracks", max_backtracks, minimum=1)

    def init(params: Params, problem: Problem) -> HessianFreeState:
        refuse_penalty("hessian_free", params, problem)
        x, _ = ravel_pytree(params)
        return HessianFreeState(jnp.zeros_like(x), jnp.asarray(damping, x.dtype))

    def update(key: Key, params: Params, state: HessianFreeState, problem: Problem) -> tuple[Params, HessianFreeState, Seen, Mapping[str, Any]]:
        x, unravel = ravel_pytree(params)

        def forward(x: Array) -> tuple[Any, Any]:
            return problem.forward(unravel(x))

        def value(x: Array) -> Array:
            return psum(problem.loss(forward(x)[0])[0])

        outputs, push, model_state = jax.linearize(forward, x, has_aux=True)
        pull = jax.linear_transpose(push, x)
        slope, curve, loss = jax.linearize(jax.grad(problem.loss, has_aux=True), outputs, has_aux=True)
        gradient = psum(pull(slope)[0])
        before = psum(problem.loss(outputs)[0])

        def times(v: Array) -> Array:
            return psum(pull(curve(push(v)))[0]) + state.damping * v

        found = conjugate_gradients(times, gradient, decay * state.direction, max_iterations, tolerance)
        direction, after = _best_iterate(value, x, found.iterates, found.kept)
        step, taken = _line_search(value, x, direction, before, after, gradient @ direction, max_backtracks)
        # What φ promises of the direction that is taken, which is not always the last.
        promised = gradient @ direction + 0.5 * direction @ times(direction)
        ratio = (after - before) / jnp.where(promised < 0, promised, -1)
        factor = jnp.where(ratio > 0.75, 2 / 3, jnp.where(ratio >= 0.25, 1, 1.5))
        new = HessianFreeState(jnp.where(step > 0, found.solution, 0), (state.damping * factor).astype(x.dtype))
        metrics = {"damping": state.damping, "step_size": step, "cg_iterations": found.iterations.astype(x.dtype)}
        return unravel(taken), new, Seen(outputs, model_state, loss), metrics

    return UpdateRule(init, update)


class Solution(NamedTuple):
    """What conjugate gradients came to.

    Attributes:
      solution: the last iterate [n].
      iterates: [S, n], those after 1, 2, 3, 4, 6 ... iterations; where it ended earlier the last ones are the solution.
      kept: [] int32, how many of them differ; the last of them is the solution.
      iterations: [] int32.
    """

    solution: Float[Array, " n"]
    iterates: Float[Array, "S n"]
    kept: Int[Array, ""]
    iterations: Int[Array, ""]


def conjugate_gradients(
    times: Callable[[Array], Array], gradient: Float[Array, " n"], start: Float[Array, " n"], max_iterations: int, tolerance: Numeric = 5e-4
) -> Solution:
    """Minimise φ(p) = gᵀp + ½ pᵀB p until φ itself hardly falls, which the size of the residual does not tell.

    It ends after iteration i where φ_i < 0 and (φ_{i-k} - φ_i) < k ε |φ_i|, k = max(10, i/10); where the curvature is not positive; or solved.

    Args:
      times: `v -> B v`, symmetric and positive semidefinite.
      gradient, start: g, and the first p.
      max_iterations, tolerance: at most so many, >= 1, and ε > 0.
    Source: Martens (2010), section 4.4.

    >>> found = conjugate_gradients(lambda v: jnp.array([1.0, 4.0]) * v, jnp.array([-1.0, -4.0]), jnp.zeros(2), 10)
    >>> found.solution.round(3).tolist()
    [1.0, 1.0]
    """
    marks = jnp.asarray(_marks(max_iterations), jnp.int32)
    solved = 10 * jnp.finfo(start.dtype).eps * jnp.linalg.norm(gradient)  # no residual is known better
    rest = times(start) + gradient

    def value(p: Array, rest: Array) -> Array:
        return 0.5 * p @ (rest + gradient)

    def body(carry: tuple) -> tuple:
        count, p, rest, direction, values, iterates, _ = carry
        along = times(direction)
        curvature, square = direction @ along, rest @ rest
        is_curved = curvature > 0
        step = jnp.where(is_curved, square / jnp.where(is_curved, curvature, 1), 0)
        p, rest = p + step * direction, rest + step * along
        direction = -rest + (rest @ rest) / square * direction
        count += 1
        now = value(p, rest)
        values = values.at[count].set(now)
        # Every mark not passed yet: what the search stops at is also its last entry.
        iterates = jnp.where((marks >= count)[:, None], p[None], iterates)
        window = jnp.maximum(10, count // 10)
        is_slow = (count > window) & (now < 0) & (values[jnp.maximum(count - window, 0)] - now < window * tolerance * jnp.abs(now))
        is_solved = jnp.linalg.norm(rest) <= solved
        return count, p, rest, direction, values, iterates, is_slow | is_solved | ~is_curved

    values = jnp.zeros(max_iterations + 1, gradient.dtype).at[0].set(value(start, rest))
    iterates = jnp.broadcast_to(start, (len(marks), start.size))
    is_over = jnp.linalg.norm(rest) <= solved
    begin = jnp.int32(0), start, rest, -rest, values, iterates, is_over
    count, p, _, _, _, iterates, _ = lax.while_loop(lambda carry: ~carry[-1] & (carry[0] < max_iterations), body, begin)
    return Solution(p, iterates, jnp.searchsorted(marks, count).astype(jnp.int32) + 1, count)


def _marks(max_iterations: int) -> list[int]:
    powers = {math.ceil(1.3**power) for power in range(1 + math.ceil(math.log(max_iterations, 1.3)))}
    return sorted({mark for mark in powers if mark < max_iterations} | {max_iterations})


def _best_iterate(value: Callable[[Array], Array], x: Array, iterates: Array, kept: Array) -> tuple[Array, Array]:
    """From the last iterate back, as long as the loss falls."""
    last = kept - 1

    def goes_on(carry: tuple) -> Array:
        index, _, falls = carry
        return falls & (index > 0)

    def body(carry: tuple) -> tuple:
        index, best, _ = carry
        earlier = value(x + iterates[index - 1])
        falls = ~(earlier >= best)
        return jnp.where(falls, index - 1, index), jnp.where(falls, earlier, best), falls

    index, best, _ = lax.while_loop(goes_on, body, (last, value(x + iterates[last]), jnp.bool_(True)))
    return iterates[index], best


def _line_search(
    value: Callable[[Array], Array], x: Array, direction: Array, before: Array, after: Array, slope: Array, max_steps: int
) -> tuple[Array, Array]:
    """The first of 1, 0.8, 0.64 ... with a hundredth of the decrease that the slope promises, and where it leads; 0 and x if there is none."""

    def is_enough(step: Array, new: Array) -> Array:
        return new <= before + 1e-2 * step * jnp.minimum(slope, 0)

    def goes_on(carry: tuple) -> Array:
        step, new, tries = carry
        return ~is_enough(step, new) & (tries < max_steps)

    def body(carry: tuple) -> tuple:
        step, _, tries = carry
        step = 0.8 * step
        return step, value(x + step * direction), tries + 1

    step, new, _ = lax.while_loop(goes_on, body, (jnp.ones_like(before), after, jnp.int32(1)))
    step = jnp.where(is_enough(step, new), step, 0).astype(x.dtype)
    return step, jnp.where(step > 0, x + step * direction, x)
