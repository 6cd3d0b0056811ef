"""Generalisation measured: bias and variance, cross-validation, learning curves, double descent, each one vmapped sweep.

What is measured is any *fit*, a pure function `(key, x, y, weights) -> predict`. An example outside of a fold has weight 0, so that training
sets of all sizes share one program; `fit_learner` makes a fit of a learner, `dljax.supervised.linear` has some in closed form.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int
from dljax.core.contract import Key, Learner, Numeric, start
from dljax.core.unroll import unroll
from dljax.data.sources import repeat
from dljax.supervised.learner import PerExample
from dljax.supervised.linear import Fit, Predict


class BiasVariance(NamedTuple):
    """The parts of the expected squared error at each test point, [M] each.

    error = bias² + variance + noise
    """

    error: Float[Array, "M"]
    bias_squared: Float[Array, "M"]
    variance: Float[Array, "M"]
    noise: Float[Array, "M"]


class CrossValidation(NamedTuple):
    """Scores of K folds.

    Attributes:
      test: mean of the metric over each fold, by the fit that has not seen it.
      train: the same over the examples that it has seen.
      outputs: of each example by the fit that has not seen it: honest inputs for calibration and stacking.
      fold: of each example.
    """

    test: Float[Array, "K"]
    train: Float[Array, "K"]
    outputs: Float[Array, "N *out"]
    fold: Int[Array, "N"]


class Curve(NamedTuple):
    """Scores by size, R repetitions each.

    Attributes:
      sizes: examples or parameters.
      test, train: means of the metric.
    """

    sizes: Int[Array, "S"]
    test: Float[Array, "S R"]
    train: Float[Array, "S R"]


def fit_learner(learner: Learner, steps: int) -> Fit:
    """A learner trained for some steps on all examples at once, as a fit.

    Args:
      learner: its batches are dicts of x, y and mask, and it has a function `predict`, as `supervised` makes them.
      steps: >= 1.
    Returns:
      `fit(key, x, y, weights) -> predict`, pure: vmap it over keys and weights.
    Raises:
      ValueError: the learner has no function `predict`; `steps` < 1.

    >>> import optax
    >>> from dljax.objectives import squared_error
    >>> from dljax.supervised.learner import supervised
    >>> line = (lambda key, x: jnp.zeros(()), lambda slope, x: slope * x)
    >>> fit = fit_learner(supervised(line, squared_error, optax.sgd(0.1)), steps=100)
    >>> predict = fit(jax.random.key(0), jnp.arange(3.0), jnp.arange(3.0) * 2, jnp.ones(3))
    >>> predict(jnp.array([10.0])).round(3).tolist()
    [20.0]
    """
    if "predict" not in learner.functions:
        raise ValueError(f"fit_learner: learner must have a function `predict`, got {sorted(learner.functions) or 'none'}; `supervised` gives one")
    check_int("fit_learner", "steps", steps, minimum=1)

    def fit(key: Key, x: Any, y: Any, weights: Float[Array, "N"]) -> Predict:
        source = repeat({"x": x, "y": y, "mask": weights})
        run_key, state, cursor = start(learner, source, key)
        state, _, _ = unroll(learner, source, steps, steps)(run_key, 0, state, cursor)
        return lambda x: learner.functions["predict"](run_key, learner.params(state), x)

    return fit


def bias_variance(key: Key, fit: Fit, x: Float[Array, "R N *in"], y: Array, x_test: Float[Array, "M *in"], y_test: Array) -> BiasVariance:
    """The squared error of fits to many training sets, taken apart.

      E (y - ŷ)² = (E y - E ŷ)² + Var ŷ + Var y

    E and Var are over the R training sets and the Q draws of the test targets, all pairs of them, and the identity holds for these finite
    numbers, up to rounding. Outputs of several numbers are summed over.

    Args:
      fit: `(key, x, y, weights) -> predict`; each training set has a key of its own.
      x, y: R training sets of N examples, y [R, N, ...]: fresh samples, bootstrap samples, or one x with R draws of the noise.
      y_test: Q draws of the targets of the M test points, [Q, M, ...]. One draw (of the mean, or all that there is) has no noise: then what
        noise it has counts as bias.
    Returns:
      error, bias², variance and noise of each test point.
    Raises:
      ValueError: x and y have not the same R and N, or x_test and y_test not the same M.

    >>> from dljax.supervised.linear import ridge
    >>> x = jnp.zeros((2, 1, 1))
    >>> parts = bias_variance(jax.random.key(0), ridge(), x, jnp.array([[0.0], [2.0]]), jnp.zeros((1, 1)), jnp.array([[3.0], [5.0]]))
    >>> [float(part[0]) for part in parts]  # predictions 0 and 2, targets 3 and 5
    [11.0, 9.0, 1.0, 1.0]
    """
    if x.shape[:2] != y.shape[:2]:
        raise ValueError(f"bias_variance: x and y must hold the same training sets [R, N, ...], got {x.shape} and {y.shape}")
    if y_test.ndim < 2 or y_test.shape[1] != len(x_test):
        raise ValueError(
            f"bias_variance: y_test must be draws [Q, {len(x_test)}, ...] of the targets of x_test, got {y_test.shape}; y_test[None] for one"
        )
    weights = jnp.ones(x.shape[1], x_test.dtype)
    outputs = jax.vmap(lambda key, x, y: fit(key, x, y, weights)(x_test))(jax.random.split(key, len(x)), x, y)
    if outputs.shape[1:] != y_test.shape[1:]:
        raise ValueError(f"bias_variance: outputs and y_test must have one shape, got {outputs.shape[1:]} and {y_test.shape[1:]}")
    outputs, targets = outputs.reshape(*outputs.shape[:2], -1), y_test.reshape(*y_test.shape[:2], -1)
    output, target = outputs.mean(0, keepdims=True), targets.mean(0, keepdims=True)
    error = jax.vmap(lambda one: jnp.square(one[None] - outputs).sum(-1).mean(0))(targets).mean(0)
    squares = (jnp.square(each).sum(-1).mean(0) for each in (target - output, outputs - output, targets - target))
    return BiasVariance(error, *squares)


def folds(num: int, num_folds: int, key: Key | None = None) -> Int[Array, "N"]:
    """The fold of each example: as equal in size as possible, the first ones larger by one where it does not come out even.

    Args:
      num: N, examples.
      num_folds: K, from 2 to N.
      key: None for consecutive examples, as scikit-learn's `KFold`; else a random order.
    Raises:
      ValueError: K outside [2, N].

    >>> folds(5, 2).tolist()
    [0, 0, 0, 1, 1]
    """
    check_int("folds", "num", num, minimum=2)
    if check_int("folds", "num_folds", num_folds, minimum=2) > num:
        raise ValueError(f"folds: num_folds {num_folds} is larger than the number of examples ({num}); use at most {num}, which leaves out one each")
    # ⌊(K i + K - 1) / N⌋ would be as equal, but which folds are larger would differ from what everybody's tables say.
    small, larger = divmod(num, num_folds)
    index = jnp.arange(num, dtype=jnp.int32)
    edge = larger * (small + 1)
    fold = jnp.where(index < edge, index // (small + 1), larger + (index - edge) // small)
    return fold if key is None else jax.random.permutation(key, fold)


def cross_validate(
    key: Key, fit: Fit, x: Float[Array, "N *in"], y: Array, *, metric: PerExample, num_folds: int = 5, fold: Int[Array, "_"] | None = None
) -> CrossValidation:
    """The score of a fit on examples that it has not seen, each example once: K fits in one vmap.

      score_k = 1/|F_k| Σ_{i ∈ F_k} metric(ŷ^{(-k)}(x_i), y_i)

    Args:
      fit: `(key, x, y, weights) -> predict`; the folds share the key, so that they differ in their data only.
      metric: `(outputs, y) -> [N]`, one value an example: `squared_error`, `accuracy`.
      num_folds: K, from 2 to N; not used where `fold` is given.
      fold: of each example, in [0, num_folds): `folds(N, K, key)` for a random order, or one's own, to keep groups together. None for consecutive
        examples, which is wrong for sorted data.
    Returns:
      Scores of the folds, and the outputs for every example out of its fold. Their mean and deviation are what is usually told.
    Raises:
      ValueError: K outside [2, N]; `fold` has another length than x; a metric that is averaged already.

    >>> from dljax.objectives import squared_error
    >>> from dljax.supervised.linear import ridge
    >>> result = cross_validate(jax.random.key(0), ridge(penalty=0.0), jnp.arange(6.0)[:, None], jnp.arange(6.0), metric=squared_error, num_folds=3)
    >>> result.test.round(4).tolist()
    [0.0, 0.0, 0.0]
    """
    fold = _checked_folds("cross_validate", len(x), num_folds, fold)

    def one(number: Int[Array, ""]) -> tuple[Array, Array, Array]:
        is_test = fold == number
        outputs = fit(key, x, y, (~is_test).astype(jnp.result_type(float)))(x)
        values = _values("cross_validate", metric, outputs, y)
        return _mean(values, is_test), _mean(values, ~is_test), outputs

    test, train, outputs = jax.vmap(one)(jnp.arange(num_folds))
    return CrossValidation(test, train, outputs[fold, jnp.arange(len(x))], fold)


def learning_curve(
    key: Key,
    fit: Fit,
    x: Float[Array, "N *in"],
    y: Array,
    *,
    sizes: Sequence[int],
    metric: PerExample,
    num_folds: int = 5,
    fold: Int[Array, "_"] | None = None,
) -> Curve:
    """The score by the number of training examples, cross-validated: S·K fits in one vmap.

    A training set of size n is the first n examples outside of the fold, so that smaller sets are parts of larger ones.

    Args:
      sizes: numbers of training examples, each from 1 to what the smallest training set has.
      fit, metric, num_folds, fold: as in `cross_validate`.
    Returns:
      A curve with R = K repetitions.
    Raises:
      ValueError: no sizes, or one outside of its range; what `cross_validate` raises.

    >>> from dljax.objectives import squared_error
    >>> from dljax.supervised.linear import ridge
    >>> x = jnp.arange(6.0)[:, None]
    >>> curve = learning_curve(jax.random.key(0), ridge(penalty=0.0), x, x[:, 0], sizes=[1, 2, 4], metric=squared_error, num_folds=3)
    >>> curve.test.mean(1).round(3)  # two points make a line
    Array([9.833, 0.   , 0.   ], dtype=float32)
    """
    fold = _checked_folds("learning_curve", len(x), num_folds, fold)
    # Of traced folds only the number is known: as equal as they can be, the largest has this many.
    largest = -(-len(x) // num_folds) if isinstance(fold, jax.core.Tracer) else int(jnp.bincount(fold, length=num_folds).max())
    _check_sizes("learning_curve", sizes, len(x) - largest)

    def one(size: Int[Array, ""], number: Int[Array, ""]) -> tuple[Array, Array]:
        is_test = fold == number
        is_train = ~is_test & (jnp.cumsum(~is_test) <= size)
        values = _values("learning_curve", metric, fit(key, x, y, is_train.astype(jnp.result_type(float)))(x), y)
        return _mean(values, is_test), _mean(values, is_train)

    each = jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))
    return Curve(jnp.asarray(sizes), *each(jnp.asarray(sizes), jnp.arange(num_folds)))


def double_descent(
    key: Key,
    fit: Callable[[Numeric], Fit],
    x: Float[Array, "N *in"],
    y: Array,
    x_test: Float[Array, "M *in"],
    y_test: Array,
    *,
    sizes: Sequence[int],
    metric: PerExample,
    num_seeds: int = 1,
) -> Curve:
    """The score by the size of the model, across the size at which it meets all training examples: S·R fits in one vmap.

    The test error of least squares falls, rises to a peak where there are as many parameters as examples, and falls again.

    Args:
      fit: `size -> fit`, with a traced size: `random_features(max(sizes))`.
      x, y, x_test, y_test: examples to fit, and to test on.
      sizes: S numbers of parameters, >= 1.
      metric: `(outputs, y) -> [N]`, one value an example.
      num_seeds: R, the keys that each size is fitted with; all sizes have the same keys.
    Returns:
      A curve.
    Raises:
      ValueError: no sizes, or one < 1; `num_seeds` < 1; a metric that is averaged already.
    Source: Belkin et al. (2019), Reconciling modern machine-learning practice and the classical bias-variance trade-off, PNAS 116.

    >>> from dljax.objectives import squared_error
    >>> from dljax.supervised.linear import random_features
    >>> x, noise = jax.random.normal(jax.random.key(0), (120, 5)), jax.random.normal(jax.random.key(1), (120,))
    >>> parts = x[:20], x[:20, 0] + noise[:20], x[20:], x[20:, 0] + noise[20:]
    >>> curve = double_descent(jax.random.key(2), random_features(200), *parts, sizes=[5, 20, 200], metric=squared_error, num_seeds=5)
    >>> few, threshold, many = jnp.median(curve.test, 1)
    >>> bool(threshold > 2 * few), bool(threshold > 2 * many)
    (True, True)
    """
    _check_sizes("double_descent", sizes, None)
    check_int("double_descent", "num_seeds", num_seeds, minimum=1)
    weights = jnp.ones(len(x))

    def one(size: Int[Array, ""], key: Key) -> tuple[Array, Array]:
        predict = fit(size)(key, x, y, weights)
        test, train = (_values("double_descent", metric, predict(inputs), targets) for inputs, targets in ((x_test, y_test), (x, y)))
        return test.mean(), train.mean()

    each = jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))
    return Curve(jnp.asarray(sizes), *each(jnp.asarray(sizes), jax.random.split(key, num_seeds)))


def _checked_folds(who: str, num: int, num_folds: int, fold: Array | None) -> Array:
    fold = folds(num, num_folds) if fold is None else fold
    if fold.shape != (num,):
        raise ValueError(f"{who}: fold must have a number for each of the {num} examples, got {fold.shape}")
    check_int(who, "num_folds", num_folds, minimum=2, maximum=num)
    return fold


def _check_sizes(who: str, sizes: Sequence[int], most: int | None) -> None:
    if len(sizes) == 0:
        raise ValueError(f"{who}: sizes must name at least one size")
    for size in sizes:
        check_int(who, "sizes", size, minimum=1, maximum=most)


def _values(who: str, metric: PerExample, outputs: Array, targets: Array) -> Array:
    values = metric(outputs, targets)
    if values.shape != (len(outputs),):
        raise ValueError(f"{who}: metric must return one value an example, [{len(outputs)}], got {values.shape}")
    return values


def _mean(values: Array, where: Array) -> Array:
    """Not a product alone: a fit may be wild where it was not asked."""
    return jnp.where(where, values, 0).sum() / where.sum()
