"""Fine-tuning a part of a model: the rest is frozen, chosen by path."""

from typing import Any

import jax
import optax

from dljax.core.tree import path_mask


def frozen(optimizer: optax.GradientTransformation, pattern: str) -> optax.GradientTransformation:
    """An optimizer that leaves the parameters alone whose path a regular expression finds: they get neither updates nor a place in its state.

    Args:
      optimizer: of the others.
      pattern: as for `path_mask`, such as `decoder/` for all of a GPT's layers; `^(?!head/)` freezes everything but the head.
    Returns:
      A gradient transformation.
    Raises:
      ValueError: the pattern is no regular expression, or, when it meets the parameters, finds none.

    >>> import jax.numpy as jnp
    >>> params = {"body": jnp.ones(3), "head": jnp.ones(2)}
    >>> optimizer = frozen(optax.adam(0.1), "^body$")
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
    >>> updates["body"].tolist(), [round(float(update), 3) for update in updates["head"]]
    ([0.0, 0.0, 0.0], [-0.1, -0.1])
    """
    find = path_mask(pattern, "frozen")

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda is_frozen: "frozen" if is_frozen else "trained", find(params))

    parts = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
    return optax.GradientTransformation(parts.init, parts.update)
