"""The simple recurrent net against PyTorch, and how its gradients fade."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax import nn

B, T, D, H = 3, 7, 4, 5


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def arrays(*shapes):
    rng = np.random.default_rng(1)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_6_1_elmans_values_and_gradients_equal_those_of_torch(nonlinearity):
    torch = pytest.importorskip("torch")
    x, kernel, recurrent, bias, first, weight = arrays((B, T, D), (D, H), (H, H), (H,), (B, H), (B, T, H))
    theirs = torch.nn.RNN(D, H, batch_first=True, nonlinearity=nonlinearity, dtype=torch.float64)
    given = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T, "bias_ih_l0": bias, "bias_hh_l0": np.zeros(H)}
    theirs.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in given.items()})
    their_x, their_first = (torch.from_numpy(np.array(part)).requires_grad_() for part in (x, first))
    y, _ = theirs(their_x, their_first[None])
    (y * torch.from_numpy(np.array(weight))).sum().backward()

    def value(x, kernel, recurrent, bias, first):
        out, last = nn.elman(x, kernel, recurrent, bias, carry=first, nonlinearity=nonlinearity)
        return (out * weight).sum(), (out, last)

    grads, (out, last) = jax.jit(jax.grad(value, range(5), has_aux=True))(x, kernel, recurrent, bias, first)
    expected = [their_x.grad, theirs.weight_ih_l0.grad.T, theirs.weight_hh_l0.grad.T, theirs.bias_ih_l0.grad, their_first.grad]
    np.testing.assert_allclose(out, y.detach().numpy(), rtol=1e-10)
    np.testing.assert_array_equal(last, out[:, -1])
    for ours, other in zip(grads, expected, strict=True):
        np.testing.assert_allclose(ours, other.numpy(), rtol=1e-9, atol=1e-11)


def test_6_1_elmans_second_derivatives_are_those_of_the_plain_recursion():
    def plain(x, kernel, recurrent, bias):
        def step(h, x):
            h = jnp.tanh(x @ kernel + h @ recurrent + bias[None])
            return h, h

        return jax.lax.scan(step, jnp.zeros((B, H)), x.swapaxes(0, 1))[1].swapaxes(0, 1)

    args, tangents = (tuple(arrays((B, T, D), (D, H), (H, H), (H,))) for _ in range(2))

    def second(run):  # forward over reverse
        gradient = jax.grad(lambda args: (run(*args) ** 3).sum())
        return jax.jvp(gradient, (args,), (jax.tree.map(jnp.cos, tangents),))

    ours, expected = jax.jit(lambda: (second(lambda *args: nn.elman(*args)[0]), second(plain)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), ours, expected)


def test_6_1_gradient_norms_of_a_linear_net_are_powers_of_its_matrix():
    x, kernel, recurrent, first, weight = arrays((T, D), (D, H), (H, H), (H,), (H,))
    norms = jax.jit(lambda: nn.gradient_norms(lambda h, x: x @ kernel + h @ recurrent, first, x, lambda states: states[-1] @ weight))()
    expected = [np.linalg.norm(np.linalg.matrix_power(recurrent, T - 1 - t) @ weight) for t in range(T)]
    np.testing.assert_allclose(norms, expected, rtol=1e-12)


def test_6_1_gradient_norms_of_a_cell_sum_over_all_paths():
    """Where the loss asks for every state: against jax.grad by the first one."""
    x, first, kernel = arrays((T, B, H), (B, H), (H, H))

    def step(carry, x):
        cell, hidden = carry
        cell = jax.nn.sigmoid(hidden @ kernel) * cell + x
        return cell, jnp.tanh(cell)

    def loss(states):
        return (states[0] ** 2).sum() + (states[1] ** 3).sum()

    def whole(second):
        _, states = jax.lax.scan(lambda carry, x: (step(carry, x),) * 2, second, x[1:])
        return loss(jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), second, states))

    carry = first, first
    norms, grads = jax.jit(lambda: (nn.gradient_norms(step, carry, x, loss), jax.grad(whole)(step(carry, x[0]))))()
    np.testing.assert_allclose([norm[0] for norm in norms], [np.linalg.norm(grad) for grad in grads], rtol=1e-12)
    assert norms[0].shape == (T,)


def test_elman_refuses_what_does_not_fit():
    x, kernel, recurrent, bias = arrays((B, T, D), (D, H), (H, H), (H,))
    with pytest.raises(ValueError, match=r"elman: x must be \[B, T, D\], the kernels \[D, 1H\] and \[H, 1H\]"):
        nn.elman(x, kernel, recurrent[:3], bias)
    with pytest.raises(ValueError, match="elman: nonlinearity must be one of 'tanh', 'relu', 'identity', got 'gelu'"):
        nn.elman(x, kernel, recurrent, bias, nonlinearity="gelu")
