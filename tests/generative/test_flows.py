"""Normalizing flows: exact Jacobians, exact inverses, unit mass, and distrax's own couplings as the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.core import bind_axis, evaluate, start, unroll
from dljax.core.contract import Source
from dljax.generative.flows import act_norm, chain, flow, repeat, spline_coupling


def perturbed(params, scale=0.3, dtype=jnp.float64):
    """Parameters away from the identity that every flow begins at."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return jax.tree.unflatten(structure, [(leaf + scale * jax.random.normal(key, leaf.shape)).astype(dtype) for leaf, key in zip(leaves, keys, strict=True)])


def bijectors():
    coupling = spline_coupling(num_bins=5, bound=3.0, hidden=(8,))
    return {"act_norm": act_norm(), "coupling": coupling, "chain": chain(act_norm(), repeat(coupling, 2), act_norm())}


@pytest.fixture
def x64():
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.parametrize(("name", "size"), [("act_norm", 3), ("coupling", 5), ("chain", 2)])
def test_log_det_is_slogdet_of_the_jacobian_and_the_inverse_undoes_the_map(name, size, x64):
    bijector = bijectors()[name]
    x = 1.5 * jax.random.normal(jax.random.key(1), (6, size))
    params = perturbed(bijector.init(jax.random.key(0), x))

    def with_jacobian(way, point):
        return *way(params, point), jax.jacfwd(lambda point: way(params, point)[0])(point)

    z, log_det, jacobian = jax.jit(jax.vmap(lambda x: with_jacobian(bijector.inverse, x)))(x)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-9)
    back, log_det, jacobian = jax.jit(jax.vmap(lambda z: with_jacobian(bijector.forward, z)))(z)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-9)
    np.testing.assert_allclose(back, x, atol=1e-9)


def test_float32_round_trip_stays_within_rounding():
    bijector = repeat(spline_coupling(), 6)
    x = jax.random.normal(jax.random.key(1), (256, 2))
    params = perturbed(bijector.init(jax.random.key(0), x), 0.05, jnp.float32)
    back = jax.jit(jax.vmap(lambda x: bijector.forward(params, bijector.inverse(params, x)[0])[0]))(x)
    np.testing.assert_allclose(back, x, atol=1e-4)


def test_log_prob_is_that_of_distraxs_own_couplings(x64):
    import distrax
    from flax import linen

    num_bins, bound, layers = 4, 3.0, 3
    learner = flow(repeat(spline_coupling(num_bins=num_bins, bound=bound, hidden=(8,)), layers), optax.sgd(0.1), size=4)
    x = 1.5 * jax.random.normal(jax.random.key(1), (20, 4))
    params = perturbed(learner.params(learner.init(jax.random.key(0), {"x": x})))
    network = linen.Sequential([linen.Dense(8), linen.silu, linen.Dense(2 * (3 * num_bins + 1))])
    z, total = x, 0.0
    for layer in range(layers):
        coupling = distrax.SplitCoupling(
            split_index=2,
            event_ndims=1,
            conditioner=lambda x, layer=layer: network.apply(jax.tree.map(lambda leaf: leaf[layer], params), x).reshape(-1, 2, 3 * num_bins + 1),
            bijector=lambda raw: distrax.RationalQuadraticSpline(raw, -bound, bound, boundary_slopes="identity"),
        )
        z, log_det = coupling.forward_and_log_det(z)
        z, total = z[:, ::-1], total + log_det
    want = distrax.MultivariateNormalDiag(jnp.zeros(4), jnp.ones(4)).log_prob(z) + total
    np.testing.assert_allclose(learner.functions["log_prob"](jax.random.key(2), params, x), want, atol=1e-10)


def test_mass_is_one_and_samples_follow_the_density():
    learner = flow(chain(act_norm(), repeat(spline_coupling(bound=3.0, hidden=(8,)), 2)), optax.sgd(0.1), size=2)
    state = learner.init(jax.random.key(0), {"x": jax.random.normal(jax.random.key(1), (256, 2))})
    params = perturbed(state.params, 0.3, jnp.float32)
    axis = jnp.linspace(-8, 8, 500)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = jnp.exp(jax.jit(learner.functions["log_prob"])(jax.random.key(2), params, grid)) * (axis[1] - axis[0]) ** 2
    assert float(density.sum()) == pytest.approx(1, abs=2e-3)
    samples = jax.jit(learner.functions["sample"], static_argnums=2)(jax.random.key(3), params, 20_000)
    in_the_corner = lambda x: (x[:, 0] > 0.3) & (x[:, 1] < 0.2)  # noqa: E731
    assert float(in_the_corner(samples).mean()) == pytest.approx(float(density[in_the_corner(grid)].sum()), abs=0.02)


def test_a_fresh_flow_is_the_gaussian_of_its_first_batch():
    learner = flow(chain(act_norm(), repeat(spline_coupling(bound=6.0), 4)), optax.sgd(0.1), size=2)
    x = jnp.array([3.0, -1.0]) + jnp.array([0.5, 2.0]) * jax.random.normal(jax.random.key(1), (500, 2))
    params = learner.params(learner.init(jax.random.key(0), {"x": x}))
    want = jax.scipy.stats.norm.logpdf(x, x.mean(0, keepdims=True), x.std(0, keepdims=True)).sum(-1)
    np.testing.assert_allclose(learner.functions["log_prob"](jax.random.key(2), params, x), want, rtol=1e-4, atol=1e-4)


def test_act_norm_keeps_the_scale_of_a_constant_feature():
    params = act_norm().init(jax.random.key(0), jnp.array([[1.0, 5.0], [3.0, 5.0]]))
    z, _ = act_norm().inverse(params, jnp.array([3.0, 6.0]))
    np.testing.assert_allclose(z, [1.0, 1.0])


def test_splines_are_the_identity_outside_their_bound():
    layer = spline_coupling(bound=2.0, hidden=(8,))
    params = perturbed(layer.init(jax.random.key(0), jnp.zeros((1, 2))), dtype=jnp.float32)
    z, log_det = layer.inverse(params, jnp.array([0.5, -7.0]))
    assert z.tolist() == [-7.0, 0.5]
    assert float(log_det) == 0


def test_repeat_is_the_chain_of_its_layers():
    layer = spline_coupling(hidden=(8,))
    x = jax.random.normal(jax.random.key(1), (3,))
    params = perturbed(repeat(layer, 3).init(jax.random.key(0), x[None]), dtype=jnp.float32)
    apart = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(3))
    for way in ("forward", "inverse"):
        together = jax.jit(getattr(repeat(layer, 3), way))(params, x)
        one_by_one = jax.jit(getattr(chain(layer, layer, layer), way))(apart, x)
        np.testing.assert_allclose(together[0], one_by_one[0], atol=1e-5)
        np.testing.assert_allclose(together[1], one_by_one[1], atol=1e-5)


def test_the_program_does_not_grow_with_depth():
    def size_of_program(num_layers):
        learner = flow(repeat(spline_coupling(hidden=(8,)), num_layers), optax.adam(1e-3), size=2)
        batch = {"x": jnp.ones((4, 2))}
        state = jax.eval_shape(learner.init, jax.random.key(0), batch)
        return jax.jit(learner.step).trace(jax.random.key(1), state, batch).lower().as_text().count("\n")

    assert size_of_program(2) == size_of_program(30)


def test_gradients_are_finite_at_knots_edges_and_far_outside():
    learner = flow(repeat(spline_coupling(num_bins=4, bound=2.0, hidden=(8,)), 2), optax.sgd(0.1), size=2)
    x = jnp.array([[-2.0, 2.0], [0.0, 0.0], [1.0, -1.0], [2.0, 2.0], [50.0, -50.0]])
    state = learner.init(jax.random.key(0), {"x": x})
    grads = jax.jit(jax.grad(lambda params: learner.functions["log_prob"](jax.random.key(1), params, x).sum()))(state.params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))


def banana_source(batch_size):
    def next_batch(data, cursor):
        cursor, key = jax.random.split(cursor)
        x, y = jax.random.normal(key, (2, batch_size))
        return cursor, {"x": jnp.stack([x, 0.5 * y + x**2], -1)}

    return Source(lambda key: key, next_batch)


BANANA_ENTROPY = np.log(2 * np.pi * np.e) + np.log(0.5)  # the map (x, y) -> (x, y/2 + x²) has determinant 1/2


def test_a_small_flow_learns_a_banana_to_its_exact_entropy():
    learner = flow(chain(act_norm(), repeat(spline_coupling(bound=5.0, hidden=(32,)), 2)), optax.adam(optax.cosine_decay_schedule(1e-2, 400)), size=2)
    source = banana_source(256)
    key, state, cursor = start(learner, source, jax.random.key(0))
    state, _, history = jax.jit(unroll(learner, source, 400, 20))(key, 0, state, cursor)
    assert int(history.bad_step) == -1
    x = banana_source(10_000).next((), jax.random.key(5))[1]["x"]
    nll = float(evaluate(learner.evaluate, 3_000)(key, state, {"x": x})["nll"].value)  # the last batch is padded
    assert nll == pytest.approx(float(-learner.functions["log_prob"](key, learner.params(state), x).mean()), rel=1e-4)
    assert -0.03 < nll - BANANA_ENTROPY < 0.06


def test_shards_average_to_the_step_of_the_whole_batch():
    learner = flow(repeat(spline_coupling(hidden=(8,)), 2), optax.sgd(0.1), size=2)
    x = jax.random.normal(jax.random.key(1), (8, 2))
    state = learner.init(jax.random.key(0), {"x": x})
    whole, _ = jax.jit(learner.step)(jax.random.key(2), state, {"x": x})
    with bind_axis("data"):
        shards, _ = jax.jit(jax.vmap(learner.step, (None, None, 0), axis_name="data"))(jax.random.key(2), state, {"x": x.reshape(4, 2, 2)})
    for one, many in zip(jax.tree.leaves(whole), jax.tree.leaves(shards), strict=True):
        np.testing.assert_allclose(many, jnp.broadcast_to(one, many.shape), rtol=1e-5, atol=1e-6)


def test_learning_rates_may_be_traced():
    source = banana_source(16)

    def final(rate):
        learner = flow(chain(act_norm(), spline_coupling(hidden=(8,))), optax.adam(rate), size=2)
        key, state, cursor = start(learner, source, jax.random.key(0))
        return unroll(learner, source, 3)(key, 0, state, cursor)[2]["nll"]

    rates = jnp.array([1e-3, 1e-2])
    np.testing.assert_allclose(jax.jit(jax.vmap(final))(rates), jnp.stack(list(map(jax.jit(final), rates))), rtol=1e-4)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="flow: size must be >= 1, got 0"):
        flow(act_norm(), optax.sgd(0.1), size=0)
    with pytest.raises(ValueError, match="chain: needs at least one bijector"):
        chain()
    with pytest.raises(ValueError, match="repeat: num_layers must be >= 1, got 0"):
        repeat(act_norm(), 0)
    with pytest.raises(ValueError, match="num_bins must be >= 1"):
        spline_coupling(num_bins=0)
    with pytest.raises(ValueError, match="bound must be in"):
        spline_coupling(bound=0.0)
    with pytest.raises(ValueError, match="hidden must be >= 1"):
        spline_coupling(hidden=(8, 0))


@pytest.mark.parametrize("x", [jnp.ones((4, 3)), jnp.ones(4), jnp.ones((4, 2), jnp.uint8)])
def test_a_batch_of_another_shape_or_of_integers_is_refused(x):
    with pytest.raises(ValueError, match=r"flow: batch\['x'\] must be floating \[B, 2\]"):
        flow(act_norm(), optax.sgd(0.1), size=2).init(jax.random.key(0), {"x": x})


def test_one_feature_has_nothing_to_be_coupled_with():
    with pytest.raises(ValueError, match="needs at least 2 features, got 1"):
        spline_coupling().init(jax.random.key(0), jnp.ones((4, 1)))
