"""Games small enough to work by hand: Jacobians, the factor by which each order of moves grows or shrinks, gaps in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.generative import Game, consensus, duality_gap, extragradient, gan, simultaneous, unrolled
from dljax.generative.games import gradients
from dljax.objectives import wasserstein

ETA = 0.3


@pytest.fixture(autouse=True)
def exact():
    with jax.enable_x64(True):
        yield


def test_9_2_consensus_adds_the_transposed_jacobian_times_the_field():
    # No zero-sum game, and no quadratic one.
    up = lambda theta, psi: (jnp.sin(theta @ psi) + jnp.sum(theta**3) / 5, "up")  # noqa: E731
    down = lambda theta, psi: (jnp.cos(psi[0] * theta[1]) - jnp.exp(theta @ psi / 4) + jnp.sum(psi**4), "down")  # noqa: E731
    game, gamma = Game(up, down), 0.7

    def field(game, point):
        (first, _), (second, _) = gradients(game, point[:2], point[2:])
        return jnp.concatenate([first, second])

    point = jnp.array([0.3, -0.8, 0.5, 1.1])
    plain, jacobian = field(game, point), jax.jacobian(lambda point: field(game, point))(point)
    remedied = consensus(gamma).game(game)
    np.testing.assert_allclose(field(remedied, point), plain + gamma * jacobian.T @ plain, rtol=1e-12)
    assert [auxiliary for _, auxiliary in gradients(remedied, point[:2], point[2:])] == ["up", "down"]
    assert np.abs(gamma * jacobian.T @ plain).min() > 0.01


# The Dirac-GAN with a linear critic is the bilinear game θψ: real examples at 0, generated ones at θ, a critic of slope ψ.
GENERATOR = (lambda key, z: jnp.ones(()), lambda theta, z: jnp.broadcast_to(theta, (len(z), 1)))
CRITIC = (lambda key, x: jnp.ones(()), lambda psi, x: psi * x[:, 0])


def radii(*remedies, steps=40):
    """The distance from the equilibrium at the start and after each step."""
    learner = gan(GENERATOR, CRITIC, optax.sgd(ETA), optax.sgd(ETA), latent_size=1, loss=wasserstein, remedies=remedies)
    zeros = {"x": jnp.zeros((2, 1))}

    def step(state, key):
        state, _ = learner.step(key, state, zeros)
        return state, jnp.hypot(state.generator.params, state.discriminator.params)

    first = learner.init(jax.random.key(0), zeros)
    return jnp.append(jnp.sqrt(2.0), jax.jit(lambda state: jax.lax.scan(step, state, jax.random.split(jax.random.key(1), steps)))(first)[1])


def test_9_2_simultaneous_steps_leave_the_bilinear_game_by_their_spectral_radius():
    np.testing.assert_allclose(radii(simultaneous()), np.sqrt(2) * np.sqrt(1 + ETA**2) ** np.arange(41), rtol=1e-10)


def test_9_2_alternating_steps_go_round():
    found = radii(steps=400)
    assert 0.5 < float(found.min()) < float(found.max()) < 3


def test_9_2_extragradient_converges_by_its_spectral_radius():
    # I - ηA + η²A², A² = -I: eigenvalues 1 - η² ± iη
    np.testing.assert_allclose(radii(extragradient()), np.sqrt(2) * np.hypot(1 - ETA**2, ETA) ** np.arange(41), rtol=1e-10)


def test_9_2_consensus_converges_by_its_spectral_radius():
    # v + γ Jᵀ v = (A + γ I) ω: eigenvalues 1 - ηγ ± iη
    np.testing.assert_allclose(radii(consensus(0.8), simultaneous()), np.sqrt(2) * np.hypot(1 - 0.8 * ETA, ETA) ** np.arange(41), rtol=1e-10)


def test_9_2_unrolling_differentiates_through_the_steps_ahead():
    # The discriminator goes to ψ = θ, from ψ_0 by 1 - r each step: ψ_k = r^k ψ_0 + (1 - r^k) θ.
    game = Game(lambda theta, psi: (theta * psi, ()), lambda theta, psi: (psi**2 / 2 - theta * psi, ()))
    theta, psi = 1.5, -0.4
    for num_steps in (0, 1, 7):
        remedied = unrolled(num_steps, ETA).game(game)
        left = (1 - ETA) ** num_steps
        ahead = left * psi + (1 - left) * theta
        value, slope = jax.value_and_grad(lambda theta, remedied=remedied: remedied.generator(theta, psi)[0])(theta)
        assert float(value) == pytest.approx(theta * ahead, rel=1e-12)
        assert float(slope) == pytest.approx(ahead + theta * (1 - left), rel=1e-12)
        assert remedied.discriminator is game.discriminator


def test_9_2_the_duality_gap_is_the_closed_form_and_zero_at_the_equilibrium_alone():
    # f(x, y) = x²/2 + a x y - y²/2: max_y f - min_x f = (x² + y²)(1 + a²)/2
    a = 1.7
    value = lambda x, y: x**2 / 2 + a * x * y - y**2 / 2  # noqa: E731
    saddle = Game(lambda x, y: (value(x, y), ()), lambda x, y: (-value(x, y), ()))
    gap = jax.jit(lambda x, y: duality_gap(saddle, x, y, optax.sgd(0.4), optax.sgd(0.4), num_steps=60))
    for x, y in ((1.0, -0.5), (0.2, 2.0)):
        assert float(gap(x, y)) == pytest.approx((x**2 + y**2) * (1 + a**2) / 2, rel=1e-10)
    assert float(gap(0.0, 0.0)) == 0


def test_9_2_the_gap_of_a_gan_is_zero_where_both_players_can_do_no_better():
    learner = gan(GENERATOR, CRITIC, optax.sgd(0.1), optax.sgd(0.1), latent_size=1, loss=wasserstein)
    gap = jax.jit(lambda theta, psi: learner.functions["duality_gap"](
        jax.random.key(0), {"generator": {"params": theta}, "discriminator": {"params": psi}}, jnp.zeros((4, 1)), 10
    ))  # fmt: skip
    assert float(gap(jnp.zeros(()), jnp.zeros(()))) == 0
    # Each of ten steps of 0.1 along a slope of θ and of ψ: θ² for the critic, ψ² for the generator.
    assert float(gap(jnp.float64(2.0), jnp.float64(0.5))) == pytest.approx(2.0**2 + 0.5**2, rel=1e-12)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"consensus: weight must be in \[0, inf\), got -1.0"):
        consensus(-1.0)
    with pytest.raises(ValueError, match="unrolled: num_steps must be >= 0, got -1"):
        unrolled(-1, 0.1)
    with pytest.raises(ValueError, match=r"unrolled: learning_rate must be in \(0, inf\), got nan"):
        unrolled(1, np.nan)
    with pytest.raises(ValueError, match="duality_gap: num_steps must be >= 0, got -1"):
        duality_gap(Game(lambda x, y: (x, ()), lambda x, y: (y, ())), 1.0, 1.0, optax.sgd(0.1), optax.sgd(0.1), num_steps=-1)
