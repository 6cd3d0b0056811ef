"""Linear fits in closed form: ridge regression, minimum-norm least squares, and both on random features."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric

type_aliases = ("Fit", "Predict")

Predict = Callable[[Any], Array]  # inputs [M, ...] -> outputs [M, ...]
Fit = Callable[[Key, Any, Any, Float[Array, "N"]], Predict]  # (key, x [N, ...], y [N, ...], weights [N]) -> predict


def ridge(*, penalty: Numeric = 1.0, intercept: bool = True) -> Fit:
    """Least squares with a penalty on the coefficients; without one, of all best fits that with the smallest coefficients.

      min_{β, b} Σ_i w_i |y_i - x_i β - b|² + α |β|²,   β = V diag(s / (s² + α)) Uᵀ √w y   with   √w x = U diag(s) Vᵀ, centred

    Args:
      penalty: α >= 0; may be traced. The intercept is not penalised. With 0, singular values below rounding count as zero.
      intercept: whether to fit b.
    Returns:
      A fit: `(key, x [N, D], y [N] or [N, K], weights [N]) -> predict`. The key is not used.
    Raises:
      ValueError: `penalty` < 0.
    Source: Hoerl & Kennard (1970), Technometrics 12; without a penalty the Moore-Penrose solution.

    >>> predict = ridge(penalty=0.0)(jax.random.key(0), jnp.array([[0.0], [1.0]]), jnp.array([1.0, 3.0]), jnp.ones(2))
    >>> predict(jnp.array([[2.0]])).round(4).tolist()
    [5.0]
    """
    check_range("ridge", "penalty", penalty, 0, open_high=True)

    def fit(key: Key, x: Float[Array, "N D"], y: Float[Array, "N *K"], weights: Float[Array, "N"]) -> Predict:
        root = jnp.sqrt(weights)[:, None]
        total = jnp.where(weights.sum() > 0, weights.sum(), 1)
        targets = y.reshape(len(y), -1)
        centre, level = (weights @ x / total, weights @ targets / total) if intercept else (jnp.zeros(x.shape[1]), jnp.zeros(targets.shape[1]))
        u, s, vt = jnp.linalg.svd(root * (x - centre[None]), full_matrices=False)
        is_zero = s <= s[0] * max(x.shape) * jnp.finfo(x.dtype).eps
        shrunk = jnp.where(is_zero, 0, s / jnp.where(is_zero, 1, s**2 + penalty))
        coefficients = vt.T @ (shrunk[:, None] * (u.T @ (root * (targets - level[None]))))
        return lambda x: ((x - centre[None]) @ coefficients + level[None]).reshape(len(x), *y.shape[1:])

    return fit


def random_features(max_features: int, *, penalty: Numeric = 0.0) -> Callable[[Numeric], Fit]:
    """A network of one hidden ReLU layer whose first weights stay random; the last are fitted by `ridge` without an intercept.

      φ(x) = ReLU(W x + b) / √P,   W_ij ~ N(0, 1/D),   b_j ~ U(-1, 1),   P features

    The first P of `max_features` columns are used, the others are zero: P may be traced, and a sweep over it is one program.

    Args:
      max_features: the most features, >= 1.
      penalty: α >= 0 of the ridge regression.
    Returns:
      `num_features -> fit`; the fit draws W and b from its key.
    Raises:
      ValueError: `max_features` < 1, `penalty` < 0; a concrete number of features outside [1, max_features].
    Source: Rahimi & Recht (2007), Random Features for Large-Scale Kernel Machines; ReLU features as in Belkin et al. (2019), section 3.

    >>> x, y = jax.random.normal(jax.random.key(0), (20, 3)), jnp.arange(20.0)
    >>> predict = random_features(100)(50)(jax.random.key(1), x, y, jnp.ones(20))
    >>> bool(jnp.abs(predict(x) - y).max() < 0.01)  # 50 features, 20 examples: all are met
    True
    """
    check_int("random_features", "max_features", max_features, minimum=1)
    check_range("random_features", "penalty", penalty, 0, open_high=True)
    solve = ridge(penalty=penalty, intercept=False)

    def with_features(num_features: Numeric) -> Fit:
        check_range("random_features", "num_features", num_features, 1, max_features)

        def fit(key: Key, x: Float[Array, "N D"], y: Float[Array, "N *K"], weights: Float[Array, "N"]) -> Predict:
            weight_key, bias_key = jax.random.split(key)
            directions = jax.random.normal(weight_key, (x.shape[1], max_features), x.dtype) / jnp.sqrt(x.shape[1])
            bias = jax.random.uniform(bias_key, (1, max_features), x.dtype, -1, 1)
            scale = jnp.where(jnp.arange(max_features) < num_features, 1 / jnp.sqrt(jnp.asarray(num_features, x.dtype)), 0)[None]

            def features(x: Array) -> Array:
                return jax.nn.relu(x @ directions + bias) * scale

            predict = solve(key, features(x), y, weights)
            return lambda x: predict(features(x))

        return fit

    return with_features
