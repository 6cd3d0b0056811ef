"""Proximal operators by their definition and by Moreau's identity; paths of strengths against scikit-learn; group lasso, rank and constraints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import projections
from scipy.optimize import minimize as scipy_minimize
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, Lasso, MultiTaskLasso, Ridge

from dljax import optim
from dljax.objectives import elastic_net, group_lasso, l1, nuclear
from dljax.optim import elastic_net_threshold, group_threshold, project_max_norm, proximal_gradient, singular_value_threshold, soft_threshold

RNG = np.random.default_rng(0)
STRENGTHS = np.geomspace(1e-3, 1, 12)


def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


def spectral_ball(x, radius):
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return (u * np.minimum(s, radius)) @ vt


# Operator, penalty, and the projection onto the unit ball of the dual norm.
OPERATORS = {
    "l1": (soft_threshold, l1, lambda x, t: projections.projection_linf_ball(jnp.asarray(x), t)),
    "elastic net": (elastic_net_threshold, elastic_net, None),
    "groups": (
        group_threshold,
        group_lasso,
        lambda x, t: np.stack([projections.projection_l2_ball(jnp.asarray(column), 2 * t) for column in x.T], 1),
    ),
    "nuclear": (singular_value_threshold, nuclear, spectral_ball),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_4_1_proximal_operators_minimise_their_definition(name):
    prox, penalty, dual = OPERATORS[name]
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.normal(size=(4, 3)))
        t = 0.4
        p = prox(x, t)

        @jax.jit
        def objective(u):
            return t * penalty(u) + 0.5 * jnp.square(u - x).sum()

        # The minimum of a 1-strongly convex function, and no other point, lies below all others by half the squared distance.
        offsets = jnp.asarray(RNG.normal(size=(2000, 4, 3)) * 10.0 ** RNG.uniform(-4, 1, size=(2000, 1, 1)))
        excess = jax.vmap(lambda offset: objective(p + offset))(offsets) - objective(p)
        distance = jnp.square(offsets).sum((1, 2)) / 2
        assert float((excess - distance).min()) >= -1e-12
        # And a minimiser that knows nothing of it comes no lower.
        found = scipy_minimize(lambda u: float(objective(jnp.asarray(u.reshape(4, 3)))), np.asarray(p).ravel() + 0.1, method="Powell")
        assert found.fun >= float(objective(p)) - 1e-9
        np.testing.assert_allclose(found.fun, objective(p), rtol=0.02)
        # Moreau: x is its proximal part of a norm and its projection onto the ball of the dual norm.
        if dual is not None:
            np.testing.assert_allclose(p + dual(np.asarray(x), t), x, atol=1e-9)


def test_4_1_projection_on_the_max_norm_is_the_nearest_point_within_the_limit():
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.normal(size=(4, 3)))
        p = project_max_norm(x, 1.0)
        columns = np.stack([projections.projection_l2_ball(column, 1.0) for column in x.T], 1)
        np.testing.assert_allclose(p, columns, rtol=1e-6)
        np.testing.assert_array_equal(project_max_norm(x, 1e9), x)
        np.testing.assert_array_equal(project_max_norm(x, 0.0), jnp.zeros_like(x))


def test_4_1_ridge_lasso_and_elastic_net_paths_equal_those_of_scikit_learn():
    x, y = diabetes()
    with jax.enable_x64(True):
        data, target = jnp.asarray(x), jnp.asarray(y)

        def fun(w):
            return jnp.square(data @ w - target).mean() / 2

        def path(strength, ratio):
            return proximal_gradient(fun, jnp.zeros(10), lambda w, step: elastic_net_threshold(w, step * strength, ratio), tolerance=1e-10)

        # Three paths of twelve strengths: one program.
        solved = jax.jit(jax.vmap(jax.vmap(path, (0, None)), (None, 0)))(jnp.asarray(STRENGTHS), jnp.array([0.0, 0.5, 1.0]))
    assert solved.converged.all()
    for row, strength in enumerate(STRENGTHS):
        models = [
            Ridge(alpha=strength * len(y), fit_intercept=False),
            ElasticNet(alpha=strength, l1_ratio=0.5, fit_intercept=False, tol=1e-14, max_iter=100_000),
            Lasso(alpha=strength, fit_intercept=False, tol=1e-14, max_iter=100_000),
        ]
        for column, model in enumerate(models):
            np.testing.assert_allclose(solved.x[column, row], model.fit(x, y).coef_, atol=2e-8, err_msg=f"{model}")
    assert (np.asarray(solved.x[2, -1]) == 0).sum() >= 9, "strong lasso sets coefficients to zero, exactly"


def multitask():
    x = RNG.normal(size=(60, 8))
    w = np.zeros((8, 3))
    w[:2] = RNG.normal(size=(2, 3))
    return x, x @ w + 0.3 * RNG.normal(size=(60, 3))


def test_4_1_group_lasso_equals_scikit_learns_multi_task_lasso():
    x, y = multitask()
    with jax.enable_x64(True):
        # Groups are what leaves an input; scikit-learn has no factor √n_g.
        result = proximal_gradient(
            lambda w: jnp.square(jnp.asarray(x) @ w - jnp.asarray(y)).sum() / 120,
            jnp.zeros((8, 3)),
            lambda w, step: group_threshold(w, step * 0.1 / 3**0.5, axis=0),
            tolerance=1e-11,
        )
    model = MultiTaskLasso(alpha=0.1, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y)
    np.testing.assert_allclose(result.x, model.coef_.T, atol=1e-8)
    assert (np.abs(result.x).sum(1) == 0).sum() == (np.abs(model.coef_).sum(0) == 0).sum() > 0


def test_4_1_nuclear_norm_regression_equals_the_minimum_over_factors():
    """‖W‖_* = min ½(‖A‖² + ‖B‖²) over W = AB, which L-BFGS of scipy minimises without any proximal operator (Srebro, 2004)."""
    x, y = multitask()
    strength = 0.3

    def factored(flat):
        a, b = flat[:24].reshape(8, 3), flat[24:].reshape(3, 3)
        rest = x @ a @ b - y
        g = x.T @ rest / 60
        return (rest**2).sum() / 120 + strength / 2 * (flat**2).sum(), np.concatenate([(g @ b.T).ravel(), (a.T @ g).ravel()]) + strength * flat

    found = scipy_minimize(factored, RNG.normal(size=33), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000})
    with jax.enable_x64(True):
        result = proximal_gradient(
            lambda w: jnp.square(jnp.asarray(x) @ w - jnp.asarray(y)).sum() / 120,
            jnp.zeros((8, 3)),
            lambda w, step: singular_value_threshold(w, step * strength),
            penalty=lambda w: nuclear(w, strength=strength),
            tolerance=1e-10,
        )
    np.testing.assert_allclose(result.value, found.fun, rtol=1e-8)
    np.testing.assert_allclose(result.x, found.x[:24].reshape(8, 3) @ found.x[24:].reshape(3, 3), atol=1e-4)
    assert np.linalg.matrix_rank(np.asarray(result.x), tol=1e-8) < 3


def test_4_1_constraints_of_optax_give_least_squares_on_the_simplex():
    """Its conditions (Karush, Kuhn, Tucker): the gradient is equal, and least, wherever the weights are not zero."""
    x, y = RNG.normal(size=(30, 5)), RNG.normal(size=30)
    with jax.enable_x64(True):
        data, target = jnp.asarray(x), jnp.asarray(y)
        result = proximal_gradient(
            lambda w: jnp.square(data @ w - target).mean(), jnp.full(5, 0.2), lambda w, step: projections.projection_simplex(w), tolerance=1e-10
        )
    assert bool(result.converged)
    weights = np.asarray(result.x)
    gradient = 2 * x.T @ (x @ weights - y) / 30
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)
    inside = weights > 1e-9
    assert 1 < inside.sum() < 5
    np.testing.assert_allclose(gradient[inside], gradient.min(), atol=1e-9)


def test_4_1_fista_needs_the_square_root_of_the_steps_of_ista():
    """On a condition number of 10⁴; with one step size for both, as the smooth part is a quadratic of known curvature."""
    with jax.enable_x64(True):
        curvature = jnp.geomspace(1e-4, 1, 20)

        def solve(is_accelerated):
            return proximal_gradient(
                lambda w: (curvature * jnp.square(w - 1)).sum() / 2,
                jnp.zeros(20),
                lambda w, step: soft_threshold(w, 1e-5 * step),
                is_accelerated=is_accelerated,
                tolerance=1e-8,
                max_iterations=100_000,
            )

        ista, fista = jax.jit(solve, static_argnums=0)(False), jax.jit(solve, static_argnums=0)(True)
        exact = soft_threshold(curvature, 1e-5) / curvature
    np.testing.assert_allclose(fista.x, exact, atol=1e-3)
    np.testing.assert_allclose(ista.x, exact, atol=1e-3)
    assert 20 * int(fista.iterations) < int(ista.iterations), (int(fista.iterations), int(ista.iterations))


def test_4_1_proximal_step_in_a_chain_is_ista_and_leaves_other_paths_alone():
    x, y = diabetes()
    data, target = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    prox = optim.on_paths("kernel$", lambda w, step: soft_threshold(w, 0.1 * step))
    solver = optim.proximal_step(0.3, prox)

    def loss(params):
        return jnp.square(data @ params["kernel"] + params["bias"] - target).mean() / 2

    def step(carry, _):
        params, state = carry
        updates, state = solver.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = {"kernel": jnp.zeros(10), "bias": jnp.ones(())}
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=2000))((params, solver.init(params)))
    np.testing.assert_allclose(params["kernel"], Lasso(alpha=0.1, tol=1e-12).fit(x, y).coef_, atol=1e-5)
    np.testing.assert_allclose(params["bias"], 0, atol=1e-6)
    # A schedule scales the threshold with the step.
    scheduled = optim.proximal_step(lambda count: 0.5 / (1 + count), lambda w, step: soft_threshold(w, step))
    state = scheduled.init(jnp.ones(1))
    for expected in (-0.5, -0.25):
        updates, state = scheduled.update(jnp.zeros(1), state, jnp.ones(1))
        np.testing.assert_allclose(updates, expected)


def test_4_1_decoupled_decay_shrinks_by_path_at_the_same_rate_whatever_the_gradient():
    params = {"kernel": jnp.ones(3), "bias": jnp.ones(3)}
    grads = {"kernel": jnp.array([1e-4, 1.0, 1e4]), "bias": jnp.ones(3)}

    def trained(strength):
        solver = optax.chain(optax.scale_by_adam(), optim.decayed_weights(strength), optax.scale_by_learning_rate(0.1))
        updates, _ = solver.update(grads, solver.init(params), params)
        return optax.apply_updates(params, updates)

    decayed, plain = trained(0.5), trained(0.0)
    np.testing.assert_allclose(plain["kernel"] - decayed["kernel"], 0.1 * 0.5, rtol=1e-5)
    np.testing.assert_array_equal(decayed["bias"], plain["bias"])
    adamw = optax.adamw(0.1, weight_decay=0.5, mask=optim.path_mask("kernel$"))
    updates, _ = adamw.update(grads, adamw.init(params), params)
    np.testing.assert_allclose(params["kernel"] + updates["kernel"], decayed["kernel"], rtol=1e-6)


def test_failure_is_a_value():
    stuck = proximal_gradient(lambda w: jnp.log(w).sum(), -jnp.ones(2), soft_threshold)
    assert optim.message(stuck).startswith("the value or the gradient is not finite")
    assert int(stuck.iterations) == 1
    short = proximal_gradient(lambda w: jnp.square(w - 3).sum(), jnp.zeros(2), soft_threshold, max_iterations=0)
    assert optim.message(short).startswith("stopped after max_iterations")
    done = proximal_gradient(lambda w: jnp.square(w - 0.1).sum() / 2, jnp.zeros(2), soft_threshold)
    assert int(done.iterations) == 1, "zero is the solution already"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_threshold(jnp.ones(2), -1.0), r"soft_threshold: threshold must be in \[0, inf\)"),
        (lambda: elastic_net_threshold(jnp.ones(2), 1.0, l1_ratio=-1.0), r"elastic_net_threshold: l1_ratio must be in \[0, 1\]"),
        (lambda: group_threshold(jnp.ones(2), -1.0), "group_threshold: threshold must be"),
        (lambda: singular_value_threshold(jnp.ones((2, 2)), -1.0), "singular_value_threshold: threshold must be"),
        (lambda: singular_value_threshold(jnp.ones(2), 1.0), r"singular_value_threshold: x must be a matrix or have more axes, got shape \(2,\)"),
        (lambda: project_max_norm(jnp.ones(2), -1.0), "project_max_norm: limit must be"),
        (lambda: optim.on_paths("kernels$", soft_threshold)({"kernel": jnp.ones(2)}, 1.0), "on_paths: pattern 'kernels.' finds none of the 1 paths"),
        (lambda: optim.decayed_weights(-0.1), r"decayed_weights: strength must be in \[0, inf\)"),
        (lambda: optim.decayed_weights(0.1, "x").init({"kernel": jnp.ones(2)}), "decayed_weights: pattern 'x' finds none"),
        (lambda: optim.proximal_step(-0.1, soft_threshold), r"proximal_step: learning_rate must be in \[0, inf\)"),
        (lambda: optim.proximal_step(0.1, soft_threshold).update(jnp.ones(2), 0), "proximal_step: update needs the parameters"),
        (lambda: proximal_gradient(lambda w: w.sum(), jnp.ones(2), lambda w, step: w[:1]), "prox: must return the structure and shapes"),
        (lambda: proximal_gradient(lambda w: w.sum(), jnp.ones(2), lambda w, step: {"w": w}), "prox: must return the structure and shapes"),
        (lambda: proximal_gradient(lambda w: w, jnp.ones(2), soft_threshold), "proximal_gradient: fun must return one real number"),
        (lambda: proximal_gradient(lambda w: w.sum(), jnp.ones(2), soft_threshold, tolerance=-1.0), "proximal_gradient: tolerance must be"),
        (lambda: proximal_gradient(lambda w: w.sum(), jnp.ones(2), soft_threshold, max_iterations=-1), "proximal_gradient: max_iterations must be"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
