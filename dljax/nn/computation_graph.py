"""The computation graph of any JAX function: values forward, adjoints backward, what each operation costs, and a picture.

A function is traced to a jaxpr, whose equations v_j = φ_j(v_i, ...) are the nodes. Values flow from the inputs to the outputs; from a scalar
output y the adjoints v̄ = ∂y/∂v flow back along the same edges, summed where a value is used more than once:

  ȳ = 1,   v̄_i = Σ_j (∂φ_j/∂v_i)ᵀ v̄_j   over the nodes j that use v_i
"""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dljax.core.tree import named_leaves
from dljax.nn.tape import Node, Tape, cost, evaluate, read


@dataclass(frozen=True)
class ComputationGraph:
    """The nodes of a traced function in the order of computation; `graph["mul_3"]` is the node of that name.

    Attributes:
      nodes: inputs and constants, then operations, then outputs.
    """

    nodes: tuple[Node, ...]

    def __getitem__(self, name: str) -> Node:
        found = [node for node in self.nodes if node.name == name]
        if not found:
            raise KeyError(f"computation_graph: there is no node {name!r}; there are {', '.join(node.name for node in self.nodes)}")
        return found[0]

    def __str__(self) -> str:
        rows = [(node.name, node.formula or node.kind, node.type, f"{node.flops:g} FLOP" if node.flops else "") for node in self.nodes]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)

    def of_kind(self, kind: str) -> tuple[Node, ...]:
        """The nodes of one kind: "input", "constant", "operation" or "output"."""
        return tuple(node for node in self.nodes if node.kind == kind)

    @property
    def flops(self) -> float:
        """The floating-point operations of all nodes."""
        return sum(node.flops for node in self.nodes)

    @property
    def num_operations(self) -> int:
        """The primitive operations that run, loops counted as often as they do."""
        return sum(node.num_operations for node in self.nodes)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many nodes there are of each operation."""
        return Counter(node.operation for node in self.nodes if node.operation)

    def svg(self, *, max_nodes: int = 200) -> str:
        """The graph as a picture: inputs at the top, values in black, adjoints in red.

        Args:
          max_nodes: the most nodes that are drawn, >= 1.
        Raises:
          ValueError: the graph has more.
        """
        from dljax.nn.graph_picture import draw

        return draw(self.nodes, max_nodes=max_nodes)

    def _repr_svg_(self) -> str | None:
        return self.svg() if len(self.nodes) <= 200 else None


def computation_graph(fun: Callable[..., Any], *args: Any, adjoints: bool | None = None) -> ComputationGraph:
    """Trace a function, run it forward, and carry the adjoints of its output back.

    Jitted and rematerialised functions are opened, their names kept as the nodes' group. A function with a derivative of its own (`custom_jvp`,
    `custom_vjp`), a loop and a branch are one node each, which costs what its body costs: as often as the loop runs, the branch that was taken.

    Args:
      fun: any function of arrays that JAX can trace.
      args: its arguments, pytrees of arrays; with a `jax.ShapeDtypeStruct` among the leaves nothing is computed, and the graph has shapes and costs
        only (a `while` loop counts once, of a branch the first).
      adjoints: whether they are computed; by default where the function returns one real scalar.
    Returns:
      The graph.
    Raises:
      ValueError: adjoints are asked for, but the function does not return one real scalar, or no values are given, or a loop of unknown length
        stands in the way.
    Source: Griewank and Walther (2008), Evaluating Derivatives, chapters 2 and 3.

    >>> graph = computation_graph(lambda x, y: x * y + jnp.sin(x), 2.0, 3.0)
    >>> print(graph)
    x       input              f32[]
    y       input              f32[]
    mul_1   mul(x, y)         f32[]  1 FLOP
    sin_1   sin(x)            f32[]  1 FLOP
    add_1   add(mul_1, sin_1) f32[]  1 FLOP
    output  output            f32[]
    >>> float(graph["mul_1"].value), float(graph["y"].adjoint), round(float(graph["x"].adjoint - jnp.cos(2.0)), 5)
    (6.0, 2.0, 3.0)
    """
    closed, out = jax.make_jaxpr(fun, return_shape=True)(*args)
    is_abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(args))
    results = [name for name, _ in named_leaves(out)]
    is_scalar = len(results) == 1 and closed.out_avals[0].shape == () and jnp.issubdtype(closed.out_avals[0].dtype, np.floating)
    if adjoints is None:
        adjoints = is_scalar and not is_abstract
    if adjoints and (is_abstract or not is_scalar):
        returned = ", ".join(aval.str_short() for aval in closed.out_avals)
        raise ValueError(
            f"computation_graph: adjoints need values and one real scalar as output, got {'shapes' if is_abstract else returned}; "
            "give arrays, and sum the output with weights"
        )
    tape = Tape()
    inputs = list(map(tape.input, _names(fun, args), closed.in_avals))
    for path, wire in zip(results, tape.inline(closed.jaxpr, inputs, list(map(tape.constant, closed.consts)), ""), strict=True):
        tape.output(f"output/{path}".rstrip("/"), wire)
    if is_abstract:
        return ComputationGraph(tuple(node._replace(**cost(eqn, ())) for node, eqn in zip(tape.nodes, tape.calls, strict=True)))
    leaves = [*map(jnp.asarray, jax.tree.leaves(args)), *tape.constants]
    values, pulled = jax.jit(lambda leaves: evaluate(tape, leaves, adjoints))(leaves)
    costs = [cost(eqn, [read(values, wire) for wire in wires]) for eqn, wires in zip(tape.calls, tape.wires, strict=True)]
    filled = zip(tape.nodes, map(tuple, values), map(tuple, pulled), costs, strict=True)
    return ComputationGraph(tuple(node._replace(values=value, adjoints=adjoint, **cost) for node, value, adjoint, cost in filled))


def _names(fun: Callable[..., Any], args: tuple[Any, ...]) -> list[str]:
    """A name for each leaf of the arguments: the parameter's, and the path within it."""
    try:
        names = [name for name, parameter in inspect.signature(fun).parameters.items() if parameter.kind is not parameter.VAR_POSITIONAL]
    except (TypeError, ValueError):
        names = []
    names = [*names[: len(args)], *(f"argument_{i}" for i in range(len(names), len(args)))]
    return ["/".join(filter(None, [name, path])) for name, arg in zip(names, args, strict=True) for path, _ in named_leaves(arg)]
