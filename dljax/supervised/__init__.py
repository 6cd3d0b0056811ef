"""Learners that fit a target."""

from dljax.supervised.learner import PerExample, SupervisedState, supervised

__all__ = ["PerExample", "SupervisedState", "supervised"]
