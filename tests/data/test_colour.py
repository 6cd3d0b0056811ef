"""Colours against Pillow, and RandAugment by its operations."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from dljax.data import colour
from dljax.data.rand_augment import COLOURS, MOVES, OPERATIONS, rand_augment

RNG = np.random.default_rng(0)
# Smooth and rough pictures of different ranges, one of a single colour.
BYTES = np.clip(RNG.normal([[[[120]], [[60]], [[200]], [[90]]]], [[[[60]], [[20]], [[10]], [[100]]]], (1, 4, 1, 3 * 23 * 31)), 0, 255)
BYTES = np.concatenate([BYTES.reshape(4, 23, 31, 3).astype(np.uint8), np.full((1, 23, 31, 3), 77, np.uint8)])
X = jnp.asarray(BYTES / 255, jnp.float32)


def pillow(function):
    return np.stack([np.asarray(function(Image.fromarray(picture))) for picture in BYTES]).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
def test_4_3_factors_are_pillows(name, enhance):
    apply = jax.jit(getattr(colour, name))
    for factor in (0.0, 0.4, 1.0, 1.7):
        ours = apply(X, jnp.full(5, factor))
        # Pillow rounds the other picture and the result to whole numbers.
        np.testing.assert_allclose(ours * 255, pillow(lambda image, factor=factor: enhance(image).enhance(factor)), atol=1.6)
    np.testing.assert_allclose(apply(X, jnp.ones(5)), X, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        (lambda x: colour.equalise(x), ImageOps.equalize, 1e-3),
        (lambda x: colour.posterise(x, jnp.full(5, 3.0)), lambda image: ImageOps.posterize(image, 3), 1e-3),
        (lambda x: colour.solarise(x, jnp.full(5, 100 / 255)), lambda image: ImageOps.solarize(image, 100), 1e-3),
        (lambda x: colour.invert(x), ImageOps.invert, 1e-3),
        (lambda x: colour.autocontrast(x), ImageOps.autocontrast, 1.001),  # Pillow cuts what is behind the point off
        (lambda x: colour.grey(x), lambda image: np.asarray(image.convert("L"))[..., None], 0.51),
    ],
    ids=["equalise", "posterise", "solarise", "invert", "autocontrast", "grey"],
)
def test_4_3_tables_are_pillows(ours, theirs, tolerance):
    np.testing.assert_allclose(jax.jit(ours)(X) * 255, pillow(theirs), atol=tolerance)


def test_4_3_hues_are_those_of_colorsys_and_turns_add_up():
    turn = jnp.linspace(-0.7, 0.9, 5)
    ours = jax.jit(colour.hue)(X, turn)
    for number in range(5):
        for row, column in [(0, 0), (5, 7), (22, 30), (11, 3)]:
            h, s, v = colorsys.rgb_to_hsv(*np.asarray(X[number, row, column], float))
            np.testing.assert_allclose(ours[number, row, column], colorsys.hsv_to_rgb((h + float(turn[number])) % 1, s, v), atol=1e-5)
    np.testing.assert_allclose(jax.jit(colour.hue)(ours, -turn), X, atol=1e-5)


def test_4_3_inverses_of_colours():
    np.testing.assert_allclose(colour.invert(colour.invert(X)), X, atol=1e-6)
    np.testing.assert_allclose(colour.solarise(X, jnp.zeros(5)), 1 - X, atol=1e-6)
    np.testing.assert_allclose(colour.posterise(X, jnp.full(5, 8.0)), X, atol=1e-6)
    gradient = jax.grad(lambda x: (colour.autocontrast(x) + colour.hue(x, jnp.full(5, 0.1))).sum())(X)
    assert jnp.isfinite(gradient).all()  # a picture of one colour has neither contrast nor hue


def test_4_3_jitter_draws_for_each_picture_from_its_key():
    same = X[:1].repeat(400, 0)[:, :4, :4]
    jitter = jax.jit(lambda key: colour.colour_jitter(key, same * 0.4, brightness=0.5))
    factor = jitter(jax.random.key(0)).sum((1, 2, 3)) / (same * 0.4).sum((1, 2, 3))
    np.testing.assert_allclose([factor.min(), factor.mean(), factor.max(), factor.std()], [0.5, 1, 1.5, 0.5 / 3**0.5], atol=0.03)
    np.testing.assert_array_equal(jitter(jax.random.key(0)), jitter(jax.random.key(0)))
    np.testing.assert_array_equal(colour.colour_jitter(jax.random.key(0), X), X)


def test_4_3_rand_augment_applies_one_of_its_operations_a_layer():
    key, same = jax.random.key(0), (0.1 + 0.8 * X[:1]).repeat(300, 0)  # every operation changes it
    ours = jax.jit(lambda key: rand_augment(key, same, num_layers=1, magnitude=0.5))(key)
    factor = {sign: jnp.full(1, 1 + 0.45 * sign) for sign in (-1, 1)}
    first = same[:1]
    expected = {
        "identity": [first],
        "autocontrast": [colour.autocontrast(first)],
        "equalise": [colour.equalise(first)],
        "solarise": [colour.solarise(first, jnp.full(1, 0.5))],
        "posterise": [colour.posterise(first, jnp.full(1, 6.0))],
        **{name: [getattr(colour, name)(first, each) for each in factor.values()] for name in ("contrast", "brightness", "saturation", "sharpness")},
    }
    found = {name: sum(jnp.abs(ours - each).max((1, 2, 3)) < 1e-5 for each in each_sign) > 0 for name, each_sign in expected.items()}
    shares = {name: float(where.mean()) for name, where in found.items()}
    for name, share in shares.items():
        np.testing.assert_allclose(share, 1 / 14, atol=0.05, err_msg=name)
    moved = ~np.any(list(found.values()), axis=0)
    np.testing.assert_allclose(moved.mean(), len(MOVES) / len(OPERATIONS), atol=0.09)
    assert set(OPERATIONS) == {"identity", *MOVES, *COLOURS}


def test_4_3_rand_augment_moves_by_what_it_says():
    x = jnp.zeros((40, 20, 20, 1)).at[:, 8:12, 8:12].set(1)
    moved = jax.jit(lambda x: rand_augment(jax.random.key(0), x, num_layers=1, magnitude=0.5, operations=["translate_rows"], fill=0))(x)
    rows = (moved.sum((2, 3)) @ jnp.arange(20.0)) / moved.sum((1, 2, 3)) - 9.5
    assert set(np.round(np.abs(rows), 3)) == {4.5}  # 0.45 · 0.5 · 20
    assert 10 < (rows > 0).sum() < 30


def test_4_3_refusals_of_colours():
    key, pixels = jax.random.key(0), jnp.asarray(BYTES)
    for name in ("brightness", "contrast", "saturation", "sharpness", "hue", "solarise", "posterise"):
        with pytest.raises(TypeError, match=rf"{name}: x must be floating-point pictures in \[0, 1\], got uint8; scale them first"):
            getattr(colour, name)(pixels, jnp.ones(5))
    for function in (colour.invert, colour.autocontrast, colour.equalise):
        with pytest.raises(TypeError, match=f"{function.__name__}: x must be floating-point pictures"):
            function(pixels)
    with pytest.raises(ValueError, match="grey: x must have 1 channel or 3"):
        colour.contrast(X[..., :2], jnp.ones(5))
    with pytest.raises(ValueError, match=r"colour_jitter: brightness must be in \[0, 1\], got 1.5"):
        colour.colour_jitter(key, X, brightness=1.5)
    with pytest.raises(ValueError, match=r"colour_jitter: hue must be in \[0, 0.5\], got -0.1"):
        colour.colour_jitter(key, X, hue=-0.1)
    with pytest.raises(ValueError, match="colour_jitter: hue needs three channels"):
        colour.colour_jitter(key, X[..., :1], hue=0.1)
    with pytest.raises(TypeError, match="colour_jitter: x must be floating-point"):
        colour.colour_jitter(key, pixels)
    with pytest.raises(TypeError, match="rand_augment: x must be floating-point"):
        rand_augment(key, pixels)
    with pytest.raises(ValueError, match=r"rand_augment: magnitude must be in \[0, 1\], got 9"):
        rand_augment(key, X, magnitude=9)
    with pytest.raises(ValueError, match=r"rand_augment: fill must be in \[0, 1\], got 128"):
        rand_augment(key, X, fill=128)
    with pytest.raises(ValueError, match="rand_augment: num_layers must be >= 0, got -1"):
        rand_augment(key, X, num_layers=-1)
    with pytest.raises(ValueError, match="rand_augment: operations must be one of 'identity', .* got 'flip'"):
        rand_augment(key, X, operations=["flip"])
    with pytest.raises(ValueError, match="rand_augment: operations must name at least one of identity"):
        rand_augment(key, X, operations=[])
