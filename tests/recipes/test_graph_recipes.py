"""What the recipes of graphs are scored by, and what their options were chosen by."""

import numpy as np
import pytest

from dljax import recipes


def built(name, **options):
    try:
        return recipes.get(name).build(**options)
    except FileNotFoundError as error:
        pytest.skip(f"needs data that are not at hand: {error}")


@pytest.mark.parametrize("name", ["cora/gcn", "cora/gat"])
def test_7_2_papers_to_learn_from_to_choose_by_and_to_be_scored_by_are_different(name):
    masks = [
        np.asarray(mask) for mask in (built(name).source.data["mask"], *(built(name, is_validation=v).evaluation["mask"] for v in (True, False)))
    ]
    assert [int(mask.sum()) for mask in masks] == [140, 500, 1000]
    assert sum(masks).max() == 1


def test_7_2_molecules_are_divided_eight_to_one_to_one_and_otherwise_by_another_seed():
    pytest.importorskip("rdkit")
    first, second, third = (built("esol/mpnn", **options) for options in ({}, {"is_validation": True}, {"split": 1}))
    counts = [len(first.source.data["y"]), *(int(experiment.evaluation["mask"].sum()) for experiment in (second, first))]
    assert counts == [902, 113, 113]
    assert not np.array_equal(first.evaluation["y"], third.evaluation["y"])
