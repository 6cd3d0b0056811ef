"""Residual flows: identity plus a contraction, with an unbiased estimate of the log-determinant (Behrmann et al., 2019; Chen et al., 2019)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Float, Num

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Params
from dljax.core.precision import wrap
from dljax.generative.bijectors import Bijector, Mapped, Point


def residual(
    *, hidden: Sequence[int] = (64, 64), coefficient: float = 0.9, num_terms: int = 4, stay: float = 0.85, max_iterations: int = 200
) -> Bijector:
    """An invertible residual block.

      z = x + g(x),   Lip(g) <= c < 1
      log|det ∂z/∂x| = Σ_{k≥1} (-1)^{k+1}/k tr(J^k),   J = ∂g/∂x

    g is a network of LipSwish layers, each divided by a bound of its spectral norm. `inverse` takes the determinant of the whole Jacobian (D passes);
    `estimate`, by which a flow is trained, puts the vᵀJ^k v of one random sign vector in place of each trace (Hutchinson) and ends the series at
    random, with every term divided by the probability of coming to it (Russian roulette): both leave the mean of the value and of its gradient.
    `forward` finds x by the fixed point x ← z - g(x).

    Args:
      hidden: widths of g.
      coefficient: c in (0, 1).
      num_terms: n >= 1 that are always taken; later ones go on with probability `stay`.
      stay: in (c², 1): below, the variance may be infinite. n + 1/(1 - stay) terms are taken on average.
      max_iterations: >= 1 of the fixed point; the error shrinks by c in each.
    Raises:
      ValueError: an option out of its range.
    Source: Chen, Behrmann, Duvenaud and Jacobsen (2019), Residual Flows, eq. 6-8 and section 3.3.

    >>> layer = residual(hidden=(8,))
    >>> params = layer.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> x, _ = layer.forward(params, jnp.array([0.5, -1.0]))
    >>> layer.inverse(params, x)[0].round(3).tolist()
    [0.5, -1.0]
    """
    for width in hidden:
        check_int("residual", "hidden", width, minimum=1)
    check_int("residual", "num_terms", num_terms, minimum=1)
    check_int("residual", "max_iterations", max_iterations, minimum=1)
    check_range("residual", "coefficient", coefficient, 0, 1, open_low=True, open_high=True)
    check_range("residual", "stay", stay, coefficient**2, 1, open_low=True, open_high=True)

    def branch(params: Params, context: tuple[Array, ...]) -> Callable[[Point], Point]:
        share = coefficient ** (1 / len(params["layers"]))
        layers = [{"kernel": _contracted(layer["kernel"], share), "bias": layer["bias"]} for layer in params["layers"]]
        if context:
            layers[0]["bias"] = layers[0]["bias"] + context[0] @ params["context"]

        def apply(layers: list[Params], x: Point) -> Point:
            first, *others = layers
            x = x @ first["kernel"] + first["bias"]
            for layer in others:
                x = lip_swish(x) @ layer["kernel"] + layer["bias"]
            return x

        return lambda x: wrap(apply)(layers, x)

    def init(key: Key, x: Num[Array, "B D"], *context: Array) -> Params:
        sizes = [x.shape[1], *hidden, x.shape[1]]
        context_key, *keys = jax.random.split(key, len(sizes))
        make = linen.initializers.lecun_normal()
        layers = [
            {"kernel": make(layer_key, (fan_in, fan_out), x.dtype), "bias": jnp.zeros(fan_out, x.dtype)}
            for layer_key, fan_in, fan_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
        ]
        return {"layers": layers} | ({"context": make(context_key, (context[0].shape[-1], sizes[1]), x.dtype)} if context else {})

    def inverse(params: Params, x: Point, *context: Array) -> Mapped:
        network = branch(params, context)
        jacobian = jax.jacfwd(network)(x) + jnp.eye(x.size, dtype=x.dtype)
        return x + network(x), jnp.linalg.slogdet(jacobian)[1]

    def forward(params: Params, z: Point, *context: Array) -> Mapped:
        network = branch(params, context)

        def solve(_: Callable, start: Point) -> Point:
            tolerance = 4 * jnp.finfo(z.dtype).eps * (1 + jnp.abs(z).max())

            def goes_on(carry: tuple[Array, Point, Point]) -> Array:
                number, x, before = carry
                return (number < max_iterations) & (jnp.abs(x - before).max() > tolerance)

            first = z - network(start)
            return lax.while_loop(goes_on, lambda carry: (carry[0] + 1, z - network(carry[1]), carry[1]), (jnp.int32(1), first, start))[1]

        def solve_linear(linear: Callable[[Point], Point], rise: Point) -> Point:
            return jnp.linalg.solve(jax.jacfwd(linear)(rise), rise)

        x = lax.custom_root(lambda x: x + network(x) - z, z, solve, solve_linear)
        return x, -inverse(params, x, *context)[1]

    def estimate(key: Key, params: Params, x: Point, *context: Array) -> Mapped:
        network = branch(params, context)
        return x + network(x), log_det_estimate(key, network, x, num_terms=num_terms, stay=stay)

    return Bijector(init, forward, inverse, estimate)


def log_det_estimate(key: Key, network: Callable[[Point], Point], x: Float[Array, " D"], *, num_terms: int, stay: float) -> Float[Array, ""]:
    """An unbiased estimate of log|det(I + ∂g/∂x)|, with an unbiased gradient, in the memory of one term.

      Σ_{k=1}^{n+N} (-1)^{k+1}/k vᵀJ^k v / P(k is reached),   v_i = ±1,   P(k is reached) = stay^max(k - n, 0)

    The gradient is that of uᵀ J v with u = Σ_k (-1)^k/P (Jᵀ)^k v held fixed (Neumann series): no step of the series is kept.

    Args:
      network: g, a contraction.
      num_terms: n >= 1, terms that are always taken.
      stay: in (0, 1), the probability to go on after each later one.
    Source: Chen et al. (2019), Residual Flows, eq. 6 and 8.

    >>> value = log_det_estimate(jax.random.key(0), lambda x: 0.5 * x, jnp.zeros(1), num_terms=30, stay=0.5)
    >>> round(float(value), 4)  # log 1.5
    0.4055
    """
    check_int("log_det_estimate", "num_terms", num_terms, minimum=1)
    check_range("log_det_estimate", "stay", stay, 0, 1, open_low=True, open_high=True)
    sign_key, length_key = jax.random.split(key)
    signs = jax.random.rademacher(sign_key, x.shape, x.dtype)
    # 1 - U is in (0, 1]: geometric, the number of times that one goes on.
    extra = jnp.floor(jnp.log1p(-jax.random.uniform(length_key, (), x.dtype)) / jnp.log(stay)).astype(jnp.int32)
    transposed = lax.stop_gradient(jax.vjp(network, x)[1])

    def add(carry: tuple[Array, Point, Array, Point]) -> tuple[Array, Point, Array, Point]:
        k, power, value, neumann = carry  # power = (Jᵀ)^k v
        reached = jnp.asarray(stay, x.dtype) ** jnp.maximum(k - num_terms, 0)
        sign = jnp.where(k % 2 == 1, 1, -1).astype(x.dtype)
        # The gradient's term k - 1 is reached where the value's term k is.
        neumann = neumann + sign / reached * power
        (power,) = transposed(power)
        return k + 1, power, value + sign / (k * reached) * (power @ signs), neumann

    start = jnp.ones((), jnp.int32), signs, jnp.zeros((), x.dtype), jnp.zeros_like(x)
    _, _, value, neumann = lax.while_loop(lambda carry: carry[0] <= num_terms + extra, add, lax.stop_gradient(start))
    value, neumann = lax.stop_gradient((value, neumann))
    surrogate = neumann @ jax.jvp(network, (x,), (signs,))[1]
    return value + surrogate - lax.stop_gradient(surrogate)


def lip_swish(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """x σ(x)/1.1, smooth and with no slope beyond 1.

    Source: Chen et al. (2019), Residual Flows, section 3.3 (there with a learned steepness).

    >>> round(float(lip_swish(jnp.array(2.0))), 4)
    1.6014
    """
    return linen.silu(x) / 1.1


def spectral_norm_bound(kernel: Float[Array, "I O"], num_squarings: int = 5) -> Float[Array, ""]:
    """A bound of the largest singular value, never below it: power iteration of the whole Gram matrix, without a state.

      ‖W‖₂ <= ‖(WᵀW)^m‖_F^{1/2m} <= D^{1/4m} ‖W‖₂,   m = 2^num_squarings

    Args:
      num_squarings: >= 0; D is the smaller side of W. 5 leave at most 3 % for D = 64.
    Raises:
      ValueError: `num_squarings` < 0.
    Source: Delattre, Barthélemy, Araujo and Allauzen (2023), Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration.

    >>> round(float(spectral_norm_bound(jnp.diag(jnp.array([3.0, 1.0])))), 4)
    3.0
    """
    check_int("spectral_norm_bound", "num_squarings", num_squarings)
    # The bound of s W is s times that of W: all is divided by a size before it is squared, so that no power overflows.
    scale = lax.stop_gradient(jnp.maximum(jnp.abs(kernel).max(), jnp.finfo(kernel.dtype).tiny))
    kernel = kernel / scale
    gram = kernel.T @ kernel if kernel.shape[0] >= kernel.shape[1] else kernel @ kernel.T
    log_norm = jnp.zeros((), kernel.dtype)
    for number in range(num_squarings + 1):
        size = jnp.sqrt(jnp.maximum((gram**2).sum(), jnp.finfo(kernel.dtype).tiny))
        log_norm = log_norm + jnp.log(size) / 2**number
        gram = (gram / size) @ (gram / size)
    return scale * jnp.exp(log_norm / 2)


def _contracted(kernel: Float[Array, "I O"], coefficient: float) -> Float[Array, "I O"]:
    return kernel / jnp.maximum(spectral_norm_bound(kernel) / coefficient, 1)
