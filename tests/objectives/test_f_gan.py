"""f-divergences: their conjugates by enumeration, scipy's values, places that one side never visits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy

from dljax.objectives import F_DIVERGENCES, f_divergence, js_divergence, total_variation

NAMES = list(F_DIVERGENCES)


@pytest.fixture(autouse=True)
def exact():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", NAMES)
def test_9_1_the_conjugate_is_the_greatest_ut_minus_f_of_u(name):
    divergence = F_DIVERGENCES[name]
    logits = jnp.linspace(-1.5, 1.5, 7)
    ratios = jnp.exp(jnp.linspace(-15, 5, 40_001))
    levels = divergence.activation(logits)
    found = (ratios[None] * levels[:, None] - divergence.f(ratios)[None]).max(1)
    np.testing.assert_allclose(divergence.conjugate(logits), found, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_9_1_the_best_activation_is_the_derivative_of_f_at_the_ratio_and_reaches_the_bound(name):
    divergence = F_DIVERGENCES[name]
    ratios = jnp.array([0.01, 0.4, 0.9, 1.3, 5.0, 40.0])
    logits = divergence.optimal(jnp.log(ratios))
    level = divergence.activation(logits)
    np.testing.assert_allclose(level, jax.vmap(jax.grad(divergence.f))(ratios), rtol=1e-12)
    np.testing.assert_allclose(ratios * level - divergence.conjugate(logits), divergence.f(ratios), rtol=1e-11)
    assert float(divergence.f(jnp.ones(()))) == 0


def test_divergences_are_those_of_scipy_and_of_hand():
    p, q = np.random.default_rng(0).dirichlet(np.ones(6), size=(2, 4))
    found = {name: f_divergence(divergence, jnp.asarray(p), jnp.asarray(q)) for name, divergence in F_DIVERGENCES.items()}
    wanted = {
        "kl": entropy(p, q, axis=-1),
        "reverse_kl": entropy(q, p, axis=-1),
        "jensen_shannon": 2 * js_divergence(jnp.asarray(p), jnp.asarray(q)),
        "squared_hellinger": np.square(np.sqrt(p) - np.sqrt(q)).sum(-1),
        "pearson": (np.square(p - q) / q).sum(-1),
        "neyman": (np.square(p - q) / p).sum(-1),
        "total_variation": total_variation(jnp.asarray(p), jnp.asarray(q)),
    }
    for name in NAMES:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-12, err_msg=name)


def test_places_that_one_side_never_visits_count_in_full():
    p, q = jnp.array([0.5, 0.5, 0.0, 0.0]), jnp.array([0.0, 0.5, 0.5, 0.0])
    values = {name: float(f_divergence(divergence, p, q)) for name, divergence in F_DIVERGENCES.items()}
    infinite = {"kl", "reverse_kl", "pearson", "neyman"}
    assert {name for name, value in values.items() if value == np.inf} == infinite
    assert values["total_variation"] == 0.5
    assert values["squared_hellinger"] == 1
    assert values["jensen_shannon"] == pytest.approx(np.log(2))
    with pytest.raises(ValueError, match=r"f_divergence: both distributions must have one shape, got \(4,\) and \(3,\)"):
        f_divergence(F_DIVERGENCES["kl"], p, q[:3])
