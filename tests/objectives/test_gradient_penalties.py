"""Penalties on slopes: critics whose slopes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.objectives.gradient_penalties import gradient_penalty, r1, r2

KEY = jax.random.key(0)
X, Y = np.random.default_rng(0).normal(size=(2, 6, 2, 2)).astype(np.float32)


def linear(slope):
    return lambda x: x.reshape(len(x), -1) @ jnp.asarray(slope)


def test_9_1_gradient_penalty_is_zero_where_the_norm_is_one_and_squared_distance_elsewhere():
    unit = np.array([0.5, -0.5, 0.5, 0.5], np.float32)
    assert float(gradient_penalty(10.0)(KEY, linear(unit), X, Y)) == pytest.approx(0, abs=1e-10)
    assert float(gradient_penalty(10.0)(KEY, linear(3 * unit), X, Y)) == pytest.approx(40, rel=1e-5)
    assert float(gradient_penalty(10.0, norm=0.0)(KEY, linear(3 * unit), X, Y)) == pytest.approx(90, rel=1e-5)


def test_gradient_penalty_looks_on_the_segments_between_real_and_generated():
    parabola = lambda x: 0.5 * jnp.square(x).sum(-1)  # its slope at x has length |x|  # noqa: E731
    real, fake = jnp.full((20_000, 1), 1.0), jnp.full((20_000, 1), 2.0)
    # E (|x̂| - 1)² for x̂ ~ U(1, 2)
    assert float(gradient_penalty(1.0)(KEY, parabola, real, fake)) == pytest.approx(1 / 3, abs=0.01)


def test_gradient_penalty_of_a_flat_critic_has_a_finite_gradient():
    value, slope = jax.value_and_grad(lambda a: gradient_penalty(2.0)(KEY, lambda x: a * x[:, 0], jnp.ones((3, 1)), jnp.ones((3, 1))))(0.0)
    assert float(value) == 2
    assert bool(jnp.isfinite(slope))


def test_r1_is_half_the_mean_squared_slope_on_real_examples():
    matrix = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    quadratic = lambda x: jnp.square(x.reshape(len(x), -1) @ matrix).sum(-1) / 2  # noqa: E731
    slopes = X.reshape(6, 4) @ matrix @ matrix.T
    assert float(r1(0.3)(KEY, quadratic, X, Y)) == pytest.approx(0.15 * np.square(slopes).sum(-1).mean(), rel=1e-4)


def test_r2_is_r1_of_the_generated_examples():
    parabola = lambda x: jnp.square(x).sum((1, 2))  # noqa: E731
    np.testing.assert_allclose(r2(0.3)(KEY, parabola, X, Y), r1(0.3)(KEY, parabola, Y, X), rtol=1e-6)
    assert float(r2(0.3)(KEY, parabola, X, Y)) == pytest.approx(0.15 * np.square(2 * Y).sum((1, 2)).mean(), rel=1e-5)


def test_penalty_weights_may_be_traced():
    weights = jnp.array([0.0, 1.0, 2.0])
    for penalty in (r1, r2, gradient_penalty):
        np.testing.assert_allclose(
            jax.vmap(lambda w, penalty=penalty: penalty(w)(KEY, linear(np.ones(4)), X, Y))(weights),
            weights * penalty(1.0)(KEY, linear(np.ones(4)), X, Y),
            rtol=1e-6,
        )


@pytest.mark.parametrize(
    ("penalty", "options"),
    [(r1, {"weight": -1.0}), (r2, {"weight": np.nan}), (gradient_penalty, {"weight": -1.0}), (gradient_penalty, {"norm": -0.1})],
)
def test_negative_options_are_refused(penalty, options):
    with pytest.raises(ValueError, match=f"{penalty.__name__}: {next(iter(options))} must be in"):
        penalty(**options)
