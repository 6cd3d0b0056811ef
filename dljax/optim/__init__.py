"""Gradient transformations and minimisers, first order to evolution."""

from dljax.optim.descent import descent, gradient_descent, nonlinear_cg
from dljax.optim.lbfgs import lbfgs
from dljax.optim.least_squares import gauss_newton, least_squares, levenberg_marquardt
from dljax.optim.line_search import Found, LineSearch, backtracking, exact_quadratic, line_search, strong_wolfe
from dljax.optim.method import Method
from dljax.optim.minimize import METHODS, MinimizeResult, MinimizerState, Path, done, message, minimize, minimizer
from dljax.optim.newton import damped_newton, newton, newton_cg
from dljax.optim.quasi_newton import bfgs, dfp, sr1

__all__ = [
    "METHODS", "Found", "LineSearch", "Method", "MinimizeResult", "MinimizerState", "Path", "backtracking", "bfgs", "damped_newton", "descent",
    "dfp", "done", "exact_quadratic", "gauss_newton", "gradient_descent", "lbfgs", "least_squares", "levenberg_marquardt", "line_search", "message",
    "minimize", "minimizer", "newton", "newton_cg", "nonlinear_cg", "sr1", "strong_wolfe",
]  # fmt: skip
