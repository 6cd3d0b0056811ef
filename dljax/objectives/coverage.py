"""Mode coverage: which modes of a known mixture a sampler finds, and how many of its samples are good."""

import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Numeric


def mode_coverage(
    x: Float[Array, "N D"], centers: Float[Array, "K D"], scale: Numeric, *, sigmas: Numeric = 3.0, min_samples: int = 1
) -> dict[str, Float[Array, ""]]:
    """How many modes a sample covers and how much of it lies near any.

    A sample is good if it lies within `sigmas` standard deviations of its nearest centre; a mode is covered if it has at least
    `min_samples` good samples. Of samples of a planar mixture itself 1 - exp(-sigmas²/2) are good: 0.989 at three sigmas.
    How evenly all samples, good or not, fall on the modes that they are nearest to is KL(their shares ‖ 1/K) = log K + Σ_k n_k/N log n_k/N.

    Args:
      x: N samples.
      centers: of the K modes.
      scale: σ > 0, their standard deviation along each axis.
      sigmas: the radius, > 0.
      min_samples: >= 1.
    Returns:
      `modes`, in 0 ... K; `quality`, the share of good samples; `reverse_kl`, between 0 and log K nats. All [] floating.
    Raises:
      ValueError: an option out of its range.
    Source: Srivastava et al. (2017), VEEGAN, section 4.1; the divergence as in Lin et al. (2018), PacGAN, section 4.1.

    >>> scores = mode_coverage(jnp.array([[0.0], [0.2], [5.0]]), jnp.array([[0.0], [1.0]]), scale=0.1)
    >>> float(scores["modes"]), round(float(scores["quality"]), 3)
    (1.0, 0.667)
    """
    check_range("mode_coverage", "scale", scale, 0, open_low=True)
    check_range("mode_coverage", "sigmas", sigmas, 0, open_low=True)
    check_int("mode_coverage", "min_samples", min_samples, minimum=1)
    squares = jnp.square(x[:, None] - centers[None]).sum(-1)
    is_good, nearest, zeros = squares.min(1) <= jnp.square(sigmas * scale), squares.argmin(1), jnp.zeros(centers.shape[0])
    counts, shares = zeros.at[nearest].add(is_good), zeros.at[nearest].add(1 / x.shape[0])
    return {
        "modes": (counts >= min_samples).sum().astype(counts.dtype),
        "quality": is_good.mean(dtype=counts.dtype),
        "reverse_kl": jnp.maximum(jnp.log(centers.shape[0]) + xlogy(shares, shares).sum(), 0),
    }
