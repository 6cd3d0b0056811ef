"""Denoising diffusion (chapter 10): pictures made of noise, a little at a time."""

from dljax.core.experiment import AtLeast, Experiment, recipe


@recipe(
    "digits/diffusion",
    chapter=10,
    rows=("10.2",),
    target=AtLeast(
        "accuracy_of_generated",
        0.85,
        source="train on generated, test on real (Esteban et al., 2017): a perceptron that has seen generated digits alone, scored on the 360 "
        "held-out ones; `accuracy_of_real` is what it reaches with as many real ones. No figure of this data set is published",
    ),
    minutes=3,
    data="digits",
)
def digits_diffusion(
    width: int = 24,
    num_times: int = 200,
    sampling_steps: int = 50,
    guidance: float = 0.0,
    learning_rate: float = 2e-3,
    average: float = 0.995,
    batch_size: int = 64,
    steps: int = 2000,
) -> Experiment:
    """A U-Net that takes noise out of 8 x 8 digits and is told which digit it is; as many samples as there are training digits, by DDIM.

    Besides the two accuracies it is measured how far the samples are from the training digits: `frechet_distance` between the normal distributions
    that fit the pixels (from 0 to 1) of the two, beside `frechet_of_held_out` for the held-out digits, fewer and by other writers; and `novelty`, the
    median distance of a sample from the nearest training digit over that of a held-out digit: 0 for copies, 1 for digits as new as those.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.apps.picture_quality import train_on_generated
    from dljax.core import check_int, check_range, ema
    from dljax.generative.diffusion import diffusion
    from dljax.generative.noise_schedules import cosine_schedule
    from dljax.models.mlp import MLP
    from dljax.models.unet import TimeUNet
    from dljax.objectives.sample_quality import sample_frechet_distance

    check_int("digits/diffusion", "width", width, minimum=1)
    check_int("digits/diffusion", "batch_size", batch_size, minimum=1)
    check_int("digits/diffusion", "num_times", num_times, minimum=1)
    check_int("digits/diffusion", "sampling_steps", sampling_steps, minimum=1, maximum=num_times)
    check_range("digits/diffusion", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    check_range("digits/diffusion", "guidance", guidance, 0, open_high=True)
    digits = {part: _from_minus_one_to_one(arrays) for part, arrays in data.load("digits").items()}
    labels = np.asarray(digits["train"]["context"].argmax(-1))
    learner = ema(
        diffusion(
            TimeUNet(1, (width, 2 * width), embedding_size=4 * width, num_groups=4),
            optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1))),
            shape=(8, 8, 1),
            schedule=cosine_schedule(num_times),
            prediction="velocity",
            limit=1.0,
            context_dropout=0.1,
        ),
        average,
    )

    @jax.jit
    def samples(params, key, context):
        return learner.functions["sample"](key, params, len(context), context, num_steps=sampling_steps, eta=0.0, guidance=guidance)

    def measure(params, key):
        train, held_out = digits["train"], digits["test"]
        made = np.asarray(samples(params, key, train["context"]))
        real = {part: np.asarray(digits[part]["x"]).reshape(-1, 64) / 2 for part in digits}
        test = {"x": held_out["x"], "y": held_out["context"].argmax(-1)}
        return {
            "accuracy_of_generated": train_on_generated(key, MLP(10, (128,), 0.2), {"x": made, "y": labels}, test),
            "accuracy_of_real": train_on_generated(key, MLP(10, (128,), 0.2), {"x": train["x"], "y": labels}, test),
            "frechet_distance": float(sample_frechet_distance(jnp.asarray(made.reshape(-1, 64) / 2), jnp.asarray(real["train"]))),
            "frechet_of_held_out": float(sample_frechet_distance(*(jnp.asarray(real[part]) for part in ("test", "train")))),
            "novelty": _to_nearest(made.reshape(-1, 64) / 2, real["train"]) / _to_nearest(real["test"], real["train"]),
        }

    def figures(params, key):
        from dljax import report

        context = jnp.repeat(jnp.eye(10), 8, 0)
        made = samples(params, key, context).reshape(-1, 8, 8) / 2 + 0.5
        sample = learner.functions["sample"]
        by_steps = [
            sample(key, params, 10, jnp.eye(10), num_steps=min(num, num_times), eta=0.0).reshape(-1, 8, 8) / 2 + 0.5
            for num in (1, 2, 5, 20, num_times)
        ]
        return {
            "samples": report.grid(made, "Digits of the model's own, eight of each", columns=8),
            "steps": report.grid(jnp.concatenate(by_steps), f"The same noise in 1, 2, 5, 20 and {num_times} steps of DDIM", columns=10),
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
        exports=lambda key: {"negative_elbo": (jnp.zeros((1, 8, 8, 1)), jnp.zeros((1, 10)))},
    )


def _from_minus_one_to_one(arrays):
    import numpy as np

    return {"x": (arrays["x"] / 8 - 1).astype("float32").reshape(-1, 8, 8, 1), "context": np.eye(10, dtype="float32")[arrays["y"]]}


def _to_nearest(x, y):
    """The median distance of a row of x from the nearest row of y."""
    import numpy as np

    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2 * x @ y.T
    return float(np.median(np.sqrt(squares.min(1).clip(0))))
