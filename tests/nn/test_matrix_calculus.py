"""Every row of the table of matrix calculus against autodiff, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.nn import matrix_calculus
from dljax.nn.matrix_calculus import IDENTITIES, autodiff, commutation, table, vec

N = 3


@pytest.fixture(scope="module")
def derivatives():
    """By name, what autodiff and the table say: all in one program."""
    rng = np.random.default_rng(0)
    A, B, S, X = rng.normal(size=(4, N, N))
    a, b, x, y = rng.normal(size=(4, N))
    variables = {"x": x, "X": X, "X invertible": X + 2 * np.eye(N), "X positive definite": X @ X.T + np.eye(N)}
    constants = {"A": A, "B": B, "S": S + S.T, "a": a, "b": b, "y": np.exp(y) / np.exp(y).sum()}

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def both(variables, constants):
        rows = {row.name: (row, variables[row.variable]) for row in IDENTITIES}
        return {name: (autodiff(row, variable, constants), row.df(variable, constants)) for name, (row, variable) in rows.items()}

    with jax.enable_x64(True):
        return both(*jax.tree.map(jnp.asarray, (variables, constants)))


@pytest.mark.parametrize("name", [identity.name for identity in IDENTITIES])
def test_2_7_identity_holds_in_float64(name, derivatives):
    expected, found = derivatives[name]
    assert found.dtype == np.float64
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 1e-3, "a derivative of zero shows nothing"
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_vec_and_kronecker_product_belong_together():
    """vec AXB = (Bᵀ ⊗ A) vec X with X that is not square, by NumPy's own stacking of columns."""
    rng = np.random.default_rng(1)
    A, X, B = rng.normal(size=(2, 3)), rng.normal(size=(3, 4)), rng.normal(size=(4, 5))
    np.testing.assert_allclose(np.kron(B.T, A) @ np.ravel(X, order="F"), np.ravel(A @ X @ B, order="F"))
    assert vec(jnp.asarray(X)).tolist() == jnp.asarray(np.ravel(X, order="F")).tolist()
    assert (commutation(3, 4) @ vec(jnp.asarray(X))).tolist() == vec(jnp.asarray(X).T).tolist()
    assert (commutation(4, 3) @ commutation(3, 4)).tolist() == np.eye(12).tolist()


def test_table_is_in_the_documentation_and_names_are_its_own():
    assert len(IDENTITIES) >= 20
    assert len({identity.name for identity in IDENTITIES}) == len(IDENTITIES)
    assert table() in matrix_calculus.__doc__
    rows = table().splitlines()
    assert len(rows) == len(IDENTITIES) + 2
    assert {row.replace("\\|", "").count("|") for row in rows} == {6}
    assert {identity.kind for identity in IDENTITIES} == {"gradient", "Jacobian", "vec Jacobian", "Hessian"}
