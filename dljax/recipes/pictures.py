"""Pictures made by adversarial nets (chapter 9), and what they are worth to classifiers trained here."""

from dljax.core.experiment import AtLeast, Experiment, recipe

_CLOTHES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
_ASKED = "of real held-out pictures, by a classifier that has seen nothing but generated ones; "


@recipe(
    "digits/conditional-gan",
    chapter=9,
    rows=("9.3",),
    target=AtLeast("tstr_accuracy", 0.85, source=_ASKED + "the same network trained on the real training set reaches 0.925"),
    minutes=2,
    data="digits",
)
def digits_conditional_gan(
    width: int = 32,
    latent_size: int = 32,
    learning_rate: float = 2e-3,
    average: float = 0.995,
    batch_size: int = 64,
    steps: int = 3000,
) -> Experiment:
    """A DCGAN that draws the digit it is asked for, 8 x 8; its discriminator compares picture and label by a projection.

    In the end, with 10,000 pictures, a thousand of each digit: `tstr_accuracy` (train on them, test on the 360 real digits of the last writers).
    In the features of a network trained on the real training set: `frechet_distance` of as many pictures as that has, and `frechet_of_test`, that of
    the real test set; `precision`, `recall`, `density`, `coverage`; `agreement`, the share of pictures that this network takes for what was asked
    for; `classes`, the digits of which it recognises at least half.
    """
    from dljax import data
    from dljax.models.mlp import MLP

    digits = {part: {"x": (arrays["x"] / 16).astype("float32"), "y": arrays["y"]} for part, arrays in data.load("digits").items()}
    return _conditional_gan(
        "digits/conditional-gan", digits, MLP(10, (128, 64), 0.1), "Dense_1", 10_000, [str(digit) for digit in range(10)],
        width, latent_size, learning_rate, average, batch_size, steps,
    )  # fmt: skip


@recipe(
    "fashion-mnist/conditional-gan",
    chapter=9,
    rows=("9.3",),
    target=AtLeast("tstr_accuracy", 0.70, source=_ASKED + "a network of this size trained on the real training set reaches 0.91"),
    minutes=15,
    data="fashion-mnist",
)
def fashion_mnist_conditional_gan(
    width: int = 32,
    latent_size: int = 64,
    learning_rate: float = 1e-3,
    average: float = 0.999,
    batch_size: int = 64,
    steps: int = 10_000,
) -> Experiment:
    """The same on 28 x 28 pictures of clothes.

    In the end, with 20,000 pictures, what `digits/conditional-gan` measures, with a small convolutional network; all but `tstr_accuracy` is of
    5,000 pictures and as many real ones.
    """
    from dljax import data
    from dljax.models.cnn import CNN

    return _conditional_gan(
        "fashion-mnist/conditional-gan", data.load("fashion-mnist"), CNN(10, (16, 32), 64, 0.1), "Dense_0", 20_000, _CLOTHES,
        width, latent_size, learning_rate, average, batch_size, steps,
    )  # fmt: skip


def _conditional_gan(name, pictures, classifier, layer, num_made, names, width, latent_size, learning_rate, average, batch_size, steps) -> Experiment:
    from operator import itemgetter

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax.apps.picture_quality import judge, judged, train_on_generated
    from dljax.core import check_int, check_range
    from dljax.generative.gan import gan
    from dljax.models.dcgan import DCGANDiscriminator, DCGANGenerator
    from dljax.nn import spectral_norm
    from dljax.objectives.adversarial import hinge

    check_int(name, "width", width, minimum=1)
    check_range(name, "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    train, test = pictures["train"], pictures["test"]
    shape, num_classes = train["x"].shape[1:], len(names)
    decay = optax.cosine_decay_schedule(1.0, max(steps, 1), 0.1)
    optimizer = optax.adam(lambda step: learning_rate * decay(step), b1=0.0, b2=0.99)
    learner = gan(
        DCGANGenerator(shape, (2 * width, width), num_classes),
        spectral_norm(DCGANDiscriminator((width, 2 * width), num_classes), pattern="kernel$|embedding$"),
        optimizer,
        optimizer,
        latent_size=latent_size,
        loss=hinge,
        average=average,
        condition=itemgetter("y"),
    )
    sample = jax.jit(learner.functions["sample"])

    def draw(key, params, num):
        labels = np.arange(num, dtype=np.int32) % num_classes
        parts = [sample(jax.random.fold_in(key, first), params, jnp.asarray(labels[first : first + 500])) for first in range(0, num, 500)]
        return np.concatenate([np.asarray(part) for part in parts]), labels

    def measure(params, key):
        sample_key, judge_key, train_key = jax.random.split(key, 3)
        made, labels = draw(sample_key, params, num_made)
        critic = judge(judge_key, classifier, train, layer=layer)
        num = min(len(train["x"]), 5_000)
        scores = judged(critic, train["x"][:num], made[:num], jnp.asarray(labels[:num]))
        of_test = judged(critic, train["x"][:num], test["x"][:num])
        learned = train_on_generated(train_key, classifier, {"x": made, "y": labels}, test)
        return scores | {"tstr_accuracy": learned, "frechet_of_test": of_test["frechet_distance"]}

    def figures(params, key):
        from dljax import report

        made, labels = draw(key, params, 8 * num_classes)
        order = np.argsort(labels, kind="stable")
        rows = ", ".join(names)
        return {"samples": report.grid(made[order], f"Eight pictures of each class, a row each: {rows}", columns=8)}

    return Experiment(
        learner,
        _unit_pixels(train, batch_size),
        steps=steps,
        measure=measure,
        figures=figures,
        per_step=batch_size,
        unit="examples",
        exports=lambda key: {"sample": (jnp.zeros(1, jnp.int32),)},
    )


def _unit_pixels(arrays, batch_size):
    """Shuffled batches of pictures whose pixels become floats in [0, 1] as they are drawn: the data stay as small as they are."""
    from dljax import data, nn

    source = data.shuffled(arrays, batch_size)

    def following(arrays, cursor):
        cursor, batch = source.next(arrays, cursor)
        return cursor, batch | {"x": nn.unit_pixels(batch["x"])}

    return source._replace(next=following)
