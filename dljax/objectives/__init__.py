"""Losses, divergences, penalties and metrics: functions of arrays."""

from dljax.objectives.adversarial import (
    ADVERSARIAL_LOSSES,
    AdversarialLoss,
    expected_losses,
    f_gan,
    hinge,
    label_smoothing,
    least_squares,
    least_squares_loss,
    minimax,
    non_saturating,
    pearson,
    relativistic,
    relativistic_average,
    wasserstein,
)
from dljax.objectives.contrastive import contrastive_loss, info_nce, nt_xent, triplet_loss
from dljax.objectives.coverage import mode_coverage
from dljax.objectives.divergences import hellinger_distance, js_divergence, kl_divergence, total_variation, wasserstein_distance
from dljax.objectives.f_gan import F_DIVERGENCES, FDivergence, f_divergence
from dljax.objectives.gradient_penalties import gradient_penalty, r1, r2
from dljax.objectives.losses import (
    absolute_error,
    cosine_distance,
    cross_entropy,
    focal_loss,
    huber_loss,
    log_cosh,
    quantile_loss,
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
    softmax_cross_entropy,
    squared_error,
)
from dljax.objectives.margins import hinge_loss, logistic_loss, multiclass_hinge_loss
from dljax.objectives.metrics import accuracy, area_under_roc, average_precision, top_k
from dljax.objectives.penalties import elastic_net, group_lasso, l1, l2, max_norm, nuclear, orthogonal
from dljax.objectives.sample_quality import frechet_distance, inception_score, precision_recall, sample_frechet_distance
from dljax.objectives.sequence import ctc_loss, edit_distance
from dljax.objectives.translation import chrf

__all__ = [
    "ADVERSARIAL_LOSSES", "F_DIVERGENCES", "AdversarialLoss", "FDivergence", "absolute_error", "accuracy", "area_under_roc", "average_precision",
    "chrf", "contrastive_loss", "cosine_distance", "cross_entropy", "ctc_loss", "edit_distance", "elastic_net", "expected_losses", "f_divergence",
    "f_gan", "focal_loss", "frechet_distance", "gradient_penalty", "group_lasso", "hellinger_distance", "hinge", "hinge_loss", "huber_loss",
    "inception_score", "info_nce", "js_divergence", "kl_divergence", "l1", "l2", "label_smoothing", "least_squares", "least_squares_loss", "log_cosh",
    "logistic_loss", "max_norm", "minimax", "mode_coverage", "multiclass_hinge_loss", "non_saturating", "nt_xent", "nuclear", "orthogonal", "pearson",
    "precision_recall", "quantile_loss", "r1", "r2", "relativistic", "relativistic_average", "sample_frechet_distance",
    "sigmoid_binary_cross_entropy", "sigmoid_focal_loss", "softmax_cross_entropy", "squared_error", "top_k", "total_variation", "triplet_loss",
    "wasserstein", "wasserstein_distance",
]  # fmt: skip
