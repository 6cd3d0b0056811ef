"""Affine changes: exact where pixels meet pixels, scipy's and Pillow's elsewhere; masks and boxes go along."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from dljax.data import affine, augmentation
from dljax.data.affine import Affine, compose, inverse, reflection, rotation, translation, warp_points

draw_affine = jax.jit(augmentation.draw_affine, static_argnums=1)
warp = jax.jit(affine.warp, static_argnames="method")
warp_boxes = jax.jit(affine.warp_boxes, static_argnums=2)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=(6, 9, 9, 2)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 5, (6, 9, 9, 1)), jnp.int32)
OBLONG = jnp.asarray(RNG.uniform(size=(6, 8, 11, 2)), jnp.float32)


def test_4_3_quarter_turns_are_numpys_rot90_exactly():
    for x in (X, X[:, :8, :8]):  # odd and even sides
        for turns in range(-3, 5):
            change = rotation(jnp.full(6, turns * jnp.pi / 2))
            np.testing.assert_array_equal(warp(x, change), np.rot90(x, turns, (1, 2)))
    for turns in range(4):
        change = rotation(jnp.full(6, turns * jnp.pi / 2))
        np.testing.assert_array_equal(warp(LABELS, change, method="nearest"), np.rot90(LABELS, turns, (1, 2)))


def test_4_3_reflections_and_translations_by_pixels_are_exact():
    flips = jnp.array([[0, 1], [1, 0], [1, 1]])
    expected = [OBLONG[0, :, ::-1], OBLONG[1, ::-1], OBLONG[2, ::-1, ::-1]]
    np.testing.assert_array_equal(warp(OBLONG[:3], reflection(flips)), np.stack(expected))
    moved = warp(OBLONG[:1], translation(jnp.array([[2.0, -3.0]])), fill=0.5)
    np.testing.assert_array_equal(moved[0, 2:, :-3], OBLONG[0, :-2, 3:])
    assert (moved[0, :2] == 0.5).all()
    assert (moved[0, :, -3:] == 0.5).all()


def test_4_3_bilinear_warp_is_scipys():
    with jax.enable_x64(True):
        x = jnp.asarray(OBLONG, jnp.float64)
        change = draw_affine(jax.random.key(0), 6, flip=0.5, shift=2.0, rotation=1.0, zoom=0.5, distortion=0.3)
        middle = (np.array(x.shape[1:3]) - 1) / 2
        for picture, ours, matrix, offset in zip(x, warp(x, change, fill=0.25), *map(np.asarray, change), strict=True):
            for channel in range(2):
                shifted = offset + middle - matrix @ middle
                theirs = ndimage.affine_transform(np.asarray(picture[..., channel]), matrix, shifted, order=1, mode="grid-constant", cval=0.25)
                np.testing.assert_allclose(ours[..., channel], theirs, atol=1e-6)


def test_4_3_rotation_is_scipys_and_pillows():
    smooth = ndimage.gaussian_filter(RNG.uniform(size=(33, 33)), 2)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    inside = np.hypot(*(np.mgrid[:33, :33] - 16)) < 15
    ours = warp(jnp.asarray(smooth, jnp.float32)[None, ..., None], rotation(jnp.array([0.4])))[0, ..., 0]
    theirs = ndimage.rotate(smooth, np.degrees(0.4), reshape=False, order=1)
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-5)
    picture = Image.fromarray(smooth.astype(np.float32)).rotate(np.degrees(0.4), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(ours[inside], np.asarray(picture)[inside], atol=1e-4)


def test_4_3_nearest_warp_is_scipys_and_makes_no_new_labels():
    change = draw_affine(jax.random.key(3), 6, shift=2.0, rotation=0.7)
    ours = warp(LABELS, change, method="nearest", fill=9)
    for labels, new, matrix, offset in zip(LABELS, ours, *map(np.asarray, change), strict=True):
        theirs = ndimage.affine_transform(np.asarray(labels[..., 0]), matrix, offset + 4 - matrix @ [4, 4], order=0, mode="grid-constant", cval=9)
        assert (np.asarray(new[..., 0]) == theirs).mean() > 0.98  # a place halfway between two pixels may go either way
    assert set(np.unique(ours)) <= {0, 1, 2, 3, 4, 9}


def boxed(box, size):
    mask = np.zeros((*size, 1), np.int32)
    top, left, bottom, right = box
    mask[top:bottom, left:right] = 1
    return mask


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any((1, 2))), np.flatnonzero(mask.any((0, 2)))
    return [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1] if len(rows) else None


@settings(max_examples=40, deadline=None)
@given(
    corners=st.tuples(*(st.tuples(st.integers(0, n), st.integers(0, n)).filter(lambda pair: pair[0] != pair[1]) for n in (9, 9))),
    turns=st.integers(0, 3),
    flips=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    move=st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
)
def test_4_3_the_box_of_a_moved_mask_is_the_moved_box(corners, turns, flips, move):
    (top, bottom), (left, right) = map(sorted, corners)
    change = compose(rotation(jnp.array([turns * jnp.pi / 2])), reflection(jnp.array([flips])))
    change = compose(change, translation(jnp.array([move], jnp.float32)))
    mask = warp(jnp.asarray(boxed((top, left, bottom, right), (9, 9)))[None], change, method="nearest")[0]
    box = warp_boxes(jnp.array([[[top, left, bottom, right]]], jnp.float32), change, (9, 9))[0, 0]
    expected = box_of(np.asarray(mask))
    if expected is None:
        assert (box[2] - box[0]) * (box[3] - box[1]) == 0  # it left the picture
    else:
        np.testing.assert_allclose(box, expected, atol=1e-5)


def test_4_3_box_of_a_slanted_change_holds_the_mask_tightly():
    change = draw_affine(jax.random.key(1), 6, rotation=0.6, zoom=0.2, distortion=0.1)
    masks = jnp.asarray(boxed((20, 24, 60, 70), (90, 90)))[None].repeat(6, 0)
    boxes = warp_boxes(jnp.full((6, 1, 4), jnp.array([20.0, 24, 60, 70])), change, (90, 90))[:, 0]
    for mask, box in zip(np.asarray(warp(masks, change, method="nearest")), boxes, strict=True):
        found = np.array(box_of(mask))
        assert (found[:2] >= box[:2] - 1).all()
        assert (found[2:] <= box[2:] + 1).all()
        np.testing.assert_allclose(found, box, atol=2)


def test_4_3_points_go_with_their_pixels():
    spot = jnp.zeros((1, 21, 21, 1)).at[0, 5, 8].set(1)
    change = compose(rotation(jnp.array([0.5])), translation(jnp.array([[1.0, 2.0]])))
    moved = np.asarray(warp(spot, change))[0, ..., 0]
    centre = np.array([(moved.sum(1) @ np.arange(21)), (moved.sum(0) @ np.arange(21))]) / moved.sum() + 0.5
    np.testing.assert_allclose(warp_points(jnp.array([[[5.5, 8.5]]]), change, (21, 21))[0, 0], centre, atol=0.2)


def test_4_3_inverse_and_composition_of_changes():
    with jax.enable_x64(True):
        first, second = (draw_affine(jax.random.key(seed), 5, flip=0.5, shift=3, rotation=2.0, zoom=0.3, distortion=0.3) for seed in (0, 1))
        points = jnp.asarray(RNG.uniform(0, 20, (5, 7, 2)))
        there = warp_points(points, first, (20, 30))
        np.testing.assert_allclose(warp_points(there, inverse(first), (20, 30)), points, atol=1e-10)
        both = warp_points(points, compose(first, second), (20, 30))
        np.testing.assert_allclose(both, warp_points(there, second, (20, 30)), atol=1e-10)
    shift, turn = translation(jnp.full((6, 2), 1.0)), rotation(jnp.full(6, jnp.pi / 2))
    np.testing.assert_array_equal(warp(X, compose(shift, turn)), warp(warp(X, shift), turn))


def test_4_3_gradients_of_a_warp_are_finite_and_inputs_may_be_extreme():
    change = rotation(jnp.full(6, 0.3))._replace(offset=jnp.full((6, 2), 1e30))
    assert (warp(X, change, fill=2.0) == 2).all()
    gradient = jax.grad(lambda x: warp(x, rotation(jnp.full(6, 0.3))).sum())(X)
    assert jnp.isfinite(gradient).all()


def test_4_3_refusals_of_changes():
    change = rotation(jnp.zeros(6))
    with pytest.raises(ValueError, match="warp: method must be one of 'bilinear', 'nearest', got 'cubic'"):
        warp(X, change, method="cubic")
    with pytest.raises(TypeError, match='warp: x must be floating-point pictures, got int32; .* or take method="nearest"'):
        warp(LABELS, change)
    with pytest.raises(ValueError, match=r"warp: transform must have a matrix and an offset for each of the 5 pictures, \[5, 2, 2\] and \[5, 2\]"):
        warp(X[:5], change)
    for who, what in ((warp_boxes, "boxes"), (warp_points, "points")):
        with pytest.raises(ValueError, match=f"{who.__name__}: transform must have .* each of the 1 sets of {what}"):
            who(jnp.zeros((1, 2, 4 if what == "boxes" else 2)), Affine(jnp.eye(2)[None].repeat(2, 0), jnp.zeros((2, 2))), (4, 4))
