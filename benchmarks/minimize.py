"""Problems solved and evaluations needed, counted beside scipy: twenty of Moré, Garbow and Hillstrom from their standard starts.

Counts, not times: they are the same on every machine. A problem is solved where f comes within 1e-6 of a minimum's value; an evaluation is one of f
with its gradient (of the residuals for least squares), and products with the Hessian are not counted on either side. All is in float64, with a
tolerance of 1e-8 on the gradient and at most 1,000 iterations. The problems are those of the tests.
"""

import argparse
import json
import statistics
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "optim"))

import jax
import jax.numpy as jnp
import numpy as np
from classical import PROBLEMS, all_residuals, is_solved, starts
from scipy import optimize

from dljax.optim import least_squares, minimize

TOLERANCE = 1e-8
PEERS = {
    "bfgs": ("BFGS", {"gtol": TOLERANCE}),
    "damped-newton": ("Newton-CG", {"xtol": TOLERANCE}),
    "l-bfgs": ("L-BFGS-B", {"gtol": TOLERANCE, "ftol": 0.0, "maxfun": 100_000}),
    "levenberg-marquardt": ("MINPACK lm", {}),
    "newton-cg": ("trust-ncg", {"gtol": TOLERANCE}),
    "nonlinear-cg": ("CG", {"gtol": TOLERANCE}),
    "dfp": None, "gauss-newton": None, "gradient-descent": None, "newton": None, "sr1": None,
}  # fmt: skip
QUICK = ("bfgs", "l-bfgs")
Found = list[tuple[float, int]]  # f and evaluations of each problem


def value(number, x):
    return (all_residuals(number, x) ** 2).sum()


def ours(method: str) -> Found:
    """One compiled program for all problems."""
    if method in ("gauss-newton", "levenberg-marquardt"):
        solve = jax.jit(lambda number, x: least_squares(lambda x: all_residuals(number, x), x, method=method, tolerance=TOLERANCE))
    else:
        solve = jax.jit(lambda number, x: minimize(lambda x: value(number, x), x, method=method, tolerance=TOLERANCE))
    found = []
    for number, x in enumerate(starts()):
        result = solve(number, x)
        found.append((float(value(number, result.x)), int(result.evaluations)))
    return found


class Counted:
    """A function that knows how often it was called."""

    def __init__(self, function) -> None:
        self.function, self.calls = function, 0

    def __call__(self, x):
        self.calls += 1
        return jax.tree.map(np.asarray, self.function(x))


def theirs(peer: str, options: dict) -> Found:
    both = jax.jit(jax.value_and_grad(value, 1))
    product = jax.jit(lambda number, x, v: jax.jvp(lambda x: jax.grad(value, 1)(number, x), (x,), (v,))[1])
    residuals, jacobian = jax.jit(all_residuals), jax.jit(jax.jacfwd(all_residuals, 1))
    found = []
    for number, x in enumerate(starts()):
        if peer == "MINPACK lm":
            fun = Counted(lambda x, number=number: residuals(number, x))
            arguments = {"method": "lm", "max_nfev": 1000, "xtol": 1e-15, "ftol": 1e-15, "gtol": TOLERANCE}
            result = optimize.least_squares(fun, x, lambda x, number=number: np.asarray(jacobian(number, x)), **arguments)
        else:
            fun = Counted(lambda x, number=number: both(number, x))
            further = {"hessp": lambda x, v, number=number: np.asarray(product(number, x, v))} if peer in ("Newton-CG", "trust-ncg") else {}
            result = optimize.minimize(fun, x, jac=True, method=peer, options={"maxiter": 1000} | options, **further)
        found.append((float(value(number, jnp.asarray(result.x))), fun.calls))
    return found


def shown(found: Found | None, number: int) -> str:
    """Evaluations, or a dash where it was not solved."""
    if found is None:
        return ""
    f, evaluations = found[number]
    return str(evaluations) if is_solved(list(PROBLEMS.values())[number], f) else "–"


def num_solved(found: Found) -> int:
    return sum(is_solved(problem, f) for problem, (f, _) in zip(PROBLEMS.values(), found, strict=True))


def markdown(results: dict[str, tuple[Found, Found | None]]) -> str:
    """A line a problem: evaluations of ours and of scipy's; a dash is a problem that was not solved."""
    heads = [f"{method} / {PEERS[method][0]}" if PEERS[method] else method for method in results]
    lines = [["problem", *heads], ["---"] * (len(heads) + 1)]
    for number, name in enumerate(PROBLEMS):
        lines.append([name, *(" / ".join(filter(None, (shown(mine, number), shown(other, number)))) for mine, other in results.values())])
    lines.append(["solved", *(f"{num_solved(mine)}" + (f" / {num_solved(other)}" if other else "") for mine, other in results.values())])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def rows(results: dict[str, tuple[Found, Found | None]]) -> list[dict]:
    """What `dljax bench` shows of it: problems solved, and evaluations, the median over the problems that both solve."""
    found = []
    for method, (mine, other) in results.items():
        row = {"ratio": None, "peak_share": None, "agrees": None, "disturbed": None}
        row |= {"name": f"minimize/{method}", "peer": f"scipy: {PEERS[method][0]}" if PEERS[method] else None}
        solved = {"unit": f"of {len(PROBLEMS)} problems", "ours": num_solved(mine), "theirs": num_solved(other) if other else None}
        found.append(row | solved)
        if other:
            both = [number for number in range(len(PROBLEMS)) if "–" not in (shown(mine, number), shown(other, number))]
            medians = (statistics.median(one[number][1] for number in both) for one in (mine, other))
            found.append(row | {"unit": "evaluations", **dict(zip(("ours", "theirs"), medians, strict=True))})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--since", default="", help="takes a few minutes, and is always counted anew")
    options = parser.parse_args()
    results: dict[str, tuple[Found, Found | None]] = {}
    if options.device == "cpu":  # counts do not depend on it
        with jax.enable_x64(True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for method in QUICK if options.quick else PEERS:
                results[method] = ours(method), theirs(*PEERS[method]) if PEERS[method] else None
                print(f"{method}: {num_solved(results[method][0])} of {len(PROBLEMS)} solved", file=sys.stderr)
        print(markdown(results), file=sys.stderr)
        path = Path(__file__).parent / "results" / f"minimize{'-quick' if options.quick else ''}.json"
        path.write_text(json.dumps({"benchmark": "minimize", "quick": options.quick, "problems": list(PROBLEMS), "found": results}, indent=1))
    if options.json:
        print(json.dumps(rows(results)))


if __name__ == "__main__":
    main()
