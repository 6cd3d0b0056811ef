"""Precision policies: which dtype parameters are kept in, computed in and returned in.

Mixed precision keeps float32 parameters and casts them to bfloat16 where a model is applied; gradients flow back through the cast in
float32. A learner cooperates by wrapping its model once, `forward = precision.wrap(model.apply)`; the engine picks the policy while it traces.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dljax.core.checks import check_choice


class Policy(NamedTuple):
    """Dtypes of a model's parameters at rest, of its computation and of its outputs."""

    params: Any
    compute: Any
    output: Any


POLICIES = {
    "float32": Policy(jnp.float32, jnp.float32, jnp.float32),
    "bfloat16": Policy(jnp.float32, jnp.bfloat16, jnp.float32),
}

# Part of the key of jax's caches: a function jitted inside a step is traced again under another policy.
_policy = jax.make_user_context(None)


@contextmanager
def use(policy: str | Policy | None) -> Iterator[None]:
    """While a step is traced inside, wrapped models compute by this policy.

    Args:
      policy: "float32", "bfloat16", a `Policy`, or None to leave dtypes alone (float64 stays float64).
    Raises:
      ValueError: an unknown name.

    >>> with use("bfloat16"):
    ...     wrap(lambda params, x: (params @ x).dtype)
    <function ...>
    """
    if isinstance(policy, str):
        check_choice("precision", "policy", policy, POLICIES)
        policy = POLICIES[policy]
    with _policy(policy):
        yield


def cast(tree: Any, dtype: Any) -> Any:
    """Floating-point leaves in another dtype; integers, booleans and keys as they are.

    >>> cast({"w": jnp.ones(2), "n": jnp.int32(1)}, jnp.bfloat16)["w"].dtype
    dtype(bfloat16)
    """

    def one(leaf: Any) -> Any:
        return leaf.astype(dtype) if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def wrap(apply: Callable[..., Any]) -> Callable[..., Any]:
    """`apply` with its arguments cast to the compute dtype and its results to the output dtype of the policy in force when it is traced.

    >>> double = wrap(lambda x: 2 * x)
    >>> with use("bfloat16"):
    ...     double(jnp.float32(1.001)).item()  # bfloat16 has 8 bits of mantissa
    2.0
    """

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        policy = _policy.value
        if policy is None or policy.compute == jnp.float32:
            return apply(*args, **kwargs)
        args, kwargs = cast((args, kwargs), policy.compute)
        return cast(apply(*args, **kwargs), policy.output)

    return wrapped
