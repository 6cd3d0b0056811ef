"""Chapter 9: every adversarial loss with every remedy, on the ring of 8 Gaussians and the grid of 25, five seeds each.

A loss is a pair of functions, so that all losses of a remedy are one compiled program, over both mixtures and all seeds. It prints a table for each
mixture: modes covered (of 8, of 25; at least 1 % of the samples within 3 σ), quality (the share of samples within 3 σ of any mode, in %) and the
reverse KL divergence of the modes' shares, means of the seeds. The nets are small and the steps few: what sees it through to the end is `ring/gan`,
which reaches all 8 modes and 91 % with 8,000 steps of a larger one.
"""

# %% Two mixtures as arrays, so that one program trains on both; the ring's eight centres are repeated until they are as many as the grid's.
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from dljax.data.toy import gaussian_grid, gaussian_ring
from dljax.generative import consensus, extragradient, gan, instance_noise, packing, unrolled
from dljax.nn import MinibatchDiscrimination, spectral_norm
from dljax.objectives import ADVERSARIAL_LOSSES, AdversarialLoss, gradient_penalty, mode_coverage, r1

STEPS = int(os.environ.get("STEPS", "3000"))
SEEDS, WIDTH, BATCH, SAMPLES = 5, 32, 64, 2500
MIXTURES = {"ring": gaussian_ring(), "grid": gaussian_grid()}
LOSSES = {
    "minimax": "minimax", "non-sat.": "non_saturating", "squares": "least_squares", "hinge": "hinge", "Wasserst.": "wasserstein",
    "relativ.": "relativistic", "rel. av.": "relativistic_average", "KL": "f_gan_kl", "rev. KL": "f_gan_reverse_kl",
    "Hellinger": "f_gan_squared_hellinger", "Pearson": "f_gan_pearson", "tot. var.": "f_gan_total_variation",
}  # fmt: skip
num_modes = jnp.array([len(mixture.centers) for mixture in MIXTURES.values()])
scales = jnp.array([mixture.scale for mixture in MIXTURES.values()])
centers = jnp.stack([jnp.asarray(mixture.centers)[jnp.arange(25) % len(mixture.centers)] for mixture in MIXTURES.values()])


# %% A loss is a pair of pure functions of logits: which one is a number, and one program serves them all.
def chosen(index):
    pairs = [ADVERSARIAL_LOSSES[name] for name in LOSSES.values()]
    return AdversarialLoss(
        lambda real, fake: jax.lax.switch(index, [pair.discriminator for pair in pairs], real, fake),
        lambda real, fake: jax.lax.switch(index, [pair.generator for pair in pairs], real, fake),
    )


def network(size, *layers):
    return linen.Sequential([linen.Dense(WIDTH), linen.tanh, linen.Dense(WIDTH), linen.tanh, *layers, linen.Dense(size)])


# %% The remedies: options of `gan`, but for those that are another discriminator or another optimizer.
REMEDIES = {
    "none": {},
    "two time scales": {"rate": 4e-3},
    "spectral norm": {"discriminator": spectral_norm(network(1))},
    "minibatch discr.": {"discriminator": network(1, MinibatchDiscrimination(num_kernels=4, kernel_size=2))},
    "packing": {"remedies": [packing(2)]},
    "unrolled": {"remedies": [unrolled(5, 0.3)]},
    "instance noise": {"remedies": [instance_noise(0.3, STEPS)]},
    "gradient pen. 0.1": {"penalty": gradient_penalty(0.1)},
    "R1 0.1": {"penalty": r1(0.1)},
    "consensus 0.1": {"remedies": [consensus(0.1)]},
    "extragradient": {"remedies": [extragradient()]},
}


def trained(index, mixture, key, rate=1e-3, discriminator=None, **options):
    init_key, run_key, sample_key = jax.random.split(key, 3)
    optimizers = [optax.adam(optax.linear_schedule(each, 0.1 * each, STEPS), b1=0.5, b2=0.9, eps=1e-6) for each in (1e-3, rate)]
    learner = gan(network(2), discriminator or network(1), *optimizers, latent_size=2, loss=chosen(index), average=0.995, **options)

    def batch(key):
        mode_key, noise_key = jax.random.split(key)
        modes = jax.random.randint(mode_key, (BATCH,), 0, num_modes[mixture])
        return {"x": centers[mixture, modes] + scales[mixture] * jax.random.normal(noise_key, (BATCH, 2))}

    def step(state, key):
        data_key, step_key = jax.random.split(key)
        return learner.step(step_key, state, batch(data_key))[0], None

    state, _ = jax.lax.scan(step, learner.init(init_key, batch(init_key)), jax.random.split(run_key, STEPS))
    params = learner.params(state)
    latest = {**params, "generator": {**params["generator"], "params": state.generator.params}}
    return jnp.stack([learner.functions["sample"](sample_key, each, SAMPLES) for each in (latest, params)])


# %% One program a remedy: the losses one after another, the two mixtures and all seeds side by side.
def scores(samples, mixture):
    found = mode_coverage(samples, jnp.asarray(mixture.centers), mixture.scale, min_samples=SAMPLES // 100)
    return jnp.stack([found["modes"], found["quality"], found["reverse_kl"]])


keys, table = jax.random.split(jax.random.key(0), SEEDS), {}
for name, options in REMEDIES.items():
    began = time.perf_counter()
    seeds = jax.vmap(lambda index, mixture, key, options=options: trained(index, mixture, key, **options), (None, None, 0))
    both = jax.jit(lambda losses, seeds=seeds: jax.lax.map(lambda index: jax.vmap(seeds, (None, 0, None))(index, jnp.arange(2), keys), losses))
    samples = both(jnp.arange(len(LOSSES)))  # [losses, mixtures, seeds, latest or average, SAMPLES, 2]
    for number, mixture in enumerate(MIXTURES.values()):
        found = np.asarray(jax.vmap(jax.vmap(jax.vmap(lambda x, mixture=mixture: scores(x, mixture))))(samples[:, number]))
        table[number, name] = found[:, :, 0]
        if name == "none":
            table[number, "averaged generator"] = found[:, :, 1]
    print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)

for number, mixture in enumerate(MIXTURES):
    print(f"{mixture}: modes/quality in %/reverse KL, means of {SEEDS} seeds")
    print(" " * 18, *(f"{loss:>10}" for loss in LOSSES))
    for name in ["none", "averaged generator", *list(REMEDIES)[1:]]:
        cells = table[number, name].mean(1)
        print(f"{name:18}", *(f"{f'{modes:.1f}/{100 * quality:.0f}/{kl:.1f}':>10}" for modes, quality, kl in cells))

# %% A figure: how many modes each loss finds with each remedy.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    for number, (mixture, axes) in enumerate(zip(MIXTURES, figure.subplots(1, 2), strict=True)):
        names = ["none", "averaged generator", *list(REMEDIES)[1:]]
        picture = axes.imshow([table[number, name][..., 0].mean(1) for name in names], vmin=0, vmax=[8, 25][number])
        axes.set_xticks(range(len(LOSSES)), LOSSES, rotation=60)
        axes.set_yticks(range(len(names)), names)
        axes.set(title=f"{mixture}: modes found")
        axes.grid(False)
        figure.colorbar(picture, ax=axes)
    figure.savefig("ch09_adversarial_remedies.png", dpi=150)
