"""First-order methods: 100 steps as PyTorch makes them, closed-form rates, schedules, and learning rates that learn."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax import optim

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "trajectories.npz")

METHODS = {
    "sgd": lambda: optim.sgd(0.1),
    "momentum": lambda: optim.sgd(0.05, 0.9),
    "nesterov": lambda: optim.sgd(0.05, 0.9, nesterov=True),
    "nesterov, weight decay": lambda: optim.chain(optim.add_decayed_weights(0.01), optim.sgd(0.05, 0.9, nesterov=True)),
    "sgd, clipped": lambda: optim.chain(optim.clip_by_global_norm(0.5), optim.sgd(0.1)),
    "sgd, weight decay": lambda: optim.chain(optim.add_decayed_weights(0.01), optim.sgd(0.05, 0.9)),
    # optax adds ε² under the root.
    "adagrad": lambda: optim.adagrad(0.1, initial_accumulator_value=0.0, eps=1e-20),
    "adadelta": lambda: optim.adadelta(1.0, rho=0.9, eps=1e-6),
    "rmsprop": lambda: optim.rmsprop(0.01, decay=0.99, eps_in_sqrt=False),
    "rmsprop, centred, momentum": lambda: optim.rmsprop(0.01, decay=0.99, eps_in_sqrt=False, centered=True, momentum=0.5),
    "adam": lambda: optim.adam(0.01),
    "adam, weight decay": lambda: optim.chain(optim.add_decayed_weights(0.01), optim.adam(0.01)),
    "adamw": lambda: optim.adamw(0.01, weight_decay=0.1),
    "amsgrad": lambda: optim.amsgrad(0.01, b2=0.9),
    "adamax": lambda: optim.adamax(0.01),
    "nadam": lambda: optim.nadam(0.01),
}
SCHEDULES = {
    "cosine": lambda: optim.cosine_decay_schedule(0.5, 99, alpha=0.02),
    "exponential": lambda: optim.exponential_decay(0.5, 1, 0.95),
    "linear": lambda: optim.linear_schedule(0.5, 0.05, 60),
    "multi-step": lambda: optim.piecewise_constant_schedule(0.5, {30: 0.1, 80: 0.1}),
    "polynomial": lambda: optim.polynomial_schedule(0.5, 0.0, 2.0, 70),
    "step": lambda: optim.exponential_decay(0.5, 30, 0.5, staircase=True),
    "warm-up, cosine": lambda: optim.warmup_cosine_decay_schedule(0.05, 0.5, 10, 100, 0.05),
}


def trajectory(solver, params, x, y):
    def loss(params):
        return jnp.square(jnp.tanh(x @ params["a"] + params["b"][None]) @ params["c"] - y).mean()

    def one(carry, step):
        params, state, ema, mean = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = solver.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        # PyTorch begins both averages with the first parameters.
        ema = optim.incremental_update(params, ema, jnp.where(step == 0, 1.0, 0.1))
        return (params, state, ema, optim.incremental_update(params, mean, 1 / (step + 1))), value

    (params, _, ema, mean), losses = jax.lax.scan(one, (params, solver.init(params), params, params), jnp.arange(100))
    return {"": params, "ema": ema, "polyak": mean}, losses


def test_3_1_hundred_steps_are_those_of_torch():
    with jax.enable_x64(True):
        start = {name: jnp.asarray(GOLDEN[f"start/{name}"]) for name in "abc"}

        @jax.jit
        def all_of_them(start, x, y):
            return {name: trajectory(build(), start, x, y) for name, build in METHODS.items()}

        found = all_of_them(start, GOLDEN["x"], GOLDEN["y"])
    for name, (params, losses) in found.items():
        np.testing.assert_allclose(losses, GOLDEN[f"{name}/losses"], rtol=1e-5, err_msg=name)
        for leaf in "abc":
            np.testing.assert_allclose(params[""][leaf], GOLDEN[f"{name}/{leaf}"], rtol=1e-5, atol=1e-8, err_msg=f"{name} {leaf}")
    for average in ("ema", "polyak"):
        for leaf in "abc":
            np.testing.assert_allclose(found["adam"][0][average][leaf], GOLDEN[f"{average}/{leaf}"], rtol=1e-5, err_msg=f"{average} {leaf}")


def test_3_1_schedules_and_warm_up_are_those_of_torch():
    with jax.enable_x64(True):
        found = jax.jit(lambda steps: {name: jax.vmap(build())(steps) for name, build in SCHEDULES.items()})(jnp.arange(100))
    for name, rates in found.items():
        np.testing.assert_allclose(rates, GOLDEN[f"schedule/{name}"], rtol=1e-6, atol=1e-12, err_msg=name)


def test_3_1_lion_takes_the_steps_of_its_paper():
    # Chen et al. (2023), algorithm 2; PyTorch has none.
    def gradient(x):
        return 2 * x + np.cos(3 * x)

    solver, x, mean = optim.lion(0.01, b1=0.9, b2=0.99, weight_decay=0.1), np.linspace(-2, 2, 5), np.zeros(5)
    with jax.enable_x64(True):
        ours = jnp.asarray(x)
        state, update = solver.init(ours), jax.jit(solver.update)
        for _ in range(100):
            updates, state = update(jnp.asarray(gradient(np.asarray(ours))), state, ours)
            ours += updates
            g = gradient(x)
            x = x - 0.01 * (np.sign(0.9 * mean + 0.1 * g) + 0.1 * x)
            mean = 0.99 * mean + 0.01 * g
    np.testing.assert_allclose(ours, x, rtol=1e-10)


def test_3_1_mini_batches_that_are_accumulated_make_the_step_of_the_whole_batch():
    x, y = (jnp.asarray(GOLDEN[name], jnp.float32) for name in "xy")

    def last(solver, batches):
        def one(carry, batch):
            w, state = carry
            grads = jax.grad(lambda w: jnp.square(batch[0] @ w - batch[1][:, 0]).mean())(w)
            updates, state = solver.update(grads, state, w)
            return (w + updates, state), None

        return jax.lax.scan(one, (jnp.ones(3), solver.init(jnp.ones(3))), batches)[0][0]

    def both(x, y):
        whole = jnp.broadcast_to(x, (2, *x.shape)), jnp.broadcast_to(y, (2, *y.shape))
        parts = [jnp.tile(rows.reshape(4, 5, -1), (2, 1, 1)) for rows in (x, y)]
        return last(optim.sgd(0.1, 0.9), whole), last(optim.MultiSteps(optim.sgd(0.1, 0.9), 4), tuple(parts))

    one, other = jax.jit(both)(x, y)
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_3_1_zig_zag_of_steepest_descent_has_its_closed_form_rate():
    # From (κ, 1) on ½ (x² + κ y²), the worst start, every exact step keeps the ratio of the coordinates and turns the sign of one.
    def path(condition):
        return optim.minimize(
            lambda x: 0.5 * (x[0] ** 2 + condition * x[1] ** 2),
            jnp.stack([condition, 1.0]),
            method=optim.gradient_descent(optim.exact_quadratic()),
            max_iterations=40,
            history=True,
        ).history

    conditions = np.array([9.0, 100.0])
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(path))(jnp.asarray(conditions))
    rate = ((conditions - 1) / (conditions + 1))[:, None]
    np.testing.assert_allclose(found.value[:, 1:] / found.value[:, :-1], np.broadcast_to(rate**2, (2, 40)), rtol=1e-9)
    np.testing.assert_allclose(found.x[:, :, 1], (-rate) ** np.arange(41), rtol=1e-9)


@pytest.mark.parametrize("condition", [9.0, 100.0])
def test_3_1_momentum_cures_the_zig_zag_down_to_the_root_of_the_condition(condition):
    # Polyak (1964): at the best α and β every direction has one double root, ±ρ with ρ = (√κ-1)/(√κ+1), so that x_t = (1 + c t) (±ρ)ᵗ.
    curvature, steps = np.array([1.0, condition]), np.arange(61)
    rate = (np.sqrt(condition) - 1) / (np.sqrt(condition) + 1)
    step_size = 4 / (1 + np.sqrt(condition)) ** 2
    with jax.enable_x64(True):
        solver, x = optim.sgd(step_size, momentum=rate**2), jnp.ones(2)

        def one(carry, _):
            x, state = carry
            updates, state = solver.update(curvature * x, state, x)
            return (x + updates, state), x

        _, path = jax.lax.scan(one, (x, solver.init(x)), length=61)
    roots = np.array([rate, -rate])
    slopes = (1 - step_size * curvature) / roots - 1
    np.testing.assert_allclose(path, (1 + slopes * steps[:, None]) * roots ** steps[:, None], rtol=1e-6, atol=1e-12)
    # From the same start it is ahead of steepest descent, whose rate has κ in place of its root.
    assert np.abs(path[-1]).max() < 0.1 * ((condition - 1) / (condition + 1)) ** 60


def test_3_1_hypergradient_is_the_derivative_by_the_learning_rate():
    solver = optim.hypergradient(0.05, 0.01, optax.scale_by_adam())

    def fun(x):
        return (x**4).sum() + x[0] * x[1]

    x = jnp.array([1.0, -0.5])
    updates, state = solver.update(jax.grad(fun)(x), solver.init(x), x)
    slope = jax.grad(lambda rate: fun(x - rate * state.direction))(0.05)
    x = optax.apply_updates(x, updates)
    _, after = solver.update(jax.grad(fun)(x), state, x)
    assert after.learning_rate == pytest.approx(0.05 - 0.01 * float(slope), rel=1e-5)


def test_3_1_hypergradient_mends_a_rate_that_is_too_small():
    def last(solver):
        def one(carry, _):
            x, state = carry
            updates, state = solver.update(jax.grad(lambda x: (x**2).sum())(x), state, x)
            return (optax.apply_updates(x, updates), state), None

        x = jnp.ones(3)
        return jnp.abs(jax.lax.scan(one, (x, solver.init(x)), length=50)[0][0]).max()

    assert last(optim.hypergradient(1e-3, 1e-3)) < 0.1 * last(optim.sgd(1e-3))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"amsgrad: b1 must be in \[0, 1\), got 1"):
        optim.amsgrad(0.1, b1=1)
    with pytest.raises(ValueError, match=r"nadam: momentum_decay must be in \[0, inf\), got -1"):
        optim.nadam(0.1, momentum_decay=-1)
    with pytest.raises(ValueError, match=r"hypergradient: learning_rate must be in \[0, inf\), got -0.1"):
        optim.hypergradient(-0.1, 0.1)
    with pytest.raises(ValueError, match=r"adamw: learning_rate must be in \[0, inf\), got -0.1"):
        optim.adamw(-0.1)
    with pytest.raises(ValueError, match=r"sgd: learning_rate must be in \[0, inf\), got nan"):
        optim.sgd(momentum=0.9, learning_rate=float("nan"))
    with pytest.raises(ValueError, match=r"amsgrad: learning_rate must be in \[0, inf\), got -1"):
        optim.amsgrad(-1)
    with pytest.raises(ValueError, match=r"nadam: learning_rate must be in \[0, inf\), got -1"):
        optim.nadam(-1)
    with pytest.raises(AttributeError, match="neither dljax.optim nor optax has an attribute 'adamantium'"):
        _ = optim.adamantium


def test_rates_that_are_traced_or_schedules_pass():
    assert optim.adam is optim.adam
    step = jax.jit(lambda rate: optim.sgd(rate).update(jnp.ones(1), optim.sgd(rate).init(jnp.ones(1)))[0])
    assert float(step(0.5)[0]) == -0.5
    optim.sgd(optim.constant_schedule(0.1))
    optim.inject_hyperparams(optim.adam)(learning_rate=0.1).init(jnp.ones(2))
