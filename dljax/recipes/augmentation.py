"""Regularisation (chapter 4): 1,000 pictures of clothes, and what helps where data are few."""

from dljax.core.experiment import AtLeast, Experiment, recipe

METHODS = ("none", "weight decay", "dropout", "augmentation", "mixup", "all")


@recipe(
    "fashion-mnist-1000/augmented",
    chapter=4,
    rows=("4.3",),
    target=AtLeast("accuracy", 0.85, source="TODO"),
    minutes=1,
    seeds=5,
    data="fashion-mnist",
)
def fashion_mnist_1000(
    regularisation: str = "augmentation",
    weight_decay: float = 0.1,
    dropout_rate: float = 0.5,
    shift: int = 2,
    cutout: int = 8,
    flip: float = 0.5,
    rotation: float = 0.15,
    alpha: float = 0.4,
    width: int = 16,
    hidden: int = 64,
    learning_rate: float = 3e-3,
    batch_size: int = 50,
    steps: int = 1500,
    validation: bool = False,
) -> Experiment:
    """TODO."""
    import jax
    import numpy as np
    import optax

    from dljax import data
    from dljax.core import check_choice, check_range
    from dljax.data import augmentation, mixing
    from dljax.models.cnn import CNN
    from dljax.nn import unit_pixels
    from dljax.objectives import accuracy, cross_entropy
    from dljax.supervised import supervised

    check_choice("fashion-mnist-1000", "regularisation", regularisation, METHODS)
    check_range("fashion-mnist-1000", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    uses = {method: regularisation in (method, "all") for method in METHODS}
    clothes = data.load("fashion-mnist")
    order = np.random.default_rng(0).permutation(len(clothes["train"]["y"]))
    few = np.concatenate([order[clothes["train"]["y"][order] == label][:100] for label in range(10)])
    held = np.concatenate([order[clothes["train"]["y"][order] == label][-1000:] for label in range(10)])

    def augment(key, batch):
        move_key, flip_key, cut_key, mix_key = jax.random.split(key, 4)
        x = batch["x"]
        if uses["augmentation"]:
            if flip:
                x = augmentation.random_flip(flip_key, x, horizontal=flip)
            if rotation:
                x = augmentation.random_affine(move_key, unit_pixels(x), shift=shift, rotation=rotation)
            elif shift:
                x = augmentation.random_shift(move_key, x, pixels=shift)
            if cutout:
                x = augmentation.cutout(cut_key, x, size=cutout)
        batch = batch | {"x": x}
        return mixing.mixup(mix_key, batch | {"x": unit_pixels(x)}, alpha=alpha) if uses["mixup"] else batch

    shape = optax.cosine_onecycle_schedule(max(steps, 10), 1.0, pct_start=0.2)
    learner = supervised(
        CNN(10, (width, 2 * width), hidden, dropout_rate if uses["dropout"] else 0.0),
        mixing.mixed(cross_entropy),
        optax.adamw(lambda step: learning_rate * shape(step), weight_decay=weight_decay if uses["weight decay"] else 0.0),
        metrics={"accuracy": mixing.mixed(accuracy)},
        augment=augment,
    )
    return Experiment(
        learner,
        data.shuffled(jax.tree.map(lambda rows: rows[few], clothes["train"]), batch_size),
        steps=steps,
        evaluation=jax.tree.map(lambda rows: rows[held], clothes["train"]) if validation else clothes["test"],
        batch_size=500,
        evaluate_every=steps,
        per_step=batch_size,
        unit="examples",
    )
