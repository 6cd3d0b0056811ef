"""Chapter 6: gradients that fade on their way back through time, and what an LSTM's memory does for them.

In a linear net the gradient is a power of the recurrent matrix, known exactly. A simple recurrent net and two LSTMs read 100 numbers of the adding
problem: how much of the gradient by the last state is left at each step, before training and after it, tells which of them can learn what stood at
the beginning. Of the simple net's gradient 3e-14 reaches the first step, and its error stays at 1/6, the variance of the answer (0.168); of an
LSTM's, whose forget gates begin nearly open, 0.03 before training and 0.2 after it, and both LSTMs solve the task, with errors of 0.002 and 0.013.
About a minute and a half on two cores.
"""

# %% Three nets, and the same question: what is the sum of the two marked numbers?
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dljax
from dljax.data import adding_problem, from_sampler
from dljax.engine import FitConfig
from dljax.models import RecurrentNet, RecurrentReadout
from dljax.nn import gradient_norms
from dljax.objectives import squared_error
from dljax.supervised import supervised

STEPS = int(os.environ.get("STEPS", "1500"))
LENGTH, WIDTH = 100, 32
NETS = {"simple net": ("elman", 1.0), "LSTM, forget bias 1": ("lstm", 1.0), "LSTM, forget bias 3": ("lstm", 3.0)}
test = adding_problem(jax.random.key(1), 64, length=LENGTH)

# %% A linear net h_t = x_t W + h_{t-1} U: the gradient is a power of U, and measured to be one.
U = 0.9 * np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0]
inputs = jnp.zeros((LENGTH, WIDTH))
linear = gradient_norms(lambda h, x: x + h @ U, jnp.ones(WIDTH), inputs, lambda states: states[-1].sum())
exact = np.array([np.linalg.norm(np.linalg.matrix_power(U, LENGTH - 1 - t) @ np.ones(WIDTH)) for t in range(LENGTH)])
print(f"linear net: the norms differ from those of the powers of U by at most {np.abs(linear / exact - 1).max():.0e} of their size")


# %% The norms of a net: those of its hidden state, from the error of its answer.
def error(outputs, y):
    return squared_error(outputs[:, 0], y)


def norms(cell, forget_bias, params):
    net = RecurrentNet(WIDTH, cell, forget_bias=forget_bias)
    head = params["head"]

    def step(carry, x):
        return net.apply({"params": params["net"]}, x[:, None], carry)[1]

    def hidden(states):
        return states[0][1] if cell == "lstm" else states[0]

    def loss(states):
        return error(hidden(states)[-1] @ head["kernel"] + head["bias"], test["y"]).mean()

    zeros = jnp.zeros((64, WIDTH))
    carry = ((zeros, zeros) if cell == "lstm" else zeros,)
    found = hidden(gradient_norms(step, carry, test["x"].swapaxes(0, 1), loss))
    return found / found[-1]


# %% Before and after training.
before, after = {}, {}
for name, (cell, forget_bias) in NETS.items():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    learner = supervised(RecurrentReadout(1, WIDTH, cell, forget_bias=forget_bias), error, optimizer)
    measured = jax.jit(lambda params, cell=cell, forget_bias=forget_bias: norms(cell, forget_bias, params["params"]))
    before[name] = measured(learner.params(jax.jit(learner.init)(jax.random.key(0), test)))
    source = from_sampler(lambda key: adding_problem(key, 32, length=LENGTH))
    run = dljax.fit(learner, source, STEPS, jax.random.key(0), config=FitConfig(every=max(STEPS // 10, 1)))
    after[name] = measured(run.params)
    early, late = (f"{found[name][0]:.0e}" for found in (before, after))
    print(f"{name}: {early} of the gradient reached the first step, {late} after training; loss {run.history['loss'][-1]:.4f}")

# %% A figure.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    known, first, last = figure.subplots(1, 3)
    known.semilogy(linear, label="measured", linewidth=3, alpha=0.5)
    known.semilogy(exact, "k--", label="norm of the power of U")
    known.set(title="a linear net, spectral radius 0.9", ylabel="norm of the gradient")
    for axes, title, found in ((first, "before training", before), (last, "after training", after)):
        for name in NETS:
            axes.semilogy(found[name], label=name)
        axes.set(title=title, ylabel="norm, as a share of the last")
    for axes in (known, first, last):
        axes.set(xlabel="step")
        axes.legend()
    figure.savefig("ch06_vanishing_gradients.png", dpi=150)
