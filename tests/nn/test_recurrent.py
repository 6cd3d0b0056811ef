"""LSTM and GRU: linen's and PyTorch's values and gradients, padding without influence, derivatives of every mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.test_util import check_grads

from dljax import nn

B, T, D, H = 3, 7, 4, 5
CELLS = {"lstm": linen.LSTMCell, "optimized": linen.OptimizedLSTMCell, "gru": linen.GRUCell}


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def arrays(*shapes):
    rng = np.random.default_rng(1)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def assert_close(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), ours, theirs)


@pytest.mark.rank_promotion
@pytest.mark.parametrize("options", [{}, {"reverse": True, "keep_order": True}, {"reverse": True}], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_rnn_has_linens_parameters_values_and_gradients(name, options):
    (x,), lengths = arrays((B, T, D)), jnp.array([7, 1, 4])
    cell = CELLS[name](H, param_dtype=jnp.float64)
    theirs, ours = (rnn(cell, return_carry=True, **options) for rnn in (linen.RNN, nn.RNN))
    variables = theirs.init(jax.random.key(0), x)
    assert_close(ours.init(jax.random.key(0), x), variables)
    is_real = (jnp.arange(T)[None] < lengths[:, None])[..., None]  # what comes out of padding has no meaning

    def weighed(model):
        def value(variables, x):
            carry, y = model.apply(variables, x, seq_lengths=lengths)
            return (jnp.where(is_real, y, 0) ** 2).sum() + sum((leaf**3).sum() for leaf in jax.tree.leaves(carry)), (carry, jnp.where(is_real, y, 0))

        return jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(variables, x)

    assert_close(weighed(ours), weighed(theirs))


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_values_and_gradients_equal_those_of_torch(name):
    torch = pytest.importorskip("torch")
    gates = {"lstm": 4, "gru": 3}[name]
    x, kernel, recurrent, bias, recurrent_bias, weight = arrays((B, T, D), (D, gates * H), (H, gates * H), (gates * H,), (H,), (B, T, H))
    theirs = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[name](D, H, batch_first=True, dtype=torch.float64)
    hidden_bias = np.zeros(gates * H)
    if name == "gru":
        hidden_bias[2 * H :] = recurrent_bias
    given = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T, "bias_ih_l0": bias, "bias_hh_l0": hidden_bias}
    theirs.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in given.items()})
    their_x = torch.from_numpy(np.array(x)).requires_grad_()
    y, _ = theirs(their_x)
    (y * torch.from_numpy(np.array(weight))).sum().backward()

    def value(x, kernel, recurrent):
        more = (bias,) if name == "lstm" else (bias, recurrent_bias)
        out = getattr(nn, name)(x, kernel, recurrent, *more)[0]
        return (out * weight).sum(), out

    grads, out = jax.jit(jax.grad(value, (0, 1, 2), has_aux=True))(x, kernel, recurrent)
    expected = (their_x.grad.numpy(), theirs.weight_ih_l0.grad.numpy().T, theirs.weight_hh_l0.grad.numpy().T)
    np.testing.assert_allclose(out, y.detach().numpy(), rtol=1e-10)
    assert_close(grads, expected)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_every_mode_of_differentiation_works_to_second_order(name):
    gates = {"lstm": 4, "gru": 3}[name]
    more = arrays((gates * 2,), (2,))[: 1 + (name == "gru")]
    check_grads(lambda *args: getattr(nn, name)(*args, *more)[0], arrays((2, 3, 2), (2, gates * 2), (2, gates * 2)), order=2, modes=("fwd", "rev"))


def test_padding_has_no_influence_and_the_carry_goes_on():
    x, kernel, recurrent, bias = arrays((B, T, D), (D, 4 * H), (H, 4 * H), (4 * H,))
    lengths = jnp.array([5, 0, 3])
    y, carry = nn.lstm(x, kernel, recurrent, bias, lengths=lengths)
    noisy = jnp.where((jnp.arange(T)[None] < lengths[:, None])[..., None], x, 99.0)
    other, again = nn.lstm(noisy, kernel, recurrent, bias, lengths=lengths)
    np.testing.assert_array_equal(y[0, :5], other[0, :5])
    assert_close(again, carry)
    np.testing.assert_array_equal(carry[1][1], 0)
    _, middle = nn.lstm(x[:, :4], kernel, recurrent, bias)
    assert_close(nn.lstm(x[:, 4:], kernel, recurrent, bias, carry=middle)[1], nn.lstm(x, kernel, recurrent, bias)[1])


def test_shapes_that_do_not_fit_are_refused():
    x, kernel, recurrent, bias = arrays((B, T, D), (D, 4 * H), (H, 4 * H), (4 * H,))
    with pytest.raises(ValueError, match=r"gru: x must be \[B, T, D\], the kernels \[D, 3H\] and \[H, 3H\] and the bias \[3H\], got \(3, 7, 4\)"):
        nn.gru(x, kernel, recurrent, bias, bias[:H])
