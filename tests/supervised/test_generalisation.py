"""Generalisation: identities in float64, closed forms, and scikit-learn's numbers for the same splits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold, cross_val_predict, cross_val_score
from sklearn.model_selection import learning_curve as sklearn_learning_curve
from sklearn.neighbors import KNeighborsRegressor

from dljax.objectives import squared_error
from dljax.supervised import bias_variance, cross_validate, double_descent, fit_learner, folds, learning_curve, random_features, ridge, supervised

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X, Y = load_diabetes(return_X_y=True)
X, Y = X[:103] / X.std(0), (Y[:103] - Y.mean()) / Y.std()  # 103: no fold comes out even


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def arrays(*values):
    return [jnp.asarray(value, jnp.float64) for value in values]


def nearest(k):
    """k nearest neighbours among the examples of positive weight."""

    def fit(key, x, y, weights):
        def predict(inputs):
            distance = jnp.square(inputs[:, None] - x[None]).sum(-1) + jnp.where(weights[None] > 0, 0, jnp.inf)
            return y[jax.lax.top_k(-distance, k)[1]].mean(1)

        return predict

    return fit


@pytest.mark.parametrize("fit", [ridge(penalty=2.0), nearest(3), random_features(8, penalty=1e-3)(8)], ids=["ridge", "k-NN", "random features"])
def test_4_4_error_is_bias_squared_plus_variance_plus_noise(fit):
    parts = jax.jit(lambda *data: bias_variance(KEY, fit, *data))(*arrays(
        RNG.normal(size=(20, 15, 4)), RNG.normal(size=(20, 15, 2)), RNG.normal(size=(9, 4)), RNG.normal(size=(30, 9, 2))
    ))  # fmt: skip
    np.testing.assert_allclose(parts.error, parts.bias_squared + parts.variance + parts.noise, rtol=1e-12)
    assert all((np.asarray(part) > 0).all() for part in parts)


def noisy_sets(f, deviation):
    """2N draws of N targets whose mean is f and whose covariance is that of independent noise, exactly."""
    num = len(f)
    noise = deviation * np.sqrt(num) * np.concatenate([np.eye(num), -np.eye(num)])
    return f[None] + noise


def test_4_4_bias_and_variance_are_the_closed_forms_of_linear_smoothers():
    num, deviation, penalty = 25, 0.5, 0.1
    x, x_test = np.sort(RNG.uniform(-1, 1, num)), np.linspace(-1, 1, 11)
    f, f_test = np.sin(3 * x), np.sin(3 * x_test)

    def powers(x):
        return np.stack([x**power for power in range(6)], -1)  # a polynomial of degree 5

    hat_ridge = powers(x_test) @ np.linalg.solve(powers(x).T @ powers(x) + penalty * np.eye(6), powers(x).T)
    order = np.argsort(np.abs(x_test[:, None] - x[None]), axis=1)[:, :4]
    hat_neighbours = np.zeros((11, num))
    np.put_along_axis(hat_neighbours, order, 1 / 4, axis=1)
    targets = noisy_sets(f, deviation)
    test_targets = np.stack([f_test + deviation, f_test - deviation])
    cases = {
        "ridge": (ridge(penalty=penalty, intercept=False), hat_ridge, powers(x), powers(x_test)),
        "k-NN": (nearest(4), hat_neighbours, x[:, None], x_test[:, None]),
    }
    for name, (fit, hat, inputs, inputs_test) in cases.items():
        sets = np.broadcast_to(inputs, (len(targets), *inputs.shape))
        parts = jax.jit(lambda *data, fit=fit: bias_variance(KEY, fit, *data))(*arrays(sets, targets, inputs_test, test_targets))
        np.testing.assert_allclose(parts.bias_squared, (f_test - hat @ f) ** 2, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(parts.variance, deviation**2 * (hat**2).sum(1), rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(parts.noise, deviation**2, rtol=1e-12, err_msg=name)


def test_4_4_folds_are_scikit_learns():
    for num, num_folds in [(103, 5), (10, 10), (7, 2), (12, 3)]:
        expected = np.empty(num, int)
        for number, (_, test) in enumerate(KFold(num_folds).split(np.zeros(num))):
            expected[test] = number
        np.testing.assert_array_equal(folds(num, num_folds), expected)
    shuffled = folds(103, 5, KEY)
    np.testing.assert_array_equal(np.sort(shuffled), folds(103, 5))
    assert (shuffled != folds(103, 5)).any()


def test_4_4_cross_validated_ridge_is_scikit_learns():
    result = jax.jit(lambda x, y: cross_validate(KEY, ridge(penalty=3.0), x, y, metric=squared_error))(*arrays(X, Y))
    np.testing.assert_allclose(result.test, -cross_val_score(Ridge(3.0), X, Y, cv=KFold(5), scoring="neg_mean_squared_error"), rtol=1e-10)
    np.testing.assert_allclose(result.outputs, cross_val_predict(Ridge(3.0), X, Y, cv=KFold(5)), rtol=1e-9, atol=1e-12)
    expected = [np.mean((Ridge(3.0).fit(X[train], Y[train]).predict(X[train]) - Y[train]) ** 2) for train, _ in KFold(5).split(X)]
    np.testing.assert_allclose(result.train, expected, rtol=1e-10)


def test_4_4_leaving_one_out_is_the_formula_of_the_leverages():
    result = jax.jit(lambda x, y: cross_validate(KEY, ridge(penalty=0.0), x, y, metric=squared_error, num_folds=30))(*arrays(X[:30], Y[:30]))
    design = np.concatenate([np.ones((30, 1)), X[:30]], 1)
    hat = design @ np.linalg.pinv(design)
    np.testing.assert_allclose(result.test, ((Y[:30] - hat @ Y[:30]) / (1 - np.diag(hat))) ** 2, rtol=1e-8)


def test_4_4_cross_validated_neighbours_are_scikit_learns_with_ones_own_folds():
    fold = jnp.asarray(RNG.permutation(np.arange(103) % 4))
    result = jax.jit(lambda x, y: cross_validate(KEY, nearest(5), x, y, metric=squared_error, num_folds=4, fold=fold))(*arrays(X, Y))
    for number in range(4):
        seen = np.asarray(fold) != number
        predicted = KNeighborsRegressor(5).fit(X[seen], Y[seen]).predict(X[~seen])
        np.testing.assert_allclose(result.test[number], np.mean((predicted - Y[~seen]) ** 2), rtol=1e-10)


def test_4_4_learning_curve_is_scikit_learns():
    sizes = [3, 10, 40, 82]
    x, y = arrays(X, Y)
    curve = jax.jit(lambda x, y: learning_curve(KEY, ridge(penalty=1.0), x, y, sizes=sizes, metric=squared_error))(x, y)
    ours, train, test = sklearn_learning_curve(Ridge(1.0), X, Y, train_sizes=sizes, cv=KFold(5), scoring="neg_mean_squared_error")
    np.testing.assert_array_equal(curve.sizes, ours)
    np.testing.assert_allclose(curve.test, -test, rtol=1e-9)
    np.testing.assert_allclose(curve.train, -train, rtol=1e-9)


def test_4_4_least_squares_of_smallest_norm_is_scikit_learns_and_pinvs():
    wide = RNG.normal(size=(8, 20))
    x, y = arrays(wide, Y[:8])
    predict = ridge(penalty=0.0, intercept=False)(KEY, x, y, jnp.ones(8))
    np.testing.assert_allclose(predict(jnp.eye(20)), np.linalg.pinv(wide) @ Y[:8], rtol=1e-9)
    weights = np.arange(103.0) % 3  # zero: as if it were not there
    x, y = arrays(X, Y)
    ours = ridge(penalty=0.0)(KEY, x, y, jnp.asarray(weights))(x)
    np.testing.assert_allclose(ours, LinearRegression().fit(X, Y, weights).predict(X), rtol=1e-8, atol=1e-10)
    ours = ridge(penalty=5.0)(KEY, x, y, jnp.asarray(weights))(x)
    np.testing.assert_allclose(ours, Ridge(5.0).fit(X, Y, weights).predict(X), rtol=1e-8, atol=1e-10)
    nothing = ridge(penalty=0.0)(KEY, x, y, jnp.zeros(103))(x)
    np.testing.assert_array_equal(nothing, 0)


def test_4_4_double_descent_peaks_at_the_interpolation_threshold():
    x, y = arrays(X[:80], Y[:80])
    sizes = [4, 10, 18, 20, 22, 60, 300]
    curve = jax.jit(
        lambda: double_descent(KEY, random_features(300), x[:20], y[:20], x[20:], y[20:], sizes=sizes, metric=squared_error, num_seeds=30)
    )()
    error = np.median(curve.test, 1)
    assert sizes[int(error.argmax())] == 20
    assert error[3] > 5 * max(error[0], error[-1])
    train = np.median(curve.train, 1)
    assert (train[3:] < 1e-12).all()  # from the threshold on all examples are met
    assert (train[:3] > 1e-4).all()


def test_4_4_a_learner_is_a_fit_and_weights_leave_examples_out():
    x, y = arrays(X[:40], Y[:40])
    line = (lambda key, x: {"w": jnp.zeros(x.shape[-1]), "b": jnp.zeros(())}, lambda params, x: x @ params["w"] + params["b"])
    fit = fit_learner(supervised(line, squared_error, optax.sgd(0.05)), steps=4000)
    result = jax.jit(lambda x, y: cross_validate(KEY, fit, x, y, metric=squared_error, num_folds=2))(x[:, :3], y)
    expected = cross_val_score(LinearRegression(), X[:40, :3], Y[:40], cv=KFold(2), scoring="neg_mean_squared_error")
    np.testing.assert_allclose(result.test, -expected, rtol=1e-6)


def test_4_4_refusals():
    x, y = arrays(X[:6], Y[:6])
    with pytest.raises(ValueError, match="folds: num_folds 7 is larger than the number of examples .6.; use at most 6"):
        cross_validate(KEY, ridge(), x, y, metric=squared_error, num_folds=7)
    with pytest.raises(ValueError, match="folds: num_folds must be >= 2, got 1"):
        learning_curve(KEY, ridge(), x, y, sizes=[1], metric=squared_error, num_folds=1)
    with pytest.raises(ValueError, match=r"cross_validate: fold must have a number for each of the 6 examples, got \(5,\)"):
        cross_validate(KEY, ridge(), x, y, metric=squared_error, fold=jnp.zeros(5, jnp.int32))
    with pytest.raises(ValueError, match=r"cross_validate: metric must return one value an example, \[6\], got \(\)"):
        cross_validate(KEY, ridge(), x, y, metric=lambda outputs, y: squared_error(outputs, y).mean(), num_folds=2)
    with pytest.raises(ValueError, match="learning_curve: sizes must be between 1 and 3, got 4"):
        learning_curve(KEY, ridge(), x, y, sizes=[1, 4], metric=squared_error, num_folds=2)
    with pytest.raises(ValueError, match="learning_curve: sizes must name at least one size"):
        learning_curve(KEY, ridge(), x, y, sizes=[], metric=squared_error, num_folds=2)
    with pytest.raises(ValueError, match="double_descent: sizes must be >= 1, got 0"):
        double_descent(KEY, random_features(4), x, y, x, y, sizes=[0], metric=squared_error)
    with pytest.raises(ValueError, match="double_descent: num_seeds must be >= 1, got 0"):
        double_descent(KEY, random_features(4), x, y, x, y, sizes=[1], metric=squared_error, num_seeds=0)
    with pytest.raises(ValueError, match=r"ridge: penalty must be in \[0, inf\), got -1"):
        ridge(penalty=-1)
    with pytest.raises(ValueError, match=r"random_features: num_features must be in \[1, 4\], got 5"):
        random_features(4)(5)
    with pytest.raises(ValueError, match="random_features: max_features must be >= 1, got 0"):
        random_features(0)
    with pytest.raises(ValueError, match=r"bias_variance: x and y must hold the same training sets .* got \(2, 3, 10\) and \(1, 6\)"):
        bias_variance(KEY, ridge(), x.reshape(2, 3, 10), y[None], x, y[None])
    with pytest.raises(
        ValueError, match=r"bias_variance: y_test must be draws \[Q, 6, ...\] of the targets of x_test, got \(6,\); y_test\[None\] for one"
    ):
        bias_variance(KEY, ridge(), x[None], y[None], x, y)
    with pytest.raises(ValueError, match="fit_learner: learner must have a function `predict`, got none"):
        fit_learner(supervised((lambda key, x: (), lambda params, x: x), squared_error, optax.sgd(0.1))._replace(functions={}), 1)
    with pytest.raises(ValueError, match="fit_learner: steps must be >= 1, got 0"):
        fit_learner(supervised((lambda key, x: (), lambda params, x: x), squared_error, optax.sgd(0.1)), 0)
