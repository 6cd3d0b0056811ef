"""How fast a diffusion turns data into noise, and the normal distributions of its steps."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int, check_range


class NoiseSchedule(NamedTuple):
    """How much of an example is left after each step of T, and how much noise is in it.

      x_t = a_t x_0 + s_t ε,   ε ~ N(0, I),   a_t² + s_t² = 1,   a_0 = 1

    Attributes:
      signal: a_0 ... a_T, falling; a_t² is what papers call ᾱ_t.
      noise: s_0 ... s_T, kept besides because 1 - a_t² loses its digits where there is little noise.

    >>> linear_schedule(1000).noise[0].item()
    0.0
    """

    signal: Float[Array, "times"]
    noise: Float[Array, "times"]

    @property
    def num_steps(self) -> int:
        """T."""
        return self.signal.shape[0] - 1


def linear_schedule(num_steps: int = 1000, *, low: float = 0.1, high: float = 20.0) -> NoiseSchedule:
    """Variances that grow evenly, scaled so that any number of steps makes the same amount of noise.

      ᾱ_t = Π_{u<=t} (1 - β_u),   β_t from low/T to high/T, at most 0.999

    Args:
      num_steps: T >= 1.
      low, high: >= 0 and > 0; the defaults are β from 1e-4 to 0.02 for T = 1000.
    Raises:
      ValueError: an option out of its range.
    Source: Ho, Jain and Abbeel (2020), Denoising Diffusion Probabilistic Models, section 4.

    >>> round(float(linear_schedule(1000).signal[-1] ** 2), 7)
    4.04e-05
    """
    check_int("linear_schedule", "num_steps", num_steps, minimum=1)
    check_range("linear_schedule", "low", low, 0, open_high=True)
    check_range("linear_schedule", "high", high, 0, open_low=True, open_high=True)
    return _from_variances(np.linspace(low, high, num_steps) / num_steps)


def cosine_schedule(num_steps: int = 1000, *, offset: float = 0.008) -> NoiseSchedule:
    """Signal that falls slowly at both ends, so that fewer steps are wasted on what is noise already.

      ᾱ_t = f(t)/f(0),   f(t) = cos²(π/2 · (t/T + o)/(1 + o)),   β_t at most 0.999

    Args:
      num_steps: T >= 1.
      offset: o >= 0, which keeps the first steps from being too small to see.
    Raises:
      ValueError: an option out of its range.
    Source: Nichol and Dhariwal (2021), Improved Denoising Diffusion Probabilistic Models, eq. 17.

    >>> round(float(cosine_schedule(1000).signal[500] ** 2), 3)
    0.494
    """
    check_int("cosine_schedule", "num_steps", num_steps, minimum=1)
    check_range("cosine_schedule", "offset", offset, 0, open_high=True)
    left = np.cos(np.pi / 2 * (np.arange(num_steps + 1) / num_steps + offset) / (1 + offset)) ** 2
    return _from_variances(1 - left[1:] / left[:-1])


def reverse_step(
    schedule: NoiseSchedule, x0: Float[Array, "..."], noise: Float[Array, "..."], t: Int[Array, ""], s: Int[Array, ""], eta: Float[Array, ""] | float
) -> tuple[Float[Array, "..."], Float[Array, ""]]:
    """Mean and standard deviation of x_s at an earlier time, by what was made out at time t: a step of DDIM.

    With η = 1 and the true x_0 it is the posterior of the forward process, q(x_s | x_t, x_0).

      x_s ~ N(a_s x_0 + √(s_s² - σ²) ε, σ²),   σ = η · s_s/s_t · √(1 - a_t²/a_s²)

    Args:
      x0, noise: the example and ε, as estimated at time t.
      t, s: times, 0 <= s < t <= T.
      eta: η in [0, 1]: 1 for DDPM, 0 for no new noise.
    Source: Song, Meng and Ermon (2021), Denoising Diffusion Implicit Models, eq. 12 and 16; Ho et al. (2020), eq. 6-7, for η = 1.

    >>> reverse_step(linear_schedule(10), jnp.ones(2), jnp.zeros(2), jnp.int32(5), jnp.int32(0), 0.0)[0].tolist()
    [1.0, 1.0]
    """
    left, fresh = schedule.noise[s], (schedule.noise[t] ** 2 - schedule.noise[s] ** 2) / schedule.signal[s] ** 2  # fresh = 1 - a_t²/a_s²
    deviation = eta * left / schedule.noise[t] * jnp.sqrt(fresh)
    return schedule.signal[s] * x0 + jnp.sqrt(jnp.maximum(left**2 - deviation**2, 0)) * noise, deviation


def _from_variances(variances: np.ndarray) -> NoiseSchedule:
    log_signal = np.concatenate([[0.0], np.log1p(-np.clip(variances, 0, 0.999)).cumsum()])  # log ᾱ
    return NoiseSchedule(jnp.asarray(np.exp(log_signal / 2)), jnp.asarray(np.sqrt(abs(np.expm1(log_signal)))))
