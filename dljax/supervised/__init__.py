"""Learners that fit a target."""

from dljax.supervised.generalisation import (
    BiasVariance,
    CrossValidation,
    Curve,
    bias_variance,
    cross_validate,
    double_descent,
    fit_learner,
    folds,
    learning_curve,
)  # fmt: skip
from dljax.supervised.learner import PerExample, SupervisedState, supervised
from dljax.supervised.linear import Fit, Predict, random_features, ridge

__all__ = [
    "BiasVariance", "CrossValidation", "Curve", "Fit", "PerExample", "Predict", "SupervisedState", "bias_variance", "cross_validate",
    "double_descent", "fit_learner", "folds", "learning_curve", "random_features", "ridge", "supervised",
]  # fmt: skip
