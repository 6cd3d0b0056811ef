"""The gradient check: automatic derivatives against central differences, leaf by leaf, in float64."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from dljax.core.checks import check_choice, check_int, check_range
from dljax.core.contract import Key, Params
from dljax.core.flops import equations
from dljax.core.tree import is_key, named_leaves

_STEP = 2.0**-17  # about ∛ε, which balances the truncation, of order h², with the rounding, of order ε/h
_SMALLER = 2.0**-7  # how much smaller the step of a second look is
_LISTED = 10  # the most that a message lists
_PROBES = 64  # the most that one call of the compiled program makes


class Slope(NamedTuple):
    """A derivative along one direction, found twice.

    Attributes:
      name: what was moved: an entry `dense/kernel[2, 3]`, or a leaf, all of whose entries were moved at once with random signs.
      automatic: by autodiff.
      difference: by central differences.
      left, right: by one-sided differences; far apart at a kink.
      error: |automatic - difference|, relative to the larger of them; less where both are so small that rounding explains it.
    """

    name: str
    automatic: float
    difference: float
    left: float
    right: float
    error: float


class GradientReport(NamedTuple):
    """What a gradient check found.

    Attributes:
      errors: the largest relative error of each leaf, by its path; entries at kinks are left out.
      wrong: derivatives that disagree, the worst first.
      kinks: places where the loss has no derivative, and autodiff gives a slope between those on either side.
      num_probes: directions that were tried.
    """

    errors: dict[str, float]
    wrong: tuple[Slope, ...]
    kinks: tuple[Slope, ...]
    num_probes: int

    def __str__(self) -> str:
        lines = [f"{self.num_probes} directions, worst relative error {max(self.errors.values(), default=0.0):.1e}"]
        lines += [
            f"- {slope.name}: autodiff {slope.automatic:.6g}, differences {slope.difference:.6g} (relative error {slope.error:.1e})"
            for slope in self.wrong[:_LISTED]
        ]
        lines += [
            f"- {slope.name} is at a kink: slope {slope.left:.6g} below, {slope.right:.6g} above, autodiff {slope.automatic:.6g} between them; "
            "move it a little to check it"
            for slope in self.kinks[:_LISTED]
        ]
        more = sum(max(len(slopes) - _LISTED, 0) for slopes in (self.wrong, self.kinks))
        return "\n".join([*lines, f"- and {more} more"] if more else lines)


class GradientError(ValueError):
    """Autodiff and differences disagree. `report` holds all that was found."""

    def __init__(self, report: GradientReport) -> None:
        leaves = sorted({slope.name.partition("[")[0] for slope in report.wrong})
        super().__init__(f"check_gradients: the gradient of {', '.join(leaves)} is wrong: {report}")
        self.report = report


def check_gradients(
    loss: Callable[[Params], Any],
    params: Params,
    *,
    mode: str = "reverse",
    tolerance: float = 1e-6,
    max_entries: int = 50,
    num_directions: int = 5,
    key: Key | None = None,
) -> GradientReport:
    """Compare the derivatives of a loss by autodiff with central differences, in float64, whatever precision is on outside.

      ∂f/∂x_i ≈ (f(x + h e_i) - f(x - h e_i)) / 2h,   h = ∛ε max(1, |x_i|)

    A leaf of up to `max_entries` entries is checked entry by entry, a larger one along random directions ±1/√n, in which any wrong entry shows; if
    one does, halving the set of entries that move finds it. Where the two disagree, they meet again with h a hundred times smaller, to step
    between the kinks; if they still disagree while the slopes on the left and on the right stay apart, with autodiff between them, it is no error
    but a kink, and reported as one.

    Args:
      loss: `params -> []`, a real scalar; data that it closes over may be float32.
      params: a pytree; floating-point leaves are checked, in float64, all others are passed on.
      mode: "reverse" (`jax.grad`) or "forward" (`jax.jvp`).
      tolerance: the relative error that is allowed, > 0, beyond what rounding makes of the differences.
      max_entries: entries of a leaf that are checked one by one, >= 1.
      num_directions: random directions for each larger leaf, >= 1.
      key: of the directions; `jax.random.key(0)` by default.
    Returns:
      A `GradientReport`; its `str` is for people.
    Raises:
      GradientError: naming the wrong leaves and their worst entries; it is a ValueError, and has the report.
      ValueError: the loss is no real scalar or not finite; it computes in float32 or less, whose rounding would drown the differences; there is
        nothing to check.
      TypeError: a leaf is complex; forward mode meets a `custom_vjp`.
    Source: Goodfellow, Bengio and Courville (2016), section 11.5.3.

    >>> data = jnp.arange(6.0).reshape(3, 2)
    >>> print(check_gradients(lambda params: jnp.sum(jnp.tanh(data @ params["w"]) ** 2), {"w": jnp.array([0.3, -0.2])}))
    2 directions, worst relative error ...
    >>> clipped = jax.custom_vjp(lambda w: jnp.sum(w))
    >>> clipped.defvjp(lambda w: (jnp.sum(w), w), lambda w, g: (jnp.clip(w, 0, 0.5) * g,))
    >>> check_gradients(lambda params: clipped(params["w"]), {"w": jnp.array([1.0, 2.0])})
    Traceback (most recent call last):
    dljax.core.check_gradients.GradientError: check_gradients: the gradient of w is wrong: ...
    """
    check_choice("check_gradients", "mode", mode, ("reverse", "forward"))
    check_range("check_gradients", "tolerance", tolerance, 0, open_low=True)
    check_int("check_gradients", "max_entries", max_entries, minimum=1)
    check_int("check_gradients", "num_directions", num_directions, minimum=1)
    with jax.enable_x64(True):
        names, x, flat_loss, shapes = _flat(loss, params)
        _check_loss(flat_loss, x)
        look = _looker(flat_loss, x, mode, jax.random.key(0) if key is None else key, tolerance)
        ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        fine, kinks, wrong = _search(look, spans, max_entries, num_directions, tolerance)
        if wrong and (narrow := _narrowing(flat_loss, x)):
            raise ValueError(
                f"check_gradients: the loss rounds what it computes to {narrow}, which makes the check meaningless: differences show rounding and no "
                "slope; let it compute in the dtype of its params (in Flax: dtype=None), which are float64 here"
            )

    def named(probe: _Probe, slope: Slope) -> Slope:
        index = np.unravel_index(probe.low - spans[probe.leaf][0], shapes[probe.leaf]) if shapes[probe.leaf] and probe.high == probe.low + 1 else ()
        return slope._replace(name=names[probe.leaf] + (str(list(map(int, index))) if index else ""))

    errors = dict.fromkeys(names, 0.0)
    for probe, slope in (*fine, *wrong):
        errors[names[probe.leaf]] = max(errors[names[probe.leaf]], slope.error)
    worst = sorted((named(*one) for one in wrong), key=lambda slope: -slope.error)
    report = GradientReport(errors, tuple(worst), tuple(named(*one) for one in kinks), len(fine) + len(kinks) + len(wrong))
    if wrong:
        raise GradientError(report)
    return report


class _Probe(NamedTuple):
    """A direction: the flat entries from `low` to `high`, which belong to a leaf, with the signs of a seed."""

    leaf: int
    low: int
    high: int
    seed: int


_Found = list[tuple[_Probe, Slope]]


def _flat(loss: Callable[[Params], Any], params: Params) -> tuple[list[str], Array, Callable[[Array], Any], list[tuple[int, ...]]]:
    """The names and shapes of the leaves that are checked, their values in one vector, and the loss of such a vector."""
    leaves, structure = jax.tree.flatten(params)
    is_checked = [not is_key(leaf) and jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact) for leaf in leaves]
    names, moved = [], []
    for (name, leaf), checked in zip(named_leaves(params), is_checked, strict=True):
        if checked and jnp.iscomplexobj(leaf):
            raise TypeError(
                f"check_gradients: params must be real, but {name or 'the only leaf'} is {leaf.dtype}; check its real and imaginary parts"
            )
        if checked:
            names.append(name or "params")
            moved.append(jnp.asarray(leaf, jnp.float64))
    x, unravel = ravel_pytree(moved)
    if x.size == 0:
        raise ValueError("check_gradients: params must hold floating-point numbers, got none")

    def flat_loss(x: Array) -> Any:
        given = iter(unravel(x))
        return loss(jax.tree.unflatten(structure, [next(given) if checked else leaf for leaf, checked in zip(leaves, is_checked, strict=True)]))

    return names, x, flat_loss, [leaf.shape for leaf in moved]


def _check_loss(flat_loss: Callable[[Array], Any], x: Array) -> None:
    out = jax.eval_shape(flat_loss, x)
    if not hasattr(out, "shape") or out.shape != () or not jnp.issubdtype(out.dtype, jnp.floating):
        described = f"{out.dtype}{list(out.shape)}" if hasattr(out, "shape") else type(out).__name__
        raise ValueError(f"check_gradients: the loss must return one real number, got {described}; take a mean, and leave metrics out")
    if out.dtype != jnp.float64:
        raise ValueError(
            f"check_gradients: the loss returns {out.dtype} for float64 params, which makes the check meaningless: differences over a step of "
            f"{_STEP:.0e} drown in rounding; let it compute in the dtype of its params (in Flax: dtype=None)"
        )


def _narrowing(flat_loss: Callable[[Array], Any], x: Array) -> str:
    """The dtype that some float64 is rounded to within the loss; "" where none is."""
    for eqn, _ in equations(jax.make_jaxpr(flat_loss)(x).jaxpr):
        if eqn.primitive.name == "convert_element_type" and eqn.invars[0].aval.dtype == jnp.float64:
            dtype = eqn.outvars[0].aval.dtype
            if jnp.issubdtype(dtype, jnp.floating) and dtype != jnp.float64:
                return str(dtype)
    return ""


def _looker(flat_loss: Callable[[Array], Any], x: Array, mode: str, key: Key, tolerance: float) -> Callable[[list[_Probe], float], list[Slope]]:
    """What measures slopes along any number of directions with steps of a given size, by one compiled program."""
    size = jnp.arange(x.size)

    def along(probe: Array, step: Array, gradient: Array) -> Array:
        low, high, seed = probe
        inside = (low <= size) & (size < high)
        signs = jnp.where(high - low == 1, 1.0, jax.random.rademacher(jax.random.fold_in(key, seed), x.shape, x.dtype))
        v = jnp.where(inside, signs, 0.0) / jnp.sqrt(high - low)
        h = step * jnp.exp2(jnp.round(jnp.log2(jnp.maximum(1.0, jnp.max(jnp.where(inside, jnp.abs(x), 0.0))))))
        automatic = jnp.sum(jnp.where(inside, gradient * v, 0.0)) if mode == "reverse" else jax.jvp(flat_loss, (x,), (v,))[1]
        return jnp.stack([automatic, h, flat_loss(x + h * v), flat_loss(x - h * v)])

    @jax.jit
    def program(probes: Array, count: Array, step: Array, gradient: Array) -> Array:
        empty = jnp.zeros((len(probes), 4), x.dtype)
        return jax.lax.fori_loop(0, count, lambda i, rows: rows.at[i].set(along(probes[i], step, gradient)), empty)

    value, gradient = jax.jit(jax.value_and_grad(flat_loss))(x) if mode == "reverse" else (jax.jit(flat_loss)(x), x)
    if not np.isfinite(value):
        raise ValueError(f"check_gradients: the loss is {value} at these params; check the gradient where it is finite")

    def look(probes: list[_Probe], step: float) -> list[Slope]:
        slopes = []
        for begin in range(0, len(probes), _PROBES):
            some = [probe[1:] for probe in probes[begin : begin + _PROBES]]
            padded = np.array(some + [(0, 1, 0)] * (_PROBES - len(some)))
            try:
                rows = np.asarray(program(padded, len(some), step, gradient))[: len(some)]
            except TypeError as error:
                if mode != "forward" or "custom_vjp" not in str(error):
                    raise
                raise TypeError("check_gradients: the loss has a custom_vjp, which has no forward mode; use mode='reverse'") from error
            for automatic, h, above, below in rows.tolist():
                difference = (above - below) / (2 * h)
                noise = 10 * np.finfo(np.float64).eps * max(abs(above), abs(below)) / h
                left, right = (float(value) - below) / h, (above - float(value)) / h
                slopes.append(Slope("", automatic, difference, left, right, _error(automatic, difference, noise / tolerance)))
        return slopes

    return look


def _gap(slope: Slope) -> float:
    gap = abs(slope.automatic - slope.difference)
    return gap if math.isfinite(gap) else math.inf


def _error(automatic: float, difference: float, floor: float = 0.0) -> float:
    gap = abs(automatic - difference)
    return gap / max(abs(automatic), abs(difference), floor, np.finfo(np.float64).tiny) if math.isfinite(gap) else math.inf


def _search(
    look: Callable[[list[_Probe], float], list[Slope]], spans: list[tuple[int, int]], max_entries: int, num_directions: int, tolerance: float
) -> tuple[_Found, _Found, _Found]:
    """All probes, sorted into what agrees, what is at a kink, and what is wrong; of a wrong direction, the entry that is to blame."""
    probes: list[_Probe] = []
    for leaf, (low, high) in enumerate(spans):
        if high - low <= max_entries:
            probes += [_Probe(leaf, i, i + 1, 0) for i in range(low, high)]
        else:
            probes += [_Probe(leaf, low, high, seed) for seed in range(num_directions)]
    fine, kinks, wrong = _sorted(look, probes, tolerance)
    blamed: dict[_Probe, Slope] = {}
    for probe, slope in wrong:
        entry = probe
        while entry.high - entry.low > 1:
            middle = (entry.low + entry.high) // 2
            halves = [entry._replace(high=middle), entry._replace(low=middle)]
            gaps = [_gap(slope) * math.sqrt(half.high - half.low) for half, slope in zip(halves, look(halves, _STEP), strict=True)]
            entry = halves[gaps[1] > gaps[0]]
        found = _sorted(look, [entry._replace(seed=0)], tolerance)[2] if entry != probe else []
        blamed.update(found or [(probe, slope)])
    return fine, kinks, list(blamed.items())


def _sorted(look: Callable[[list[_Probe], float], list[Slope]], probes: list[_Probe], tolerance: float) -> tuple[_Found, _Found, _Found]:
    fine: _Found = []
    kinks: _Found = []
    wrong: _Found = []
    doubtful: _Found = []
    for one in zip(probes, look(probes, _STEP), strict=True):
        (fine if one[1].error <= tolerance else doubtful).append(one)
    closer = look([probe for probe, _ in doubtful], _STEP * _SMALLER)
    for (probe, far), near in zip(doubtful, closer, strict=True):
        low, high = sorted((near.left, near.right))
        slack = 1e-6 * max(abs(low), abs(high))
        is_kink = high - low > abs(far.right - far.left) / 2 and low - slack <= near.automatic <= high + slack
        if near.error <= tolerance:
            fine.append((probe, near))
        elif is_kink:
            kinks.append((probe, near))
        else:
            wrong.append((probe, far._replace(error=_error(far.automatic, far.difference))))
    return fine, kinks, wrong
