"""What a function costs: counted by hand and by XLA."""

import jax
import jax.numpy as jnp
import pytest

from dljax.core.flops import arithmetic, count_flops, equations

A, B = jnp.ones((4, 8)), jnp.ones((8, 3))


def xla(function, *args):
    cost = jax.jit(function).lower(*args).compile().cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"]


def conv(x, kernel, stride=1, padding="VALID", **options):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


IMAGE, KERNEL = jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 4, 6))


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (jnp.matmul, (A, B), 2 * 4 * 8 * 3),
        (jnp.matmul, (jnp.ones((5, 4, 8)), jnp.ones((5, 8, 3))), 5 * 2 * 4 * 8 * 3),
        (lambda a, b: jnp.einsum("ij,kj->ki", a, b), (A, jnp.ones((3, 8))), 2 * 4 * 8 * 3),
        (conv, (IMAGE, KERNEL), 2 * (2 * 7 * 7 * 6) * (3 * 3 * 4)),
        (lambda x, k: conv(x, k, 2), (IMAGE, KERNEL), 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4)),
        # Of the 5 * 3 taps along a dimension, 2 fall on the padding.
        (lambda x, k: conv(x, k, 2, "SAME"), (IMAGE, KERNEL), 2 * (2 * 6) * 13 * 13 * 4),
        # With gaps of one, 9 * 3 taps less 2 * 2.
        (lambda x, k: conv(x, k, padding="SAME", rhs_dilation=(2, 2)), (IMAGE, KERNEL), 2 * (2 * 6) * 23 * 23 * 4),
        # Each of the 9 elements meets the 3 taps of the kernel, but for one that has no output at its right.
        (lambda x, k: conv(x, k, padding=((2, 1), (2, 1)), lhs_dilation=(2, 2)), (IMAGE, KERNEL), 2 * (2 * 6) * 26 * 26 * 4),
        (lambda x, k: conv(x, k, feature_group_count=4), (IMAGE, jnp.ones((3, 3, 1, 8))), 2 * (2 * 7 * 7 * 8) * (3 * 3 * 1)),
        (lambda x, k: conv(x, k, batch_group_count=2), (IMAGE, KERNEL), 2 * (1 * 7 * 7 * 6) * (3 * 3 * 4)),
    ],
)
def test_2_2_products_and_convolutions_cost_what_xla_says(function, args, expected):
    assert count_flops(function, *args) == expected
    assert xla(function, *args) == expected


def test_2_2_arithmetic_is_what_xla_counts_as_flops_and_transcendentals():
    def layer(x, w, b):
        return jnp.tanh(x @ w + b).sum(axis=0) / 3

    args = (A, B, jnp.ones((1, 3)))
    cost = jax.jit(layer).lower(*args).compile().cost_analysis()
    ours = sum(times * arithmetic(eqn) for eqn, times in equations(jax.make_jaxpr(layer)(*args).jaxpr))
    assert ours == 2 * 4 * 8 * 3 + 12 + 12 + 9 + 3
    assert cost["flops"] + cost["transcendentals"] == ours
    assert sum(arithmetic(eqn) for eqn in jax.make_jaxpr(lambda x: jnp.where(x > 0, x.T.reshape(4, 8), 1))(A).jaxpr.eqns) == 0


def test_gradient_costs_about_twice_as_much_as_the_value():
    def value(x, kernel):
        return (conv(x, kernel, padding="SAME") ** 2).sum()

    ratio = count_flops(jax.grad(value, (0, 1)), IMAGE, KERNEL) / count_flops(value, IMAGE, KERNEL)
    assert 2.5 < ratio < 4
    assert count_flops(jax.grad(lambda a, b: ((a @ b) ** 2).sum(), (0, 1)), A, B) == 3 * count_flops(jnp.matmul, A, B)


def test_loop_counts_as_often_as_it_runs():
    def scanned(a):
        return jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ a), None), a, None, length=10)[0]

    square = jnp.ones((6, 6))
    assert count_flops(scanned, square) == 10 * 2 * 6**3
    assert count_flops(lambda a: jax.lax.fori_loop(0, 10, lambda _, x: x @ a, a), square) == 10 * 2 * 6**3
    assert count_flops(lambda a: jax.lax.map(scanned, jnp.stack([a, a])), square) == 2 * 10 * 2 * 6**3
    assert count_flops(jax.vmap(scanned), jnp.ones((3, 6, 6))) == 3 * 10 * 2 * 6**3


def test_calls_inside_are_entered_once():
    product = jax.jit(lambda a, b: a @ b)
    wrapped = jax.custom_vjp(lambda a, b: product(a, b))
    wrapped.defvjp(lambda a, b: (product(a, b), (a, b)), lambda saved, dy: (dy @ saved[1].T, saved[0].T @ dy))
    cost = 2 * 4 * 8 * 3
    assert count_flops(product, A, B) == cost
    assert count_flops(wrapped, A, B) == cost
    assert count_flops(jax.checkpoint(product), A, B) == cost
    assert count_flops(lambda a, b: jax.lax.cond(True, lambda: product(a, b), lambda: product(a, b)), A, B) == cost
    assert count_flops(jax.grad(lambda a, b: wrapped(a, b).sum(), (0, 1)), A, B) == 3 * cost
