"""Adversarial nets (chapter 9) on mixtures whose modes can be counted."""

from dljax.core.experiment import AtLeast, Experiment, recipe
from dljax.recipes.planar_figures import PIXELS, beside, map_of, square


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
    (the share within 3 σ of any mode), `reverse_kl` (nats, of the shares of the modes from even ones) and `covered_quality` (the quality where all
    8 modes are covered, 0 elsewhere).
    """
    from dljax.data.toy import gaussian_ring

    return _mixture_gan(
        "ring/gan", gaussian_ring(), 2.6, 100, width, latent_size, penalty, discriminator_steps, learning_rate, average, batch_size, steps
    )


@recipe(
    "grid/gan",
    chapter=9,
    rows=("9.2",),
    target=AtLeast(
        "covered_quality",
        0.80,
        source="samples within 3 σ of a mode, counted as 0 unless all 25 modes are covered (VEEGAN's criterion, Srivastava et al., 2017, section "
        "4.1, but with at least 0.4 % of the samples in each mode, a tenth of its share); the grid itself scores 0.989",
    ),
    minutes=3,
    seeds=5,
)
def grid_gan(
    width: int = 128,
    latent_size: int = 2,
    penalty: float = 0.1,
    discriminator_steps: int = 2,
    learning_rate: float = 1e-3,
    average: float = 0.999,
    batch_size: int = 256,
    steps: int = 16000,
) -> Experiment:
    """The same Wasserstein GAN on the grid of 25 Gaussians.

    Metrics on 10,000 fresh samples as of `ring/gan`; a mode counts with at least 40 samples within 3 σ.
    """
    from dljax.data.toy import gaussian_grid

    return _mixture_gan(
        "grid/gan", gaussian_grid(), 5.0, 40, width, latent_size, penalty, discriminator_steps, learning_rate, average, batch_size, steps
    )


def _mixture_gan(
    name, mixture, limit, min_samples, width, latent_size, penalty, discriminator_steps, learning_rate, average, batch_size, steps
) -> Experiment:
    import jax.numpy as jnp
    import optax
    from flax import linen

    from dljax import data
    from dljax.core import Fold, check_int, check_range
    from dljax.generative.gan import gan
    from dljax.objectives.adversarial import wasserstein
    from dljax.objectives.coverage import mode_coverage
    from dljax.objectives.gradient_penalties import gradient_penalty

    check_int(name, "width", width, minimum=1)
    check_int(name, "batch_size", batch_size, minimum=1)
    check_range(name, "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    num_samples, num_modes = 10_000, len(mixture.centers)

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
        scores = mode_coverage(x, jnp.asarray(mixture.centers), mixture.scale, min_samples=min_samples)
        return scores | {"covered_quality": jnp.where(scores["modes"] == num_modes, scores["quality"], 0)}

    def figures(params, key):
        import jax

        from dljax import report

        sample_key, truth_key = jax.random.split(key)
        made, true = sample(sample_key, params, num_samples), mixture.sample(truth_key, num_samples)
        scores = coverage(made)
        caption = f"10,000 samples: {int(scores['modes'])} of {num_modes} modes, {float(scores['quality']):.1%} within 3 σ of one"
        places, extent = square(limit)
        judged = learner.functions["discriminate"](key, params, places).reshape(PIXELS, PIXELS)
        return {
            "samples": report.plot(beside({"true": true, "generated": made}, limit), caption),
            "critic": report.plot(
                map_of({"critic": judged}, extent), "What the critic says of each place: only differences count; the generator climbs"
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
        data.from_sampler(lambda key: mixture.sample(key, batch_size)),
        steps=steps,
        evaluation=(),
        figures=figures,
        per_step=batch_size,
        unit="examples",
        exports=lambda key: {"discriminate": (jnp.zeros((1, 2)),)},
    )
