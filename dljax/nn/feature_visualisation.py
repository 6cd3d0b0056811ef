"""What a unit looks for: inputs that excite it most, and the filters of a first layer as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key
from dljax.nn.attribution import unit_of
from dljax.nn.model import Variables


@dataclass(frozen=True)
class MaximisationConfig:
    """How an input is changed until it excites a unit most.

    Attributes:
      num_steps: T >= 1.
      learning_rate: η > 0, the root mean square by which the first step changes the input; it falls to zero along a line.
      l2: λ >= 0, weight of Σ x².
      total_variation: τ >= 0, weight of the squared differences of neighbouring pixels.
      jitter: J >= 0, each step looks at the picture moved by up to this many pixels, around the edges.
      bounds: the range of a pixel, low < high; None sets none.
      norm: ρ > 0, the largest Euclidean length of an input; None sets none.
    Raises:
      ValueError: when built: an option out of its range.
    """

    num_steps: int = 200
    learning_rate: float = 0.1
    l2: float = 0.0
    total_variation: float = 0.05
    jitter: int = 2
    bounds: tuple[float, float] | None = (0.0, 1.0)
    norm: float | None = None

    def __post_init__(self) -> None:
        check_int("MaximisationConfig", "num_steps", self.num_steps, minimum=1)
        check_int("MaximisationConfig", "jitter", self.jitter, minimum=0)
        check_range("MaximisationConfig", "learning_rate", self.learning_rate, 0, open_low=True)
        check_range("MaximisationConfig", "l2", self.l2, 0)
        check_range("MaximisationConfig", "total_variation", self.total_variation, 0)
        if self.norm is not None:
            check_range("MaximisationConfig", "norm", self.norm, 0, open_low=True)
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"MaximisationConfig: bounds must be (low, high) with low < high, got {self.bounds}")


def activation_maximisation(
    key: Key,
    model: Any,
    params: Variables,
    targets: Int[Array, " N"] | Sequence[int],
    *,
    shape: Sequence[int],
    layer: str | None = None,
    config: MaximisationConfig = MaximisationConfig(),
) -> Float[Array, "N *shape"]:
    """Inputs that excite units most, by projected gradient ascent from noise.

      x ← Π(x + η_t g / rms(g)),   g = ∂/∂x (f(x moved at random) - λ Σ x² - τ Σ (x_i - x_j)²),   η_t = η (1 - t/T)

    f is the output `target`, or the mean over places of the channel `target` of a layer; Π cuts x to its bounds and shrinks it to its norm. Inputs of
    one axis have no neighbours and are not moved.

    Args:
      model: whatever `dljax.nn.as_model` takes, with outputs [N, K]; a linen module where there is a layer.
      params: its variables.
      targets: which units, each of which gets an input of its own.
      shape: of one input, channels last.
      layer: the path of a linen module, as in `grad_cam`; None looks at the outputs.
    Raises:
      ValueError: no such unit or layer.
    Source: Erhan, Bengio, Courville and Vincent (2009), Visualizing higher-layer features of a deep network; the total variation from Mahendran and
      Vedaldi (2015), Understanding deep image representations by inverting them, eq. 4 with β = 2; the jitter from Olah, Mordvintsev and Schubert
      (2017), Feature visualization.

    >>> line = (lambda key, x: {}, lambda params, x: x @ jnp.array([[3.0], [4.0]]))
    >>> ball = MaximisationConfig(bounds=None, norm=1.0)
    >>> x = activation_maximisation(jax.random.key(0), line, {"params": {}}, [0], shape=(2,), config=ball)
    >>> [round(float(each), 3) for each in x[0]]
    [0.6, 0.8]
    """
    who = "activation_maximisation"
    targets = jnp.asarray(targets)
    if targets.ndim != 1:
        raise ValueError(f"{who}: targets must be a vector of units, got shape {targets.shape}")
    start_key, jitter_key = jax.random.split(key)
    low, high = config.bounds or (-0.5, 0.5)
    noise = jax.random.normal(start_key, (len(targets), *shape))
    x = (low + high) / 2 + 0.1 * (high - low) * noise
    f = unit_of(who, model, params, targets, layer)
    each, places = tuple(range(1, x.ndim)), tuple(range(1, x.ndim - 1))

    def objective(x: Array, shifts: Array) -> Array:
        differences = sum(jnp.sum(jnp.diff(x, axis=axis) ** 2) for axis in places)
        return f(jnp.roll(x, shifts, places) if places else x).sum() - config.l2 * jnp.sum(x**2) - config.total_variation * differences

    def ascend(x: Array, now: tuple[Array, Key]) -> tuple[Array, None]:
        step, key = now
        shifts = jax.random.randint(key, (len(places),), -config.jitter, config.jitter + 1)
        slope = jax.grad(objective)(x, shifts)
        size = jnp.sqrt(jnp.square(slope).mean(each, keepdims=True))
        x = x + config.learning_rate * (1 - step / config.num_steps) * slope / jnp.where(size > 0, size, 1)
        x = x if config.bounds is None else jnp.clip(x, *config.bounds)
        if config.norm is not None:
            length = jnp.sqrt(jnp.square(x).sum(each, keepdims=True))
            x = x * jnp.minimum(1, config.norm / jnp.where(length > 0, length, 1))
        return x, None

    return lax.scan(ascend, x, (jnp.arange(config.num_steps), jax.random.split(jitter_key, config.num_steps)))[0]


def filter_pictures(kernel: Float[Array, "h w I O"]) -> Float[Array, "O h w I"]:
    """The filters of a first convolution as pictures, each divided by its largest absolute weight: black is negative, grey zero, white positive.

    Args:
      kernel: of one input channel, or of three, whose pictures have colours.
    Raises:
      ValueError: another rank or number of channels.

    >>> filter_pictures(jnp.array([-2.0, 0.0, 1.0]).reshape(1, 3, 1, 1)).ravel().tolist()
    [0.0, 0.5, 0.75]
    """
    if kernel.ndim != 4 or kernel.shape[2] not in (1, 3):
        raise ValueError(f"filter_pictures: kernel must be [h, w, 1 or 3, O], that of a layer which sees pixels, got {kernel.shape}")
    kernel = jnp.moveaxis(kernel, -1, 0)
    largest = jnp.abs(kernel).max((1, 2, 3), keepdims=True)
    return 0.5 + 0.5 * kernel / jnp.where(largest > 0, largest, 1)
