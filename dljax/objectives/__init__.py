"""Losses, divergences, penalties and metrics: functions of arrays."""

from dljax.objectives.losses import cosine_distance, cross_entropy, huber_loss, sigmoid_binary_cross_entropy, squared_error
from dljax.objectives.metrics import accuracy, top_k

__all__ = ["accuracy", "cosine_distance", "cross_entropy", "huber_loss", "sigmoid_binary_cross_entropy", "squared_error", "top_k"]
