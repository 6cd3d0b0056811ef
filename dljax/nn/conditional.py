"""Models that are told something besides their input: a class, a time, another picture's features."""

import inspect

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Num

from dljax.nn.dense import unit_pixels


class Conditional(linen.Module):
    """A model of (x, context) from a model of x: the context stands beside the features of every place.

      y = model([x, context])

    Attributes:
      model: of inputs [B, ..., D + C], such as an `MLP` (of vectors) or a convolutional network (of pictures).

    Calling it:
      x: [B, ..., D], uint8 pictures or floats.
      context: [B, C], such as one-hot labels.
      train: handed on to the model.
    Raises:
      ValueError: a context of another rank or number of rows.
    Source: Mirza and Osindero (2014), Conditional Generative Adversarial Nets, section 3.2; Sohn, Lee and Yan (2015).

    >>> import jax
    >>> from dljax.models.mlp import MLP
    >>> net = Conditional(MLP(2, ()))
    >>> shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((4, 3)), jnp.zeros((4, 10)))
    >>> shapes["params"]["model"]["Dense_0"]["kernel"].shape
    (13, 2)
    """

    model: linen.Module

    @linen.compact
    def __call__(self, x: Num[Array, "B *shape"], context: Float[Array, "*rows"], train: bool = False) -> Array:
        if context.ndim != 2 or context.shape[0] != x.shape[0]:
            raise ValueError(f"Conditional: context must be [{x.shape[0]}, C], as many rows as x has examples, got {context.shape}")
        x = unit_pixels(x)
        places = context.reshape(context.shape[0], *(1 for _ in x.shape[1:-1]), context.shape[-1])
        beside = jnp.broadcast_to(places, (*x.shape[:-1], context.shape[-1])).astype(x.dtype)
        joined = jnp.concatenate([x, beside], -1)
        takes = inspect.signature(type(self.model).__call__).parameters
        return self.model(joined, train=train) if "train" in takes else self.model(joined)
