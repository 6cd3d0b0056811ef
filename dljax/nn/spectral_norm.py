"""Spectral normalisation: kernels divided by their largest singular value, which power iteration follows (Miyato et al., 2018)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dljax.core.checks import check_int
from dljax.core.contract import Key, Params
from dljax.core.tree import named_leaves, path_mask, path_name
from dljax.nn.model import Model, Variables, as_model


def power_iteration(w: Float[Array, "D K"], u: Float[Array, " K"], num: int = 1) -> tuple[Float[Array, ""], Float[Array, " K"]]:
    """The largest singular value of a matrix, from a guess of its right singular vector.

      v ← W u / |W u|,   u ← Wᵀ v / |Wᵀ v|,   σ = vᵀ W u

    Args:
      w: W.
      u: of length one.
      num: how often, >= 1. The error shrinks each time by (σ₂/σ₁)².
    Returns:
      σ, never above the true one, with the gradient v uᵀ; and the better u, without one. A matrix of zeros has σ = 0 and leaves u alone.
    Raises:
      ValueError: `num` < 1.
    Source: Miyato et al. (2018), Spectral Normalization for GANs, algorithm 1.

    >>> sigma, _ = power_iteration(jnp.diag(jnp.array([3.0, 1.0])), jnp.array([0.6, 0.8]), 8)
    >>> round(float(sigma), 5)
    3.0
    """
    check_int("power_iteration", "num", num, minimum=1)
    fixed = lax.stop_gradient(w)

    def better(u: Array, _: None) -> tuple[Array, Array]:
        v = _unit(fixed @ u, jnp.zeros(w.shape[0], w.dtype))
        return _unit(v @ fixed, u), v

    u, v = lax.scan(better, u, None, length=num)
    return v[-1] @ w @ u, u


def spectral_norm(model: Any, *, pattern: str = "kernel$", iterations: int = 1) -> Model:
    """A model whose matrices all have the largest singular value one: with 1-Lipschitz activations a 1-Lipschitz function.

      W / σ(W),   W as [inputs, outputs]: a kernel of a convolution with all but its last axis as one

    Unlike `linen.SpectralNorm`, which wraps one layer and must be told when to learn, it is said once, of a whole model of any kind. For a
    convolution σ of the flattened kernel bounds nothing exactly, as in the paper.

    Args:
      model: whatever `as_model` takes.
      pattern: which parameters, by their path, as for `path_mask`.
      iterations: of the power iteration, each time the model is applied with `train=True`, >= 1.
    Returns:
      A `Model` with a further collection "spectral", the guesses that the iteration goes on from; they begin after 30 iterations.
      Without `train` they are used and stay as they are. A matrix of zeros stays one.
    Raises:
      ValueError: `iterations` < 1; when initialised: the pattern finds nothing, or a parameter with fewer than two axes.
    Source: Miyato et al. (2018), Spectral Normalization for GANs, section 2.1.

    >>> from flax import linen
    >>> model = spectral_norm(linen.Dense(3, use_bias=False))
    >>> variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> outputs, _ = model.apply(variables, jnp.eye(4))  # the rows of the kernel itself
    >>> round(float(jnp.linalg.norm(outputs, 2)), 4)
    1.0
    """
    inner, find = as_model(model), path_mask(pattern, "spectral_norm")
    check_int("spectral_norm", "iterations", iterations, minimum=1)

    def init(key: Key, *inputs: Any) -> Variables:
        model_key, noise_key = jax.random.split(key)
        variables = dict(inner.init(model_key, *inputs))
        params = variables["params"]
        marks = jax.tree.leaves(find(params))
        guesses = {}
        for number, ((name, leaf), is_found) in enumerate(zip(named_leaves(params), marks, strict=True)):
            if is_found and jnp.ndim(leaf) < 2:
                raise ValueError(f"spectral_norm: pattern {pattern!r} finds {name!r}, which is no matrix: its shape is {jnp.shape(leaf)}")
            if is_found:
                noise = jax.random.normal(jax.random.fold_in(noise_key, number), leaf.shape[-1:], leaf.dtype)
                guesses[name] = power_iteration(_matrix(leaf), noise / jnp.linalg.norm(noise), 30)[1]
        return {**variables, "spectral": guesses}

    def apply(variables: Variables, *inputs: Any, key: Key | None = None, train: bool = False) -> tuple[Any, Variables]:
        kept = {name: value for name, value in variables.items() if name != "spectral"}
        params, guesses = _normalised(kept["params"], variables["spectral"], iterations)
        outputs, model_state = inner.apply({**kept, "params": params}, *inputs, key=key, train=train)
        return outputs, {**model_state, "spectral": guesses if train else variables["spectral"]}

    return Model(init, apply)


def _normalised(params: Params, guesses: Any, iterations: int) -> tuple[Params, Any]:
    better = {}

    def divided(path: tuple, leaf: Array) -> Array:
        name = path_name(path)
        if name not in guesses:
            return leaf
        sigma, better[name] = power_iteration(_matrix(leaf), guesses[name], iterations)
        return leaf / jnp.where(sigma > 0, sigma, 1)

    return jax.tree_util.tree_map_with_path(divided, params), better


def _matrix(w: Array) -> Float[Array, "D K"]:
    return w.reshape(-1, w.shape[-1])


def _unit(x: Array, otherwise: Array) -> Array:
    square = x @ x
    return jnp.where(square > 0, x * lax.rsqrt(jnp.where(square > 0, square, 1)), otherwise)
