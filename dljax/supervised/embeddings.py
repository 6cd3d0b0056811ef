"""Word embeddings: skip-gram and CBOW with negative sampling, and GloVe."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dljax.core.axis import psum
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Key, Learner, Mean, Metrics, Params


class EmbeddingState(NamedTuple):
    """The tables of vectors and the state of the optimizer."""

    params: Params
    opt_state: Any


def negative_sampling(size: int, dimension: int, optimizer: optax.GradientTransformation, *, scale: float | None = None) -> Learner:
    """Skip-gram and CBOW: vectors that tell the words that stand together from words of noise.

      L = - Σ_i w_i [log σ(v_i · u_y) + Σ_m q_m log σ(-v_i · u_m)] / Σ_i w_i,   v_i the (weighted) mean of the vectors of the words x_i

    with Σ_m q_m = k. Where the dimension allows, the optimum of skip-gram is v_w · u_c = log P(w, c) / (P(w) P_noise(c)) - log k: pointwise mutual
    information, shifted.

    Args:
      size: V, words.
      dimension: D, numbers a word.
      optimizer: any optax transformation.
      scale: vectors start uniform in ± scale, the predicted words' at zero; None for 1/(2D), as in word2vec.
    Returns:
      A learner of the batches of `dljax.data.word_windows`, with params `input` (v) and `output` (u), [V, D]; it reports `loss`, a `Mean`. Functions:
      `embed(key, params, ids)`, the vectors v of words; `neighbours(key, params, ids, num=10)`, the nearest other words by the cosine of v.
    Raises:
      ValueError: a size < 1, or a scale that is not positive.

    Source: Mikolov et al. (2013), Distributed representations of words and phrases and their compositionality, eq. 4; Levy & Goldberg (2014), Neural
      word embedding as implicit matrix factorization, for the optimum.

    >>> from dljax.data import word_windows
    >>> import numpy as np
    >>> learner, source = negative_sampling(3, 2, optax.sgd(0.1)), word_windows([np.arange(3)], 3, batch_size=4)
    >>> _, batch = source.next(source.data, source.init(jax.random.key(0)))
    >>> state, metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
    >>> round(float(metrics["loss"].value / jnp.log(2.0)), 3)  # 1 + k log 2 at the start
    6.0
    """
    _check("negative_sampling", size, dimension, scale)

    def init(key: Key, batch: Batch) -> EmbeddingState:
        params = {"input": _uniform(key, size, dimension, scale), "output": jnp.zeros((size, dimension))}
        return EmbeddingState(params, optimizer.init(params))

    def loss(params: Params, batch: Batch) -> tuple[Float[Array, ""], Mean]:
        weight = batch["x_mask"] / jnp.maximum(batch["x_mask"].sum(1, keepdims=True), 1e-30)
        vectors = jnp.einsum("bc,bcd->bd", weight, _rows(params["input"], batch["x"]))
        own = (vectors * _rows(params["output"], batch["y"])).sum(1)
        noise = vectors @ _rows(params["output"], batch["noise"]).T
        each = jax.nn.softplus(-own) + jax.nn.softplus(noise) @ batch["noise_weight"]
        return _weighted_mean(each, batch["mask"])

    return _learner(init, loss, optimizer, lambda params: params["input"])


def glove(
    size: int, dimension: int, optimizer: optax.GradientTransformation, *, saturation: float = 100.0, power: float = 0.75, scale: float | None = None
) -> Learner:
    """GloVe: vectors whose products are the logarithms of how often words stand together.

      L = mean of f(X_ij) (v_i · u_j + b_i + c_j - log X_ij)²,   f(x) = min(1, x / saturation)^power

    Args:
      size, dimension, optimizer, scale: as for `negative_sampling`; all vectors start at random.
      saturation: x_max > 0.
      power: α >= 0.
    Returns:
      A learner of batches `row` and `column` int32 [B], `count` float32 [B] > 0, and optionally `mask` [B]: `dljax.data.shuffled` of what
      `dljax.data.cooccurrences` gives. Its params are `input`, `output` [V, D], `input_bias` and `output_bias` [V]; the functions `embed` and
      `neighbours` take v + u. It reports `loss`, a `Mean`.
    Raises:
      ValueError: an option out of range.

    Source: Pennington, Socher & Manning (2014), GloVe: Global vectors for word representation, eq. 8-9.

    >>> learner = glove(3, 2, optax.adam(0.1))
    >>> batch = {"row": jnp.array([0, 1]), "column": jnp.array([1, 2]), "count": jnp.array([5.0, 50.0])}
    >>> state, metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
    >>> float(metrics["loss"].weight)
    2.0
    """
    _check("glove", size, dimension, scale)
    check_range("glove", "saturation", saturation, 0, open_low=True)
    check_range("glove", "power", power, 0)

    def init(key: Key, batch: Batch) -> EmbeddingState:
        input_key, output_key = jax.random.split(key)
        tables = {"input": _uniform(input_key, size, dimension, scale), "output": _uniform(output_key, size, dimension, scale)}
        params = tables | {"input_bias": jnp.zeros(size), "output_bias": jnp.zeros(size)}
        return EmbeddingState(params, optimizer.init(params))

    def loss(params: Params, batch: Batch) -> tuple[Float[Array, ""], Mean]:
        row, column, count = batch["row"], batch["column"], batch["count"]
        product = (_rows(params["input"], row) * _rows(params["output"], column)).sum(1)
        error = product + _rows(params["input_bias"], row) + _rows(params["output_bias"], column) - jnp.log(count)
        each = jnp.minimum(1, count / saturation) ** power * jnp.square(error)
        return _weighted_mean(each, batch.get("mask", jnp.ones(each.shape, each.dtype)))

    return _learner(init, loss, optimizer, lambda params: params["input"] + params["output"])


def nearest(table: Float[Array, "V D"], ids: Int[Array, "N"], num: int) -> Int[Array, "N K"]:
    """The other rows of a table that point most nearly where some of them do, by the cosine, the nearest first.

    Raises:
      ValueError: num outside 1 ... V - 1.

    >>> nearest(jnp.array([[1.0, 0], [0, 1], [1, 1], [2, 0]]), jnp.array([0]), 2).tolist()
    [[3, 2]]
    """
    check_int("nearest", "num", num, minimum=1, maximum=table.shape[0] - 1)
    unit = table / jnp.maximum(jnp.linalg.norm(table, axis=1, keepdims=True), 1e-30)
    cosines = unit[ids] @ unit.T
    cosines = cosines.at[jnp.arange(len(ids)), ids].set(-jnp.inf)
    return jax.lax.top_k(cosines, num)[1]


def _learner(init: Any, loss: Any, optimizer: optax.GradientTransformation, table: Any) -> Learner:
    def step(key: Key, state: EmbeddingState, batch: Batch) -> tuple[EmbeddingState, Metrics]:
        grads, mean = jax.grad(loss, has_aux=True)(state.params, batch)
        updates, opt_state = optimizer.update(psum(grads), state.opt_state, state.params)
        return EmbeddingState(optax.apply_updates(state.params, updates), opt_state), {"loss": mean}

    def embed(key: Key, params: Params, ids: Int[Array, "N"]) -> Float[Array, "N D"]:
        return _rows(table(params), ids)

    def neighbours(key: Key, params: Params, ids: Int[Array, "N"], num: int = 10) -> Int[Array, "N K"]:
        return nearest(table(params), ids, num)

    return Learner(init, step, functions={"embed": embed, "neighbours": neighbours})


def _rows(table: Array, ids: Array) -> Array:
    # An id outside gives NaN, which the engine reports, and not another word's vector.
    return jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)


def _weighted_mean(each: Float[Array, "B"], weight: Float[Array, "B"]) -> tuple[Float[Array, ""], Mean]:
    total = jnp.where(weight > 0, weight * each, 0).sum()
    whole = psum(weight.sum())
    return total / jnp.where(whole > 0, whole, 1), Mean(total, weight.sum())


def _uniform(key: Key, size: int, dimension: int, scale: float | None) -> Float[Array, "V D"]:
    bound = 0.5 / dimension if scale is None else scale
    return jax.random.uniform(key, (size, dimension), minval=-bound, maxval=bound)


def _check(who: str, size: int, dimension: int, scale: float | None) -> None:
    check_int(who, "size", size, minimum=1)
    check_int(who, "dimension", dimension, minimum=1)
    if scale is not None:
        check_range(who, "scale", scale, 0, open_low=True)
