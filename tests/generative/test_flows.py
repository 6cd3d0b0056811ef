"""The learner of flows: distrax's own couplings as the reference, samples, programs that do not grow, a banana learned to its entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.core import Source, bind_axis, evaluate, start, unroll
from dljax.generative import act_norm, chain, flow, repeat, spline_coupling


def perturbed(params, scale=0.3, dtype=jnp.float32):
    """Parameters away from the identity that every flow begins at."""
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + scale * rng.normal(size=leaf.shape), dtype), params)


def init(bijector, x):
    return {"base": (), "bijector": jax.jit(bijector.init)(jax.random.key(0), x)}


COUPLING = spline_coupling(num_bins=4, bound=3.0, hidden=(8,))


@pytest.mark.rank_promotion
def test_10_3_log_prob_is_that_of_distraxs_own_couplings():
    import distrax
    from flax import linen

    num_bins, bound, layers = 4, 3.0, 2
    learner = flow(repeat(COUPLING, layers), optax.sgd(0.1), size=4)
    network = linen.Sequential([linen.Dense(8), linen.silu, linen.Dense(2 * (3 * num_bins - 1))])

    def padded(raw):
        # distrax has slopes at the ends too, and with these boundaries does not look at them.
        return jnp.insert(jnp.concatenate([raw, jnp.zeros_like(raw[..., :1])], -1), 2 * num_bins, 0.0, axis=-1)

    def reference(params, x):
        total = 0.0
        for layer in range(layers):
            coupling = distrax.SplitCoupling(
                split_index=2,
                event_ndims=1,
                conditioner=lambda x, layer=layer: network.apply(jax.tree.map(lambda leaf: leaf[layer], params), x).reshape(-1, 2, 3 * num_bins - 1),
                bijector=lambda raw: distrax.RationalQuadraticSpline(padded(raw), -bound, bound, boundary_slopes="identity"),
            )
            x, log_det = coupling.forward_and_log_det(x)
            x, total = x[:, ::-1], total + log_det
        return distrax.MultivariateNormalDiag(jnp.zeros(4), jnp.ones(4)).log_prob(x) + total

    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(1).normal(size=(20, 4), scale=1.5))
        params = perturbed(init(repeat(COUPLING, layers), x), dtype=jnp.float64)
        ours = jax.jit(learner.functions["log_prob"])(jax.random.key(2), params, x)
        np.testing.assert_allclose(ours, jax.jit(reference)(params["bijector"], x), atol=1e-10)


def test_10_3_mass_is_one_and_samples_follow_the_density():
    bijector = chain(act_norm(), repeat(COUPLING, 2))
    learner = flow(bijector, optax.sgd(0.1), size=2)
    params = perturbed(init(bijector, jnp.asarray(np.random.default_rng(1).normal(size=(256, 2)), jnp.float32)))
    axis = np.linspace(-8, 8, 500, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    mass = np.exp(jax.jit(learner.functions["log_prob"])(jax.random.key(2), params, jnp.asarray(grid))) * (axis[1] - axis[0]) ** 2
    assert mass.sum() == pytest.approx(1, abs=2e-3)
    samples = np.asarray(jax.jit(learner.functions["sample"], static_argnums=2)(jax.random.key(3), params, 20_000))
    in_the_corner = lambda x: (x[:, 0] > 0.3) & (x[:, 1] < 0.2)  # noqa: E731
    assert in_the_corner(samples).mean() == pytest.approx(mass[in_the_corner(grid)].sum(), abs=0.02)
    z = jax.jit(learner.functions["inverse"])(jax.random.key(4), params, jnp.asarray(samples))
    np.testing.assert_allclose(jax.jit(learner.functions["forward"])(jax.random.key(4), params, z), samples, atol=2e-3)


def test_a_fresh_flow_is_the_gaussian_of_its_first_batch():
    bijector = chain(act_norm(), repeat(spline_coupling(bound=6.0, hidden=(8,)), 4))
    x = np.random.default_rng(1).normal(size=(500, 2), loc=(3, -1), scale=(0.5, 2)).astype(np.float32)
    log_prob = jax.jit(flow(bijector, optax.sgd(0.1), size=2).functions["log_prob"])(jax.random.key(2), init(bijector, x), x)
    from scipy.stats import norm

    np.testing.assert_allclose(log_prob, norm(x.mean(0), x.std(0)).logpdf(x).sum(-1), rtol=1e-4, atol=1e-4)


def test_act_norm_keeps_the_scale_of_a_constant_feature():
    params = act_norm().init(jax.random.key(0), jnp.array([[1.0, 5.0], [3.0, 5.0]]))
    z, _ = act_norm().inverse(params, jnp.array([3.0, 6.0]))
    np.testing.assert_allclose(z, [1.0, 1.0])


def test_10_3_splines_are_the_identity_outside_their_bound_and_gradients_stay_finite_at_knots_and_edges():
    params = perturbed(COUPLING.init(jax.random.key(0), jnp.zeros((1, 2))))

    @jax.jit
    @jax.vmap
    def mapped(x):
        return *COUPLING.inverse(params, x), jax.grad(lambda params: sum(map(jnp.sum, COUPLING.inverse(params, x))))(params)

    z, log_det, grads = mapped(jnp.array([[0.5, -7.0], [0.5, 3.0], [-3.0, -3.0], [0.0, 0.0], [50.0, 1.5]]))
    assert z[0].tolist() == [-7.0, 0.5]
    assert float(log_det[0]) == 0
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))


def test_10_3_repeat_is_the_chain_of_its_layers():
    layer = act_norm()
    x = jnp.array([1.0, -2.0, 0.5])
    params = perturbed(repeat(layer, 3).init(jax.random.key(0), x[None]))
    apart = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(3))
    for way in ("forward", "inverse"):
        together, one_by_one = getattr(repeat(layer, 3), way)(params, x), getattr(chain(layer, layer, layer), way)(apart, x)
        np.testing.assert_allclose(together[0], one_by_one[0], rtol=1e-5)
        np.testing.assert_allclose(together[1], one_by_one[1], rtol=1e-5)


def test_10_3_a_flow_of_32_layers_is_the_program_of_one_of_4():
    def size_of_program(num_layers):
        learner = flow(repeat(COUPLING, num_layers), optax.adam(1e-3), size=2)
        batch = {"x": jnp.ones((4, 2))}
        state = jax.eval_shape(learner.init, jax.random.key(0), batch)
        return jax.jit(learner.step).lower(jax.random.key(1), state, batch).as_text().count("\n")

    assert size_of_program(4) == size_of_program(32)


def banana(batch_size):
    def next_batch(data, cursor):
        cursor, key = jax.random.split(cursor)
        x, y = jax.random.normal(key, (2, batch_size))
        return cursor, {"x": jnp.stack([x, 0.5 * y + x**2], -1)}

    return Source(lambda key: key, next_batch)


BANANA_ENTROPY = np.log(2 * np.pi * np.e) + np.log(0.5)  # the map (x, y) -> (x, y/2 + x²) has determinant 1/2


def test_10_3_one_coupling_learns_a_banana_to_its_exact_entropy():
    learner = flow(chain(act_norm(), spline_coupling(bound=5.0, hidden=(32,))), optax.adam(optax.cosine_decay_schedule(2e-2, 500)), size=2)
    source = banana(256)
    key, state, cursor = jax.jit(lambda key: start(learner, source, key))(jax.random.key(0))
    state, _, history = jax.jit(unroll(learner, source, 500, 20))(key, 0, state, cursor)
    assert int(history.bad_step) == -1
    x = banana(10_000).next((), jax.random.key(5))[1]["x"]
    nll = float(jax.jit(evaluate(learner.evaluate, 3_000))(key, state, {"x": x})["nll"].value)  # the last batch is padded
    assert nll == pytest.approx(float(-jax.jit(learner.functions["log_prob"])(key, learner.params(state), x).mean()), rel=1e-4)
    assert -0.03 < nll - BANANA_ENTROPY < 0.06


def test_shards_average_to_the_step_of_the_whole_batch():
    learner = flow(act_norm(), optax.sgd(0.1), size=2)
    x = jax.random.normal(jax.random.key(1), (8, 2))
    state = learner.init(jax.random.key(0), {"x": x + 1})
    whole, _ = learner.step(jax.random.key(2), state, {"x": x})
    with bind_axis("data"):
        shards, _ = jax.vmap(learner.step, (None, None, 0), axis_name="data")(jax.random.key(2), state, {"x": x.reshape(4, 2, 2)})
    for one, many in zip(jax.tree.leaves(whole), jax.tree.leaves(shards), strict=True):
        np.testing.assert_allclose(many, np.broadcast_to(one, many.shape), rtol=1e-5, atol=1e-6)


def test_learning_rates_may_be_traced():
    source = banana(16)

    def nlls(rate):
        learner = flow(act_norm(), optax.sgd(rate), size=2)
        key, state, cursor = start(learner, source, jax.random.key(0))
        return unroll(learner, source, 3)(key, 0, state, cursor)[2]["nll"]

    rates = jnp.array([1e-3, 1e-1])
    together = jax.jit(jax.vmap(nlls))(rates)
    np.testing.assert_allclose(together, jnp.stack([nlls(rate) for rate in (1e-3, 1e-1)]), rtol=1e-4)
    assert float(together[0, -1]) != float(together[1, -1])


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
