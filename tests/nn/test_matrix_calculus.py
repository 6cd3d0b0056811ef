"""Every row of the table of matrix calculus against autodiff, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.nn import matrix_calculus
from dljax.nn.matrix_calculus import IDENTITIES, autodiff, commutation, table, vec

N = 3


@pytest.fixture(scope="module")
def numbers():
    """Constants, and a variable for each domain."""
    rng = np.random.default_rng(0)
    A, B, S, X = rng.normal(size=(4, N, N))
    a, b, x, y = rng.normal(size=(4, N))
    constants = {"A": A, "B": B, "S": S + S.T, "a": a, "b": b, "y": np.exp(y) / np.exp(y).sum()}
    return {"x": x, "X": X, "X invertible": X + 2 * np.eye(N), "X positive definite": X @ X.T + np.eye(N)}, constants


@pytest.mark.parametrize("identity", IDENTITIES, ids=lambda identity: identity.name)
def test_2_7_identity_holds_in_float64(identity, numbers):
    variables, constants = numbers
    with jax.enable_x64(True):
        variable, constants = jax.tree.map(jnp.asarray, (variables[identity.variable], constants))
        both = jax.jit(lambda *args: (autodiff(identity, *args), identity.df(*args)))
        expected, found = both(variable, constants)
    assert found.dtype == np.float64
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 1e-3, "a derivative of zero shows nothing"
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_vec_and_kronecker_product_belong_together(numbers):
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
