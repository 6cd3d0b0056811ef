"""VQ-VAE: pictures that are as many as the codes are told apart, and what a batch and a data set say of the codebook."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from dljax.core import evaluate
from dljax.generative.likelihoods import bernoulli_likelihood
from dljax.generative.vq_vae import vq_vae
from dljax.models.mlp import MLP

CENTERS = np.random.default_rng(0).normal(size=(6, 5)) * 2


def batch(num=240, noise=0.05):
    rng = np.random.default_rng(1)
    return {"x": jnp.asarray(CENTERS[np.arange(num) % 6] + noise * rng.normal(size=(num, 5)), jnp.float32)}


@pytest.fixture(scope="module")
def trained():
    learner = vq_vae(MLP(4, (16,)), MLP(5, (16,)), optax.adam(1e-2), num_codes=8, code_size=2, decay=0.9)

    @jax.jit
    def run(key):
        state = learner.init(key, batch())
        return jax.lax.scan(lambda state, key: learner.step(key, state, batch()), state, jax.random.split(key, 400))

    return learner, *run(jax.random.key(0))


def test_10_2_as_many_clusters_as_pairs_of_codes_can_name_are_told_apart(trained):
    learner, state, _ = trained
    params = learner.params(state)
    index = np.asarray(learner.functions["encode"](None, params, batch()["x"]))
    assert index.shape == (240, 2)  # two vectors of two numbers each
    names = [set(map(tuple, index[cluster::6])) for cluster in range(6)]
    assert all(not names[i] & names[j] for i in range(6) for j in range(i))
    error = np.square(learner.functions["reconstruct"](None, params, batch()["x"]) - batch()["x"]).sum(-1).mean()
    assert error < 0.05 * np.square(CENTERS - CENTERS.mean(0)).sum(-1).mean()


def test_10_2_codebook_use_of_a_ragged_set_is_counted_over_all_of_it(trained):
    learner, state, _ = trained
    data = batch(37)
    metrics = jax.jit(evaluate(learner.evaluate, batch_size=10))(jax.random.key(1), state, data)
    index = np.asarray(learner.functions["encode"](None, learner.params(state), data["x"]))
    shares = np.bincount(index.ravel(), minlength=8) / index.size
    assert float(metrics["codebook_use"].value) == pytest.approx((shares > 0).mean())
    assert float(metrics["perplexity"].value) == pytest.approx(np.exp(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()), rel=1e-5)
    error = np.square(learner.functions["reconstruct"](None, learner.params(state), data["x"]) - data["x"]).sum(-1).mean()
    assert float(metrics["reconstruction"].weight) == 37
    assert float(metrics["reconstruction"].value) == pytest.approx(error + 2.5 * np.log(np.pi), rel=1e-5)  # squared error and a constant


def test_10_2_the_step_is_that_of_the_loss_with_the_codes_held():
    """Linear encoder and decoder, by hand: the reconstruction's derivative passes the quantiser, the commitment's pulls to the code."""
    encoder = (lambda key, x: jnp.eye(2), lambda params, x: x @ params)
    decoder = (lambda key, z: 2 * jnp.eye(2), lambda params, z: z @ params)
    learner = vq_vae(encoder, decoder, optax.sgd(1.0), num_codes=3, code_size=2, commitment=0.25)
    x = jnp.asarray(np.random.default_rng(4).normal(size=(7, 2)), jnp.float32)

    @jax.jit
    def run(key):
        state = learner.init(key, {"x": x})
        index = learner.functions["encode"](key, learner.params(state), x)
        return learner.functions["decode"](key, learner.params(state), index) / 2, learner.step(key, state, {"x": x})

    codes, (after, metrics) = jax.tree.map(np.asarray, run(jax.random.key(0)))
    x = np.asarray(x)
    error = 2 * (2 * codes - x)
    np.testing.assert_allclose(after.params["decoder"], 2 * np.eye(2) - codes.T @ error / 7, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.params["encoder"], np.eye(2) - x.T @ (2 * error + 0.25 * 2 * (x - codes)) / 7, rtol=1e-4, atol=1e-5)
    assert float(metrics["commitment"]) == pytest.approx(np.square(x - codes).sum(-1).mean(), rel=1e-5)


def test_pictures_keep_their_places_and_binary_data_their_likelihood():
    learner = vq_vae(
        linen.Conv(3, (2, 2), (2, 2)),
        linen.ConvTranspose(1, (2, 2), (2, 2)),
        optax.sgd(0.1),
        num_codes=4,
        code_size=3,
        likelihood=bernoulli_likelihood,
    )
    x = jnp.ones((5, 4, 6, 1))

    @jax.jit
    def run(key):
        params = learner.params(learner.init(key, {"x": x}))
        index = learner.functions["encode"](key, params, x)
        return index, learner.functions["decode"](key, params, index)

    index, means = run(jax.random.key(0))
    assert index.shape == (5, 2, 3, 1)
    assert means.shape == x.shape
    assert 0 < float(means.min()) < float(means.max()) < 1


def test_bad_options_are_refused():
    def build(size=4, **options):
        return vq_vae(MLP(size, ()), MLP(5, ()), optax.sgd(0.1), **{"num_codes": 4, "code_size": 2} | options)

    with pytest.raises(ValueError, match="vq_vae: num_codes must be >= 2, got 1"):
        build(num_codes=1)
    with pytest.raises(ValueError, match="vq_vae: code_size must be >= 1, got 0"):
        build(code_size=0)
    with pytest.raises(ValueError, match=r"vq_vae: commitment must be in \[0, inf\), got -1"):
        build(commitment=-1)
    with pytest.raises(ValueError, match=r"vq_vae: decay must be in \[0, 1\), got 1"):
        build(decay=1)
    with pytest.raises(ValueError, match=r"vq_vae: the encoder must give features \[B, ..., G \* 2\], a multiple of code_size, got \(12, 3\)"):
        jax.eval_shape(build(3).init, jax.random.key(0), batch(12))
    with pytest.raises(ValueError, match=r"vq_vae: the decoder must map \(12, 4\) to \(12, 4\), got \(12, 5\)"):
        jax.eval_shape(build().init, jax.random.key(0), {"x": batch(12)["x"][:, :4]})
