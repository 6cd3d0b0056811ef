"""The computation graph: adjoints against jax.grad, costs against XLA, and a picture that is well formed whatever the names are."""

from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.nn import computation_graph, differentiation_cost

KEY = jax.random.key(0)


def branching(params, x):
    """Values used twice, a jitted part, a derivative of its own, a loop, a branch, an operation of two results, whole numbers."""
    h = jax.nn.silu(x @ params["w"]) + jax.nn.relu(x @ params["v"])
    a, b = jnp.split(h, 2, axis=1)
    h = jax.lax.scan(lambda h, _: (jnp.tanh(h + a), None), b, None, length=3)[0]
    h = jax.lax.cond(h.sum() > 100, jnp.sin, lambda h: h * h, h)
    order = jnp.argsort(params["v"][0])
    return jax.checkpoint(jnp.log1p)(h[:, order[:2]] ** 2).sum() + jnp.linalg.norm(h)


def arguments():
    w, v, x = (jax.random.normal(jax.random.fold_in(KEY, i), shape, jnp.float64) for i, shape in enumerate([(3, 4), (3, 4), (5, 3)]))
    return {"w": w, "v": v}, x


@pytest.fixture(scope="module")
def graph():
    with jax.enable_x64(True):
        return computation_graph(branching, *arguments())


def test_2_2_values_and_adjoints_equal_those_of_autodiff(graph):
    with jax.enable_x64(True):
        value, (dparams, dx) = jax.jit(jax.value_and_grad(branching, (0, 1)))(*arguments())
    np.testing.assert_allclose(graph["output"].value, value, rtol=1e-14)
    assert float(graph["output"].adjoint) == 1
    for name, expected in (("params/w", dparams["w"]), ("params/v", dparams["v"]), ("x", dx)):
        np.testing.assert_allclose(graph[name].adjoint, expected, rtol=1e-12, atol=1e-14)
    assert {"scan", "cond", "split", "relu", "log1p", "sort"} <= set(graph.counts)
    assert graph["logistic_1"].group == "silu"
    assert graph["relu_1"].operands == ("dot_general_2",)
    assert [type_.shape for type_ in graph["split_1"].types] == [(5, 2), (5, 2)]
    assert graph["scan_1"].operands[:2] in {("split_1.0", "split_1.1"), ("split_1.1", "split_1.0")}


def test_2_2_adjoint_of_an_intermediate_value_is_what_changing_it_does():
    """Every value between input and output, changed a little in a random direction: central differences of the rest of the function."""

    def parts(shifts, x, w):
        h = x @ w + shifts["dot_general_1"]
        g = jnp.sin(h) + shifts["sin_1"]
        e = jnp.exp(h) + shifts["exp_1"]
        return ((g * e + shifts["mul_1"]) / (1 + e)).sum()

    with jax.enable_x64(True):
        x, w = (jax.random.normal(jax.random.fold_in(KEY, i), shape, jnp.float64) for i, shape in enumerate([(2, 3), (3, 4)]))
        zeros = {name: jnp.zeros((2, 4)) for name in ("dot_general_1", "sin_1", "exp_1", "mul_1")}
        graph = computation_graph(lambda x, w: parts(dict.fromkeys(zeros, 0.0), x, w), x, w)
        along = jax.jit(lambda size, v: parts({name: size * v[name] for name in zeros}, x, w))
        for i, name in enumerate(zeros):
            direction = zeros | {name: jax.random.normal(jax.random.fold_in(KEY, i), (2, 4), jnp.float64)}
            slope = (along(1e-5, direction) - along(-1e-5, direction)) / 2e-5
            np.testing.assert_allclose((graph[name].adjoint * direction[name]).sum(), slope, rtol=1e-8)


def test_2_2_costs_of_products_and_convolutions_are_those_of_xla():
    def network(x, kernel, w):
        h = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.reshape(h, (2, -1)) @ w

    args = jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 4, 6)), jnp.ones((150, 7))
    graph = computation_graph(network, *args)
    assert graph["conv_general_dilated_1"].flops == 2 * (2 * 6) * 13 * 13 * 4
    assert graph["dot_general_1"].flops == 2 * 2 * 150 * 7
    assert graph.flops == jax.jit(network).lower(*args).compile().cost_analysis()["flops"]
    assert graph.of_kind("operation")[-1].adjoint is None, "the output is no scalar"


def test_loops_count_as_often_as_they_run_and_branches_where_taken():
    square = jnp.eye(4)

    def function(x, n):
        x = jax.lax.scan(lambda x, _: (x @ square, None), x, None, length=5)[0]
        x = jax.lax.while_loop(lambda s: s[1] < n, lambda s: (s[0] @ square, s[1] + 1), (x, 0))[0]
        return jax.lax.cond(n > 2, lambda x: x @ square @ square, lambda x: x, x)

    graph = computation_graph(function, square, 3)
    product = 2 * 4**3
    assert [graph[name].flops for name in ("scan_1", "while_1", "cond_1")] == [5 * product, 3 * product, 2 * product]
    assert graph["while_1"].num_operations == 3 * 2 + 4  # two operations in the body, and one more question than answers
    assert computation_graph(function, square, 1)["cond_1"].flops == 0
    shapes = computation_graph(function, jax.ShapeDtypeStruct((4, 4), jnp.float32), 3)
    assert shapes["scan_1"].flops == 5 * product
    assert shapes["scan_1"].value is None


def test_forward_and_reverse_cost_what_the_jacobian_takes_in_products():
    """A chain of matrices: forward takes n products with each, reverse m; the numbers are those of `jacfwd` and `jacrev`."""
    matrices = [jnp.ones(shape) for shape in ((20, 30), (30, 4))]

    def chain(x):
        for matrix in matrices:
            x = x @ matrix
        return x

    cost, value = differentiation_cost(chain, jnp.ones(20)), 2 * (20 * 30 + 30 * 4)
    assert (cost.num_inputs, cost.num_outputs, cost.value) == (20, 4, value)
    assert (cost.forward_pass, cost.reverse_pass) == (value, value)
    assert (cost.forward, cost.reverse, cost.cheaper) == (21 * value, 5 * value, "reverse")
    loss = differentiation_cost(lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 2), jnp.ones((50, 40)), jnp.ones((8, 50)))
    assert loss.reverse_pass < 4 * loss.value, "the cheap gradient principle (Baur and Strassen, 1983)"
    assert differentiation_cost(lambda w, i: w[i], jnp.ones(5), jnp.int32(2)).num_inputs == 5
    assert differentiation_cost(lambda t: jnp.sin(t * jnp.arange(9.0)), jax.ShapeDtypeStruct((), jnp.float32)).cheaper == "forward"


def drawn(svg):
    root = ElementTree.fromstring(svg)
    return root, [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_2_2_picture_is_well_formed_and_shows_every_node(graph):
    root, texts = drawn(graph.svg())
    boxes = root.findall("{http://www.w3.org/2000/svg}g")
    assert len(boxes) == len(graph.nodes)
    for node in graph.of_kind("operation"):
        assert any(text.startswith(f"{node.name} = ") for text in texts)
    assert sum("adjoint" in text for text in texts) == sum(node.adjoint is not None for node in graph.nodes)
    assert len(root.findall("{http://www.w3.org/2000/svg}path")) == sum(len(node.parents) for node in graph.nodes)
    places = [tuple(float(box[1].get(name)) for name in ("x", "y", "width", "height")) for box in boxes]
    for i, (x, y, width, height) in enumerate(places):
        for u, v, w, h in places[:i]:
            assert x + width <= u or u + w <= x or y + height <= v or v + h <= y, "two boxes overlap"
        for parent in graph.nodes[i].parents:
            assert places[parent][1] < y, "an edge goes up"


def test_hostile_names_are_text():
    hostile = '</text><script>alert("&")</script>\x00\x1b\u202e'

    def inner(x):
        return x * 2

    inner.__name__ = hostile
    graph = computation_graph(lambda tree: jax.jit(inner)(tree[hostile]).sum(), {hostile: jnp.ones(3, jnp.bfloat16)})
    svg = graph.svg()
    root, texts = drawn(svg)
    assert "<script" not in svg
    assert not {"\x00", "\x1b", "\u202e"} & set(svg)
    assert any(text.startswith('tree/</text><script>alert("&")') for text in texts)
    assert {element.tag.partition("}")[2] for element in root.iter()} == {"svg", "defs", "marker", "path", "rect", "g", "title", "text"}


def test_functions_of_many_kinds_are_drawn():
    drawn(computation_graph(lambda: jnp.ones(3)).svg())
    drawn(computation_graph(lambda key, x: jax.random.normal(key, (2,)) * x, KEY, 2.0).svg())
    drawn(computation_graph(lambda x: {"a": x, "b": (1.0, jnp.fft.fft(x))}, jnp.ones(4)).svg())
    assert "mean inf, deviation nan" in computation_graph(lambda x: 1 / x, jnp.zeros((2, 2), jnp.float16)).svg()
    graph = computation_graph(lambda *xs: sum(xs), 1.0, jnp.float32(2.0), 3)
    assert [node.name for node in graph.of_kind("input")] == ["argument_0", "argument_1", "argument_2"]
    assert [node.adjoint for node in graph.of_kind("input")] == [1, 1, None]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"adjoints need values and one real scalar as output, got float32\[3\]; give arrays, and sum the output"):
        computation_graph(lambda x: x, jnp.ones(3), adjoints=True)
    with pytest.raises(ValueError, match="adjoints need values and one real scalar as output, got shapes"):
        computation_graph(jnp.sum, jax.ShapeDtypeStruct((3,), jnp.float32), adjoints=True)
    with pytest.raises(ValueError, match=r"no adjoint flows back through while_1 \(.*pass adjoints=False"):
        computation_graph(lambda x: jax.lax.while_loop(lambda x: x < 9, lambda x: 2 * x, x), 1.0)
    graph = computation_graph(lambda x: x * x, 2.0)
    with pytest.raises(KeyError, match="there is no node 'sin_1'; there are x, mul_1, output"):
        graph["sin_1"]
    with pytest.raises(ValueError, match="svg: the graph has 3 nodes, more than max_nodes = 2 that fit into a picture"):
        graph.svg(max_nodes=2)
    with pytest.raises(ValueError, match="svg: max_nodes must be >= 1, got 0"):
        graph.svg(max_nodes=0)
    with pytest.raises(TypeError, match="differentiation_cost: fun must return real numbers, but a is int32"):
        differentiation_cost(lambda x: {"a": x.astype(jnp.int32)}, 1.0)
