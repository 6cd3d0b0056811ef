"""`check_learner`: does a learner keep the contract? It says in words what is impure or unstable in structure."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dljax.core.contract import EMPTY, Batch, Key, Learner, Mean, Source, start
from dljax.core.tree import is_key, named_leaves, path_name, without_keys
from dljax.core.unroll import unroll


class ContractError(ValueError):
    """A learner breaks the contract. `findings` holds one sentence for each way it does."""

    def __init__(self, findings: list[str]) -> None:
        super().__init__("the learner breaks the contract:\n" + "\n".join(f"- {finding}" for finding in findings))
        self.findings = findings


def check_learner(learner: Learner, source: Source = EMPTY, key: Key | None = None, *, steps: int = 3, tolerance: float = 1e-4) -> None:
    """Try a learner on a few batches, every way the engine uses it.

    It must be traceable and pure (the same key gives the same result, traced twice it is the same program, no tracer leaks, no argument is
    changed in place, no key is used twice), keep its structure (state and metrics), and give the same numbers with jit and without,
    vmapped and one by one, scanned and step by step.

    Args:
      steps: how many steps are tried, >= 2.
      tolerance: relative difference that rounding may make between two ways.
    Raises:
      ContractError: naming each finding, with the path of the leaf.

    >>> import itertools
    >>> count = itertools.count()
    >>> impure = Learner(lambda key, batch: {"params": 1.0}, lambda key, state, batch: (state, {"calls": float(next(count))}))
    >>> check_learner(impure)
    Traceback (most recent call last):
    dljax.core.check_learner.ContractError: the learner breaks the contract:
    - step is impure: traced twice it is not the same program ...
    """
    key = jax.random.key(0) if key is None else key
    findings = list(_findings(learner, source, key, max(steps, 2), tolerance))
    if findings:
        raise ContractError(findings)


def _findings(learner: Learner, source: Source, key: Key, steps: int, tolerance: float) -> Iterator[str]:
    problem = None
    try:
        with jax.debug_key_reuse(True):
            run_key, state, cursor = start(learner, source, _fresh(key))
        _, batch = source.next(source.data, cursor)
        jax.eval_shape(learner.init, key, batch)
    except jax.errors.KeyReuseError as error:
        problem = f"init uses a random key twice ({_short(error)}); split it first"
    except Exception as error:
        problem = f"init fails: {_short(error)}"
    if problem is not None:
        yield problem
        return
    not_arrays = [f"{name} is a {type(leaf).__name__}" for name, leaf in named_leaves(state) if not _is_array(leaf)]
    if not_arrays:
        yield f"the state must hold arrays only: {', '.join(not_arrays)}"
        return
    state = jax.tree.map(jnp.asarray, state)
    yield from _purity("init", learner.init, key, batch)
    before = len(problems := list(_purity("step", learner.step, run_key, state, batch)))
    yield from problems
    if before and any("cannot be traced" in problem for problem in problems):
        return
    stable = list(_structure(learner, run_key, state, batch))
    yield from stable
    if stable:
        return
    try:
        jax.eval_shape(learner.params, state)
    except Exception as error:
        yield f"params(state) fails: {_short(error)}; say where the parameters are with Learner(..., params=...)"
    if learner.done is not None:
        yield from _end(learner.done, state)
    for name, function in learner.functions.items():
        if not callable(function):
            yield f"functions[{name!r}] is a {type(function).__name__}, not a function (key, params, ...) -> arrays"
    yield from _ways(learner, source, run_key, state, cursor, steps, tolerance)


def _purity(name: str, function: Callable[..., Any], key: Key, *args: Any) -> Iterator[str]:
    """Traced twice, with nothing leaking and no argument changed, it must be the same program."""
    programs, problem = [], None
    try:
        for _ in range(2):
            closed = jax.make_jaxpr(lambda *inputs: function(*inputs))(key, *args)
            programs.append((str(closed.jaxpr), closed.consts))
    except Exception as error:
        problem = error
    if problem is not None:
        yield f"{name} cannot be traced: {_short(problem)}"
        return
    (first, first_consts), (second, second_consts) = programs
    if first != second or not all(_same(a, b) for a, b in zip(first_consts, second_consts, strict=True)):
        yield f"{name} is impure: traced twice it is not the same program; draw randomness from the key, keep counters in the state"
    try:
        with jax.checking_leaks():
            jax.make_jaxpr(lambda *inputs: function(*inputs))(key, *args)
    except Exception as error:
        yield f"{name} leaks a traced value to the outside (a global, a list, an attribute): {_short(error)}"
    if _changes_arguments(function, key, args):
        yield f"{name} changes its arguments in place; return a new state instead"


def _changes_arguments(function: Callable[..., Any], key: Key, args: Any) -> bool:
    """Whether the containers it is given hold other leaves afterwards. They are held here: traced functions are given copies of the caller's."""
    changed = False

    def held(key: Key, leaves: list[Any]) -> Any:
        nonlocal changed
        inputs = jax.tree.unflatten(structure, leaves)
        out = function(key, *inputs)
        after = jax.tree.leaves(inputs)
        changed = len(after) != len(leaves) or any(one is not other for one, other in zip(after, leaves, strict=True))
        return out

    leaves, structure = jax.tree.flatten(args)
    jax.eval_shape(held, key, leaves)
    return changed


def _structure(learner: Learner, key: Key, state: Any, batch: Batch) -> Iterator[str]:
    out, metrics = jax.eval_shape(learner.step, key, state, batch)
    before, after = dict(_described(state)), dict(_described(out))
    for name in [*before, *(name for name in after if name not in before)]:
        if before.get(name) != after.get(name):
            yield f"state leaf {name!r} is {before.get(name, 'absent')} before a step and {after.get(name, 'absent')} after it"
    if str(jax.tree.structure(state)) != str(jax.tree.structure(out)) and before.keys() == after.keys():
        yield f"the state is a {type(state).__name__} before a step and a {type(out).__name__} after it, or holds other containers"
    if not isinstance(metrics, Mapping):
        yield f"metrics must be a flat dict, got {type(metrics).__name__}"
        return
    for name, value in metrics.items():
        leaves = tuple(value) if isinstance(value, Mean) else (value,)
        if not all(hasattr(leaf, "shape") and leaf.shape == () for leaf in leaves):
            yield f"metric {name!r} must be a scalar or a Mean of scalars; average it in the step"


def _end(done: Callable[[Any], Any], state: Any) -> Iterator[str]:
    try:
        said = jax.eval_shape(done, state)
    except Exception as error:
        yield f"done(state) fails: {_short(error)}"
        return
    if not isinstance(said, jax.ShapeDtypeStruct) or said.shape != () or said.dtype != bool:
        yield f"done(state) must be one truth value, got {said}; compare, and take .all()"


def _ways(learner: Learner, source: Source, key: Key, state: Any, cursor: Any, steps: int, tolerance: float) -> Iterator[str]:
    """jit = no jit, scan = loop, vmap = loop, and the same again from the same key.

    What rounding may make of a result is seen by nudging the state by a rounding error: much, where Adam's first step is the sign of a tiny gradient.
    """

    def one(key: Key, step: Any, state: Any, cursor: Any, data: Any = source.data) -> Any:
        cursor, batch = source.next(data, cursor)
        state, metrics = learner.step(jax.random.fold_in(key, step), state, batch)
        return state, cursor, metrics

    nudged, data = _nudged(state), source.data
    compiled = jax.jit(one)
    jitted = compiled(key, 0, state, cursor, data)
    yield from _compared("a second call", "the first with the same key", compiled(key, 0, state, cursor, data), jitted, jitted, 0.0)
    try:
        with jax.debug_key_reuse(True):
            unjitted = one(*(_fresh(tree) for tree in (key, 0, state, cursor)))
        yield from _compared("no jit", "jit", unjitted, jitted, compiled(key, 0, nudged, cursor, data), tolerance)
    except jax.errors.KeyReuseError as error:
        yield f"step uses a random key twice ({_short(error)}); split it first"

    def loop(key: Key) -> Any:
        reached = state, cursor
        for step in range(steps):
            *reached, _ = compiled(key, step, *reached, data)
        return tuple(reached)

    def scan(key: Key, *args: Any) -> Any:
        return run(key, *args)[:2]

    # Scanned and vmapped at once, for every program takes seconds to compile; which of the two it was is asked only where they differ.
    run, keys = unroll(learner, source, steps), jax.random.split(key, 2)
    looped = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(loop, keys))
    mapped = jax.jit(jax.vmap(scan, in_axes=(0, None, None, None, None)))
    if list(_compared("", "", looped, mapped(keys, 0, state, cursor, data), mapped(keys, 0, nudged, cursor, data), tolerance)):
        scanned = jax.jit(lambda keys, *args: jax.lax.map(lambda key: scan(key, *args), keys))(keys, 0, state, cursor, data)
        yield from _compared("a loop", "a scan", looped, scanned, scanned, 10 * tolerance)
        yield from _compared("a scan", "vmap", scanned, mapped(keys, 0, state, cursor, data), mapped(keys, 0, nudged, cursor, data), tolerance)


def _fresh(tree: Any) -> Any:
    """The same with keys that nobody has used."""
    return jax.tree.map(lambda leaf: jax.random.clone(leaf) if is_key(leaf) else leaf, tree)


def _nudged(state: Any) -> Any:
    """The state with every floating-point value moved by one rounding error, up or down."""

    def nudge(leaf: Any) -> Any:
        if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating):
            return leaf
        signs = jnp.where(jnp.arange(leaf.size) % 2, 1, -1).reshape(leaf.shape)
        return (leaf * (1 + signs * jnp.finfo(leaf.dtype).eps)).astype(leaf.dtype)

    return jax.tree.map(nudge, state)


def _compared(one: str, other: str, first: Any, second: Any, nudged: Any, tolerance: float) -> Iterator[str]:
    """`first` against `second`, leaf by leaf; they may differ by the tolerance and by ten times what a rounding error makes of `second`."""
    worst, where = 0.0, ""
    for (name, a), (_, b), (_, c) in zip(*(named_leaves(without_keys(tree)) for tree in (first, second, nudged)), strict=True):
        a, b, c = (np.asarray(leaf, np.float64) for leaf in (a, b, c))
        scale = max(np.abs(b[np.isfinite(b)]).max(initial=0.0), 1e-3)
        difference = (_distance(a, b) - 10 * _distance(b, c)) / scale
        if not difference <= worst:
            worst, where = difference, name
    if not worst <= tolerance:
        yield f"{one} and {other} differ by {worst:.1e} of the largest value in {where!r}, more than rounding explains"


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b)).max(initial=0.0))


def _described(tree: Any) -> Iterator[tuple[str, str]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield path_name(path), f"{leaf.dtype}{list(leaf.shape)}"


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int | bool)


def _same(a: Any, b: Any) -> bool:
    a, b = without_keys((a, b))
    return np.shape(a) == np.shape(b) and np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.issubdtype(np.asarray(a).dtype, np.inexact))


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
