"""Chapter 2: the chain rule at work: deltas and gradients by hand, checked, drawn as a graph, and good enough to learn digits.

A net of two hidden layers learns scikit-learn's digits by the gradients of `backpropagate`: 0.91 of the 360 held-out digits, by other writers,
are right after some fifteen seconds on two cores. The computation graph of a small net is saved as an SVG: values in black, adjoints in red.
"""

# %% One example through a small net: every array on the way has a name.
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import dljax
from dljax.engine import FitConfig
from dljax.nn import backpropagate, computation_graph, differentiation_cost, forward_pass, fully_connected
from dljax.nn.matrix_calculus import table
from dljax.objectives import accuracy, cross_entropy, squared_error

STEPS = int(os.environ.get("STEPS", "1000"))
layers = fully_connected(jax.random.key(0), [3, 2, 2])
x, y = jnp.array([[1.0, -2.0, 0.5]]), jnp.array([[0.0, 1.0]])
forward, backward = backpropagate(layers, x, y, loss=squared_error)
arrays = zip(forward.pre_activations, forward.activations[1:], backward.deltas, backward.gradients, strict=True)
for number, (z, a, delta, gradient) in enumerate(arrays, 1):
    print(f"layer {number}: z {z[0]}, a {a[0]}, delta {delta[0]}\n  gradient of the weights {gradient.weights.tolist()}")


# %% The same net as a graph of operations, which is what automatic differentiation walks along.
def loss_of(layers, x=x, y=y, loss=squared_error):
    return loss(forward_pass(layers, x).outputs, y).sum() / len(x)


graph = computation_graph(loss_of, layers, x)
print(graph)
print("the adjoint of the first weights is their gradient:", bool(jnp.allclose(graph["layers/0/weights"].adjoint, backward.gradients[0].weights)))

# %% Is the gradient right? Central differences in float64 say so; and a wrong one is named.
print(dljax.check_gradients(loss_of, layers))
identity = jax.custom_vjp(lambda w: w)
identity.defvjp(lambda w: (w, None), lambda _, g: (g.at[2, 0].multiply(1.1),))
try:
    dljax.check_gradients(lambda layers: loss_of([layers[0]._replace(weights=identity(layers[0].weights)), layers[1]]), layers)
except ValueError as error:
    print(error)

# %% Why backwards? One pass for all parameters, where forward mode takes one for each.
large = fully_connected(jax.random.key(0), [64, 64, 32, 10])
cost = differentiation_cost(lambda layers: loss_of(layers, jnp.ones((1, 64)), jnp.array([1]), cross_entropy), large)
print(f"{cost.num_inputs:,} parameters: value {cost.value:,.0f} FLOP, gradient backwards {cost.reverse:,.0f}, forwards {cost.forward:,.0f}")

# %% The rules for the derivatives of single operations, each of which the tests hold against autodiff.
print(table())

# %% Digits, by stochastic gradient descent with momentum on the gradients written out.
flat = {part: arrays["x"].reshape(-1, 64) / jnp.float32(16) for part, arrays in dljax.data.load("digits").items()}
digits = {part: {"x": flat[part], "y": arrays["y"]} for part, arrays in dljax.data.load("digits").items()}


def by_hand(optimizer: optax.GradientTransformation) -> dljax.Learner:
    def init(key, batch):
        layers = fully_connected(key, [64, 64, 32, 10])
        return {"params": layers, "opt_state": optimizer.init(layers)}

    def step(key, state, batch):
        _, backward = backpropagate(state["params"], batch["x"], batch["y"], loss=cross_entropy)
        updates, opt_state = optimizer.update(backward.gradients, state["opt_state"])
        sizes = {f"delta_{i}": jnp.sqrt(jnp.mean(delta**2)) for i, delta in enumerate(backward.deltas, 1)}
        return {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state}, {"loss": backward.loss, **sizes}

    return dljax.Learner(init, step)


source = dljax.data.shuffled(digits["train"], batch_size=64)
run = dljax.fit(by_hand(optax.sgd(0.05, momentum=0.9)), source, STEPS, jax.random.key(0), config=FitConfig(every=max(STEPS // 100, 1)))
outputs = forward_pass(run.params, digits["test"]["x"]).outputs
print(f"accuracy {float(accuracy(outputs, digits['test']['y']).mean()):.3f}")

# %% Pictures: the graph, and the size of the deltas in each layer while the net learns.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    Path("ch02_backpropagation.svg").write_text(graph.svg())
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for name in ("delta_1", "delta_2", "delta_3"):
        axes.semilogy(run.history["step"], run.history[name], label=name)
    axes.set(xlabel="step", ylabel="root mean square of the deltas")
    axes.legend()
    figure.savefig("ch02_backpropagation.png", dpi=150)
