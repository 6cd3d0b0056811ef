"""Generalisation (chapter 4): double descent."""

from dljax.core.experiment import AtMost, Experiment, recipe


@recipe(
    "digits/double-descent",
    chapter=4,
    rows=("4.4",),
    target=AtMost(
        "peak_distance",
        0.04,
        source="Belkin et al. (2019), PNAS 116: the test error of least squares on random features peaks where there are as many features "
        "as examples; the sizes tried beside the threshold are 5 % away, so that only the threshold itself will do",
    ),
    minutes=0.5,
    data="digits",
)
def digits_double_descent(num_examples: int = 100, penalty: float = 0.0, steps: int = 10) -> Experiment:
    """Least squares on up to ten times as many random ReLU features as examples, each step with another training set and other features.

    The targets are one-hot, the error is the squared one, summed over the ten classes, on the 360 test digits. The state holds the sums of the errors
    by the number of features. `peak_distance` is |P - N| / N for the number of features P with the largest mean test error.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dljax import data
    from dljax.core import Fold, Learner, check_int
    from dljax.supervised.generalisation import double_descent
    from dljax.supervised.linear import random_features

    check_int("digits/double-descent", "num_examples", num_examples, minimum=20, maximum=1000)
    shares = (0.05, 0.1, 0.2, 0.4, 0.6, 0.75, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.15, 1.25, 1.5, 2, 3, 5, 10)
    sizes = [round(share * num_examples) for share in shares]
    threshold = shares.index(1)
    fit = random_features(sizes[-1], penalty=penalty)
    digits = {part: (arrays["x"].reshape(len(arrays["x"]), -1), np.eye(10)[arrays["y"]]) for part, arrays in data.load("digits").items()}
    # Of inputs that are not centred two fifths of the ReLU features are on or off for all examples: 100 of them have rank 75 to 84, 140 rank 100,
    # and the peak moves there.
    mean, deviation = digits["train"][0].mean(0), digits["train"][0].std()
    arrays = {part: {"x": np.float32((x - mean) / deviation), "y": np.float32(y)} for part, (x, y) in digits.items()}

    def summed_squares(outputs, targets):
        return jnp.square(outputs - targets).sum(-1)

    def init(key, batch):
        return {"params": {"test": jnp.zeros(len(sizes)), "train": jnp.zeros(len(sizes)), "rounds": jnp.zeros(())}}

    def step(key, state, batch):
        rows_key, fit_key = jax.random.split(key)
        rows = jax.random.permutation(rows_key, len(batch["train"]["y"]))[:num_examples]
        train, test = jax.tree.map(lambda leaf: leaf[rows], batch["train"]), batch["test"]
        curve = double_descent(fit_key, fit, train["x"], train["y"], test["x"], test["y"], sizes=sizes, metric=summed_squares)
        new = {"test": curve.test[:, 0], "train": curve.train[:, 0], "rounds": jnp.ones(())}
        metrics = {"threshold_error": new["test"][threshold], "best_error_below": new["test"][:threshold].min(), "error_above": new["test"][-1]}
        return {"params": jax.tree.map(jnp.add, state["params"], new)}, metrics

    def summary(acc, state, batch):
        test = state["params"]["test"] / jnp.maximum(state["params"]["rounds"], 1)
        peak = jnp.array(sizes)[jnp.argmax(test)]
        below = test[:threshold].min()
        return {
            "peak_distance": jnp.abs(peak - num_examples) / num_examples,
            "peak_to_best_below": test.max() / below,
            "last_to_best_below": test[-1] / below,
        }

    def figures(params, key):
        from dljax import report

        def draw(axes):
            for part in ("test", "train"):
                axes.loglog(sizes, np.asarray(params[part] / params["rounds"]), "o-", label=part)
            axes.axvline(num_examples, color="grey", linestyle=":")
            axes.set(xlabel="features", ylabel="squared error")
            axes.set_ylim(bottom=1e-4)
            axes.legend()

        return {"double-descent": report.plot(draw, f"Mean error by the number of random features, {num_examples} training digits")}

    fold = Fold(lambda key, state: jax.tree.map(jnp.zeros_like, summary(None, state, None)), summary, lambda acc: acc)
    return Experiment(Learner(init, step, evaluate=fold), data.repeat(arrays), steps=steps, evaluation=(), evaluate_every=steps, figures=figures)
