"""What a unit looks for: matched filters, the corners of a box, the optimum of a penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from dljax.nn import Conv, Dense
from dljax.nn.feature_visualisation import MaximisationConfig, activation_maximisation, filter_pictures

PLAIN = {"jitter": 0, "total_variation": 0.0}


class Units(linen.Module):
    """A convolution that covers the picture, so that each channel is one linear unit; and logits on top."""

    @linen.compact
    def __call__(self, x):
        return Dense(2)(Conv(3, (4, 4), padding="VALID")(x).reshape(len(x), -1))


def some_units():
    return jax.jit(Units().init)(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))


@pytest.mark.parametrize("layer", [None, "Conv_0"])
def test_5_3_input_of_fixed_length_that_excites_a_linear_unit_most_is_its_matched_filter(layer):
    """ρ w / |w| (Cauchy and Schwarz), for a channel of a layer and for a logit."""
    variables = some_units()
    config = MaximisationConfig(norm=2.0, bounds=None, **PLAIN)
    targets = jnp.array([1, 0])
    x = jax.jit(lambda key: activation_maximisation(key, Units(), variables, targets, shape=(4, 4, 1), layer=layer, config=config))(jax.random.key(1))
    kernel = variables["params"]["Conv_0"]["kernel"].reshape(16, 3)
    weights = kernel if layer else kernel @ variables["params"]["Dense_0"]["kernel"]
    expected = weights[:, targets] / jnp.linalg.norm(weights[:, targets], axis=0, keepdims=True)
    np.testing.assert_allclose(x.reshape(2, 16).T, 2 * expected, atol=1e-3)


def test_5_3_other_constraints_lead_to_their_optima():
    """In a box its corner, x = 1 where w > 0; with a penalty λ |x|² the point w / 2λ."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), jnp.float32)
    line = (lambda key, x: {}, lambda params, x: x @ weights)
    corner = activation_maximisation(jax.random.key(0), line, {"params": {}}, [0, 1], shape=(6,), config=MaximisationConfig(**PLAIN))
    np.testing.assert_array_equal(corner, (weights > 0).T)
    config = MaximisationConfig(l2=0.5, bounds=None, **PLAIN)
    found = activation_maximisation(jax.random.key(0), line, {"params": {}}, [0, 1], shape=(6,), config=config)
    np.testing.assert_allclose(found, weights.T, atol=0.01)


def test_5_3_total_variation_draws_smoother_pictures():
    """A unit that looks for a checkerboard: the more its neighbours must agree, the greyer the picture; and jitter makes it blind to where."""
    signs = jnp.where((jnp.arange(6)[:, None] + jnp.arange(6)[None]) % 2, 1.0, -1.0)
    line = (lambda key, x: {}, lambda params, x: jnp.einsum("bhwc,hw->bc", x, signs))

    def contrast(**options):
        config = MaximisationConfig(bounds=None, norm=1.0, **{**PLAIN, **options})
        x = activation_maximisation(jax.random.key(0), line, {"params": {}}, [0], shape=(6, 6, 1), config=config)
        return float((x[0, ..., 0] * signs).sum() / 6)

    assert contrast() > 0.999
    assert contrast(total_variation=20.0) < 0.1
    assert abs(contrast(jitter=1)) < 0.9


def test_filters_become_pictures_whose_grey_is_zero():
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 3, 5)), jnp.float32)
    pictures = filter_pictures(kernel)
    assert pictures.shape == (5, 3, 3, 3)
    largest = jnp.abs(kernel).max((0, 1, 2))
    np.testing.assert_allclose((pictures[4] - 0.5) * 2 * largest[4], kernel[..., 4], atol=1e-6)
    np.testing.assert_array_equal(filter_pictures(jnp.zeros((3, 3, 1, 1))), jnp.full((1, 3, 3, 1), 0.5))


def test_bad_options_are_refused():
    for options, message in [
        ({"num_steps": 0}, "num_steps must be >= 1"),
        ({"learning_rate": 0.0}, "learning_rate must be in"),
        ({"l2": -1.0}, "l2 must be in"),
        ({"total_variation": -1.0}, "total_variation must be in"),
        ({"jitter": -1}, "jitter must be >= 0"),
        ({"norm": 0.0}, "norm must be in"),
        ({"bounds": (1.0, 0.0)}, r"bounds must be \(low, high\) with low < high, got \(1.0, 0.0\)"),
    ]:
        with pytest.raises(ValueError, match=f"MaximisationConfig: {message}"):
            MaximisationConfig(**options)
    variables = some_units()
    for targets, layer, message in [
        ([2], None, "target must be between 0 and 1"),
        ([3], "Conv_0", "target must be between 0 and 2"),
        ([0], "Conv_1", "no layer 'Conv_1'; there are 'Conv_0', 'Dense_0'"),
        (jnp.array(0), None, r"targets must be a vector of units, got shape \(\)"),
    ]:
        with pytest.raises(ValueError, match=f"activation_maximisation: {message}"):
            activation_maximisation(jax.random.key(0), Units(), variables, targets, shape=(4, 4, 1), layer=layer)
    with pytest.raises(ValueError, match="filter_pictures: kernel must be"):
        filter_pictures(jnp.zeros((3, 3, 2, 4)))
