"""Autoencoders (chapter 10): codes that pictures are made from."""

from dljax.core.experiment import AtLeast, AtMost, Experiment, recipe
from dljax.recipes.planar_figures import latent_map


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
    num_samples: int = 1,
    dropout_rate: float = 0.1,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    batch_size: int = 128,
    steps: int = 6000,
) -> Experiment:
    """A variational autoencoder on 8 x 8 digits made black and white at half their range.

    `negative_elbo` is in nats per picture of the last writers, whom training has hardly seen; it bounds -log p from above, which the mixtures that it
    is compared with know exactly. `bound_of_500` is the tighter bound of 500 importance samples, and `active_units` the numbers of the code whose
    posterior mean varies from picture to picture by more than 0.01: the others have collapsed to the prior. With `num_samples` > 1 it is trained by
    the importance-weighted bound.
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
    held_out, labels = digits["test"]["x"], data.load("digits")["test"]["y"]
    learner = vae(
        MLP(2 * latent_size, (width, width), dropout_rate),
        MLP(64, (width, width), dropout_rate),
        optax.adamw(optax.cosine_decay_schedule(learning_rate, max(steps, 1)), weight_decay=weight_decay),
        latent_size=latent_size,
        beta=beta,
        num_samples=num_samples,
    )

    def measure(params, key):
        log_evidence = jax.jit(learner.functions["log_evidence"], static_argnums=3)
        active = learner.functions["active_units"](key, params, digits["train"]["x"])
        return {"bound_of_500": -float(log_evidence(key, params, held_out, 500).mean()), "active_units": int(active.sum())}

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
            "map": report.plot(
                latent_map(encode(key, params, held_out)[0], labels), "Codes of held-out digits in the plane of their two largest variances"
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


@recipe(
    "fashion-mnist/vq-vae",
    chapter=10,
    rows=("10.2",),
    target=AtLeast(
        "codebook_use",
        0.80,
        source="the share of the codes that the 10,000 test pictures use; 1 is all of them, and a codebook without restarts often ends with a few",
    ),
    minutes=4,
    data="fashion-mnist",
)
def fashion_mnist_vq_vae(
    width: int = 32,
    num_codes: int = 256,
    code_size: int = 16,
    commitment: float = 0.25,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    steps: int = 1000,
) -> Experiment:
    """Clothes as 7 x 7 indices of a codebook: 49 bytes a picture where there are 256 codes.

    Metrics on the test set: `codebook_use`, `perplexity` (exp of the entropy of how often each code is used, at most their number), `reconstruction`
    and `commitment` (sums of squares, the first and a constant), and on 2,000 of its pictures `squared_error` per pixel, of pixels from 0 to 1.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax import linen

    from dljax import data, nn
    from dljax.core import check_int, check_range
    from dljax.generative.vq_vae import vq_vae

    check_int("fashion-mnist/vq-vae", "width", width, minimum=1)
    check_int("fashion-mnist/vq-vae", "batch_size", batch_size, minimum=1)
    check_range("fashion-mnist/vq-vae", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    clothes = {part: {"x": (arrays["x"] / np.float32(255)).reshape(-1, 28, 28, 1)} for part, arrays in data.load("fashion-mnist").items()}
    shown, scored = clothes["test"]["x"][:16], clothes["test"]["x"][:2000]

    def halved(width):
        return [nn.Conv(width, (4, 4), (2, 2), "SAME"), linen.relu]

    def doubled(width):
        return nn.ConvTranspose(width, (4, 4), (2, 2), "SAME")

    encoder = linen.Sequential([*halved(width), *halved(2 * width), nn.Conv(code_size, (1, 1))])
    decoder = linen.Sequential([nn.Conv(2 * width, (3, 3)), linen.relu, doubled(width), linen.relu, doubled(1)])
    learner = vq_vae(
        encoder,
        decoder,
        optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1))),
        num_codes=num_codes,
        code_size=code_size,
        commitment=commitment,
    )
    reconstruct = jax.jit(learner.functions["reconstruct"])

    def measure(params, key):
        return {"squared_error": float(jnp.square(reconstruct(key, params, scored) - scored).mean())}

    def figures(params, key):
        from dljax import report

        encode, decode = learner.functions["encode"], learner.functions["decode"]
        index = encode(key, params, scored)
        pictures = np.stack([shown, reconstruct(key, params, shown).clip(0, 1)], 1).reshape(-1, 28, 28)
        # Each place by itself: what the codes know of each other is left out.
        shuffled = jax.vmap(jax.random.permutation, (0, 1), 1)(jax.random.split(key, 49), index.reshape(len(index), -1))
        drawn = decode(key, params, shuffled[:16].reshape(16, 7, 7, 1)).clip(0, 1)
        codes = index[:16, :, :, 0] / num_codes
        return {
            "reconstructions": report.grid(pictures, "Test pictures, each followed by what is left of it in 49 codes", columns=8),
            "codes": report.grid(codes, "The codes of these pictures, as shades of grey", columns=8),
            "independent": report.grid(drawn, "What 49 codes make that are drawn at every place by itself: a prior has to know them together"),
        }

    return Experiment(
        learner,
        data.shuffled(clothes["train"], batch_size),
        steps=steps,
        evaluation=clothes["test"],
        batch_size=500,
        evaluate_every=max(steps // 4, 1),
        measure=measure,
        figures=figures,
        per_step=batch_size,
        unit="examples",
        exports=lambda key: {"encode": (jnp.zeros((1, 28, 28, 1)),), "decode": (jnp.zeros((1, 7, 7, 1), jnp.int32),)},
    )
