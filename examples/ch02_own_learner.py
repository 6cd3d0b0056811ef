"""Chapter 2: a learner of one's own, checked, trained, swept over learning rates and seeds in one compiled program.

Linear regression on the diabetes data of scikit-learn by gradient descent, held against the exact least-squares solution.
Takes about ten seconds on two cores and comes within 1 % of the exact loss.
"""

# %% A learner is two pure functions.
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes

import dljax
from dljax.engine import FitConfig

STEPS = int(os.environ.get("STEPS", "2000"))


def linear(learning_rate: float = 0.1) -> dljax.Learner:
    optimizer = optax.sgd(learning_rate)

    def init(key, batch):
        params = {"weights": 0.1 * jax.random.normal(key, batch["x"].shape[-1:]), "bias": jnp.zeros(())}
        return {"params": params, "opt_state": optimizer.init(params)}

    def squared_error(params, batch):
        return jnp.mean((batch["x"] @ params["weights"] + params["bias"] - batch["y"]) ** 2)

    def step(key, state, batch):
        loss, grads = jax.value_and_grad(squared_error)(state["params"], batch)
        updates, opt_state = optimizer.update(grads, state["opt_state"])
        return {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state}, {"loss": loss}

    return dljax.Learner(init, step)


# %% Data: 442 patients, ten measurements each, scaled to unit variance; the target in units of its deviation.
x, y = load_diabetes(return_X_y=True)
x, y = np.float32(x / x.std(0)), np.float32((y - y.mean()) / y.std())
source = dljax.data.repeat({"x": x, "y": y})

# %% Does it keep the contract? Silence says yes.
dljax.check_learner(linear(), source)

# %% Twelve runs, one program: the learning rate is traced.
sweep = dljax.sweep(linear, {"learning_rate": [0.003, 0.03, 0.3]}, seeds=4, source=source, steps=STEPS, config=FitConfig(every=max(STEPS // 100, 1)))
print(sweep.result["programs"], "program,", len(sweep.members), "runs")

# %% The exact answer, from the normal equations.
design = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
exact = float(np.mean((design @ np.linalg.lstsq(design, y, rcond=None)[0] - y) ** 2))
best = sweep.best("loss", "min")
print(f"best learning rate {best.options['learning_rate']}: loss {best.last('loss'):.4f}, exact {exact:.4f}")

# %% A figure: every run, and the floor.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for member in sweep.members:
        colour = {0.003: "C0", 0.03: "C1", 0.3: "C2"}[member.options["learning_rate"]]
        axes.loglog(member.history["step"], member.history["loss"] - exact, color=colour, alpha=0.6)
    axes.set(xlabel="step", ylabel="loss above the exact minimum", title="learning rates 0.003 (blue), 0.03 (orange), 0.3 (green)")
    figure.savefig("ch02_own_learner.png", dpi=150)
