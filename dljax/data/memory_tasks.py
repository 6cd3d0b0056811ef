"""Tasks that ask a recurrent net to remember over long times, with the error of one that cannot."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dljax.core.checks import check_int
from dljax.core.contract import Key


def adding_problem(key: Key, num: int, *, length: int = 200) -> dict[str, Array]:
    """Sequences of random numbers of which two are marked: their sum is asked for.

      x_t = (a_t, m_t),   a_t ~ U[0, 1],   m_t = 1 at one place in each half, else 0,   y = Σ_t a_t m_t

    Who knows the mean only, 1, has the mean squared error 1/6.

    Args:
      num: how many.
      length: T >= 2.
    Returns:
      `x` float32 [num, T, 2] and `y` float32 [num].
    Raises:
      ValueError: `num` < 1 or `length` < 2.
    Source: Hochreiter & Schmidhuber (1997), Long short-term memory, experiment 4, with numbers in [0, 1] and a mark in each half.

    >>> batch = adding_problem(jax.random.key(0), 3, length=10)
    >>> batch["x"].shape, bool((batch["y"] == batch["x"].prod(-1).sum(1)).all())
    ((3, 10, 2), True)
    """
    check_int("adding_problem", "num", num, minimum=1)
    check_int("adding_problem", "length", length, minimum=2)
    number_key, first_key, second_key = jax.random.split(key, 3)
    numbers = jax.random.uniform(number_key, (num, length))
    half = length // 2
    first = jax.random.randint(first_key, (num,), 0, half)
    second = jax.random.randint(second_key, (num,), half, length)
    marks = jax.nn.one_hot(first, length) + jax.nn.one_hot(second, length)
    return {"x": jnp.stack([numbers, marks], -1), "y": (numbers * marks).sum(1)}
