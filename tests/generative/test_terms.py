"""Conditions and terms of GANs: tables whose optimum is known, codes that can be enumerated, and steps worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import linen

from dljax.generative import (
    Round,
    Term,
    auxiliary_classification,
    categorical_code,
    coded,
    feature_matching,
    gan,
    mutual_information,
    normal_code,
    packing,
    reconstruction,
)
from dljax.objectives import r1


def finite_game(is_conditional, steps=400):
    """The best discriminator of a finite game: tables of x given y, every example of p and q in one batch as often as it is likely (in 8ths)."""
    p, q = np.array([[1, 7], [6, 2]]), np.array([[4, 4], [3, 5]])  # counts of x = 0, 1 given y = 0 and y = 1
    rows = [(np.repeat([0, 1], p[y]), np.repeat([0, 1], q[y]), np.full(8, y)) for y in (0, 1)]
    real, fake, y = (np.concatenate(part) for part in zip(*rows, strict=True))
    generator = (lambda key, z, given: jnp.zeros(()), lambda theta, z, given: given["fake"][:, None] + 0 * theta)

    def judge(psi, x, given):
        return psi[x[:, 0].astype(int), given["y"] if is_conditional else 0]

    learner = gan(generator, (lambda key, x, given: jnp.zeros((2, 2)), judge), optax.sgd(0.0), optax.sgd(2.0), latent_size=1)
    batch = {"x": jnp.asarray(real, float)[:, None], "context": {"y": jnp.asarray(y), "fake": jnp.asarray(fake, float)}}
    state = learner.init(jax.random.key(0), batch)
    run = jax.jit(lambda state: jax.lax.scan(lambda state, key: learner.step(key, state, batch), state, jax.random.split(jax.random.key(1), steps)))
    state, metrics = run(state)
    return np.asarray(state.discriminator.params), float(metrics["discriminator_loss"][-1]), p.T / 8, q.T / 8


def test_9_3_the_best_conditional_discriminator_compares_densities_given_the_label():
    with jax.enable_x64(True):
        logits, value, p, q = finite_game(is_conditional=True)
        np.testing.assert_allclose(logits, np.log(p / q), atol=1e-6)  # D* = p(x|y) / (p(x|y) + q(x|y))
        means = (p + q) / 2
        js = 0.5 * (p * np.log(p / means) + q * np.log(q / means)).sum(0)
        assert value == pytest.approx((2 * np.log(2) - 2 * js).mean(), abs=1e-9)
        # Without the label both are 7/16 and 9/16, and nothing can be told.
        logits, value, p, q = finite_game(is_conditional=False)
        np.testing.assert_allclose(logits[:, 0], np.log(p.mean(1) / q.mean(1)), atol=1e-6)
        np.testing.assert_allclose(logits[:, 0], 0, atol=1e-6)
        assert value == pytest.approx(2 * np.log(2), abs=1e-9)


# Examples are rows of a table, one a label; the discriminator's logit is 0, its further outputs are x @ W.
TABLE = (lambda key, z, y: jnp.array([[1.0, 0.0], [0.5, 2.0]]), lambda theta, z, y: theta[y] + 0 * z[:, :1])
HEAD = (lambda key, x, y: jnp.array([[1.0, -1.0], [0.5, 0.0]]), lambda psi, x, y: (0 * x[:, 0], x @ psi))
LABELLED = {"x": jnp.array([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]]), "context": jnp.array([0, 1, 1])}


def labelled(terms, **options):
    return gan(TABLE, HEAD, optax.sgd(0.1), optax.sgd(0.1), latent_size=1, terms=terms, **options)


def one_step(learner, batch=LABELLED):
    start = learner.init(jax.random.key(0), batch)
    return start, *jax.jit(learner.step)(jax.random.key(1), start, batch)


def test_9_3_a_step_of_an_auxiliary_classifier_gan_is_the_hand_worked_one():
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda x: x.astype(float) if x.ndim == 2 else x, LABELLED)
        start, state, metrics = one_step(labelled([auxiliary_classification(0.5)]), batch)
        x, y, w, theta = (np.asarray(part, float) for part in (batch["x"], batch["context"], start.discriminator.params, start.generator.params))
        target, fake = np.eye(2)[y.astype(int)], theta[y.astype(int)]

        def entropy_and_slope(x, w):
            p = np.exp(x @ w) / np.exp(x @ w).sum(1, keepdims=True)
            return -(target * np.log(p)).sum(1).mean(), (p - target) / len(x)

        (of_real, real_slope), (of_fake, fake_slope) = entropy_and_slope(x, w), entropy_and_slope(fake, w)
        assert float(metrics["discriminator_classification"]) == pytest.approx(0.5 * (of_real + of_fake), rel=1e-6)
        w = w - 0.1 * 0.5 * (x.T @ real_slope + fake.T @ fake_slope)
        np.testing.assert_allclose(state.discriminator.params, w, rtol=1e-6)
        of_fake, slope = entropy_and_slope(fake, w)
        assert float(metrics["generator_classification"]) == pytest.approx(0.5 * of_fake, rel=1e-6)
        np.testing.assert_allclose(state.generator.params, theta - 0.1 * 0.5 * target.T @ (slope @ w.T), rtol=1e-6)
        assert float(metrics["discriminator_loss"]) == pytest.approx(2 * np.log(2))


def test_9_3_reconstruction_moves_the_generator_to_the_examples_and_feature_matching_to_their_mean():
    start, state, metrics = one_step(labelled([reconstruction(3.0)]))
    theta, x = np.asarray(start.generator.params), np.asarray(LABELLED["x"])
    signs = np.sign(theta[[0, 1, 1]] - x) / x.size
    np.testing.assert_allclose(state.generator.params, theta - 0.1 * 3 * np.stack([signs[0], signs[1] + signs[2]]), rtol=1e-5)
    assert float(metrics["generator_reconstruction"]) == pytest.approx(3 * np.abs(theta[[0, 1, 1]] - x).mean(), rel=1e-6)
    assert "discriminator_reconstruction" not in metrics
    start, state, metrics = one_step(labelled([feature_matching()]))
    w = np.asarray(start.discriminator.params)
    apart = (x - theta[[0, 1, 1]]).mean(0) @ w
    assert float(metrics["generator_features"]) == pytest.approx(np.square(apart).sum(), rel=1e-5)
    slope = -2 * (w @ apart) / 3
    np.testing.assert_allclose(state.generator.params, theta - 0.1 * np.array([[1.0], [2.0]]) * slope, rtol=1e-4, atol=1e-6)


CHANNEL = np.array([[6, 1, 1], [2, 4, 2], [0, 2, 6]])  # x given c, in 8ths


def test_9_3_the_information_bound_is_exact_at_the_posterior_and_lower_elsewhere():
    with jax.enable_x64(True):
        code = categorical_code(3)
        c, x = (np.repeat(index.ravel(), CHANNEL.ravel()) for index in np.indices(CHANNEL.shape))
        latents = jnp.eye(3)[c] + 5.0
        joint = CHANNEL / 24
        independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        exact = (joint[joint > 0] * np.log((joint / independent)[joint > 0])).sum()
        term = mutual_information(code)

        @jax.jit
        def bound(table):
            return code.entropy - term.generator(Round(latents, None, None, None, None, table[x]))

        posterior = jnp.log(jnp.maximum(jnp.asarray((joint / joint.sum(0, keepdims=True)).T), 1e-300))
        assert float(bound(posterior)) == pytest.approx(exact, abs=1e-12)
        elsewhere = jax.vmap(bound)(posterior[None] + np.random.default_rng(0).normal(size=(200, 3, 3)))
        assert float(elsewhere.max()) < exact
        assert term.generator is term.discriminator


def test_9_3_a_categorical_code_is_even_and_written_where_it_is_read():
    code, z = categorical_code(4), jax.random.normal(jax.random.key(0), (40_000, 6))
    shares = np.bincount(code.read(z), minlength=4) / len(z)
    np.testing.assert_allclose(shares, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / len(z)))
    written = code.write(z)
    np.testing.assert_array_equal(code.read(written), code.read(z))
    np.testing.assert_array_equal(written[:, 4:], z[:, 4:])
    # What is left does not tell the code.
    assert abs(np.corrcoef(z[:, 4], code.read(z) == 0)[0, 1]) < 4 / np.sqrt(len(z))
    same = coded((lambda key, z, y: {}, lambda params, z, y: (z, y)), code)
    np.testing.assert_array_equal(same.apply({"params": {}}, z[:3], jnp.arange(3))[0][0], written[:3])


def test_9_3_a_normal_code_through_a_normal_channel_has_the_information_of_shannon():
    code, scale, num = normal_code(2), 0.7, 40_000
    z, noise = jax.random.normal(jax.random.key(0), (num, 3)), jax.random.normal(jax.random.key(1), (num, 2))
    x = z[:, :2] + scale * noise
    posterior = jnp.concatenate([x / (1 + scale**2), jnp.full_like(x, np.log(scale / np.sqrt(1 + scale**2)))], 1)
    values = code.log_posterior(posterior, code.read(z))
    want = scipy.stats.norm.logpdf(z[:, :2], x / (1 + scale**2), scale / np.sqrt(1 + scale**2)).sum(1)
    np.testing.assert_allclose(values, want, rtol=1e-4, atol=1e-4)
    assert float(code.entropy + values.mean()) == pytest.approx(2 * 0.5 * np.log(1 + 1 / scale**2), abs=4 * float(values.std()) / np.sqrt(num))


def test_9_3_patches_are_judged_each_on_its_own():
    patches = (lambda key, x: jnp.float32(0.5), lambda psi, x: (psi * x)[..., None])  # a logit a number
    maker = (lambda key, z: jnp.float32(1.0), lambda theta, z: jnp.broadcast_to(theta, (len(z), 2, 3)))
    learner = gan(maker, patches, optax.sgd(0.1), optax.sgd(0.1), latent_size=1, penalty=r1(1.0))
    batch = {"x": jax.random.normal(jax.random.key(3), (4, 2, 3))}
    start = learner.init(jax.random.key(0), batch)
    _, metrics = jax.jit(learner.step)(jax.random.key(1), start, batch)
    logits = 0.5 * np.asarray(batch["x"])
    assert float(metrics["discriminator_loss"]) == pytest.approx(np.log1p(np.exp(-logits)).mean() + np.log1p(np.exp(0.5)), rel=1e-5)
    # An example's logit is the mean of its patches: six slopes of 0.5 / 6.
    assert float(metrics["penalty"]) == pytest.approx(0.5 * 6 * (0.5 / 6) ** 2, rel=1e-5)
    judged = learner.functions["discriminate"](jax.random.key(2), learner.params(start), batch["x"])
    np.testing.assert_allclose(judged, logits.mean((1, 2)), rtol=1e-5, atol=1e-7)


class Linear(linen.Module):
    size: int

    @linen.compact
    def __call__(self, first, y):
        return linen.Dense(self.size)(jnp.concatenate([first, jax.nn.one_hot(y, 2)], 1))


def test_9_3_samples_are_of_the_contexts_asked_for_and_steps_see_their_own_parts():
    learner = gan(Linear(2), Linear(1), optax.sgd(0.1), optax.sgd(0.1), latent_size=3, discriminator_steps=3)
    _, state, metrics = one_step(learner)
    params, y = learner.params(state), jnp.array([0, 1, 1, 0])
    want = Linear(2).apply(params["generator"], jax.random.normal(jax.random.key(4), (4, 3)), y)
    np.testing.assert_allclose(learner.functions["sample"](jax.random.key(4), params, 4, y), want, rtol=1e-6)
    pair = LABELLED["x"], LABELLED["context"]
    np.testing.assert_allclose(
        learner.functions["discriminate"](jax.random.key(4), params, *pair), Linear(1).apply(params["discriminator"], *pair)[:, 0], rtol=1e-6
    )
    assert float(jax.jit(learner.functions["duality_gap"], static_argnums=3)(jax.random.key(5), params, pair[0], 1, pair[1])) >= 0
    assert all(np.isfinite(value) for value in metrics.values())


def test_bad_terms_and_contexts_are_refused():
    with pytest.raises(ValueError, match=r'names of their own, other than "loss" and "gradient", got .*classification'):
        labelled([auxiliary_classification(), auxiliary_classification()])
    with pytest.raises(ValueError, match="gan: terms must have names of their own"):
        labelled([Term("loss")])
    with pytest.raises(ValueError, match="auxiliary_classification: weight must be in"):
        auxiliary_classification(-1.0)
    with pytest.raises(ValueError, match="reconstruction: weight must be in"):
        reconstruction(-1.0)
    with pytest.raises(ValueError, match="feature_matching: weight must be in"):
        feature_matching(-1.0)
    with pytest.raises(ValueError, match="mutual_information: weight must be in"):
        mutual_information(normal_code(1), -1.0)
    with pytest.raises(ValueError, match="categorical_code: num must be >= 2, got 1"):
        categorical_code(1)
    with pytest.raises(ValueError, match="normal_code: num must be >= 1, got 0"):
        normal_code(0)
    batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), LABELLED)
    learner = labelled([], remedies=[packing(2)])
    with pytest.raises(ValueError, match="with a context no remedy may group examples, got 3 views of 6; leave out packing"):
        learner.step(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
    alone = Round(jnp.zeros((1, 3)), jnp.zeros(1, int), jnp.zeros((1, 2)), jnp.zeros((1, 2)), None, None)
    for term in (auxiliary_classification(), feature_matching(), mutual_information(normal_code(1))):
        with pytest.raises(ValueError, match="the discriminator must return a pair, logits and further outputs, got logits alone"):
            term.generator(alone)
