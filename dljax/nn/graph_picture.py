"""The picture of a computation graph: layers from the inputs down, few crossings, as SVG.

Sugiyama, Tagawa and Toda (1981): a layer for each node, its longest way from an input; bends where an edge passes through a layer; in each layer
the order of the mean positions of the neighbours, swept down and up.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from html import escape
from typing import Any

import jax
import numpy as np

from dljax.core.checks import check_int
from dljax.nn.tape import Node

_CHARACTER, _LINE, _PADDING, _GAP, _BETWEEN = 6.7, 15, 8, 18, 34
_FILL = {"input": "#DCE9F5", "constant": "#EEEEEE", "operation": "#FFFFFF", "output": "#DDF0E6"}
# Characters that XML forbids or that turn the direction of the text around them.
_UNSEEN = dict.fromkeys(
    [*range(32), *range(127, 160), *range(0xD800, 0xE000), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFFFE, 0xFFFF], "\ufffd"
)


def draw(nodes: Sequence[Node], *, max_nodes: int = 200) -> str:
    """Nodes as boxes, each with its formula, type and cost, value, and adjoint in red; edges from what is used to what uses it.

    Args:
      nodes: in the order of computation.
      max_nodes: the most that are drawn, >= 1.
    Returns:
      An SVG document. Every text in it is escaped.
    Raises:
      ValueError: there are more nodes than `max_nodes`.

    >>> from dljax.nn.computation_graph import computation_graph
    >>> draw(computation_graph(lambda x: x * x, 3.0).nodes)[:40]
    '<svg xmlns="http://www.w3.org/2000/svg" '
    """
    check_int("svg", "max_nodes", max_nodes, minimum=1)
    if len(nodes) > max_nodes:
        raise ValueError(
            f"svg: the graph has {len(nodes)} nodes, more than max_nodes = {max_nodes} that fit into a picture one can read; "
            "draw a part of the function, or raise max_nodes"
        )
    texts = [_lines(node) for node in nodes]
    widths = [_CHARACTER * max(len(text) for text, _ in lines) + 2 * _PADDING for lines in texts]
    layers, chains = _layers(nodes)
    widths += [4.0] * (sum(map(len, layers)) - len(nodes))
    places = _places(layers, chains, widths)
    heights = [max((len(texts[i]) for i in layer if i < len(nodes)), default=1) * _LINE + 2 * _PADDING for layer in layers]
    tops = np.cumsum([_GAP, *(height + _BETWEEN for height in heights)])
    row = {i: j for j, layer in enumerate(layers) for i in layer}
    bottoms = {i: tops[j] + (heights[j] if i >= len(nodes) else _height(texts[i])) for i, j in row.items()}
    body = [_edge([(places[i], tops[row[i]], bottoms[i]) for i in chain]) for chain in chains]
    body += [_box(node, lines, places[i], tops[row[i]], widths[i]) for i, (node, lines) in enumerate(zip(nodes, texts, strict=True))]
    width = max(place + width / 2 for place, width in zip(places, widths, strict=True)) + _GAP
    height = tops[-1] - _BETWEEN + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="11">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#888888"/></marker></defs>'
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#FFFFFF"/>{"".join(body)}</svg>'
    )


def _lines(node: Node) -> list[tuple[str, str]]:
    """The text of a box, and the colour of each line."""
    title = node.name if not node.operation else f"{node.name} = {node.formula}"
    lines = [(title, "#000000"), (" · ".join(filter(None, [node.type, f"{node.flops:g} FLOP" if node.flops else "", node.group])), "#777777")]
    lines += [(_summary(value), "#000000") for value in node.values[:1]]
    lines += [(f"adjoint {_summary(value)}", "#C0392B") for value in node.adjoints[:1] if value is not None]
    return [(text if len(text) <= 48 else text[:47] + "…", colour) for text, colour in ((text.translate(_UNSEEN), colour) for text, colour in lines)]


def _summary(value: Any) -> str:
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
        return str(value.dtype)
    value = np.asarray(value)
    if value.size <= 3:
        return "[" * value.ndim + ", ".join(f"{element:.4g}" for element in value.ravel().tolist()) + "]" * value.ndim
    if not np.issubdtype(value.dtype, np.number) and value.dtype != bool:
        value = value.astype(np.float32)  # bfloat16 and its kin
    with np.errstate(all="ignore"):  # infinite values may well be what one looks for
        return f"mean {value.mean():.3g}, deviation {value.std():.3g}"


def _layers(nodes: Sequence[Node]) -> tuple[list[list[int]], list[list[int]]]:
    """Which nodes and bends stand in each layer, and the way of each edge through them; bends are numbered from `len(nodes)`."""
    children: list[list[int]] = [[] for _ in nodes]
    depth = [0] * len(nodes)
    for i, node in enumerate(nodes):
        depth[i] = max((depth[parent] + 1 for parent in node.parents), default=0)
        for parent in node.parents:
            children[parent].append(i)
    for i in reversed(range(len(nodes))):  # an input, and what is made of nothing else, stands right above its first use
        if children[i] and all(len(children[parent]) == 1 and len(nodes[i].parents) == 1 for parent in nodes[i].parents):
            depth[i] = min(depth[child] for child in children[i]) - 1
    layers: list[list[int]] = [[] for _ in range(max(depth, default=0) + 1)]
    for i, j in enumerate(depth):
        layers[j].append(i)
    chains, count = [], len(nodes)
    for i, node in enumerate(nodes):
        for parent in node.parents:
            bends = list(range(count, count + depth[i] - depth[parent] - 1))
            count += len(bends)
            for bend, layer in zip(bends, layers[depth[parent] + 1 :], strict=False):
                layer.append(bend)
            chains.append([parent, *bends, i])
    return layers, chains


def _places(layers: list[list[int]], chains: list[list[int]], widths: list[float]) -> list[float]:
    """The centre of each box and bend; `layers` is put into order."""
    above: list[list[int]] = [[] for _ in widths]
    below: list[list[int]] = [[] for _ in widths]
    for chain in chains:
        for upper, lower in itertools.pairwise(chain):
            below[upper].append(lower)
            above[lower].append(upper)
    places = [0.0] * len(widths)
    for layer in layers:
        _pack(layer, [0.0] * len(layer), places, widths)
    for sweep in range(12):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            wanted = {i: statistics.fmean(places[j] for j in near) if (near := (above if down else below)[i]) else places[i] for i in layer}
            layer.sort(key=lambda i: wanted[i])
            _pack(layer, [wanted[i] for i in layer], places, widths)
    left = min((place - width / 2 for place, width in zip(places, widths, strict=True)), default=0.0)
    return [place - left + _GAP for place in places]


def _pack(layer: list[int], wanted: list[float], places: list[float], widths: list[float]) -> None:
    """Place a layer from left to right as near as may be to where it wants to be, without overlaps: the mean of packing from either side."""
    ahead, back, edge = [], [], -math.inf
    for i, want in zip(layer, wanted, strict=True):
        ahead.append(max(want, edge + widths[i] / 2))
        edge = ahead[-1] + widths[i] / 2 + _GAP
    edge = math.inf
    for i, want in zip(reversed(layer), reversed(wanted), strict=True):
        back.append(min(want, edge - widths[i] / 2))
        edge = back[-1] - widths[i] / 2 - _GAP
    for i, one, other in zip(layer, ahead, reversed(back), strict=True):
        places[i] = (one + other) / 2


def _height(lines: list[tuple[str, str]]) -> int:
    return len(lines) * _LINE + 2 * _PADDING


def _edge(way: list[tuple[float, float, float]]) -> str:
    """A curve from the bottom of the first place to the top of the last."""
    x, _, y = way[0]
    path = [f"M{x:.1f} {y:.1f}"]
    for x_next, top, bottom in way[1:]:
        middle = (y + top) / 2
        path.append(f"C{x:.1f} {middle:.1f} {x_next:.1f} {middle:.1f} {x_next:.1f} {top:.1f}")
        if (x_next, top, bottom) != way[-1]:
            path.append(f"V{bottom:.1f}")
        x, y = x_next, bottom
    return f'<path d="{"".join(path)}" fill="none" stroke="#888888" marker-end="url(#tip)"/>'


def _box(node: Node, lines: list[tuple[str, str]], centre: float, top: float, width: float) -> str:
    where = f"{node.group}/{node.formula}".lstrip("/") if node.operation else f"{node.kind} {node.name}"
    texts = "".join(
        f'<text x="{centre:.1f}" y="{top + _PADDING + _LINE * (i + 0.75):.1f}" text-anchor="middle" fill="{colour}">{escape(text)}</text>'
        for i, (text, colour) in enumerate(lines)
    )
    return (
        f'<g><title>{escape(where.translate(_UNSEEN))}</title><rect x="{centre - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{_height(lines)}" rx="4" fill="{_FILL[node.kind]}" stroke="#888888"/>{texts}</g>'
    )
