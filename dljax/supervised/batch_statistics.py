"""Running statistics measured anew, for parameters that no training step has seen."""

from typing import Any

import jax
from jax import lax

from dljax.core.contract import Key
from dljax.nn.model import Variables, as_model


def refreshed(key: Key, model: Any, variables: Variables, batches: Any) -> Variables:
    """The same parameters with the statistics that batches of inputs give under them: what averaged weights need before they predict.

    The model sees each batch in training mode and nothing but its running statistics changes. With momentum m they forget the old ones by the
    factor m a batch: linen's 0.99 wants some 500 batches.

    Args:
      model: whatever `as_model` takes.
      variables: `learner.params(state)` of `swa(supervised(model, ...), ...)`.
      batches: inputs, each leaf [N, B, ...].
    Returns:
      Variables.
    Source: Izmailov et al. (2018), Averaging weights leads to wider optima, section 3.2.

    >>> from flax import linen
    >>> import jax.numpy as jnp
    >>> model, x = linen.BatchNorm(use_running_average=False, momentum=0.5), jnp.tile(jnp.array([[1.0], [5.0]]), (30, 1, 1))
    >>> variables = refreshed(jax.random.key(0), model, model.init(jax.random.key(0), x[0]), x)
    >>> float(variables["batch_stats"]["mean"][0]), float(variables["batch_stats"]["var"][0])
    (3.0, 4.0)
    """
    net, params = as_model(model), variables["params"]

    def one(carry: tuple, x: Any) -> tuple[tuple, None]:
        step, model_state = carry
        _, model_state = net.apply({"params": params, **model_state}, x, key=jax.random.fold_in(key, step), train=True)
        return (step + 1, {name: value for name, value in model_state.items() if name != "losses"}), None

    model_state = {name: value for name, value in variables.items() if name != "params"}
    (_, model_state), _ = lax.scan(one, (0, model_state), batches)
    return {"params": params, **model_state}
