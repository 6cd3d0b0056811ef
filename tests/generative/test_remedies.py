"""Remedies: what the discriminator is shown, packs, noise that fades, and all of them together in one step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from dljax.generative import Remedy, extragradient, gan, instance_noise, pack, packing, simultaneous, unrolled
from dljax.nn import MinibatchDeviation, spectral_norm
from dljax.objectives import ADVERSARIAL_LOSSES, non_saturating, wasserstein

# The Dirac-GAN: all generated examples at θ = 2, a discriminator of slope ψ = 0.5.
GENERATOR = (lambda key, z: jnp.float32(2.0), lambda theta, z: jnp.broadcast_to(theta, (len(z), 1)))
DISCRIMINATOR = (lambda key, x: jnp.float32(0.5), lambda psi, x: psi * x.sum(-1))
X = {"x": jnp.array([[1.0], [2.0], [3.0], [6.0]])}


def dirac(**options):
    return gan(GENERATOR, DISCRIMINATOR, optax.sgd(0.1), optax.sgd(0.1), latent_size=1, **options)


def one_step(learner, batch=X):
    return jax.jit(learner.step)(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)


def test_9_2_views_are_what_both_players_and_the_penalty_see_in_their_order():
    seen = []

    def penalty(key, critic, real, fake):
        seen.append((real.shape, fake.shape))
        return (real.sum() + 10 * fake.sum()).astype(jnp.float32)

    shift, double = Remedy(view=lambda key, steps, x: x + 1), Remedy(view=lambda key, steps, x: 2 * x)
    state, metrics = one_step(dirac(loss=wasserstein, penalty=penalty, remedies=[shift, double]))
    assert float(metrics["real_logit"]) == pytest.approx(0.5 * 2 * (3 + 1))
    assert float(metrics["fake_logit"]) == pytest.approx(0.5 * 2 * (2 + 1))
    assert float(metrics["penalty"]) == pytest.approx(2 * (12 + 4) + 10 * 2 * (8 + 4))
    assert set(seen) == {((4, 1), (4, 1))}
    psi = 0.5 - 0.1 * (6 - 8)
    assert float(state.generator.params) == pytest.approx(2 + 0.1 * 2 * psi, rel=1e-6)


def test_9_2_packs_are_judged_together():
    np.testing.assert_array_equal(pack(jnp.arange(12.0).reshape(3, 2, 2), 3), [[[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]])
    # Packs (1, 2) and (3, 6) against (θ, θ) and (θ, θ).
    state, metrics = one_step(dirac(loss=non_saturating, remedies=[packing(2)]))
    assert float(metrics["real_logit"]) == pytest.approx(0.5 * (3 + 9) / 2)
    assert float(metrics["fake_logit"]) == pytest.approx(0.5 * 4)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    slope = (-sigmoid(-1.5) * 3 - sigmoid(-4.5) * 9) / 2 + sigmoid(2.0) * 4
    assert float(state.discriminator.params) == pytest.approx(0.5 - 0.1 * slope, rel=1e-5)


def test_9_2_packing_tells_a_generator_without_variety_from_the_data():
    """Pairs of what repeats itself are told from pairs of the data even where each alone cannot be."""
    # One latent makes the whole batch: each example alone is distributed as the data, ±1 evenly.
    data, repeated = jnp.array([[0.25, 0.25], [0.25, 0.25]]), jnp.array([[0.5, 0.0], [0.0, 0.5]])
    alone = minimax_value(data.sum(0), repeated.sum(0))
    assert alone == pytest.approx(0, abs=1e-6)
    assert minimax_value(data.ravel(), repeated.ravel()) > 0.2


def minimax_value(p, q):
    loss = ADVERSARIAL_LOSSES["minimax"]
    logits = jnp.clip(loss.optimal(jnp.log(p) - jnp.log(q)), -50, 50)
    value = (p * jax.nn.log_sigmoid(logits)).sum() + (q * jax.nn.log_sigmoid(-logits)).sum()
    return float(value + jnp.log(4.0))


def test_9_2_instance_noise_fades_and_then_is_gone():
    remedy, x = instance_noise(0.5, steps=10), jnp.zeros((40_000, 1))
    for step, scale in ((0, 0.5), (4, 0.3), (10, 0.0), (15, 0.0)):
        noise = remedy.view(jax.random.key(step), jnp.int32(step), x)
        assert float(noise.std()) == pytest.approx(scale, abs=4 * 0.5 / np.sqrt(80_000))
    assert float(instance_noise(0.5).view(jax.random.key(0), jnp.int32(10**6), x).std()) == pytest.approx(0.5, abs=0.01)


def test_noise_differs_between_real_and_generated_examples_and_counts_the_generators_steps():
    step = jax.jit(dirac(loss=wasserstein, discriminator_steps=2, remedies=[instance_noise(1.0, steps=2)]).step)
    twos = {"x": jnp.full((4, 1), 2.0)}
    state, metrics = step(jax.random.key(1), dirac().init(jax.random.key(0), twos), twos)
    assert abs(float(metrics["real_logit"]) - float(metrics["fake_logit"])) > 0.01
    assert int(state.steps) == 1
    state, _ = step(jax.random.key(2), state, twos)
    # Two steps are over: there is no noise left, and nothing else in this game is drawn at random.
    (_, one), (_, other) = step(jax.random.key(3), state, twos), step(jax.random.key(4), state, twos)
    assert float(one["real_logit"]) == float(other["real_logit"])


def test_unrolling_by_nothing_is_the_plain_game():
    plain, remedied = one_step(dirac()), one_step(dirac(remedies=[unrolled(0, 0.1)]))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, plain, remedied))


def test_gradient_norms_of_both_players_are_reported():
    _, metrics = one_step(dirac(loss=wasserstein))
    assert float(metrics["discriminator_gradient"]) == pytest.approx(abs(2 - 3))
    assert float(metrics["generator_gradient"]) == pytest.approx(0.5 - 0.1 * (2 - 3), rel=1e-6)
    _, metrics = one_step(dirac(loss=wasserstein, remedies=[simultaneous()]))
    assert float(metrics["generator_gradient"]) == pytest.approx(0.5)


@pytest.mark.slow
def test_9_2_remedies_work_together_in_one_step():
    net = lambda *layers: linen.Sequential([linen.Dense(4), linen.tanh, *layers])  # noqa: E731
    discriminator = spectral_norm(net(MinibatchDeviation(), linen.Dense(1)))
    options = {"latent_size": 3, "loss": ADVERSARIAL_LOSSES["relativistic_average"], "average": 0.9}
    # A penalty, unrolling and consensus at once would be derivatives of the fourth order, and take minutes to compile.
    remedies = [instance_noise(0.1, 10), packing(2), unrolled(2, 0.1), extragradient()]
    learner = gan(net(linen.Dense(2)), discriminator, optax.adam(1e-2), optax.adam(1e-2), remedies=remedies, **options)
    batch = {"x": jax.random.normal(jax.random.key(9), (8, 2))}

    @jax.jit
    def run(key):
        step = lambda state, key: learner.step(key, state, batch)  # noqa: E731
        first = learner.init(key, batch)
        return first, jax.lax.scan(step, first, jax.random.split(key, 3))

    first, (last, metrics) = run(jax.random.key(0))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((last, metrics)))
    for player in ("generator", "discriminator"):
        old, new = (getattr(state, player).params for state in (first, last))
        assert bool((old["layers_0"]["kernel"] != new["layers_0"]["kernel"]).any())
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, first.discriminator.model_state, last.discriminator.model_state))
    assert int(last.steps) == 3


def test_bad_options_and_batches_are_refused():
    with pytest.raises(ValueError, match=r"instance_noise: scale must be in \[0, inf\), got nan"):
        instance_noise(np.nan)
    with pytest.raises(ValueError, match="instance_noise: steps must be >= 1, got 0"):
        instance_noise(1.0, 0)
    with pytest.raises(ValueError, match="packing: num must be >= 1, got 0"):
        packing(0)
    with pytest.raises(ValueError, match="packing: the batch of 4 examples must be divisible by num, got 3"):
        one_step(dirac(remedies=[packing(3)]))
    with pytest.raises(ValueError, match="gan: at most one of the remedies may say how the players move, got 2"):
        dirac(remedies=[simultaneous(), extragradient()])
    with pytest.raises(ValueError, match="gan: players that move at once have one step each; discriminator_steps must be 1, got 2"):
        dirac(remedies=[extragradient()], discriminator_steps=2)
    learner = gan(linen.Dense(2), linen.Sequential([MinibatchDeviation(), linen.Dense(1)]), optax.sgd(0.1), optax.sgd(0.1), latent_size=1)
    with pytest.raises(ValueError, match="MinibatchDeviation: the batch must have at least 2 examples to compare, got 1"):
        learner.init(jax.random.key(0), {"x": jnp.ones((1, 2))})
