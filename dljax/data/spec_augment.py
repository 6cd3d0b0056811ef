"""SpecAugment: stripes of a spectrogram masked, in time and in frequency."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric


def spec_augment(
    key: Key,
    x: Float[Array, "B T F"],
    *,
    num_time_masks: int = 2,
    time_width: int = 100,
    num_frequency_masks: int = 2,
    frequency_width: int = 27,
    max_time_share: Numeric = 1.0,
    lengths: Int[Array, "B"] | None = None,
    fill: Numeric = 0.0,
) -> Float[Array, "B T F"]:
    """Stripes of each spectrogram blanked: some consecutive frames, some consecutive frequencies.

      width w ~ U{0, ..., W},   begin ~ U{0, ..., L - w},   W = min(time_width, ⌊max_time_share·L⌋, L)

    for the time; the same without a share for the F frequencies. The time warping of the paper, which it says brings least, is left out.

    Args:
      x: (log-mel) spectrograms, T frames of F frequencies; their mean should be `fill`.
      num_time_masks, num_frequency_masks: stripes of each kind, >= 0; they may overlap.
      time_width, frequency_width: widest stripes, >= 0, frames and frequencies; F at most is masked.
      max_time_share: of the frames, in [0, 1]: short utterances get narrow stripes. May be traced.
      lengths: frames of each spectrogram, L; those behind are padding. None for T.
      fill: what is put into the stripes.
    Returns:
      Spectrograms of the same shape and dtype.
    Raises:
      ValueError: a number or width < 0, a share outside [0, 1].
    Source: Park et al. (2019), SpecAugment, section 2; the defaults are its policy LD without the time warping.

    >>> x = spec_augment(jax.random.key(0), jnp.ones((1, 500, 80)))
    >>> frames, frequencies = (x[0] == 0).all(1).sum(), (x[0] == 0).all(0).sum()
    >>> bool(frames <= 200), bool(frequencies <= 54)
    (True, True)
    """
    for name, value in {
        "num_time_masks": num_time_masks,
        "time_width": time_width,
        "num_frequency_masks": num_frequency_masks,
        "frequency_width": frequency_width,
    }.items():
        check_int("spec_augment", name, value, minimum=0)
    check_range("spec_augment", "max_time_share", max_time_share, 0, 1)
    num, frames, frequencies = x.shape
    length = jnp.full(num, frames) if lengths is None else lengths
    widest = jnp.minimum(jnp.minimum(time_width, length), jnp.floor(max_time_share * length).astype(length.dtype))
    time_key, frequency_key = jax.random.split(key)
    is_masked = _stripes(time_key, num_time_masks, widest, length, frames)[:, :, None]
    every = jnp.full(num, frequencies)
    is_masked |= _stripes(frequency_key, num_frequency_masks, jnp.minimum(frequency_width, every), every, frequencies)[:, None, :]
    return jnp.where(is_masked, jnp.asarray(fill, x.dtype), x)


def _stripes(key: Key, num_masks: int, widest: Array, length: Array, size: int) -> Array:
    """True in the stripes, [B, size]."""
    width_key, begin_key = jax.random.split(key)
    width = jax.random.randint(width_key, (num_masks, len(length)), 0, widest[None] + 1)
    begin = jax.random.randint(begin_key, (num_masks, len(length)), 0, length[None] - width + 1)
    place = jnp.arange(size)[None, None]
    return ((place >= begin[..., None]) & (place < (begin + width)[..., None])).any(0)
