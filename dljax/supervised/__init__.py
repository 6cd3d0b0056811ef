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
from dljax.supervised.learner import PerExample, SupervisedState, supervised

__all__ = [
    "PerExample", "Reliability", "Scaling", "SupervisedState", "brier_score", "classwise_calibration_error", "expected_calibration_error",
    "platt_scaling", "refreshed", "reliability", "supervised", "temperature_scaling", "vector_scaling",
]  # fmt: skip
