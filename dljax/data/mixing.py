"""Mixtures of examples: mixup and CutMix, and what becomes of targets and losses."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dljax.core.checks import check_range
from dljax.core.contract import Batch, Key, Numeric
from dljax.data.augmentation import window
from dljax.data.sources import permuted_index

type_aliases = ("PerExample",)

PerExample = Callable[[Any, Any], Array]  # (outputs, targets) -> one value an example, [B, ...]


class Mixed(NamedTuple):
    """Targets of mixed examples: the targets of both parts, and how much of the first there is.

    A pair with a weight says the same as the probabilities `weight·onehot(first) + (1 - weight)·onehot(second)`, costs no [B, C], needs no number of
    classes, and serves any loss (`mixed`).

    Attributes:
      first, second: targets, [B, ...] each.
      weight: the share of the first in [0, 1].

    >>> Mixed(jnp.array([0]), jnp.array([2]), jnp.array([0.75])).probabilities(3).tolist()
    [[0.75, 0.0, 0.25]]
    """

    first: Any
    second: Any
    weight: Float[Array, "B"]

    def probabilities(self, num_classes: int) -> Array:
        """The targets as probabilities of the classes, [B, C], for losses that want these."""
        first, second = (jax.nn.one_hot(labels, num_classes) for labels in (self.first, self.second))
        return self.weight[:, None] * first + (1 - self.weight[:, None]) * second


def mixed(loss: PerExample) -> PerExample:
    """A loss or metric that knows mixed targets: the mean of its values for both parts; for other targets it is what it was.

      ℓ(f(x), y) = λ ℓ(f(x), y₁) + (1 - λ) ℓ(f(x), y₂)

    For a cross-entropy, which is linear in the target's probabilities, that *is* the cross-entropy against them.

    Args:
      loss: `(outputs, targets) -> [B, ...]`.

    >>> from dljax.objectives import cross_entropy
    >>> logits, targets = jnp.log(jnp.array([[0.5, 0.25, 0.25]])), Mixed(jnp.array([0]), jnp.array([1]), jnp.array([0.5]))
    >>> float(mixed(cross_entropy)(logits, targets)[0] / jnp.log(2))  # (1 + 2) / 2 bits
    1.5
    """

    def of_mixed(outputs: Any, targets: Any) -> Array:
        if not isinstance(targets, Mixed):
            return loss(outputs, targets)
        first, second = loss(outputs, targets.first), loss(outputs, targets.second)
        weight = targets.weight.reshape(targets.weight.shape + (1,) * (first.ndim - 1))
        return weight * first + (1 - weight) * second

    return of_mixed


def mixup(key: Key, batch: Batch, *, alpha: Numeric = 0.2) -> Batch:
    """Each example mixed with another one of its batch.

      x' = λ x + (1 - λ) x_π,   targets (y, y_π, λ),   λ ~ Beta(α, α) for each example,   π a random permutation

    Args:
      batch: a dict with `x`, floats [B, ...], `y`, any pytree of [B, ...], and optionally `mask`, weights [B, ...].
      alpha: α > 0; may be traced. Small values mix little, 1 draws λ uniformly.
    Returns:
      The batch with mixed `x` and targets `Mixed`, for a loss `mixed(loss)`; an example weighs as little as its lighter part.
    Raises:
      ValueError: `alpha` <= 0; no dict with x and y. TypeError: `x` of whole numbers.
    Source: Zhang et al. (2018), mixup: Beyond Empirical Risk Minimization, eq. 1.

    >>> batch = mixup(jax.random.key(0), {"x": jnp.eye(3), "y": jnp.arange(3)}, alpha=1.0)
    >>> bool(jnp.allclose(batch["x"], batch["y"].probabilities(3)))
    True
    """
    check_range("mixup", "alpha", alpha, 0, open_low=True, open_high=True)
    _check("mixup", batch)
    x = batch["x"]
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"mixup: x must be floats, got {x.dtype}; scale pictures first, as `dljax.nn.unit_pixels` does")
    partner_key, weight_key = jax.random.split(key)
    weight = jax.random.beta(weight_key, alpha, alpha, (len(x),)).astype(x.dtype)
    partner = permuted_index(partner_key, jnp.arange(len(x)), len(x))
    shares = weight.reshape(-1, *(1,) * (x.ndim - 1))
    return _with(batch, shares * x + (1 - shares) * x[partner], partner, weight)


def cutmix(key: Key, batch: Batch, *, alpha: Numeric = 1.0) -> Batch:
    """A rectangle of each picture replaced by the same rectangle of another picture of its batch.

      height, width = √(1 - λ) of the picture's,   λ ~ Beta(α, α),   the middle is any pixel

    The rectangle is cut off at the picture's edge, and the weight of the targets is the share of the pixels that are left of the first picture.

    Args:
      batch: a dict with pictures `x` [B, H, W, C] of any dtype, `y`, any pytree of [B, ...], and optionally `mask`, weights [B, ...].
      alpha: α > 0; may be traced.
    Returns:
      The batch with changed `x` and targets `Mixed`, for a loss `mixed(loss)`; an example weighs as little as its lighter part.
    Raises:
      ValueError: `alpha` <= 0; no dict with pictures x, and y.
    Source: Yun et al. (2019), CutMix: Regularization Strategy to Train Strong Classifiers, eq. 1-2.

    >>> batch = cutmix(jax.random.key(0), {"x": jnp.arange(2.0).reshape(2, 1, 1, 1) * jnp.ones((2, 8, 8, 1)), "y": jnp.arange(2)})
    >>> bool(jnp.allclose(batch["x"].mean((1, 2, 3)), batch["y"].probabilities(2)[:, 1]))
    True
    """
    check_range("cutmix", "alpha", alpha, 0, open_low=True, open_high=True)
    _check("cutmix", batch)
    x = batch["x"]
    if x.ndim != 4:
        raise ValueError(f"cutmix: x must be pictures [B, H, W, C], got {list(x.shape)}")
    partner_key, weight_key, row_key, column_key = jax.random.split(key, 4)
    side = jnp.sqrt(1 - jax.random.beta(weight_key, alpha, alpha, (len(x), 1)))
    bounds = []
    for place_key, length in ((row_key, x.shape[1]), (column_key, x.shape[2])):
        extent = jnp.floor(side * length).astype(jnp.int32)
        begin = jax.random.randint(place_key, (len(x), 1), 0, length) - extent // 2
        bounds.append((begin, begin + extent))
    is_second = window(*bounds[0], *bounds[1], x.shape[1:3])
    weight = 1 - is_second.mean((1, 2, 3), dtype=jnp.float32)
    partner = permuted_index(partner_key, jnp.arange(len(x)), len(x))
    return _with(batch, jnp.where(is_second, x[partner], x), partner, weight)


def _check(who: str, batch: Batch) -> None:
    if not isinstance(batch, Mapping) or "x" not in batch or "y" not in batch:
        got = f"the keys {sorted(batch)}" if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(f'{who}: batch must be a dict with "x" and "y", got {got}')
    if isinstance(batch["y"], Mixed):
        raise ValueError(f"{who}: the targets are mixed already; mix a batch once")


def _with(batch: Batch, x: Array, partner: Array, weight: Array) -> Batch:
    rest = {name: jnp.minimum(values, values[partner]) for name, values in batch.items() if name == "mask"}
    return {**batch, **rest, "x": x, "y": Mixed(batch["y"], jax.tree.map(lambda leaf: leaf[partner], batch["y"]), weight)}
