"""Adversarial losses: the exact optima of the game on a finite space, what the generator then minimises, and the ends of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from dljax.objectives import (
    ADVERSARIAL_LOSSES,
    F_DIVERGENCES,
    AdversarialLoss,
    expected_losses,
    f_divergence,
    f_gan,
    hinge,
    js_divergence,
    kl_divergence,
    label_smoothing,
    least_squares,
    least_squares_loss,
    minimax,
    non_saturating,
    pearson,
    relativistic,
    relativistic_average,
    total_variation,
    wasserstein,
)

P, Q = np.array([0.4, 0.3, 0.15, 0.1, 0.05]), np.array([0.1, 0.2, 0.25, 0.05, 0.4])
SMOOTH = {name: loss for name, loss in ADVERSARIAL_LOSSES.items() if loss.optimal is not None and name not in ("hinge", "f_gan_total_variation")}
SMOOTH |= {"smoothed": label_smoothing(minimax, 0.2), "labels": least_squares_loss(fake=-0.5, real=0.9, wanted=1.0)}


@pytest.fixture(autouse=True)
def exact():
    with jax.enable_x64(True):
        yield


def lost(loss, logits, player=0):
    return expected_losses(loss, logits, jnp.asarray(P), jnp.asarray(Q))[player]


def best(loss):
    return loss.optimal(jnp.log(jnp.asarray(P / Q)))


def test_9_1_newton_on_the_logits_ends_at_the_best_discriminator_that_each_loss_names():
    @jax.jit
    def found():
        def newton(loss):
            objective = lambda logits: lost(loss, logits)  # noqa: E731
            step = lambda logits, _: (logits - jnp.linalg.solve(jax.hessian(objective)(logits), jax.grad(objective)(logits)), None)  # noqa: E731
            return jax.lax.scan(step, best(loss) + 0.2, None, length=12)[0]

        return {name: (newton(loss), best(loss)) for name, loss in SMOOTH.items()}

    for name, (logits, wanted) in found().items():
        np.testing.assert_allclose(logits, wanted, atol=1e-9, err_msg=name)


def test_9_1_no_other_discriminator_is_better():
    losses = {name: loss for name, loss in ADVERSARIAL_LOSSES.items() if loss.optimal is not None}
    size = 4 ** jnp.arange(-3, 3)
    noise = (size[:, None, None] * jax.random.normal(jax.random.key(0), (6, 30, 5))).reshape(-1, 5)

    @jax.jit
    def compared():
        def near(loss):
            around = jnp.clip(best(loss), -20, 20)[None] + noise
            return lost(loss, best(loss)), jax.vmap(lambda logits: lost(loss, logits))(around)

        return {name: near(loss) for name, loss in losses.items()}

    for name, (least, others) in compared().items():
        assert float(others.min()) >= float(least) - 1e-12, name


def test_9_1_the_best_discriminator_is_p_over_p_plus_q_and_minimax_is_worth_two_jsd_minus_log_four():
    np.testing.assert_allclose(jax.nn.sigmoid(best(minimax)), P / (P + Q), rtol=1e-14)
    assert -float(lost(minimax, best(minimax))) == pytest.approx(2 * jensenshannon(P, Q) ** 2 - np.log(4), abs=1e-14)
    np.testing.assert_allclose(best(least_squares), P / (P + Q), rtol=1e-14)
    np.testing.assert_allclose(jax.nn.sigmoid(best(label_smoothing(non_saturating, 0.1))), 0.9 * P / (P + Q), rtol=1e-14)


# What the generator's gradient is that of, where the discriminator is best and held.
MINIMISED = {
    "minimax": lambda p, q: 2 * js_divergence(p, q),
    "non_saturating": lambda p, q: kl_divergence(jnp.log(p), q) - 2 * js_divergence(p, q),
    "hinge": lambda p, q: 2 * total_variation(p, q),
    **{f"f_gan_{name}": lambda p, q, divergence=divergence: f_divergence(divergence, p, q) for name, divergence in F_DIVERGENCES.items()},
}


def test_9_1_against_the_best_discriminator_the_generators_gradient_is_that_of_the_divergence():
    p, weights = jnp.asarray(P), jnp.log(jnp.asarray(Q))

    @jax.jit
    def slopes():
        def of(name):
            loss, held = ADVERSARIAL_LOSSES[name], best(ADVERSARIAL_LOSSES[name])
            played = jax.grad(lambda weights: expected_losses(loss, held, p, jax.nn.softmax(weights))[1])(weights)
            return played, jax.grad(lambda weights: MINIMISED[name](p, jax.nn.softmax(weights)))(weights)

        return {name: of(name) for name in MINIMISED}

    for name, (played, wanted) in slopes().items():
        np.testing.assert_allclose(played, wanted, atol=1e-13, err_msg=name)


def test_9_1_hinge_and_least_squares_are_worth_total_variation_and_chi_squared():
    assert float(lost(hinge, best(hinge))) == pytest.approx(2 - np.abs(P - Q).sum(), abs=1e-14)
    logits, middle = best(pearson), (P + Q) / 2
    of_both = 2 * (lost(pearson, logits, 1) + (jnp.asarray(P) * jnp.square(logits)).sum() / 2)
    assert float(of_both) == pytest.approx(2 * (np.square(Q - middle) / middle).sum(), abs=1e-14)


def test_9_1_the_best_critic_of_slopes_up_to_one_earns_the_earth_movers_distance():
    places = np.array([0.0, 0.5, 2.0, 3.5, 4.0])
    rises = lambda slopes: jnp.concatenate([jnp.zeros(1), jnp.cumsum(slopes * jnp.diff(places))])  # noqa: E731
    earned = jax.jit(jax.vmap(lambda slopes: -lost(wasserstein, rises(slopes))))
    steepest = jnp.sign(jnp.cumsum(jnp.asarray(Q - P))[:-1])  # up wherever the generated mass is ahead
    others = jax.random.uniform(jax.random.key(0), (200, 4), minval=-1, maxval=1)
    found = earned(jnp.concatenate([steepest[None], others]))
    assert float(found[0]) == pytest.approx(wasserstein_distance(places, places, P, Q), abs=1e-14)
    assert float(found[1:].max()) <= float(found[0])


def test_9_1_relativistic_losses_look_only_at_differences_and_swap_with_the_roles():
    real, fake = jax.random.normal(jax.random.key(0), (2, 7))
    for pair in (relativistic(), relativistic(hinge), relativistic(pearson), relativistic_average(), relativistic_average(hinge)):
        np.testing.assert_allclose(pair.discriminator(real + 3, fake + 3), pair.discriminator(real, fake), rtol=1e-12)
        np.testing.assert_allclose(pair.generator(real, fake), pair.discriminator(fake, real), rtol=1e-12)
    bce = optax.sigmoid_binary_cross_entropy
    np.testing.assert_allclose(relativistic().discriminator(real, fake), bce(real - fake, jnp.ones(7)).mean(), rtol=1e-12)
    against = bce(real - fake.mean(), jnp.ones(7)).mean() + bce(fake - real.mean(), jnp.zeros(7)).mean()
    np.testing.assert_allclose(relativistic_average().discriminator(real, fake), against, rtol=1e-12)
    np.testing.assert_allclose(relativistic(hinge).discriminator(real, fake), np.maximum(0, 1 - (real - fake)).mean(), rtol=1e-12)
    np.testing.assert_allclose(relativistic(pearson).discriminator(real, fake), np.square(real - fake - 1).mean() / 2, rtol=1e-12)


def test_9_1_the_relativistic_discriminator_can_do_nothing_where_the_distributions_are_equal():
    half = lambda p, q: lambda logits: expected_losses(relativistic(), logits, jnp.asarray(p), jnp.asarray(q))[0]  # noqa: E731
    flat = jnp.zeros(5)
    assert float(half(P, P)(flat)) == pytest.approx(np.log(2))
    np.testing.assert_allclose(jax.grad(half(P, P))(flat), 0, atol=1e-15)  # convex: log 2 is the least
    assert float(half(P, Q)(0.5 * jnp.log(jnp.asarray(P / Q)))) < np.log(2) - 0.05


def test_the_minimax_players_want_opposite_things_of_the_generated_examples():
    logits = jnp.array([-3.0, 0.0, 2.0])
    fake_part = lambda fake: minimax.discriminator(jnp.zeros(3), fake)  # noqa: E731
    np.testing.assert_allclose(jax.grad(fake_part)(logits), -jax.grad(lambda fake: minimax.generator(logits, fake))(logits), rtol=1e-6)


def test_logistic_losses_are_binary_cross_entropies():
    real, fake, bce = jnp.array([2.0, -1.0]), jnp.array([0.5, -4.0]), optax.sigmoid_binary_cross_entropy
    for loss in (minimax, non_saturating):
        np.testing.assert_allclose(loss.discriminator(real, fake), bce(real, jnp.ones(2)).mean() + bce(fake, jnp.zeros(2)).mean(), rtol=1e-6)
    np.testing.assert_allclose(non_saturating.generator(real, fake), bce(fake, jnp.ones(2)).mean(), rtol=1e-6)
    smoothed = label_smoothing(minimax, 0.1).discriminator(real, fake)
    np.testing.assert_allclose(smoothed, bce(real, jnp.full(2, 0.9)).mean() + bce(fake, jnp.zeros(2)).mean(), rtol=1e-6)


def test_the_non_saturating_gradient_lives_where_the_discriminator_wins():
    rejected = jnp.array([-20.0])
    slope = lambda loss: float(jax.grad(lambda fake: loss.generator(rejected, fake))(rejected)[0])  # noqa: E731
    assert abs(slope(minimax)) < 1e-8
    assert slope(non_saturating) == pytest.approx(-1, abs=1e-6)
    assert abs(slope(f_gan("jensen_shannon"))) < 1e-8
    assert slope(f_gan("jensen_shannon", is_saturating=False)) == pytest.approx(-1, abs=1e-6)


def test_hand_worked_values():
    real, fake = jnp.array([2.0, 0.5]), jnp.array([-2.0, 0.0])
    assert float(hinge.discriminator(real, fake)) == pytest.approx((0 + 0.5) / 2 + (0 + 1) / 2)
    assert float(hinge.generator(real, fake)) == pytest.approx(1)
    assert float(wasserstein.discriminator(real, fake)) == pytest.approx(-1 - 1.25)
    assert float(wasserstein.generator(real, fake)) == pytest.approx(1)
    assert float(least_squares.discriminator(real, fake)) == pytest.approx(0.5 * ((1 + 0.25) / 2 + 4 / 2))
    assert float(least_squares.generator(real, fake)) == pytest.approx(0.5 * (9 + 1) / 2)


def test_9_1_every_loss_and_gradient_is_finite_at_logits_of_ten_thousand_in_float32():
    losses = dict(ADVERSARIAL_LOSSES) | {f"{name} not saturating": f_gan(name, is_saturating=False) for name in F_DIVERGENCES}
    ends = jnp.array([-1e4, -100.0, -31.0, 0.0, 31.0, 100.0, 1e4], jnp.float32)
    real, fake = (side.reshape(-1, 1) for side in jnp.meshgrid(ends, ends))

    @jax.jit
    def everything():
        one = lambda loss: [jax.vmap(jax.value_and_grad(player, (0, 1)))(real, fake) for player in (loss.discriminator, loss.generator)]  # noqa: E731
        return {name: one(loss) for name, loss in losses.items()}

    for name, values in everything().items():
        assert all(bool(jnp.isfinite(leaf).all()) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(values)), name


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"label_smoothing: amount must be in \[0, 1\), got 1"):
        label_smoothing(minimax, 1)
    with pytest.raises(ValueError, match="label_smoothing: loss must be minimax or non_saturating"):
        label_smoothing(hinge)
    with pytest.raises(ValueError, match="f_gan: divergence must be one of 'kl', .*, got 'lk'"):
        f_gan("lk")
    with pytest.raises(ValueError, match=r"least_squares_loss: real must be in \(-inf, inf\), got nan"):
        least_squares_loss(real=np.nan)
    assert isinstance(label_smoothing(minimax), AdversarialLoss)
