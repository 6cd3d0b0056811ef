"""`minimize`: what its methods promise on quadratics, Rosenbrock's valley, batches of problems, failures as values."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.core import Source
from dljax.core.check_learner import check_learner
from dljax.optim import (
    METHODS,
    bfgs,
    dfp,
    exact_quadratic,
    lbfgs,
    least_squares,
    message,
    minimize,
    minimizer,
    newton,
    newton_cg,
    nonlinear_cg,
)
from dljax.optim.lbfgs import direction, start, update


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def quadratic(size, condition=100.0):
    """½ xᵀH x - bᵀx with a Hessian of that condition, and where it is least."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((size, size)))[0]
    H, b = (axes * np.geomspace(1, condition, size)) @ axes.T, rng.standard_normal(size)
    H, b = jnp.asarray(H), jnp.asarray(b)
    return lambda x: 0.5 * x @ H @ x - b @ x, np.linalg.solve(H, b)


def test_3_3_newton_reaches_a_quadratic_minimum_in_one_step():
    with jax.enable_x64(True):
        fun, least = quadratic(6)
        result = minimize(fun, jnp.ones(6), method="newton", tolerance=1e-10)
        assert (int(result.iterations), bool(result.converged)) == (1, True)
        np.testing.assert_allclose(result.x, least, rtol=1e-10)


@pytest.mark.parametrize("method", [bfgs, dfp, nonlinear_cg], ids=["bfgs", "dfp", "conjugate-gradients"])
def test_3_3_bfgs_reaches_a_quadratic_minimum_in_n_steps(method):
    with jax.enable_x64(True):
        fun, least = quadratic(6)
        result = minimize(fun, jnp.ones(6), method=method(search=exact_quadratic()), tolerance=1e-7)
        assert (int(result.iterations), bool(result.converged)) == (6, True)
        np.testing.assert_allclose(result.x, least, rtol=1e-7)


def test_3_3_rosenbrock_in_five_dimensions_takes_at_most_60_steps_of_l_bfgs():
    result = jax.jit(lambda x: minimize(rosenbrock, x, tolerance=1e-4))(jnp.array([-1.2, 1.0, -1.2, 1.0, -1.2]))
    assert result.converged
    assert result.iterations <= 60
    np.testing.assert_allclose(result.x, 1.0, atol=1e-3)


def test_3_3_l_bfgs_direction_is_that_of_the_two_loop_recursion():
    rng = np.random.default_rng(1)
    reference, size = optax.scale_by_lbfgs(memory_size=3), 7
    H = rng.uniform(0.5, 2, size).astype(np.float32)
    points = rng.standard_normal((6, size)).astype(np.float32)
    state, memory = reference.init(jnp.zeros(size)), start(3, jnp.zeros(size))
    theirs_of, remembered, ours_of = jax.jit(reference.update), jax.jit(update), jax.jit(direction)
    for number, x in enumerate(points):
        if number:
            memory = remembered(memory, jnp.asarray(x - points[number - 1]), jnp.asarray(H * (x - points[number - 1])))
        theirs, state = theirs_of(jnp.asarray(H * x - 1), state, jnp.asarray(x))
        if number:
            np.testing.assert_allclose(ours_of(memory, jnp.asarray(H * x - 1)), -theirs, rtol=2e-4, atol=1e-5)


@pytest.mark.slow
def test_3_3_thousand_problems_at_once_with_every_method():
    # Convex, so that all reach the one minimum, from starts as far as its scale; each is a problem of its own.
    starts, targets = jax.random.uniform(jax.random.key(0), (2, 1000, 2), minval=-1, maxval=1)
    residual_methods = ("gauss-newton", "levenberg-marquardt")

    def residuals(x, target):
        return jnp.array([x[0] - target[0], 3 * (x[1] - target[1]), (x - target).sum() + 0.1 * (x[0] - target[0]) ** 2])

    def solve(method, x, target):
        if method in residual_methods:
            return least_squares(lambda x: residuals(x, target), x, method=method, tolerance=1e-4, max_iterations=100)
        return minimize(lambda x: 0.5 * (residuals(x, target) ** 2).sum(), x, method=method, tolerance=1e-4, max_iterations=100)

    @jax.jit
    def all_of_them(starts, targets):
        return {method: jax.vmap(partial(solve, method))(starts, targets) for method in (*METHODS, *residual_methods)}

    for method, result in all_of_them(starts, targets).items():
        assert result.converged.all(), method
        np.testing.assert_allclose(result.x, targets, atol=1e-3, err_msg=method)
        assert len(set(result.iterations.tolist())) > 1 or method == "newton", method


def test_3_3_thousand_problems_at_once_are_the_same_as_one_by_one():
    starts = jax.random.uniform(jax.random.key(0), (1000, 2), minval=-2, maxval=2)

    def solve(x):
        return minimize(rosenbrock, x, tolerance=1e-3, max_iterations=200)

    together, alone = jax.jit(lambda starts: (jax.vmap(solve)(starts), jax.lax.map(solve, starts)))(starts)
    assert together.converged.mean() > 0.99
    np.testing.assert_array_equal(together.converged, alone.converged)
    np.testing.assert_allclose(together.x, alone.x, atol=2e-2)
    assert np.mean(np.abs(together.iterations - alone.iterations) <= 3) > 0.99


@jax.custom_jvp
def deceitful(x):
    return (x**2).sum()


@deceitful.defjvp
def _(primals, tangents):
    return deceitful(*primals), -2 * (primals[0] * tangents[0]).sum()


@pytest.mark.parametrize(
    ("fun", "start", "method", "words"),
    [
        (lambda x: (x.sum()) ** 2, [1.0, 2.0], "newton", "the Hessian is singular"),
        (lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, [0.0, 0.1], "newton", "does not go downhill"),
        (lambda x: jnp.sqrt(x).sum(), [-1.0, 1.0], "l-bfgs", "not finite at the start"),
        (lambda x: jnp.sqrt(jnp.abs(x)).sum(), [1.0, 0.0], "bfgs", "not finite at the start"),
        (lambda x: jnp.where(x > 0, x, jnp.nan).sum(), [1.0, 1.0], "newton-cg", "neither the value nor the gradient falls"),
        (deceitful, [1.0, 1.0], "l-bfgs", "no step along the direction"),
        (deceitful, [1.0, 1.0], "sr1", "neither the value nor the gradient falls"),
        (lambda x: x.sum(), [1.0, 1.0], "bfgs", "or there is no minimum"),
    ],
)
def test_3_3_failure_is_a_value_and_ends(fun, start, method, words):
    result = minimize(fun, jnp.array(start), method=method, max_iterations=60)
    assert not result.converged
    assert words in message(result)
    assert np.isfinite(result.x).all()


def test_limit_of_precision_ends_the_search():
    A, b = np.random.default_rng(0).standard_normal((2, 30, 3)).astype(np.float32)
    result = jax.jit(lambda x: minimize(lambda x: ((A @ x - b[:, 0]) ** 2).sum(), x, tolerance=0.0))(jnp.ones(3))
    assert result.iterations < 60
    assert "precision is used up" in message(result)
    np.testing.assert_allclose(result.x, np.linalg.lstsq(A, b[:, 0])[0], atol=1e-4)


def test_trees_aux_and_history():
    def fun(tree):
        return (tree["a"] ** 2).sum() + (tree["b"][0] - 2) ** 2, {"sum": tree["a"].sum() + tree["b"][0]}

    start = {"a": jnp.ones((2, 2)), "b": [jnp.zeros(())]}
    result = minimize(fun, start, has_aux=True, history=True, max_iterations=20)
    assert jax.tree.structure(result.x) == jax.tree.structure(start)
    assert result.aux["sum"] == pytest.approx(2.0, abs=1e-4)
    assert result.history.x["a"].shape == (21, 2, 2)
    assert result.history.value[0] == 8
    last = int(result.iterations)
    assert result.history.value[last] == result.value
    assert result.history.gradient_norm[last] == result.gradient_norm
    assert np.isnan(result.history.value[last + 1 :]).all()


def test_minimizer_is_a_learner_that_stops():
    def least(params, batch):
        return ((batch["x"] @ params["kernel"] - batch["y"]) ** 2).mean()

    batch = {"x": jnp.eye(4) + 0.3, "y": jnp.arange(4.0)}
    learner = minimizer(least, method="newton", start=lambda key, batch: {"kernel": jax.random.normal(key, (4,))}, tolerance=1e-4)
    source = Source(lambda key: (), lambda data, cursor: (cursor, data), batch)
    check_learner(learner, source, steps=2)
    state, step = learner.init(jax.random.key(0), batch), jax.jit(learner.step)
    for _ in range(4):
        before, (state, _) = state, step(jax.random.key(0), state, batch)
    assert learner.done(state)
    jax.tree.map(np.testing.assert_array_equal, before, state)
    np.testing.assert_allclose(batch["x"] @ state.params["kernel"], batch["y"], atol=1e-2)


def test_bad_inputs_are_refused():
    def fun(x):
        return (x**2).sum()

    with pytest.raises(ValueError, match=r"minimize: method must be one of 'bfgs', .*, got 'adam'"):
        minimize(fun, jnp.ones(2), method="adam")
    with pytest.raises(ValueError, match=r"minimize: tolerance must be in \[0, inf\), got -1"):
        minimize(fun, jnp.ones(2), tolerance=-1)
    with pytest.raises(ValueError, match=r"minimize: max_iterations must be >= 0, got -1"):
        minimize(fun, jnp.ones(2), max_iterations=-1)
    with pytest.raises(ValueError, match=r"minimize: x0 must hold real floating-point numbers, got int32 at b; write 1.0 for 1"):
        minimize(fun, {"a": 1.0, "b": 1})
    with pytest.raises(ValueError, match=r"minimize: x0 must hold at least one number"):
        minimize(fun, {})
    with pytest.raises(ValueError, match=r"minimize: fun must return one real number, got float32\[2\]"):
        minimize(lambda x: x, jnp.ones(2))
    with pytest.raises(ValueError, match=r"minimize: max_iterations must be a known number where the history is kept"):
        jax.jit(lambda n: minimize(fun, jnp.ones(2), max_iterations=n, history=True))(3)
    with pytest.raises(ValueError, match=r"message: result must be of one problem, got a batch \(2,\)"):
        message(jax.vmap(lambda x: minimize(fun, x, method=newton()))(jnp.ones((2, 1))))
    with pytest.raises(ValueError, match=r"lbfgs: memory_size must be >= 1, got 0"):
        lbfgs(memory_size=0)
    with pytest.raises(ValueError, match=r"nonlinear_cg: kind must be one of .*, got 'fr'"):
        nonlinear_cg("fr")
    with pytest.raises(ValueError, match=r"newton_cg: radius must be in \(0, inf\), got 0"):
        newton_cg(radius=0)
    assert "l-bfgs" in METHODS
