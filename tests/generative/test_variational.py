"""Variational inference against closed forms, quadrature and enumeration: bounds, divergences and the gradients of every estimator."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import betaln
from scipy.stats import multivariate_normal

from dljax.core import ensemble
from dljax.engine import FitConfig, NonFiniteError, fit
from dljax.generative.bounds import chi, forward_kl, importance_weighted, renyi, reverse_kl
from dljax.generative.estimators import doubly_reparameterised, rao_blackwellised, reparameterised, score_function, sticking_the_landing
from dljax.generative.factors import bernoulli_guide, beta_guide, categorical_guide, gamma_guide
from dljax.generative.guides import full_rank_guide, mean_field_guide
from dljax.generative.variational import gradient_variance, minibatched, vi


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


# A line with unknown intercept and slope: prior N(0, 4 I), noise N(0, 0.25).
DESIGN = np.stack([np.ones(6), np.linspace(0, 3, 6)], 1)
TARGET = np.array([0.3, 0.9, 1.1, 2.0, 2.2, 3.1])
PRECISION = DESIGN.T @ DESIGN / 0.25 + np.eye(2) / 4
COVARIANCE = np.linalg.inv(PRECISION)
MEAN = COVARIANCE @ DESIGN.T @ TARGET / 0.25
EVIDENCE = multivariate_normal(np.zeros(6), 4 * DESIGN @ DESIGN.T + 0.25 * np.eye(6)).logpdf(TARGET)


def line(z):
    noise = jax.scipy.stats.norm.logpdf(TARGET, DESIGN @ z, 0.5).sum()
    return noise + jax.scipy.stats.norm.logpdf(z, 0, 2).sum()


def tabulated(key, *arguments, **options):
    return jax.jit(lambda key: gradient_variance(key, *arguments, **options))(jax.random.key(key))


def exact_guide():
    """The full-rank guide at the posterior."""
    guide, root = full_rank_guide(jnp.asarray(MEAN)), np.linalg.cholesky(COVARIANCE)
    scale = np.diag(root)
    params = {"mean": jnp.asarray(MEAN), "log_scale": jnp.log(scale), "lower": jnp.asarray(np.tril(root / scale[:, None], -1))}
    return guide, params


def test_10_1_elbo_is_at_most_the_evidence_and_equal_to_it_at_the_posterior():
    guide, params = exact_guide()
    log_weights = jax.jit(vi(line, guide, optax.sgd(0.1)).functions["log_weights"], static_argnums=2)
    np.testing.assert_allclose(log_weights(jax.random.key(0), params, 4000), EVIDENCE, rtol=0, atol=1e-10)  # every sample says the same
    away = params | {"mean": params["mean"] + 0.1, "log_scale": params["log_scale"] + 0.2}
    q = multivariate_normal(np.asarray(away["mean"]), math.exp(0.4) * COVARIANCE)
    gap = 0.5 * (2 * math.exp(0.4) + 0.01 * PRECISION.sum() - 2 - 2 * 0.4)  # KL(q || p)
    w = np.asarray(log_weights(jax.random.key(1), away, 4000))
    assert EVIDENCE - w.mean() == pytest.approx(gap, abs=4 * w.std() / math.sqrt(4000))
    assert gap > 0
    np.testing.assert_allclose(guide.log_prob(away, jnp.ones(2)), q.logpdf(np.ones(2)), rtol=1e-12)


def test_10_1_elbo_of_a_beta_bernoulli_model_is_its_evidence_at_the_posterior():
    guide = beta_guide(0.5)
    learner = vi(lambda z: 7 * jnp.log(z) + 3 * jnp.log1p(-z), guide, optax.sgd(0.1))  # uniform prior, 7 of 10
    params = {"log_a": jnp.log(jnp.array([8.0])), "log_b": jnp.log(jnp.array([4.0]))}
    log_weights = jax.jit(learner.functions["log_weights"], static_argnums=2)
    np.testing.assert_allclose(log_weights(jax.random.key(0), params, 1000), betaln(8, 4), atol=1e-10)
    w = log_weights(jax.random.key(0), guide.init(jax.random.key(0)), 1000)
    assert float(w.mean()) < betaln(8, 4) - 1


@pytest.fixture(scope="module")
def fitted():
    """Mean-field guides of a correlated normal distribution, by reverse and by forward KL."""
    with jax.enable_x64(True):
        guide = mean_field_guide(jnp.zeros(2), scale=0.5)
        found = {}
        for divergence, estimator in ((reverse_kl, reparameterised()), (forward_kl, score_function())):
            optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 800))
            learner = vi(line, guide, optimizer, divergence=divergence, estimator=estimator, num_samples=300)
            run = jax.jit(lambda state, keys, learner=learner: jax.lax.scan(lambda s, k: learner.step(k, s, ()), state, keys))
            state, _ = run(learner.init(jax.random.key(0), ()), jax.random.split(jax.random.key(1), 800))
            found[divergence.name] = guide.moments(state.params)
        return found


def test_10_1_reverse_kl_takes_the_precisions_diagonal_and_forward_kl_the_covariances(fitted):
    for name, variance in (("reverse_kl", 1 / np.diag(PRECISION)), ("forward_kl", np.diag(COVARIANCE))):
        mean, scale = fitted[name]
        np.testing.assert_allclose(mean, MEAN, atol=0.04 * np.sqrt(np.diag(COVARIANCE)).min(), err_msg=name)
        np.testing.assert_allclose(scale, np.sqrt(variance), rtol=0.04, err_msg=name)
    assert (fitted["forward_kl"][1] > 1.2 * fitted["reverse_kl"][1]).all()  # the claim is about something


# One unknown number with a skewed posterior, whose bounds of two samples are integrals over two normal numbers.
def skewed(z):
    return -0.5 * z**2 - 3 * jax.nn.softplus(2 * z - 1) + 2 * z


GUIDE = {"mean": np.array([0.3]), "log_scale": np.array([-0.4])}
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
PAIRS = np.stack(np.meshgrid(NODES, NODES), -1).reshape(-1, 2)
PAIR_WEIGHTS = np.outer(WEIGHTS, WEIGHTS).ravel() / (2 * math.pi)


def pair_log_weights(params):
    """w_1, w_2 and log q(z_1), log q(z_2) on the grid; z moves with the parameters."""
    scale = jnp.exp(params["log_scale"])[0]
    z = params["mean"][0] + scale * PAIRS
    log_q = jax.scipy.stats.norm.logpdf(z, params["mean"][0], scale)
    return skewed(z) - log_q


def exact_value(divergence):
    return lambda params: PAIR_WEIGHTS @ jax.vmap(divergence.value)(pair_log_weights(params))


DIVERGENCES = {"reverse_kl": reverse_kl, "renyi": renyi(0.5), "importance_weighted": importance_weighted, "renyi(2)": renyi(2.0), "chi": chi(2.0)}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_10_1_every_estimator_is_unbiased_for_every_bound(name):
    divergence, guide = DIVERGENCES[name], mean_field_guide(jnp.zeros(()))
    exact = jax.jit(jax.grad(exact_value(divergence)))(GUIDE)
    estimators = {
        "reparameterised": reparameterised(),
        "doubly": doubly_reparameterised(),
        "score, none": score_function(baseline="none"),
        "score, moving average": score_function(baseline="moving-average"),
        "score, leave one out": score_function(),
    }
    if name == "reverse_kl":
        estimators["landing"] = sticking_the_landing()
    table = tabulated(3, GUIDE, lambda z: skewed(z), guide, estimators, divergence=divergence, num_samples=2, repeats=20_000)
    for estimator, found in table.items():
        for part, gradient in exact.items():
            error = 4 * np.sqrt(found.variance[part] / 20_000)
            assert np.abs(found.mean[part] - gradient) < error, (estimator, part, found.mean[part], gradient, error)
            assert error < 0.15, (estimator, part)
    assert float(table["doubly"].total) < float(table["score, leave one out"].total) < float(table["score, none"].total)


def test_10_1_optimal_control_variate_is_unbiased_and_lowers_the_variance():
    guide, exact = mean_field_guide(jnp.zeros(())), jax.jit(jax.grad(exact_value(reverse_kl)))(GUIDE)
    estimators = {"optimal": score_function(baseline="optimal"), "none": score_function(baseline="none")}
    table = tabulated(4, GUIDE, lambda z: skewed(z) - 5, guide, estimators, num_samples=10, repeats=5000)
    for part, gradient in exact.items():
        assert np.abs(table["optimal"].mean[part] - gradient) < 4 * np.sqrt(table["optimal"].variance[part] / 5000)
    assert float(table["optimal"].total) < 0.2 * float(table["none"].total)


def test_10_1_forward_kl_has_the_self_normalised_gradient_whichever_way():
    """The mean of Σ w̄_k ∇ log q(z_k) by quadrature; that it is biased for two samples belongs to it."""
    guide = mean_field_guide(jnp.zeros(()))
    shares = jax.nn.softmax(pair_log_weights(GUIDE), axis=1)
    fixed = GUIDE["mean"][0] + np.exp(GUIDE["log_scale"][0]) * PAIRS

    def surrogate(params):
        log_q = jax.scipy.stats.norm.logpdf(fixed, params["mean"][0], jnp.exp(params["log_scale"])[0])
        return -(PAIR_WEIGHTS[:, None] * shares * log_q).sum()

    exact = jax.jit(jax.grad(surrogate))(GUIDE)
    estimators = {"score": score_function(baseline="none"), "leave one out": score_function(), "doubly": doubly_reparameterised()}
    table = tabulated(5, GUIDE, skewed, guide, estimators, divergence=forward_kl, num_samples=2, repeats=20_000)
    for estimator, found in table.items():
        for part, gradient in exact.items():
            assert np.abs(found.mean[part] - gradient) < 4 * np.sqrt(found.variance[part] / 20_000), (estimator, part)


def test_10_1_landing_and_double_reparameterisation_have_no_variance_at_the_posterior():
    guide, params = exact_guide()
    for divergence in (reverse_kl, importance_weighted, renyi(0.3), chi(3.0)):
        table = tabulated(
            6, params, line, guide, {"doubly": doubly_reparameterised(), "single": reparameterised()}, divergence=divergence,
            num_samples=3, repeats=20,
        )  # fmt: skip
        assert float(table["doubly"].total) < 1e-18
        assert float(table["single"].total) > 1e-2


TERMS = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]], bool)


def discrete_terms(z):
    """Three coins: two pairs that like to agree, and one that likes 1."""
    return jnp.array([2 * z[0] * z[1] - 4, 1.5 * (1 - z[1]) * (1 - z[2]) - 7, 0.7 * z[2] - 9])


def test_10_1_score_functions_of_a_discrete_guide_are_unbiased_by_enumeration():
    guide, params = bernoulli_guide(jnp.zeros(3)), {"logits": np.array([0.4, -0.8, 0.2])}
    states = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=3)))
    assert float(jax.nn.logsumexp(jax.vmap(guide.log_prob, (None, 0))(params, states))) == pytest.approx(0, abs=1e-12)

    def negative_elbo(params):
        log_q = jax.vmap(guide.log_prob, (None, 0))(params, states)
        return (jnp.exp(log_q) * (log_q - jax.vmap(discrete_terms)(states).sum(1))).sum()

    exact = jax.jit(jax.grad(negative_elbo))(params)["logits"]
    estimators = {
        "none": score_function(baseline="none"),
        "moving-average": score_function(baseline="moving-average"),
        "leave-one-out": score_function(),
        "optimal": score_function(baseline="optimal"),
        "rao-blackwellised": rao_blackwellised(TERMS, baseline="none"),
        "rao-blackwellised, leave-one-out": rao_blackwellised(TERMS),
    }
    table = tabulated(7, params, discrete_terms, guide, estimators, num_samples=5, repeats=10_000)
    for name, found in table.items():
        assert (np.abs(found.mean["logits"] - exact) < 4 * np.sqrt(found.variance["logits"] / 10_000)).all(), name
    variance = {name: float(found.total) for name, found in table.items()}
    assert variance["leave-one-out"] < 0.2 * variance["none"]
    assert variance["rao-blackwellised"] < 0.5 * variance["none"]  # the far terms are constants, large ones
    assert variance["rao-blackwellised, leave-one-out"] < 0.9 * variance["leave-one-out"]


def test_10_1_a_discrete_posterior_of_independent_parts_is_found():
    """Two sites of three classes, independent: the guide can be the posterior, and the ELBO the evidence."""
    logits = jnp.array([[0.0, 1.0, -1.0], [0.5, 0.0, 2.0]])
    guide = categorical_guide(2, 3)
    learner = vi(lambda z: logits[jnp.arange(2), z].sum(), guide, optax.adam(0.05), estimator=score_function(), num_samples=20)
    run = jax.jit(lambda state, keys: jax.lax.scan(lambda s, k: learner.step(k, s, ()), state, keys))
    state, metrics = run(learner.init(jax.random.key(0), ()), jax.random.split(jax.random.key(1), 600))
    np.testing.assert_allclose(jax.nn.softmax(state.params["logits"]), jax.nn.softmax(logits), atol=0.03)
    assert float(metrics["elbo"][-1]) == pytest.approx(float(jax.nn.logsumexp(logits, axis=1).sum()), abs=0.02)


def test_10_1_renyi_bounds_fall_with_alpha_and_meet_the_elbo_at_one():
    w = np.random.default_rng(0).normal(size=(20, 7)) * 3
    lower = [renyi(alpha) for alpha in (0.0, 0.3, 0.9, 1 - 1e-6, 1.0, 1 + 1e-6, 1.5, 5.0, 1e9)]
    found = jax.jit(lambda w: [jax.vmap(part.value)(w) for part in (*lower, chi(1.5), chi(2.0), chi(4.0), forward_kl)])(w)
    values, upper = -np.stack(found[:9]), np.stack(found[9:12])
    assert (np.diff(values, axis=0) < 0).all()
    assert (np.diff(upper, axis=0) > 0).all()
    assert (upper[0] > values[0]).all()
    np.testing.assert_allclose(values[3:6], np.broadcast_to(w.mean(1), (3, 20)), atol=1e-4)
    np.testing.assert_allclose(values[8], w.min(1), atol=1e-6)
    np.testing.assert_allclose(found[12], [kl_to_uniform(row) for row in w], rtol=1e-12)


def kl_to_uniform(w):
    shares = np.exp(w - w.max())
    shares /= shares.sum()
    return (shares * np.log(shares * len(w))).sum()


def test_10_1_importance_weighted_bound_rises_with_the_number_of_samples():
    """The bound of K weights is at least the mean of those of K - 1 of them, for any weights; its expectation rises, never above the evidence."""
    w = np.random.default_rng(1).normal(size=(50, 6)) * 4
    fewer = np.stack([np.delete(w, left_out, axis=1) for left_out in range(6)])
    bound = jax.jit(lambda w: -jnp.vectorize(importance_weighted.value, signature="(k)->()")(w))
    assert (bound(w) >= bound(fewer).mean(0)).all()
    evidence = math.log(np.trapezoid(np.exp(skewed(np.linspace(-9, 9, 4001))), dx=18 / 4000))
    one, two, upper = jax.jit(lambda: [exact_value(divergence)(GUIDE) for divergence in (reverse_kl, importance_weighted, chi(2.0))])()
    assert -float(one) < -float(two) < evidence
    assert float(upper) > -float(two)


@pytest.mark.parametrize("divergence", [*DIVERGENCES.values(), forward_kl], ids=lambda divergence: divergence.name)
def test_a_divergences_path_weights_are_the_derivatives_of_its_score_weights(divergence):
    w = jnp.array([0.3, -1.0, 2.0, 0.5])

    @jax.jit
    def parts(w):
        return divergence.value(w), divergence.score(w), divergence.path(w), jnp.diagonal(jax.jacobian(divergence.score)(w))

    *_, path, derivatives = parts(w)
    np.testing.assert_allclose(path, derivatives, rtol=1e-10)
    for extreme in (jnp.array([1e4, -1e4, 0.0, 1.0]), jnp.full(4, -1e4)):
        assert all(jnp.isfinite(part).all() for part in parts(extreme))


def test_10_1_minibatches_are_unbiased_over_all_batches():
    x, num = jnp.asarray(TARGET[:4]), 4
    log_joint = minibatched(lambda z: -0.5 * z**2, lambda z, batch: -0.5 * (batch["x"] - z) ** 2, num)
    guide = mean_field_guide(jnp.zeros(()))
    params, learner = guide.init(jax.random.key(0)), vi(log_joint, guide, optax.sgd(1.0), num_samples=3)
    state = learner.init(jax.random.key(0), {"x": x})

    @jax.jit
    def gradient(batch):  # with steps of length one the parameters move by it
        return jax.tree.map(lambda old, new: old - new, params, learner.step(jax.random.key(1), state, batch)[0].params)

    whole = gradient({"x": x})
    pairs = jnp.stack([jnp.stack(pair) for pair in itertools.combinations(x, 2)])
    mean = jax.tree.map(lambda g: g.mean(0), jax.vmap(lambda x: gradient({"x": x}))(pairs))
    for part in whole:
        np.testing.assert_allclose(mean[part], whole[part], rtol=1e-10)
    padded = {"x": jnp.concatenate([x, jnp.array([jnp.nan])]), "mask": jnp.array([1.0, 1, 1, 1, 0])}
    np.testing.assert_allclose(log_joint(0.3, padded), log_joint(0.3, {"x": x}), rtol=1e-12)


def test_10_1_gamma_guide_finds_a_conjugate_posterior_by_implicit_gradients():
    """Counts of a Poisson variable with a gamma prior: the posterior is Gamma(2 + 13, 1 + 4)."""
    guide = gamma_guide(1.0, scale=0.5)
    learner = vi(lambda z: (2 - 1 + 13) * jnp.log(z) - (1 + 4) * z, guide, optax.adam(0.05), num_samples=50, estimator=sticking_the_landing())
    run = jax.jit(lambda state, keys: jax.lax.scan(lambda s, k: learner.step(k, s, ()), state, keys))
    state, metrics = run(learner.init(jax.random.key(0), ()), jax.random.split(jax.random.key(1), 800))
    np.testing.assert_allclose([float(jnp.exp(state.params[name])[0]) for name in ("log_concentration", "log_rate")], [15, 5], rtol=0.02)
    assert float(metrics["elbo"][-1]) == pytest.approx(math.lgamma(15) - 15 * math.log(5), abs=1e-3)


def test_a_log_joint_that_is_not_a_number_stops_the_run_and_is_reported():
    learner = vi(lambda z: jnp.log(z), mean_field_guide(2.0, scale=1.0), optax.sgd(0.1))
    with pytest.raises(NonFiniteError, match="a metric is not finite at step"):
        fit(learner, steps=200, key=jax.random.key(0), config=FitConfig(every=10))


def test_seeds_may_be_trained_together():
    guide = mean_field_guide(jnp.zeros(2), scale=0.5)
    learner = ensemble(vi(line, guide, optax.adam(0.1), num_samples=2), 3)
    _, metrics = jax.jit(lambda key: learner.step(key, learner.init(jax.random.key(0), ()), ()))(jax.random.key(1))
    assert all(jnp.isfinite(value).all() for value in metrics.values())


def test_bad_options_and_combinations_are_refused():
    guide, discrete, sgd = mean_field_guide(0.0), bernoulli_guide(0.0), optax.sgd(0.1)

    def refused(match, guide=guide, log_joint=skewed, **options):
        with pytest.raises(ValueError, match=match):
            vi(log_joint, guide, sgd, **options).init(jax.random.key(0), ())

    refused("vi: num_samples must be >= 1, got 0", num_samples=0)
    refused(r"reparameterised: the guide's samples have no derivative \(it is discrete\); take score_function\(\)", discrete)
    refused("sticking_the_landing: the guide's samples have no derivative", discrete, estimator=sticking_the_landing())
    refused("baseline 'leave-one-out' needs num_samples >= 2, got 1", estimator=score_function())
    refused("baseline 'optimal' needs num_samples >= 3, got 2", estimator=score_function(baseline="optimal"), num_samples=2)
    refused("baseline 'optimal' is biased for chi", estimator=score_function(baseline="optimal"), num_samples=3, divergence=chi())
    refused("sticking_the_landing: biased for renyi", estimator=sticking_the_landing(), divergence=renyi(0.5))
    refused("forward_kl is no bound whose derivative is its gradient", divergence=forward_kl, num_samples=5)
    refused("needs a guide of independent factors", full_rank_guide(jnp.zeros(2)), estimator=rao_blackwellised([[1, 1]]), num_samples=2)
    refused("renyi.* does not fall into terms", estimator=rao_blackwellised([[1]]), num_samples=2, divergence=renyi(0.5))
    refused("baseline 'leave-one-out' needs num_samples >= 2, got 1", estimator=rao_blackwellised([[1]]))
    refused(r"log_joint must return one real number \[\], or its terms \[F\], got float64\[2, 2\]", log_joint=lambda z: z * jnp.ones((2, 2)))
    refused("log_joint must return one real number", log_joint=lambda z: (z, z))
    learner = vi(lambda z: z[None], guide, sgd, estimator=rao_blackwellised([[1, 1]]), num_samples=2)
    state = learner.init(jax.random.key(0), ())
    with pytest.raises(ValueError, match=r"depends \(1, 2\) must be \[terms, factors\], got terms \(1,\) of the log joint and 1 factors"):
        learner.step(jax.random.key(0), state, ())
    with pytest.raises(ValueError, match=r"depends must be \[terms, factors\], got shape \(2,\)"):
        rao_blackwellised([1, 0])
    with pytest.raises(ValueError, match="baseline must be one of 'none', 'leave-one-out', got 'optimal'"):
        rao_blackwellised([[1]], baseline="optimal")
    with pytest.raises(ValueError, match="score_function: baseline must be one of"):
        score_function(baseline="mean")
    with pytest.raises(ValueError, match=r"score_function: decay must be in \[0, 1\), got 1.0"):
        score_function(decay=1.0)
    with pytest.raises(ValueError, match=r"renyi: alpha must be in \[0, inf\), got -1"):
        renyi(-1)
    with pytest.raises(ValueError, match=r"chi: order must be in \(1, inf\), got 1"):
        chi(1)
    with pytest.raises(ValueError, match="minibatched: num_examples must be >= 1, got 0"):
        minibatched(lambda z: z, lambda z, batch: z, 0)
    with pytest.raises(ValueError, match="gradient_variance: repeats must be >= 2, got 1"):
        gradient_variance(jax.random.key(0), guide.init(jax.random.key(0)), skewed, guide, {}, repeats=1)
