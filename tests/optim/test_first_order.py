"""First-order methods: 100 steps as PyTorch makes them, and learning rates that learn."""

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


def trajectory(solver, params, x, y):
    def loss(params):
        return jnp.square(jnp.tanh(x @ params["a"] + params["b"][None]) @ params["c"] - y).mean()

    def one(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = solver.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.lax.scan(one, (params, solver.init(params)), length=100)
    return params, losses


def test_3_1_hundred_steps_are_those_of_torch():
    with jax.enable_x64(True):
        start = {name: jnp.asarray(GOLDEN[f"start/{name}"]) for name in "abc"}

        @jax.jit
        def all_of_them(start, x, y):
            return {name: trajectory(build(), start, x, y) for name, build in METHODS.items()}

        for name, (params, losses) in all_of_them(start, GOLDEN["x"], GOLDEN["y"]).items():
            np.testing.assert_allclose(losses, GOLDEN[f"{name}/losses"], rtol=1e-5, err_msg=name)
            for leaf in "abc":
                np.testing.assert_allclose(params[leaf], GOLDEN[f"{name}/{leaf}"], rtol=1e-5, atol=1e-8, err_msg=f"{name} {leaf}")


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


def test_hypergradient_mends_a_rate_that_is_too_small():
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
    with pytest.raises(AttributeError, match="neither dljax.optim nor optax has an attribute 'adamantium'"):
        _ = optim.adamantium
