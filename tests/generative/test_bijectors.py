"""Every bijector in one table, in float64: Jacobians by differentiation, inverses, mass on a grid, tails."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax import generative as g
from dljax.nn.ode import ODEConfig

FINE = ODEConfig("bosh3", num_steps=40)
LAYERS = {
    "act norm": g.act_norm(),
    "planar": g.repeat(g.planar(), 2),
    "radial": g.repeat(g.radial(), 2),
    "NICE": g.repeat(g.additive_coupling(hidden=(4,)), 2),
    "RealNVP": g.repeat(g.affine_coupling(max_log_scale=0.7, hidden=(4,)), 2),
    "spline coupling": g.repeat(g.spline_coupling(num_bins=3, bound=3.0, hidden=(4,)), 2),
    "MAF": g.repeat(g.masked_autoregressive(g.affine(0.7), hidden=(4,)), 2),
    "autoregressive spline": g.masked_autoregressive(g.spline(3, 3.0), hidden=(4,)),
    "IAF": g.inverse_autoregressive(hidden=(4,)),
    "1 x 1 convolution": g.invertible_convolution(),
    "residual": g.residual(hidden=(4,)),
    "FFJORD": g.continuous(hidden=(4,), config=FINE, trace="hutchinson"),
    "chain": g.chain(g.act_norm(), g.affine_coupling(max_log_scale=0.7, hidden=(4,)), g.inverted(g.act_norm())),
}
# What makes no density of the whole plane, or none of two numbers.
OTHERS = {
    "logit": (g.chain(g.logit(0.01), g.act_norm()), (3,), lambda x: 1 / (1 + np.exp(-x))),
    "Glow": (g.glow(num_levels=2, num_steps=1, width=4, max_log_scale=1.0), (4, 4, 1), lambda x: x),
}


def perturbed(params, scale=0.2):
    """Parameters away from the identity that most flows begin at."""
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + scale * rng.normal(size=leaf.shape)), params)


@functools.cache
def results(name):
    """All that the tests ask of one bijector, by one program."""
    bijector, shape, place = OTHERS.get(name, (LAYERS.get(name), (2,), lambda x: x))
    rng = np.random.default_rng(1)
    axis = np.linspace(-12, 12, 121)
    with jax.enable_x64(True):
        x = jnp.asarray(place(rng.normal(size=(6, *shape), scale=1.2)))
        params = perturbed(jax.jit(bijector.init)(jax.random.key(0), x))
        density = g.pushforward(bijector, g.fixed(g.standard_normal(shape)))
        grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)) if name in LAYERS else x
        tails = jnp.asarray([[1e3, -1e3], [50.0, 1.5], [0.0, 0.0], [3.0, -3.0]]) if name in LAYERS else x

        def with_jacobian(way, point):
            (value, log_det), jacobian = way(params, point), jax.jacrev(lambda point: way(params, point)[0])(point)
            return value, log_det, jacobian.reshape(point.size, point.size)

        @jax.jit
        def everything(x, grid, tails):
            z, *inverse = jax.vmap(lambda x: with_jacobian(bijector.inverse, x))(x)
            back, *forward = jax.vmap(lambda z: with_jacobian(bijector.forward, z))(z)
            log_prob = lambda params, x: density.log_prob({"base": (), "bijector": params}, x)  # noqa: E731
            slopes = jax.vmap(jax.grad(log_prob, (0, 1)), (None, 0))(params, tails)
            return x, z, back, inverse, forward, jax.lax.map(lambda x: log_prob(params, x), grid, batch_size=11**4), slopes

        return jax.tree.map(np.asarray, everything(x, grid, tails)), axis[1] - axis[0]


@pytest.mark.parametrize("name", [*LAYERS, *OTHERS])
def test_10_3_log_det_is_slogdet_of_the_jacobian_and_the_inverses_undo_each_other(name):
    (x, _, back, inverse, forward, _, _), _ = results(name)
    # The field is solved in steps: there and back, their error is left.
    atol = 1e-6 if name == "FFJORD" else 1e-9
    np.testing.assert_allclose(back, x, atol=atol)
    for log_det, jacobian in (inverse, forward):
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=atol)
    np.testing.assert_allclose(inverse[1] @ forward[1], np.broadcast_to(np.eye(x[0].size), inverse[1].shape), atol=atol)


@pytest.mark.parametrize("name", LAYERS)
def test_10_3_mass_on_a_grid_is_one(name):
    (*_, log_probs, _), step = results(name)
    assert np.exp(log_probs).sum() * step**2 == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", [*LAYERS, *OTHERS])
def test_10_3_gradients_are_finite_far_outside(name):
    (*_, slopes), _ = results(name)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


@pytest.mark.rank_promotion
def test_10_3_bijectors_of_distrax_join_in():
    import distrax

    layer = g.from_distrax(lambda params: distrax.Block(distrax.Chain([distrax.Tanh(), distrax.ScalarAffine(params, jnp.exp(params))]), 1))
    with jax.enable_x64(True):
        z = jnp.array([0.3, -0.2])
        x, log_det = layer.forward(jnp.array([0.1, -0.4]), z)
        jacobian = jax.jacobian(lambda z: layer.forward(jnp.array([0.1, -0.4]), z)[0])(z)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-12)
        np.testing.assert_allclose(layer.inverse(jnp.array([0.1, -0.4]), x)[0], z, atol=1e-12)


def test_10_3_jacobians_of_autoregressive_layers_are_triangular():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(1).normal(size=4))
        for layer in (g.masked_autoregressive(hidden=(9, 9)), g.inverse_autoregressive(hidden=(9, 9))):
            params = perturbed(layer.init(jax.random.key(0), x[None]))
            # Either way the features leave in the opposite order: rows for one, columns for the other.
            jacobian = np.asarray(jax.jit(jax.jacrev(lambda x, params=params, layer=layer: layer.inverse(params, x)[0]))(x))
            turned = jacobian[::-1] if layer.estimate is None and np.abs(np.triu(jacobian[::-1], 1)).max() == 0 else jacobian[:, ::-1]
            assert np.abs(np.triu(turned, 1)).max() == 0
            assert (np.abs(turned[np.tril_indices(4)]) > 0).all()


CONDITIONAL = {
    "coupling": g.repeat(g.affine_coupling(hidden=(4,)), 2),
    "autoregressive": g.chain(g.act_norm(), g.masked_autoregressive(hidden=(6,))),
    "residual": g.residual(hidden=(4,)),
    "continuous": g.continuous(hidden=(4,), config=FINE),
}


@pytest.mark.parametrize("name", CONDITIONAL)
def test_10_3_a_context_moves_the_map_and_the_map_stays_invertible(name):
    bijector = CONDITIONAL[name]
    with jax.enable_x64(True):
        x, contexts = jnp.array([0.4, -0.7]), jnp.asarray(np.eye(3))
        params = perturbed(bijector.init(jax.random.key(0), jnp.stack([x, -x]), contexts[:2]))

        @jax.jit
        @jax.vmap
        def both(context):
            z, log_det = bijector.inverse(params, x, context)
            return z, log_det, jax.jacrev(lambda x: bijector.inverse(params, x, context)[0])(x), bijector.forward(params, z, context)[0]

        z, log_dets, jacobians, back = both(contexts)
    np.testing.assert_allclose(log_dets, np.linalg.slogdet(jacobians)[1], atol=1e-6)
    np.testing.assert_allclose(back, np.broadcast_to(x, back.shape), atol=1e-6)
    assert len(np.unique(np.round(z, 6), axis=0)) == 3


def test_10_3_pictures_and_their_context_are_squeezed_alike():
    layer = g.squeezed(g.coupling(g.affine(), g.convolutional_network(4)))
    x, context = np.random.default_rng(0).normal(size=(2, 2, 4, 4, 1)).astype(np.float32)
    params = perturbed(layer.init(jax.random.key(0), jnp.asarray(x), jnp.asarray(context)))
    z, _ = layer.inverse(params, x[0], context[0])
    np.testing.assert_allclose(layer.forward(params, z, context[0])[0], x[0], atol=1e-5)
    assert np.abs(z - layer.inverse(params, x[0], context[1])[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: g.affine(0.0), "affine: max_log_scale must be in"),
        (lambda: g.logit(0.5), "logit: margin must be in"),
        (lambda: g.residual(coefficient=1.0), "residual: coefficient must be in"),
        (lambda: g.residual(coefficient=0.9, stay=0.8), r"residual: stay must be in \(0.81"),
        (lambda: g.continuous(trace="none"), "continuous: trace must be one of"),
        (lambda: g.glow(num_levels=0), "glow: num_levels must be >= 1"),
        (lambda: g.convolutional_network(0), "convolutional_network: width must be >= 1"),
        (lambda: g.masked_autoregressive(hidden=(0,)), "hidden must be >= 1"),
        (lambda: g.inverted(g.dequantise(2)), "inverted: bijector must have an exact inverse"),
        (lambda: g.on_half(g.act_norm()).init(jax.random.key(0), jnp.ones((2, 1))), "on_half: needs at least 2 features"),
        (lambda: g.squeezed(g.act_norm()).init(jax.random.key(0), jnp.ones((2, 3, 4, 1))), r"even H and W at every level, got \[2, 3, 4, 1\]"),
        (lambda: g.rational_quadratic_spline(jnp.ones(4), jnp.ones(()), bound=1.0), "raw must have 3K - 1 numbers"),
    ],
)  # fmt: skip
def test_bad_options_and_shapes_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
