"""Peers in Keras 3 on JAX: the same models of its layers, trained by `fit`."""

import os

import numpy as np


def trained(work):
    """A contestant: `fit` over a chunk's batches in their order."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    options, arrays = work.options, work.arrays()
    layers, params = keras.layers, arrays["variables"]["params"]
    if options["model"] == "mlp":
        hidden = [layers.Dense(width, "relu") for width in options["widths"]]
        model = keras.Sequential([layers.Input((28, 28, 1)), layers.Rescaling(1 / 255), layers.Flatten(), *hidden, layers.Dense(10)])
    elif options["model"] == "cnn":
        blocks = [(layers.Conv2D(width, 3, padding="same", activation="relu"), layers.MaxPool2D()) for width in options["widths"]]
        convolutions = [layer for block in blocks for layer in block]
        head = [layers.Flatten(), layers.Dense(options["hidden"], "relu"), layers.Dense(10)]
        model = keras.Sequential([layers.Input((28, 28, 1)), layers.Rescaling(1 / 255), *convolutions, *head])
    with_weights = [layer for layer in model.layers if layer.weights]
    for layer, name in zip(with_weights, sorted(params), strict=True):
        layer.set_weights([params[name]["kernel"], params[name]["bias"]])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(options["learning_rate"], epsilon=1e-8), loss)
    x, y = arrays["batches"]["x"], arrays["batches"]["y"]
    batch_size, done = x.shape[1], 0

    def run(steps):
        nonlocal done
        means = []
        for _ in range(steps // work.chunk):
            begin = done % len(x)
            pictures, labels = (values[begin : begin + work.chunk].reshape(-1, *values.shape[2:]) for values in (x, y))
            history = model.fit(pictures, labels, batch_size=batch_size, shuffle=False, verbose=0)
            means.append(np.mean(history.history["loss"]))
            done += work.chunk
        return means

    return run
