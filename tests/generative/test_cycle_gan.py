"""CycleGAN: cycles that close, and a step worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.generative import cycle_gan
from dljax.objectives import wasserstein

SLOPE = (lambda key, x: jnp.float32(0.5), lambda psi, x: psi * x[:, 0])


def linear(matrix):
    return (lambda key, x: matrix, lambda matrix, x: x @ matrix)


def test_9_3_the_cycle_of_inverse_maps_costs_nothing_and_of_others_what_is_missing():
    with jax.enable_x64(True):
        matrix = jax.random.normal(jax.random.key(0), (3, 3)) + 2 * jnp.eye(3)
        batch = {"x": jax.random.normal(jax.random.key(1), (6, 3)), "y": jax.random.normal(jax.random.key(2), (6, 3))}

        @jax.jit
        def metrics(backward):
            learner = cycle_gan(linear(matrix), linear(backward), SLOPE, SLOPE, optax.sgd(0.0), optax.sgd(0.0), identity_weight=1.0)
            return learner.step(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)[1]

        assert float(metrics(jnp.linalg.inv(matrix))["cycle_loss"]) == pytest.approx(0, abs=1e-12)
        other, (x, y) = metrics(jnp.eye(3)), (np.asarray(batch[name]) for name in "xy")
        forward = np.asarray(matrix)
        assert float(other["cycle_loss"]) == pytest.approx(np.abs(x @ forward - x).mean() + np.abs(y @ forward - y).mean(), rel=1e-12)
        assert float(other["identity_loss"]) == pytest.approx(np.abs(y @ forward - y).mean(), rel=1e-12)


def test_9_3_a_step_of_both_maps_is_the_hand_worked_one():
    """G(x) = θ x, F(y) = φ y, critics of slope 0.5 and the Wasserstein loss, all numbers positive."""
    scaled = lambda start: (lambda key, x: jnp.float32(start), lambda factor, x: factor * x)  # noqa: E731
    batch = {"x": jnp.array([[1.0], [3.0]]), "y": jnp.array([[4.0], [2.0]])}
    learner = cycle_gan(scaled(3.0), scaled(0.5), SLOPE, SLOPE, optax.sgd(0.01), optax.sgd(0.1), loss=wasserstein, cycle_weight=2.0)
    state, metrics = jax.jit(learner.step)(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
    # D_Y: E D(G x) - E D(y) = ψ (3·2 - 3); D_X: ψ (0.5·3 - 2).
    assert float(metrics["discriminator_loss"]) == pytest.approx(0.5 * 3 - 0.5 * 0.5)
    psi_y, psi_x = 0.5 - 0.1 * 3, 0.5 + 0.1 * 0.5
    critics = state.discriminators.params
    assert [float(critics[name]) for name in ("y_discriminator", "x_discriminator")] == pytest.approx([psi_y, psi_x])
    # θ φ = 1.5 > 1: both cycles overshoot by 0.5 of means 2 and 3.
    assert float(metrics["cycle_loss"]) == pytest.approx(0.5 * (2 + 3))
    theta = 3 - 0.01 * (-psi_y * 2 + 2 * 0.5 * (2 + 3))
    phi = 0.5 - 0.01 * (-psi_x * 3 + 2 * 3 * (2 + 3))
    assert [float(state.maps.params[name]) for name in ("forward", "backward")] == pytest.approx([theta, phi], rel=1e-6)
    assert float(metrics["map_loss"]) == pytest.approx(-psi_y * 6 - psi_x * 1.5, rel=1e-6)
    params = learner.params(state)
    np.testing.assert_allclose(learner.functions["forward"](jax.random.key(0), params, batch["x"]), theta * batch["x"], rtol=1e-6)
    np.testing.assert_allclose(learner.functions["backward"](jax.random.key(0), params, batch["y"]), phi * batch["y"], rtol=1e-6)


def test_bad_weights_and_shapes_are_refused():
    options = (SLOPE, SLOPE, optax.sgd(0.1), optax.sgd(0.1))
    with pytest.raises(ValueError, match="cycle_gan: cycle_weight must be in"):
        cycle_gan(linear(jnp.eye(2)), linear(jnp.eye(2)), *options, cycle_weight=-1.0)
    with pytest.raises(ValueError, match="cycle_gan: identity_weight must be in"):
        cycle_gan(linear(jnp.eye(2)), linear(jnp.eye(2)), *options, identity_weight=-1.0)
    with pytest.raises(ValueError, match=r"cycle_gan: backward must map \(4, 3\) to \(4, 2\), got \(4, 3\)"):
        cycle_gan(linear(jnp.ones((2, 3))), linear(jnp.eye(3)), *options).init(jax.random.key(0), {"x": jnp.zeros((4, 2)), "y": jnp.zeros((4, 3))})
