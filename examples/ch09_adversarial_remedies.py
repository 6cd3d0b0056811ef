"""Chapter 9: every adversarial loss with every remedy, on the ring of 8 Gaussians and the grid of 25, five seeds each.

A loss is a pair of functions, so that all losses of a remedy are one compiled program, over both mixtures and all seeds. It prints a table for each
mixture: modes covered (of 8, of 25; at least 1 % of the samples within 3 σ), quality (the share of samples within 3 σ of any mode, in %) and the
reverse KL divergence of the modes' shares, means of the seeds. The nets are small and the steps few: what sees it through to the end is `ring/gan`,
which reaches all 8 modes and 91 % with 8,000 steps of a larger one.
"""

# %% Two mixtures as arrays, so that one program trains on both; the ring's eight centres are repeated until they are as many as the grid's.
import os

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
    return jnp.stack([found["modes"], 100 * found["quality"], found["reverse_kl"]])


def runs(index, options):
    seeds = jax.vmap(lambda mixture, key: trained(index, mixture, key, **options), (None, 0))
    samples = jax.vmap(seeds, (0, None))(jnp.arange(2), jax.random.split(jax.random.key(0), SEEDS))  # [2, seeds, latest or average, SAMPLES, 2]
    return jnp.stack([jax.vmap(jax.vmap(lambda x, of=of: scores(x, of)))(samples[number]) for number, of in enumerate(MIXTURES.values())])


table = {}  # remedy -> [losses, mixtures, seeds, scores]
for name, options in REMEDIES.items():
    found = jax.jit(lambda losses, options=options: jax.lax.map(lambda index: runs(index, options), losses))(jnp.arange(len(LOSSES)))
    table |= {name: np.asarray(found[..., 0, :])} | ({"averaged generator": np.asarray(found[..., 1, :])} if name == "none" else {})
for number, mixture in enumerate(MIXTURES):
    print(f"{mixture:18}", *(f"{loss:>10}" for loss in LOSSES))
    for name, found in table.items():
        print(f"{name:18}", *(f"{'{:.1f}/{:.0f}/{:.1f}'.format(*cell):>10}" for cell in found[:, number].mean(1)))

# %% A figure: how many modes each loss finds with each remedy.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    for number, (mixture, axes) in enumerate(zip(MIXTURES, figure.subplots(1, 2), strict=True)):
        picture = axes.imshow([found[:, number, :, 0].mean(1) for found in table.values()], vmin=0, vmax=num_modes[number])
        axes.set_xticks(range(len(LOSSES)), LOSSES, rotation=60)
        axes.set_yticks(range(len(table)), table)
        axes.set(title=f"{mixture}: modes found")
        figure.colorbar(picture, ax=axes)
    figure.savefig("ch09_adversarial_remedies.png", dpi=150)
