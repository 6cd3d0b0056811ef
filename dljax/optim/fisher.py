"""Products with the Fisher information and the Gauss-Newton matrix of a model, without the matrix."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dljax.core.axis import psum
from dljax.core.checks import check_choice, check_range
from dljax.core.contract import Key, Numeric, Params
from dljax.objectives.losses import cross_entropy, sigmoid_binary_cross_entropy, squared_error


class Likelihood(NamedTuple):
    """A distribution of targets whose parameters are a model's outputs, by its Fisher information in them.

      F(z) = E[s sᵀ],   s = -∇_z log p(y | z),   y ~ p(· | z)

    Attributes:
      product: `(z, v) -> F v`, each example's own, of the shape of z.
      score: `(key, z) -> s` of targets drawn from the model; None where that is not known.
      columns: `z [B, K] -> [K, B, K]`, K vectors for each example with Σ_k c_k c_kᵀ = F; None where they are not known.
    """

    product: Callable[[Any, Any], Any]
    score: Callable[[Key, Array], Array] | None = None
    columns: Callable[[Array], Array] | None = None


def categorical() -> Likelihood:
    """One of K classes, z [..., K] its logits: F = diag p - p pᵀ, p = softmax(z). What `cross_entropy` fits.

    >>> categorical().product(jnp.zeros(2), jnp.array([1.0, 0.0])).tolist()
    [0.25, -0.25]
    """

    def product(z: Array, v: Array) -> Array:
        p = jax.nn.softmax(z)
        return p * v - p * (p * v).sum(-1, keepdims=True)

    def score(key: Key, z: Array) -> Array:
        return jax.nn.softmax(z) - jax.nn.one_hot(jax.random.categorical(key, z), z.shape[-1], dtype=z.dtype)

    def columns(z: Array) -> Array:
        p = jax.nn.softmax(z)
        return jnp.sqrt(p.T)[..., None] * (jnp.eye(z.shape[-1], dtype=z.dtype)[:, None] - p[None])

    return Likelihood(product, score, columns)


def bernoulli() -> Likelihood:
    """Independent yes or no, each z a logit: F = p (1 - p), p = sigmoid(z). What `sigmoid_binary_cross_entropy` fits.

    >>> bernoulli().product(jnp.zeros(2), jnp.array([1.0, 0.0])).tolist()
    [0.25, 0.0]
    """

    def variance(z: Array) -> Array:
        return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)

    def score(key: Key, z: Array) -> Array:
        return jax.nn.sigmoid(z) - jax.random.bernoulli(key, jax.nn.sigmoid(z)).astype(z.dtype)

    return Likelihood(lambda z, v: variance(z) * v, score, lambda z: _diagonal(jnp.sqrt(variance(z))))


def gaussian(variance: Numeric = 1.0) -> Likelihood:
    """Independent normal numbers of known variance, each z a mean: F = 1/σ². What `squared_error` fits has σ² = ½.

    Args:
      variance: σ² > 0.
    Raises:
      ValueError: σ² <= 0.

    >>> gaussian(0.5).product(jnp.zeros(2), jnp.array([1.0, 3.0])).tolist()
    [2.0, 6.0]
    """
    check_range("gaussian", "variance", variance, 0, open_low=True)

    def score(key: Key, z: Array) -> Array:
        return jax.random.normal(key, z.shape, z.dtype) / jnp.sqrt(variance).astype(z.dtype)

    return Likelihood(lambda z, v: v / variance, score, lambda z: _diagonal(jnp.full_like(z, 1 / jnp.sqrt(variance))))


def from_divergence(divergence: Callable[[Any, Any], Array]) -> Likelihood:
    """Any distribution, by the divergence of two of its members: F = ∇²_z' KL(z | z') at z' = z.

    Args:
      divergence: `(z, z') -> KL`, one value for each example, twice differentiable; z is any pytree, such as means and deviations.

    >>> normal = from_divergence(lambda z, new: 0.5 * (z - new) ** 2)
    >>> normal.product(jnp.zeros(2), jnp.array([1.0, 3.0])).tolist()
    [1.0, 3.0]
    """

    def product(z: Any, v: Any) -> Any:
        return jax.jvp(jax.grad(lambda new: divergence(z, new).sum()), (z,), (v,))[1]

    return Likelihood(product)


LIKELIHOODS: Mapping[str, Callable[[], Likelihood]] = {"bernoulli": bernoulli, "categorical": categorical, "gaussian": gaussian}
"""The likelihoods by name, with their defaults."""


def fisher_product(
    forward: Callable[[Params], Any],
    params: Params,
    likelihood: str | Likelihood = "categorical",
    *,
    weights: Float[Array, "*B"] | None = None,
    damping: Numeric = 0.0,
) -> Callable[[Params], Params]:
    """Products with the Fisher information of a model's parameters: what conjugate gradients need for a natural gradient, or TRPO for its step.

      v ↦ F v + λ v,   F = Σ_i w_i J_iᵀ F(z_i) J_i,   z = f(θ),   J_i = ∂z_i/∂θ

    The model is linearised once; a product is then one pass forward and one back, and nothing of the size of F is made. F is the expectation over
    targets drawn from the model, not the mean over those of the data ("empirical Fisher"). Where the engine binds an axis, devices hold shares of it.

    Args:
      forward: `params -> z`, outputs of a batch, examples along the first axis.
      params: θ, a pytree of floating-point arrays.
      likelihood: of the targets, a name in `LIKELIHOODS` or a `Likelihood` such as `from_divergence(kl)`.
      weights: w >= 0, of a shape that begins as every output's does; None for one over the number of examples (of all devices).
      damping: λ >= 0; may be traced.
    Returns:
      `v -> F v + λ v`, on pytrees like `params`; symmetric and positive semidefinite, so `jax.scipy.sparse.linalg.cg` solves with it.
    Raises:
      ValueError: an unknown likelihood, λ < 0, or weights of another shape.
    Source: Amari (1998), Neural Computation 10; Schraudolph (2002), Neural Computation 14; Martens (2020), JMLR 21, section 5.

    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> times = fisher_product(lambda w: x @ w, jnp.zeros(2), "gaussian")  # F = XᵀX / 2
    >>> times(jnp.array([1.0, 0.0])).tolist()
    [5.0, 7.0]
    """
    check_range("fisher_product", "damping", damping, 0)
    chosen = likelihood_of("fisher_product", likelihood)
    outputs, push = jax.linearize(forward, params)
    if weights is None:
        examples = jax.tree.leaves(outputs)[0].shape[0]
        weights = jnp.full(examples, 1 / (examples * psum(1)), jnp.result_type(*jax.tree.leaves(outputs)))
    curvature = partial(weighted, weights, chosen.product, outputs)
    return _sandwich(push, curvature, params, damping)


def gauss_newton_product(
    forward: Callable[[Params], Any], loss: Callable[[Any], Array], params: Params, *, damping: Numeric = 0.0
) -> Callable[[Params], Params]:
    """Products with the generalised Gauss-Newton matrix: the Hessian of the loss in the outputs, carried to the parameters.

      v ↦ G v + λ v,   G = Jᵀ ∇²_z L(z) J,   z = f(θ)

    Positive semidefinite where L is convex in z. It is the Fisher information where L is the negative log-likelihood of an exponential family in
    its natural parameters: for softmax and sigmoid cross-entropy and squared errors. Where the engine binds an axis, devices hold shares of it.

    Args:
      forward: `params -> z`, any pytree.
      loss: `z -> L` [], averaged.
      params, damping: as for `fisher_product`.
    Returns:
      `v -> G v + λ v`, on pytrees like `params`.
    Raises:
      ValueError: λ < 0.
    Source: Schraudolph (2002), Neural Computation 14, section 3.

    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> times = gauss_newton_product(lambda w: x @ w, lambda z: (z**2).sum(), jnp.zeros(2))  # G = 2 XᵀX
    >>> times(jnp.array([1.0, 0.0])).tolist()
    [20.0, 28.0]
    """
    check_range("gauss_newton_product", "damping", damping, 0)
    outputs, push = jax.linearize(forward, params)
    return _sandwich(push, jax.linearize(jax.grad(loss), outputs)[1], params, damping)


def likelihood_of(who: str, likelihood: str | Likelihood | None, loss: Callable[..., Any] | None = None) -> Likelihood:
    """The likelihood of that name, or the one that a loss is the negative logarithm of.

    Raises:
      ValueError: neither is known.

    >>> likelihood_of("doc", None, cross_entropy).product(jnp.zeros(2), jnp.array([1.0, 0.0])).tolist()
    [0.25, -0.25]
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    if likelihood is not None:
        check_choice(who, "likelihood", likelihood, LIKELIHOODS)
        return LIKELIHOODS[likelihood]()
    function = loss
    while isinstance(function, partial):
        function = function.func
    for known, made in _BEHIND:
        if function is known:
            return made()
    raise ValueError(
        f"{who}: knows no distribution behind the loss {getattr(function, '__name__', function)!r}; "
        f"say likelihood={', '.join(map(repr, LIKELIHOODS))} or a Likelihood"
    )


_BEHIND: tuple[tuple[Callable[..., Any], Callable[[], Likelihood]], ...] = (
    (cross_entropy, categorical),
    (optax.softmax_cross_entropy_with_integer_labels, categorical),
    (optax.softmax_cross_entropy, categorical),
    (sigmoid_binary_cross_entropy, bernoulli),
    (squared_error, lambda: gaussian(0.5)),
    (optax.squared_error, lambda: gaussian(0.5)),
    (optax.l2_loss, gaussian),
)


def weighted(weights: Array, product: Callable[[Any, Any], Any], outputs: Any, v: Any) -> Any:
    """Each example's product, times its weight.

    Raises:
      ValueError: the shape of the weights is no prefix of the outputs'.

    >>> weighted(jnp.array([0.5, 2.0]), lambda z, v: v, None, jnp.ones(2)).tolist()
    [0.5, 2.0]
    """

    def scaled(leaf: Array) -> Array:
        if leaf.shape[: weights.ndim] != weights.shape:
            raise ValueError(f"weights must have the shape of the outputs {leaf.shape} or a prefix of it, got {weights.shape}")
        return leaf * weights.reshape(weights.shape + (1,) * (leaf.ndim - weights.ndim)).astype(leaf.dtype)

    return jax.tree.map(scaled, product(outputs, v))


def _sandwich(push: Callable[[Params], Any], curvature: Callable[[Any], Any], params: Params, damping: Numeric) -> Callable[[Params], Params]:
    pull = jax.linear_transpose(push, params)

    def times(v: Params) -> Params:
        (curved,) = pull(curvature(push(v)))
        return jax.tree.map(lambda a, b: a + jnp.asarray(damping, a.dtype) * b, psum(curved), v)

    return times


def _diagonal(values: Array) -> Array:
    return jnp.eye(values.shape[-1], dtype=values.dtype)[:, None] * values[None]
