"""Generative models: adversarial nets (chapter 9), autoencoders (chapter 10)."""

from dljax.core.experiment import AtLeast, AtMost, Experiment, recipe


@recipe(
    "ring/gan",
    chapter=9,
    rows=("9.2",),
    target=AtLeast(
        "covered_quality",
        0.80,
        source="samples within 3 σ of a mode, counted as 0 unless all 8 modes are covered (VEEGAN's criterion, Srivastava et al., 2017, section 4.1, "
        "but with at least 1 % of the samples in each mode); the ring itself scores 0.989",
    ),
    minutes=1.5,
    seeds=5,
)
def ring_gan(
    width: int = 128,
    latent_size: int = 2,
    penalty: float = 0.1,
    discriminator_steps: int = 2,
    learning_rate: float = 1e-3,
    average: float = 0.999,
    batch_size: int = 256,
    steps: int = 8000,
) -> Experiment:
    """A Wasserstein GAN with gradient penalty on the needle-sharp ring of eight Gaussians, where plain GANs lose modes.

    The latents are as many as the ring has dimensions, the discriminator has two smaller steps to the generator's one, and samples come from the
    running average of the generator. Metrics on 10,000 fresh samples: `modes` (of 8, with at least 100 samples within 3 σ), `quality`
    (the share within 3 σ of any mode) and `covered_quality` (the quality where all 8 modes are covered, 0 elsewhere).
    """
    import jax.numpy as jnp
    import optax
    from flax import linen

    from dljax import data
    from dljax.core import Fold, check_int, check_range
    from dljax.data.toy import gaussian_ring
    from dljax.generative.gan import gan
    from dljax.objectives.adversarial import gradient_penalty, wasserstein
    from dljax.objectives.coverage import mode_coverage

    check_int("ring/gan", "width", width, minimum=1)
    check_int("ring/gan", "batch_size", batch_size, minimum=1)
    check_range("ring/gan", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    ring, num_samples = gaussian_ring(), 10_000

    def network(size):
        return linen.Sequential([linen.Dense(width), linen.tanh, linen.Dense(width), linen.tanh, linen.Dense(size)])

    def optimizer(updates):
        # Without momentum, a smaller eps would let rounding decide the direction in which weights of hardly any gradient move.
        return optax.adam(optax.cosine_decay_schedule(learning_rate, max(updates, 1)), b1=0, b2=0.9, eps=1e-6)

    learner = gan(
        network(2),
        network(1),
        optimizer(steps),
        optimizer(steps * discriminator_steps),
        latent_size=latent_size,
        loss=wasserstein,
        penalty=gradient_penalty(penalty),
        discriminator_steps=discriminator_steps,
        average=average,
    )
    sample = learner.functions["sample"]

    def coverage(x):
        scores = mode_coverage(x, jnp.asarray(ring.centers), ring.scale, min_samples=num_samples // 100)
        return scores | {"covered_quality": jnp.where(scores["modes"] == len(ring.centers), scores["quality"], 0)}

    def figures(params, key):
        import jax

        from dljax import report

        sample_key, truth_key = jax.random.split(key)
        made, true = sample(sample_key, params, num_samples), ring.sample(truth_key, num_samples)
        scores = coverage(made)
        caption = f"10,000 samples: {int(scores['modes'])} of 8 modes, {float(scores['quality']):.1%} within 3 σ of one"
        grid, extent = _grid(2.6)
        judged = learner.functions["discriminate"](key, params, grid).reshape(_PIXELS, _PIXELS)
        return {
            "samples": report.plot(_beside({"true": true, "generated": made}, 2.6), caption),
            "critic": report.plot(
                _maps({"critic": judged}, extent), "What the critic says of each place: only differences count; the generator climbs"
            ),
        }

    return Experiment(
        learner._replace(
            evaluate=Fold(
                init=lambda key, state: sample(key, learner.params(state), num_samples),
                step=lambda samples, state, batch: samples,
                finish=coverage,
            )
        ),
        data.from_sampler(lambda key: ring.sample(key, batch_size)),
        steps=steps,
        evaluation=(),
        figures=figures,
        per_step=batch_size,
        unit="examples",
        exports=lambda key: {"discriminate": (jnp.zeros((1, 2)),)},
    )


@recipe(
    "digits/vae",
    chapter=10,
    rows=("10.2",),
    target=AtMost(
        "negative_elbo",
        18.29,
        source="nats per held-out picture of the best of 18 mixtures of 40 to 120 Bernoullis, fitted by EM and chosen on the held-out pictures "
        "themselves",
    ),
    minutes=1,
    seeds=3,
    data="digits",
)
def digits_vae(
    width: int = 256,
    latent_size: int = 10,
    beta: float = 1.0,
    dropout_rate: float = 0.1,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    batch_size: int = 128,
    steps: int = 6000,
) -> Experiment:
    """A variational autoencoder on 8 x 8 digits made black and white at half their range.

    `negative_elbo` is in nats per picture of the last writers, whom training has hardly seen; it bounds -log p from above, which the mixtures that it
    is compared with know exactly. `bound_of_500` is the tighter bound of 500 importance samples.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core import check_range
    from dljax.generative.vae import vae
    from dljax.models.mlp import MLP

    check_range("digits/vae", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    check_range("digits/vae", "weight_decay", weight_decay, 0, open_high=True)
    digits = {part: {"x": (arrays["x"] >= 8).astype("float32").reshape(-1, 64)} for part, arrays in data.load("digits").items()}
    held_out = digits["test"]["x"]
    learner = vae(
        MLP(2 * latent_size, (width, width), dropout_rate),
        MLP(64, (width, width), dropout_rate),
        optax.adamw(optax.cosine_decay_schedule(learning_rate, max(steps, 1)), weight_decay=weight_decay),
        latent_size=latent_size,
        beta=beta,
    )

    def measure(params, key):
        log_evidence = jax.jit(learner.functions["log_evidence"], static_argnums=3)
        return {"bound_of_500": -float(log_evidence(key, params, held_out, 500).mean())}

    def figures(params, key):
        from dljax import report

        encode, decode = learner.functions["encode"], learner.functions["decode"]
        ends, _ = encode(key, params, held_out[:8])
        path = jnp.linspace(0, 1, 8)[:, None, None]
        between = decode(key, params, ((1 - path) * ends[None, :4] + path * ends[None, 4:]).swapaxes(0, 1).reshape(32, -1))
        pictures = np.stack([held_out[:16], np.asarray(decode(key, params, encode(key, params, held_out[:16])[0]))], 1)
        return {
            "samples": report.grid(learner.functions["sample"](key, params, 48).reshape(-1, 8, 8), "Digits of the model's own: probabilities of ink"),
            "reconstructions": report.grid(
                pictures.reshape(-1, 8, 8), "Held-out digits, each followed by what the model makes of its code", columns=8
            ),
            "interpolation": report.grid(
                between.reshape(-1, 8, 8), "From one held-out digit to another, evenly through the space of codes", columns=8
            ),
        }

    return Experiment(
        learner,
        data.shuffled(digits["train"], batch_size),
        steps=steps,
        evaluation=digits["test"],
        batch_size=360,
        measure=measure,
        figures=figures,
        per_step=batch_size,
        unit="examples",
        exports=lambda key: {"encode": (jnp.zeros((1, 64)),), "decode": (jnp.zeros((1, latent_size)),)},
    )


_PIXELS = 200


def _grid(limit):
    import jax.numpy as jnp

    axis = jnp.linspace(-limit, limit, _PIXELS)
    return jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2), (-limit, limit, -limit, limit)


def _beside(clouds, limit):
    def draw(axes):
        for part, (name, points) in zip(_parts(axes, len(clouds)), clouds.items(), strict=True):
            part.scatter(points[:, 0], points[:, 1], s=2, alpha=0.3, linewidths=0)
            part.set(title=name, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")

    return draw


def _maps(maps, extent):
    def draw(axes):
        low, high = min(float(values.min()) for values in maps.values()), max(float(values.max()) for values in maps.values())
        parts = _parts(axes, len(maps))
        for part, (name, values) in zip(parts, maps.items(), strict=True):
            picture = part.imshow(values, extent=extent, origin="lower", vmin=low, vmax=high)
            part.set(title=name)
            part.grid(False)
        parts[0].figure.colorbar(picture, ax=list(parts), shrink=0.8)

    return draw


def _parts(axes, number):
    sheet = axes.figure
    axes.remove()
    sheet.set_size_inches(3.6 * number + 0.6, 3.8)
    return sheet.subplots(1, number, squeeze=False)[0]
