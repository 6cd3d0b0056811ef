"""Chapter 4: more parameters than examples. The error of least squares peaks where it can just meet them all, and falls again beyond.

Random ReLU features of handwritten digits, 100 training examples, 5 to 1,000 features, ten training sets. The squared test error is 0.79 at best
below the threshold, 27 at exactly 100 features, 0.36 at 1,000; a small ridge penalty takes the peak away. About half a minute on two cores.
"""

# %% The real data: 8 x 8 digits, one-hot targets.
import os

import jax
import jax.numpy as jnp
import numpy as np

from dljax import data
from dljax.supervised import bias_variance, double_descent, random_features

STEPS = int(os.environ.get("STEPS", "10"))  # training sets
NUM = 100
SIZES = [5, 10, 20, 40, 60, 80, 90, 95, 100, 105, 110, 120, 150, 200, 300, 500, 1000]
digits = data.load("digits")
mean, deviation = digits["train"]["x"].mean(0), digits["train"]["x"].std()
x, x_test = (jnp.asarray((digits[part]["x"] - mean).reshape(-1, 64) / deviation, jnp.float32) for part in ("train", "test"))
y, y_test = (jnp.asarray(np.eye(10)[digits[part]["y"]], jnp.float32) for part in ("train", "test"))
rows = jax.vmap(lambda key: jax.random.permutation(key, len(x))[:NUM])(jax.random.split(jax.random.key(0), STEPS))


# %% All sizes are one program: a model of P features uses the first P of 1,000 columns, and P is traced.
def summed_squares(outputs, targets):
    return jnp.square(outputs - targets).sum(-1)


def curve(penalty):
    def one(rows, key):
        fit = random_features(SIZES[-1], penalty=penalty)
        return double_descent(key, fit, x[rows], y[rows], x_test, y_test, sizes=SIZES, metric=summed_squares)

    return jax.jit(lambda: jax.lax.map(lambda each: one(*each), (rows, jax.random.split(jax.random.key(1), STEPS))))()


curves = {"minimum norm": curve(0.0), "ridge, penalty 0.01": curve(0.01)}
errors = {name: np.asarray(each.test[..., 0]).mean(0) for name, each in curves.items()}
trained = np.asarray(curves["minimum norm"].train[..., 0]).mean(0)
for name, error in errors.items():
    print(f"{name}: peak {error.max():.3g} at {SIZES[int(error.argmax())]} features, {error[-1]:.3g} at {SIZES[-1]}")

# %% Which part of the error is it? The variance: at the threshold a fit has to follow every accident of its training set.
chosen = [20, 60, 100, 200, 1000]


@jax.jit
def parts(num_features):
    fit = random_features(SIZES[-1])(num_features)
    taken = bias_variance(jax.random.key(2), fit, x[rows], y[rows], x_test, y_test[None])
    return jnp.stack([taken.bias_squared.mean(), taken.variance.mean()])


taken = np.stack([parts(num) for num in chosen])
for num, (bias, variance) in zip(chosen, taken, strict=True):
    print(f"{num:5d} features: bias² {bias:.3f}, variance {variance:.3f}")

# %% A figure.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, error in errors.items():
        left.loglog(SIZES, error, "o-", label=f"test, {name}")
    left.loglog(SIZES, trained, "o-", color="grey", label="training, minimum norm")
    left.axvline(NUM, color="black", linestyle=":")
    left.set(xlabel="random features", ylabel="squared error", title=f"{NUM} digits: the threshold is at {NUM} features", ylim=(1e-3, None))
    left.legend()
    right.loglog(chosen, taken[:, 0], "o-", label="bias² (and noise)")
    right.loglog(chosen, taken[:, 1], "o-", label="variance")
    right.set(xlabel="random features", ylabel="squared error", title=f"Its parts, over {STEPS} training sets")
    right.legend()
    figure.savefig("ch04_double_descent.png", dpi=150)
