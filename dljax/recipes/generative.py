"""Generative models: flows and autoencoders (chapter 10)."""

from dljax.core.experiment import AtMost, Experiment, recipe


@recipe(
    "eight-gaussians/spline-flow",
    chapter=10,
    rows=("10.3",),
    target=AtMost("nll_gap", 0.05, source="nats above the exact entropy of the mixture, 2.8316 by quadrature, which no density falls below"),
    minutes=1.5,
)
def eight_gaussians_spline_flow(
    layers: int = 6,
    num_bins: int = 8,
    width: int = 64,
    learning_rate: float = 2e-3,
    batch_size: int = 512,
    steps: int = 3000,
) -> Experiment:
    """A neural spline flow on eight Gaussians, fresh samples in every step.

    Metrics on 100,000 samples that are the same in every run: `nll` (nats) and `nll_gap`, how far it lies above the exact entropy; the number of
    samples leaves it a standard error of 0.003.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from dljax import data
    from dljax.core import Fold, Mean, check_int, check_range
    from dljax.data.toy import eight_gaussians
    from dljax.generative.flows import act_norm, chain, flow, repeat, spline_coupling

    check_int("eight-gaussians/spline-flow", "width", width, minimum=1)
    check_int("eight-gaussians/spline-flow", "batch_size", batch_size, minimum=1)
    check_range("eight-gaussians/spline-flow", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    density = eight_gaussians()
    entropy, _ = density.entropy
    bijector = chain(act_norm(), repeat(spline_coupling(num_bins=num_bins, hidden=(width, width)), layers))
    learner = flow(bijector, optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1))), size=2)
    fold = learner.evaluate
    assert fold is not None

    def with_gap(acc):
        nll = fold.finish(acc)["nll"]
        return {"nll": nll, "nll_gap": Mean(nll.total - entropy * nll.weight, nll.weight)}

    def figures(params, key):
        from dljax import report

        sample_key, truth_key = jax.random.split(key)
        samples = {
            "true": density.sample(truth_key, 5000),
            "generated": jax.jit(learner.functions["sample"], static_argnums=2)(sample_key, params, 5000),
        }
        grid, extent = _grid(4.5)
        log_probs = {"true": density.log_prob(grid), "learned": jax.jit(learner.functions["log_prob"])(key, params, grid)}
        maps = {name: jnp.maximum(value, -12).reshape(_PIXELS, _PIXELS) for name, value in log_probs.items()}
        return {
            "samples": report.plot(_beside(samples, 4.5), "5,000 samples of the mixture and of the flow"),
            "log-density": report.plot(
                _maps(maps, extent), "Log-density in nats, cut off at -12; bridges between the modes are the price of a continuous map"
            ),
        }

    return Experiment(
        learner._replace(evaluate=Fold(fold.init, fold.step, with_gap)),
        data.from_sampler(lambda key: density.sample(key, batch_size)),
        steps=steps,
        evaluation={"x": density.sample(jax.random.key(2019), 100_000)},
        batch_size=10_000,
        figures=figures,
        per_step=batch_size,
        unit="examples",
        exports=lambda key: {"log_prob": (jnp.zeros((1, 2)),)},
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
