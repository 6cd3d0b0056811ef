"""Chapter 10: a density on the sphere, learned without coordinates by Moser flow, and with them by splines.

The truth is a mixture of three von Mises-Fisher distributions, known exactly, so that what either flow lacks is a divergence in nats, found by
quadrature over the sphere. Moser flow's density is the uniform one less the divergence of a vector field: it has mass one whatever the field is, and
training solves no differential equation. The spline flow maps longitudes and heights, whose products carry area, and turns the axes between layers.
"""

# %% The truth, and points of it.
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from dljax.data import from_sampler
from dljax.engine import FitConfig, fit
from dljax.generative import flow, moser_flow, repeat, sphere, sphere_spline_coupling, uniform_sphere, von_mises_fisher

STEPS = int(os.environ.get("STEPS", "1500"))
MEANS = jnp.array([[0.0, 0.0, 1.0], [0.6, 0.8, 0.0], [-0.6, 0.0, -0.8]])
KAPPAS = (20.0, 5.0, 50.0)


def log_truth(x):
    parts = [von_mises_fisher(mean, kappa).log_prob(x) for mean, kappa in zip(MEANS, KAPPAS, strict=True)]
    return jax.nn.logsumexp(jnp.stack(parts), axis=0) - np.log(3)


def draw(key, num=256):
    *keys, component_key = jax.random.split(key, 4)
    points = jnp.stack([von_mises_fisher(MEANS[i], KAPPAS[i]).sample(keys[i], num) for i in range(3)])
    return points[jax.random.randint(component_key, (num,), 0, 3), jnp.arange(num)]


# %% Two flows on one sphere, and one engine.
field = linen.Sequential([linen.Dense(64), linen.tanh, linen.Dense(64), linen.tanh, linen.Dense(3)])
learners = {
    "splines": flow(
        repeat(sphere_spline_coupling(hidden=(32,)), 4),
        optax.adam(optax.cosine_decay_schedule(3e-3, STEPS)),
        size=3,
        base=uniform_sphere(3),
    ),
    "Moser": moser_flow(sphere(3), field, optax.adam(optax.cosine_decay_schedule(3e-3, STEPS)), penalty=10.0),
}
source = from_sampler(lambda key: {"x": draw(key)})
params = {
    name: learner.params(fit(learner, source, STEPS, jax.random.key(0), config=FitConfig(every=max(STEPS // 10, 1))).state)
    for name, learner in learners.items()
}

# %% What each lacks: KL(truth || flow), Gauss-Legendre in the height and the trapezoidal rule in the longitude.
heights, weights = np.polynomial.legendre.leggauss(80)
longitudes = np.linspace(-np.pi, np.pi, 160, endpoint=False)
h, angle = np.meshgrid(heights, longitudes, indexing="ij")
grid = jnp.asarray(np.stack([np.sqrt(1 - h**2) * np.cos(angle), np.sqrt(1 - h**2) * np.sin(angle), h], -1).reshape(-1, 3), jnp.float32)
areas = np.repeat(weights, 160) * 2 * np.pi / 160
truth = np.asarray(log_truth(grid))
densities = {"truth": truth}
for name, learner in learners.items():
    log_prob = np.asarray(jax.jit(learner.functions["log_prob"])(jax.random.key(1), params[name], grid))
    mass = (np.exp(log_prob) * areas).sum()
    densities[name] = log_prob - np.log(mass)
    print(f"{name:8} mass {mass:.4f}, KL {(np.exp(truth) * (truth - densities[name]) * areas).sum():.4f} nats; uniform", end=" ")
    print(f"{(np.exp(truth) * (truth + np.log(4 * np.pi)) * areas).sum():.4f}")

# %% The three densities on maps, and points that the flows draw.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2.8))
    for part, (name, values) in zip(figure.subplots(1, 3, subplot_kw={"projection": "mollweide"}), densities.items(), strict=True):
        part.pcolormesh(angle, np.arcsin(h), np.exp(values).reshape(h.shape), shading="nearest")
        points = draw(jax.random.key(2)) if name == "truth" else learners[name].functions["sample"](jax.random.key(2), params[name], 256)
        part.scatter(np.arctan2(points[:, 1], points[:, 0]), np.arcsin(np.clip(points[:, 2], -1, 1)), s=2, color="white")
        part.set(title=name, xticklabels=[], yticklabels=[])
    figure.savefig("ch10_manifolds.png", dpi=150)
