"""Learners that fit a target."""

from dljax.supervised.batch_statistics import refreshed
from dljax.supervised.calibration import (
    Reliability,
    Scaling,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    platt_scaling,
    reliability,
    temperature_scaling,
    vector_scaling,
)
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
)
from dljax.supervised.learner import PerExample, SupervisedState, supervised
from dljax.supervised.linear import Fit, Predict, random_features, ridge
from dljax.supervised.scheduled_sampling import scheduled_sampling

__all__ = [
    "BiasVariance", "CrossValidation", "Curve", "Fit", "PerExample", "Predict", "Reliability", "Scaling", "SupervisedState", "bias_variance",
    "brier_score", "classwise_calibration_error", "cross_validate", "double_descent", "expected_calibration_error", "fit_learner", "folds",
    "learning_curve", "platt_scaling", "random_features", "refreshed", "reliability", "ridge", "scheduled_sampling", "supervised",
    "temperature_scaling", "vector_scaling",
]  # fmt: skip
