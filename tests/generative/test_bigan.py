"""BiGAN: pairs that cannot be told apart where the encoder inverts the generator, and a step worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.generative import bigan
from dljax.objectives import minimax

# Both maps are linear, and the discriminator is any quadratic form of the pair: enough to tell every two normal distributions apart.
MATRIX = jnp.array([[2.0, 0.5], [-1.0, 1.5]])
INVERSE = jnp.linalg.inv(MATRIX)


def features(*pair):
    both = jnp.concatenate(pair, 1)
    upper = jnp.triu_indices(both.shape[1])
    return (both[:, :, None] * both[:, None])[:, *upper]


def linear(matrix):
    return (lambda key, x: matrix, lambda matrix, x: x @ matrix)


QUADRATIC = (lambda key, x, z: jnp.zeros(10), lambda psi, x, z: features(x, z) @ psi)


def value_against_the_best_discriminator(encoder, steps=150):
    learner = bigan(linear(MATRIX), linear(encoder), QUADRATIC, optax.sgd(0.0), optax.adam(0.02), latent_size=2, loss=minimax)

    def one(state, key):
        step_key, data_key = jax.random.split(key)
        return learner.step(step_key, state, {"x": jax.random.normal(data_key, (1000, 2)) @ MATRIX})

    start = learner.init(jax.random.key(0), {"x": jnp.zeros((1000, 2))})
    state, metrics = jax.lax.scan(one, start, jax.random.split(jax.random.key(1), steps))
    return metrics["discriminator_loss"][-50:].mean(), jnp.abs(state.discriminator.params).max()


def test_9_3_pairs_of_an_encoder_that_inverts_the_generator_cannot_be_told_apart():
    run = jax.jit(value_against_the_best_discriminator)
    value, largest = run(INVERSE)
    assert float(value) == pytest.approx(2 * np.log(2), abs=0.02)  # D = 1/2 everywhere, and V = -2 log 2
    assert float(largest) < 0.1
    # Codes of the right distribution that belong to other examples: only the pairs betray them.
    value, _ = run(-INVERSE)
    assert float(value) < 2 * np.log(2) - 0.3


def test_9_3_a_step_of_both_makers_is_the_hand_worked_one():
    """In one dimension G(z) = θ z, E(x) = φ x, D(x, z) = ψ x z: logits ψ φ x² and ψ θ z²."""
    product = (lambda key, x, z: jnp.float32(0.3), lambda psi, x, z: psi * (x * z)[:, 0])
    scaled = lambda start: (lambda key, x: jnp.float32(start), lambda factor, x: factor * x)  # noqa: E731
    learner = bigan(scaled(2.0), scaled(0.7), product, optax.sgd(0.1), optax.sgd(0.0), latent_size=1)
    batch = {"x": jnp.array([[1.0], [-2.0], [0.5]])}
    start = learner.init(jax.random.key(0), batch)
    state, metrics = jax.jit(learner.step)(jax.random.key(1), start, batch)
    # The makers' latents come from the step's second key.
    z = np.asarray(jax.random.normal(jax.random.split(jax.random.split(jax.random.key(1))[1], 5)[0], (3, 1)))[:, 0]
    x, sigmoid = np.asarray(batch["x"])[:, 0], lambda logit: 1 / (1 + np.exp(-logit))
    real, fake = 0.3 * 0.7 * x**2, 0.3 * 2 * z**2
    assert float(metrics["maker_loss"]) == pytest.approx(np.log1p(np.exp(real)).mean() + np.log1p(np.exp(-fake)).mean(), rel=1e-5)
    made = state.maker.params
    assert float(made["encoder"]) == pytest.approx(0.7 - 0.1 * (sigmoid(real) * 0.3 * x**2).mean(), rel=1e-5)
    assert float(made["generator"]) == pytest.approx(2 + 0.1 * (sigmoid(-fake) * 0.3 * z**2).mean(), rel=1e-5)
    params = learner.params(state)
    codes = learner.functions["encode"](jax.random.key(2), params, batch["x"])
    np.testing.assert_allclose(learner.functions["decode"](jax.random.key(2), params, codes), made["generator"] * made["encoder"] * batch["x"])
    np.testing.assert_allclose(learner.functions["discriminate"](jax.random.key(2), params, batch["x"], codes), 0.3 * x * codes[:, 0], rtol=1e-6)


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="bigan: latent_size must be >= 1, got 0"):
        bigan(linear(MATRIX), linear(MATRIX), QUADRATIC, optax.sgd(0.1), optax.sgd(0.1), latent_size=0)
    with pytest.raises(ValueError, match=r"bigan: the encoder must map \(4, 2\) to \(4, 2\), got \(4, 3\)"):
        bigan(linear(MATRIX), linear(jnp.ones((2, 3))), QUADRATIC, optax.sgd(0.1), optax.sgd(0.1), latent_size=2).init(
            jax.random.key(0), {"x": jnp.zeros((4, 2))}
        )
    with pytest.raises(ValueError, match=r"bigan: the generator must map \(4, 2\) to \(4, 3\), got \(4, 2\)"):
        bigan(linear(MATRIX), linear(jnp.ones((3, 2))), QUADRATIC, optax.sgd(0.1), optax.sgd(0.1), latent_size=2).init(
            jax.random.key(0), {"x": jnp.zeros((4, 3))}
        )
