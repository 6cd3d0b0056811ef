"""RandAugment: for each picture a few operations, drawn among moves and colour changes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from dljax.core.checks import check_choice, check_int, check_range
from dljax.core.contract import Key, Numeric
from dljax.data import colour
from dljax.data.affine import Affine, rotation, translation, warp

MOVES = ("rotate", "shear_rows", "shear_columns", "translate_rows", "translate_columns")
COLOURS = ("autocontrast", "equalise", "solarise", "posterise", "contrast", "brightness", "saturation", "sharpness")
OPERATIONS = ("identity", *MOVES, *COLOURS)


def rand_augment(
    key: Key,
    x: Num[Array, "B H W C"],
    *,
    num_layers: int = 2,
    magnitude: Numeric = 0.3,
    operations: Sequence[str] = OPERATIONS,
    fill: Numeric = 0.5,
) -> Num[Array, "B H W C"]:
    """Operations drawn at random for each picture, one after another, all of one strength.

    The five moves of a layer are one affine change, and the colour changes are computed for all and selected: no picture waits for a branch.

    Args:
      x: pictures in [0, 1], floats, with one channel or three.
      num_layers: operations a picture, >= 0.
      magnitude: m in [0, 1], the paper's M / 30; may be traced. Turns by 30° m, slants by 0.3 m, moves by 0.45 m of the side, factors 1 ± 0.9 m, a
        threshold of 1 - m, 8 - 4 m bits; signs are drawn.
      operations: which of `OPERATIONS` to draw from.
      fill: what moves in at the border, in [0, 1].
    Raises:
      ValueError: an option out of range, an unknown operation or none. TypeError: pictures of whole numbers.
    Source: Cubuk et al. (2020), RandAugment, section 3.

    >>> x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
    >>> bool((rand_augment(jax.random.key(1), x, operations=["identity"]) == x).all())
    True
    """
    check_int("rand_augment", "num_layers", num_layers, minimum=0)
    check_range("rand_augment", "magnitude", magnitude, 0, 1)
    check_range("rand_augment", "fill", fill, 0, 1)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"rand_augment: x must be floating-point pictures in [0, 1], got {x.dtype}; scale them first, as `dljax.nn.unit_pixels` does")
    if not operations:
        raise ValueError(f"rand_augment: operations must name at least one of {', '.join(OPERATIONS)}")
    for name in operations:
        check_choice("rand_augment", "operations", name, OPERATIONS)
    allowed = jnp.array([OPERATIONS.index(name) for name in operations])
    for layer_key in jax.random.split(key, num_layers):
        operation_key, sign_key = jax.random.split(layer_key)
        operation = allowed[jax.random.randint(operation_key, (len(x),), 0, len(allowed))]
        sign = jnp.where(jax.random.bernoulli(sign_key, 0.5, (len(x),)), 1, -1).astype(x.dtype)
        if any(name in MOVES for name in operations):
            x = warp(x, _move(operation, sign * magnitude, x.shape[1:3]), fill=fill)
        x = _colour(operation, sign * magnitude, x, operations)
    return x


def _move(operation: Array, signed: Array, size: Sequence[int]) -> Affine:
    """The affine change of each picture's operation; the identity for a colour."""
    amount = {name: jnp.where(operation == OPERATIONS.index(name), signed, 0) for name in MOVES}
    turn = rotation(amount["rotate"] * (jnp.pi / 6))
    slant = jnp.stack([amount["shear_rows"], amount["shear_columns"]], -1) * 0.3
    place = jnp.stack([amount["translate_rows"] * size[0], amount["translate_columns"] * size[1]], -1) * 0.45
    matrix = turn.matrix + slant[:, :, None] * jnp.array([[0.0, 1.0], [1.0, 0.0]])[None]
    return Affine(matrix, translation(place).offset)


def _colour(operation: Array, signed: Array, x: Array, operations: Sequence[str]) -> Array:
    """The colour change of each picture's operation; nothing for a move."""
    factor, strength = 1 + 0.9 * signed, jnp.abs(signed)
    changes = {
        "autocontrast": lambda: colour.autocontrast(x),
        "equalise": lambda: colour.equalise(x),
        "solarise": lambda: colour.solarise(x, 1 - strength),
        "posterise": lambda: colour.posterise(x, 8 - jnp.round(4 * strength)),
        "contrast": lambda: colour.contrast(x, factor),
        "brightness": lambda: colour.brightness(x, factor),
        "saturation": lambda: colour.saturation(x, factor),
        "sharpness": lambda: colour.sharpness(x, factor),
    }
    result = x
    for name in COLOURS:
        if name in operations:
            result = jnp.where((operation == OPERATIONS.index(name))[:, None, None, None], changes[name](), result)
    return result
