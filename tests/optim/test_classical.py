"""Twenty classical problems from their standard starts: as many solved as scipy's method of the same name solves."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classical import PROBLEMS, all_residuals, is_solved, starts
from scipy import optimize

from dljax.optim import least_squares, minimize

pytestmark = pytest.mark.slow

TOLERANCE = 1e-8
PEERS = {
    "bfgs": ("BFGS", {"gtol": TOLERANCE}),
    "damped-newton": ("Newton-CG", {"xtol": TOLERANCE}),
    "l-bfgs": ("L-BFGS-B", {"gtol": TOLERANCE, "ftol": 0.0}),
    "newton-cg": ("trust-ncg", {"gtol": TOLERANCE}),
    "nonlinear-cg": ("CG", {"gtol": TOLERANCE}),
}
# Without a peer: at least so many.
ALONE = {"dfp": 20, "gauss-newton": 18, "gradient-descent": 8, "newton": 12, "sr1": 19}


def value(number, x):
    return (all_residuals(number, x) ** 2).sum()


def solved(method: str) -> int:
    """How many problems one compiled program solves."""
    if method in ("gauss-newton", "levenberg-marquardt"):
        one = jax.jit(lambda number, x: least_squares(lambda x: all_residuals(number, x), x, method=method, tolerance=TOLERANCE).x)
    else:
        one = jax.jit(lambda number, x: minimize(lambda x: value(number, x), x, method=method, tolerance=TOLERANCE).x)
    return count(one)


def count(solve) -> int:
    final = jax.jit(value)
    found = [final(number, jnp.asarray(solve(number, x))) for number, x in enumerate(starts())]
    return sum(is_solved(problem, float(f)) for problem, f in zip(PROBLEMS.values(), found, strict=True))


@pytest.mark.parametrize("method", PEERS)
def test_3_3_as_many_classical_problems_are_solved_as_by_scipy(method):
    peer, options = PEERS[method]
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = jax.jit(jax.value_and_grad(value, 1))
        product = jax.jit(lambda number, x, v: jax.jvp(lambda x: jax.grad(value, 1)(number, x), (x,), (v,))[1])

        def solve(number, x):
            further = {"hessp": lambda x, v: np.asarray(product(number, x, v))} if peer in ("Newton-CG", "trust-ncg") else {}
            return optimize.minimize(
                lambda x: jax.tree.map(np.asarray, both(number, x)), x, jac=True, method=peer, options={"maxiter": 1000} | options, **further
            ).x

        assert solved(method) >= count(solve)


def test_3_3_levenberg_marquardt_solves_as_many_as_minpack():
    with jax.enable_x64(True):
        residuals, jacobian = jax.jit(all_residuals), jax.jit(jax.jacfwd(all_residuals, 1))

        def solve(number, x):
            arguments = {"method": "lm", "max_nfev": 1000, "xtol": 1e-15, "ftol": 1e-15, "gtol": TOLERANCE}
            return optimize.least_squares(lambda x: np.asarray(residuals(number, x)), x, lambda x: np.asarray(jacobian(number, x)), **arguments).x

        assert solved("levenberg-marquardt") >= count(solve) == len(PROBLEMS)


@pytest.mark.parametrize("method", ALONE)
def test_3_3_classical_problems_of_methods_that_scipy_lacks(method):
    with jax.enable_x64(True):
        assert solved(method) >= ALONE[method]
