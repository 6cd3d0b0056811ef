"""Every loss beside PyTorch's: values and gradients in float64, and finite ones at the extremes in float32."""

import runpy
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax import objectives

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "foundations.npz")


def masks(name):
    return (jnp.arange(size)[None] < jnp.asarray(GOLDEN[f"loss/ctc_loss/{name}"])[:, None] for size in (7, 3))


def ctc(logits, labels):
    logit_mask, _ = masks("lengths")
    _, label_mask = masks("num_labels")
    return objectives.ctc_loss(logits, labels, logit_mask=logit_mask, label_mask=label_mask)


SPECIAL = {
    "huber_loss": partial(objectives.huber_loss, delta=0.7),
    "weston_watkins": partial(objectives.multiclass_hinge_loss, margin=0.8, kind="weston-watkins"),
    "sigmoid_focal_loss": partial(objectives.sigmoid_focal_loss, alpha=0.25),
    "triplet_loss": partial(objectives.triplet_loss, margin=1.3),
    "ctc_loss": ctc,
}
NAMES = sorted({name.split("/")[1] for name in GOLDEN if name.startswith("loss/")})


def test_2_4_values_and_gradients_equal_those_of_torch():
    with jax.enable_x64(True):
        args = {name: [jnp.asarray(GOLDEN[key]) for number in range(3) if (key := f"loss/{name}/arg{number}") in GOLDEN] for name in NAMES}
        places = {name: [number for number in range(len(args[name])) if f"loss/{name}/grad{number}" in GOLDEN] for name in NAMES}

        def one(name):
            def total(*args):
                value = (SPECIAL.get(name) or getattr(objectives, name))(*args)
                return value.sum(), value

            return jax.grad(total, places[name], has_aux=True)(*args[name])

        for name, (grads, value) in jax.jit(lambda: {each: one(each) for each in NAMES})().items():
            np.testing.assert_allclose(value, GOLDEN[f"loss/{name}/value"], rtol=1e-11, atol=1e-12, err_msg=name)
            assert len(value) == len(args[name][0]), name
            for number, grad in zip(places[name], grads, strict=True):
                wanted = GOLDEN[f"loss/{name}/grad{number}"]
                assert np.isfinite(grad).all(), name
                # PyTorch's gradient is -inf at a target of probability 0.
                is_finite = np.isfinite(wanted)
                np.testing.assert_allclose(grad[is_finite], wanted[is_finite], rtol=1e-9, atol=1e-11, err_msg=name)
    assert len(NAMES) == 19


def test_golden_losses_are_those_of_the_installed_torch():
    pytest.importorskip("torch")
    for name, value in runpy.run_path(str(FOLDER / "make_foundations.py"))["losses"]().items():
        np.testing.assert_allclose(value, GOLDEN[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_2_4_all_are_finite_with_finite_gradients_where_arguments_are_huge_equal_or_zero():
    huge = jnp.array([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4], [0.0, 0.0, 0.0], [1e4, 1e4, 1e4]])
    labels, signs = jnp.array([1, 2, 0, 1]), jnp.where(huge > 0, -1.0, 1.0)
    certain = jax.nn.softmax(huge)
    o = objectives
    pairs = {
        name: (getattr(o, name), second)
        for names, second in (
            (("squared_error", "absolute_error", "huber_loss", "log_cosh", "cosine_distance", "info_nce", "nt_xent"), huge[::-1]),
            (("cosine_distance", "info_nce", "nt_xent", "contrastive_same", "contrastive_other", "triplet"), huge),
            (("cross_entropy", "focal_loss", "multiclass_hinge_loss"), labels),
            (("logistic_loss", "hinge_loss"), signs),
            (("sigmoid_binary_cross_entropy", "sigmoid_focal_loss"), (signs + 1) / 2),
            (("softmax_cross_entropy",), certain[::-1]),
        )
        for name in names
        if hasattr(o, name)
    }
    pairs |= {
        "contrastive, same": (lambda a, b: o.contrastive_loss(a, b, jnp.ones(4)), huge),
        "contrastive, other": (lambda a, b: o.contrastive_loss(a, b, jnp.zeros(4)), huge),
        "triplet": (lambda a, b: o.triplet_loss(a, b, a), huge),
        "smoothed": (lambda a, b: o.cross_entropy(a, b, label_smoothing=0.1), labels),
        "soft focal": (lambda a, b: o.focal_loss(a, b, gamma=0.5), labels),
        "kl": (lambda a, b: o.kl_divergence(jax.nn.log_softmax(a), jax.nn.softmax(b)), huge[::-1]),
        "js": (lambda a, b: o.js_divergence(jax.nn.softmax(a), jax.nn.softmax(b)), huge[::-1]),
        "js of equals": (lambda a, b: o.js_divergence(jax.nn.softmax(a), jax.nn.softmax(b)), huge),
        "hellinger": (lambda a, b: o.hellinger_distance(jax.nn.softmax(a), jax.nn.softmax(b)), huge),
        "total variation": (lambda a, b: o.total_variation(jax.nn.softmax(a), jax.nn.softmax(b)), huge[::-1]),
        "ctc": (lambda a, b: o.ctc_loss(a[None], b), jnp.array([[2]])),
    }
    values = jax.jit(lambda x: {name: jax.value_and_grad(lambda x, loss=loss, y=y: loss(x, y).sum())(x) for name, (loss, y) in pairs.items()})(huge)
    for name, (value, grad) in values.items():
        assert bool(jnp.isfinite(value)), name
        assert bool(jnp.isfinite(grad).all()), name
