"""Adversarial losses: the exact optima of the discrete game, and penalties of critics whose slopes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.spatial.distance import jensenshannon

from dljax.objectives.adversarial import gradient_penalty, hinge, least_squares, minimax, non_saturating, r1, wasserstein

REAL = np.repeat([0, 1, 2], [4, 3, 1])  # samples whose frequencies are exactly p = (4, 3, 1) / 8
FAKE = np.repeat([0, 1, 2], [1, 2, 5])
P, Q = np.array([4, 3, 1]) / 8, np.array([1, 2, 5]) / 8


def discriminator_loss(loss, table):
    return loss.discriminator(table[REAL], table[FAKE])


def test_the_optimal_discriminator_is_p_over_p_plus_q_and_the_game_is_worth_two_jsd_minus_log_four():
    best = jnp.asarray(np.log(P / Q))  # sigmoid⁻¹(p / (p + q))
    np.testing.assert_allclose(jax.grad(discriminator_loss, 1)(minimax, best), 0, atol=1e-6)
    assert np.linalg.eigvalsh(jax.hessian(discriminator_loss, 1)(minimax, best)).min() > 0
    jsd = jensenshannon(P, Q) ** 2
    assert -float(discriminator_loss(minimax, best)) == pytest.approx(2 * jsd - np.log(4), abs=1e-6)


def test_the_minimax_players_want_opposite_things_of_the_generated_examples():
    logits = jnp.array([-3.0, 0.0, 2.0])
    fake_part = lambda fake: minimax.discriminator(jnp.zeros(3), fake)  # noqa: E731
    np.testing.assert_allclose(jax.grad(fake_part)(logits), -jax.grad(lambda fake: minimax.generator(logits, fake))(logits), rtol=1e-6)


def test_logistic_losses_are_binary_cross_entropies():
    real, fake = jnp.array([2.0, -1.0]), jnp.array([0.5, -4.0])
    want = optax.sigmoid_binary_cross_entropy(real, jnp.ones(2)).mean() + optax.sigmoid_binary_cross_entropy(fake, jnp.zeros(2)).mean()
    for loss in (minimax, non_saturating):
        np.testing.assert_allclose(loss.discriminator(real, fake), want, rtol=1e-6)
    np.testing.assert_allclose(non_saturating.generator(real, fake), optax.sigmoid_binary_cross_entropy(fake, jnp.ones(2)).mean(), rtol=1e-6)


def test_the_non_saturating_gradient_lives_where_the_discriminator_wins():
    rejected = jnp.array([-20.0])
    assert abs(float(jax.grad(lambda fake: minimax.generator(rejected, fake))(rejected)[0])) < 1e-8
    assert float(jax.grad(lambda fake: non_saturating.generator(rejected, fake))(rejected)[0]) == pytest.approx(-1, abs=1e-6)


def test_least_squares_has_the_same_optimal_discriminator_without_the_sigmoid():
    np.testing.assert_allclose(jax.grad(discriminator_loss, 1)(least_squares, jnp.asarray(P / (P + Q))), 0, atol=1e-6)


def test_hand_worked_values():
    real, fake = jnp.array([2.0, 0.5]), jnp.array([-2.0, 0.0])
    assert float(hinge.discriminator(real, fake)) == pytest.approx((0 + 0.5) / 2 + (0 + 1) / 2)
    assert float(hinge.generator(real, fake)) == pytest.approx(1)
    assert float(wasserstein.discriminator(real, fake)) == pytest.approx(-1 - 1.25)
    assert float(wasserstein.generator(real, fake)) == pytest.approx(1)
    assert float(least_squares.discriminator(real, fake)) == pytest.approx(0.5 * ((1 + 0.25) / 2 + 4 / 2))
    assert float(least_squares.generator(real, fake)) == pytest.approx(0.5 * (9 + 1) / 2)


@pytest.mark.parametrize("loss", [minimax, non_saturating, least_squares, hinge, wasserstein])
def test_losses_ignore_the_order_of_examples_and_are_finite_at_extreme_logits(loss):
    real, fake = jnp.array([3.0, -200.0, 0.1]), jnp.array([200.0, 0.3, -2.0])
    for player in loss:
        np.testing.assert_allclose(player(real, fake), player(real[::-1], fake[::-1]), rtol=1e-6)
        assert bool(jnp.isfinite(player(real, fake)))


KEY = jax.random.key(0)
X, Y = np.random.default_rng(0).normal(size=(2, 6, 2, 2)).astype(np.float32)


def linear(slope):
    return lambda x: x.reshape(len(x), -1) @ jnp.asarray(slope)


def test_gradient_penalty_is_zero_where_the_norm_is_one_and_squared_distance_elsewhere():
    unit = np.array([0.5, -0.5, 0.5, 0.5], np.float32)
    assert float(gradient_penalty(10.0)(KEY, linear(unit), X, Y)) == pytest.approx(0, abs=1e-10)
    assert float(gradient_penalty(10.0)(KEY, linear(3 * unit), X, Y)) == pytest.approx(40, rel=1e-5)
    assert float(gradient_penalty(10.0, norm=0.0)(KEY, linear(3 * unit), X, Y)) == pytest.approx(90, rel=1e-5)


def test_gradient_penalty_looks_on_the_segments_between_real_and_generated():
    parabola = lambda x: 0.5 * jnp.square(x).sum(-1)  # its slope at x has length |x|  # noqa: E731
    real, fake = jnp.full((20_000, 1), 1.0), jnp.full((20_000, 1), 2.0)
    # E (|x̂| - 1)² for x̂ ~ U(1, 2)
    assert float(gradient_penalty(1.0)(KEY, parabola, real, fake)) == pytest.approx(1 / 3, abs=0.01)


def test_gradient_penalty_of_a_flat_critic_has_a_finite_gradient():
    value, slope = jax.value_and_grad(lambda a: gradient_penalty(2.0)(KEY, lambda x: a * x[:, 0], jnp.ones((3, 1)), jnp.ones((3, 1))))(0.0)
    assert float(value) == 2
    assert bool(jnp.isfinite(slope))


def test_r1_is_half_the_mean_squared_slope_on_real_examples():
    matrix = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    quadratic = lambda x: jnp.square(x.reshape(len(x), -1) @ matrix).sum(-1) / 2  # noqa: E731
    slopes = X.reshape(6, 4) @ matrix @ matrix.T
    assert float(r1(0.3)(KEY, quadratic, X, Y)) == pytest.approx(0.15 * np.square(slopes).sum(-1).mean(), rel=1e-4)


def test_penalty_weights_may_be_traced():
    weights = jnp.array([0.0, 1.0, 2.0])
    for penalty in (r1, gradient_penalty):
        np.testing.assert_allclose(
            jax.vmap(lambda w, penalty=penalty: penalty(w)(KEY, linear(np.ones(4)), X, Y))(weights),
            weights * penalty(1.0)(KEY, linear(np.ones(4)), X, Y),
            rtol=1e-6,
        )


@pytest.mark.parametrize(("penalty", "options"), [(r1, {"weight": -1.0}), (gradient_penalty, {"weight": -1.0}), (gradient_penalty, {"norm": -0.1})])
def test_negative_options_are_refused(penalty, options):
    with pytest.raises(ValueError, match=f"{penalty.__name__}: {next(iter(options))} must be in"):
        penalty(**options)
