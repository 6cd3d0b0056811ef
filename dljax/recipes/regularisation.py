"""Regularisation (chapter 4): what calibrates a network that is too sure of itself."""

from dljax.core.experiment import AtMost, Experiment, recipe


@recipe(
    "fashion-mnist/calibrated",
    chapter=4,
    rows=("4.2",),
    target=AtMost(
        "error_ratio",
        0.31,
        source="Guo et al. (2017), On calibration of modern neural networks, table 1: LeNet-5 on CIFAR-10, where temperature scaling takes the "
        "expected calibration error from 3.02 % to 0.93 %",
    ),
    minutes=1,
    data="fashion-mnist",
)
def fashion_mnist_calibrated(
    width: int = 256, num_members: int = 5, num_examples: int = 5000, learning_rate: float = 1e-3, batch_size: int = 100, steps: int = 1500
) -> Experiment:
    """Five networks trained side by side on 5,000 pictures of clothes until they know them by heart, and two cures for their confidence.

    The temperature of each is fitted to 5,000 other training pictures; all is measured on the 10,000 of the test set, which decides nothing.
    `error` is the expected calibration error in 15 bins, `nll` the negative log-likelihood in nats: means over the members, of each with its
    temperature (`scaled_`), and of the mean of their probabilities (`ensemble_`). `error_ratio` is `scaled_error / error`.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from dljax import data
    from dljax.core import check_int, check_range, ensemble, mixture_logits
    from dljax.models.mlp import MLP
    from dljax.objectives import accuracy, cross_entropy
    from dljax.supervised import expected_calibration_error, supervised, temperature_scaling

    check_range("fashion-mnist/calibrated", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    check_int("fashion-mnist/calibrated", "num_members", num_members, minimum=1)
    check_int("fashion-mnist/calibrated", "num_examples", num_examples, minimum=1, maximum=50_000)
    clothes = data.load("fashion-mnist")
    train = {name: array[:num_examples] for name, array in clothes["train"].items()}
    held_out = {name: jnp.asarray(array[-5000:]) for name, array in clothes["train"].items()}
    test = {name: jnp.asarray(array) for name, array in clothes["test"].items()}
    member = supervised(MLP(10, (width, width)), cross_entropy, optax.adam(learning_rate), metrics={"accuracy": accuracy})
    learner = ensemble(member, num_members, combine={"predict": mixture_logits})

    def scores(logits):
        error = expected_calibration_error(jax.nn.softmax(logits), test["y"])
        return {"accuracy": accuracy(logits, test["y"]).mean(), "error": error, "nll": cross_entropy(logits, test["y"]).mean()}

    @jax.jit
    def measured(params, key, held_out, test):
        predict = jax.vmap(lambda params, x: member.functions["predict"](key, params, x), (0, None))
        logits = predict(params, test["x"])
        scalings = jax.vmap(temperature_scaling, (0, None))(predict(params, held_out["x"]), held_out["y"])
        scaled = jax.vmap(lambda scaling, z: scaling(z))(scalings, logits)
        means = jax.tree.map(jnp.mean, {"": jax.vmap(scores)(logits), "scaled_": jax.vmap(scores)(scaled)})
        means["ensemble_"] = scores(mixture_logits(logits))
        found = {kind + name: value for kind, values in means.items() for name, value in values.items()}
        return found | {"temperature": scalings.temperature.mean(), "error_ratio": found["scaled_error"] / found["error"]}

    def measure(params, key):
        return {name: float(value) for name, value in measured(params, key, held_out, test).items()}

    return Experiment(
        learner,
        data.shuffled(train, batch_size),
        steps=steps,
        evaluation=clothes["test"],
        evaluate_every=steps,
        batch_size=500,
        measure=measure,
        per_step=batch_size,
        unit="examples",
    )
