"""The posteriors that the recipes of variational inference are held against: the golden file, quadrature, and numpyro's own log density."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dljax.recipes import get
from dljax.recipes.inference import _NUTS

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "posteriors.npz")
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


MODELS = {"eight-schools/vi": "eight_schools", "breast-cancer/bayesian-logistic": "breast_cancer", "iris/bayesian-mixture": "iris"}


@pytest.mark.parametrize(("name", "model"), MODELS.items())
def test_recipes_hold_the_moments_of_the_golden_file(name, model):
    for site, moments in _NUTS[name].items():
        golden = np.stack([np.atleast_1d(GOLDEN[f"{model}/{site}/{part}"]) for part in ("mean", "scale")], 1)
        np.testing.assert_allclose(moments, golden, atol=5.1e-5)
        errors = [GOLDEN[f"{model}/{site}/{part}_error"] for part in ("mean", "scale")]
        assert max(np.max(error / golden[:, 1]) for error in errors) < 0.01


def eight_schools_by_quadrature():
    """Given τ all is normal; one integral is left, over log τ: the evidence, and means and deviations of μ, log τ and θ."""
    axis = np.linspace(-25, 7, 6401)
    variance = np.exp(2 * axis)[:, None] + ERRORS**2  # of y_j given μ
    precision = 1 / 25 + (1 / variance).sum(1)
    mean = (EFFECTS / variance).sum(1) / precision
    covariances = np.stack([np.diag(row) + 25 for row in variance])
    log_evidence = [stats.multivariate_normal(np.zeros(8), covariance).logpdf(EFFECTS) for covariance in covariances[::16]]
    axis, variance, precision, mean = axis[::16], variance[::16], precision[::16], mean[::16]
    log_weight = np.array(log_evidence) + stats.halfcauchy(scale=5).logpdf(np.exp(axis)) + axis
    evidence = np.trapezoid(np.exp(log_weight), axis)
    weight = np.exp(log_weight) / np.exp(log_weight).sum()
    keep = np.exp(2 * axis)[:, None] / variance  # θ_j given μ and τ: mean μ + keep (y_j - μ), variance keep σ_j²
    theta = mean[:, None] + keep * (EFFECTS - mean[:, None])
    theta_variance = keep * ERRORS**2 + (1 - keep) ** 2 / precision[:, None]

    def moments(means, variances):
        center = (weight[:, None] * means).sum(0)
        return np.stack([center, np.sqrt((weight[:, None] * (variances + (means - center) ** 2)).sum(0))], 1)

    zero = np.zeros_like(axis)[:, None]
    return np.log(evidence), {
        "mean": moments(mean[:, None], 1 / precision[:, None]), "log_scale": moments(axis[:, None], zero), "effects": moments(theta, theta_variance),
    }  # fmt: skip


def test_10_1_nuts_on_eight_schools_agrees_with_quadrature():
    log_evidence, exact = eight_schools_by_quadrature()
    assert log_evidence == pytest.approx(-31.3113, abs=1e-4)  # what the recipe's elbo_gap is measured from
    for site, moments in exact.items():
        for column, part in enumerate(("mean", "scale")):
            error = 4.5 * np.atleast_1d(GOLDEN[f"eight_schools/{site}/{part}_error"])
            assert (np.abs(np.atleast_1d(GOLDEN[f"eight_schools/{site}/{part}"]) - moments[:, column]) < error).all(), (site, part)


@pytest.mark.rank_promotion
def test_10_1_eight_schools_log_joint_equals_numpyros():
    dist = pytest.importorskip("numpyro.distributions")
    learner = get("eight-schools/vi").build(layers=1, width=2).learner
    params = learner.init(jax.random.key(0), ()).params
    z, log_weights = (learner.functions[name](jax.random.key(1), params, 5) for name in ("sample", "log_weights"))
    ours = log_weights + learner.functions["log_prob"](None, params, z)
    mean, scale = z["mean"][:, None], jnp.exp(z["scale"])[:, None]
    theirs = dist.Normal(0, 5).log_prob(mean) + dist.HalfCauchy(5).log_prob(scale) + z["scale"][:, None]
    theirs = theirs[:, 0] + dist.Normal(0, 1).log_prob(z["noise"]).sum(1)
    theirs += dist.Normal(mean + scale * z["noise"], jnp.asarray(ERRORS)).log_prob(jnp.asarray(EFFECTS)).sum(1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
