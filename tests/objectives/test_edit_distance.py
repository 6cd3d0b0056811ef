"""The edit distance against the plain table, pair by pair, and its laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.objectives import edit_distance

distance = jax.jit(edit_distance)


def by_table(one, two):
    """Wagner and Fischer's program, cell by cell."""
    table = np.zeros((len(one) + 1, len(two) + 1), int)
    table[:, 0], table[0] = np.arange(len(one) + 1), np.arange(len(two) + 1)
    for i, a in enumerate(one, 1):
        for j, b in enumerate(two, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
    return table[-1, -1]


def test_6_2_edit_distance_is_that_of_the_plain_table_whatever_the_padding():
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 3, (500, 7)), rng.integers(0, 3, (500, 9))
    lengths, label_lengths = rng.integers(0, 8, 500), rng.integers(0, 10, 500)
    expected = [by_table(a[:m], b[:n]) for a, b, m, n in zip(one, two, lengths, label_lengths, strict=True)]
    np.testing.assert_array_equal(distance(one, two, lengths=lengths, label_lengths=label_lengths), expected)
    # It is a distance: symmetric, and zero for the same alone.
    np.testing.assert_array_equal(distance(two, one, lengths=label_lengths, label_lengths=lengths), expected)
    same = np.array([m == n and (a[:m] == b[:n]).all() for a, b, m, n in zip(one, two, lengths, label_lengths, strict=True)])
    np.testing.assert_array_equal(np.array(expected) == 0, same)


def test_batches_of_any_rank_and_empty_sequences():
    one = jnp.array([[1, 2, 3], [3, 2, 1]])
    assert int(edit_distance(one[0], one[1])) == 2
    assert edit_distance(one[None], one[None, ::-1]).tolist() == [[2, 2]]
    assert edit_distance(one[:, :0], one).tolist() == [3, 3]
    assert edit_distance(one, one[:, :0]).tolist() == [3, 3]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="tokens and labels must be of one batch"):
        edit_distance(np.zeros((2, 3), int), np.zeros((3, 3), int))
    with pytest.raises(ValueError, match=r"lengths must have the batch's shape \(2,\), got \(3,\)"):
        edit_distance(np.zeros((2, 3), int), np.zeros((2, 3), int), lengths=np.zeros(3, int))
