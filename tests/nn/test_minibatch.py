"""Features of a whole batch: NumPy's loops, batches of equal examples, and batches too small to compare."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.nn import MinibatchDeviation, MinibatchDiscrimination

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def test_9_2_minibatch_discrimination_is_the_sum_over_the_others_of_their_nearness():
    layer = MinibatchDiscrimination(num_kernels=2, kernel_size=4)
    variables = layer.init(jax.random.key(0), X)
    rows = (X @ np.asarray(variables["params"]["kernel"])).reshape(5, 2, 4)
    wanted = np.zeros((5, 2))
    for i in range(5):
        for j in range(5):
            wanted[i] += (i != j) * np.exp(-np.abs(rows[i] - rows[j]).sum(-1))
    found = jax.jit(layer.apply)(variables, X)
    np.testing.assert_allclose(found, np.concatenate([X, wanted], 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.apply(variables, X[::-1].copy()), found[::-1], rtol=1e-5)


def test_9_2_minibatch_deviation_is_numpys_mean_deviation_for_pictures_too():
    pictures = np.random.default_rng(1).normal(size=(4, 2, 2, 3)).astype(np.float32)
    found = MinibatchDeviation().apply({}, jnp.asarray(pictures))
    assert found.shape == (4, 2, 2, 4)
    np.testing.assert_allclose(found[..., -1], pictures.std(0).mean(), rtol=1e-5)
    np.testing.assert_array_equal(found[..., :-1], pictures)


def test_equal_examples_have_finite_gradients():
    x, layer = jnp.ones((3, 2)), MinibatchDiscrimination(num_kernels=1)
    variables = layer.init(jax.random.key(0), x)
    for apply in (lambda x: layer.apply(variables, x), lambda x: MinibatchDeviation().apply({}, x)):
        assert bool(jnp.isfinite(jax.grad(lambda x, apply=apply: apply(x).sum())(x)).all())


@pytest.mark.parametrize("layer", [MinibatchDiscrimination(), MinibatchDeviation()])
def test_a_batch_of_one_is_refused(layer):
    with pytest.raises(ValueError, match=f"{type(layer).__name__}: the batch must have at least 2 examples to compare, got 1"):
        layer.init(jax.random.key(0), jnp.ones((1, 3)))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="MinibatchDiscrimination: num_kernels must be >= 1, got 0"):
        MinibatchDiscrimination(num_kernels=0).init(jax.random.key(0), jnp.ones((2, 3)))
