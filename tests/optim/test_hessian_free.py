"""Hessian-free: a quadratic in one step, never uphill on its own batch, and what its damping makes of a bad model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from second_order import LINE, check_empty_batch, check_shards, classes, first_steps, least_squares_solution, regression

from dljax.core.check_learner import check_learner
from dljax.data import shuffled
from dljax.objectives import cross_entropy, squared_error
from dljax.optim import hessian_free, minimize
from dljax.optim.hessian_free import conjugate_gradients
from dljax.supervised import supervised


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def test_3_3_hessian_free_solves_a_quadratic_in_one_step():
    batch = regression()
    (_, after), (metrics,) = first_steps(supervised(LINE, squared_error, hessian_free(damping=0.0)), batch)
    np.testing.assert_allclose(after.params["w"], least_squares_solution(batch), atol=1e-8)
    assert float(metrics["step_size"]) == 1
    assert float(metrics["cg_iterations"]) <= 4  # the matrix has three different eigenvalues; one more for rounding


def test_3_3_hessian_free_reaches_the_optimum_of_logistic_regression():
    batch = classes(30)
    states, _ = first_steps(supervised(LOGISTIC, cross_entropy, hessian_free(damping=1e-3)), batch, steps=6)

    def value(w):
        return cross_entropy(batch["x"] @ w, batch["y"]).mean()

    best = jax.jit(lambda w: minimize(value, w, method="bfgs", tolerance=1e-9).value)(jnp.zeros((3, 3)))
    assert float(value(states[-1].params["w"])) == pytest.approx(float(best), abs=1e-8)


LOGISTIC = (lambda key, x: {"w": jnp.zeros((3, 3))}, lambda params, x: x @ params["w"])


def test_loss_of_the_own_batch_never_rises():
    """A saturated net, whose quadratic model is wrong far off."""
    batch = regression()
    model = (
        lambda key, x: {"a": 4 * jax.random.normal(key, (3, 5)), "b": jnp.ones((5, 2))},
        lambda params, x: jnp.tanh(jnp.sin(3 * x @ params["a"])) @ params["b"],
    )
    _, said = first_steps(supervised(model, squared_error, hessian_free(damping=1e-6, max_iterations=20)), batch, steps=8)
    losses, dampings = [float(metrics["loss"].value) for metrics in said], [float(metrics["damping"]) for metrics in said]
    assert (np.diff(losses) <= 0).all(), losses
    ratios = np.divide(dampings[1:], dampings[:-1])
    np.testing.assert_allclose([min(abs(ratio - allowed) for allowed in (2 / 3, 1, 3 / 2)) for ratio in ratios], 0, atol=1e-12)
    assert ratios.max() > 1


def test_conjugate_gradients_solve_and_keep_their_iterates():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(8, 8))
    B, g = root @ root.T + np.eye(8), rng.normal(size=8)
    found = jax.jit(lambda g: conjugate_gradients(lambda v: B @ v, g, jnp.zeros(8), 50))(g)
    solution = -np.linalg.solve(B, g)
    np.testing.assert_allclose(found.solution, solution, atol=1e-10)
    kept = found.iterates[: int(found.kept)]
    values = [float(g @ p + 0.5 * p @ B @ p) for p in kept]
    assert (np.diff(values) < 0).all()
    np.testing.assert_allclose(kept[0], -(g @ g) / (g @ B @ g) * g, atol=1e-12)  # the first is an exact step along -g
    np.testing.assert_array_equal(kept[-1], found.solution)
    solved = jax.jit(lambda g: conjugate_gradients(lambda v: B @ v, g, solution, 50))(g)
    assert int(solved.iterations) <= 1
    np.testing.assert_allclose(solved.solution, solution, atol=1e-10)
    flat = conjugate_gradients(lambda v: 0 * v, jnp.ones(2), jnp.zeros(2), 5)
    assert flat.solution.tolist() == [0, 0]


def test_conjugate_gradients_end_where_the_model_hardly_falls():
    """A few large eigenvalues carry the value; the many small ones that follow do not pay."""
    scale = jnp.concatenate([jnp.ones(3), jnp.full(197, 1e-4)])
    gradient = -jnp.where(jnp.arange(200) < 3, 1.0, 1e-4 * jnp.arange(200) / 200)
    found = conjugate_gradients(lambda v: scale * v * (1 + jnp.arange(200) / 7), gradient, jnp.zeros(200), 200)
    assert int(found.iterations) < 40


def test_devices_take_one_step():
    batch = regression() | {"mask": jnp.arange(12.0)}
    check_shards(hessian_free(damping=0.1), LINE, squared_error, batch)


def test_batch_of_weight_zero_changes_nothing():
    check_empty_batch(hessian_free(), regression())


@pytest.mark.slow
def test_contract():
    with jax.enable_x64(False):
        data = jax.tree.map(np.asarray, classes())
        data = data | {"x": data["x"].astype(np.float32)}
        check_learner(supervised(linen.Dense(3), cross_entropy, hessian_free(max_iterations=5)), shuffled(data, 6), steps=2)


def test_bad_inputs_are_refused():
    for name, value in [("damping", -1), ("decay", 1.1), ("max_iterations", 0), ("tolerance", 0), ("max_backtracks", 0)]:
        with pytest.raises(ValueError, match=rf"hessian_free: {name} must be"):
            hessian_free(**{name: value})
