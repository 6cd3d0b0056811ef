"""A split of links: every link in one part, none of what is held out in the known graph, negatives that are no links."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax import data
from dljax.data.links import split_links


def pairs(array):
    return {tuple(pair) for pair in array.tolist()}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.floats(0.05, 0.35))
def test_7_2_parts_are_disjoint_and_nothing_held_out_is_an_edge_of_the_known_graph(seed, density):
    rng = np.random.default_rng(seed)
    senders, receivers = np.nonzero(rng.random((14, 14)) < density)  # directed, with self-loops: what counts is which pairs are linked
    split = split_links(senders, receivers, 14, validation=0.1, test=0.2, seed=seed)
    links = {tuple(sorted(pair)) for pair in zip(senders.tolist(), receivers.tolist(), strict=True) if pair[0] != pair[1]}
    parts = [pairs(part) for part in (split.train, split.validation, split.test)]
    assert set.union(*parts) == links
    assert sum(map(len, parts)) == len(split.train) + len(split.validation) + len(split.test) == len(links)
    assert len(split.test) == int(0.2 * len(links))
    known = set(zip(*(ends.tolist() for ends in split.both_directions()), strict=True))
    assert len(known) == 2 * len(split.train)
    assert not {pair for low, high in parts[1] | parts[2] for pair in ((low, high), (high, low))} & known
    negatives = [*split.validation_negatives.tolist(), *split.test_negatives.tolist()]
    assert len({tuple(pair) for pair in negatives}) == len(negatives) == len(split.validation) + len(split.test)
    assert all(low < high and (low, high) not in links for low, high in negatives)


def test_7_2_cora_is_split_as_in_the_paper_and_by_its_seed():
    try:
        cora = data.load("cora")
    except FileNotFoundError as error:
        pytest.skip(f"needs data that are not at hand: {error}")
    split = split_links(cora["senders"], cora["receivers"], 2708)
    assert [len(part) for part in split] == [4488, 263, 263, 527, 527]
    again, other = (split_links(cora["senders"], cora["receivers"], 2708, seed=seed) for seed in (0, 1))
    assert all((one == two).all() for one, two in zip(split, again, strict=True))
    assert pairs(split.test) != pairs(other.test)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([0], [1], 2), {"validation": -0.1}, r"validation must be in \[0, 1\), got -0.1"),
        (([0], [1], 2), {"validation": 0.6, "test": 0.4}, r"validation \+ test must be in \[0, 1\), got 1"),
        (([0], [1], 0), {}, "num_nodes must be >= 1"),
        (([0], [2], 2), {}, r"must be nodes in \[0, 1\], got 0 to 2"),
        (([0], [1, 2], 3), {}, "lists of the same length"),
        (([0, 0, 1], [1, 2, 2], 3), {"test": 0.5}, "1 pairs without a link are wanted, the graph has 0"),
    ],
)
def test_splits_that_cannot_be_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        split_links(*arguments, **options)
