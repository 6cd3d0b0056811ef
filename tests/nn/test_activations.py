"""Activations: PyTorch's values and gradients, closed derivatives, and the projection that sparsemax is."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from flax import linen

from dljax import nn
from dljax.nn import ACTIVATIONS, maxout, sparsemax
from dljax.nn.activations import hard_shrink, soft_shrink

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "foundations.npz")
IN_TORCH = [name for name in ACTIVATIONS if f"activation/{name}/y" in GOLDEN]
ELEMENTWISE = [name for name, row in ACTIVATIONS.items() if row.is_elementwise]
EXTREME = jnp.array([1e4, -1e4, 3.0, -1e4, 0.0, 1e4])


def test_2_3_values_and_gradients_equal_those_of_torch():
    with jax.enable_x64(True):
        x, cotangent = jnp.asarray(GOLDEN["activation/x"]), jnp.asarray(GOLDEN["activation/cotangent"])

        @jax.jit
        def ours(x):
            pairs = {name: jax.vjp(ACTIVATIONS[name].function, x) for name in IN_TORCH}
            return {name: (y, pull(cotangent)[0]) for name, (y, pull) in pairs.items()}

        for name, (y, dx) in ours(x).items():
            np.testing.assert_allclose(y, GOLDEN[f"activation/{name}/y"], rtol=1e-12, atol=1e-14, err_msg=name)
            np.testing.assert_allclose(dx, GOLDEN[f"activation/{name}/dx"], rtol=1e-11, atol=1e-13, err_msg=name)
    assert set(ACTIVATIONS) - set(IN_TORCH) == {"sparsemax", "maxout"}  # which have their own tests below


def test_golden_activations_are_those_of_the_installed_torch():
    pytest.importorskip("torch")
    for name, value in runpy.run_path(str(FOLDER / "make_foundations.py"))["activations"]().items():
        np.testing.assert_allclose(value, GOLDEN[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_2_3_closed_derivatives_equal_autodiff_away_from_the_kinks():
    with jax.enable_x64(True):
        grid = np.linspace(-12, 12, 481) + 0.0123
        rows = jnp.asarray(np.random.default_rng(0).normal(size=(20, 6)) * 2)
        assert all(np.abs(grid - kink).min() > 1e-3 for row in ACTIVATIONS.values() for kink in row.kinks)

        @jax.jit
        def both(grid, rows):
            each = {name: (row.derivative(grid), jax.vmap(jax.grad(row.function))(grid)) for name, row in ACTIVATIONS.items() if row.is_elementwise}
            return each | {
                name: (row.derivative(rows), jax.vmap(jax.jacobian(row.function))(rows)) for name, row in ACTIVATIONS.items() if name not in each
            }

        for name, (closed, automatic) in both(jnp.asarray(grid), rows).items():
            np.testing.assert_allclose(closed, automatic, rtol=1e-12, atol=1e-13, err_msg=name)


def test_2_3_all_are_finite_at_ten_thousand_and_closed_derivatives_are_so_too():
    @jax.jit
    def all_of(x):
        return {
            name: (row.function(x), row.derivative(x), jax.vjp(row.function, x)[1](jnp.ones_like(row.function(x))))
            for name, row in ACTIVATIONS.items()
        }

    for name, values in all_of(EXTREME).items():
        assert all(bool(jnp.isfinite(value).all()) for value in jax.tree.leaves(values)), name
        assert values[1].dtype == jnp.float32, name
    zero_dimensional = jax.jit(lambda x: [(ACTIVATIONS[name].function(x), ACTIVATIONS[name].derivative(x)) for name in ELEMENTWISE])(jnp.float32(0.3))
    assert all(leaf.shape == () for leaf in jax.tree.leaves(zero_dimensional))


def test_2_3_all_stand_under_one_roof_with_the_same_value():
    x = jnp.linspace(-2, 2, 6)
    names = [name for name in ACTIVATIONS if name != "gelu_exact"]
    for one, other in jax.jit(lambda x: [(getattr(nn, name)(x), ACTIVATIONS[name].function(x)) for name in names])(x):
        np.testing.assert_array_equal(one, other)


def test_2_3_sparsemax_is_the_nearest_point_of_the_simplex():
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.normal(size=(6, 5)), 5 * rng.normal(size=(3, 5)), [[1e4, 0, -1e4, 9999.5, 1e4], [2, 2, 2, 2, 2], [0, 1, 1, 0, -1]]])
    with jax.enable_x64(True):
        ours = np.asarray(jax.jit(sparsemax)(jnp.asarray(rows)))
    np.testing.assert_allclose(ours.sum(-1), 1, atol=1e-12)
    assert ours.min() >= 0
    for x, p in zip(rows, ours, strict=True):
        # A point is the projection exactly if no vertex lies beyond the tangent plane: (x - p)·(e_c - p) <= 0.
        assert ((x - p) - (x - p) @ p).max() <= 1e-9
    for x, p in zip(rows[:9], ours, strict=False):
        simplex = {"type": "eq", "fun": lambda q: q.sum() - 1}
        options = {"bounds": [(0, 1)] * 5, "constraints": simplex, "options": {"ftol": 1e-14}}
        found = scipy.optimize.minimize(lambda q, x=x: ((q - x) ** 2).sum(), np.full(5, 0.2), **options)
        np.testing.assert_allclose(p, found.x, atol=1e-6)


def test_sparsemax_is_a_function_of_differences_on_any_axis_in_float32():
    x = jax.random.normal(jax.random.key(0), (3, 4, 5)) * 2
    one, other = jax.jit(lambda x: (sparsemax(x, 1), jnp.moveaxis(sparsemax(jnp.moveaxis(x, 1, -1)), -1, 1)))(x)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    rows = jnp.array([[1e4, 1e4 + 0.5, 1e4 - 0.25], [0.0, 0.5, -0.25], [0.0, -jnp.inf, -0.5]])
    far, near, cut = jax.jit(sparsemax)(rows)
    np.testing.assert_allclose(far, near, atol=1e-6)
    np.testing.assert_allclose(cut, [0.75, 0, 0.25])


def test_sparsemax_leaves_out_what_is_masked_and_an_empty_mask_gives_zeros_without_nan():
    x = jnp.array([[1.0, jnp.inf, 0.5], [jnp.nan, jnp.nan, 1.0], [0.2, 0.1, 0.3]])
    where = jnp.array([[True, False, True], [False, False, False], [True, True, True]])
    cotangent = jnp.arange(9.0).reshape(3, 3)
    y, dx = jax.jit(lambda x: (lambda y, pull: (y, pull(cotangent)[0]))(*jax.vjp(lambda x: sparsemax(x, where=where), x)))(x)
    np.testing.assert_allclose(y[0], [0.75, 0, 0.25])
    np.testing.assert_allclose(y[2], [1 / 3, 0.7 / 3, 1.3 / 3], rtol=1e-5)
    assert y[1].tolist() == [0, 0, 0]
    np.testing.assert_allclose(dx, [[-1, 0, 1], [0, 0, 0], [-1, 0, 1]], atol=1e-6)


def test_maxout_takes_the_largest_of_neighbours_and_its_gradient_goes_there():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    theirs = torch.tensor(x, requires_grad=True)
    y = theirs.reshape(4, 2, 3).amax(-1)
    y.square().sum().backward()
    np.testing.assert_array_equal(maxout(jnp.asarray(x), 3), y.detach())
    np.testing.assert_allclose(jax.grad(lambda x: jnp.square(maxout(x, 3)).sum())(jnp.asarray(x)), theirs.grad, rtol=1e-6)


@pytest.mark.parametrize("per_channel", [False, True])
def test_prelu_is_that_of_torch_and_of_linen(per_channel):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    layer = nn.PReLU(negative_slope_init=0.25, per_channel=per_channel)
    variables = layer.init(jax.random.key(0), x)
    theirs = torch.nn.PReLU(3 if per_channel else 1)
    out = theirs(torch.tensor(x))
    out.square().sum().backward()
    np.testing.assert_allclose(layer.apply(variables, x), out.detach(), rtol=1e-6)
    slope = jax.grad(lambda variables: jnp.square(layer.apply(variables, x)).sum())(variables)["params"]["negative_slope"]
    np.testing.assert_allclose(slope.ravel(), theirs.weight.grad, rtol=1e-5)
    if not per_channel:
        plain = linen.PReLU(negative_slope_init=0.25)
        assert jax.tree.map(jnp.shape, plain.init(jax.random.key(0), x)) == jax.tree.map(jnp.shape, variables)
        np.testing.assert_array_equal(plain.apply(variables, x), layer.apply(variables, x))


def test_thresholds_may_be_traced_and_bad_options_are_refused():
    x = jnp.array([-2.0, 0.3, 1.0])
    np.testing.assert_allclose(jax.jit(soft_shrink)(x, 0.25), [-1.75, 0.05, 0.75], rtol=1e-6)
    for shrink in (soft_shrink, hard_shrink):
        with pytest.raises(ValueError, match=f"{shrink.__name__}: threshold must be in"):
            shrink(x, -1.0)
    with pytest.raises(ValueError, match="num_pieces must be >= 1, got 0"):
        maxout(x, 0)
    with pytest.raises(ValueError, match=r"maxout: x must have a multiple of num_pieces=2 channels, got 3"):
        maxout(x, 2)


def test_functions_run_in_half_precision_and_keep_it():
    x = jnp.linspace(-3, 3, 8, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(lambda x: {name: (row.function(x), row.derivative(x)) for name, row in ACTIVATIONS.items()}, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.bfloat16)}
