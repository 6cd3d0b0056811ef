"""Spectral normalisation: numpy's singular values, the gradient through the norm, and when the guesses move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from dljax.nn import power_iteration, spectral_norm


class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(3, (2, 2), padding="VALID")(x)
        return linen.Dense(2)(x.reshape(len(x), -1))


X = jax.random.normal(jax.random.key(9), (5, 3, 3, 2))


def test_9_2_every_kernel_is_divided_by_numpys_largest_singular_value():
    model = spectral_norm(Net())
    variables = model.init(jax.random.key(0), X)
    params = jax.tree.map(np.asarray, variables["params"])
    divided = {
        name: layer | {"kernel": layer["kernel"] / np.linalg.norm(layer["kernel"].reshape(-1, layer["kernel"].shape[-1]), 2)}
        for name, layer in params.items()
    }
    outputs, _ = jax.jit(model.apply)(variables, X)
    np.testing.assert_allclose(outputs, Net().apply({"params": divided}, X), rtol=1e-4, atol=1e-5)
    assert sorted(variables["spectral"]) == ["Conv_0/kernel", "Dense_0/kernel"]


def test_9_2_the_gradient_goes_through_the_norm():
    with jax.enable_x64(True):
        w, u = jax.random.normal(jax.random.key(0), (5, 3)), jnp.ones(3) / jnp.sqrt(3.0)
        weights = jax.random.normal(jax.random.key(1), (5, 3))
        _, u = power_iteration(w, u, 300)
        found = jax.grad(lambda w: (weights * w / power_iteration(w, u, 1)[0]).sum())(w)
        wanted = jax.grad(lambda w: (weights * w / jnp.linalg.svd(w, compute_uv=False)[0]).sum())(w)
        np.testing.assert_allclose(found, wanted, rtol=1e-9)
        assert float(power_iteration(w, u, 1)[0]) == pytest.approx(np.linalg.norm(w, 2), rel=1e-12)


def test_guesses_move_in_training_only_and_follow_the_kernel():
    model = spectral_norm(linen.Dense(3, use_bias=False))
    variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
    changed = variables | {"params": {"kernel": jnp.diag(jnp.array([1.0, 2.0, 8.0, 0.0]))[:, :3]}}
    _, still = model.apply(changed, jnp.eye(4))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, still["spectral"], variables["spectral"]))
    apply = jax.jit(lambda variables: model.apply(variables, jnp.eye(4), train=True))
    for _ in range(15):
        outputs, state = apply(changed)
        changed = changed | state
    np.testing.assert_allclose(np.linalg.norm(outputs, 2), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.abs(changed["spectral"]["kernel"]), [0, 0, 1], atol=1e-5)


def test_a_matrix_of_zeros_stays_one_with_a_finite_gradient():
    u = jnp.array([0.6, 0.8])
    sigma, same = power_iteration(jnp.zeros((3, 2)), u, 2)
    assert float(sigma) == 0
    assert same.tolist() == u.tolist()
    assert bool(jnp.isfinite(jax.grad(lambda w: power_iteration(w, u)[0])(jnp.zeros((3, 2)))).all())


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="spectral_norm: iterations must be >= 1, got 0"):
        spectral_norm(linen.Dense(2), iterations=0)
    with pytest.raises(ValueError, match=r"spectral_norm: pattern 'bias' finds 'bias', which is no matrix: its shape is \(2,\)"):
        spectral_norm(linen.Dense(2), pattern="bias").init(jax.random.key(0), jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="spectral_norm: pattern 'weight' finds none of the 2 paths"):
        spectral_norm(linen.Dense(2), pattern="weight").init(jax.random.key(0), jnp.ones((1, 3)))
