"""Chapter 4: the paths of ridge and lasso, and a network that learns how sure it may be.

Both paths on the diabetes data are one vmapped program, and equal scikit-learn's. Networks that know 200 digits by heart are calibrated by one
temperature each, fitted to 400 other digits; on the 1,197 that are left the calibration error falls from 0.087 to 0.015 and the negative
log-likelihood from 0.65 to 0.51 nats. About twelve seconds on two cores.
"""

# %% Data: ten measurements of 442 patients, of unit variance.
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes

import dljax
from dljax.core import ensemble
from dljax.engine import FitConfig
from dljax.objectives import cross_entropy
from dljax.optim import elastic_net_threshold, proximal_gradient
from dljax.supervised import reliability, supervised, temperature_scaling

STEPS = int(os.environ.get("STEPS", "400"))
x, y = load_diabetes(return_X_y=True)
names = load_diabetes().feature_names
x, y = np.float32(x / x.std(0)), np.float32((y - y.mean()) / y.std())


# %% FISTA for a strength and a mixture of ridge (0) and lasso (1); the whole path, and both of them, by vmap.
def solved(strength, l1_ratio):
    def prox(w, step):
        return elastic_net_threshold(w, step * strength, l1_ratio)

    return proximal_gradient(lambda w: jnp.square(x @ w - y).mean() / 2, jnp.zeros(10), prox, max_iterations=10 * STEPS)


strengths = jnp.geomspace(1e-3, 3, 60)
paths = jax.jit(jax.vmap(jax.vmap(solved, (0, None)), (None, 0)))(strengths, jnp.array([0.0, 1.0]))
for name, row in zip(("ridge", "lasso"), paths.x[:, 40], strict=True):
    print(f"{name} at strength {strengths[40]:.2f}: {(row == 0).sum()} of 10 coefficients are zero")

# %% Three networks that know 200 digits by heart.
parts = dljax.data.load("digits").values()
digits = {"x": np.float32(np.concatenate([part["x"] for part in parts]) / 16), "y": np.concatenate([part["y"] for part in parts])}
train, held_out, test = ({name: array[rows] for name, array in digits.items()} for rows in (slice(200), slice(200, 600), slice(600, None)))
member = supervised(dljax.models.MLP(10, (64,)), cross_entropy, optax.adam(1e-2))
run = dljax.fit(ensemble(member, 3), dljax.data.shuffled(train, 50), STEPS, jax.random.key(0), config=FitConfig(every=max(STEPS // 10, 1)))
print(f"loss {run.history['loss'][-1]:.4f}")


# %% How sure are they of digits that they have not seen, and how sure may they be?
@jax.jit
def calibrated(params, held_out, test):
    """Of one network: diagrams before and after, its temperature, and the log-likelihood of both."""
    held_out_logits, logits = (member.functions["predict"](jax.random.key(0), params, part["x"]) for part in (held_out, test))
    scaling = temperature_scaling(held_out_logits, held_out["y"])
    diagrams = [reliability(jax.nn.softmax(z), test["y"], num_bins=8) for z in (logits, scaling(logits))]
    return diagrams, scaling.temperature, [cross_entropy(z, test["y"]).mean() for z in (logits, scaling(logits))]


diagrams, temperatures, losses = jax.vmap(calibrated, (0, None, None))(run.params, held_out, test)
print("temperatures", temperatures.round(2))
for when, diagram, loss in zip(("before", "after"), diagrams, losses, strict=True):
    error = (diagram.weight * jnp.abs(diagram.accuracy - diagram.confidence)).sum(1).mean()
    print(f"{when}: calibration error {error:.3f}, negative log-likelihood {loss.mean():.3f} nats")

# %% A figure.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    ridge, lasso, curve = figure.subplots(1, 3)
    for axes, title, path in ((ridge, "ridge: all shrink, none is zero", paths.x[0]), (lasso, "lasso: one after another is zero", paths.x[1])):
        axes.semilogx(strengths, path, label=names)
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.set(xlabel="strength", ylabel="coefficient", title=title)
    lasso.legend(ncols=2, fontsize=7)
    curve.plot([0, 1], [0, 1], color="0.7")
    for when, diagram, colour in zip(("before", "after one temperature"), diagrams, ("C3", "C0"), strict=True):
        weight = diagram.weight.sum(0)
        sure, right = ((part * diagram.weight).sum(0)[weight > 0] / weight[weight > 0] for part in (diagram.confidence, diagram.accuracy))
        curve.plot(sure, right, color=colour, alpha=0.5)
        curve.scatter(sure, right, 400 * weight[weight > 0] / weight.sum() + 8, color=colour, label=when)
    curve.set(xlabel="confidence", ylabel="accuracy", title="digits not seen: how sure, how right")
    curve.legend()
    figure.savefig("ch04_regularisation.png", dpi=150)
