"""What regularisation makes of 1,000 labels, from one sweep."""

import numpy as np
import pytest

import dljax
from dljax import recipes


@pytest.mark.slow
def test_4_3_augmentation_gains_two_points_with_1000_labels():
    build = recipes.get("fashion-mnist-1000/augmented").build
    try:
        sweep = dljax.sweep(build, {"regularisation": ["none", "augmentation"]}, seeds=5)
    except FileNotFoundError as error:
        pytest.skip(f"needs data that are not at hand: {error}")
    none, augmented = sweep.values("accuracy").reshape(2, 5)
    assert (augmented - none).mean() >= 0.02


def test_4_3_the_thousand_pictures_are_balanced_always_the_same_and_not_those_that_options_are_chosen_by():
    build = recipes.get("fashion-mnist-1000/augmented").build
    try:
        first, second = build(), build(regularisation="mixup", is_validation=True)
    except FileNotFoundError as error:
        pytest.skip(f"needs data that are not at hand: {error}")
    x, y = first.source.data["x"], first.source.data["y"]
    assert x.shape == (1000, 28, 28, 1)
    assert all((y == label).sum() == 100 for label in range(10))
    assert (x == second.source.data["x"]).all()
    assert len(first.evaluation["x"]) == len(second.evaluation["x"]) == 10_000
    seen = {picture.tobytes() for picture in np.asarray(x)}
    assert not seen & {picture.tobytes() for picture in np.asarray(second.evaluation["x"])}


def test_4_3_an_unknown_regularisation_is_refused():
    with pytest.raises(ValueError, match="fashion-mnist-1000: regularisation must be one of 'none', .* got 'drop out'"):
        recipes.get("fashion-mnist-1000/augmented").build(regularisation="drop out")
