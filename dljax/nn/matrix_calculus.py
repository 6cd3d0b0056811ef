"""Matrix calculus: identities for gradients and Jacobians, each as a formula and as code that the tests hold against autodiff.

Conventions. Capital letters are matrices, small ones vectors (columns) or scalars; A, B, a, b, y do not depend on x and X; S is symmetric, and its
entries count as independent. p = softmax(x), 1 is a vector of ones, e^(x) works element by element, ⊙ multiplies so, ⊗ is Kronecker's product.

- gradient of a scalar f: (∂f/∂X)_ij = ∂f/∂X_ij, of the shape of X ("denominator layout"; what `jax.grad` gives)
- Jacobian of a vector f: J_ij = ∂f_i/∂x_j, a row for each output ("numerator layout"; what `jax.jacobian` gives)
- Jacobian of a matrix F: that of vec F by vec X, where vec stacks columns; K is the commutation matrix, K vec X = vec Xᵀ
- Hessian of a scalar f: H_ij = ∂²f/∂x_i∂x_j

Source: Petersen and Pedersen (2012), The Matrix Cookbook; Magnus and Neudecker (2019), Matrix Differential Calculus.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import expm
from jaxtyping import Array, Float, Shaped


class Identity(NamedTuple):
    """A row of the table.

    Attributes:
      name: what it is called.
      function: f as text.
      derivative: its derivative as text.
      kind: "gradient", "Jacobian", "vec Jacobian" or "Hessian", as the conventions of this module say.
      variable: what the derivative is taken by, and its domain: "x", "X", "X invertible", "X positive definite".
      f: the function, of the variable and of a dict with the constants A, B [n, n], S [n, n], a, b, y [n].
      df: the derivative, of the same.
    """

    name: str
    function: str
    derivative: str
    kind: str
    variable: str
    f: Callable[[Array, dict[str, Array]], Array]
    df: Callable[[Array, dict[str, Array]], Array]


def vec(X: Shaped[Array, "m n"]) -> Shaped[Array, "mn"]:
    """The columns of a matrix, one under the other.

    >>> vec(jnp.array([[1, 2], [3, 4]])).tolist()
    [1, 3, 2, 4]
    """
    return X.T.reshape(-1)


def commutation(m: int, n: int) -> Float[Array, "mn mn"]:
    """The permutation K with K vec X = vec Xᵀ for X [m, n].

    >>> X = jnp.arange(6.0).reshape(2, 3)
    >>> bool((commutation(2, 3) @ vec(X) == vec(X.T)).all())
    True
    """
    return jnp.eye(m * n)[jnp.arange(m * n).reshape(n, m).T.reshape(-1)]


def autodiff(identity: Identity, variable: Array, constants: dict[str, Array]) -> Array:
    """The derivative by autodiff, in the layout that the identity's kind asks for.

    >>> quadratic = next(row for row in IDENTITIES if row.name == "quadratic form")
    >>> A, x = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([1.0, 1.0])
    >>> autodiff(quadratic, x, {"A": A}).tolist(), quadratic.df(x, {"A": A}).tolist()
    ([4.0, 4.0], [4.0, 4.0])
    """
    if identity.kind == "gradient":
        return jax.grad(identity.f)(variable, constants)
    if identity.kind == "Hessian":
        return jax.hessian(identity.f)(variable, constants)
    if identity.kind == "Jacobian":
        return jax.jacobian(identity.f)(variable, constants)
    return jax.jacobian(lambda flat: vec(identity.f(flat.reshape(variable.shape[::-1]).T, constants)))(vec(variable))


def table() -> str:
    """All identities as a table in Markdown.

    >>> print("\\n".join(table().splitlines()[:3]))
    | identity | function | derivative | kind | by |
    | --- | --- | --- | --- | --- |
    | linear form | aᵀx | a | gradient | x |
    """
    rows = [(row.name, row.function, row.derivative, row.kind, row.variable) for row in IDENTITIES]
    cells = [("identity", "function", "derivative", "kind", "by"), ("---",) * 5, *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _inverse_transposed(X: Array) -> Array:
    return jnp.linalg.inv(X).T


def _softmax_jacobian(p: Array) -> Array:
    return jnp.diag(p) - jnp.outer(p, p)


def _power_jacobian(X: Array, k: int) -> Array:
    power = jnp.linalg.matrix_power
    return sum((jnp.kron(power(X.T, k - 1 - r), power(X, r)) for r in range(k)), jnp.zeros((X.size, X.size)))


def _normal(S: Array, b: Array) -> Array:
    return -0.5 * (jnp.linalg.slogdet(S)[1] + b @ jnp.linalg.solve(S, b) + len(b) * jnp.log(2 * jnp.pi))


def _normal_gradient(S: Array, b: Array) -> Array:
    inverse = _inverse_transposed(S)
    return 0.5 * (inverse @ jnp.outer(b, b) @ inverse - inverse)


def _nuclear(X: Array) -> Array:
    U, _, V = jnp.linalg.svd(X, full_matrices=False)
    return U @ V


def _top(X: Array) -> Array:
    U, _, V = jnp.linalg.svd(X, full_matrices=False)
    return jnp.outer(U[:, 0], V[0])


def _unit(x: Array) -> Array:
    return x / jnp.linalg.norm(x)


def _rayleigh(x: Array, S: Array) -> Array:
    return x @ S @ x / (x @ x)


_eye, _inv, _kron, _outer, _softmax = jnp.eye, jnp.linalg.inv, jnp.kron, jnp.outer, jax.nn.softmax

# fmt: off
IDENTITIES: tuple[Identity, ...] = tuple(Identity(*row) for row in [
    # of a vector, to a scalar
    ("linear form", "aᵀx", "a", "gradient", "x", lambda x, c: c["a"] @ x, lambda x, c: c["a"]),
    ("quadratic form", "xᵀAx", "(A + Aᵀ)x", "gradient", "x", lambda x, c: x @ c["A"] @ x, lambda x, c: (c["A"] + c["A"].T) @ x),
    ("quadratic form, second derivative", "xᵀAx", "A + Aᵀ", "Hessian", "x", lambda x, c: x @ c["A"] @ x, lambda x, c: c["A"] + c["A"].T),
    ("least squares", "|Ax - b|²", "2Aᵀ(Ax - b)", "gradient", "x",
     lambda x, c: jnp.sum((c["A"] @ x - c["b"]) ** 2), lambda x, c: 2 * c["A"].T @ (c["A"] @ x - c["b"])),
    ("norm", "|x|", "x / |x|", "gradient", "x", lambda x, c: jnp.linalg.norm(x), lambda x, c: _unit(x)),
    ("Rayleigh quotient", "r = xᵀSx / xᵀx", "2(Sx - rx) / xᵀx", "gradient", "x",
     lambda x, c: _rayleigh(x, c["S"]), lambda x, c: 2 * (c["S"] @ x - _rayleigh(x, c["S"]) * x) / (x @ x)),
    ("log-sum-exp", "log Σᵢ e^(xᵢ)", "p", "gradient", "x", lambda x, c: jax.nn.logsumexp(x), lambda x, c: _softmax(x)),
    ("log-sum-exp, second derivative", "log Σᵢ e^(xᵢ)", "diag(p) - ppᵀ", "Hessian", "x",
     lambda x, c: jax.nn.logsumexp(x), lambda x, c: _softmax_jacobian(_softmax(x))),
    ("cross-entropy of softmax", "-Σᵢ yᵢ log pᵢ,  Σᵢ yᵢ = 1", "p - y", "gradient", "x",
     lambda x, c: -jnp.sum(c["y"] * jax.nn.log_softmax(x)), lambda x, c: _softmax(x) - c["y"]),
    ("logistic loss", "log(1 + e^(-aᵀx))", "-a / (1 + e^(aᵀx))", "gradient", "x",
     lambda x, c: jax.nn.softplus(-c["a"] @ x), lambda x, c: -c["a"] / (1 + jnp.exp(c["a"] @ x))),
    # of a vector, to a vector
    ("linear map", "Ax", "A", "Jacobian", "x", lambda x, c: c["A"] @ x, lambda x, c: c["A"]),
    ("softmax", "p", "diag(p) - ppᵀ", "Jacobian", "x", lambda x, c: _softmax(x), lambda x, c: _softmax_jacobian(_softmax(x))),
    ("log-softmax", "log p", "I - 1pᵀ", "Jacobian", "x",
     lambda x, c: jax.nn.log_softmax(x), lambda x, c: _eye(x.size) - _outer(jnp.ones(x.size), _softmax(x))),
    ("element by element", "tanh(x)", "diag(1 - tanh²(x))", "Jacobian", "x", lambda x, c: jnp.tanh(x), lambda x, c: jnp.diag(1 - jnp.tanh(x) ** 2)),
    ("normalisation", "u = x / |x|", "(I - uuᵀ) / |x|", "Jacobian", "x",
     lambda x, c: _unit(x), lambda x, c: (_eye(x.size) - _outer(_unit(x), _unit(x))) / jnp.linalg.norm(x)),
    ("chain rule", "B tanh(Ax)", "B diag(1 - tanh²(Ax)) A", "Jacobian", "x",
     lambda x, c: c["B"] @ jnp.tanh(c["A"] @ x), lambda x, c: c["B"] @ jnp.diag(1 - jnp.tanh(c["A"] @ x) ** 2) @ c["A"]),
    ("product rule", "(aᵀx) Bx", "Bxaᵀ + (aᵀx) B", "Jacobian", "x",
     lambda x, c: (c["a"] @ x) * (c["B"] @ x), lambda x, c: _outer(c["B"] @ x, c["a"]) + (c["a"] @ x) * c["B"]),
    # of a matrix, to a scalar
    ("bilinear form", "aᵀXb", "abᵀ", "gradient", "X", lambda X, c: c["a"] @ X @ c["b"], lambda X, c: _outer(c["a"], c["b"])),
    ("affine layer", "½|Xa + b|²", "(Xa + b)aᵀ", "gradient", "X",
     lambda X, c: jnp.sum((X @ c["a"] + c["b"]) ** 2) / 2, lambda X, c: _outer(X @ c["a"] + c["b"], c["a"])),
    ("trace", "tr X", "I", "gradient", "X", lambda X, c: jnp.trace(X), lambda X, c: _eye(len(X))),
    ("trace of a product", "tr AXB", "AᵀBᵀ", "gradient", "X", lambda X, c: jnp.trace(c["A"] @ X @ c["B"]), lambda X, c: c["A"].T @ c["B"].T),
    ("trace of a quadratic form", "tr XᵀAX", "(A + Aᵀ)X", "gradient", "X",
     lambda X, c: jnp.trace(X.T @ c["A"] @ X), lambda X, c: (c["A"] + c["A"].T) @ X),
    ("trace of a double product", "tr AXBXᵀ", "AᵀXBᵀ + AXB", "gradient", "X",
     lambda X, c: jnp.trace(c["A"] @ X @ c["B"] @ X.T), lambda X, c: c["A"].T @ X @ c["B"].T + c["A"] @ X @ c["B"]),
    ("trace of a power", "tr X³", "3(Xᵀ)²", "gradient", "X", lambda X, c: jnp.trace(X @ X @ X), lambda X, c: 3 * X.T @ X.T),
    ("trace of an inverse", "tr AX⁻¹B", "-(X⁻¹BAX⁻¹)ᵀ", "gradient", "X invertible",
     lambda X, c: jnp.trace(c["A"] @ _inv(X) @ c["B"]), lambda X, c: -(_inv(X) @ c["B"] @ c["A"] @ _inv(X)).T),
    ("trace of an exponential", "tr exp X", "exp(X)ᵀ", "gradient", "X", lambda X, c: jnp.trace(expm(X)), lambda X, c: expm(X).T),
    ("inverse in a bilinear form", "aᵀX⁻¹b", "-X⁻ᵀabᵀX⁻ᵀ", "gradient", "X invertible",
     lambda X, c: c["a"] @ _inv(X) @ c["b"], lambda X, c: -_inverse_transposed(X) @ _outer(c["a"], c["b"]) @ _inverse_transposed(X)),
    ("determinant", "det X", "det(X) X⁻ᵀ", "gradient", "X invertible",
     lambda X, c: jnp.linalg.det(X), lambda X, c: jnp.linalg.det(X) * _inverse_transposed(X)),
    ("log-determinant", "log |det X|", "X⁻ᵀ", "gradient", "X invertible", lambda X, c: jnp.linalg.slogdet(X)[1], lambda X, c: _inverse_transposed(X)),
    ("log-determinant of a Gram matrix", "log det XᵀX", "2X(XᵀX)⁻¹", "gradient", "X invertible",
     lambda X, c: jnp.linalg.slogdet(X.T @ X)[1], lambda X, c: 2 * X @ _inv(X.T @ X)),
    ("normal density", "log N(b; 0, X)", "½(X⁻¹bbᵀX⁻¹ - X⁻¹)", "gradient", "X positive definite",
     lambda X, c: _normal(X, c["b"]), lambda X, c: _normal_gradient(X, c["b"])),
    ("Frobenius norm", "|X|", "X / |X|", "gradient", "X", lambda X, c: jnp.linalg.norm(X), lambda X, c: X / jnp.linalg.norm(X)),
    ("squared Frobenius norm", "|X|² = tr XᵀX", "2X", "gradient", "X", lambda X, c: jnp.sum(X * X), lambda X, c: 2 * X),
    ("nuclear norm", "Σᵢ σᵢ,  X = UΣVᵀ", "UVᵀ", "gradient", "X invertible",
     lambda X, c: jnp.linalg.svd(X, compute_uv=False).sum(), lambda X, c: _nuclear(X)),
    ("spectral norm", "σ₁,  X = Σᵢ σᵢuᵢvᵢᵀ", "u₁v₁ᵀ", "gradient", "X",
     lambda X, c: jnp.linalg.svd(X, compute_uv=False)[0], lambda X, c: _top(X)),
    # of a matrix, to a matrix
    ("product", "AXB", "Bᵀ ⊗ A", "vec Jacobian", "X", lambda X, c: c["A"] @ X @ c["B"], lambda X, c: _kron(c["B"].T, c["A"])),
    ("transpose", "Xᵀ", "K", "vec Jacobian", "X", lambda X, c: X.T, lambda X, c: commutation(*X.shape)),
    ("elementwise product", "A ⊙ X", "diag(vec A)", "vec Jacobian", "X", lambda X, c: c["A"] * X, lambda X, c: jnp.diag(vec(c["A"]))),
    ("power", "X³", "(Xᵀ)² ⊗ I + Xᵀ ⊗ X + I ⊗ X²", "vec Jacobian", "X", lambda X, c: X @ X @ X, lambda X, c: _power_jacobian(X, 3)),
    ("Gram matrix", "XᵀX", "(I + K)(I ⊗ Xᵀ)", "vec Jacobian", "X",
     lambda X, c: X.T @ X, lambda X, c: (_eye(X.size) + commutation(*X.shape)) @ _kron(_eye(len(X)), X.T)),
    ("inverse", "X⁻¹", "-X⁻ᵀ ⊗ X⁻¹", "vec Jacobian", "X invertible", lambda X, c: _inv(X), lambda X, c: -_kron(_inverse_transposed(X), _inv(X))),
    ("Kronecker product", "a ⊗ X", "I ⊗ a ⊗ I", "vec Jacobian", "X",
     lambda X, c: _kron(c["a"][:, None], X), lambda X, c: _kron(_eye(X.shape[1]), _kron(c["a"][:, None], _eye(len(X))))),
])
# fmt: on
"""The table; `table()` renders it."""

__doc__ = f"{__doc__ or ''}\n{table()}\n"  # so that `help` and the documentation show it as it is
