"""Losses of embeddings: what belongs together near, what does not far."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import relu
from jaxtyping import Array, Bool, Float, Num

from dljax.core.axis import bound_axis
from dljax.core.checks import check_range
from dljax.core.contract import Numeric


def contrastive_loss(
    left: Float[Array, "*B D"], right: Float[Array, "*right"], is_same: Num[Array, "*B"] | Bool[Array, "*B"], *, margin: Numeric = 1.0
) -> Float[Array, "*B"]:
    """Pairs: equal ones are drawn together, others pushed a margin apart.

      y d²/2 + (1 - y) max(0, m - d)²/2,   d = |u - v|

    Args:
      left, right: u and v.
      is_same: y, 1 where the pair belongs together, 0 where not.
      margin: m > 0; may be traced.
    Raises:
      ValueError: `margin` <= 0; the shapes do not match.
    Source: Hadsell, Chopra and LeCun (2006), Dimensionality Reduction by Learning an Invariant Mapping, eq. 4, with y the other way round.

    >>> contrastive_loss(jnp.array([[0.5], [0.5], [3.0]]), jnp.zeros((3, 1)), jnp.array([1, 0, 0])).tolist()
    [0.125, 0.125, 0.0]
    """
    check_range("contrastive_loss", "margin", margin, 0, open_low=True)
    _check_shapes("contrastive_loss", left=left, right=right)
    squares = jnp.square(left - right).sum(-1)
    apart = jnp.square(relu(margin - _root(squares)))
    return jnp.where(jnp.asarray(is_same, bool), squares, apart) / 2


def triplet_loss(
    anchors: Float[Array, "*B D"],
    positives: Float[Array, "*positives"],
    negatives: Float[Array, "*negatives"],
    *,
    margin: Numeric = 1.0,
    is_squared: bool = False,
) -> Float[Array, "*B"]:
    """The positive must be nearer to the anchor than the negative, by a margin.

      max(0, d(a, p) - d(a, n) + m),   d the distance, or its square

    Args:
      margin: m >= 0; may be traced.
      is_squared: whether d is the squared distance, as in the paper, or the distance, as in PyTorch (which adds 1e-6 to each difference).
    Raises:
      ValueError: `margin` < 0; the shapes differ.
    Source: Schroff, Kalenichenko and Philbin (2015), FaceNet, eq. 2.

    >>> triplet_loss(jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 2.0]])).tolist()
    [4.0]
    """
    check_range("triplet_loss", "margin", margin, 0)
    _check_shapes("triplet_loss", anchors=anchors, positives=positives, negatives=negatives)
    near, far = (jnp.square(anchors - other).sum(-1) for other in (positives, negatives))
    return relu((near - far if is_squared else _root(near) - _root(far)) + margin)


def info_nce(
    queries: Float[Array, "B D"], keys: Float[Array, "*keys"], *, temperature: Numeric = 0.1, negatives: Float[Array, "M D"] | None = None
) -> Float[Array, " B"]:
    """Which key belongs to the query? Cross-entropy over the keys of the whole batch.

      -log exp(cos(q_i, k_i) / τ) / Σ_j exp(cos(q_i, k_j) / τ)

    The mean of both directions, `info_nce(a, b)` and `info_nce(b, a)`, is CLIP's loss. Where a data-parallel axis is bound, the keys of all its
    devices take part, so that a sharded batch has the loss of one device.

    Args:
      queries, keys: key i belongs to query i. Vectors of any length; one of zeros has cosine 0 with all.
      temperature: τ > 0; may be traced.
      negatives: further keys that belong to no query (a queue, hard negatives), the same on all devices.
    Returns:
      Nats; log(B + M) for embeddings that know nothing.
    Raises:
      ValueError: `temperature` <= 0; the shapes differ.
    Source: van den Oord, Li and Vinyals (2018), Contrastive Predictive Coding, eq. 4; Radford et al. (2021), CLIP.

    >>> print(info_nce(jnp.ones((4, 2)), jnp.ones((4, 2))))  # log 4
    [1.3862944 1.3862944 1.3862944 1.3862944]
    """
    check_range("info_nce", "temperature", temperature, 0, open_low=True)
    _check_shapes("info_nce", queries=queries, keys=keys)
    queries, keys = _unit(queries), _unit(keys)
    all_keys, _ = _gathered(keys)
    if negatives is not None:
        all_keys = jnp.concatenate([all_keys, _unit(negatives)])
    right = (queries * keys).sum(-1) / temperature
    return jax.nn.logsumexp(queries @ all_keys.T / temperature, -1) - right


def nt_xent(left: Float[Array, "B D"], right: Float[Array, "*right"], *, temperature: Numeric = 0.5) -> Float[Array, " B"]:
    """SimCLR's loss: two views of each example, and all views of the others as negatives.

      ℓ(u, v) = -log exp(cos(u_i, v_i) / τ) / (Σ_j exp(cos(u_i, v_j) / τ) + Σ_{j ≠ i} exp(cos(u_i, u_j) / τ)),   (ℓ(u, v) + ℓ(v, u)) / 2

    Where a data-parallel axis is bound, the views of all its devices take part.

    Args:
      left, right: the views u and v of the same B examples.
      temperature: τ > 0; may be traced.
    Returns:
      One value an example, the mean of its two views, in nats.
    Raises:
      ValueError: `temperature` <= 0; the shapes differ.
    Source: Chen et al. (2020), A Simple Framework for Contrastive Learning of Visual Representations, eq. 1.

    >>> [round(float(loss), 4) for loss in nt_xent(jnp.ones((2, 3)), jnp.ones((2, 3)))]  # log 3
    [1.0986, 1.0986]
    """
    check_range("nt_xent", "temperature", temperature, 0, open_low=True)
    _check_shapes("nt_xent", left=left, right=right)
    views = (_unit(left), _unit(right))
    (all_left, first), (all_right, _) = map(_gathered, views)
    itself = jnp.arange(all_left.shape[0])[None] == first + jnp.arange(left.shape[0])[:, None]

    def one(view: Array, own: Array, other: Array) -> Array:
        own_scores = jnp.where(itself, -jnp.inf, view @ own.T / temperature)
        return jax.nn.logsumexp(jnp.concatenate([own_scores, view @ other.T / temperature], -1), -1)

    alike = (views[0] * views[1]).sum(-1) / temperature
    return (one(views[0], all_left, all_right) + one(views[1], all_right, all_left)) / 2 - alike


def _gathered(x: Array) -> tuple[Array, Array | int]:
    """The rows of all devices, and where this one's begin."""
    axis = bound_axis()
    return (x, 0) if axis is None else (lax.all_gather(x, axis, tiled=True), lax.axis_index(axis) * len(x))


def _root(squares: Array) -> Array:
    # The square root has no derivative at 0, where equal embeddings are.
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def _unit(x: Array) -> Array:
    # By the largest entry first: squares of entries of 1e20 overflow float32.
    largest = lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
    x = x / jnp.where(largest > 0, largest, 1)
    return x / jnp.maximum(_root(jnp.square(x).sum(-1, keepdims=True)), 1e-8)


def _check_shapes(who: str, **arrays: Array) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{who}: {' and '.join(shapes)} must have one shape, got {listed}")
