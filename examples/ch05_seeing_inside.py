"""Chapter 5: which pixels does a network go by? Four answers, and what happens to the network when those pixels are wiped out.

A network that reads 95.3 % of the test digits reads 11 % without the 8 of 64 pixels that integrated gradients name, 53 % without SmoothGrad's, 62 %
without those of plain gradients, 78 % without those of Grad-CAM, whose maps are 4 x 4; and 44 % without the 8 brightest, 84 % without 8 drawn by
lot. Gradients say where ink would matter, black or not; integrated gradients what the ink that is there has done. About 15 seconds of one core.
"""

# %% A small convolutional network that reads 8 x 8 digits.
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dljax
from dljax import nn
from dljax.engine import FitConfig
from dljax.objectives import accuracy, cross_entropy
from dljax.supervised import supervised

STEPS = int(os.environ.get("STEPS", "600"))
digits = {part: {"x": np.float32(arrays["x"] / 16), "y": arrays["y"]} for part, arrays in dljax.data.load("digits").items()}
model = dljax.models.CNN(10, (16, 32), 64)
learner = supervised(model, cross_entropy, optax.adam(2e-3), metrics={"accuracy": accuracy})
run = dljax.fit(learner, dljax.data.shuffled(digits["train"], 64), STEPS, jax.random.key(0), config=FitConfig(every=max(STEPS // 10, 1)))
params, x, y = run.params, jnp.asarray(digits["test"]["x"]), jnp.asarray(digits["test"]["y"])


# %% Four answers, of one shape: how much each pixel of each test digit matters to the class that the network names.
@jax.jit
def answers(params, x, key):
    seen = model.apply(params, x).argmax(-1)
    cam = nn.grad_cam(model, params, x, seen, "Conv_1")
    return seen, {
        "saliency": jnp.abs(nn.saliency(model, params, x, seen))[..., 0],
        "SmoothGrad": jnp.abs(nn.smooth_grad(key, model, params, x, seen))[..., 0],
        "integrated gradients": nn.integrated_gradients(model, params, x, seen)[..., 0],
        "Grad-CAM": jax.image.resize(cam, x.shape[:3], "bilinear"),
        "brightness": x[..., 0],
        "chance": jax.random.uniform(key, x.shape[:3]),
    }


seen, maps = answers(params, x, jax.random.key(1))
whole = nn.integrated_gradients(model, params, x, seen, num=256).sum((1, 2, 3))
black = model.apply(params, jnp.zeros_like(x[:1]))[0, seen]
logit = model.apply(params, x)[jnp.arange(len(x)), seen]
print(f"accuracy {float((seen == y).mean()):.3f}; integrated gradients sum to f(x) - f(0) within {float(jnp.abs(whole - logit + black).max()):.4f}")

# %% Are they right? Wipe out the pixels that an answer names, the most important first, and read again.
NAMES = ["saliency", "SmoothGrad", "integrated gradients", "Grad-CAM", "brightness", "chance"]
COUNTS = [0, 2, 4, 6, 8, 12, 16]


@jax.jit
def wiped(params, x, importance):
    rank = jnp.argsort(jnp.argsort(-importance.reshape(len(x), -1), -1), -1).reshape(importance.shape)[..., None]
    return jnp.stack([(model.apply(params, jnp.where(rank < count, 0, x)).argmax(-1) == y).mean() for count in COUNTS])


curves = {name: np.asarray(wiped(params, x, importance)) for name, importance in ((name, maps[name]) for name in NAMES)}
for name, curve in curves.items():
    print(f"{name:>20}: accuracy {curve[4]:.3f} without 8 of 64 pixels")


# %% What would the network like to see? A picture for each class, by gradient ascent from noise.
config = nn.MaximisationConfig(total_variation=0.1, jitter=1)
wanted = jax.jit(lambda key: nn.activation_maximisation(key, model, params, jnp.arange(10), shape=(8, 8, 1), config=config))(jax.random.key(2))
confidence = jax.nn.softmax(model.apply(params, wanted)).diagonal()
print(f"the network is sure of its own pictures: {float(confidence.min()):.3f} at least")

# %% A figure.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.5, 1])
    shown = {"digit": x[:6, ..., 0], **{name: maps[name][:6] for name in NAMES[:4]}, "wanted": wanted[seen[:6], ..., 0]}
    for row, (name, pictures) in zip(left.subplots(len(shown), 6), shown.items(), strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right")
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(picture, cmap="gray" if name in ("digit", "wanted") else "inferno")
            axes.set(xticks=[], yticks=[])
    axes = right.subplots()
    for name, curve in curves.items():
        axes.plot(COUNTS, curve, "o-", label=name)
    axes.set(xlabel="pixels wiped out, of 64", ylabel="accuracy", ylim=(0, 1))
    axes.legend()
    figure.savefig("ch05_seeing_inside.png", dpi=150)
