"""Penalties on parameters, chosen by path: what is added to a loss so that the simpler of two explanations wins.

Each is a function of a parameter tree. Its `pattern` is a regular expression that is searched for in the leaves' paths, as in sharding rules:
`l2(params, "kernel$", strength=1e-4)` leaves biases alone. Sums of penalties are penalties. The proximal operators that belong to them are in
`dljax.optim.proximal`.
"""

from collections.abc import Iterator

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dljax.core.checks import check_range
from dljax.core.contract import Numeric, Params
from dljax.core.tree import named_leaves, path_mask


def l1(params: Params, pattern: str = ".*", *, strength: Numeric = 1.0) -> Float[Array, ""]:
    """The lasso: a sum of magnitudes, which makes numbers exactly zero.

      λ Σ |w|

    Args:
      pattern: which leaves, by a regular expression.
      strength: λ >= 0; may be traced, as everywhere here.
    Raises:
      ValueError: a negative strength; a pattern that finds nothing, naming the nearest paths.
    Source: Tibshirani (1996), J. R. Stat. Soc. B 58.

    >>> float(l1({"kernel": jnp.array([1.0, -2.0]), "bias": jnp.ones(3)}, "kernel$", strength=0.5))
    1.5
    """
    return _sum("l1", params, pattern, strength, lambda w: jnp.abs(w).sum())


def l2(params: Params, pattern: str = ".*", *, strength: Numeric = 1.0) -> Float[Array, ""]:
    """Ridge, or weight decay: half a sum of squares, whose gradient is λ w.

      λ/2 Σ w²

    Args:
      pattern, strength: as for `l1`.
    Raises:
      ValueError: as `l1`.

    >>> float(l2({"kernel": jnp.array([1.0, -2.0])}))
    2.5
    """
    return _sum("l2", params, pattern, strength, lambda w: jnp.square(w).sum() / 2)


def elastic_net(params: Params, pattern: str = ".*", *, strength: Numeric = 1.0, l1_ratio: Numeric = 0.5) -> Float[Array, ""]:
    """A mixture of lasso and ridge.

      λ Σ ρ |w| + (1-ρ)/2 w²

    Args:
      pattern, strength: as for `l1`.
      l1_ratio: ρ in [0, 1]; may be traced.
    Raises:
      ValueError: as `l1`, or ρ outside [0, 1].
    Source: Zou and Hastie (2005), J. R. Stat. Soc. B 67; scikit-learn's parametrisation.

    >>> float(elastic_net({"kernel": jnp.array([1.0, -2.0])}, l1_ratio=1.0))
    3.0
    """
    check_range("elastic_net", "l1_ratio", l1_ratio, 0, 1)
    return _sum("elastic_net", params, pattern, strength, lambda w: (l1_ratio * jnp.abs(w) + (1 - l1_ratio) / 2 * jnp.square(w)).sum())


def group_lasso(params: Params, pattern: str = ".*", *, strength: Numeric = 1.0, axis: int = -1) -> Float[Array, ""]:
    """Group lasso: a sum of lengths, which makes whole groups zero.

      λ Σ_g √n_g ‖w_g‖₂,   n_g numbers in each group

    Args:
      pattern, strength: as for `l1`.
      axis: the groups are the slices along it: -1 takes all weights into a unit together, 0 (of a dense kernel) all weights out of an input.
    Raises:
      ValueError: as `l1`; a leaf without that axis.
    Source: Yuan and Lin (2006), J. R. Stat. Soc. B 68, eq. 2.1.

    >>> print(group_lasso({"kernel": jnp.array([[3.0, 0.0], [4.0, 0.0]])}))  # √2 · 5
    7.071068
    """
    return _sum("group_lasso", params, pattern, strength, lambda w: (lengths(w, axis) * (w.size / w.shape[axis]) ** 0.5).sum(), axis=axis)


def nuclear(params: Params, pattern: str = ".*", *, strength: Numeric = 1.0) -> Float[Array, ""]:
    """The nuclear norm: a sum of singular values, which makes matrices of low rank.

      λ Σ_i σ_i(W)

    Args:
      pattern, strength: as for `l1`. Leaves with more than two axes are taken as matrices [all axes but the last, last].
    Raises:
      ValueError: as `l1`; a leaf with fewer than two axes.
    Source: Fazel (2002), Matrix rank minimization with applications, chapter 5.

    >>> print(nuclear({"kernel": jnp.diag(jnp.array([3.0, -2.0]))}).round(3))
    5.0
    """
    return _sum("nuclear", params, pattern, strength, lambda w: jnp.linalg.svd(_matrix(w), compute_uv=False).sum(), least_axes=2)


def max_norm(params: Params, pattern: str = ".*", *, limit: Numeric, strength: Numeric = 1.0, axis: int = -1) -> Float[Array, ""]:
    """The limit on the length of each unit's weights, softened: half the squared distance to the set that keeps it.

      λ/2 Σ_j max(0, ‖w_j‖₂ - c)²

    The limit itself is the projection `dljax.optim.project_max_norm` after each step.

    Args:
      pattern, strength: as for `l1`.
      limit: c >= 0; may be traced.
      axis: as for `group_lasso`.
    Raises:
      ValueError: as `group_lasso`, or a negative limit.
    Source: the constraint is Srebro and Shraibman's (2005), for dropout Srivastava et al. (2014), JMLR 15, section 5.1.

    >>> float(max_norm({"kernel": jnp.array([[3.0, 0.0], [4.0, 1.0]])}, limit=3.0))
    2.0
    """
    check_range("max_norm", "limit", limit, 0)
    return _sum("max_norm", params, pattern, strength, lambda w: jnp.square(jnp.maximum(lengths(w, axis) - limit, 0)).sum() / 2, axis=axis)


def orthogonal(params: Params, pattern: str = ".*", *, strength: Numeric = 1.0) -> Float[Array, ""]:
    """How far the columns of a matrix are from orthonormal; of a wide matrix, its rows.

      λ ‖WᵀW - I‖²_F

    Args:
      pattern, strength: as for `nuclear`.
    Raises:
      ValueError: as `nuclear`.
    Source: Bansal, Chen and Wang (2018), Can we gain more from orthogonality regularizations, eq. 1.

    >>> float(orthogonal({"kernel": 2 * jnp.eye(3, 2)}))
    18.0
    """

    def deviation(w: Array) -> Array:
        w = _matrix(w)
        gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
        return jnp.square(gram - jnp.eye(len(gram), dtype=w.dtype)).sum()

    return _sum("orthogonal", params, pattern, strength, deviation, least_axes=2)


def lengths(x: Float[Array, "*shape"], axis: int) -> Float[Array, " groups"]:
    """‖·‖₂ of each slice along an axis, without overflow of the squares, and with gradient 0 at the origin.

    >>> lengths(jnp.array([[3e30, 0.0], [4e30, 0.0]]), -1).tolist() == jnp.array([5e30, 0.0]).tolist()
    True
    """
    rows = jnp.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    largest = lax.stop_gradient(jnp.max(jnp.abs(rows), axis=1, initial=0.0))
    scale = jnp.where(largest > 0, largest, 1)
    squares = jnp.square(rows / scale[:, None]).sum(1)
    return scale * jnp.sqrt(jnp.where(largest > 0, squares, 1)) * (largest > 0)


def _sum(who, params, pattern, strength, function, *, least_axes: int = 0, axis: int | None = None) -> Array:
    check_range(who, "strength", strength, 0, open_high=True)
    total = jnp.zeros(())
    for name, leaf in _selected(who, params, pattern):
        if leaf.ndim < least_axes:
            raise ValueError(f"{who}: {name!r} must be a matrix or have more axes, got shape {leaf.shape}; choose other leaves by the pattern")
        if axis is not None and not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(f"{who}: {name!r} must have the axis {axis}, got shape {leaf.shape}; choose other leaves by the pattern")
        total = total + function(leaf)
    return strength * total


def _selected(who: str, params: Params, pattern: str) -> Iterator[tuple[str, Array]]:
    is_chosen = dict(named_leaves(path_mask(pattern, who)(params)))
    for name, leaf in named_leaves(params):
        if is_chosen[name]:
            leaf = jnp.asarray(leaf)
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ValueError(f"{who}: {name!r} must hold floating-point numbers, got {leaf.dtype}; choose other leaves by the pattern")
            yield name, leaf


def _matrix(w: Array) -> Array:
    return w.reshape(-1, w.shape[-1])
