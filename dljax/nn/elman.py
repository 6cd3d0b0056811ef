"""The simple recurrent net (Elman): one layer of feedback over a whole sequence, the gradient's products taken of all steps at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_choice
from dljax.nn.product import row_product
from dljax.nn.recurrent import _batch_first, _before, _checked_size, _last, _projected, _time_first, _times_transposed


def elman(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D F"],
    recurrent_kernel: Float[Array, "H F"],
    bias: Float[Array, "F"],
    *,
    carry: Float[Array, "B H"] | None = None,
    lengths: Int[Array, "B"] | None = None,
    reverse: bool = False,
    nonlinearity: str = "tanh",
) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
    """The simple recurrent net over a sequence.

      h_t = φ(x_t W + h_{t-1} U + b)

    Derivatives of every order and mode are exact; the kernels' own gradients are taken of all steps at once.

    Args:
      x, lengths, reverse: as for `lstm`.
      kernel, recurrent_kernel, bias: W, U, b; F = H.
      carry: h before the first step; None for zeros.
      nonlinearity: φ, "tanh", "relu" or "identity", the linear net whose gradients have a closed form.
    Returns:
      The outputs h_t, and h after the last step that is not padding.
    Raises:
      ValueError: shapes that do not fit, or another nonlinearity.
    Source: Elman (1990), Finding structure in time, Cognitive Science 14.

    >>> y, h = elman(jnp.zeros((4, 5, 3)), jnp.ones((3, 2)), jnp.ones((2, 2)), jnp.ones(2))
    >>> y.shape, bool((y[:, -1] == h).all())
    ((4, 5, 2), True)
    """
    check_choice("elman", "nonlinearity", nonlinearity, _NONLINEARITIES)
    size = _checked_size("elman", x, kernel, recurrent_kernel, bias, 1)
    state = jnp.zeros((x.shape[0], size), x.dtype) if carry is None else carry
    outputs = _STATES[nonlinearity](_projected(_time_first(x, lengths, reverse), kernel, bias), recurrent_kernel, state)
    return _batch_first(outputs, lengths, reverse), _last(outputs, state, lengths)


# φ, and its derivative as a function of its value.
_NONLINEARITIES: dict[str, tuple[Callable, Callable]] = {
    "tanh": (jnp.tanh, lambda y: 1 - y * y),
    "relu": (jax.nn.relu, lambda y: (y > 0).astype(y.dtype)),
    "identity": (lambda z: z, jnp.ones_like),
}


def _states(nonlinearity: str) -> Callable[[Array, Array, Array], Array]:
    function, slope = _NONLINEARITIES[nonlinearity]

    @jax.custom_jvp
    def states(inputs: Float[Array, "T B H"], kernel: Float[Array, "H H"], hidden: Float[Array, "B H"]) -> Array:
        def step(hidden: Array, given: Array) -> tuple[Array, Array]:
            hidden = function(given + hidden @ kernel)
            return hidden, hidden

        return lax.scan(step, hidden, inputs)[1]

    @states.defjvp
    def jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        _, kernel, hidden = primals
        dinputs, dkernel, dhidden = tangents
        outputs = states(*primals)
        slopes = slope(outputs)
        given = (dinputs + row_product(_before(outputs, hidden), dkernel)) * slopes
        back = lax.optimization_barrier(kernel.T)

        def step(dhidden: Array, known: tuple) -> tuple[Array, Array]:
            given, slopes = known
            dhidden = given + _times_transposed(dhidden, back) * slopes
            return dhidden, dhidden

        return outputs, lax.scan(step, dhidden, (given, slopes))[1]

    return states


_STATES = {name: _states(name) for name in _NONLINEARITIES}
