"""The tape: the operations of a function, recorded one after the other, run forward with their values and backward with their adjoints."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun
from jaxtyping import Array

from dljax.core.flops import arithmetic, bodies, equations

_INLINED = frozenset(["jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"])


class Node(NamedTuple):
    """A vertex of a computation graph.

    Attributes:
      name: its own in the graph: `x`, `params/kernel`, `mul_3`, `output`.
      kind: "input", "constant" (what the function closes over), "operation" or "output".
      operation: the primitive, or the function that brings a derivative of its own (`relu`); "" where the kind is no operation.
      group: the jitted functions that it stands in, `mlp/silu`; "" at the top.
      operands: what it is computed from, as text: names (`split_2.1` for the second result of an operation with several) and numbers.
      parents: the positions, in the graph's `nodes`, of the nodes it is computed from.
      types: shape and dtype of each result; most operations have one.
      values: the results; () where the graph was made from shapes.
      adjoints: ∂output/∂result for each; None where a result is not real, () where no adjoints were asked for.
      num_operations: how many primitive operations it runs, those of a loop's body as often as they run; 0 where the kind is no operation.
      flops: its floating-point operations (`dljax.core.flops.arithmetic`).
    """

    name: str
    kind: str
    operation: str
    group: str
    operands: tuple[str, ...]
    parents: tuple[int, ...]
    types: tuple[jax.ShapeDtypeStruct, ...]
    values: tuple[Array, ...] = ()
    adjoints: tuple[Array | None, ...] = ()
    num_operations: int = 0
    flops: float = 0.0

    @property
    def formula(self) -> str:
        """What it computes, `mul(x, y)`; "" where the kind is no operation."""
        return f"{self.operation}({', '.join(self.operands)})" if self.operation else ""

    @property
    def type(self) -> str:
        """Dtype and shape of the results, `f32[4,3]`."""
        return " ".join(f"{_short(each.dtype)}[{','.join(map(str, each.shape))}]" for each in self.types)

    @property
    def value(self) -> Any:
        """The first result, of most operations the only one; None where there are no values."""
        return self.values[0] if self.values else None

    @property
    def adjoint(self) -> Any:
        """The adjoint of the first result; None where there is none."""
        return self.adjoints[0] if self.adjoints else None


class Wire(NamedTuple):
    """Where a value comes from: a result of a node."""

    node: int
    result: int


class Tape:
    """The flat list of what is computed, with calls opened.

    Attributes:
      nodes: without values.
      calls: the equation of each node, None where it is no operation.
      wires: for each node a `Wire`, or a number, for each operand.
      constants: the values of the constants, in the order of their nodes.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.calls: list[Any] = []
        self.wires: list[list[Any]] = []
        self.constants: list[Array] = []
        self._names: set[str] = set()

    def input(self, name: str, aval: Any) -> Wire:
        """Record an argument of the function."""
        return self._add(Node(name, "input", "", "", (), (), (type_of(aval),)), None, [])

    def constant(self, value: Any) -> Wire:
        """Record an array that the function closes over."""
        self.constants.append(jnp.asarray(value))
        return self._add(Node(self._fresh("constant"), "constant", "", "", (), (), (type_of(self.constants[-1]),)), None, [])

    def output(self, name: str, wire: Any) -> None:
        """Record a result of the function."""
        aval = self.nodes[wire.node].types[wire.result] if isinstance(wire, Wire) else type_of(jnp.asarray(wire))
        self._add(Node(name, "output", "", "", *self._sources([wire]), (aval,)), None, [wire])

    def inline(self, jaxpr: Any, inputs: list[Any], constants: list[Any], group: str) -> list[Any]:
        """Record the equations of a jaxpr, and return where its results come from."""
        env: dict[Any, Any] = dict(zip([*jaxpr.invars, *jaxpr.constvars], [*inputs, *constants], strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            wires = [read(atom) for atom in eqn.invars]
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            if eqn.primitive.name in _INLINED and inner is not None:
                body = getattr(inner, "jaxpr", inner)
                consts = list(map(self.constant, getattr(inner, "consts", ())))
                results = self.inline(body, wires, consts, "/".join(filter(None, [group, str(eqn.params.get("name", ""))])))
            else:
                operation = _operation(eqn)
                node = Node(self._fresh(operation), "operation", operation, group, *self._sources(wires), tuple(type_of(v.aval) for v in eqn.outvars))
                first = self._add(node, eqn, wires)
                results = [Wire(first.node, i) for i in range(len(eqn.outvars))]
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _add(self, node: Node, eqn: Any, wires: list[Any]) -> Wire:
        self.nodes.append(node)
        self._names.add(node.name)
        self.calls.append(eqn)
        self.wires.append(wires)
        return Wire(len(self.nodes) - 1, 0)

    def _fresh(self, operation: str) -> str:
        return next(name for i in itertools.count(1) if (name := f"{operation}_{i}") not in self._names)

    def _sources(self, wires: list[Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        def text(wire: Any) -> str:
            if not isinstance(wire, Wire):
                return f"{np.asarray(wire).item():g}" if np.ndim(wire) == 0 else "array"
            node = self.nodes[wire.node]
            return node.name if len(node.types) == 1 else f"{node.name}.{wire.result}"

        return tuple(map(text, wires)), tuple(dict.fromkeys(wire.node for wire in wires if isinstance(wire, Wire)))


def evaluate(tape: Tape, leaves: list[Array], adjoints: bool) -> tuple[list[list[Array]], list[list[Array | None]]]:
    """Values from the first node to the last; adjoints from the last to the first.

    Args:
      leaves: the values of the inputs, then those of the constants.
    """
    values: list[list[Array]] = []
    pulls: list[Callable[..., Any] | None] = []
    given = iter(leaves)
    for node, eqn, wires in zip(tape.nodes, tape.calls, tape.wires, strict=True):
        operands = [read(values, wire) for wire in wires]
        if node.kind in ("input", "constant"):
            results, pull = [next(given)], None
        elif node.kind == "output":
            results, pull = [jnp.asarray(operands[0])], None
        else:
            results, pull = _apply(node.name, eqn, operands, adjoints)
        values.append(results)
        pulls.append(pull)
    if not adjoints:
        return values, [[] for _ in values]
    sums = [[jnp.zeros_like(value) if _is_inexact(value) else None for value in results] for results in values]
    sums[-1] = [jnp.ones_like(values[-1][0])]
    for i in reversed(range(len(sums))):
        pull, wires = pulls[i], tape.wires[i]
        if tape.nodes[i].kind == "output":
            shares: Any = sums[i]
        elif pull is None:
            continue
        else:
            shares = pull(sums[i])
        for wire, share in zip(wires, shares, strict=True):
            if isinstance(wire, Wire) and share is not None:
                sums[wire.node][wire.result] = sums[wire.node][wire.result] + share
    return values, sums


def _apply(name: str, eqn: Any, operands: list[Any], adjoints: bool) -> tuple[list[Array], Callable[..., Any] | None]:
    """Run one equation; and what carries the adjoints of its results to its operands."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # releases of JAX differ

    def run(*operands: Any) -> list[Any]:
        out = eqn.primitive.bind(*functions, *operands, **params)
        return list(out) if eqn.primitive.multiple_results else [out]

    real = [i for i, operand in enumerate(operands) if _is_inexact(operand)]
    if not adjoints or not real or not any(_is_inexact(var.aval) for var in eqn.outvars):
        return run(*operands), None

    def of_real(*chosen: Any) -> tuple[list[Any], list[Any]]:
        full = list(operands)
        for i, operand in zip(real, chosen, strict=True):
            full[i] = operand
        results = run(*full)
        return [result for result in results if _is_inexact(result)], results

    _, back, results = jax.vjp(of_real, *[operands[i] for i in real], has_aux=True)

    def pull(cotangents: list[Array | None]) -> list[Array | None]:
        try:
            found = dict(zip(real, back([cotangent for cotangent in cotangents if cotangent is not None]), strict=True))
        except ValueError as error:
            raise ValueError(f"computation_graph: no adjoint flows back through {name} ({error}); pass adjoints=False") from error
        return [found.get(i) for i in range(len(operands))]

    return results, pull


def cost(eqn: Any, operands: Any) -> dict[str, Any]:
    """The operations of a node: those of the branch that was taken, those of a `while` loop as often as it ran."""
    if eqn is None:
        return {}
    if eqn.primitive.name == "cond" and operands:
        branches = eqn.params["branches"]
        parts = list(equations(branches[min(max(int(operands[0]), 0), len(branches) - 1)].jaxpr))
    elif eqn.primitive.name == "while" and operands:
        trips = _trips(eqn, operands)
        parts = [*equations(eqn.params["body_jaxpr"].jaxpr, trips), *equations(eqn.params["cond_jaxpr"].jaxpr, trips + 1)]
    else:
        parts = list(equations(SimpleNamespace(eqns=[eqn])))
    return {
        "num_operations": sum(times for part, times in parts if not bodies(part)),
        "flops": float(sum(times * arithmetic(part) for part, times in parts)),
    }


def _trips(eqn: Any, operands: list[Any]) -> int:
    """How often a `while` loop runs from these operands."""
    condition, body = (jaxpr_as_fun(eqn.params[name]) for name in ("cond_jaxpr", "body_jaxpr"))
    first, second = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    of_condition, of_body, carry = operands[:first], operands[first:second], operands[second:]
    count, _ = jax.lax.while_loop(
        lambda state: condition(*of_condition, *state[1])[0],
        lambda state: (state[0] + 1, body(*of_body, *state[1])),
        (0, list(carry)),
    )
    return int(count)


def _operation(eqn: Any) -> str:
    """The primitive's name, or that of the function whose derivative is its own."""
    if not eqn.primitive.name.startswith("custom_"):
        return eqn.primitive.name
    info = getattr(getattr(eqn.params.get("call_jaxpr"), "jaxpr", None), "debug_info", None)
    return str(eqn.params.get("name") or getattr(info, "func_name", None) or eqn.primitive.name)


def read(values: Any, wire: Any) -> Any:
    """The value on a wire, of a number itself."""
    return values[wire.node][wire.result] if isinstance(wire, Wire) else wire


def _is_inexact(value: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(value, "dtype", None) or np.result_type(value), np.inexact)


def type_of(aval: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array or of what stands for it."""
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _short(dtype: Any) -> str:
    for long, short in (("bfloat", "bf"), ("float", "f"), ("uint", "u"), ("int", "i"), ("complex", "c")):
        if str(dtype).startswith(long):
            return str(dtype).replace(long, short)
    return str(dtype)
