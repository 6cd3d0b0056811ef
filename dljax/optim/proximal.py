"""Proximal operators of penalties without a gradient at zero, and of constraints: a step of their own after each gradient step.

  prox_g(x) = argmin_u  g(u) + ½ ‖u - x‖²

`optax.projections` has the operators of constraints (box, simplex, balls of the ℓ1, ℓ2 and ℓ∞ norm); here are those of penalties,
and `dljax.optim.proximal_gradient` runs them all.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dljax.core.checks import check_range
from dljax.core.contract import Numeric
from dljax.core.tree import path_mask
from dljax.nn.activations import soft_shrink
from dljax.objectives.penalties import lengths

type_aliases = ("Prox",)

Prox = Callable[[Any, Numeric], Any]  # (x, step) -> the minimiser u of step·g(u) + ½ ‖u - x‖²


def soft_threshold(x: Float[Array, "*shape"], threshold: Numeric) -> Float[Array, "*shape"]:
    """The proximal operator of τ Σ |x|: every number comes nearer to zero by τ, and stops there.

      sign(x) max(0, |x| - τ)

    Args:
      threshold: τ >= 0; may be traced, as everywhere here.
    Raises:
      ValueError: τ < 0.

    >>> soft_threshold(jnp.array([3.0, -0.5, -2.0]), 1.0).tolist()
    [2.0, 0.0, -1.0]
    """
    check_range("soft_threshold", "threshold", threshold, 0)
    return soft_shrink(x, threshold)


def elastic_net_threshold(x: Float[Array, "*shape"], threshold: Numeric, l1_ratio: Numeric = 0.5) -> Float[Array, "*shape"]:
    """The proximal operator of τ Σ ρ|x| + (1-ρ)/2 x²; with ρ = 0 that of ridge.

      soft_threshold(x, τρ) / (1 + τ(1-ρ))

    Args:
      threshold: τ >= 0.
      l1_ratio: ρ in [0, 1].
    Raises:
      ValueError: an option out of its range.

    >>> elastic_net_threshold(jnp.array([3.0, -0.5]), 1.0, l1_ratio=0.0).tolist()
    [1.5, -0.25]
    """
    check_range("elastic_net_threshold", "threshold", threshold, 0)
    check_range("elastic_net_threshold", "l1_ratio", l1_ratio, 0, 1)
    return soft_threshold(x, threshold * l1_ratio) / (1 + threshold * (1 - l1_ratio))


def group_threshold(x: Float[Array, "*shape"], threshold: Numeric, axis: int = -1) -> Float[Array, "*shape"]:
    """The proximal operator of τ Σ_g √n_g ‖x_g‖₂, the groups being the slices along an axis: each becomes shorter, and zero where it was short.

      x_g max(0, 1 - τ √n_g / ‖x_g‖₂)

    Args:
      threshold: τ >= 0.
      axis: as for `dljax.objectives.group_lasso`.
    Raises:
      ValueError: τ < 0.

    >>> group_threshold(jnp.array([[3.0], [4.0], [0.0], [0.0]]), 1.25).ravel().tolist()  # √4 · 1.25 is half of the length
    [1.5, 2.0, 0.0, 0.0]
    """
    check_range("group_threshold", "threshold", threshold, 0)
    length = lengths(x, axis)
    threshold = threshold * (x.size / x.shape[axis]) ** 0.5
    return _scaled(x, jnp.where(length > threshold, 1 - threshold / jnp.where(length > threshold, length, 1), 0), axis)


def singular_value_threshold(x: Float[Array, "*shape"], threshold: Numeric) -> Float[Array, "*shape"]:
    """The proximal operator of τ Σ σ_i(X): singular values come nearer to zero by τ, and the rank falls.

      U diag(max(0, σ - τ)) Vᵀ

    Args:
      x: a matrix; more axes are taken as [all but the last, last].
      threshold: τ >= 0.
    Raises:
      ValueError: τ < 0; x has fewer than two axes.
    Source: Cai, Candès and Shen (2010), SIAM J. Optim. 20, theorem 2.1.

    >>> singular_value_threshold(jnp.diag(jnp.array([3.0, 0.5])), 1.0).round(3).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    check_range("singular_value_threshold", "threshold", threshold, 0)
    if x.ndim < 2:
        raise ValueError(f"singular_value_threshold: x must be a matrix or have more axes, got shape {x.shape}")
    U, values, Vt = jnp.linalg.svd(x.reshape(-1, x.shape[-1]), full_matrices=False)
    return ((U * jnp.maximum(values - threshold, 0)[None]) @ Vt).reshape(x.shape)


def project_max_norm(x: Float[Array, "*shape"], limit: Numeric, axis: int = -1) -> Float[Array, "*shape"]:
    """The nearest weights of which no slice along an axis is longer than a limit.

      x_j min(1, c / ‖x_j‖₂)

    Args:
      limit: c >= 0.
      axis: -1 limits the weights into each unit.
    Raises:
      ValueError: c < 0.
    Source: Srivastava et al. (2014), JMLR 15, section 5.1.

    >>> project_max_norm(jnp.array([[3.0, 0.1], [4.0, 0.1]]), 1.0).round(3).tolist() == jnp.array([[0.6, 0.1], [0.8, 0.1]]).tolist()
    True
    """
    check_range("project_max_norm", "limit", limit, 0)
    length = lengths(x, axis)
    return _scaled(x, jnp.where(length > limit, limit / jnp.where(length > limit, length, 1), 1), axis)


def on_paths(pattern: str, prox: Prox) -> Prox:
    """An operator of arrays as one of trees: it changes the leaves whose path a regular expression finds, and leaves the others alone.

    Raises:
      ValueError: no regular expression; when applied: it finds no leaf, and which paths are nearest.

    >>> prox = on_paths("kernel$", lambda x, step: soft_threshold(x, 0.1 * step))
    >>> prox({"kernel": jnp.array([1.0]), "bias": jnp.array([1.0])}, 5.0)
    {'bias': Array([1.], dtype=float32), 'kernel': Array([0.5], dtype=float32)}
    """
    mask = path_mask(pattern, "on_paths")
    return lambda params, step: jax.tree.map(lambda is_chosen, leaf: prox(leaf, step) if is_chosen else leaf, mask(params), params)


def decayed_weights(strength: Numeric, pattern: str = "kernel$") -> optax.GradientTransformation:
    """Decoupled weight decay of the leaves chosen by path: `optax.add_decayed_weights`, put before the learning rate in a chain.

      Δ ← Δ + λ w,   so that w shrinks by the factor 1 - αλ whatever the gradient's scale

    Args:
      strength: λ >= 0.
      pattern: which leaves, by a regular expression. `path_mask(pattern)` is also what `optax.adamw` takes for its `mask`.
    Raises:
      ValueError: λ < 0; when initialised: a pattern that finds nothing, naming the nearest paths.
    Source: Loshchilov and Hutter (2019), Decoupled weight decay regularization, algorithm 2.

    >>> solver = optax.chain(optax.scale_by_adam(), decayed_weights(0.1), optax.scale_by_learning_rate(0.5))
    >>> params = {"kernel": jnp.ones(1), "bias": jnp.ones(1)}
    >>> updates, _ = solver.update(jax.tree.map(jnp.zeros_like, params), solver.init(params), params)
    >>> round(float(updates["kernel"][0]), 3), float(updates["bias"][0]) == 0
    (-0.05, True)
    """
    check_range("decayed_weights", "strength", strength, 0)
    return optax.add_decayed_weights(strength, path_mask(pattern, "decayed_weights"))


def _scaled(x: Array, factors: Float[Array, " groups"], axis: int) -> Array:
    return x * factors.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
