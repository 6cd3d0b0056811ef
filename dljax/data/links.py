"""Link prediction: which links of a graph are known, and which are to be found among pairs that are none."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from dljax.core.checks import check_int, check_range


class LinkSplit(NamedTuple):
    """The links of an undirected graph in three parts, and as many pairs that are no links beside the two that are held out.

    Attributes:
      train: [P, 2], the known links, each once with the smaller node first.
      validation, test: [V, 2], [T, 2], links to choose options by and to test with.
      validation_negatives, test_negatives: the same shapes, pairs of different nodes without a link of any part, all distinct.
    """

    train: Int[np.ndarray, "P 2"]
    validation: Int[np.ndarray, "V 2"]
    validation_negatives: Int[np.ndarray, "V 2"]
    test: Int[np.ndarray, "T 2"]
    test_negatives: Int[np.ndarray, "T 2"]

    def both_directions(self) -> tuple[Int[np.ndarray, "E"], Int[np.ndarray, "E"]]:
        """Senders and receivers of the known links, for `dljax.nn.single_graph`: E = 2 P, nothing of what is held out."""
        return np.concatenate([self.train[:, 0], self.train[:, 1]]), np.concatenate([self.train[:, 1], self.train[:, 0]])


def split_links(senders: Any, receivers: Any, num_nodes: int, *, validation: float = 0.05, test: float = 0.1, seed: int = 0) -> LinkSplit:
    """Hold out links of an undirected graph. A link leaves the known graph in both of its directions, or a model would read its answer.

    Args:
      senders, receivers: whole numbers [E] in [0, num_nodes). Directions, repeated edges and self-loops are set aside: what counts is which pairs
        of different nodes are linked.
      num_nodes: N >= 1.
      validation, test: shares of the links, each in [0, 1), together below 1; numbers are rounded down, as in the paper.
      seed: of the random choice, >= 0.
    Raises:
      ValueError: shares out of range, ends that are no nodes, or fewer pairs without a link than are wanted.
    Source: Kipf & Welling (2016), Variational graph auto-encoders, section 4: 85 %, 5 % and 10 %.

    >>> ring = np.arange(20)
    >>> split = split_links(ring, (ring + 1) % 20, 20)
    >>> split.train.shape, split.validation.shape, split.test_negatives.shape
    ((17, 2), (1, 2), (2, 2))
    """
    check_int("split_links", "num_nodes", num_nodes, minimum=1)
    check_int("split_links", "seed", seed)
    for name, share in {"validation": validation, "test": test, "validation + test": validation + test}.items():
        check_range("split_links", name, share, 0, 1, open_high=True)
    links = _pair_numbers(senders, receivers, num_nodes)
    rng = np.random.default_rng(seed)
    links = rng.permutation(links)
    num_validation, num_test = int(validation * len(links)), int(test * len(links))
    negatives = _other_pairs(rng, links, num_validation + num_test, num_nodes)
    held_out = num_validation + num_test
    parts = links[held_out:], links[:num_validation], negatives[:num_validation], links[num_validation:held_out], negatives[num_validation:]
    return LinkSplit(*(np.stack([part // num_nodes, part % num_nodes], 1).astype(np.int32) for part in parts))


def _pair_numbers(senders: Any, receivers: Any, num_nodes: int) -> Shaped[np.ndarray, "P"]:
    ends = [np.asarray(values).astype(np.int64) for values in (senders, receivers)]
    if ends[0].ndim != 1 or ends[0].shape != ends[1].shape:
        raise ValueError(f"split_links: senders and receivers must be lists of the same length, got shapes {ends[0].shape} and {ends[1].shape}")
    low, high = np.minimum(*ends), np.maximum(*ends)
    if len(low) and not 0 <= low.min() <= high.max() < num_nodes:
        raise ValueError(f"split_links: senders and receivers must be nodes in [0, {num_nodes - 1}], got {low.min()} to {high.max()}")
    return np.unique((low * num_nodes + high)[low != high])


def _other_pairs(rng: np.random.Generator, links: np.ndarray, wanted: int, num_nodes: int) -> Shaped[np.ndarray, "P"]:
    room = num_nodes * (num_nodes - 1) // 2 - len(links)
    if wanted > room:
        raise ValueError(f"split_links: {wanted} pairs without a link are wanted, the graph has {room}; hold out fewer links")
    found = np.zeros(0, np.int64)
    if 2 * wanted > room:
        # So dense that drawing would meet the same pairs again and again: list them all.
        low, high = np.triu_indices(num_nodes, 1)
        return rng.permutation(np.setdiff1d(low * num_nodes + high, links))[:wanted]
    while len(found) < wanted:
        low, high = np.sort(rng.integers(num_nodes, size=(2, 2 * wanted)), 0)
        drawn = np.setdiff1d((low * num_nodes + high)[low < high], links)
        found = np.union1d(found, drawn)
    return rng.permutation(found)[:wanted]
