"""Highway networks: layers that decide how much of their input to let through (Srivastava, Greff & Schmidhuber, 2015)."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int
from dljax.nn.convolution import Conv
from dljax.nn.dense import Dense, unit_pixels


class HighwayLayer(linen.Module):
    """A layer and a gate that mixes what it makes of its input with the input itself.

      y = T(x) · H(x) + (1 - T(x)) · x,   H(x) = φ(W_H x + b_H),   T(x) = σ(W_T x + b_T)

    Attributes:
      activation: φ.
      gate_bias: what b_T starts as; below zero, the layer starts by carrying its input on.
      window: sizes of the kernels where W_H and W_T are convolutions; () for dense layers.

    Source: Srivastava, Greff and Schmidhuber (2015), Highway networks, eq. 3.

    >>> import jax, jax.numpy as jnp
    >>> layer, x = HighwayLayer(gate_bias=-100.0), jnp.ones((2, 3))
    >>> bool((layer.init_with_output(jax.random.key(0), x)[0] == x).all())
    True
    """

    activation: Callable[[Array], Array] = linen.relu
    gate_bias: float = -2.0
    window: Sequence[int] = ()

    @linen.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        def layer(name: str, bias: float = 0.0) -> Any:
            bias_init = linen.initializers.constant(bias)
            if self.window:
                return Conv(x.shape[-1], tuple(self.window), bias_init=bias_init, name=name)
            return Dense(x.shape[-1], bias_init=bias_init, name=name)

        made, gate = self.activation(layer("transform")(x)), linen.sigmoid(layer("gate", self.gate_bias)(x))
        return x + gate * (made - x)


class Highway(linen.Module):
    """A deep perceptron of highway layers; whatever comes in is flattened to one vector an example.

      h₀ = φ(W x + b),   h_l = HighwayLayer(h_{l-1}),   logits W h_L + b

    The highway layers' parameters are stacked along a leading axis, [L, ...], and the layers are scanned.

    Attributes:
      num_classes: K.
      num_layers: L highway layers; the paper trains up to 100.
      width: units of each.
      activation: φ.
      gate_bias: as in `HighwayLayer`; the paper takes -1 to -10, the lower the deeper.

    Source: Srivastava, Greff and Schmidhuber (2015), Highway networks, section 3.1: blocks of 50 units on MNIST.

    >>> import jax, jax.numpy as jnp
    >>> shapes = jax.eval_shape(Highway(10).init, jax.random.key(0), jnp.zeros((2, 28, 28, 1)))["params"]
    >>> jax.tree.map(jnp.shape, shapes["layers"]["gate"])
    {'bias': (10, 50), 'kernel': (10, 50, 50)}
    """

    num_classes: int
    num_layers: int = 10
    width: int = 50
    activation: Callable[[Array], Array] = linen.relu
    gate_bias: float = -2.0

    @linen.compact
    def __call__(self, x: Num[Array, "B *shape"]) -> Float[Array, "B K"]:
        """Logits of each class.

        Args:
          x: examples of any shape, floats or uint8 pictures in 0 ... 255.
        Raises:
          ValueError: a size < 1.
        """
        for name in ("num_classes", "num_layers", "width"):
            check_int("Highway", name, getattr(self, name), minimum=1)
        x = unit_pixels(x).reshape(x.shape[0], -1)
        h = self.activation(Dense(self.width, name="first")(x))
        layers = linen.scan(lambda layer, h, _: (layer(h), None), variable_axes={"params": 0}, split_rngs={"params": True}, length=self.num_layers)
        h, _ = layers(HighwayLayer(self.activation, self.gate_bias, name="layers"), h, None)
        return Dense(self.num_classes, name="head")(h)
