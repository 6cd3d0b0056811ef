"""Maps from the reals: their determinants are those of their derivatives, and densities keep their mass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dljax.generative import act_norm, chain
from dljax.generative.constrain import constrain, interval, ordered, positive, simplex

MAPS = {"positive": positive(), "interval": interval(-2.0, 5.0), "ordered": ordered(), "simplex": simplex()}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", MAPS)
def test_10_1_determinants_of_constraints_are_those_of_autodiff_and_inverses_invert(name):
    bijector = MAPS[name]
    for x in (jnp.array([0.3, -1.2, 0.7, 2.0]), jnp.array([-9.0, 4.0, 0.0, -3.0])):
        z, log_det = bijector.forward((), x)
        jacobian = jax.jacobian(lambda x: bijector.forward((), x)[0][: x.size])(x)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-9)
        back, inverse_log_det = bijector.inverse((), z)
        np.testing.assert_allclose(back, x, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(inverse_log_det, -log_det, rtol=1e-8)
    if name == "simplex":
        assert float(z.sum()) == pytest.approx(1, abs=1e-12)
    if name == "ordered":
        assert (jnp.diff(z) > 0).all()


def test_10_1_constrained_density_is_that_of_the_transformed_variable():
    """Where z is standard exponential, x = log z has the density exp(x - exp(x)), a Gumbel distribution's mirror; uniform becomes logistic."""
    model = constrain(lambda z: -z["rate"], {"rate": positive(), "share": interval()})
    x = jnp.linspace(-3, 2, 7)
    found = jax.vmap(lambda x: model.log_joint({"rate": x, "share": x}))(x)
    np.testing.assert_allclose(found, stats.gumbel_l.logpdf(x) + stats.logistic.logpdf(x), rtol=1e-10)
    point = model.forward({"rate": 0.3, "share": -0.7})
    back = model.inverse(point)
    assert (float(back["rate"]), float(back["share"])) == pytest.approx((0.3, -0.7))


def test_a_flow_may_end_in_a_constraint():
    bijector = chain(positive(), act_norm())
    params = bijector.init(jax.random.key(0), jnp.exp(jnp.array([[1.0], [3.0]])))
    z, log_det = bijector.forward(params, jnp.zeros(1))
    assert float(z[0]) == pytest.approx(np.exp(2.0))
    assert float(log_det) == pytest.approx(2.0)  # the scale of act_norm is 1


@pytest.mark.parametrize("name", MAPS)
def test_extremes_give_no_nan(name):
    with jax.enable_x64(False):
        x = jnp.array([1e4, -1e4, 80.0]) if name in ("interval", "simplex") else jnp.array([80.0, -80.0, 0.0])
        z, log_det = MAPS[name].forward((), x)
        assert jnp.isfinite(z).all()
        assert jnp.isfinite(log_det)
        assert jnp.isfinite(jax.grad(lambda x: MAPS[name].forward((), x)[1])(x)).all()


def test_an_empty_interval_is_refused():
    with pytest.raises(ValueError, match=r"interval: high - low must be in \(0, inf\), got -1"):
        interval(1.0, 0.0)
