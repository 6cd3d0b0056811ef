"""Layers whose Fisher information is nearly a Kronecker product, found inside any model made of linen's Dense and Conv."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from flax.core.tracers import current_trace
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float

from dljax.core.contract import Params
from dljax.core.tree import named_leaves
from dljax.nn.convolution import patches
from dljax.nn.product import traced_for_cpu


class Layer(NamedTuple):
    """A dense or convolutional layer as a matrix [K (+ 1), O], its bias the last row.

    Attributes:
      has_bias: whether there is one.
      shape: of the kernel, [..., O].
      outputs: shape and dtype of what the layer returns.
      geometry: window, strides, padding and dilation of a convolution, None for a dense layer.
    """

    has_bias: bool
    shape: tuple[int, ...]
    outputs: jax.ShapeDtypeStruct
    geometry: tuple | None

    def rows(self, x: Array, examples: int) -> Float[Array, "B T K"]:
        """Inputs of the matrix: for each example those of its T places, a one behind each where there is a bias."""
        if self.geometry is not None:
            window, strides, padding, dilation = self.geometry
            x = patches(x, window, strides=strides, padding=padding, dilation=dilation)
        x = x.reshape(examples, -1, x.shape[-1])
        return jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1), x.dtype)], -1) if self.has_bias else x

    def names(self, name: str) -> list[str]:
        """Paths of the kernel and of the bias, if there is one, of the layer of that path."""
        return [_joined(name, leaf) for leaf in (("kernel", "bias") if self.has_bias else ("kernel",))]

    def matrix(self, leaves: Mapping[str, Array], name: str) -> Float[Array, "K O"]:
        """Kernel and bias out of all parameters by path."""
        return jnp.concatenate([leaves[leaf].reshape(-1, self.shape[-1]) for leaf in self.names(name)])

    def leaves(self, matrix: Float[Array, "K O"], name: str) -> dict[str, Array]:
        """The inverse of `matrix`."""
        kernel = matrix[:-1] if self.has_bias else matrix
        return dict(zip(self.names(name), [kernel.reshape(self.shape), matrix[-1]], strict=False))


def kronecker_layers(forward: Callable[[Params], Any], params: Params, examples: int | None = None) -> dict[str, Layer]:
    """The layers of a model that `kfac` has factors for.

    These are linen's and dljax's Dense and Conv that are called once and in plain sight: not inside `linen.scan`, `remat` or `jit`. A Conv must be in
    one group, without mask and input dilation, and padded with zeros.

    Args:
      forward: `params -> anything`, which calls the model.
      params: its parameters; nothing is computed.
      examples: B, of which the first axis of the layers' inputs must be a multiple.
    Returns:
      `path -> Layer`, paths as `named_leaves` has them.

    >>> model = linen.Sequential([linen.Dense(3), linen.LayerNorm(), linen.Dense(2)])
    >>> x = jnp.ones((4, 5))
    >>> sorted(kronecker_layers(lambda params: model.apply({"params": params}, x), model.init(jax.random.key(0), x)["params"]))
    ['layers_0', 'layers_2']
    """
    calls: dict[str, list[Layer | None]] = {}

    def watched(params: Params) -> Any:
        surface = current_trace()

        def watch(following: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any], context: Any) -> Any:
            y = following(*args, **kwargs)
            if _is_layer(context):
                in_sight = current_trace() == surface
                calls.setdefault(_path(context), []).append(_layer(context.module, _input(args, kwargs), y, examples) if in_sight else None)
            return y

        with linen.intercept_methods(watch):
            return forward(params)

    jax.eval_shape(watched, params)
    shapes = {name: leaf.shape for name, leaf in named_leaves(params)}
    return {
        name: layer
        for name, (layer, *others) in calls.items()
        if layer is not None and not others and shapes.get(_joined(name, "kernel")) == layer.shape
    }


def watched(layers: Mapping[str, Layer], forward: Callable[[Params], Any]) -> Callable[[Params, Mapping[str, Array]], tuple[Any, dict[str, Array]]]:
    """`(params, shifts) -> (what forward returns, inputs of the layers)`, with a shift added to each layer's outputs: derivatives by the shifts are
    those by the outputs.

    >>> model, x = linen.Dense(2, use_bias=False), jnp.ones((1, 3))
    >>> layers = kronecker_layers(lambda params: model.apply({"params": params}, x), {"kernel": jnp.ones((3, 2))})
    >>> run = watched(layers, lambda params: model.apply({"params": params}, x))
    >>> y, inputs = run({"kernel": jnp.ones((3, 2))}, {"": jnp.array([[0.0, 1.0]])})
    >>> y.tolist(), inputs[""].shape
    ([[3.0, 4.0]], (1, 3))
    """

    def run(params: Params, shifts: Mapping[str, Array]) -> tuple[Any, dict[str, Array]]:
        inputs: dict[str, Array] = {}

        def watch(following: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any], context: Any) -> Any:
            y = following(*args, **kwargs)
            if not _is_layer(context) or (name := _path(context)) not in layers:
                return y
            inputs[name] = _input(args, kwargs)
            return y + shifts[name]

        with linen.intercept_methods(watch):
            return forward(params), inputs

    return run


def input_factor(rows: Float[Array, "B T K"], weights: Float[Array, " B"]) -> Float[Array, "K K"]:
    """Σ_b w_b Σ_t a aᵀ over the inputs a of a layer at each place t.

    >>> input_factor(jnp.array([[[1.0, 2.0]], [[3.0, 0.0]]]), jnp.array([1.0, 4.0])).tolist()
    [[37.0, 2.0], [2.0, 4.0]]
    """
    scaled = (rows * jnp.sqrt(weights).astype(rows.dtype)[:, None, None]).reshape(-1, rows.shape[-1])
    return scaled.T @ scaled


def output_factor(grads: Float[Array, "B *T O"], examples: int) -> Float[Array, "O O"]:
    """1/T Σ_b Σ_t g gᵀ over the gradients g by a layer's outputs at each of T places.

    >>> output_factor(jnp.array([[[1.0], [3.0]]]), 1).tolist()
    [[5.0]]
    """
    rows = grads.reshape(-1, grads.shape[-1])
    return rows.T @ rows * (examples / rows.shape[0])


def damped_inverses(A: Float[Array, "K K"], G: Float[Array, "O O"], damping: Float[Array, ""]) -> tuple[Float[Array, "K K"], Float[Array, "O O"]]:
    """Inverses of both factors, the damping shared out between them.

      (A + π √λ I)⁻¹,   (G + √λ / π I)⁻¹,   π² = (tr A / K) / (tr G / O)

    Source: Martens and Grosse (2015), section 6.3.

    >>> [inverse.round(3).tolist() for inverse in damped_inverses(jnp.eye(1), jnp.eye(1), jnp.float32(1.0))]
    [[[0.5]], [[0.5]]]
    """
    a, g = jnp.trace(A) / A.shape[0], jnp.trace(G) / G.shape[0]
    is_known = (a > 0) & (g > 0)
    ratio = jnp.sqrt(jnp.where(is_known, a, 1) / jnp.where(is_known, g, 1))
    root = jnp.sqrt(damping)
    return inverse(A + ratio * root * jnp.eye(len(A), dtype=A.dtype)), inverse(G + root / ratio * jnp.eye(len(G), dtype=G.dtype))


def inverse(M: Float[Array, "K K"]) -> Float[Array, "K K"]:
    """The inverse of a symmetric positive definite matrix.

    On a CPU all but blocks of 16 (K / 32 of large matrices) are products of matrices: the threads of the library that solves triangular systems get
    in the way of XLA's, up to hundreds of times slower at K = 65 on two busy cores.

    >>> inverse(jnp.diag(jnp.array([2.0, 4.0]))).round(3).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    if not traced_for_cpu():
        return cho_solve(cho_factor(M, lower=True), jnp.eye(len(M), dtype=M.dtype))
    root = _inverse_root(M, max(16, len(M) // 32))
    return root.T @ root


def _inverse_root(M: Array, block: int) -> Array:
    """L⁻¹ of M = L Lᵀ, by halves."""
    if len(M) <= block:
        return lax.linalg.triangular_solve(lax.linalg.cholesky(M), jnp.eye(len(M), dtype=M.dtype), left_side=True, lower=True)
    half = len(M) // 2
    first = _inverse_root(M[:half, :half], block)
    below = M[half:, :half] @ first.T
    second = _inverse_root(M[half:, half:] - below @ below.T, block)
    corner = jnp.zeros((half, len(M) - half), M.dtype)
    return jnp.block([[first, corner], [-(second @ below) @ first, second]])


def _is_layer(context: Any) -> bool:
    return context.method_name == "__call__" and isinstance(context.module, linen.Dense | linen.Conv)


def _path(context: Any) -> str:
    return "/".join(context.module.path)


def _joined(name: str, leaf: str) -> str:
    return f"{name}/{leaf}" if name else leaf


def _input(args: tuple, kwargs: Mapping[str, Any]) -> Array:
    return args[0] if args else kwargs["inputs"]


def _layer(module: linen.Dense | linen.Conv, x: Array, y: Array, examples: int | None) -> Layer | None:
    outputs, has_bias = jax.ShapeDtypeStruct(y.shape, y.dtype), module.use_bias
    if x.ndim < 2 or (examples is not None and x.shape[0] % examples):
        return None
    if isinstance(module, linen.Dense):
        return Layer(has_bias, (x.shape[-1], module.features), outputs, None)
    window = (module.kernel_size,) if isinstance(module.kernel_size, int) else tuple(module.kernel_size)
    is_plain = module.feature_group_count == 1 and module.mask is None and x.ndim == len(window) + 2
    spacing: Any = module.input_dilation or 1
    is_plain &= set((spacing,) if isinstance(spacing, int) else spacing) == {1}
    if not is_plain or (isinstance(module.padding, str) and module.padding not in ("SAME", "VALID")):
        return None
    geometry = window, module.strides or 1, module.padding, module.kernel_dilation or 1
    return Layer(has_bias, (*window, x.shape[-1], module.features), outputs, geometry)
