"""Coordinate ascent against the textbook's updates, closed-form evidences and scikit-learn; exponential families against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import digamma, gammaln, multigammaln

from dljax import data
from dljax.generative.conjugate import categorical, dirichlet, divergence, expected_statistics, gamma, log_density, normal, normal_wishart
from dljax.generative.coordinate_ascent import coordinate_ascent, normal_mixture, normal_sample


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def climbed(learner, batch, steps):
    state = learner.init(jax.random.key(0), batch)
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: learner.step(jax.random.key(1), s, batch), state, length=steps))
    state, metrics = run(state)
    gains = np.diff(metrics["elbo"])
    assert (gains >= -1e-9 * np.abs(metrics["elbo"][1:])).all(), gains.min()
    return state, np.asarray(metrics["elbo"])


SAMPLE = np.array([1.2, 0.3, 2.2, 1.9, 0.7])
PRIOR = {"mean": 0.5, "mean_precision": 2.0, "concentration": 1.5, "rate": 0.8}


def evidence_of_a_normal_sample():
    m, strength, a, b = PRIOR.values()
    num, center = len(SAMPLE), SAMPLE.mean()
    a_n = a + num / 2
    b_n = b + 0.5 * ((SAMPLE - center) ** 2).sum() + strength * num * (center - m) ** 2 / (2 * (strength + num))
    return (
        gammaln(a_n) - gammaln(a) + a * np.log(b) - a_n * np.log(b_n) + 0.5 * np.log(strength / (strength + num)) - num / 2 * np.log(2 * np.pi)
    )  # fmt: skip


def test_10_1_coordinate_ascent_finds_the_textbooks_fixed_point_below_the_evidence():
    """Bishop (2006), eq. 10.26-10.30: each factor's parameters follow from the other's moments."""
    state, elbo = climbed(normal_sample(**PRIOR), {"x": jnp.asarray(SAMPLE)}, 60)
    mean, precision = normal.usual(state.params["mean"]), gamma.usual(state.params["precision"])
    m, strength, a, b = PRIOR.values()
    num, tau = len(SAMPLE), precision["concentration"] / precision["rate"]
    assert float(mean["mean"]) == pytest.approx((strength * m + SAMPLE.sum()) / (strength + num), rel=1e-12)
    assert float(mean["precision"]) == pytest.approx((strength + num) * float(tau), rel=1e-9)
    assert float(precision["concentration"]) == pytest.approx(a + (num + 1) / 2, rel=1e-12)
    center, spread = float(mean["mean"]), 1 / float(mean["precision"])
    expected = b + 0.5 * (((SAMPLE - center) ** 2).sum() + num * spread + strength * ((center - m) ** 2 + spread))
    assert float(precision["rate"]) == pytest.approx(expected, rel=1e-9)
    assert elbo[-1] < evidence_of_a_normal_sample() < elbo[-1] + 0.2


def test_10_1_coordinate_ascent_without_factorisation_gives_posterior_and_evidence_in_one_step():
    state, elbo = climbed(normal_sample(**PRIOR, is_factorised=False), {"x": jnp.asarray(SAMPLE)}, 2)
    np.testing.assert_allclose(elbo, evidence_of_a_normal_sample(), rtol=1e-11)
    usual = normal_wishart.usual(state.params["both"])
    assert float(usual["mean_precision"]) == pytest.approx(7)
    assert float(usual["degrees"]) == pytest.approx(2 * (1.5 + 2.5))


def test_10_1_mixture_of_normals_equals_scikit_learns():
    from sklearn.cluster import KMeans
    from sklearn.mixture import BayesianGaussianMixture

    x = data.load("iris")["x"][:, 2:] + 0.01 * np.random.default_rng(0).normal(size=(150, 2))  # they are rounded to a millimetre
    labels = KMeans(3, n_init=1, random_state=np.random.RandomState(0)).fit(x).labels_
    oracle = BayesianGaussianMixture(
        n_components=3, weight_concentration_prior_type="dirichlet_distribution", weight_concentration_prior=0.5, mean_precision_prior=0.7,
        degrees_of_freedom_prior=3.5, reg_covar=0, tol=0, max_iter=500, init_params="kmeans", random_state=np.random.RandomState(0),
    )  # fmt: skip
    with pytest.warns(Warning, match="converge"):
        oracle.fit(x)
    learner = normal_mixture(
        3, concentration=0.5, mean_precision=0.7, degrees=3.5, responsibilities=lambda key, x: jax.nn.one_hot(labels, 3, dtype=x.dtype)
    )
    state, _ = climbed(learner, {"x": jnp.asarray(x)}, 500)
    usual = normal_wishart.usual(state.params["components"])
    np.testing.assert_allclose(dirichlet.usual(state.params["shares"])["concentration"], oracle.weight_concentration_, rtol=1e-5)
    np.testing.assert_allclose(usual["mean"], oracle.means_, rtol=1e-5)
    np.testing.assert_allclose(usual["mean_precision"], oracle.mean_precision_, rtol=1e-5)
    np.testing.assert_allclose(usual["degrees"], oracle.degrees_of_freedom_, rtol=1e-5)
    np.testing.assert_allclose(usual["inverse_scale"] / usual["degrees"][:, None, None], oracle.covariances_, rtol=1e-4)
    found = learner.functions["predict"](None, state.params, jnp.asarray(x))
    np.testing.assert_allclose(found, oracle.predict_proba(x), atol=1e-5)


def test_10_1_mixture_of_one_component_has_the_evidence_for_its_elbo():
    """The multivariate normal with a normal-Wishart prior: Murphy (2007), eq. 266."""
    x, (num, size) = np.random.default_rng(1).normal(size=(7, 2)) @ np.array([[1, 0.5], [0, 2]]) + 3, (7, 2)
    prior = {"mean": np.array([1.0, 2.0]), "mean_precision": 0.4, "degrees": 3.0, "inverse_scale": np.array([[2.0, 0.3], [0.3, 1.0]])}
    _, elbo = climbed(normal_mixture(1, **prior), {"x": jnp.asarray(x)}, 2)
    center = x.mean(0)
    away = np.outer(center - prior["mean"], center - prior["mean"]) * 0.4 * num / (0.4 + num)
    spread = prior["inverse_scale"] + (x - center).T @ (x - center) + away
    evidence = (
        -num * size / 2 * np.log(np.pi) + multigammaln((3.0 + num) / 2, size) - multigammaln(1.5, size)
        + 1.5 * np.linalg.slogdet(prior["inverse_scale"])[1] - (3.0 + num) / 2 * np.linalg.slogdet(spread)[1] + size / 2 * np.log(0.4 / (0.4 + num))
    )  # fmt: skip
    np.testing.assert_allclose(elbo, evidence, rtol=1e-10)


def test_components_that_the_data_do_not_need_return_to_the_prior():
    x = np.concatenate([np.random.default_rng(2).normal(size=(100, 1)) * 0.3 + center for center in (-3, 3)])
    state, _ = climbed(normal_mixture(5, concentration=1e-2), {"x": jnp.asarray(x)}, 400)
    counts = np.sort(np.asarray(dirichlet.usual(state.params["shares"])["concentration"]) - 1e-2)
    np.testing.assert_allclose(counts, [0, 0, 0, 100, 100], atol=0.5)


def test_10_1_families_have_scipys_densities_and_moments():
    a, b = 2.3, 0.7
    statistics = expected_statistics(gamma, gamma.natural(a, b))
    np.testing.assert_allclose([statistics["log"], statistics["value"]], [digamma(a) - np.log(b), a / b])
    z = 1.7
    np.testing.assert_allclose(log_density(gamma, gamma.natural(a, b), {"log": jnp.log(z), "value": z}), stats.gamma(a, scale=1 / b).logpdf(z))
    np.testing.assert_allclose(log_density(normal, normal.natural(a, b), {"value": z, "square": z**2}), stats.norm(a, b**-0.5).logpdf(z))
    concentration = np.array([0.5, 2.0, 3.0])
    statistics = expected_statistics(dirichlet, dirichlet.natural(concentration))
    np.testing.assert_allclose(statistics["log"], digamma(concentration) - digamma(concentration.sum()))
    shares = np.array([0.2, 0.3, 0.5])
    np.testing.assert_allclose(
        log_density(dirichlet, dirichlet.natural(concentration), {"log": np.log(shares)}), stats.dirichlet(concentration).logpdf(shares)
    )
    np.testing.assert_allclose(expected_statistics(categorical, categorical.natural(shares))["one_hot"], shares)
    np.testing.assert_allclose(
        divergence(gamma, gamma.natural(2.0, 3.0), gamma.natural(1.0, 1.0)),
        digamma(2.0) - gammaln(2.0) + 2 * np.log(3.0) - np.log(3.0) * 1 + 2 * (1 - 3.0) / 3.0, rtol=1e-10,
    )  # fmt: skip


def test_10_1_normal_wishart_has_scipys_density_and_the_textbooks_moments():
    mean, strength, degrees, inverse_scale = np.array([1.0, -0.5]), 0.6, 4.5, np.array([[2.0, 0.4], [0.4, 1.5]])
    scale = np.linalg.inv(inverse_scale)
    natural = normal_wishart.natural(mean, strength, degrees, inverse_scale)
    statistics = expected_statistics(normal_wishart, natural)
    np.testing.assert_allclose(statistics["precision"], degrees * scale, rtol=1e-10)
    log_det = digamma((degrees - np.arange(2)) / 2).sum() + 2 * np.log(2) + np.linalg.slogdet(scale)[1]
    np.testing.assert_allclose(statistics["log_det"], log_det, rtol=1e-10)
    np.testing.assert_allclose(statistics["precision_mean"], degrees * scale @ mean, rtol=1e-10)
    np.testing.assert_allclose(statistics["mean_precision_mean"], 2 / strength + degrees * mean @ scale @ mean, rtol=1e-10)
    precision, point = np.array([[1.3, 0.2], [0.2, 0.9]]), np.array([0.3, 0.1])
    oracle = stats.wishart(degrees, scale).logpdf(precision) + stats.multivariate_normal(mean, np.linalg.inv(strength * precision)).logpdf(point)
    of_point = {
        "log_det": np.linalg.slogdet(precision)[1], "precision": precision, "precision_mean": precision @ point,
        "mean_precision_mean": point @ precision @ point,
    }  # fmt: skip
    np.testing.assert_allclose(log_density(normal_wishart, natural, of_point), oracle, rtol=1e-10)
    usual = normal_wishart.usual(natural)
    for name, value in {"mean": mean, "mean_precision": strength, "degrees": degrees, "inverse_scale": inverse_scale}.items():
        np.testing.assert_allclose(usual[name], value, rtol=1e-10)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="coordinate_ascent: families must name at least one factor, got none"):
        coordinate_ascent(lambda stats, x: 0.0, {}, lambda key, x: {})
    with pytest.raises(ValueError, match=r"start must give natural parameters for \['z'\], got \[\]"):
        coordinate_ascent(lambda stats, x: 0.0, {"z": normal}, lambda key, x: {}).init(jax.random.key(0), ())
    for name in ("mean_precision", "concentration", "rate"):
        with pytest.raises(ValueError, match=rf"normal_sample: {name} must be in \(0, inf\), got 0"):
            normal_sample(**{name: 0})
    with pytest.raises(ValueError, match="normal_mixture: num_components must be >= 1, got 0"):
        normal_mixture(0)
    with pytest.raises(ValueError, match="normal_mixture: concentration must be in"):
        normal_mixture(2, concentration=0)
    with pytest.raises(ValueError, match="normal_mixture: mean_precision must be in"):
        normal_mixture(2, mean_precision=-1)
    with pytest.raises(ValueError, match=r"normal_mixture: degrees must be in \(1, inf\), got 1"):
        normal_mixture(2, degrees=1).init(jax.random.key(0), {"x": jnp.zeros((3, 2))})
