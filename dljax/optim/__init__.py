"""Gradient transformations and minimisers, first order to evolution.

What optax has and is not replaced here (`adam`, `chain`, `cosine_decay_schedule` ...) is found here too, and refuses a negative learning rate.
`lbfgs` here is a method of `minimize`; the gradient transformation of that name is `optax.lbfgs`.
"""

from typing import Any

from dljax.core.rule import Problem, Seen, UpdateRule, first_order
from dljax.core.tree import path_mask
from dljax.optim.cma_es import CMAState, cma_es
from dljax.optim.descent import descent, gradient_descent, nonlinear_cg
from dljax.optim.evolution import EvolutionState, Strategy, cross_entropy_method, evolution_strategy, evolve, genetic_algorithm, random_search
from dljax.optim.first_order import amsgrad, checked, hypergradient, nadam
from dljax.optim.fisher import Likelihood, fisher_product, gauss_newton_product
from dljax.optim.frozen import frozen
from dljax.optim.hebbian import HebbianState, oja
from dljax.optim.hessian_free import HessianFreeState, hessian_free
from dljax.optim.kfac import KFACConfig, KFACState, kfac
from dljax.optim.kronecker import kronecker_layers
from dljax.optim.lbfgs import lbfgs
from dljax.optim.least_squares import gauss_newton, least_squares, levenberg_marquardt
from dljax.optim.line_search import Found, LineSearch, backtracking, exact_quadratic, line_search, strong_wolfe
from dljax.optim.method import Method
from dljax.optim.minimize import METHODS, MinimizeResult, MinimizerState, Path, message, minimize, minimizer
from dljax.optim.natural_evolution import centred_ranks, openai_es, smoothed_gradient, snes, xnes
from dljax.optim.natural_gradient import NaturalGradientState, natural_gradient
from dljax.optim.newton import damped_newton, newton, newton_cg
from dljax.optim.projected import HistoricalAverageState, historical_averaging, projected
from dljax.optim.proximal import (
    Prox,
    decayed_weights,
    elastic_net_threshold,
    group_threshold,
    on_paths,
    project_max_norm,
    singular_value_threshold,
    soft_threshold,
)
from dljax.optim.proximal_gradient import proximal_gradient, proximal_step
from dljax.optim.quasi_newton import bfgs, dfp, sr1

__all__ = [
    "METHODS", "CMAState", "EvolutionState", "Found", "HebbianState", "HessianFreeState", "HistoricalAverageState", "KFACConfig", "KFACState",
    "Likelihood", "LineSearch", "Method", "MinimizeResult", "MinimizerState", "NaturalGradientState", "Path", "Problem", "Prox", "Seen",
    "Strategy", "UpdateRule", "amsgrad", "backtracking", "bfgs", "centred_ranks", "cma_es", "cross_entropy_method", "damped_newton",
    "decayed_weights", "descent", "dfp", "elastic_net_threshold", "evolution_strategy", "evolve", "exact_quadratic", "first_order",
    "fisher_product", "frozen", "gauss_newton", "gauss_newton_product", "genetic_algorithm", "gradient_descent", "group_threshold",
    "hessian_free", "historical_averaging", "hypergradient", "kfac", "kronecker_layers", "lbfgs", "least_squares", "levenberg_marquardt",
    "line_search", "message", "minimize", "minimizer", "nadam", "natural_gradient", "newton", "newton_cg", "nonlinear_cg", "oja", "on_paths",
    "openai_es", "path_mask", "project_max_norm", "projected", "proximal_gradient", "proximal_step", "random_search", "singular_value_threshold",
    "smoothed_gradient", "snes", "soft_threshold", "sr1", "strong_wolfe", "xnes",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    try:
        return checked(name)
    except AttributeError:
        raise AttributeError(f"neither {__name__} nor optax has an attribute {name!r}") from None
