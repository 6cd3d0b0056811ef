"""Chapter 3: what curvature buys. Adam, K-FAC, natural gradient and Hessian-free on 1,437 digits at once, against steps and against seconds.

To 97 % of the 360 test digits: Adam 16 steps and 16 ms, K-FAC 5 and 41 ms, natural gradient 2 and 45 ms, Hessian-free 6 and 123 ms, on two busy
cores (without compiling, which takes most of the minute that the script does).
"""

# %% Digits, split at random, and one hidden layer.
import os

import jax
import numpy as np
import optax

import dljax
from dljax.engine import FitConfig, fit
from dljax.models.mlp import MLP
from dljax.objectives import accuracy, cross_entropy
from dljax.optim import hessian_free, kfac, natural_gradient
from dljax.supervised import supervised

STEPS = int(os.environ.get("STEPS", "30"))
parts = dljax.data.load("digits").values()
order = np.random.default_rng(0).permutation(sum(len(part["y"]) for part in parts))
x, y = (np.concatenate([part[name] for part in parts])[order] for name in ("x", "y"))
digits = {"x": (x / 16).astype("float32"), "y": y}
test, train = ({name: array[rows] for name, array in digits.items()} for rows in (slice(360), slice(360, None)))

# %% An optimizer that wants more than the gradient goes where an optax transformation goes.
methods = {
    "Adam, learning rate 0.03": optax.adam(0.03),
    "K-FAC": kfac(),
    "natural gradient": natural_gradient(),
    "Hessian-free": hessian_free(damping=0.1),
}

# %% Train each from the same weights on the same full batch.
runs = {}
for name, method in methods.items():
    learner = supervised(MLP(10, (64,)), cross_entropy, method, metrics={"accuracy": accuracy})
    config = FitConfig(every=1, evaluate_every=1, batch_size=360)
    runs[name] = fit(learner, dljax.data.repeat(train), STEPS, jax.random.key(0), evaluation=test, config=config)

# %% Seconds a step, without compiling and evaluating: the same steps once more as one compiled loop.
milliseconds = {}
for name, method in methods.items():
    learner, source = supervised(MLP(10, (64,)), cross_entropy, method), dljax.data.repeat(train)
    run = fit(learner, source, STEPS, jax.random.key(0), config=FitConfig(every=1, chunk=max(STEPS // 5, 1)))
    milliseconds[name] = 1e3 / run.result["units_per_second"]

# %% Steps and time to 97 % of the test digits.
for name, run in runs.items():
    there = np.flatnonzero(run.evaluations["accuracy"] >= 0.97)
    steps = run.evaluations["step"][there[0]] if len(there) else np.nan
    print(f"{name:26} {steps:3.0f} steps of {milliseconds[name]:5.1f} ms: {steps * milliseconds[name]:5.0f} ms; loss {run.history['loss'][-1]:.1e}")

# %% A figure: by steps the curvature wins, by seconds it must first pay for itself.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7))
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for name, run in runs.items():
        for column, scale in enumerate((1, milliseconds[name] / 1e3)):
            axes[0, column].plot(run.history["step"] * scale, run.history["loss"], label=name)
            axes[1, column].plot(run.evaluations["step"] * scale, 1 - run.evaluations["accuracy"], label=name)
    axes[0, 0].set(yscale="log", ylabel="training loss")
    axes[1, 0].set(yscale="log", ylabel="share of the test digits mistaken", xlabel="step")
    axes[1, 1].set(xscale="log", xlabel="seconds")
    axes[0, 0].legend()
    figure.savefig("ch03_second_order.png", dpi=150)
