"""Flows of pictures [H, W, C]: squeezing, invertible 1 x 1 convolutions, several scales. Glow (Kingma and Dhariwal, 2018)."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int
from dljax.core.contract import Key, Params
from dljax.generative.bijectors import Bijector, Mapped, Point, chain, exact_inverse, repeat
from dljax.generative.couplings import affine, convolutional_network, coupling
from dljax.generative.elementary_flows import act_norm


def glow(*, num_levels: int = 2, num_steps: int = 8, width: int = 64, max_log_scale: float = 2.0) -> Bijector:
    """Glow: at each level the picture is squeezed, goes through K steps of flow, and half of its channels go on to the next level.

      level_l = squeezed(chain(repeat(chain(act_norm, 1 x 1 convolution, affine coupling), K), on_half(level_{l+1})))

    Args:
      num_levels: L >= 1; sides must be multiples of 2^L.
      num_steps: K >= 1 of each level, scanned.
      width: >= 1, channels of the convolutional conditioners.
      max_log_scale: > 0, of the affine couplings.
    Raises:
      ValueError: an option out of its range; when the first batch comes: a side that cannot be halved L times.
    Source: Kingma and Dhariwal (2018), Glow, figure 2. What leaves at a level is standard normal: the steps before have given it mean and scale.

    >>> layer = glow(num_levels=1, num_steps=1, width=4)
    >>> params = layer.init(jax.random.key(0), jax.random.normal(jax.random.key(1), (2, 4, 4, 1)))
    >>> layer.inverse(params, jnp.ones((4, 4, 1)))[0].shape
    (4, 4, 1)
    """
    check_int("glow", "num_levels", num_levels, minimum=1)
    step = chain(act_norm(), invertible_convolution(), coupling(affine(max_log_scale), convolutional_network(width)))
    steps = repeat(step, num_steps)
    level = squeezed(steps)
    for _ in range(num_levels - 1):
        level = squeezed(chain(steps, on_half(level)))
    return level


def squeezed(bijector: Bijector) -> Bijector:
    """A bijector of [H/2, W/2, 4C] as one of [H, W, C]: blocks of 2 x 2 pixels become channels, and pixels again.

    A context that is a picture [H, W, F] is squeezed too.

    Raises:
      ValueError: a bijector without an exact inverse; when the first batch comes: no picture, or an odd side.
    Source: Dinh et al. (2017), RealNVP, section 3.6.

    >>> layer = squeezed(act_norm())
    >>> params = layer.init(jax.random.key(0), jax.random.normal(jax.random.key(1), (3, 4, 4, 1)))
    >>> params["shift"].shape
    (4,)
    """
    back = exact_inverse("squeezed", bijector)

    def squeeze(x: Num[Array, "*B H W C"]) -> Num[Array, "*B I J F"]:
        *batch, height, width, channels = x.shape
        blocks = x.reshape(*batch, height // 2, 2, width // 2, 2, channels)
        return jnp.moveaxis(blocks, -4, -3).reshape(*batch, height // 2, width // 2, 4 * channels)

    def spread(x: Num[Array, "I J F"]) -> Num[Array, "H W C"]:
        height, width, channels = x.shape
        blocks = x.reshape(height, width, 2, 2, channels // 4)
        return jnp.moveaxis(blocks, -4, -3).reshape(2 * height, 2 * width, channels // 4)

    def narrowed(context: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(squeeze(part) if part.ndim == 3 else part for part in context)

    def init(key: Key, x: Num[Array, "B ..."], *context: Array) -> Params:
        if x.ndim != 4 or x.shape[1] % 2 or x.shape[2] % 2:
            raise ValueError(
                f"squeezed: pictures must be [B, H, W, C] with even H and W at every level, got {list(x.shape)}; pad them, or squeeze less"
            )
        return bijector.init(key, squeeze(x), *(squeeze(part) if part.ndim == x.ndim else part for part in context))

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        x, log_det = bijector.forward(params, squeeze(z), *narrowed(context))
        return spread(x), log_det

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        z, log_det = back(params, squeeze(x), *narrowed(context))
        return spread(z), log_det

    return Bijector(init, forward, inverse)


def on_half(bijector: Bijector) -> Bijector:
    """A bijector of the first half of the features (channels); the others stay what they are, and leave the flow here.

    Raises:
      ValueError: a bijector without an exact inverse; when the first batch comes: fewer than two features.
    Source: Dinh et al. (2017), RealNVP, section 3.6, eq. 14-16.

    >>> layer = on_half(act_norm())
    >>> params = layer.init(jax.random.key(0), jnp.array([[0.0, 5.0], [2.0, 5.0]]))
    >>> layer.inverse(params, jnp.array([2.0, 7.0]))[0].tolist()
    [1.0, 7.0]
    """
    back = exact_inverse("on_half", bijector)

    def init(key: Key, x: Num[Array, "B ..."], *context: Array) -> Params:
        if x.shape[-1] < 2:
            raise ValueError(f"on_half: needs at least 2 features, got {x.shape[-1]}")
        return bijector.init(key, x[..., : x.shape[-1] // 2], *context)

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        moved, still = jnp.split(z, [z.shape[-1] // 2], -1)
        moved, log_det = bijector.forward(params, moved, *context)
        return jnp.concatenate([moved, still], -1), log_det

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        moved, still = jnp.split(x, [x.shape[-1] // 2], -1)
        moved, log_det = back(params, moved, *context)
        return jnp.concatenate([moved, still], -1), log_det

    return Bijector(init, forward, inverse)


def invertible_convolution() -> Bijector:
    """A linear map of the features, the same at every pixel: a learned mixing in place of a permutation.

      z = W x,   W = P L (U + diag(exp s)),   log|det ∂z/∂x| = H W Σ_c s_c

    P reverses the features, L has a diagonal of ones, U none: W cannot become singular, and its inverse is two triangular solves.
    L and U begin as small noise, s at zero.

    Source: Kingma and Dhariwal (2018), Glow, section 3.2 (which begins at a random rotation).

    >>> layer = invertible_convolution()
    >>> params = layer.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> z, _ = layer.inverse(params, jnp.array([1.0, 2.0, 3.0]))
    >>> jnp.allclose(layer.forward(params, z)[0], jnp.array([1.0, 2.0, 3.0]), atol=1e-4).item()
    True
    """

    def init(key: Key, x: Num[Array, "B ..."], *context: Array) -> Params:
        size = x.shape[-1]
        lower, upper = jax.random.normal(key, (2, size, size), x.dtype) / size
        return {"lower": jnp.tril(lower, -1), "upper": jnp.triu(upper, 1), "log_scale": jnp.zeros(size, x.dtype)}

    def factors(params: Params) -> tuple[Float[Array, "C C"], Float[Array, "C C"]]:
        scale = params["log_scale"]
        lower = jnp.tril(params["lower"], -1) + jnp.eye(scale.size, dtype=scale.dtype)
        return lower, jnp.triu(params["upper"], 1) + jnp.diag(jnp.exp(scale))

    def log_det(params: Params, point: Point) -> Float[Array, ""]:
        return params["log_scale"].sum() * (point.size // point.shape[-1])

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        lower, upper = factors(params)
        return jnp.flip(x @ (lower @ upper).T, -1), log_det(params, x)

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        lower, upper = factors(params)
        rows = jnp.flip(z, -1).reshape(-1, z.shape[-1]).T
        rows = solve_triangular(upper, solve_triangular(lower, rows, lower=True, unit_diagonal=True))
        return rows.T.reshape(z.shape), -log_det(params, z)

    return Bijector(init, forward, inverse)
