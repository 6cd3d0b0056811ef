"""How good generated pictures are, in the eyes of classifiers trained here: by their features, and by what can be learned from the pictures."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Num

from dljax.core.checks import check_int
from dljax.core.contract import Data, Key, Params, start
from dljax.core.unroll import unroll
from dljax.data.sources import shuffled
from dljax.nn.attribution import layer_output
from dljax.nn.model import as_model
from dljax.objectives.losses import cross_entropy
from dljax.objectives.sample_quality import inception_score, precision_recall, sample_frechet_distance
from dljax.supervised.learner import supervised


class Judge(NamedTuple):
    """A classifier trained on real pictures.

    Attributes:
      features: pictures [N, H, W, C] to what one of its layers says [N, D].
      logits: pictures to logits [N, K].
    """

    features: Callable[[Num[Array, "N H W C"]], Float[Array, "N D"]]
    logits: Callable[[Num[Array, "N H W C"]], Float[Array, "N K"]]


def trained_classifier(
    key: Key, model: Any, pictures: Data, *, steps: int = 1000, batch_size: int = 64, learning_rate: float = 3e-3, weight_decay: float = 1e-2
) -> Params:
    """The variables of a classifier after one cycle of AdamW on labelled pictures, as one compiled program.

    Args:
      model: whatever `dljax.nn.as_model` takes, pictures to logits.
      pictures: `{"x": [N, ...], "y": [N]}`.
      steps: T >= 1.
      batch_size: B in 1 ... N.
      learning_rate: the largest, after a fifth of the steps.

    >>> from flax import linen
    >>> x = jnp.array([[0.0], [1.0]])
    >>> params = trained_classifier(jax.random.key(0), linen.Dense(2), {"x": x, "y": jnp.array([0, 1])}, steps=50, batch_size=2, learning_rate=0.3)
    >>> linen.Dense(2).apply(params, x).argmax(1).tolist()
    [0, 1]
    """
    check_int("trained_classifier", "steps", steps, minimum=1)
    schedule = optax.cosine_onecycle_schedule(max(steps, 10), learning_rate, pct_start=0.2)
    learner, source = supervised(model, cross_entropy, optax.adamw(schedule, weight_decay=weight_decay)), shuffled(pictures, batch_size)

    @jax.jit
    def run(key: Key, data: Data) -> Params:
        run_key, state, cursor = start(learner, source, key, data)
        return learner.params(unroll(learner, source, steps, steps)(run_key, 0, state, cursor, data)[0])

    return run(key, source.data)


def accuracy_on(model: Any, params: Params, pictures: Data) -> float:
    """The share of labelled pictures that a classifier names right.

    >>> same = (lambda key, x: {}, lambda params, x: x)
    >>> accuracy_on(same, {"params": {}}, {"x": jnp.eye(4), "y": jnp.array([0, 1, 2, 0])})
    0.75
    """
    net = as_model(model)
    return float((_in_parts(lambda x: net.apply(params, x)[0])(pictures["x"]).argmax(1) == jnp.asarray(pictures["y"])).mean())


def train_on_generated(key: Key, model: Any, made: Data, real: Data, **options: Any) -> float:
    """Train on generated, test on real: the accuracy on real pictures of a classifier that has seen only generated ones.

    It falls where pictures do not look real, where they are not of the class that they are said to be, and where they lack variety.

    Args:
      model: of the classifier.
      made: generated pictures and the labels that they were asked for, `{"x", "y"}`.
      real: held-out pictures, likewise.
      **options: of `trained_classifier`.
    Source: Esteban, Hyland and Rätsch (2017), Real-valued (Medical) Time Series Generation, section 4.2; Ravuri and Vinyals (2019),
      Classification Accuracy Score for Conditional Generative Models.

    >>> from flax import linen
    >>> made, real = {"x": jnp.array([[0.0], [1.0]]), "y": jnp.array([0, 1])}, {"x": jnp.array([[0.1], [0.8]]), "y": jnp.array([0, 1])}
    >>> train_on_generated(jax.random.key(0), linen.Dense(2), made, real, steps=50, batch_size=2, learning_rate=0.3)
    1.0
    """
    return accuracy_on(model, trained_classifier(key, model, made, **options), real)


def judge(key: Key, model: Any, pictures: Data, *, layer: str, **options: Any) -> Judge:
    """A classifier trained on real pictures, to look at others with.

    Args:
      model: a linen module, pictures to logits.
      pictures: `{"x": [N, H, W, C], "y": [N]}`.
      layer: whose outputs are the features, as for `dljax.nn.layer_output`: "Dense_0" of a `CNN`.
      **options: of `trained_classifier`.

    >>> from dljax.models.mlp import MLP
    >>> pictures = {"x": jnp.zeros((4, 2, 2, 1)), "y": jnp.array([0, 1, 0, 1])}
    >>> critic = judge(jax.random.key(0), MLP(2, (3,)), pictures, layer="Dense_0", steps=1, batch_size=4)
    >>> critic.features(pictures["x"]).shape, critic.logits(pictures["x"]).shape
    ((4, 3), (4, 2))
    """
    net, params = as_model(model), trained_classifier(key, model, pictures, **options)
    return Judge(_in_parts(partial(_seen, model, params, layer)), _in_parts(lambda x: net.apply(params, x)[0]))


def judged(
    judge: Judge, real: Num[Array, "N H W C"], made: Num[Array, "M H W C"], labels: Int[Array, " M"] | None = None, *, num_neighbours: int = 5
) -> dict[str, float]:
    """What generated pictures are worth beside real ones, in a judge's eyes.

    Args:
      real, made: pictures; equally many where figures are to be compared.
      labels: what generated pictures were asked to be; None where nothing was asked for.
      num_neighbours: k of `precision_recall`.
    Returns:
      `frechet_distance` of the features; `precision`, `recall`, `density` and `coverage` of them; `inception_score`; `classes`, how many of the
      classes are found: without labels those to which at least a tenth of an even share belongs, with labels those that the judge sees in at
      least half of the pictures of that label; and with labels `agreement`, the share of pictures in which the judge sees the label.

    >>> eyes = Judge(lambda x: x.reshape(len(x), -1), lambda x: 9 * jnp.eye(3)[x.reshape(len(x)).astype(int)])
    >>> x = jnp.array([0, 0, 1, 1]).reshape(4, 1, 1, 1).astype(jnp.float32)
    >>> scores = judged(eyes, x, x, num_neighbours=1)
    >>> scores["classes"], scores["frechet_distance"], scores["coverage"]
    (2, 0.0, 1.0)
    """
    of_real, of_made, logits = judge.features(real), judge.features(made), judge.logits(made)
    scores = {"frechet_distance": float(sample_frechet_distance(of_real, of_made)), "inception_score": float(inception_score(logits))}
    near = jax.jit(precision_recall, static_argnames="num")(of_real, of_made, num=num_neighbours)
    scores |= {name: float(value) for name, value in near.items()}
    num_classes, seen = logits.shape[1], logits.argmax(1)
    if labels is None:
        counts = jnp.bincount(seen, length=num_classes)
        return scores | {"classes": int((counts >= 0.1 * len(seen) / num_classes).sum())}
    hits = jnp.bincount(jnp.where(seen == labels, labels, num_classes), length=num_classes + 1)[:-1]
    asked = jnp.bincount(labels, length=num_classes)
    return scores | {"classes": int(((asked > 0) & (2 * hits >= asked)).sum()), "agreement": float((seen == labels).mean())}


def _seen(model: Any, params: Params, layer: str, x: Array) -> Float[Array, "B D"]:
    return layer_output(model, params, x, layer).reshape(x.shape[0], -1)


def _in_parts(function: Callable[[Any], Array], rows: int = 500) -> Callable[[Any], Array]:
    """A function of a batch, asked for so many rows at a time."""

    @jax.jit
    def run(x: Any) -> Array:
        x = jnp.asarray(x)
        size, parts = len(x), -(-len(x) // rows)
        if parts == 1:
            return function(x)
        padded = jnp.concatenate([x, jnp.zeros((parts * rows - size, *x.shape[1:]), x.dtype)])
        outputs = lax.map(function, padded.reshape(parts, rows, *x.shape[1:]))
        return outputs.reshape(parts * rows, *outputs.shape[2:])[:size]

    return run
