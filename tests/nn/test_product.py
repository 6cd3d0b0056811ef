"""Products of rows: both forms of the kernel's gradient, on whatever processor the tests run."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax import nn

product = importlib.import_module("dljax.nn.product")


@pytest.mark.parametrize("is_amd", [True, False])
def test_rows_times_a_matrix_with_derivatives_of_both_orders(is_amd, monkeypatch):
    monkeypatch.setattr(product, "_is_amd", lambda: is_amd)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel, g = (jnp.asarray(rng.normal(size=size)) for size in ((2, 3, 4), (4, 5), (2, 3, 5)))

        def loss(multiply):
            return lambda x, kernel: (jnp.sin(multiply(x, kernel)) * g).sum()

        expected = loss(lambda x, kernel: jnp.einsum("btd,df->btf", x, kernel))
        ours = loss(nn.row_product)
        for derivative in (lambda f: f, lambda f: jax.grad(f, (0, 1)), lambda f: jax.hessian(f, (0, 1)), lambda f: jax.jacfwd(f, (0, 1))):
            for one, other in zip(*(jax.tree.leaves(jax.jit(derivative(f))(x, kernel)) for f in (ours, expected)), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
