"""Edges: SciPy's Sobel filter, and lines that are thin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from dljax.data.edges import edges, sobel

LINES = jax.jit(edges)
X = jax.random.uniform(jax.random.key(0), (3, 9, 7, 2))


def test_9_3_the_gradient_is_scipys():
    want = np.stack([
        np.stack([np.hypot(*(scipy.ndimage.sobel(np.asarray(x[..., c]), axis, mode="nearest") for axis in (0, 1))) / 8 for c in range(2)], -1)
        for x in X
    ])  # fmt: skip
    np.testing.assert_allclose(jax.jit(sobel)(X), want, rtol=1e-5, atol=1e-6)


def test_9_3_the_outline_of_a_square_is_a_thin_closed_line():
    square = jnp.zeros((1, 12, 12, 1)).at[:, 3:9, 3:9].set(1.0)
    lines = np.asarray(LINES(square))[0, :, :, 0]
    assert set(np.unique(lines)) == {0.0, 1.0}
    assert lines[:, 5].sum() == 2  # one line where it is crossed on either side
    assert lines[5].sum() == 2
    labels, parts = scipy.ndimage.label(lines == 0)
    assert parts == 2
    assert labels[0, 0] != labels[5, 5]


def test_flat_pictures_have_no_edges_and_a_threshold_may_be_traced():
    assert float(LINES(jnp.full((1, 12, 12, 1), 0.7)).sum()) == 0
    counts = jax.jit(jax.vmap(lambda threshold: edges(X, threshold=threshold).sum()))(jnp.array([0.0, 0.2, 10.0]))
    assert counts[0] > counts[1] > counts[2] == 0
    with pytest.raises(ValueError, match="edges: threshold must be in"):
        edges(X, threshold=-0.1)
