"""Gradient transformations and minimisers, first order to evolution.

What optax has and is not replaced here (`adam`, `chain`, `cosine_decay_schedule` ...) is found here too, and refuses a negative learning rate.
`lbfgs` here is a method of `minimize`; the gradient transformation of that name is `optax.lbfgs`.
"""

from typing import Any

from dljax.optim.cma_es import CMAState, cma_es
from dljax.optim.descent import descent, gradient_descent, nonlinear_cg
from dljax.optim.evolution import EvolutionState, Strategy, cross_entropy_method, evolution_strategy, evolve, genetic_algorithm, random_search
from dljax.optim.first_order import amsgrad, checked, hypergradient, nadam
from dljax.optim.hebbian import HebbianState, oja
from dljax.optim.lbfgs import lbfgs
from dljax.optim.least_squares import gauss_newton, least_squares, levenberg_marquardt
from dljax.optim.line_search import Found, LineSearch, backtracking, exact_quadratic, line_search, strong_wolfe
from dljax.optim.method import Method
from dljax.optim.minimize import METHODS, MinimizeResult, MinimizerState, Path, message, minimize, minimizer
from dljax.optim.natural_evolution import centred_ranks, openai_es, smoothed_gradient, snes, xnes
from dljax.optim.newton import damped_newton, newton, newton_cg
from dljax.optim.quasi_newton import bfgs, dfp, sr1

__all__ = [
    "METHODS", "CMAState", "EvolutionState", "Found", "HebbianState", "LineSearch", "Method", "MinimizeResult", "MinimizerState", "Path",
    "Strategy", "amsgrad", "backtracking", "bfgs", "centred_ranks", "cma_es", "cross_entropy_method", "damped_newton", "descent", "dfp",
    "evolution_strategy", "evolve", "exact_quadratic", "gauss_newton", "genetic_algorithm", "gradient_descent", "hypergradient", "lbfgs",
    "least_squares", "levenberg_marquardt", "line_search", "message", "minimize", "minimizer", "nadam", "newton", "newton_cg", "nonlinear_cg",
    "oja", "openai_es", "random_search", "smoothed_gradient", "snes", "sr1", "strong_wolfe", "xnes",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    try:
        return checked(name)
    except AttributeError:
        raise AttributeError(f"neither {__name__} nor optax has an attribute {name!r}") from None
