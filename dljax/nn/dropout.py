"""Dropout and its relatives: noise in units, channels, weights, layers and time, as pure functions of a key; and its Monte Carlo average.

All keep the expectation: what is left is scaled by 1/(1-p), so that evaluation needs no change. `Noise` makes a linen layer of any of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric, Params
from dljax.core.tree import path_mask
from dljax.nn.dense import Dense


def dropout(key: Key, x: Float[Array, "*shape"], rate: Numeric, *, shared_axes: Sequence[int] = ()) -> Float[Array, "*shape"]:
    """Set each number to zero with probability p, and scale the others.

      y = m x / (1-p),   m ~ Bernoulli(1-p);   E[y] = x,   Var[y] = x² p/(1-p)

    Args:
      rate: p in [0, 1); may be traced, as everywhere here, but for p = 1 then gives NaN.
      shared_axes: axes along which all share one draw.
    Raises:
      ValueError: p outside [0, 1): with p = 1 nothing is left to scale.
    Source: Srivastava et al. (2014), JMLR 15, section 4.

    >>> sorted(set(dropout(jax.random.key(0), jnp.ones(100), 0.5).tolist()))
    [0.0, 2.0]
    """
    return _dropped("dropout", key, x, rate, [1 if axis in {a % x.ndim for a in shared_axes} else size for axis, size in enumerate(x.shape)])


def spatial_dropout(key: Key, x: Float[Array, "B *spatial C"], rate: Numeric) -> Float[Array, "B *spatial C"]:
    """Dropout of whole channels: neighbours in a feature map are so alike that single ones are not missed.

    Args:
      x: maps, channels last.
      rate: p in [0, 1).
    Raises:
      ValueError: as `dropout`.
    Source: Tompson et al. (2015), Efficient object localization, section 3.2.

    >>> maps = spatial_dropout(jax.random.key(0), jnp.ones((1, 2, 2, 9)), 0.5)
    >>> bool((maps == maps[:, :1, :1]).all()), sorted(set(maps[0, 0, 0].tolist()))
    (True, [0.0, 2.0])
    """
    return _dropped("spatial_dropout", key, x, rate, (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1]))


def variational_dropout(key: Key, x: Float[Array, "B T D"], rate: Numeric) -> Float[Array, "B T D"]:
    """Dropout of the same units at all times of a sequence, Gal's approximate inference for recurrent networks.

    Kingma's variational dropout, Gaussian noise of the same variance, is `gaussian_dropout`.

    Args:
      rate: p in [0, 1).
    Raises:
      ValueError: as `dropout`.
    Source: Gal and Ghahramani (2016), A theoretically grounded application of dropout in recurrent neural networks, section 4.

    >>> sequence = variational_dropout(jax.random.key(0), jnp.ones((1, 3, 9)), 0.5)
    >>> bool((sequence == sequence[:, :1]).all()), sorted(set(sequence[0, 0].tolist()))
    (True, [0.0, 2.0])
    """
    return _dropped("variational_dropout", key, x, rate, (x.shape[0], 1, x.shape[2]))


def stochastic_depth(key: Key, x: Float[Array, "B *shape"], rate: Numeric) -> Float[Array, "B *shape"]:
    """Drop the whole branch of a residual block for some examples: `x + stochastic_depth(key, branch(x), rate)`.

    Args:
      rate: p in [0, 1).
    Raises:
      ValueError: as `dropout`.
    Source: Huang et al. (2016), Deep networks with stochastic depth, eq. 2; scaled in training instead of in evaluation, and drawn for each example.

    >>> stochastic_depth(jax.random.key(1), jnp.ones((4, 2)), 0.5).sum(1).tolist()
    [4.0, 0.0, 4.0, 4.0]
    """
    return _dropped("stochastic_depth", key, x, rate, (x.shape[0], *(1,) * (x.ndim - 1)))


def drop_connect(key: Key, params: Params, rate: Numeric, pattern: str = ".*") -> Params:
    """Dropout of weights instead of units, one draw for the whole batch, on the leaves of a tree chosen by path.

    Args:
      params: parameters of any model, to be applied with what is returned.
      rate: p in [0, 1).
      pattern: which leaves, by a regular expression that is searched for in their paths: "kernel$".
    Raises:
      ValueError: as `dropout`; a pattern that finds nothing, naming the nearest paths.
    Source: Wan et al. (2013), Regularization of neural networks using DropConnect, eq. 2.

    >>> sorted(set(drop_connect(jax.random.key(0), {"kernel": jnp.ones(9), "bias": jnp.ones(9)}, 0.5, "kernel$")["bias"].tolist()))
    [1.0]
    """
    leaves, structure = jax.tree.flatten(params)
    chosen = jax.tree.leaves(path_mask(pattern, "drop_connect")(params))
    keys = jax.random.split(key, len(leaves))
    dropped = [_dropped("drop_connect", k, w, rate, w.shape) if is_chosen else w for k, w, is_chosen in zip(keys, leaves, chosen, strict=True)]
    return jax.tree.unflatten(structure, dropped)


def gaussian_dropout(key: Key, x: Float[Array, "*shape"], rate: Numeric) -> Float[Array, "*shape"]:
    """Multiplicative Gaussian noise with the mean and the variance of dropout.

      y = x (1 + √(p/(1-p)) ε),   ε ~ N(0, 1)

    Args:
      rate: p in [0, 1).
    Raises:
      ValueError: as `dropout`.
    Source: Srivastava et al. (2014), JMLR 15, section 10; Kingma, Salimans and Welling (2015) call it variational dropout, type A.

    >>> gaussian_dropout(jax.random.key(0), jnp.zeros(2), 0.5).tolist()
    [0.0, 0.0]
    """
    _check("gaussian_dropout", rate)
    return multiplicative_noise(key, x, jnp.sqrt(rate / (1 - jnp.asarray(rate, x.dtype))))


def additive_noise(key: Key, x: Float[Array, "*shape"], scale: Numeric) -> Float[Array, "*shape"]:
    """y = x + σ ε, ε ~ N(0, 1): on the inputs of a linear model with squared loss, ridge of strength σ² for each example.

    Args:
      scale: σ >= 0.
    Raises:
      ValueError: σ < 0.
    Source: Bishop (1995), Training with noise is equivalent to Tikhonov regularization.

    >>> additive_noise(jax.random.key(0), jnp.ones(2), 0.0).tolist()
    [1.0, 1.0]
    """
    check_range("additive_noise", "scale", scale, 0, open_high=True)
    return x + scale * jax.random.normal(key, x.shape, x.dtype)


def multiplicative_noise(key: Key, x: Float[Array, "*shape"], scale: Numeric) -> Float[Array, "*shape"]:
    """y = x (1 + σ ε), ε ~ N(0, 1).

    Args:
      scale: σ >= 0.
    Raises:
      ValueError: σ < 0.

    >>> multiplicative_noise(jax.random.key(0), jnp.zeros(2), 0.1).tolist()
    [0.0, 0.0]
    """
    check_range("multiplicative_noise", "scale", scale, 0, open_high=True)
    return x * (1 + scale * jax.random.normal(key, x.shape, x.dtype))


def mc_dropout(key: Key, predict: Callable[[Key], Float[Array, "*shape"]], num: int) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Monte Carlo dropout: the mean and the variance of predictions over draws of the noise, which stays on.

      m = 1/S Σ_s f_s,   v = 1/(S-1) Σ_s (f_s - m)²

    The total variance of a regression adds that of the observations to v.

    Args:
      predict: `key -> outputs`, a draw: `lambda key: jax.nn.softmax(model.apply(variables, x, key=key, train=True)[0])` of `as_model`.
      num: S >= 2 draws.
    Raises:
      ValueError: S < 2.
    Source: Gal and Ghahramani (2016), Dropout as a Bayesian approximation, eq. 6-9.

    >>> mean, variance = mc_dropout(jax.random.key(0), lambda key: dropout(key, jnp.ones(1000), 0.5), 100)
    >>> round(float(mean.mean()), 1), round(float(variance.mean()), 1)
    (1.0, 1.0)
    """
    check_int("mc_dropout", "num", num, minimum=2)
    draws = jax.vmap(predict)(jax.random.split(key, num))
    return draws.mean(0), draws.var(0, ddof=1)


class Noise(linen.Module):
    """Any function `(key, x, rate) -> x` of this file as a layer that is silent in evaluation, used as `linen.Dropout` is.

    Attributes:
      function: `spatial_dropout`, `stochastic_depth`, `additive_noise` ...
      rate: its rate or scale.
      deterministic: whether it is silent; here or in the call.
      rng_collection: the random stream it draws from.

    >>> layer = Noise(gaussian_dropout, 0.5, deterministic=False)
    >>> layer.apply({}, jnp.ones((2, 3)), rngs={"dropout": jax.random.key(0)}).shape
    (2, 3)
    """

    function: Callable[[Key, Array, Numeric], Array]
    rate: Numeric
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @linen.compact
    def __call__(self, x: Float[Array, "*shape"], deterministic: bool | None = None) -> Float[Array, "*shape"]:
        """The noisy inputs, or the inputs themselves where `deterministic`."""
        if linen.merge_param("deterministic", self.deterministic, deterministic):
            return x
        return self.function(self.make_rng(self.rng_collection), x, self.rate)


class DropConnectDense(Dense):
    """`Dense` whose kernel is dropped in training, with the same parameters (`kernel`, `bias`).

    Attributes:
      rate: p in [0, 1).
      deterministic: whether the kernel is whole; here or in the call.

    >>> layer = DropConnectDense(4, rate=0.5)
    >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)), deterministic=True)
    >>> layer.apply(variables, jnp.ones((2, 3)), deterministic=False, rngs={"dropout": jax.random.key(1)}).shape
    (2, 4)
    """

    rate: Numeric = 0.5
    deterministic: bool | None = None

    @linen.compact
    def __call__(self, x: Float[Array, "*B D"], deterministic: bool | None = None) -> Float[Array, "*B K"]:
        """Outputs; `deterministic` as for `linen.Dropout`."""
        _check("DropConnectDense", self.rate)
        deterministic = linen.merge_param("deterministic", self.deterministic, deterministic)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        if not deterministic:
            kernel = dropout(self.make_rng("dropout"), kernel, self.rate)
        x, kernel, bias = self.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = self.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=self.precision)
        return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def _check(who: str, rate: Any) -> None:
    check_range(who, "rate", rate, 0, 1, open_high=True)


def _dropped(who: str, key: Key, x: Array, rate: Any, shape: Any) -> Array:
    _check(who, rate)
    # Half precision would draw uniform numbers of 8 bits.
    keep = 1 - jnp.asarray(rate, jnp.promote_types(x.dtype, jnp.float32))
    return x * (jax.random.bernoulli(key, keep, tuple(shape)) / keep).astype(x.dtype)
