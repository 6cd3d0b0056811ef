"""Seeing inside: which parts of an input an output depends on. Functions of any model that `as_model` knows, and of any layer of a linen one.

All look at one output of each example, f(x) = outputs[b, target], best a logit: the gradient of a probability vanishes where the model is sure.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import lax
from jaxtyping import Array, Float, Int, Num

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric
from dljax.nn.dense import unit_pixels
from dljax.nn.model import Variables, as_model

type_aliases = ("Target",)

Target = int | Int[Array, ""] | Int[Array, " B"]  # the output that is looked at, one for all examples or one for each


def saliency(model: Any, params: Variables, x: Num[Array, "B *shape"], target: Target) -> Float[Array, "B *shape"]:
    """The gradient of an output with respect to the input.

      s = ∂f(x) / ∂x

    A picture of it shows |s|, the largest over the channels. uint8 pictures count in units of [0, 1].

    Args:
      model: whatever `dljax.nn.as_model` takes, with outputs [B, K].
      params: its variables.
      target: in 0 ... K - 1.
    Raises:
      ValueError: outputs that are not [B, K], a target that is none of them. TypeError: inputs of whole numbers that are no uint8 pictures.
    Source: Simonyan, Vedaldi and Zisserman (2014), Deep Inside Convolutional Networks, section 3.

    >>> line = (lambda key, x: {}, lambda params, x: x @ jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> saliency(line, {"params": {}}, jnp.zeros((1, 2)), 1).tolist()
    [[2.0, 4.0]]
    """
    x = unit_pixels(x)
    return _slope_of("saliency", model, params, target)(x)


def smooth_grad(
    key: Key, model: Any, params: Variables, x: Num[Array, "B *shape"], target: Target, *, noise: Numeric = 0.15, num: int = 50
) -> Float[Array, "B *shape"]:
    """The mean saliency around an input, which flickers less from pixel to pixel.

      s = 1/n Σ_i ∂f(x + σ ε_i) / ∂x,   ε_i ~ N(0, 1)

    Args:
      noise: σ >= 0 as a part of each example's range, max x - min x.
      num: n >= 1.
    Raises:
      ValueError: an option out of its range, and what `saliency` raises.
    Source: Smilkov, Thorat, Kim, Viégas and Wattenberg (2017), SmoothGrad: removing noise by adding noise.

    >>> square = (lambda key, x: {}, lambda params, x: x**2)
    >>> smooth_grad(jax.random.key(0), square, {"params": {}}, jnp.ones((1, 1)), 0).tolist()
    [[2.0]]
    """
    check_range("smooth_grad", "noise", noise, 0)
    check_int("smooth_grad", "num", num, minimum=1)
    x = unit_pixels(x)
    slope = _slope_of("smooth_grad", model, params, target)
    each = tuple(range(1, x.ndim))
    deviation = noise * (x.max(each, keepdims=True) - x.min(each, keepdims=True))

    def add(total: Array, key: Key) -> tuple[Array, None]:
        return total + slope(x + deviation * jax.random.normal(key, x.shape, x.dtype)), None

    return lax.scan(add, jnp.zeros_like(x), jax.random.split(key, num))[0] / num


def integrated_gradients(
    model: Any, params: Variables, x: Num[Array, "B *shape"], target: Target, *, baseline: Numeric | Num[Array, "..."] = 0.0, num: int = 32
) -> Float[Array, "B *shape"]:
    """What each part of an input adds to an output, on the straight way from a baseline; the parts sum to the whole.

      a = (x - x₀) ∫₀¹ ∂f(x₀ + α (x - x₀)) / ∂x dα,   Σ a = f(x) - f(x₀)

    The integral is a Gauss-Legendre sum, exact where f is a polynomial of degree 2n on the way; with ReLUs the sum misses by O(1/n).

    Args:
      baseline: x₀, an input that says nothing, of a shape that broadcasts to x; black by default.
      num: n >= 1 points.
    Raises:
      ValueError: `num` < 1, and what `saliency` raises.
    Source: Sundararajan, Taly and Yan (2017), Axiomatic Attribution for Deep Networks, eq. 1 and proposition 1.

    >>> product = (lambda key, x: {}, lambda params, x: x.prod(-1, keepdims=True))
    >>> [round(float(a), 4) for a in integrated_gradients(product, {"params": {}}, jnp.array([[2.0, 3.0]]), 0)[0]]
    [3.0, 3.0]
    """
    check_int("integrated_gradients", "num", num, minimum=1)
    x = unit_pixels(x)
    base = jnp.asarray(baseline)
    base = jnp.broadcast_to((unit_pixels(base) if base.dtype == jnp.uint8 else base).astype(x.dtype), x.shape)
    slope = _slope_of("integrated_gradients", model, params, target)
    nodes, weights = np.polynomial.legendre.leggauss(num)
    points = jnp.asarray((nodes + 1) / 2, x.dtype), jnp.asarray(weights / 2, x.dtype)

    def add(total: Array, point: tuple[Array, Array]) -> tuple[Array, None]:
        place, weight = point
        return total + weight * slope(base + place * (x - base)), None

    return (x - base) * lax.scan(add, jnp.zeros_like(x), points)[0]


def occlusion(
    model: Any, params: Variables, x: Num[Array, "B *shape"], target: Target, *, window: int = 4, stride: int = 2, value: Numeric = 0.0
) -> Float[Array, "B h w"]:
    """By how much an output falls when a square of the picture is covered.

      o_ij = f(x) - f(x with the window at (s i, s j) set to v)

    Args:
      window: the side of the square, 1 ... min(H, W) pixels.
      stride: s >= 1 pixels between neighbouring places.
      value: v, of the cover.
    Returns:
      One number a place, h = (H - window) // s + 1 and w likewise.
    Raises:
      ValueError: an option out of its range, and what `saliency` raises.
    Source: Zeiler and Fergus (2014), Visualizing and Understanding Convolutional Networks, section 4.2.

    >>> total = (lambda key, x: {}, lambda params, x: x.sum((1, 2)))
    >>> occlusion(total, {"params": {}}, jnp.ones((1, 4, 4, 1)), 0).tolist()
    [[[16.0]]]
    """
    if x.ndim != 4:
        raise ValueError(f"occlusion: x must be pictures [B, H, W, C], got {x.shape}")
    check_int("occlusion", "window", window, minimum=1, maximum=min(x.shape[1:3]))
    check_int("occlusion", "stride", stride, minimum=1)
    x = unit_pixels(x)
    output = unit_of("occlusion", model, params, target)
    rows, columns = (jnp.arange(0, size - window + 1, stride) for size in x.shape[1:3])
    cover = jnp.full((x.shape[0], window, window, x.shape[3]), value, x.dtype)
    places = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    covered = lax.map(lambda place: output(lax.dynamic_update_slice(x, cover, (0, place[0], place[1], 0))), places)
    return (output(x)[:, None] - covered.T).reshape(x.shape[0], len(rows), len(columns))


def grad_cam(model: Any, params: Variables, x: Num[Array, "B H W C"], target: Target, layer: str) -> Float[Array, "B h w"]:
    """Where a layer of a convolutional network saw what speaks for a class.

      L = relu(Σ_k α_k A_k),   α_k = 1/(h w) Σ_ij ∂f / ∂A_kij

    Before global average pooling and a linear head it is the class activation map, Σ_k w_k A_k / (h w), without its negative part.

    Args:
      layer: the path of a linen module with outputs [B, h, w, D], such as "Conv_1" or "block_2/conv"; `layer_shapes(model, params, x)` lists them.
    Returns:
      A map at the layer's resolution, of f's unit; `overlay` lays it over the picture.
    Raises:
      ValueError: no such layer (the message lists those there are), outputs of another rank, and what `saliency` raises.
    Source: Selvaraju et al. (2017), Grad-CAM, eq. 1 and 2.

    >>> from dljax.models.cnn import CNN
    >>> net, x = CNN(10, (4, 8), 16), jnp.ones((2, 8, 8, 1))
    >>> grad_cam(net, jax.jit(net.init)(jax.random.key(0), x), x, 3, "Conv_1").shape
    (2, 4, 4)
    """
    x = unit_pixels(x)
    _, at_rest = jax.eval_shape(lambda: _at_layer("grad_cam", model, params, x, layer))
    if at_rest.ndim != 4:
        raise ValueError(f"grad_cam: layer {layer!r} must have outputs [B, h, w, D], got {at_rest.shape}; choose a convolution")

    def total(change: Array) -> tuple[Array, Array]:
        outputs, activations = _at_layer("grad_cam", model, params, x, layer, change)
        return _chosen("grad_cam", outputs, target).sum(), activations

    slope, activations = jax.grad(total, has_aux=True)(jnp.zeros(at_rest.shape, at_rest.dtype))
    return linen.relu((slope.mean((1, 2), keepdims=True) * activations).sum(-1))


def layer_output(model: Any, params: Variables, x: Any, layer: str) -> Array:
    """The outputs of a layer.

    Args:
      layer: the path of a linen module; the second call of a module that is called more than once is "path#2".
    Raises:
      ValueError: no such layer (the message lists those there are).

    >>> model = linen.Sequential([linen.Dense(3), linen.relu, linen.Dense(2)])
    >>> x = jnp.ones((4, 5))
    >>> layer_output(model, model.init(jax.random.key(0), x), x, "layers_0").shape
    (4, 3)
    """
    return _at_layer("layer_output", model, params, x, layer)[1]


def layer_shapes(model: Any, params: Variables, x: Any) -> dict[str, tuple[int, ...]]:
    """The layers of a linen model that `grad_cam` and `layer_output` can look at, and the shapes of their outputs.

    In the order in which they are done. What stands inside of a transformation (`linen.scan`, `linen.remat`) or of an ODE is not among them.

    >>> model = linen.Sequential([linen.Dense(3), linen.relu, linen.Dense(2)])
    >>> layer_shapes(model, model.init(jax.random.key(0), jnp.ones((4, 5))), jnp.ones((4, 5)))
    {'layers_0': (4, 3), 'layers_2': (4, 2)}
    """
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str, outputs: Array) -> Array:
        found[name] = outputs.shape
        return outputs

    jax.eval_shape(lambda: _watched(model, params, x, note))
    return found


def overlay(x: Num[Array, "B H W C"], maps: Float[Array, "B h w"], *, opacity: Numeric = 0.6) -> Float[Array, "B H W 3"]:
    """Maps as heat over their pictures, each map divided by its largest absolute value: red where it is positive, blue where it is negative.

    Args:
      x: pictures of one or three channels, uint8 or floats in [0, 1].
      maps: at any resolution; they are enlarged bilinearly.
      opacity: of the heat where the map is largest, in [0, 1].
    Returns:
      Pictures in [0, 1], for `dljax.report.grid`.
    Raises:
      ValueError: `opacity` out of its range; pictures of another number of channels.

    >>> [round(float(colour), 2) for colour in overlay(jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1)))[0, 0, 0]]
    [0.48, 0.06, 0.0]
    """
    check_range("overlay", "opacity", opacity, 0, 1)
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise ValueError(f"overlay: x must be pictures of one or three channels [B, H, W, C], got {x.shape}")
    pictures = jnp.clip(unit_pixels(x), 0, 1)
    largest = jnp.abs(maps).max((1, 2), keepdims=True)
    maps = jax.image.resize(maps / jnp.where(largest > 0, largest, 1), x.shape[:3], "bilinear")[..., None]
    red, blue = (jnp.array(colour).reshape(1, 1, 1, 3) for colour in ([0.8, 0.1, 0.0], [0.0, 0.2, 0.8]))
    heat = jnp.where(maps > 0, red, blue)
    share = opacity * jnp.abs(maps)
    return jnp.clip((1 - share) * pictures + share * heat, 0, 1)


def unit_of(who: str, model: Any, params: Variables, target: Target, layer: str | None = None) -> Callable[[Array], Float[Array, " B"]]:
    """One number of each example as a function of the inputs: an output, or the mean over places of a channel of a layer.

    >>> line = (lambda key, x: {}, lambda params, x: 3 * x)
    >>> unit_of("doc", line, {"params": {}}, 1)(jnp.array([[1.0, 2.0]])).tolist()
    [6.0]
    """
    if layer is None:
        net = as_model(model)
        return lambda x: _chosen(who, net.apply(params, x)[0], target)

    def channel(x: Array) -> Float[Array, " B"]:
        _, activations = _at_layer(who, model, params, x, layer)
        return _chosen(who, activations.mean(tuple(range(1, activations.ndim - 1))), target)

    return channel


def _slope_of(who: str, model: Any, params: Variables, target: Target) -> Callable[[Array], Array]:
    # Examples do not depend on each other: the gradient of the sum is the gradient of each.
    output = unit_of(who, model, params, target)
    return jax.grad(lambda x: output(x).sum())


def _chosen(who: str, outputs: Any, target: Target) -> Float[Array, " B"]:
    if jnp.ndim(outputs) != 2:
        raise ValueError(f"{who}: the model's outputs must be [B, K], got {jax.tree.map(jnp.shape, outputs)}; wrap it so that they are")
    num, classes = outputs.shape
    # NumPy looks at what is concrete, which jax would not inside of a traced function.
    concrete = None if isinstance(target, jax.core.Tracer) else np.asarray(target)
    shape, dtype = jnp.shape(target), jnp.result_type(target)
    if not jnp.issubdtype(dtype, jnp.integer) or shape not in ((), (num,)):
        raise ValueError(f"{who}: target must be a whole number or {num} of them, got {dtype} of shape {shape}")
    if concrete is not None and not ((concrete >= 0) & (concrete < classes)).all():
        raise ValueError(f"{who}: target must be between 0 and {classes - 1}, got {concrete.tolist()}")
    return jnp.take_along_axis(outputs, jnp.broadcast_to(jnp.asarray(target), (num,))[:, None], 1)[:, 0]


def _at_layer(who: str, model: Any, params: Variables, x: Any, layer: str, change: Array | None = None) -> tuple[Any, Array]:
    """The model's outputs and the layer's, to which the change was added."""
    seen: dict[str, Array] = {}

    def note(name: str, outputs: Array) -> Array:
        seen[name] = outputs if change is None or name != layer else outputs + change
        return seen[name]

    outputs = _watched(model, params, x, note)
    if layer not in seen:
        there = f"there are {', '.join(map(repr, seen))}" if seen else f"the model, {type(model).__name__}, has none that linen knows"
        raise ValueError(f"{who}: no layer {layer!r}; {there}")
    return outputs, seen[layer]


def _watched(model: Any, params: Variables, x: Any, watch: Callable[[str, Array], Array]) -> Any:
    """The model's outputs, where every layer's, if they are one floating-point array, are replaced by `watch(name, outputs)`."""
    calls: Counter[str] = Counter()
    roots: list[Any] = []

    def intercept(call: Callable[..., Any], args: tuple, options: dict[str, Any], context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or module.scope is None:
            return call(*args, **options)
        # A model inside of the model, such as the field of an ODE, has a root and names of its own.
        roots.append(module.scope.root)
        name = "/".join(module.path)
        if not name or module.scope.root is not roots[0]:
            return call(*args, **options)
        calls[name] += 1
        name = name if calls[name] == 1 else f"{name}#{calls[name]}"
        outputs = call(*args, **options)
        return watch(name, outputs) if isinstance(outputs, jax.Array) and jnp.issubdtype(outputs.dtype, jnp.floating) else outputs

    with linen.intercept_methods(intercept):
        return as_model(model).apply(params, x)[0]
