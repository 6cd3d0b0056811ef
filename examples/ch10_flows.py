"""Chapter 10: five kinds of normalizing flow learn two moons, whose density is known exactly.

How far each stays above the exact entropy, in nats: see the titles of the maps. About two minutes of two cores.
"""

# %% A density that is known exactly: two half circles, blurred.
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dljax
from dljax import generative
from dljax.data import from_sampler, two_moons
from dljax.engine import FitConfig
from dljax.nn.ode import ODEConfig

STEPS = int(os.environ.get("STEPS", "1000"))
moons = two_moons()
held_out = moons.sample(jax.random.key(1), 5000)

# %% Flows are made of bijectors: what is repeated is compiled once.
norm, hidden = generative.act_norm(), (32, 32)
flows = {
    "planar": generative.repeat(generative.planar(), 16),
    "RealNVP": generative.repeat(generative.affine_coupling(hidden=hidden), 6),
    "MAF": generative.repeat(generative.masked_autoregressive(hidden=hidden), 6),
    "spline": generative.repeat(generative.spline_coupling(hidden=hidden), 3),
    "FFJORD": generative.continuous(hidden=hidden, config=ODEConfig("bosh3", num_steps=4)),
}

# %% Each is a learner like any other; fresh samples in every step.
source = from_sampler(lambda key: {"x": moons.sample(key, 256)})
optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, max(STEPS, 1)))
maps, gaps = {}, {}
axis = jnp.linspace(-4, 4, 100)
grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
for name, bijector in flows.items():
    learner = generative.flow(generative.chain(norm, bijector), optimizer, size=2)
    run = dljax.fit(learner, source, STEPS, jax.random.key(0), config=FitConfig(every=max(STEPS // 10, 1)))
    log_prob = jax.jit(learner.functions["log_prob"])
    maps[name] = np.asarray(log_prob(jax.random.key(2), run.params, grid)).reshape(100, 100)
    # E[log p - log q] over samples of p is the divergence KL(p || q).
    gaps[name] = float((moons.log_prob(held_out) - log_prob(jax.random.key(2), run.params, held_out)).mean())
    print(f"{name}: {gaps[name]:.3f} nats above the entropy")

# %% The densities side by side: a continuous map cannot cut the noise in two, and thin bridges remain.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    maps = {"exact": np.asarray(moons.log_prob(grid)).reshape(100, 100)} | maps
    figure = Figure(figsize=(3 * len(maps), 3.2), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(maps)), maps.items(), strict=True):
        axes.imshow(np.exp(values), origin="lower", extent=(-4, 4, -4, 4), vmin=0, vmax=float(np.exp(maps["exact"]).max()))
        axes.set(title=name if name == "exact" else f"{name}: +{gaps[name]:.3f} nats", xticks=[], yticks=[])
    figure.savefig("ch10_flows.png", dpi=150)
