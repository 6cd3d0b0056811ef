"""Vector quantisation: the nearest of all, one step of k-means, and a derivative that goes straight through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from dljax.core import bind_axis
from dljax.nn.vector_quantiser import Codebook, moved_codebook, nearest_code, quantised, started_codebook


def drawn(num, size, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(num, size)), jnp.float32)


@pytest.mark.parametrize("away", [0.0, 1e3])
def test_10_2_the_nearest_code_is_that_of_a_search_tree(away):
    """Also far from zero, where |e|² - 2 x·e would lose its digits; there the tree is asked about the rounded numbers."""
    codebook, x = drawn(50, 4) + away, drawn(300, 4, seed=1) + away
    distance, index = cKDTree(np.asarray(codebook, np.float64)).query(np.asarray(x, np.float64), k=2)
    found = nearest_code(codebook, x.reshape(30, 10, 4)).ravel()
    is_clear = distance[:, 1] - distance[:, 0] > 1e-4
    assert is_clear.mean() > 0.95
    np.testing.assert_array_equal(found[is_clear], index[is_clear, 0])


def test_10_2_the_codebook_without_memory_makes_one_step_of_k_means():
    cluster = pytest.importorskip("sklearn.cluster")
    x, centers = drawn(500, 3), drawn(8, 3, seed=2)
    book = Codebook(centers, jnp.ones(8), centers)
    moved = moved_codebook(jax.random.key(0), book, x, nearest_code(centers, x), decay=0.0, restart=0.0)
    reference = cluster.KMeans(8, init=np.asarray(centers), n_init=1, max_iter=1, algorithm="lloyd").fit(np.asarray(x))
    assert reference.n_iter_ == 1
    np.testing.assert_allclose(moved.vectors, reference.cluster_centers_, rtol=1e-5, atol=1e-6)


def test_10_2_the_codebook_with_memory_is_the_weighted_mean_of_all_that_was_put_into_it():
    decay, x = 0.8, drawn(90, 2).reshape(3, 30, 2)
    index = jnp.asarray(np.random.default_rng(3).integers(0, 4, (3, 30)))
    book = Codebook(jnp.zeros((5, 2)) + 7, jnp.zeros(5), jnp.zeros((5, 2)))
    for step in range(3):
        book = moved_codebook(jax.random.key(step), book, x[step], index[step], decay=decay, restart=0.0)
    weights = np.repeat(decay ** np.arange(2, -1, -1), 30)
    for code in range(4):
        mine = np.asarray(index).ravel() == code
        np.testing.assert_allclose(book.vectors[code], np.average(x.reshape(-1, 2)[mine], axis=0, weights=weights[mine]), rtol=1e-4)
    np.testing.assert_array_equal(book.vectors[4], [7, 7])  # nothing was near to it


def test_10_2_dead_codes_start_again_at_inputs_and_the_others_do_not():
    x = drawn(40, 2)
    book = Codebook(jnp.array([[0.0, 0.0], [99.0, 99.0]]), jnp.array([40.0, 0.01]), jnp.array([[0.0, 0.0], [0.99, 0.99]]))
    moved = moved_codebook(jax.random.key(0), book, x, jnp.zeros(40, int), decay=0.9, restart=0.1)
    assert (np.asarray(x) == np.asarray(moved.vectors[1])).all(1).any()
    np.testing.assert_allclose(moved.vectors[0], 0.1 * x.sum(0) / 40, rtol=1e-5)
    np.testing.assert_allclose(moved.sums / moved.counts[:, None], moved.vectors, rtol=1e-5)
    unmoved = moved_codebook(jax.random.key(0), book, x, jnp.zeros(40, int), decay=0.9, restart=0.0)
    np.testing.assert_allclose(unmoved.vectors[1], [99, 99], rtol=1e-5)


def test_10_2_the_derivative_of_quantisation_is_the_identity():
    codebook, x, cotangent = drawn(6, 3), drawn(10, 3, seed=1), drawn(10, 3, seed=2)
    (codes, index), pull = jax.vjp(lambda codebook, x: quantised(codebook, x), codebook, x)
    np.testing.assert_allclose(codes, codebook[index], rtol=1e-6)
    of_codebook, of_x = pull((cotangent, np.zeros(index.shape, jax.dtypes.float0)))
    np.testing.assert_array_equal(of_x, cotangent)
    np.testing.assert_array_equal(of_codebook, 0)


def test_shards_move_one_codebook_as_one_device_does():
    x, centers = drawn(64, 2), drawn(5, 2, seed=1)
    book = Codebook(centers, jnp.array([1.0, 1, 1, 1, 0]), centers)
    index = jnp.minimum(nearest_code(centers, x), 3)  # the last one is dead
    whole = moved_codebook(jax.random.key(0), book, x, index)
    with bind_axis("data"):
        sharded = jax.vmap(lambda x, index: moved_codebook(jax.random.key(0), book, x, index), axis_name="data")(
            x.reshape(2, 32, 2), index.reshape(2, 32)
        )
    for part, one in zip(sharded, whole, strict=True):
        np.testing.assert_array_equal(part[0], part[1])
        np.testing.assert_allclose(part[0][:4], one[:4], rtol=1e-5)
    assert (np.asarray(x[:32]) == np.asarray(sharded.vectors[0, 4])).all(1).any()  # drawn from the first device's


def test_a_codebook_starts_at_different_inputs_where_there_are_enough():
    x = drawn(20, 3)
    book = started_codebook(jax.random.key(0), x, 20)
    np.testing.assert_array_equal(np.sort(book.vectors, 0), np.sort(x, 0))
    np.testing.assert_allclose(book.counts, 1)


def test_bad_options_are_refused():
    book = Codebook(jnp.zeros((2, 1)), jnp.ones(2), jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"moved_codebook: decay must be in \[0, 1\), got 1"):
        moved_codebook(jax.random.key(0), book, jnp.ones((1, 1)), jnp.array([0]), decay=1)
    with pytest.raises(ValueError, match=r"moved_codebook: restart must be in \[0, 1\), got -1"):
        moved_codebook(jax.random.key(0), book, jnp.ones((1, 1)), jnp.array([0]), restart=-1)
