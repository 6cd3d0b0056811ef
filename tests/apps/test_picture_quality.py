"""Pictures judged by classifiers trained on the spot: what is missing shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.apps.picture_quality import Judge, judge, judged, train_on_generated
from dljax.models.mlp import MLP


def bars(seed, num=90):
    """Three kinds of 4 x 4 pictures: a bright row, a bright column, a bright diagonal; on noise."""
    generator = np.random.default_rng(seed)
    shapes = np.stack([np.eye(4)[[1] * 4].T, np.eye(4)[[1] * 4], np.eye(4)])
    y = np.arange(num, dtype=np.int32) % 3
    return {"x": (0.8 * shapes[y] + 0.2 * generator.random((num, 4, 4)))[..., None].astype(np.float32), "y": y}


NET, OPTIONS = MLP(3, (8,)), {"steps": 60, "batch_size": 30, "learning_rate": 3e-2}


def test_9_3_what_can_be_learned_from_pictures_shows_what_is_missing():
    made, test = bars(0), bars(1)

    def learned(x, y):
        return train_on_generated(jax.random.key(0), NET, {"x": x, "y": y}, test, **OPTIONS)

    assert learned(**made) == 1
    only_two = made["y"] < 2  # the third class has pictures of the first
    assert learned(np.where(only_two[:, None, None, None], made["x"], np.roll(made["x"], -2, 0)), made["y"]) < 0.7


def test_9_3_a_judge_counts_the_classes_that_it_finds_and_the_pictures_that_are_as_asked_for():
    real, made = bars(0), bars(1)
    critic = judge(jax.random.key(0), NET, real, layer="Dense_0", **OPTIONS)
    assert critic.features(real["x"]).shape == (90, 8)
    good = judged(critic, real["x"], made["x"], made["y"])
    assert (good["classes"], good["agreement"]) == (3, 1)
    assert good["inception_score"] > 2.5
    assert min(good["precision"], good["recall"]) > 0.8
    first = made["y"] == 0
    one = judged(critic, real["x"], np.where(first[:, None, None, None], made["x"], made["x"][:1]))
    assert (one["classes"], one["recall"] < 0.4) == (1, True)
    assert one["frechet_distance"] > 20 * good["frechet_distance"]
    wrong = judged(critic, real["x"], made["x"], jnp.asarray((made["y"] + 1) % 3))
    assert (wrong["classes"], wrong["agreement"]) == (0, 0)


@pytest.mark.slow
def test_a_judge_sees_more_pictures_than_one_part_holds_as_it_sees_them_alone():
    critic = judge(jax.random.key(0), NET, bars(0), layer="Dense_0", **OPTIONS)
    many = bars(2, 1203)["x"]
    np.testing.assert_allclose(critic.features(many)[1190:], critic.features(many[1190:]), rtol=1e-5, atol=1e-6)


def test_a_class_that_nobody_asked_for_does_not_count():
    eyes = Judge(lambda x: x.reshape(len(x), -1), lambda x: 9 * jnp.eye(3)[x.reshape(len(x)).astype(int)])
    x = jnp.array([0.0, 0.0, 1.0, 1.0, 2.0, 2.0]).reshape(6, 1, 1, 1)
    assert judged(eyes, x, x[:4], jnp.array([0, 0, 0, 1]), num_neighbours=1)["classes"] == 2  # two of three are as asked for
    assert judged(eyes, x, x[:4], jnp.array([0, 0, 0, 0]), num_neighbours=1)["classes"] == 1
    assert judged(eyes, x, x, num_neighbours=1)["classes"] == 3


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="trained_classifier: steps must be >= 1, got 0"):
        train_on_generated(jax.random.key(0), NET, bars(0), bars(1), steps=0)
