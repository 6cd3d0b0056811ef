"""Peers in Keras 3 on JAX: the same models of its layers, trained by `fit`."""

import os

import numpy as np
from _torch import in_order


def trained(work):
    """A contestant: `fit` over a chunk's batches in their order."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    arrays = work.arrays()
    x, y = arrays["batches"]["x"], arrays["batches"]["y"]
    model, layers, weights = _built(keras, work.options, arrays["variables"]["params"], x.shape[2:])
    for layer, values in zip(layers, weights, strict=True):
        layer.set_weights([*values, *layer.get_weights()[len(values) :]])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Keras adds epsilon to a root that is not yet corrected for its bias, and so up to 30 times smaller than in the other libraries.
    model.compile(keras.optimizers.Adam(work.options["learning_rate"], epsilon=1e-9), loss)
    batch_size, done = x.shape[1], 0

    def run(steps):
        nonlocal done
        means = []
        for _ in range(steps // work.chunk):
            begin = done % len(x)
            inputs, targets = (values[begin : begin + work.chunk].reshape(-1, *values.shape[2:]) for values in (x, y))
            history = model.fit(inputs, targets, batch_size=batch_size, shuffle=False, verbose=0)
            means.append(np.mean(history.history["loss"]))
            done += work.chunk
        return means

    return run


def _built(keras, options, params, shape):
    """The model, its layers that have weights, and their initial weights."""
    layers = keras.layers
    if options["model"] == "resnet":
        return _resnet(keras, options, params, shape)
    if options["model"] == "lstm":
        vocab_size, width = params["embed"]["embedding"].shape
        inputs = layers.Input((options["context"],), dtype="int32")
        model = keras.Sequential([inputs, layers.Embedding(vocab_size, width), layers.LSTM(width, return_sequences=True), layers.Dense(vocab_size)])
        parts = (("i", "kernel"), ("h", "kernel"), ("h", "bias"))
        cell = [np.concatenate([params["cell"][f"{part}{gate}"][kind] for gate in "ifgo"], -1) for part, kind in parts]
        return model, model.layers, [[params["embed"]["embedding"]], cell, [params["head"]["kernel"], params["head"]["bias"]]]
    body = []
    if options["model"] == "cnn":
        blocks = [(layers.Conv2D(width, 3, padding="same", activation="relu"), layers.MaxPool2D()) for width in options["widths"]]
        body = [layer for block in blocks for layer in block]
    hidden = [layers.Dense(width, "relu") for width in (options["widths"] if options["model"] == "mlp" else [options["hidden"]])]
    model = keras.Sequential([layers.Input(shape), layers.Rescaling(1 / 255), *body, layers.Flatten(), *hidden, layers.Dense(10)])
    return model, [layer for layer in model.layers if layer.weights], [[params[name]["kernel"], params[name]["bias"]] for name in sorted(params)]


def _resnet(keras, options, params, shape):
    layers, made = keras.layers, []

    def conv(x, width, size, stride=1):
        made.append(layers.Conv2D(width, size, stride, use_bias=False))
        made.append(layers.BatchNormalization(momentum=0.9, epsilon=1e-5))
        # Padding on both sides, as everybody else: Keras's "same" pads a stride of 2 at the end.
        return made[-1](made[-2](layers.ZeroPadding2D(size // 2)(x) if size > 1 else x))

    inputs = layers.Input(shape)
    x = layers.ReLU()(conv(layers.Rescaling(1 / 255)(inputs), options["width"], 3))
    for stage, blocks in enumerate(options["stages"]):
        for block in range(blocks):
            width, stride = options["width"] * 2**stage, 2 if stage > 0 and block == 0 else 1
            y = conv(layers.ReLU()(conv(x, width, 3, stride)), width, 3)
            x = layers.ReLU()(layers.Add()([conv(x, width, 1, stride) if x.shape != y.shape else x, y]))
    made.append(layers.Dense(10))
    model = keras.Model(inputs, made[-1](layers.GlobalAveragePooling2D()(x)))
    kinds = ("kernel", "scale", "bias")
    return model, made, [[weights[kind] for kind in kinds if kind in weights] for weights in in_order(params)]
