"""Backpropagation by hand against jax.grad: every activation of jax.nn with every loss that can be named."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.nn import AffineLayer, backpropagate, fully_connected
from dljax.nn.backpropagation import is_elementwise
from dljax.objectives import cross_entropy, squared_error

Z = jax.ShapeDtypeStruct((2, 3), jnp.float32)


def activations():
    """All of jax.nn that keep the shape, the elementwise ones and the others, and a few that it does not have."""

    def keeps_shape(function):
        try:
            return jax.eval_shape(function, Z).shape == Z.shape
        except (TypeError, ValueError, AttributeError, AssertionError):
            return False

    names = [name for name in dir(jax.nn) if name != "log1mexp" and not name.startswith("_")]  # log1mexp is for positive numbers only
    functions = {function: name for name in names if callable(function := getattr(jax.nn, name)) and keeps_shape(function)}
    assert {"softmax", "log_softmax", "relu", "gelu", "selu", "softplus", "mish"} <= set(functions.values())
    elementwise = [function for function in functions if is_elementwise(function, Z)]
    mixing = [function for function in functions if function not in elementwise]
    return [*elementwise, functools.partial(jax.nn.gelu, approximate=False), jnp.sin, jnp.arctan], [*mixing, lambda z: z[:, ::-1] * z]


# Of outputs [B, 3] and targets [B, 3], one of them 1 and the others 0.
LOSSES = {
    "squared": squared_error,
    "absolute": lambda outputs, y: jnp.abs(outputs - y),
    "Huber": optax.losses.huber_loss,
    "log cosh": optax.losses.log_cosh,
    "logistic": lambda outputs, y: jax.nn.softplus(-(2 * y - 1) * outputs),
    "binary cross-entropy": optax.losses.sigmoid_binary_cross_entropy,
    "cross-entropy": optax.losses.softmax_cross_entropy,
    "cross-entropy of labels": lambda outputs, y: cross_entropy(outputs, y.argmax(-1)),
    "smoothed cross-entropy": lambda outputs, y: cross_entropy(outputs, y.argmax(-1), label_smoothing=0.1),
    "hinge": lambda outputs, y: optax.losses.hinge_loss(outputs, 2 * y - 1),
    "squared hinge": lambda outputs, y: optax.losses.hinge_loss(outputs, 2 * y - 1) ** 2,
    "multi-class hinge": lambda outputs, y: optax.losses.multiclass_hinge_loss(outputs, y.argmax(-1)),
    "perceptron": lambda outputs, y: optax.losses.perceptron_loss(outputs, 2 * y - 1),
    "exponential": lambda outputs, y: jnp.exp(-(2 * y - 1) * outputs),
    "focal": optax.losses.sigmoid_focal_loss,
    "poly": optax.losses.poly_loss_cross_entropy,
    "Kullback-Leibler": lambda outputs, y: optax.losses.kl_divergence(jax.nn.log_softmax(outputs), 0.1 + 0.7 * y),
    "Poisson": lambda outputs, y: jnp.exp(outputs) - y * outputs,
    "cosine": lambda outputs, y: optax.losses.cosine_distance(outputs, y, epsilon=1e-6),
    "quantile": lambda outputs, y: jnp.maximum(0.9 * (y - outputs), -0.1 * (y - outputs)),
}


def test_2_1_backpropagation_equals_autodiff_for_every_activation_and_loss():
    """All pairs in two programs: what is elementwise is chosen by `select_n`, which is elementwise itself; the others by `switch`."""
    elementwise, mixing = activations()
    assert len(elementwise) >= 24
    assert len(mixing) >= 4

    def loss(which, outputs, y):
        return jax.lax.switch(which, [lambda outputs, y, f=f: jnp.reshape(f(outputs, y), (len(y), -1)).sum(-1) for f in LOSSES.values()], outputs, y)

    def chosen(which, functions, z):
        if functions is elementwise:
            return jax.lax.select_n(which, *(function(z) for function in functions))
        return jax.lax.switch(which, functions, z)

    @functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
    def errors(is_mixing):
        functions = mixing if is_mixing else elementwise
        layers = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), fully_connected(jax.random.key(0), [4, 3, 3]))
        layers = [layer._replace(bias=layer.bias + 0.1) for layer in layers]
        x, y = jax.random.normal(jax.random.key(1), (6, 4), jnp.float64), jax.nn.one_hot(jnp.arange(6) % 3, 3, dtype=jnp.float64)

        def pair(numbers):
            number, kind = numbers

            def activation(z):
                return chosen(number, functions, z)

            assert is_elementwise(activation, x) is not is_mixing

            def objective(layers, x):
                for weights, bias in layers[:-1]:
                    x = activation(x @ weights + bias[None])
                return loss(kind, activation(x @ layers[-1].weights + layers[-1].bias[None]), y).mean()

            value, expected = jax.value_and_grad(objective, (0, 1))(layers, x)
            options = {"loss": functools.partial(loss, kind), "activation": activation, "output_activation": activation}
            _, backward = backpropagate(layers, x, y, **options)
            found = list(backward.gradients), backward.input_gradient
            worst = [jnp.abs(a - b).max() / jnp.maximum(jnp.abs(b).max(), 1) for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True)]
            return jnp.stack([*worst, jnp.abs(backward.loss - value)]).max(), jnp.abs(expected[0][0].weights).max()

        return jax.lax.map(pair, jnp.indices((len(functions), len(LOSSES))).reshape(2, -1).T)

    with jax.enable_x64(True):
        for is_mixing in (False, True):
            worst, size = map(np.asarray, errors(is_mixing))
            assert worst.max() < 1e-12
            assert np.mean(size > 1e-6) > 0.9, "gradients that vanish show nothing"


def test_2_1_deltas_of_a_deep_net_are_derivatives_by_the_pre_activations():
    """Each δ of five layers is what a change of that layer's bias, example by example, does to the loss."""
    sizes = [2, 4, 3, 3, 3, 3]

    def perturbed(shifts, layers, x, y):
        for layer, shift in zip(layers, shifts, strict=True):
            z = x @ layer.weights + layer.bias[None] + shift
            x = jnp.tanh(z)
        return cross_entropy(z, y).mean()

    @jax.jit
    def both(shifts, *args):
        return jax.grad(perturbed)(shifts, *args), backpropagate(*args, loss=cross_entropy)[1].deltas

    with jax.enable_x64(True):
        layers = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), fully_connected(jax.random.key(0), sizes))
        x, y = jax.random.normal(jax.random.key(1), (5, 2), jnp.float64), jnp.arange(5) % 3
        expected, deltas = both([jnp.zeros((5, size)) for size in sizes[1:]], layers, x, y)
        for found, delta in zip(deltas, expected, strict=True):
            np.testing.assert_allclose(found, delta, atol=1e-14, rtol=1e-12)


def test_2_1_net_worked_by_hand():
    """x = 1, w_1 = 2, b_1 = -1; tanh; w_2 = 3, b_2 = 0; half the squared error to 0.

    z_1 = 1, a_1 = tanh 1, z_2 = 3 tanh 1 = J'; δ_2 = 3 tanh 1, δ_1 = 3 δ_2 (1 - tanh² 1).
    """
    layers = [AffineLayer(jnp.full((1, 1), 2.0), jnp.full(1, -1.0)), AffineLayer(jnp.full((1, 1), 3.0), jnp.zeros(1))]
    half_square = jax.jit(lambda x, y: backpropagate(layers, x, y, loss=lambda outputs, y: (outputs - y) ** 2 / 2))
    forward, backward = half_square(jnp.ones((1, 1)), jnp.zeros((1, 1)))
    t = np.tanh(1.0)
    assert forward.pre_activations[0].item() == 1
    assert backward.loss == pytest.approx(4.5 * t**2)
    assert backward.deltas[1].item() == pytest.approx(3 * t)
    assert backward.deltas[0].item() == pytest.approx(9 * t * (1 - t**2))
    assert backward.slopes[0].item() == pytest.approx(1 - t**2)
    assert backward.gradients[1].weights.item() == pytest.approx(3 * t**2)
    assert backward.gradients[0].bias.item() == pytest.approx(9 * t * (1 - t**2))
    assert backward.input_gradient.item() == pytest.approx(18 * t * (1 - t**2))


def test_saturated_units_pass_nothing_back():
    layers = [AffineLayer(jnp.full((1, 2), 1e4), jnp.zeros(2)), AffineLayer(jnp.ones((2, 2)), jnp.zeros(2))]
    _, backward = jax.jit(lambda y: backpropagate(layers, jnp.ones((1, 1)), y, loss=cross_entropy, activation=jax.nn.sigmoid))(jnp.array([0]))
    assert backward.slopes[0].tolist() == [[0.0, 0.0]]
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(backward))


def test_derivative_that_mixes_is_not_taken_for_elementwise():
    @jax.custom_vjp
    def centred(z):
        return z

    centred.defvjp(lambda z: (z, None), lambda _, g: (g - g.mean(-1, keepdims=True),))
    assert not is_elementwise(centred, Z)
    assert not is_elementwise(lambda z: jnp.roll(z, 1), Z)
    assert is_elementwise(lambda z: jnp.where(z > 0, z, jnp.array([[0.1, 0.2, 0.3]]) * z), Z)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": []}, "forward_pass: layers must hold at least one layer, got none"),
        ({"x": jnp.ones((2, 5))}, r"forward_pass: layer 1 must have weights \[5, D\] and a bias \[D\] after what comes to it \[2, 5\], got \[4, 3\]"),
        ({"activation": lambda z: z[:, :1]}, r"forward_pass: the activation of layer 1 must keep the shape \[2, 3\], got \[2, 1\]"),
        ({"loss": lambda outputs, y: jnp.mean(outputs - y)}, r"the loss must return a value for each of the 2 examples, got shape \[\]"),
    ],
)
def test_bad_input_is_named(change, message):
    layers = [AffineLayer(jnp.ones((4, 3)), jnp.zeros(3)), AffineLayer(jnp.ones((3, 2)), jnp.zeros(2))]
    args = {"layers": layers, "x": jnp.ones((2, 4)), "targets": jnp.ones((2, 2)), "loss": squared_error} | change
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: backpropagate(**args))


def test_sizes_are_checked():
    with pytest.raises(ValueError, match=r"fully_connected: sizes must name the inputs and at least one layer, got \[4\]"):
        fully_connected(jax.random.key(0), [4])
    with pytest.raises(ValueError, match="fully_connected: sizes must be >= 1, got 0"):
        fully_connected(jax.random.key(0), [4, 0])
