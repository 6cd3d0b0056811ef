"""Pictures made by adversarial nets (chapter 9), and what they are worth to classifiers trained here."""

from dljax.core.experiment import AtLeast, Experiment, recipe

_CLOTHES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
_ASKED = "of real held-out pictures, by a classifier that has seen nothing but generated ones; "


@recipe(
    "digits/conditional-gan",
    chapter=9,
    rows=("9.3",),
    target=AtLeast("tstr_accuracy", 0.85, source=_ASKED + "the same network trained on the real training set reaches 0.92"),
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

    In the end, with 10,000 pictures, a thousand of each digit: `tstr_accuracy` (train on them, test on the 360 real digits of the last writers),
    and beside it `trained_on_real`.
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
    target=AtLeast("tstr_accuracy", 0.70, source=_ASKED + "the same network trained as long on the real training set reaches 0.89"),
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
    from dljax.objectives.sample_quality import sample_frechet_distance

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
    )
    sample = jax.jit(learner.functions["sample"], static_argnums=2)

    def draw(key, params, num):
        labels = np.arange(num, dtype=np.int32) % num_classes
        parts = [labels[first : first + 500] for first in range(0, num, 500)]
        made = [sample(jax.random.fold_in(key, number), params, len(part), jnp.asarray(part)) for number, part in enumerate(parts)]
        return np.concatenate(made), labels

    def measure(params, key):
        sample_key, judge_key, train_key = jax.random.split(key, 3)
        made, labels = draw(sample_key, params, num_made)
        critic = judge(judge_key, classifier, train, layer=layer)
        num = min(len(train["x"]), 5_000)
        scores = judged(critic, train["x"][:num], made[:num], jnp.asarray(labels[:num]))
        of_test = sample_frechet_distance(critic.features(train["x"][:num]), critic.features(test["x"][:num]))
        learned = train_on_generated(train_key, classifier, {"x": made, "y": labels}, test)
        on_real = (critic.logits(test["x"]).argmax(1) == jnp.asarray(test["y"])).mean()
        return scores | {"tstr_accuracy": learned, "trained_on_real": float(on_real), "frechet_of_test": float(of_test)}

    def figures(params, key):
        from dljax import report

        made, labels = draw(key, params, 8 * num_classes)
        order = np.argsort(labels, kind="stable")
        rows = ", ".join(names)
        return {"samples": report.grid(made[order], f"Eight pictures of each class, a row each: {rows}", columns=8)}

    return Experiment(
        learner,
        _unit_pixels({"x": train["x"], "context": train["y"]}, batch_size),
        steps=steps,
        measure=measure,
        figures=figures,
        per_step=batch_size,
        unit="examples",
        exports=lambda key: {"discriminate": (jnp.zeros((1, *shape)), jnp.zeros(1, jnp.int32))},
    )


def _unit_pixels(arrays, batch_size):
    """Shuffled batches of pictures whose pixels become floats in [0, 1] as they are drawn: the data stay as small as they are."""
    from dljax import data, nn

    source = data.shuffled(arrays, batch_size)

    def following(arrays, cursor):
        cursor, batch = source.next(arrays, cursor)
        return cursor, batch | {"x": nn.unit_pixels(batch["x"])}

    return source._replace(next=following)


@recipe(
    "fashion-mnist/edges-to-pictures",
    chapter=9,
    rows=("9.3",),
    target=AtLeast(
        "recognised",
        0.75,
        source="the share of 5,000 held-out drawings, translated, that a network trained on real pictures names right (the FCN-score of Isola et "
        "al., 2017, section 4.1, for whole pictures); real pictures reach 0.89",
    ),
    minutes=15,
    data="fashion-mnist",
)
def fashion_mnist_edges_to_pictures(
    width: int = 16,
    threshold: float = 0.1,
    weight: float = 100.0,
    learning_rate: float = 5e-4,
    batch_size: int = 32,
    steps: int = 3000,
) -> Experiment:
    """pix2pix: from line drawings of clothes, made by Sobel's masks, back to the pictures.

    A U-Net is judged by patches and by the mean absolute error, `weight` times. On drawings of the test set: `recognised`, as the target says;
    `drawing_recognised`, of the drawings themselves; `absolute_error` a pixel in [0, 1]; `frechet_distance` of the features.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.apps.picture_quality import judge, judged
    from dljax.core import check_int, check_range
    from dljax.data.edges import edges
    from dljax.generative import gan, reconstruction
    from dljax.models.cnn import CNN
    from dljax.models.pix2pix import PatchDiscriminator, PictureGenerator
    from dljax.nn import spectral_norm
    from dljax.objectives.adversarial import hinge

    name, latent_size = "fashion-mnist/edges-to-pictures", 1
    check_int(name, "width", width, minimum=1)
    check_range(name, "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    clothes = data.load("fashion-mnist")
    train, test = clothes["train"], clothes["test"]
    source = _unit_pixels(train, batch_size)

    def following(arrays, cursor):
        cursor, batch = source.next(arrays, cursor)
        return cursor, batch | {"context": edges(batch["x"], threshold=threshold)}

    optimizer = optax.adam(learning_rate, b1=0.5)
    learner = gan(
        PictureGenerator(1, (width, 2 * width, 4 * width)),
        spectral_norm(PatchDiscriminator((2 * width, 4 * width))),
        optimizer,
        optimizer,
        latent_size=latent_size,
        loss=hinge,
        terms=[reconstruction(weight)],
    )
    sample, drawn = jax.jit(learner.functions["sample"], static_argnums=2), jax.jit(lambda x: edges(x.astype(jnp.float32) / 255, threshold=threshold))

    def translated(key, params, x):
        parts = [x[first : first + 500] for first in range(0, len(x), 500)]
        return np.concatenate([sample(jax.random.fold_in(key, number), params, len(part), drawn(part)) for number, part in enumerate(parts)])

    def measure(params, key):
        sample_key, judge_key = jax.random.split(key)
        x, y = test["x"][:5_000], jnp.asarray(test["y"][:5_000])
        made = translated(sample_key, params, x)
        critic = judge(judge_key, CNN(10, (16, 32), 64, 0.1), train, layer="Dense_0")
        scores = judged(critic, x, made, y)
        return {
            "recognised": scores["agreement"],
            "drawing_recognised": float((critic.logits(drawn(x)).argmax(1) == y).mean()),
            "absolute_error": float(np.abs(made - x / 255).mean()),
            "frechet_distance": scores["frechet_distance"],
        }

    def figures(params, key):
        from dljax import report

        x = test["x"][:20]
        three = np.stack([np.asarray(drawn(x)), translated(key, params, x), x / np.float32(255)], 1)
        return {"translations": report.grid(three.reshape(-1, 28, 28), "Held-out drawings, what is made of each, and the real picture", columns=12)}

    return Experiment(
        learner,
        source._replace(next=following),
        steps=steps,
        measure=measure,
        figures=figures,
        per_step=batch_size,
        unit="examples",
        exports=lambda key: {"discriminate": (jnp.zeros((1, 28, 28, 1)), jnp.zeros((1, 28, 28, 1)))},
    )


@recipe(
    "digits/infogan",
    chapter=9,
    rows=("9.3",),
    target=AtLeast(
        "cluster_accuracy",
        0.733,
        source="of held-out digits named by their code, each of ten codes standing for the digit that it has most often in the training set; that of "
        "scikit-learn's 10-means on the same pixels",
    ),
    minutes=3,
    seeds=3,
    data="digits",
)
def digits_infogan(
    width: int = 32,
    latent_size: int = 32,
    weight: float = 1.0,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    steps: int = 4000,
) -> Experiment:
    """InfoGAN: ten values of a code that nobody explains, and that turn out to be digits.

    `cluster_accuracy` and `codes_used` are of the 360 held-out digits; `information` is the bound of the mutual information of code and picture in
    nats, at most log 10 = 2.30.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core import check_int, check_range
    from dljax.generative import categorical_code, coded, gan, mutual_information
    from dljax.models.dcgan import DCGANDiscriminator, DCGANGenerator
    from dljax.nn import spectral_norm
    from dljax.objectives.adversarial import hinge

    check_int("digits/infogan", "width", width, minimum=1)
    check_int("digits/infogan", "latent_size", latent_size, minimum=10)
    check_range("digits/infogan", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    digits = {part: {"x": (arrays["x"] / 16).astype("float32"), "y": arrays["y"]} for part, arrays in data.load("digits").items()}
    code = categorical_code(10)
    generator = coded(DCGANGenerator((8, 8, 1), (2 * width, width)), code)
    discriminator = spectral_norm(DCGANDiscriminator((width, 2 * width), num_further=10), pattern="halving.*kernel$|head/kernel$")
    learner = gan(
        generator,
        discriminator,
        optax.adam(learning_rate, b1=0.5),
        optax.adam(learning_rate, b1=0.5),
        latent_size=latent_size,
        loss=hinge,
        average=0.99,
        terms=[mutual_information(code, weight)],
    )

    def measure(params, key):
        named = {part: np.asarray(discriminator.apply(params["discriminator"], arrays["x"])[0][1].argmax(1)) for part, arrays in digits.items()}
        table = np.zeros((10, 10), int)
        np.add.at(table, (named["train"], digits["train"]["y"]), 1)
        z = jax.random.normal(key, (2_000, latent_size))
        made = generator.apply(params["generator"], z)[0]
        found = code.log_posterior(discriminator.apply(params["discriminator"], made)[0][1], code.read(z))
        return {
            "cluster_accuracy": float((table.argmax(1)[named["test"]] == digits["test"]["y"]).mean()),
            "codes_used": int((np.bincount(named["test"], minlength=10) > 0).sum()),
            "information": float(code.entropy + found.mean()),
        }

    def figures(params, key):
        from dljax import report

        z = jnp.tile(jax.random.normal(key, (8, latent_size)), (10, 1)).at[:, :10].set(jnp.repeat(9 * jnp.eye(10), 8, 0))
        made = generator.apply(params["generator"], z)[0]
        return {"codes": report.grid(made, "A row for each value of the code, a column for each of eight other latents", columns=8)}

    return Experiment(
        learner,
        data.shuffled(digits["train"], batch_size),
        steps=steps,
        measure=measure,
        figures=figures,
        per_step=batch_size,
        unit="examples",
        exports=lambda key: {"discriminate": (jnp.zeros((1, 8, 8, 1)),)},
    )
