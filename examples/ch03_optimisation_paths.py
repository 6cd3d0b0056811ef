"""Chapter 3: the paths of ten methods in Rosenbrock's valley, on Beale's function and in a narrow quadratic bowl.

Steepest descent zig-zags: with exact steps from the worst start its error shrinks by ((κ-1)/(κ+1))² = 0.85 a step where κ = 25, exactly. Momentum
remembers the direction along the valley, adaptive steps scale each axis by itself, and curvature needs no more than a handful of steps.
Takes about eight seconds on two cores. In the bowl Newton takes 1 step, conjugate gradients 2, Nesterov 44, Adam and steepest descent 98, gradient
descent 220; measured ratio of the zig-zag 0.8521.
"""

# %% Three problems, where they are least, and a start for each.
import os

import jax
import jax.numpy as jnp
import numpy as np

from dljax import optim

STEPS = int(os.environ.get("STEPS", "300"))
KAPPA = 25.0


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def beale(x):
    return (1.5 - x[0] + x[0] * x[1]) ** 2 + (2.25 - x[0] + x[0] * x[1] ** 2) ** 2 + (2.625 - x[0] + x[0] * x[1] ** 3) ** 2


def bowl(x):
    return 0.5 * (x[0] ** 2 + KAPPA * x[1] ** 2)


# Name -> function, start, minimum, limits of the picture, learning rate of gradient steps.
PROBLEMS = {
    "Rosenbrock": (rosenbrock, [-1.2, 1.0], [1.0, 1.0], (-1.8, 1.8, -0.6, 2.0), 1e-3),
    "Beale": (beale, [1.0, 1.0], [3.0, 0.5], (-0.5, 4.0, -1.2, 1.6), 1e-2),
    f"bowl, condition {KAPPA:.0f}": (bowl, [KAPPA / 10, 0.1], [0.0, 0.0], (-1.2, 3.0, -0.35, 0.35), 0.035),
}

# %% First-order methods in one scan each, minimisers with their history: every path is [K, 2], in float64.
MINIMISERS = {"steepest descent": optim.gradient_descent(optim.exact_quadratic()), "conjugate gradients": "nonlinear-cg", "BFGS": "bfgs",
              "damped Newton": "damped-newton"}  # fmt: skip


def solvers(rate):
    return {"gradient descent": optim.sgd(rate), "momentum": optim.sgd(rate, 0.9), "Nesterov": optim.sgd(rate, 0.9, nesterov=True),
            "AdaGrad": optim.adagrad(0.3), "RMSProp": optim.rmsprop(0.02), "Adam": optim.adam(0.1)}  # fmt: skip


def stepped(solver, fun, x):
    def one(carry, _):
        x, state = carry
        updates, state = solver.update(jax.grad(fun)(x), state, x)
        return (x + updates, state), x

    return jax.lax.scan(one, (x, solver.init(x)), length=STEPS + 1)[1]


def paths(fun, start, rate):
    x = jnp.asarray(start)
    found = {name: stepped(solver, fun, x) for name, solver in solvers(rate).items()}
    for name, method in MINIMISERS.items():
        # The exact step of a quadratic is no step for other functions: there a line search takes its place.
        method = "gradient-descent" if name == "steepest descent" and fun is not bowl else method
        found[name] = optim.minimize(fun, x, method=method, tolerance=1e-9, max_iterations=STEPS, history=True).history.x
    return found


with jax.enable_x64(True):
    found = {}
    for name, (fun, start, _, _, rate) in PROBLEMS.items():
        ran = {method: np.asarray(path) for method, path in jax.jit(lambda fun=fun, start=start, rate=rate: paths(fun, start, rate))().items()}
        found[name] = {method: path[np.isfinite(path).all(1)] for method, path in ran.items()}

# %% How many steps does each take to come within 1e-3 of the minimum?
for name, (_, _, minimum, _, _) in PROBLEMS.items():
    near = {method: np.linalg.norm(path - np.asarray(minimum), axis=1) < 1e-3 for method, path in found[name].items()}
    print(f"{name}: " + ", ".join(f"{method} {int(is_near.argmax()) if is_near.any() else 'never'}" for method, is_near in near.items()))

values = np.asarray([bowl(x) for x in found[list(PROBLEMS)[2]]["steepest descent"][:11]])
print(f"zig-zag: ratio {values[1:] / values[:-1]}, closed form {((KAPPA - 1) / (KAPPA + 1)) ** 2:.4f}")

# %% A figure: first-order methods above, those that search a line or know the curvature below.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    for column, (name, (fun, _, minimum, limits, _)) in enumerate(PROBLEMS.items()):
        across, up = np.meshgrid(np.linspace(*limits[:2], 200), np.linspace(*limits[2:], 200))
        for row, methods in enumerate((solvers(0.0), MINIMISERS)):
            axes = figure.add_subplot(2, 3, 3 * row + column + 1, xlim=limits[:2], ylim=limits[2:], title=name if row == 0 else "")
            axes.contour(across, up, np.log10(fun([across, up]) + 1e-3), levels=25, cmap="Greys", linewidths=0.6)
            for method in methods:
                axes.plot(*found[name][method].T, ".-", markersize=3, linewidth=1, label=method)
            axes.plot(*minimum, "k*", markersize=12)
            if column == 2:
                axes.legend(fontsize=8, loc="upper right")
    figure.savefig("ch03_optimisation_paths.png", dpi=150)
