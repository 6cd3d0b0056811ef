"""LSTM and GRU over whole sequences: all that does not depend on the recursion is computed before or after it, in one product."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.nn.product import row_product


def lstm(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D F"],
    recurrent_kernel: Float[Array, "H F"],
    bias: Float[Array, "F"],
    *,
    carry: tuple[Float[Array, "B H"], Float[Array, "B H"]] | None = None,
    lengths: Int[Array, "B"] | None = None,
    reverse: bool = False,
) -> tuple[Float[Array, "B T H"], tuple[Float[Array, "B H"], Float[Array, "B H"]]]:
    """Long short-term memory over a sequence.

      (i, f, g, o) = (σ, σ, tanh, σ)(x_t W + h_{t-1} U + b),   c_t = f c_{t-1} + i g,   h_t = o tanh c_t

    Derivatives of every order and mode are exact. A gradient costs one product of matrices a step; the kernels' own gradients are taken of all steps
    at once afterwards.

    Args:
      x: inputs, one sequence a row.
      kernel, recurrent_kernel, bias: W, U, b; the gates' columns in the order i, f, g, o.
      carry: (c, h) before the first step; None for zeros.
      lengths: of each sequence, in 0 ... T; None for T. What stands behind is padding: it has outputs without meaning and no influence on the rest.
      reverse: whether time runs backwards, from the last step that is not padding. The outputs stand at the steps of their inputs.
    Returns:
      The outputs h_t, and (c, h) after the last step that is not padding.
    Raises:
      ValueError: shapes that do not fit.
    Source: Hochreiter & Schmidhuber (1997), Neural Computation 9, with the forget gate of Gers et al. (2000).

    >>> weights = [jnp.ones(shape) for shape in ((3, 8), (2, 8), (8,))]
    >>> y, (c, h) = lstm(jnp.zeros((4, 5, 3)), *weights)
    >>> y.shape, bool((y[:, -1] == h).all())
    ((4, 5, 2), True)
    """
    size = _checked_size("lstm", x, kernel, recurrent_kernel, bias, 4)
    # σ(z) = (1 + tanh(z/2)) / 2: with the weights of three gates halved, one tanh serves all four.
    scale = jnp.repeat(jnp.array([0.5, 0.5, 1.0, 0.5], x.dtype), size)
    state = (jnp.zeros((x.shape[0], size), x.dtype),) * 2 if carry is None else carry
    inputs = _projected(_time_first(x, lengths, reverse), kernel * scale[None], bias * scale)
    cells, outputs = _lstm_states(inputs, recurrent_kernel * scale[None], *state)
    last = tuple(_last(history, first, lengths) for history, first in zip((cells, outputs), state, strict=True))
    return _batch_first(outputs, lengths, reverse), (last[0], last[1])


def gru(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D F"],
    recurrent_kernel: Float[Array, "H F"],
    bias: Float[Array, "F"],
    recurrent_bias: Float[Array, "H"],
    *,
    carry: Float[Array, "B H"] | None = None,
    lengths: Int[Array, "B"] | None = None,
    reverse: bool = False,
) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
    """Gated recurrent units over a sequence.

      (r, z) = σ(x_t W_rz + b_rz + h_{t-1} U_rz),   n = tanh(x_t W_n + b_n + r (h_{t-1} U_n + d)),   h_t = (1 - z) n + z h_{t-1}

    Args:
      x, lengths, reverse: as for `lstm`.
      kernel, recurrent_kernel, bias: W, U, b; the gates' columns in the order r, z, n.
      recurrent_bias: d.
      carry: h before the first step; None for zeros.
    Returns:
      The outputs h_t, and h after the last step that is not padding.
    Raises:
      ValueError: shapes that do not fit.
    Source: Cho et al. (2014), Learning phrase representations using RNN encoder-decoder, with the reset gate after the product, as in cuDNN.

    >>> y, h = gru(jnp.zeros((4, 5, 3)), jnp.ones((3, 6)), jnp.ones((2, 6)), jnp.ones(6), jnp.ones(2))
    >>> y.shape, bool((y[:, -1] == h).all())
    ((4, 5, 2), True)
    """
    size = _checked_size("gru", x, kernel, recurrent_kernel, bias, 3)
    scale = jnp.repeat(jnp.array([0.5, 0.5, 1.0], x.dtype), size)
    state = jnp.zeros((x.shape[0], size), x.dtype) if carry is None else carry
    inputs = _projected(_time_first(x, lengths, reverse), kernel * scale[None], bias * scale)
    outputs = _gru_states(inputs, recurrent_kernel * scale[None], recurrent_bias, state)
    return _batch_first(outputs, lengths, reverse), _last(outputs, state, lengths)


class RNN(linen.RNN):
    """`flax.linen.RNN`, which runs `LSTMCell`, `OptimizedLSTMCell` and `GRUCell` by `lstm` and `gru`: the same options, parameters and values.

    Cells with other activations, and other cells, are left to linen.

    >>> layer = RNN(linen.GRUCell(4))
    >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> layer.apply(variables, jnp.ones((2, 5, 3)), seq_lengths=jnp.array([5, 2]), return_carry=True)[0].shape
    (2, 4)
    """

    def __call__(
        self,
        inputs: Float[Array, "..."],
        *,
        initial_carry: Any = None,
        init_key: Any = None,
        seq_lengths: Int[Array, "*B"] | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        is_standard = type(self.cell) in _GATES and self.cell.gate_fn is linen.sigmoid and self.cell.activation_fn is linen.tanh
        if not is_standard or self.is_initializing():
            options = {"initial_carry": initial_carry, "init_key": init_key, "seq_lengths": seq_lengths, "return_carry": return_carry}
            return super().__call__(inputs, **options, time_major=time_major, reverse=reverse, keep_order=keep_order)
        return_carry, time_major, reverse, keep_order = (
            default if given is None else given
            for given, default in (
                (return_carry, self.return_carry), (time_major, self.time_major), (reverse, self.reverse), (keep_order, self.keep_order),
            )
        )  # fmt: skip
        x = jnp.moveaxis(inputs, 0, -2) if time_major else inputs
        *batch, length, size = x.shape
        if initial_carry is None:
            initial_carry = self.cell.initialize_carry(jax.random.key(0) if init_key is None else init_key, (*batch, size))
        lengths = None if seq_lengths is None else jnp.broadcast_to(seq_lengths, batch).reshape(-1)
        carry = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), initial_carry)
        run, weights = lstm if isinstance(carry, tuple) else gru, self._weights()
        is_half = weights[0].dtype in (jnp.bfloat16, jnp.float16)
        leaves, structure = jax.tree.flatten((x.reshape(-1, length, size), weights, carry))
        leaves = promote_dtype(*leaves, dtype=weights[0].dtype if self.cell.dtype is None and is_half else self.cell.dtype)
        x, weights, carry = jax.tree.unflatten(structure, leaves)
        y, carry = run(x, *weights, carry=carry, lengths=lengths, reverse=reverse)
        if reverse and not keep_order:
            y = _batch_first(_time_first(y, lengths, True), None, False)
        y = y.reshape(*batch, *y.shape[1:])
        y = jnp.moveaxis(y, -2, 0) if time_major else y
        return (jax.tree.map(lambda leaf: leaf.reshape(*batch, -1), carry), y) if return_carry else y

    def _weights(self) -> tuple[Array, ...]:
        params, gates = self.cell.variables["params"], _GATES[type(self.cell)]

        def joined(side: str, name: str) -> Array:
            return jnp.concatenate([params[side + gate][name] for gate in gates], -1)

        kernels = joined("i", "kernel"), joined("h", "kernel")
        return (*kernels, joined("h", "bias")) if gates == "ifgo" else (*kernels, joined("i", "bias"), params["hn"]["bias"])


_GATES = {linen.LSTMCell: "ifgo", linen.OptimizedLSTMCell: "ifgo", linen.GRUCell: "rzn"}


# The recursions. Their tangents are recursions too, linear ones, whose coefficients are computed for all steps at once; JAX transposes them into the
# gradient, in which the kernel's part is one product of matrices over all steps.


@jax.custom_jvp
def _lstm_states(inputs: Float[Array, "T B F"], kernel: Float[Array, "H F"], cell: Float[Array, "B H"], hidden: Float[Array, "B H"]) -> tuple:
    return _lstm_scan(inputs, kernel, cell, hidden)[:2]


def _lstm_scan(inputs: Array, kernel: Array, cell: Array, hidden: Array) -> tuple[Array, Array, Array]:
    num = hidden.shape[-1]
    is_tanh = (jnp.arange(4 * num) // num == 2)[None]
    slope, offset = jnp.where(is_tanh, 1, 0.5).astype(inputs.dtype), jnp.where(is_tanh, 0, 0.5).astype(inputs.dtype)

    def step(state: tuple, given: Array) -> tuple:
        cell, hidden = state
        gates = jnp.tanh(given + hidden @ kernel) * slope + offset
        i, f, g, o = jnp.split(gates, 4, -1)
        cell = f * cell + i * g
        hidden = o * jnp.tanh(cell)
        return (cell, hidden), (cell, hidden, gates)

    return lax.scan(step, (cell, hidden), inputs)[1]


@_lstm_states.defjvp
def _lstm_states_jvp(primals: tuple, tangents: tuple) -> tuple:
    _, kernel, cell, hidden = primals
    dinputs, dkernel, dcell, dhidden = tangents
    cells, outputs, gates = _lstm_scan(*primals)
    i, f, g, o = jnp.split(gates, 4, -1)
    tanh = jnp.tanh(cells)
    through_gates = jnp.concatenate([2 * i * (1 - i) * g, 2 * f * (1 - f) * _before(cells, cell), (1 - g * g) * i, 2 * o * (1 - o) * tanh], -1)
    given = dinputs + row_product(_before(outputs, hidden), dkernel)
    back = lax.optimization_barrier(kernel.T)

    def step(state: tuple, known: tuple) -> tuple:
        dcell, dhidden = state
        given, through_gates, f, through_cell = known
        di, df, dg, do = jnp.split((given + _times_transposed(dhidden, back)) * through_gates, 4, -1)
        dcell = f * dcell + di + df + dg
        dhidden = through_cell * dcell + do
        return (dcell, dhidden), (dcell, dhidden)

    return (cells, outputs), lax.scan(step, (dcell, dhidden), (given, through_gates, f, o * (1 - tanh * tanh)))[1]


@jax.custom_jvp
def _gru_states(inputs: Float[Array, "T B F"], kernel: Float[Array, "H F"], bias: Float[Array, "H"], hidden: Float[Array, "B H"]) -> Array:
    return _gru_scan(inputs, kernel, bias, hidden)[0]


def _gru_scan(inputs: Array, kernel: Array, bias: Array, hidden: Array) -> tuple[Array, Array, Array, Array]:
    num = hidden.shape[-1]

    def step(hidden: Array, given: Array) -> tuple:
        recurrent = hidden @ kernel
        gates = jnp.tanh(given[:, : 2 * num] + recurrent[:, : 2 * num]) * 0.5 + 0.5
        r, z = jnp.split(gates, 2, -1)
        candidate = recurrent[:, 2 * num :] + bias[None]
        n = jnp.tanh(given[:, 2 * num :] + r * candidate)
        hidden = n + z * (hidden - n)
        return hidden, (hidden, gates, n, candidate)

    return lax.scan(step, hidden, inputs)[1]


@_gru_states.defjvp
def _gru_states_jvp(primals: tuple, tangents: tuple) -> tuple:
    _, kernel, _, hidden = primals
    dinputs, dkernel, dbias, dhidden = tangents
    outputs, gates, n, candidate = _gru_scan(*primals)
    r, z = jnp.split(gates, 2, -1)
    before = _before(outputs, hidden)
    through_n = (1 - z) * (1 - n * n)
    through_gates = jnp.concatenate([2 * r * (1 - r) * candidate * through_n, 2 * z * (1 - z) * (before - n)], -1)
    given = jnp.concatenate([through_gates, through_n], -1) * dinputs
    recurrent = row_product(before, dkernel) + jnp.pad(dbias, (2 * dbias.size, 0))[None, None]
    back = lax.optimization_barrier(kernel.T)

    def step(dhidden: Array, known: tuple) -> tuple:
        given, recurrent, through, z = known
        parts = given + (recurrent + _times_transposed(dhidden, back)) * through
        dhidden = sum(jnp.split(parts, 3, -1)) + z * dhidden
        return dhidden, dhidden

    return outputs, lax.scan(step, dhidden, (given, recurrent, jnp.concatenate([through_gates, through_n * r], -1), z))[1]


def _times_transposed(x: Array, kernel: Array) -> Array:
    # Its transpose, which the gradient runs at every step, is a plain product.
    return lax.dot_general(x, kernel, (((1,), (1,)), ((), ())))


def _before(history: Float[Array, "T B H"], first: Float[Array, "B H"]) -> Float[Array, "T B H"]:
    return jnp.concatenate([first[None], history[:-1]])


def _last(history: Float[Array, "T B H"], first: Float[Array, "B H"], lengths: Int[Array, "B"] | None) -> Float[Array, "B H"]:
    if lengths is None or len(history) == 0:
        return history[-1] if len(history) else first
    last = jnp.take_along_axis(history, jnp.maximum(lengths - 1, 0)[None, :, None], 0)[0]
    return jnp.where((lengths > 0)[:, None], last, first)


def _projected(x: Float[Array, "T B D"], kernel: Float[Array, "D F"], bias: Float[Array, "F"]) -> Float[Array, "T B F"]:
    return row_product(x, kernel) + bias[None, None]


def _time_first(x: Float[Array, "B T D"], lengths: Int[Array, "B"] | None, reverse: bool) -> Float[Array, "T B D"]:
    return _in_time(x.swapaxes(0, 1), lengths, reverse)


def _batch_first(x: Float[Array, "T B D"], lengths: Int[Array, "B"] | None, reverse: bool) -> Float[Array, "B T D"]:
    return _in_time(x, lengths, reverse).swapaxes(0, 1)


def _in_time(x: Float[Array, "T B D"], lengths: Int[Array, "B"] | None, reverse: bool) -> Float[Array, "T B D"]:
    if not reverse or lengths is None:
        return x[::-1] if reverse else x
    # The first `lengths` steps in reverse; padding stays behind them.
    places = (lengths[None] - 1 - jnp.arange(len(x))[:, None]) % len(x)
    return jnp.take_along_axis(x, places[:, :, None], 0)


def _checked_size(who: str, x: Array, kernel: Array, recurrent_kernel: Array, bias: Array, num_gates: int) -> int:
    size = recurrent_kernel.shape[0]
    expected = (x.shape[-1], num_gates * size), (size, num_gates * size), (num_gates * size,)
    given = kernel.shape, recurrent_kernel.shape, bias.shape
    if x.ndim != 3 or given != expected:
        raise ValueError(
            f"{who}: x must be [B, T, D], the kernels [D, {num_gates}H] and [H, {num_gates}H] and the bias [{num_gates}H], got {x.shape}, {given}"
        )
    return size
