"""Autoencoders (chapter 10): codes that pictures are made from."""

from dljax.core.experiment import AtMost, Experiment, recipe


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
