"""Continuous depth: the matrix exponential, Euler's residual blocks, both adjoints, tolerances and failures."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.scipy.linalg import expm

from dljax.core import precision
from dljax.nn import Dense, as_model
from dljax.nn.ode import ODEBlock, ODEConfig, solve_ode

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def linear(matrix, h, t):
    return matrix @ h * jnp.cos(t)


def some_matrix(dtype=np.float64):
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), dtype)


class Field(linen.Module):
    param_dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, h, t):
        clock = jnp.broadcast_to(t.astype(h.dtype), (*h.shape[:-1], 1))
        return jnp.tanh(Dense(h.shape[-1], param_dtype=self.param_dtype)(jnp.concatenate([h, clock], -1)))


@pytest.mark.parametrize("adjoint", ["direct", "continuous", pytest.param("forward", marks=pytest.mark.slow)])
def test_5_2_gradients_of_a_linear_ode_are_those_of_the_matrix_exponential(adjoint):
    """With respect to parameters, initial state and every time: h(t) = exp(A (sin t - sin t₀)) h₀."""

    def exact(matrix, h, times):
        return jax.vmap(lambda t: expm(matrix * (jnp.sin(t) - jnp.sin(times[0]))) @ h)(times)

    def computed(matrix, h, times):
        return solve_ode(linear, matrix, h, times, ODEConfig("dopri8", adjoint=adjoint, **TIGHT)).states

    with jax.enable_x64(True):
        weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))
        arguments = some_matrix(), jnp.array([1.0, 2.0, 3.0]), jnp.array([0.1, 0.5, 1.3])

        def loss(states, *arguments):
            return (weights * states(*arguments)).sum(), states(*arguments)

        (_, states), gradients = jax.jit(jax.value_and_grad(lambda *a: loss(computed, *a), (0, 1, 2), has_aux=True))(*arguments)
        (_, expected), truth = jax.value_and_grad(lambda *a: loss(exact, *a), (0, 1, 2), has_aux=True)(*arguments)
        np.testing.assert_allclose(states, expected, rtol=1e-8)
        for one, other in zip(gradients, truth, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-7)


def test_5_2_continuous_adjoint_is_the_direct_gradient_of_a_block_with_parameters():
    """In float64, within 1e-5 of the gradient's size; and the direct one is the derivative of what was computed, whatever the tolerance."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
        variables = {"params": {"field": Field(param_dtype=jnp.float64).init(jax.random.key(0), jnp.zeros((4, 4)), jnp.zeros(()))["params"]}}

        def loss(variables, x, adjoint, **options):
            config = ODEConfig(adjoint=adjoint, **(options or {"rtol": 1e-8, "atol": 1e-10}))
            return jnp.sin(ODEBlock(Field(), config, num_extra=1).apply(variables, x)).sum()

        direct, continuous = (jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(variables, x, adjoint) for adjoint in ("direct", "continuous"))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), direct, continuous)
        coarse = jax.jit(lambda x: loss(variables, x, "direct", solver="midpoint", num_steps=2))
        step = 1e-6 * jnp.asarray(np.random.default_rng(1).normal(size=x.shape))
        numerical = (coarse(x + step) - coarse(x - step)) / 2
        np.testing.assert_allclose((jax.grad(coarse)(x) * step).sum(), numerical, rtol=1e-6)


def test_5_2_euler_steps_of_length_one_are_residual_blocks():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    block = ODEBlock(Field(), ODEConfig("euler", num_steps=3), times=(0.0, 3.0))
    variables = jax.jit(block.init)(jax.random.key(0), x)

    def residual(variables, x):
        for number in range(3):
            x = x + Field().apply({"params": variables["params"]["field"]}, x, jnp.float32(number))
        return x

    assert sorted(variables["params"]) == ["field"]
    np.testing.assert_allclose(jax.jit(block.apply)(variables, x), residual(variables, x), rtol=1e-6, atol=1e-7)

    def gradients(function):
        return jax.jit(jax.grad(lambda *arguments: jnp.sin(function(*arguments)).sum(), (0, 1)))(variables, x)

    ours, theirs = gradients(block.apply), gradients(residual)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_5_2_tolerance_controls_the_error_and_order_the_steps():
    """A harmonic oscillator over two turns. Adaptive errors follow the tolerance; of fixed steps, halved, the error falls by 2 to the order."""
    with jax.enable_x64(True):
        turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
        start, end = jnp.array([1.0, 0.0]), 4 * np.pi + 1

        def error(**options):
            solution = jax.jit(lambda: solve_ode(lambda a, h, t: a @ h, turn, start, [0.0, end], ODEConfig(**options)))()
            return float(jnp.abs(solution.states[-1] - jnp.array([np.cos(end), np.sin(end)])).max()), int(solution.num_evaluations)

        found = [error(rtol=tolerance, atol=tolerance) for tolerance in (1e-3, 1e-8)]
        for (wrong, _), tolerance in zip(found, (1e-3, 1e-8), strict=True):
            assert tolerance / 100 < wrong < 50 * tolerance
        assert found[0][1] < found[1][1]
        for solver, order in (("euler", 1), ("dopri5", 5)):
            (coarse, _), (fine, _) = (error(solver=solver, num_steps=num) for num in (40 * 50 ** (order == 1), 80 * 50 ** (order == 1)))
            assert order - 0.3 < np.log2(coarse / fine) < order + 0.5


@pytest.mark.parametrize(("solver", "num_steps"), [("dopri5", None), ("tsit5", 2), ("bosh3", 1), ("euler", 4), ("dopri8", 1)])
def test_number_of_evaluations_is_the_number_of_calls(solver, num_steps):
    calls = []

    def field(rate, h, t):
        jax.debug.callback(lambda: calls.append(1))
        return -rate * h

    config = ODEConfig(solver, num_steps=num_steps, rtol=1e-3, first_step=0.01)
    solution = jax.jit(lambda: solve_ode(field, jnp.float32(1.0), jnp.float32(1.0), [0.0, 0.5, 1.0], config))()
    jax.effects_barrier()
    assert int(solution.num_evaluations) == len(calls)
    assert bool(solution.is_solved)


def test_failure_is_nan_and_a_flag_under_jit_and_vmap_and_leaves_what_was_solved():
    """h' = h² from 1 is 1 / (1 - t): it has no value at t = 1. Examples that fail do not disturb their neighbours."""

    @jax.jit
    @jax.vmap
    def solve(h, end):
        return solve_ode(lambda _, h, t: h**2, (), h, jnp.stack([jnp.zeros(()), end, 2 * end]))

    ends = jnp.array([0.25, 0.6, 2.0, 0.25])
    solution = solve(jnp.array([1.0, 1.0, 1.0, jnp.nan]), ends)
    np.testing.assert_array_equal(solution.is_solved, [True, False, False, False])
    expected = 1 / (1 - np.array([[0, 0.25, 0.5], [0, 0.6, np.nan], [0, np.nan, np.nan], [np.nan] * 3]))
    np.testing.assert_allclose(solution.states, expected, rtol=1e-3)
    assert int(solution.num_steps.max()) < 500  # a step below the clock's resolution ends it, not the limit
    few = jax.jit(lambda: solve_ode(lambda _, h, t: 50 * jnp.cos(50 * t), (), jnp.float32(0.0), [0.0, 9.0], ODEConfig(max_steps=5)))()
    assert np.isnan(few.states[-1])
    assert (int(few.num_steps), bool(few.is_solved)) == (5, False)


def test_time_flows_backwards_and_trees_are_states():
    """There and back again; the state is a tree, the first leaf a position, the second a speed."""
    config = ODEConfig(rtol=1e-6, atol=1e-7)

    def spring(stiffness, state, t):
        return {"position": state["speed"], "speed": -stiffness * state["position"]}

    start = {"position": jnp.ones(2), "speed": jnp.zeros(2)}
    solve = jax.jit(lambda state, times: solve_ode(spring, jnp.float32(4.0), state, times, config).states)
    there = jax.tree.map(lambda leaf: leaf[-1], solve(start, jnp.array([0.0, 0.7])))
    np.testing.assert_allclose(there["position"], np.full(2, np.cos(1.4)), atol=1e-5)
    back = jax.tree.map(lambda leaf: leaf[-1], solve(there, jnp.array([0.7, 0.0])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), back, start)


def test_augmented_flow_can_do_what_a_plain_one_cannot():
    """x → -x on a line: two ways would have to cross. With one more dimension half a turn does it."""

    class Turn(linen.Module):
        @linen.compact
        def __call__(self, h, t):
            return jnp.pi * jnp.stack([-h[..., 1], h[..., 0]], -1)

    x = jnp.array([[1.0], [-1.0], [0.5]])
    y = ODEBlock(Turn(), ODEConfig(rtol=1e-6), num_extra=1).apply({}, x)
    np.testing.assert_allclose(y, np.concatenate([-x, np.zeros_like(x)], -1), atol=1e-4)


def test_mixed_precision_adds_up_in_float32():
    """A hundred steps of 0.001 from 1: a sum in bfloat16, whose next number after 1 is 1.0078, would stay where it is."""
    config = ODEConfig("euler", num_steps=100)
    one = jnp.ones(2, jnp.bfloat16)
    solution = jax.jit(lambda rate: solve_ode(lambda rate, h, t: rate + 0 * h, rate, one, [0.0, 1.0], config))(jnp.bfloat16(0.1))
    assert solution.states.dtype == jnp.bfloat16
    np.testing.assert_allclose(solution.states[-1].astype(jnp.float32), [1.1, 1.1], atol=0.005)
    model = as_model(ODEBlock(Field(), ODEConfig("euler", num_steps=2)))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.ones((2, 3)))
    with precision.use("bfloat16"):
        program = jax.jit(model.apply).lower(variables, jnp.ones((2, 3))).as_text()
    assert "dot_general" in program
    assert all("bf16" in line for line in program.splitlines() if "dot_general" in line)


class Normed(linen.Module):
    @linen.compact
    def __call__(self, h, t):
        return linen.BatchNorm(use_running_average=True)(h)


class Wider(linen.Module):
    @linen.compact
    def __call__(self, h, t):
        return jnp.concatenate([h, h], -1)


def test_bad_options_and_fields_are_refused():
    for options, message in [
        ({"solver": "rk4"}, "ODEConfig: solver must be one of 'euler'"),
        ({"solver": "euler"}, "ODEConfig: num_steps must be given where solver='euler'"),
        ({"num_steps": 0}, "ODEConfig: num_steps must be >= 1, got 0"),
        ({"rtol": 0.0}, r"ODEConfig: rtol must be in \(0, inf\)"),
        ({"atol": -1.0}, r"ODEConfig: atol must be in \(0, inf\)"),
        ({"first_step": 2.0}, r"ODEConfig: first_step must be in \(0, 1\]"),
        ({"adjoint": "none"}, "ODEConfig: adjoint must be one of 'direct', 'continuous', 'forward'"),
        ({"max_steps": 0}, "ODEConfig: max_steps must be >= 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            ODEConfig(**options)
    h = jnp.ones(2)
    with pytest.raises(ValueError, match=r"times must be a vector of at least two, got shape \(1,\)"):
        solve_ode(lambda p, h, t: h, (), h, jnp.zeros(1))
    with pytest.raises(ValueError, match=r"field must return the shapes of the state, \(2,\), got \(1,\)"):
        solve_ode(lambda p, h, t: h[:1], (), h, [0.0, 1.0])
    with pytest.raises(TypeError, match="the state h must be floating-point, got int32"):
        solve_ode(lambda p, h, t: h, (), jnp.arange(2), [0.0, 1.0])
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="field must keep nothing but parameters, got the collections \\['batch_stats', 'params'\\]"):
        ODEBlock(Normed()).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="field must return the shapes"):
        ODEBlock(Wider()).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="ODEBlock: num_extra must be >= 0"):
        ODEBlock(Field(), num_extra=-1).init(jax.random.key(0), x)
