"""Losses, divergences, penalties and metrics: functions of arrays."""

from dljax.objectives.adversarial import AdversarialLoss, gradient_penalty, hinge, least_squares, minimax, non_saturating, r1, wasserstein
from dljax.objectives.coverage import mode_coverage
from dljax.objectives.losses import cosine_distance, cross_entropy, huber_loss, sigmoid_binary_cross_entropy, squared_error
from dljax.objectives.metrics import accuracy, top_k
from dljax.objectives.penalties import elastic_net, group_lasso, l1, l2, max_norm, nuclear, orthogonal

__all__ = [
    "AdversarialLoss", "accuracy", "cosine_distance", "cross_entropy", "elastic_net", "gradient_penalty", "group_lasso", "hinge", "huber_loss",
    "l1", "l2", "least_squares", "max_norm", "minimax", "mode_coverage", "non_saturating", "nuclear", "orthogonal", "r1",
    "sigmoid_binary_cross_entropy", "squared_error", "top_k", "wasserstein",
]  # fmt: skip
