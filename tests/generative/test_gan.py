"""GANs: the Dirac-GAN worked by hand, players that touch only their own parameters, and shards that agree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from dljax.core import bind_axis
from dljax.generative.gan import gan
from dljax.objectives import gradient_penalty, minimax, non_saturating, r1, wasserstein

# The Dirac-GAN (Mescheder et al., 2018): all real examples at 0, all generated ones at θ, and a discriminator of slope ψ.
DIRAC_GENERATOR = (lambda key, z: jnp.float32(2.0), lambda theta, z: jnp.broadcast_to(theta, (len(z), 1)))
DIRAC_DISCRIMINATOR = (lambda key, x: jnp.float32(0.5), lambda psi, x: psi * x[:, 0])
ZEROS = {"x": jnp.zeros((4, 1))}


def dirac(rate=0.1, **options):
    return gan(DIRAC_GENERATOR, DIRAC_DISCRIMINATOR, optax.sgd(rate), optax.sgd(rate), latent_size=1, **options)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_one_step_of_the_dirac_gan_is_the_hand_worked_one():
    learner = dirac(loss=non_saturating, penalty=r1(0.3), average=0.75)
    state, metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), ZEROS), ZEROS)
    psi = 0.5 - 0.1 * (sigmoid(0.5 * 2) * 2 + 0.3 * 0.5)
    theta = 2 + 0.1 * sigmoid(-psi * 2) * psi
    assert float(state.discriminator.params) == pytest.approx(psi, rel=1e-6)
    assert float(state.generator.params) == pytest.approx(theta, rel=1e-6)
    assert float(state.average) == pytest.approx(0.75 * 2 + 0.25 * theta, rel=1e-6)
    assert float(metrics["discriminator_loss"]) == pytest.approx(np.log(2) + np.log(1 + np.exp(1)), rel=1e-6)
    assert float(metrics["penalty"]) == pytest.approx(0.3 / 2 * 0.25, rel=1e-6)
    assert (float(metrics["real_logit"]), float(metrics["fake_logit"])) == (0, 1)
    assert float(metrics["generator_loss"]) == pytest.approx(np.log(1 + np.exp(-psi * 2)), rel=1e-6)


def test_9_2_samples_come_from_the_average_and_judgements_from_the_discriminator():
    learner = dirac(average=0.9)
    state, _ = learner.step(jax.random.key(1), learner.init(jax.random.key(0), ZEROS), ZEROS)
    params = learner.params(state)
    np.testing.assert_allclose(learner.functions["sample"](jax.random.key(2), params, 3), jnp.full((3, 1), state.average))
    x = jnp.array([[1.0], [2.0]])
    np.testing.assert_allclose(learner.functions["discriminate"](jax.random.key(2), params, x), state.discriminator.params * x[:, 0])


def test_each_discriminator_step_sees_its_own_part_of_the_batch():
    learner = dirac(loss=wasserstein, discriminator_steps=2)
    state, metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), ZEROS), {"x": jnp.array([[1.0], [1.0], [5.0], [5.0]])})
    psi = 0.5 + 0.1 * (1 - 2) + 0.1 * (5 - 2)
    assert float(state.discriminator.params) == pytest.approx(psi, rel=1e-6)
    assert float(state.generator.params) == pytest.approx(2 + 0.1 * psi, rel=1e-6)
    assert float(metrics["real_logit"]) == pytest.approx((0.5 * 1 + 0.4 * 5) / 2)


def test_9_2_the_dirac_gan_circles_without_a_penalty_and_converges_with_one():
    def distance(penalty, steps=600):
        learner = dirac(loss=minimax, penalty=penalty)
        state = learner.init(jax.random.key(0), ZEROS)
        state, _ = jax.lax.scan(lambda state, key: learner.step(key, state, ZEROS), state, jax.random.split(jax.random.key(1), steps))
        return float(jnp.hypot(state.generator.params, state.discriminator.params))

    assert distance(None) > 1
    assert distance(r1(0.5)) < 1e-3


class Net(linen.Module):
    size: int

    @linen.compact
    def __call__(self, x):
        return linen.Dense(self.size)(linen.tanh(linen.Dense(4)(x)))


def small(generator_optimizer=None, discriminator_optimizer=None, **options):
    return gan(Net(2), Net(1), generator_optimizer or optax.sgd(0.1), discriminator_optimizer or optax.sgd(0.1), latent_size=3, **options)


BATCH = {"x": jax.random.normal(jax.random.key(9), (8, 2))}


@pytest.mark.parametrize("loss", [minimax, wasserstein])
def test_each_player_moves_only_its_own_parameters(loss):
    still = optax.set_to_zero()
    for options, moving, resting in [
        ({"generator_optimizer": still}, "discriminator", "generator"),
        ({"discriminator_optimizer": still}, "generator", "discriminator"),
    ]:
        learner = small(loss=loss, penalty=gradient_penalty(1.0), **options)
        before = learner.init(jax.random.key(0), BATCH)
        after, _ = jax.jit(learner.step)(jax.random.key(1), before, BATCH)
        same = jax.tree.map(lambda old, new: bool((old == new).all()), before._asdict(), after._asdict())
        assert all(jax.tree.leaves(same[resting].params))
        # The last bias of a Wasserstein critic has no gradient: a constant changes nothing.
        assert not any(leaf for leaf in jax.tree.leaves(same[moving].params)[1:])


def test_shards_keep_equal_parameters_and_draw_different_noise():
    learner = small(penalty=gradient_penalty(1.0))
    state = learner.init(jax.random.key(0), BATCH)
    shards = {"x": jnp.broadcast_to(BATCH["x"][None], (4, 8, 2))}
    with bind_axis("data"):
        states, metrics = jax.jit(jax.vmap(learner.step, (None, None, 0), axis_name="data"))(jax.random.key(1), state, shards)
    for leaf in jax.tree.leaves(states):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    assert len(set(metrics["fake_logit"].tolist())) == 4
    assert np.ptp(metrics["real_logit"]) == pytest.approx(0, abs=1e-6)


def test_learning_rates_penalties_and_averages_may_be_traced():
    def final(rate, weight, average):
        learner = small(optax.adam(rate), optax.adam(2 * rate), penalty=r1(weight), average=average)
        state = learner.init(jax.random.key(0), BATCH)
        state, metrics = learner.step(jax.random.key(1), state, BATCH)
        return state.average, metrics["penalty"]

    options = jnp.array([1e-3, 1e-2]), jnp.array([0.1, 1.0]), jnp.array([0.0, 0.9])
    together = jax.jit(jax.vmap(final))(*options)
    for member in range(2):
        alone = jax.jit(final)(*(option[member] for option in options))
        for many, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(many[member], one, rtol=1e-4, atol=1e-6)


class NormalisedNet(linen.Module):
    size: int

    @linen.compact
    def __call__(self, x, train: bool = False):
        return linen.Dense(self.size)(linen.BatchNorm(use_running_average=not train, momentum=0.5)(x))


def test_running_statistics_of_both_players_are_learned_and_used_by_samples():
    learner = gan(NormalisedNet(2), NormalisedNet(1), optax.sgd(0.0), optax.sgd(0.0), latent_size=3)
    batch = {"x": BATCH["x"] + 10}
    state, _ = jax.jit(learner.step)(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
    # At momentum 1/2 the generated batch, whose mean is 0 behind a batch norm, halves what the real batch left.
    mean = state.discriminator.model_state["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, batch["x"].mean(0) / 4, rtol=1e-4)
    assert float(jnp.abs(state.generator.model_state["batch_stats"]["BatchNorm_0"]["mean"]).min()) > 0
    params = learner.params(state)
    want = NormalisedNet(2).apply(params["generator"], jax.random.normal(jax.random.key(2), (5, 3)))
    np.testing.assert_allclose(learner.functions["sample"](jax.random.key(2), params, 5), want, rtol=1e-5)


def test_bad_options_and_shapes_are_refused():
    with pytest.raises(ValueError, match="gan: latent_size must be >= 1, got 0"):
        gan(Net(2), Net(1), optax.sgd(0.1), optax.sgd(0.1), latent_size=0)
    with pytest.raises(ValueError, match="gan: discriminator_steps must be >= 1, got 0"):
        small(discriminator_steps=0)
    with pytest.raises(ValueError, match=r"gan: average must be in \[0, 1\), got 1.0"):
        small(average=1.0)
    with pytest.raises(ValueError, match=r"generator must make examples of the data's shape \(5,\), got \(2,\)"):
        small().init(jax.random.key(0), {"x": jnp.ones((8, 5))})
    learner = small(discriminator_steps=3)
    with pytest.raises(ValueError, match="batch of 8 examples must be divisible by discriminator_steps, got 3"):
        learner.step(jax.random.key(1), learner.init(jax.random.key(0), BATCH), BATCH)
    learner = gan(Net(2), Net(2), optax.sgd(0.1), optax.sgd(0.1), latent_size=3)
    with pytest.raises(ValueError, match=r"one logit an example, \[8\] or \[8, 1\], got \(8, 2\)"):
        learner.step(jax.random.key(1), learner.init(jax.random.key(0), BATCH), BATCH)
