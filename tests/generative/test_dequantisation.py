"""Dequantisation on an alphabet so small that every probability is an integral that quadrature takes: the bound and what it bounds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax import generative as g

K = 3
PAIRS = np.array(list(itertools.product(range(K), repeat=2)), np.int32)
BEHIND = g.chain(g.act_norm(), g.affine_coupling(max_log_scale=0.5, hidden=(4,)))
NOISE = g.repeat(g.affine_coupling(max_log_scale=0.5, hidden=(4,)), 2)


def perturbed(params, scale=0.4):
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + scale * rng.normal(size=leaf.shape)), params)


@pytest.mark.parametrize("noise", [None, NOISE], ids=["uniform", "variational"])
def test_10_4_the_bound_of_dequantised_numbers_is_at_most_their_exact_probability(noise):
    """P(x) is the integral of the density over the cell of x; exp of the estimate is unbiased for it; the estimate's mean lies below its log."""
    bijector = g.chain(g.dequantise(K, noise), g.logit(0.1), BEHIND)
    with jax.enable_x64(True):
        draws = 4000
        params = perturbed(bijector.init(jax.random.key(0), jnp.asarray(PAIRS)))
        # Cells behind the logit, where the density is smooth. The margin keeps the density before it bounded, and so the weights.
        nodes, weights = np.polynomial.legendre.leggauss(40)
        ends = 0.1 + 0.8 * np.arange(K + 1) / K
        ends = np.log(ends / (1 - ends))
        places = ends[:-1, None] + np.diff(ends)[:, None] * (nodes + 1) / 2
        shares = np.diff(ends)[:, None] * weights / 2
        cells = np.stack([np.stack(np.meshgrid(places[i], places[j], indexing="ij"), -1).reshape(-1, 2) for i, j in PAIRS])
        share = np.stack([np.outer(shares[i], shares[j]).reshape(-1) for i, j in PAIRS])
        behind = g.pushforward(BEHIND, g.fixed(g.standard_normal((2,))))
        whole = g.pushforward(bijector, g.fixed(g.standard_normal((2,))))

        @jax.jit
        def everything(keys):
            log_probs = jax.vmap(jax.vmap(lambda place: behind.log_prob({"base": (), "bijector": params[2]}, place)))(jnp.asarray(cells))
            exact = (jnp.exp(log_probs) * share).sum(1)
            bounds = jax.vmap(lambda x: jax.vmap(lambda key: whole.estimate(key, {"base": (), "bijector": params}, x))(keys))(jnp.asarray(PAIRS))
            return exact, bounds

        exact, bounds = map(np.asarray, everything(jax.random.split(jax.random.key(2), draws)))
    assert 0.5 < exact.sum() < 1  # the rest lies in the margin
    weights = np.exp(bounds)
    assert (np.abs(weights.mean(1) - exact) < 4 * weights.std(1) / np.sqrt(draws) + 1e-6).all()
    assert (bounds.mean(1) < np.log(exact)).all()
    # Of sixteen samples, it is tighter.
    of_16 = jax.nn.logsumexp(bounds.reshape(len(PAIRS), -1, 16), axis=2) - np.log(16)
    assert (of_16.mean(1) > bounds.mean(1)).all()
    assert (of_16.mean(1) <= np.log(exact) + 4 * of_16.std(1) / np.sqrt(draws / 16)).all()


def test_10_4_what_is_dequantised_is_rounded_to_what_it_was_and_nothing_outside_has_probability():
    layer = g.dequantise(K, NOISE)
    params = perturbed(layer.init(jax.random.key(0), jnp.asarray(PAIRS)))

    @jax.jit
    def there_and_back(key, x):
        y, log_det = layer.estimate(key, params, x)
        return layer.forward(params, y)[0], log_det

    for number, x in enumerate(PAIRS):
        back, log_det = there_and_back(jax.random.key(number), x)
        assert back.tolist() == x.tolist()
        assert np.isfinite(log_det)
    for outside in ([0, K], [-1, 0]):
        assert there_and_back(jax.random.key(0), jnp.array(outside, jnp.int32))[1] == -jnp.inf


def test_10_4_a_learner_of_dequantised_numbers_evaluates_the_bound():
    learner = g.flow(g.chain(g.dequantise(256), g.act_norm()), optax.sgd(0.1), size=(2,))
    batch = {"x": jnp.array([[0, 255], [3, 7], [100, 200]], jnp.uint8)}
    state = learner.init(jax.random.key(0), batch)
    state, metrics = jax.jit(learner.step)(jax.random.key(1), state, batch)
    acc = learner.evaluate.step(learner.evaluate.init(jax.random.key(2), state), state, batch)
    assert 0 < float(metrics["nll"]) < 2 * np.log(256) + 3
    assert np.isfinite(learner.evaluate.finish(acc)["nll"].value)
    assert learner.functions["sample"](jax.random.key(3), learner.params(state), 4).dtype == jnp.int32


def test_bad_data_are_refused():
    with pytest.raises(ValueError, match="dequantise: num_values must be >= 1"):
        g.dequantise(0)
    with pytest.raises(ValueError, match=r"dequantise: x must be whole numbers in 0 ... 2, of an integer type, got float32"):
        g.dequantise(3).init(jax.random.key(0), jnp.ones((2, 2)))
