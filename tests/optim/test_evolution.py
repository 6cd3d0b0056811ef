"""Evolution: what each strategy reaches, its invariances and closed forms, worthless candidates, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax import optim
from dljax.core import EMPTY, bind_axis, start, unroll
from dljax.core.tree import is_finite


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def evolved(strategy, cost, x0, key, generations):
    learner = optim.evolve(strategy, lambda key, x: cost(x), lambda key, batch: x0)
    key, state, cursor = start(learner, EMPTY, key)
    state, _, history = unroll(learner, EMPTY, generations)(key, 0, state, cursor)
    return state, history["best"]


def test_3_4_cma_es_reaches_1e_10_on_rosenbrock_5_in_300_generations_of_16():
    keys = jax.random.split(jax.random.key(0), 10)
    state, best = jax.jit(jax.vmap(lambda key: evolved(optim.cma_es(16, step_size=0.5), rosenbrock, jnp.zeros(5), key, 300)))(keys)
    assert (best[:, -1] < 1e-10).all()
    np.testing.assert_allclose(state.best, 1.0, atol=1e-4)
    assert is_finite(state)


STRATEGIES = {
    "cma_es": optim.cma_es(12),
    "cross_entropy_method": optim.cross_entropy_method(40, 0.25),
    "evolution_strategy": optim.evolution_strategy(20, 5),
    "genetic_algorithm": optim.genetic_algorithm(40, step_size=0.2),
    "openai_es": optim.openai_es(20, optax.adam(0.1)),
    "random_search": optim.random_search(40, step_size=0.2),
    "snes": optim.snes(12),
    "xnes": optim.xnes(12),
}


def test_3_4_every_strategy_finds_the_bottom_of_a_bowl_and_survives_it():
    # It begins at the edge of a region whose costs are NaN, which count as the worst.
    target = jnp.array([1.0, -2.0, 0.5])

    def cost(x):
        return jnp.where(x[0] < 0, jnp.nan, ((x - target) ** 2).sum())

    @jax.jit
    def all_of_them(key):
        return {name: evolved(one, cost, jnp.array([0.1, 0.0, 0.0]), key, 200) for name, one in STRATEGIES.items()}

    for name, (state, best) in all_of_them(jax.random.key(1)).items():
        assert best[-1] < 0.02, name
        np.testing.assert_allclose(state.params, target, atol=0.3, err_msg=name)
        assert is_finite(state), name


def test_3_4_gradient_of_an_evolution_strategy_is_that_of_the_smoothed_cost():
    # With an orthogonal set of mirrored noise the estimate on a quadratic is exact.
    H, x = jnp.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]]), jnp.array([1.0, -2.0, 0.5])
    noise = jnp.sqrt(3.0) * jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    costs = jax.vmap(lambda e: 0.5 * (x + 0.1 * e) @ H @ (x + 0.1 * e))(noise)
    np.testing.assert_allclose(optim.smoothed_gradient(noise, costs, 0.1), H @ x, rtol=1e-4)
    # d/dx E (x + σε)³ = 3x² + 3σ², which is not the gradient of x³.
    strategy = optim.openai_es(400_000, optax.sgd(1.0), step_size=0.5, is_ranked=False)
    state, population = strategy.ask(jax.random.key(0), strategy.init(jax.random.key(1), jnp.array([1.0])))
    assert 1 - strategy.tell(state, population, population[:, 0] ** 3).mean[0] == pytest.approx(3 + 3 * 0.25, abs=0.05)


def test_3_4_cma_es_does_not_see_monotone_transformations():
    def runs(key):
        strategy = optim.cma_es(8)
        return [evolved(strategy, cost, jnp.ones(3), key, 10)[0].strategy for cost in (lambda x: (x**2).sum(), lambda x: jnp.tanh((x**2).sum()) - 7)]

    plain, changed = jax.jit(runs)(jax.random.key(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, changed)


def test_3_4_one_generation_of_cma_es_by_hand():
    # λ = 4, n = 1: weights log 2.5 and log 1.25, scaled to one; from m = 0, σ = 2 with the candidates 2, 4, -2, 6 in this order of cost.
    raw = np.log([2.5, 1.25])
    w = raw / raw.sum()
    mass, n = 1 / (w**2).sum(), 1
    y = np.array([1.0, 2.0])
    y_w = w @ y
    c_sigma = (mass + 2) / (n + mass + 5)
    p = np.sqrt(c_sigma * (2 - c_sigma) * mass) * y_w
    length = 1 - 1 / 4 + 1 / 21
    d_sigma = 1 + 2 * max(0, np.sqrt((mass - 1) / 2) - 1) + c_sigma
    strategy = optim.cma_es(4, step_size=2.0)
    candidates = jnp.array([[2.0], [4.0], [-2.0], [6.0]])
    state = jax.jit(lambda: strategy.tell(strategy.init(jax.random.key(0), jnp.zeros(1)), candidates, jnp.arange(4.0)))()
    assert float(state.mean[0]) == pytest.approx(2 * y_w, rel=1e-5)
    assert float(state.step_path[0]) == pytest.approx(p, rel=1e-5)
    assert float(state.step_size) == pytest.approx(2 * np.exp(c_sigma / d_sigma * (p / length - 1)), rel=1e-5)


def test_3_4_devices_share_the_population():
    learner = optim.evolve(optim.snes(8), lambda key, x: (x**2).sum() + jax.random.normal(key), lambda key, batch: jnp.ones(2))
    state = learner.init(jax.random.key(0), ())
    alone, _ = jax.jit(learner.step)(jax.random.key(1), state, ())
    with bind_axis("data"):
        together, _ = jax.jit(jax.vmap(lambda _: learner.step(jax.random.key(1), state, ()), axis_name="data"))(jnp.arange(4))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[3], rtol=1e-6), alone, together)
        with pytest.raises(ValueError, match=r"evolve: population_size must be a multiple of the 3 devices, got 8"):
            jax.vmap(lambda _: learner.step(jax.random.key(1), state, ()), axis_name="data")(jnp.arange(3))


def test_3_4_candidates_that_share_a_key_meet_the_same_luck():
    def costs(shares_key):
        # The cost is nothing but luck.
        learner = optim.evolve(optim.snes(8), lambda key, x: jax.random.normal(key), lambda key, batch: jnp.ones(2), shares_key=shares_key)
        metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), ()), ())[1]
        return metrics["cost"] - metrics["generation_best"]

    assert jax.jit(lambda: costs(True))() == pytest.approx(0, abs=1e-6)
    assert jax.jit(lambda: costs(False))() > 0.5
    with bind_axis("data"):
        shared = jax.jit(jax.vmap(lambda _: costs(True), axis_name="data"))(jnp.arange(4))
    np.testing.assert_allclose(shared, 0, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: optim.cma_es(), "cma_es: population_size must be given, or size for its default"),
        (lambda: optim.cma_es(3), "cma_es: population_size must be >= 4, got 3"),
        (lambda: optim.cma_es(8, step_size=0), r"cma_es: step_size must be in \(0, inf\), got 0"),
        (lambda: optim.openai_es(3), "openai_es: population_size must be even, for noise comes in pairs, got 3; use 4"),
        (lambda: optim.evolution_strategy(4, 4), "evolution_strategy: num_parents must be between 1 and 3, got 4"),
        (lambda: optim.cross_entropy_method(4, 1.0), r"cross_entropy_method: elite_fraction must be in \(0, 1\), got 1.0"),
        (lambda: optim.genetic_algorithm(4, num_elite=4), "genetic_algorithm: num_elite must be between 0 and 3, got 4"),
        (lambda: optim.random_search(0), "random_search: population_size must be >= 1, got 0"),
        (lambda: optim.snes(1), "snes: population_size must be >= 2, got 1"),
        (lambda: optim.xnes(4, step_size=-1), r"xnes: step_size must be in \(0, inf\), got -1"),
    ],
)
def test_bad_options_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
