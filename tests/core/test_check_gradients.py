"""The gradient check: right gradients pass, wrong ones are named, kinks and float32 are told apart from errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import dljax
from dljax.core.check_gradients import GradientError, check_gradients

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (8, 3))


def network(params):
    hidden = jnp.tanh(X @ params["first"]["kernel"] + params["first"]["bias"][None])
    return jnp.mean(jax.nn.logsumexp(hidden @ params["last"], axis=1))


def parameters(width=4):
    keys = jax.random.split(KEY, 3)
    return {
        "first": {"kernel": jax.random.normal(keys[0], (3, width)), "bias": 0.1 * jax.random.normal(keys[1], (width,))},
        "last": jax.random.normal(keys[2], (width, 2)) / width,
        "step": jnp.int32(3),
    }


def wrong_at(index, factor):
    """The identity, whose backward pass scales one entry."""
    identity = jax.custom_vjp(lambda w: w)
    identity.defvjp(lambda w: (w, None), lambda _, g: (g.at[index].multiply(factor),))
    return identity


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_2_7_right_gradients_pass_entry_by_entry_in_float64(mode):
    report = check_gradients(network, parameters(), mode=mode, tolerance=1e-7)
    assert report.num_probes == 12 + 4 + 8
    assert report.errors.keys() == {"first/bias", "first/kernel", "last"}
    assert max(report.errors.values()) < 1e-7
    assert not report.wrong
    assert not report.kinks
    assert dljax.check_gradients is check_gradients
    assert jnp.ones(1).dtype == jnp.float32, "float64 stays inside"


def test_2_7_wrong_custom_vjp_is_caught_and_its_worst_entries_are_named():
    def loss(params):
        kernel = wrong_at((2, 1), 1.5)(wrong_at((0, 3), 1.001)(params["first"]["kernel"]))
        return network({**params, "first": {**params["first"], "kernel": kernel}})

    with pytest.raises(GradientError, match=r"the gradient of first/kernel is wrong: 24 directions") as caught:
        check_gradients(loss, parameters())
    report = caught.value.report
    assert [slope.name for slope in report.wrong] == ["first/kernel[2, 1]", "first/kernel[0, 3]"]
    assert report.wrong[0].automatic == pytest.approx(1.5 * report.wrong[0].difference)
    assert report.wrong[0].error == pytest.approx(1 / 3, rel=1e-3)
    assert report.errors["last"] < 1e-6 < report.errors["first/kernel"]
    assert "first/kernel[2, 1]: autodiff" in str(caught.value)


def test_2_7_one_wrong_entry_of_a_large_leaf_is_found_by_halving():
    def loss(params):
        return network({**params, "last": wrong_at((777, 1), -1.0)(params["last"])})

    with pytest.raises(GradientError, match="the gradient of last is wrong") as caught:
        check_gradients(loss, parameters(width=1000))
    assert [slope.name for slope in caught.value.report.wrong] == ["last[777, 1]"]
    report = check_gradients(network, parameters(width=1000), num_directions=3)
    assert report.num_probes == 3 * 3


def test_kinks_are_no_errors_but_said():
    report = check_gradients(lambda w: jnp.sum(jnp.abs(w) + jax.nn.relu(w)), jnp.array([0.0, 1e-7, -2.0]))
    assert [slope.name for slope in report.kinks] == ["params[0]"]
    assert (round(report.kinks[0].left, 6), round(report.kinks[0].right, 6)) == (-1, 2)
    assert "params[0] is at a kink: slope -1 below, 2 above, autodiff" in str(report)
    # A gradient that is no subgradient is wrong, and so is a small one at a smooth minimum.
    outside = jax.custom_vjp(lambda w: jnp.abs(w))
    outside.defvjp(lambda w: (jnp.abs(w), None), lambda _, g: (3 * g,))
    with pytest.raises(GradientError, match=r"params: autodiff 3, differences 0"):
        check_gradients(outside, 0.0)
    slanted = jax.custom_vjp(lambda w: w**2)
    slanted.defvjp(lambda w: (w**2, None), lambda _, g: (1e-6 * g,))
    with pytest.raises(GradientError, match=r"params: autodiff 1e-06, differences 0"):
        check_gradients(slanted, 0.0)


def test_scale_of_the_loss_and_of_the_parameters_does_not_matter():
    w = jnp.array([1.0, -2.0])
    for size, factor in ((1e-3, 1e-30), (1e8, 1e30)):
        check_gradients(lambda v, size=size, factor=factor: factor * jnp.sum((v / size) ** 3), size * w)


def test_float32_inside_makes_the_check_meaningless():
    with pytest.raises(ValueError, match=r"the loss returns float32 for float64 params, which makes the check meaningless"):
        check_gradients(lambda w: jnp.sum(w**2).astype(jnp.float32), jnp.ones(2))
    layer = linen.Dense(3, dtype=jnp.float32)
    variables = layer.init(KEY, X)
    with pytest.raises(ValueError, match=r"rounds what it computes to float32, which makes the check meaningless.*dtype=None"):
        check_gradients(lambda params: jnp.sum(layer.apply(params, X).astype(jnp.float64) ** 2), variables)
    layer = linen.Dense(3)
    assert "params/kernel" in check_gradients(lambda params: jnp.sum(layer.apply(params, X) ** 2), variables).errors


@pytest.mark.parametrize(("size", "max_entries"), [(2, 50), (100, 9)])
def test_gradient_that_is_no_number_is_wrong_where_it_is_none(size, max_entries):
    with pytest.raises(GradientError, match=r"params\[1\]: autodiff nan, differences 0") as caught:
        check_gradients(lambda w: jnp.sum(jnp.where(w > 0, jnp.sqrt(w), 0)), jnp.ones(size).at[1].set(-1.0), max_entries=max_entries)
    assert len(caught.value.report.wrong) == 1


@pytest.mark.parametrize(
    ("loss", "params", "options", "error", "message"),
    [
        (jnp.sin, jnp.ones(2), {}, ValueError, r"the loss must return one real number, got float64\[2\]; take a mean"),
        (lambda w: (w.sum(), {}), jnp.ones(2), {}, ValueError, r"the loss must return one real number, got tuple"),
        (jnp.log, -1.0, {}, ValueError, "the loss is nan at these params"),
        (jnp.sum, jnp.arange(3), {}, ValueError, "params must hold floating-point numbers, got none"),
        (lambda w: jnp.abs(w["z"]), {"z": jnp.complex64(1j)}, {}, TypeError, "params must be real, but z is complex64"),
        (
            lambda w: wrong_at((), 1.0)(w),
            1.0,
            {"mode": "forward"},
            TypeError,
            "the loss has a custom_vjp, which has no forward mode; use mode",
        ),
        (jnp.sin, 1.0, {"mode": "rev"}, ValueError, "mode must be one of 'reverse', 'forward', got 'rev'"),
        (jnp.sin, 1.0, {"tolerance": 0}, ValueError, "tolerance must be in"),
        (jnp.sin, 1.0, {"max_entries": 0}, ValueError, "max_entries must be >= 1, got 0"),
        (jnp.sin, 1.0, {"num_directions": 0}, ValueError, "num_directions must be >= 1, got 0"),
    ],
)
def test_bad_input_is_named(loss, params, options, error, message):
    with pytest.raises(error, match=f"check_gradients: {message}"):
        check_gradients(loss, params, **options)


def test_differences_are_those_of_numpy():
    """The reported slopes, against differences made outside."""
    report = check_gradients(lambda w: jnp.sum(jnp.abs(w) * w[::-1]), jnp.array([0.0, 3.0]))
    left = (0 - np.sum(np.abs([-1e-6, 3.0]) * [3.0, -1e-6])) / 1e-6
    assert report.kinks[0].left == pytest.approx(left, rel=1e-5)
