"""Calibration by hand, against NumPy and scikit-learn, and what a temperature does for a real network on digits it has not seen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from dljax import core, data
from dljax.models.mlp import MLP
from dljax.objectives import cross_entropy
from dljax.supervised import (
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    platt_scaling,
    refreshed,
    reliability,
    supervised,
    temperature_scaling,
    vector_scaling,
)

RNG = np.random.default_rng(0)


def forecasts(num=500, classes=4, sharpness=3.0):
    logits = sharpness * RNG.normal(size=(num, classes))
    labels = np.array([RNG.choice(classes, p=np.exp(row / 3) / np.exp(row / 3).sum()) for row in logits])
    return logits, labels


def test_4_2_calibration_error_by_hand():
    # Bins (0, ½] and (½, 1]: one example says ½ and is right; three say 0.8, 0.8, 0.9, of which one is right.
    p = jnp.array([[0.5, 0.5], [0.8, 0.2], [0.2, 0.8], [0.9, 0.1]])
    y = jnp.array([0, 0, 0, 1])
    diagram = reliability(p, y, num_bins=2)
    np.testing.assert_allclose(diagram.confidence, [0.5, 2.5 / 3], rtol=1e-6)
    np.testing.assert_allclose(diagram.accuracy, [1, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(diagram.weight, [0.25, 0.75])
    np.testing.assert_allclose(expected_calibration_error(p, y, num_bins=2), 0.25 * 0.5 + 0.75 * 0.5, rtol=1e-6)
    # Two and two by their confidence: {½, 0.8} and {0.8, 0.9}.
    np.testing.assert_allclose(reliability(p, y, num_bins=2, is_adaptive=True).weight, 0.5)
    # Class 0: of 0.5 and 0.2 both are it, of 0.8 and 0.9 one is. Class 1: of 0.5, 0.2 and 0.1 one is, 0.8 is not.
    by_hand = (0.5 * (1 - 0.35) + 0.5 * (0.85 - 0.5) + 0.75 * (1 / 3 - 0.8 / 3) + 0.25 * 0.8) / 2
    np.testing.assert_allclose(classwise_calibration_error(p, y, num_bins=2), by_hand, rtol=1e-6)
    np.testing.assert_allclose(brier_score(p, y), [0.5, 0.08, 1.28, 1.62], rtol=1e-6)


def test_4_2_diagram_error_and_brier_score_equal_those_of_numpy_and_scikit_learn():
    logits, labels = forecasts()
    with jax.enable_x64(True):
        p = jax.nn.softmax(jnp.asarray(logits))
        y = jnp.asarray(labels)
        diagram, adaptive = reliability(p, y, num_bins=10), reliability(p, y, num_bins=10, is_adaptive=True)
        error, classwise, brier = expected_calibration_error(p, y, num_bins=10), classwise_calibration_error(p, y, num_bins=10), brier_score(p, y)
    p = np.asarray(p)
    confidence, is_right = p.max(1), p.argmax(1) == labels
    accuracy, mean = calibration_curve(is_right, confidence, n_bins=10)
    filled = np.asarray(diagram.weight) > 0
    np.testing.assert_allclose(diagram.accuracy[filled], accuracy, rtol=1e-12)
    np.testing.assert_allclose(diagram.confidence[filled], mean, rtol=1e-12)
    bins = np.digitize(confidence, np.linspace(0, 1, 11), right=True)
    by_hand = sum((bins == k).mean() * abs(is_right[bins == k].mean() - confidence[bins == k].mean()) for k in np.unique(bins))
    np.testing.assert_allclose(error, by_hand, rtol=1e-12)
    accuracy, mean = calibration_curve(is_right, confidence, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(adaptive.weight, 0.1, rtol=1e-12)
    np.testing.assert_allclose(adaptive.confidence, mean, atol=5e-3)  # scikit-learn places its quantiles between examples
    errors = []
    for c in range(4):
        bins = np.digitize(p[:, c], np.linspace(0, 1, 11), right=True)
        errors.append(sum((bins == k).mean() * abs((labels[bins == k] == c).mean() - p[bins == k, c].mean()) for k in np.unique(bins)))
    np.testing.assert_allclose(classwise, np.mean(errors), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(brier).mean(), brier_score_loss(labels, p, scale_by_half=False), rtol=1e-12)


def test_4_2_temperature_is_the_stationary_point_of_the_likelihood():
    logits, labels = forecasts()
    with jax.enable_x64(True):
        scaling = jax.jit(temperature_scaling)(jnp.asarray(logits), jnp.asarray(labels))
    temperature = 1 / float(scaling.scale)
    assert bool(scaling.converged)
    # d NLL / d(1/T): what is expected of the logits, less what the labels' logits are.
    chosen = logits[np.arange(len(labels)), labels]
    slope = ((softmax(logits / temperature, axis=1) * logits).sum(1) - chosen).mean()
    assert abs(slope) < 1e-8
    found = minimize_scalar(lambda t: (logsumexp(logits / t, axis=1) - chosen / t).mean(), bounds=(0.5, 9), method="bounded", options={"xatol": 1e-9})
    np.testing.assert_allclose(temperature, found.x, rtol=1e-6)
    assert abs(temperature - 3) < 0.5, "the labels were drawn at temperature 3"


def test_4_2_platt_and_vector_scaling_are_logistic_regression():
    scores, labels = RNG.normal(size=300), RNG.integers(0, 2, 300)
    scores = scores + labels
    logits, classes = forecasts()
    with jax.enable_x64(True):
        platt = jax.jit(platt_scaling)(jnp.asarray(scores), jnp.asarray(labels))
        vector = jax.jit(vector_scaling)(jnp.asarray(logits), jnp.asarray(classes))
    reference = LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000).fit(scores[:, None], labels)
    np.testing.assert_allclose([platt.scale, platt.bias], [reference.coef_[0, 0], reference.intercept_[0]], rtol=1e-4)
    # The likelihood of logistic regression is stationary where classes are as frequent as expected, and their logits as large.
    rest = softmax(logits * np.asarray(vector.scale) + np.asarray(vector.bias), axis=1) - np.eye(4)[classes]
    assert bool(vector.converged)
    np.testing.assert_allclose(rest.mean(0), 0, atol=1e-8)
    np.testing.assert_allclose((rest * logits).mean(0), 0, atol=1e-8)


def test_4_2_temperature_scaling_lowers_the_error_of_an_over_confident_net_on_digits_it_has_not_seen():
    """Trained on 200 digits, fitted to 400, measured on the 1,197 that are left."""
    parts = data.load("digits").values()
    digits = {"x": np.float32(np.concatenate([part["x"] for part in parts]) / 16), "y": np.concatenate([part["y"] for part in parts])}
    train, held_out, test = (
        {name: jnp.asarray(array[rows]) for name, array in digits.items()} for rows in (slice(200), slice(200, 600), slice(600, None))
    )
    learner, source = supervised(MLP(10, (64,)), cross_entropy, optax.adam(1e-2)), data.shuffled(train, 50)

    @jax.jit
    def scores(key):
        step_key, state, cursor = core.start(learner, source, key)
        state, _, history = core.unroll(learner, source, 300)(step_key, 0, state, cursor)
        held_out_logits, logits = (learner.functions["predict"](key, learner.params(state), part["x"]) for part in (held_out, test))
        scaling = temperature_scaling(held_out_logits, held_out["y"])
        both = [(expected_calibration_error(jax.nn.softmax(z), test["y"]), cross_entropy(z, test["y"]).mean()) for z in (logits, scaling(logits))]
        return jnp.array(both), scaling.temperature, history["loss"][-1]

    (before, after), temperature, loss = scores(jax.random.key(0))
    assert loss < 0.01, "it knows its training set by heart"
    assert temperature > 1, "it was too sure of itself"
    assert after[0] < 0.5 * before[0], (before, after)
    assert after[1] < before[1], (before, after)


def test_extremes_stay_finite():
    logits, labels = jnp.asarray(1e4 * RNG.normal(size=(50, 3)), jnp.float32), jnp.asarray(RNG.integers(0, 3, 50))

    @jax.jit
    def both(z, y):
        scaling = temperature_scaling(z, y)
        return scaling.scale, cross_entropy(scaling(z), y).mean(), cross_entropy(z, y).mean()

    for z, y in [(logits, labels), (logits, logits.argmax(1)), (jnp.zeros((50, 3)), labels), (logits + 1e6, labels)]:
        scale, after, before = both(z, y)
        assert 0 < scale < np.inf
        assert after <= before + 1e-3
    assert float(expected_calibration_error(jax.nn.one_hot(labels, 3), labels)) == 0


@pytest.mark.rank_promotion
def test_4_2_refreshed_statistics_are_those_of_the_data_under_the_averaged_weights():
    class Normed(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            return linen.BatchNorm(use_running_average=not train, momentum=0.5)(linen.Dense(4)(x))

    x = jnp.asarray(RNG.normal(size=(64, 3)), jnp.float32)
    variables = Normed().init(jax.random.key(0), x, train=False)
    fresh = refreshed(jax.random.key(1), Normed(), variables, jnp.broadcast_to(x, (40, 64, 3)))
    hidden = linen.Dense(4).apply({"params": variables["params"]["Dense_0"]}, x)
    np.testing.assert_allclose(fresh["batch_stats"]["BatchNorm_0"]["mean"], hidden.mean(0), atol=1e-5)
    np.testing.assert_allclose(fresh["batch_stats"]["BatchNorm_0"]["var"], hidden.var(0), rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, fresh["params"], variables["params"])


HALF = jnp.full((2, 2), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reliability(jnp.array([[0.5, 0.5], [2.0, -3.0]]), jnp.array([0, 1])), "sum to 1 in each row, got the sum -1 in row 1, .*softmax"),
        (lambda: expected_calibration_error(HALF / 2, jnp.array([0, 1])), "reliability: probabilities must be .* got the sum 0.5 in row 0"),
        (lambda: brier_score(jnp.array([[1.5, -0.5]]), jnp.array([0])), "brier_score: probabilities must be in .* from -0.5 to 1.5"),
        (lambda: classwise_calibration_error(HALF * jnp.nan, jnp.array([0, 1])), "classwise_calibration_error: probabilities must be"),
        (lambda: reliability(HALF, jnp.array([0, 1, 1])), r"reliability: there must be one label for each row, .* got \(2,\) rows and labels \(3,\)"),
        (lambda: reliability(HALF[:0], jnp.array([], int)), "reliability: there must be one label for each row, and at least one row"),
        (lambda: reliability(HALF, jnp.array([0, 1]), num_bins=0), "reliability: num_bins must be >= 1, got 0"),
        (lambda: temperature_scaling(HALF, jnp.array([0])), "temperature_scaling: there must be one label"),
        (lambda: vector_scaling(HALF, jnp.array([0])), "vector_scaling: there must be one label"),
        (lambda: platt_scaling(HALF[0], jnp.array([0])), "platt_scaling: there must be one label"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_refusals(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
