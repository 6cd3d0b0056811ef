"""Normalisation: batch norm whose statistics are those of the whole batch on any number of devices, and linen's layers for the rest.

`LayerNorm`, `GroupNorm`, `InstanceNorm` and `RMSNorm` see one example at a time and need no other device; they are Flax's, with its ε = 1e-6
(PyTorch's is 1e-5). Their default variance E x² - (E x)² loses digits where the mean is hundreds of deviations from zero;
`use_fast_variance=False` does not. `WeightNorm` and `SpectralNorm` wrap a layer and are Flax's as well: a wrapped kernel starts with columns of
length one, where PyTorch keeps the length it had, and `SpectralNorm` takes a step of power iteration in evaluation too, without storing it.
`norm_layer` makes the norms of a Transformer.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from flax.linen import GroupNorm, InstanceNorm, LayerNorm, RMSNorm, SpectralNorm, WeightNorm
from flax.linen.dtypes import canonicalize_dtype
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact

from dljax.core.axis import bound_axis
from dljax.core.checks import check_choice, check_range

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm", "SpectralNorm", "WeightNorm", "norm_layer"]


class BatchNorm(linen.BatchNorm):
    """`flax.linen.BatchNorm` that is the same layer on one device and on many: the same options, variables and values.

      y = γ (x - E x) / √(Var x + ε) + β,   running ← m · running + (1 - m) · batch

    E and Var are over all axes but `axis`. Where a data-parallel axis is bound (`dljax.core.bind_axis`; the engine binds it under `pmap` and
    `shard_map`) they are over the examples of all its devices, so that a sharded step is the step of one device; an `axis_name` of one's own
    replaces it. Under `jit` with shardings nothing is needed. By default the variance is the mean square of what is left when the mean is subtracted;
    linen's E x² - (E x)², which loses its digits where the mean is large, is `use_fast_variance=True`.

    PyTorch's momentum is 1 - m, and its running variance is that of a sample, n / (n - 1) times the one kept here.

    Calling it:
      x: inputs; a feature of zero variance, as in a batch of one, gives β.
      use_running_average: normalise with the running statistics (evaluation) and leave them alone.
      mask: which entries count, of a shape that broadcasts to x; devices may have different numbers of them. Where none counts, the batch has
        mean zero and variance zero, and the running statistics stay as they are.
    Raises:
      ValueError: when traced: x has no entries to normalise over; `momentum` outside [0, 1]; `epsilon` < 0.
    Source: Ioffe and Szegedy (2015), Batch Normalization, algorithm 1.

    >>> import jax
    >>> layer = BatchNorm(use_running_average=False, momentum=0.9)
    >>> x = jnp.array([[1.0], [3.0]])
    >>> variables = layer.init(jax.random.key(0), x)
    >>> y, changed = layer.apply(variables, x, mutable=["batch_stats"])
    >>> [round(float(value), 3) for value in (y[0, 0], y[1, 0], changed["batch_stats"]["mean"][0], changed["batch_stats"]["var"][0])]
    [-1.0, 1.0, 0.2, 1.0]
    """

    use_fast_variance: bool = False

    @linen.compact
    def __call__(
        self, x: Inexact[Array, "..."], use_running_average: bool | None = None, *, mask: Bool[Array, "..."] | Float[Array, "..."] | None = None
    ) -> Inexact[Array, "..."]:
        check_range("BatchNorm", "momentum", self.momentum, 0, 1)
        check_range("BatchNorm", "epsilon", self.epsilon, 0)
        use_running_average = linen.merge_param("use_running_average", self.use_running_average, use_running_average)
        features = {axis % x.ndim for axis in ((self.axis,) if isinstance(self.axis, int) else self.axis)}
        others = tuple(axis for axis in range(x.ndim) if axis not in features)
        shape = tuple(x.shape[axis] for axis in sorted(features))
        stats_dtype = jnp.float32 if self.force_float32_reductions else self.param_dtype
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, stats_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, stats_dtype)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype) if self.use_scale else None
        bias = self.param("bias", self.bias_init, shape, self.param_dtype) if self.use_bias else None
        dtype = canonicalize_dtype(x, scale, bias, dtype=self.dtype)
        x = x.astype(jnp.promote_types(dtype, jnp.float32) if self.force_float32_reductions else dtype)
        gamma, beta = (jnp.full(shape, value, x.dtype) if param is None else param.astype(x.dtype) for param, value in ((scale, 1), (bias, 0)))
        if use_running_average:
            mean, var = (running.value.astype(x.dtype) for running in (running_mean, running_var))
            y = _affine(x, mean, lax.rsqrt(var + self.epsilon), gamma, beta, others)
            return y.astype(dtype)

        if 0 in x.shape:
            raise ValueError(f"BatchNorm: x must have entries to normalise over, got the shape {x.shape}; leave empty batches out")
        groups = self.axis_index_groups and tuple(map(tuple, self.axis_index_groups))
        over = _Over(others, None if self.is_initializing() else self.axis_name or bound_axis(), groups, self.use_fast_variance)
        mask = None if mask is None else jnp.broadcast_to(jnp.asarray(mask, bool), x.shape)
        weight = jnp.asarray(over.size(x) if mask is None else over.sum(mask.astype(x.real.dtype)), x.real.dtype)
        y, mean, var = _normalised(over, self.epsilon, x, mask, jnp.maximum(weight, 1), gamma, beta)
        if not self.is_initializing():
            for running, value in ((running_mean, mean), (running_var, var)):
                updated = self.momentum * running.value + (1 - self.momentum) * value.astype(running.value.dtype)
                running.value = updated if mask is None else jnp.where(weight > 0, updated, running.value)
        return y.astype(dtype)


def norm_layer(norm: str, epsilon: float, *, name: str | None = None) -> linen.Module:
    """Layer norm ("layer", linen's `LayerNorm(use_fast_variance=False)`) or root mean square norm ("rms", linen's `RMSNorm`), over the last axis.

    >>> import jax
    >>> norm_layer("rms", 1e-6).init_with_output(jax.random.key(0), jnp.full((1, 2), 3.0))[0].round(3).tolist()
    [[1.0, 1.0]]
    """
    check_choice("norm_layer", "norm", norm, ("layer", "rms"))
    return RMSNorm(epsilon=epsilon, name=name) if norm == "rms" else _LayerNorm(epsilon, name=name)


class _Over(NamedTuple):
    axes: tuple[int, ...]
    axis_name: Any
    groups: tuple[tuple[int, ...], ...] | None
    is_fast: bool

    def sum(self, values: Array) -> Array:
        total = values.sum(self.axes)
        return total if self.axis_name is None else lax.psum(total, self.axis_name, axis_index_groups=self.groups)

    def size(self, x: Array) -> int:
        devices = 1 if self.axis_name is None else lax.psum(1, self.axis_name, axis_index_groups=self.groups)
        return math.prod(x.shape[axis] for axis in self.axes) * devices

    def mean(self, values: Array, mask: Array | None, weight: Array) -> Array:
        return self.sum(values if mask is None else jnp.where(mask, values, 0)) / weight


def _affine(x: Array, mean: Array, factor: Array, gamma: Array, beta: Array, axes: tuple[int, ...]) -> Array:
    return (x - jnp.expand_dims(mean, axes)) * jnp.expand_dims(factor * gamma, axes) + jnp.expand_dims(beta, axes)


def _square(x: Array) -> Array:
    return jnp.real(x * jnp.conj(x))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _normalised(over: _Over, epsilon: float, x: Array, mask: Array | None, weight: Array, gamma: Array, beta: Array) -> tuple[Array, Array, Array]:
    """Outputs, mean and variance."""
    mean = over.mean(x, mask, weight)
    if over.is_fast:
        var = jnp.maximum(over.mean(_square(x), mask, weight) - _square(mean), 0)
    else:
        var = over.mean(_square(x - jnp.expand_dims(mean, over.axes)), mask, weight)
    return _affine(x, mean, lax.rsqrt(var + epsilon), gamma, beta, over.axes), mean, var


@_normalised.defjvp
def _normalised_jvp(over: _Over, epsilon: float, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    x, mask, weight, gamma, beta = primals
    dx, _, _, dgamma, dbeta = tangents
    y, mean, var = _normalised(over, epsilon, x, mask, weight, gamma, beta)
    factor = lax.rsqrt(var + epsilon)
    unit = (x - jnp.expand_dims(mean, over.axes)) * jnp.expand_dims(factor, over.axes)
    dmean, slope = over.mean(dx, mask, weight), over.mean(jnp.real(dx * jnp.conj(unit)), mask, weight)
    # Small vectors are gathered before they are spread over x: transposed, this is two sums over the batch and one pass, half of what JAX derives.
    shift, tilt = dbeta - factor * gamma * dmean, dgamma - factor * gamma * slope
    dy = dx * jnp.expand_dims(factor * gamma, over.axes) + jnp.expand_dims(shift, over.axes) + unit * jnp.expand_dims(tilt, over.axes)
    return (y, mean, var), (dy, dmean, 2 * slope / factor)


class _LayerNorm(linen.Module):
    epsilon: float

    @linen.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        inits = {"scale": linen.initializers.ones, "bias": linen.initializers.zeros}
        scale, bias = (self.param(name, init, x.shape[-1:], jnp.float32) for name, init in inits.items())
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        rate = lax.rsqrt(_variance(wide) + self.epsilon)
        y = (wide - wide.mean(-1, keepdims=True)) * rate * jnp.expand_dims(scale, range(x.ndim - 1)) + jnp.expand_dims(bias, range(x.ndim - 1))
        return y.astype(jnp.result_type(x, scale, bias))


@jax.custom_jvp
def _variance(x: Float[Array, "*B D"]) -> Float[Array, "*B 1"]:
    # The quick form E x² - (E x)² loses all digits where the mean is large, as in a deep stream.
    return jnp.square(x - x.mean(-1, keepdims=True)).mean(-1, keepdims=True)


@_variance.defjvp
def _variance_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # The mean's own derivative adds nothing, and is left out: a training step of a small GPT takes some per cent less.
    (x,), (dx,) = primals, tangents
    centred = x - x.mean(-1, keepdims=True)
    return jnp.square(centred).mean(-1, keepdims=True), 2 * (centred * dx).mean(-1, keepdims=True)
