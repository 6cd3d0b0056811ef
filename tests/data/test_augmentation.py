"""Augmentation: exact where it can be, random where it must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.data.augmentation import crop, cutout, draw_affine, random_affine, random_crop, random_flip, random_shift, shift

X = jnp.asarray(np.random.default_rng(0).uniform(size=(64, 8, 8, 2)), jnp.float32)
DRAW = jax.jit(draw_affine, static_argnums=1)
BYTES = jnp.asarray(np.random.default_rng(1).integers(0, 256, (64, 7, 9, 3)), jnp.uint8)


def test_nothing_asked_for_changes_nothing():
    np.testing.assert_array_equal(jax.jit(random_affine)(jax.random.key(0), X), X)
    np.testing.assert_array_equal(random_shift(jax.random.key(0), X, pixels=0), X)
    np.testing.assert_array_equal(random_flip(jax.random.key(0), X, horizontal=0.0), X)
    np.testing.assert_array_equal(random_crop(jax.random.key(0), X, (8, 8)), X)
    np.testing.assert_array_equal(cutout(jax.random.key(0), X, size=3, probability=0.0), X)


def test_4_3_flipping_twice_is_the_identity_and_once_is_numpys():
    for options in ({"horizontal": 1.0}, {"vertical": 1.0, "horizontal": 0.0}, {"horizontal": 0.5, "vertical": 0.5}):
        once = random_flip(jax.random.key(3), BYTES, **options)
        np.testing.assert_array_equal(random_flip(jax.random.key(3), once, **options), BYTES)
        allowed = [BYTES, BYTES[:, ::-1], BYTES[:, :, ::-1], BYTES[:, ::-1, ::-1]]
        kinds = np.stack([(once == each).all((1, 2, 3)) for each in allowed])
        assert (kinds.sum(0) == 1).all()
        share = {"vertical": 0.0, **options}
        counts = [kinds[1] | kinds[3], kinds[2] | kinds[3]]
        np.testing.assert_allclose([count.mean() for count in counts], [share["vertical"], share["horizontal"]], atol=0.2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), pixels=st.integers(0, 3))
def test_4_3_shift_and_back_is_the_identity_inside_and_numpys_roll(seed, pixels):
    by = jax.random.randint(jax.random.key(seed), (64, 2), -pixels, pixels + 1)
    there = shift(BYTES, by, pixels, fill=7)
    back = shift(there, -by, pixels)
    inside = np.s_[:, pixels : 7 - pixels, pixels : 9 - pixels]
    np.testing.assert_array_equal(back[inside], BYTES[inside])
    for picture, moved, (rows, columns) in zip(np.asarray(BYTES[:4]), np.asarray(there[:4]), np.asarray(by[:4]), strict=True):
        framed = np.pad(picture, ((3, 3), (3, 3), (0, 0)), constant_values=7)
        np.testing.assert_array_equal(moved, np.roll(framed, (rows, columns), (0, 1))[3:-3, 3:-3])


def test_4_3_random_shifts_are_uniform_over_all_places():
    spots = jnp.zeros((5000, 5, 5, 1)).at[:, 2, 2].set(1)
    counts = random_shift(jax.random.key(0), spots, pixels=2).sum(0)[..., 0]
    np.testing.assert_allclose(counts / 5000, 1 / 25, atol=4 * (1 / 25 / 5000) ** 0.5)


def test_4_3_crop_is_slicing():
    corner = jnp.array([[0, 0], [2, 1], [3, 4], [1, 5]])
    cropped = crop(BYTES[:4], corner, (4, 4))
    for number, (row, column) in enumerate(corner.tolist()):
        np.testing.assert_array_equal(cropped[number], BYTES[number, row : row + 4, column : column + 4])
    found = random_crop(jax.random.key(0), BYTES, (6, 7))
    windows = np.stack([BYTES[:, i : i + 6, j : j + 7] for i in range(2) for j in range(3)])
    kinds = (np.asarray(found) == windows).all((2, 3, 4))
    assert (kinds.sum(0) == 1).all()
    assert kinds.any(1).all()


def test_4_3_cutout_is_a_square_about_any_pixel():
    holes = np.asarray(cutout(jax.random.key(0), jnp.ones((3000, 9, 7, 1)), size=3)[..., 0] == 0)
    rows, columns = holes.any(2).sum(1), holes.any(1).sum(1)
    np.testing.assert_array_equal(holes.sum((1, 2)), rows * columns)  # a rectangle, whole
    assert set(rows) == set(columns) == {2, 3}  # of three, or cut at the edge to two
    inside = holes[(rows == 3) & (columns == 3)]
    np.testing.assert_allclose(len(inside) / 3000, 7 / 9 * 5 / 7, atol=0.04)
    lost = (np.asarray(cutout(jax.random.key(1), jnp.ones((3000, 9, 7, 1)), size=3, probability=0.3)) == 0).any((1, 2, 3))
    np.testing.assert_allclose(lost.mean(), 0.3, atol=0.04)


def test_4_3_the_same_key_changes_maps_of_labels_in_the_same_way():
    labels = BYTES[..., :1].astype(jnp.int32)
    pictures = labels.astype(jnp.float32)
    changes = [
        lambda x: random_flip(jax.random.key(5), x, vertical=0.5),
        lambda x: random_shift(jax.random.key(5), x, pixels=2),
        lambda x: random_crop(jax.random.key(5), x, (5, 4)),
        lambda x: cutout(jax.random.key(5), x, size=3),
    ]
    for change in changes:
        np.testing.assert_array_equal(change(labels), change(pictures))
        assert change(labels).dtype == jnp.int32


def test_a_disc_in_the_middle_survives_any_rotation():
    row, column = np.mgrid[:17, :17] - 8
    disc = jnp.asarray(np.exp(-(row**2 + column**2) / 8), jnp.float32)[None, :, :, None].repeat(16, 0)
    np.testing.assert_allclose(jax.jit(random_affine)(jax.random.key(0), disc, rotation=jnp.pi), disc, atol=0.05)


def test_centres_of_mass_move_by_a_uniform_shift():
    spots = jnp.zeros((500, 11, 11, 1)).at[:, 5, 5].set(1)
    moved = jax.jit(random_affine)(jax.random.key(0), spots, shift=3.0)[..., 0]
    np.testing.assert_allclose(moved.sum((1, 2)), 1, rtol=1e-4)  # bilinear weights sum to one
    rows = (moved * jnp.arange(11.0)[None, :, None]).sum((1, 2)) - 5
    assert jnp.abs(rows).max() <= 3 + 1e-4
    np.testing.assert_allclose([rows.mean(), rows.std()], [0, 3**0.5], atol=0.2)


def test_4_3_drawn_changes_have_the_stated_laws():
    with jax.enable_x64(True):
        change = jax.tree.map(np.asarray, DRAW(jax.random.key(0), 4000, flip=0.25, zoom=0.5, rotation=0.3))
        size = np.linalg.det(change.matrix)
        np.testing.assert_allclose((size < 0).mean(), 0.25, atol=0.03)
        scale = np.sqrt(np.abs(size))
        log = np.log(scale) / np.log(1.5)
        np.testing.assert_allclose([log.min(), log.mean(), log.std(), log.max()], [-1, 0, 3**-0.5, 1], atol=0.03)
        # Columns in the order that the flip left them, scaled back: a turn.
        turn = change.matrix / scale[:, None, None]
        angle = np.arctan2(-turn[:, 1, 0], turn[:, 0, 0])
        np.testing.assert_allclose([np.abs(angle).max(), angle.std()], [0.3, 0.3 / 3**0.5], atol=0.01)


def test_4_3_the_key_decides_and_examples_differ():
    same = X[:1].repeat(2, 0)
    changes = [
        lambda key: random_affine(key, same, shift=1.0, rotation=0.5, distortion=0.2, zoom=0.1),
        lambda key: cutout(key, same, size=2),
    ]
    for change in map(jax.jit, changes):
        once = change(jax.random.key(4))
        assert (once[0] != once[1]).any()
        np.testing.assert_array_equal(once, change(jax.random.key(4)))
        assert (once != change(jax.random.key(2))).any()


def test_4_3_refusals_of_moves():
    key = jax.random.key(0)
    for name, value in {"shift": -1.0, "rotation": 4.0, "distortion": 1.0, "zoom": -0.1}.items():
        with pytest.raises(ValueError, match=f"random_affine: {name} must be in .* got {value}"):
            random_affine(key, X, **{name: value})
        with pytest.raises(ValueError, match=f"draw_affine: {name} must be in .* got {value}"):
            draw_affine(key, 2, **{name: value})
    with pytest.raises(TypeError, match=r"warp: x must be floating-point pictures, got uint8; scale them with `dljax.nn.unit_pixels`"):
        random_affine(key, BYTES, shift=1.0)
    with pytest.raises(ValueError, match=r"draw_affine: flip must be in \[0, 1\], got 1.5"):
        draw_affine(key, 2, flip=1.5)
    with pytest.raises(ValueError, match="draw_affine: num must be >= 1, got 0"):
        draw_affine(key, 0)
    with pytest.raises(ValueError, match=r"random_flip: vertical must be in \[0, 1\], got -0.1"):
        random_flip(key, X, vertical=-0.1)
    with pytest.raises(ValueError, match="random_crop: width 9 is larger than the pictures' 8; take at most 8, or pad them first"):
        random_crop(key, X, (8, 9))
    with pytest.raises(ValueError, match="random_shift: pixels must be >= 0, got -1"):
        random_shift(key, X, pixels=-1)
    with pytest.raises(ValueError, match="cutout: size must be >= 1, got 0"):
        cutout(key, X, size=0)
    with pytest.raises(ValueError, match=r"cutout: probability must be in \[0, 1\], got 2"):
        cutout(key, X, size=1, probability=2)
