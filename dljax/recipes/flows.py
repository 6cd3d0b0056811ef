"""Normalizing flows (chapter 10): densities of the plane that are known exactly, and pictures in bits per dimension."""

from dljax.core.experiment import AtMost, Experiment, recipe

_BITS_OF_COUNTS = AtMost(
    "bits_per_dim",
    3.898,
    source="what a first-order Markov chain along the rows, fitted by counting on the training pictures, gives the test pictures exactly "
    "(independent pixels: 4.588); no figure of this architecture in minutes is published",
)


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
    from dljax.core import check_int
    from dljax.data.toy import eight_gaussians
    from dljax.generative import act_norm, chain, repeat, spline_coupling

    check_int("eight-gaussians/spline-flow", "width", width, minimum=1)
    bijector = chain(act_norm(), repeat(spline_coupling(num_bins=num_bins, hidden=(width, width)), layers))
    return _planar("eight-gaussians/spline-flow", eight_gaussians(), bijector, learning_rate, batch_size, steps)


@recipe(
    "eight-gaussians/realnvp",
    chapter=10,
    rows=("10.3",),
    target=AtMost("nll_gap", 0.15, source="nats above the exact entropy of the mixture, 2.8316 by quadrature, which no density falls below"),
    minutes=1.5,
)
def eight_gaussians_realnvp(layers: int = 12, width: int = 64, learning_rate: float = 3e-3, batch_size: int = 512, steps: int = 5000) -> Experiment:
    """RealNVP on eight Gaussians, fresh samples in every step: affine couplings that take turns, scales bounded. Metrics as of the spline flow."""
    from dljax.core import check_int
    from dljax.data.toy import eight_gaussians
    from dljax.generative import act_norm, affine_coupling, chain, repeat

    check_int("eight-gaussians/realnvp", "width", width, minimum=1)
    bijector = chain(act_norm(), repeat(affine_coupling(hidden=(width, width)), layers), act_norm())
    return _planar("eight-gaussians/realnvp", eight_gaussians(), bijector, learning_rate, batch_size, steps)


@recipe(
    "plane/maf",
    chapter=10,
    rows=("10.3",),
    target=AtMost("nll_gap", 0.15, source="nats above the exact entropy; no figure is published, the papers show pictures"),
    minutes=2,
)
def plane_maf(
    density: str = "pinwheel", layers: int = 8, width: int = 64, learning_rate: float = 1e-3, batch_size: int = 512, steps: int = 4000
) -> Experiment:
    """A masked autoregressive flow with affine maps on one of four densities: checkerboard, eight-gaussians, pinwheel, two-moons.

    Metrics on 100,000 samples: `nll` (nats) and `nll_gap`, its mean distance from the exact log-density: the divergence KL(p || flow).
    """
    from dljax.core import check_choice, check_int
    from dljax.data.planar_densities import PLANAR_DENSITIES
    from dljax.generative import act_norm, chain, masked_autoregressive, repeat

    check_int("plane/maf", "width", width, minimum=1)
    check_choice("plane/maf", "density", density, PLANAR_DENSITIES)
    bijector = chain(act_norm(), repeat(masked_autoregressive(hidden=(width, width)), layers), act_norm())
    return _planar("plane/maf", PLANAR_DENSITIES[density](), bijector, learning_rate, batch_size, steps)


@recipe(
    "plane/ffjord",
    chapter=10,
    rows=("10.3",),
    target=AtMost("nll_gap", 0.15, source="nats above the exact entropy; no figure is published, the papers show pictures"),
    minutes=5,
)
def plane_ffjord(
    density: str = "pinwheel",
    width: int = 64,
    solver: str = "bosh3",
    num_steps: int = 5,
    trace: str = "exact",
    learning_rate: float = 5e-3,
    batch_size: int = 512,
    steps: int = 2000,
) -> Experiment:
    """FFJORD on one of four densities: checkerboard, eight-gaussians, pinwheel, two-moons.

    It is trained with few equal steps of a solver and scored with four times as many, so that what coarse steps get wrong is no gain.
    Metrics on 10,000 samples: `nll` (nats) and `nll_gap`, its mean distance from the exact log-density: the divergence KL(p || flow).
    """
    from dljax.core import check_choice, check_int
    from dljax.data.planar_densities import PLANAR_DENSITIES
    from dljax.generative import act_norm, chain, continuous
    from dljax.nn.ode import ODEConfig

    check_int("plane/ffjord", "width", width, minimum=1)
    check_choice("plane/ffjord", "density", density, PLANAR_DENSITIES)
    coarse, fine = (
        chain(act_norm(), continuous(hidden=(width, width), config=ODEConfig(solver, number), trace=trace)) for number in (num_steps, 4 * num_steps)
    )
    return _planar("plane/ffjord", PLANAR_DENSITIES[density](), coarse, learning_rate, batch_size, steps, scored=fine, num_samples=10_000)


@recipe(
    "fashion-mnist/maf",
    chapter=10,
    rows=("10.3", "10.4"),
    target=_BITS_OF_COUNTS,
    minutes=15,
    data="fashion-mnist",
)
def fashion_mnist_maf(
    layers: int = 5, width: int = 512, margin: float = 0.05, learning_rate: float = 5e-4, batch_size: int = 128, steps: int = 5000
) -> Experiment:
    """A masked autoregressive flow of dequantised clothes, pixel after pixel.

    `bits_per_dim` bounds -log₂ P from above, per pixel of a test picture; `bits_of_16` is the tighter bound of 16 importance samples, on 500 of them,
    `bits_of_markov_chain` the exact figure that the target is.
    """
    from dljax.core import check_int
    from dljax.generative import act_norm, chain, dequantise, logit, masked_autoregressive, repeat

    check_int("fashion-mnist/maf", "width", width, minimum=1)
    bijector = chain(dequantise(256), logit(margin), act_norm(), repeat(masked_autoregressive(hidden=(width,)), layers))
    return _clothes("fashion-mnist/maf", bijector, (784,), learning_rate, batch_size, steps)


@recipe(
    "fashion-mnist/glow",
    chapter=10,
    rows=("10.3", "10.4"),
    target=_BITS_OF_COUNTS,
    minutes=15,
    data="fashion-mnist",
)
def fashion_mnist_glow(
    num_levels: int = 2, num_steps: int = 8, width: int = 64, learning_rate: float = 1e-3, batch_size: int = 64, steps: int = 4000
) -> Experiment:
    """Glow on dequantised clothes. `bits_per_dim` bounds -log₂ P from above, per pixel of a test picture; `bits_of_16` is the tighter bound of
    16 importance samples, on 500 of them.
    """
    from dljax.core import check_int
    from dljax.generative import chain, dequantise, glow, logit

    check_int("fashion-mnist/glow", "num_steps", num_steps, minimum=1)
    bijector = chain(dequantise(256), logit(0.05), glow(num_levels=num_levels, num_steps=num_steps, width=width))
    return _clothes("fashion-mnist/glow", bijector, (28, 28, 1), learning_rate, batch_size, steps)


def _planar(name, density, bijector, learning_rate, batch_size, steps, scored=None, num_samples=100_000):
    """A flow on fresh samples of a density of the plane, and how far above its entropy it stays; `scored` is what it is scored and drawn by."""
    import jax
    import jax.numpy as jnp
    import optax

    from dljax import data
    from dljax.core import Fold, Mean, check_int, check_range
    from dljax.generative.flows import flow

    check_int(name, "batch_size", batch_size, minimum=1)
    check_range(name, "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    shape = optax.cosine_decay_schedule(1.0, max(steps, 1))
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(lambda step: learning_rate * shape(step)))
    learner = flow(bijector, optimizer, size=2)
    if scored is not None:
        exact = flow(scored, optimizer, size=2)
        learner = learner._replace(evaluate=exact.evaluate, functions=exact.functions)
    fold = learner.evaluate
    assert fold is not None

    def with_gap(acc):
        nll, log_prob = fold.finish(acc[0])["nll"], acc[1]
        return {"nll": nll, "nll_gap": Mean(nll.total + log_prob, nll.weight)}

    def fold_step(acc, state, batch):
        mask = batch.get("mask", jnp.ones(len(batch["x"])))
        return fold.step(acc[0], state, batch), acc[1] + (mask * density.log_prob(batch["x"])).sum()

    def figures(params, key):
        from dljax import report
        from dljax.recipes.planar_figures import PIXELS, beside, map_of, square

        sample_key, truth_key = jax.random.split(key)
        samples = {
            "true": density.sample(truth_key, 5000),
            "generated": jax.jit(learner.functions["sample"], static_argnums=2)(sample_key, params, 5000),
        }
        grid, extent = square(4.5)
        log_probs = {"true": density.log_prob(grid), "learned": jax.jit(learner.functions["log_prob"])(key, params, grid)}
        maps = {name: jnp.maximum(value, -12).reshape(PIXELS, PIXELS) for name, value in log_probs.items()}
        return {
            "samples": report.plot(beside(samples, 4.5), "5,000 samples of the density and of the flow"),
            "log-density": report.plot(
                map_of(maps, extent), "Log-density in nats, cut off at -12; bridges between the modes are the price of a continuous map"
            ),
        }

    return Experiment(
        learner._replace(evaluate=Fold(lambda key, state: (fold.init(key, state), jnp.zeros(())), fold_step, with_gap)),
        data.from_sampler(lambda key: {"x": density.sample(key, batch_size)}),
        steps=steps,
        evaluation={"x": density.sample(jax.random.key(2019), num_samples)},
        batch_size=10_000,
        figures=figures,
        per_step=batch_size,
        unit="examples",
        exports=lambda key: {"log_prob": (jnp.zeros((1, 2)),)},
    )


def _clothes(name, bijector, shape, learning_rate, batch_size, steps):
    """A flow of dequantised pictures of clothes, scored on the 10,000 of the test set."""
    import math

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core import Fold, Mean, check_int, check_range
    from dljax.generative.flows import flow

    check_int(name, "batch_size", batch_size, minimum=1)
    check_range(name, "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    pictures = {part: {"x": np.asarray(arrays["x"]).reshape(-1, *shape)} for part, arrays in data.load("fashion-mnist").items()}
    warmup = min(200, max(steps // 10, 1))
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(steps, warmup + 1), 0.01)
    learner = flow(bijector, optax.chain(optax.clip_by_global_norm(50.0), optax.adam(lambda step: learning_rate * schedule(step))), size=shape)
    fold, bits = learner.evaluate, 784 * math.log(2)
    assert fold is not None

    def in_bits(acc):
        nll = fold.finish(acc)["nll"]
        return {"nll": nll, "bits_per_dim": Mean(nll.total / bits, nll.weight)}

    def measure(params, key):
        x = pictures["test"]["x"][:500]
        bound = jax.jit(lambda key: learner.functions["log_prob"](key, params, x))
        draws = jnp.stack([bound(draw_key) for draw_key in jax.random.split(key, 16)])
        tighter = -(jax.nn.logsumexp(draws, 0) - math.log(16)).mean() / bits
        return {"bits_of_16": float(tighter), "bits_of_markov_chain": _markov_chain(pictures)}

    def figures(params, key):
        from dljax import report

        made = jax.jit(learner.functions["sample"], static_argnums=2)(key, params, 32).reshape(-1, 28, 28)
        return {"samples": report.grid(made / 255, "Clothes of the flow's own")}

    return Experiment(
        learner._replace(evaluate=Fold(fold.init, fold.step, in_bits)),
        data.shuffled(pictures["train"], batch_size),
        steps=steps,
        evaluation=pictures["test"],
        evaluate_every=max(steps // 4, 1),
        batch_size=500,
        measure=measure,
        figures=figures,
        per_step=batch_size,
        unit="examples",
        exports=lambda key: {"log_prob": (jnp.zeros((1, *shape), jnp.uint8),)},
    )


def _markov_chain(pictures):
    """Exact bits per dimension of test pictures by a first-order Markov chain along the rows, one for all rows, counted with 0.01 added."""
    import numpy as np

    train, test = (pictures[part]["x"].reshape(-1, 28, 28) for part in ("train", "test"))
    pairs = np.bincount(train[:, :, :-1].ravel().astype(int) * 256 + train[:, :, 1:].ravel(), minlength=256**2).reshape(256, 256) + 0.01
    firsts = np.stack([np.bincount(row, minlength=256) for row in train[:, :, 0].T]) + 0.01
    within = np.log2(pairs / pairs.sum(1, keepdims=True))[test[:, :, :-1], test[:, :, 1:]].sum((1, 2))
    first = np.log2(firsts / firsts.sum(1, keepdims=True))[np.arange(28)[None], test[:, :, 0]].sum(1)
    return float(-(within + first).mean() / 784)
